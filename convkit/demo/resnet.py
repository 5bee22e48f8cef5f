"""transformers' ResNet-18 with random weights: a model written by others, to be converted as it is."""

from __future__ import annotations

import torch
from torch import nn


def resnet18(seed: int = 0) -> nn.Module:
    """ResNet-18 (He et al., 2015) for images (N, 3, 224, 224) and 1000 classes; nothing is downloaded."""
    from transformers import ResNetConfig, ResNetForImageClassification

    torch.manual_seed(seed)
    shape = {"depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 256, 512], "layer_type": "basic"}
    return ResNetForImageClassification(ResNetConfig(**shape, num_labels=1000))
