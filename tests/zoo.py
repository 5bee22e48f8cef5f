"""Networks of other people's and of ours, small and with random weights, and what fuse finds in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from torch import Tensor, nn

from tests.networks import Branching, DenseBlock, ListBlock, UNet, Video, images, residual_network


def transformers_model(name: str, head: str = "ForImageClassification", **settings: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        transformers = pytest.importorskip("transformers", reason="a package of the extra convkit[demo]")
        config = getattr(transformers, f"{name}{head if head[:3] != 'For' else ''}Config")(num_labels=5, **settings)
        model: nn.Module = getattr(transformers, f"{name}{head}")(config)
        return model

    return make


SMALL = {"depths": [2, 1], "hidden_sizes": [4, 8], "embedding_size": 4}
# The model, its input, and how many of its patterns are fused, and of its batch norms left.
ZOO: dict[str, tuple[Callable[[], nn.Module], Tensor, int, int]] = {
    "residual": (residual_network, images(2, 3, 12, 12), 8, 0),
    "u-net": (UNet, images(2, 3, 8, 8), 4, 0),
    # Its layers ask for the type of what they are given: the text of their forward is what shows the patterns.
    "dense": (DenseBlock, images(2, 3, 6, 6), 3, 3),
    "dense, lists": (ListBlock, images(2, 3, 6, 6), 3, 3),
    "video": (Video, images(2, 3, 4, 5, 6), 3, 0),
    "branching": (Branching, images(3, 3, 9), 3, 1),
    "resnet": (transformers_model("ResNet", layer_type="basic", **SMALL), images(2, 3, 32, 32), 8, 0),
    "bottleneck": (transformers_model("ResNet", layer_type="bottleneck", **SMALL), images(2, 3, 32, 32), 11, 0),
    "regnet": (transformers_model("RegNet", groups_width=4, **SMALL), images(2, 3, 32, 32), 18, 0),
    "mobilenet 1": (transformers_model("MobileNetV1", depth_multiplier=0.25), images(2, 3, 32, 32), 27, 0),
    "mobilenet 2": (transformers_model("MobileNetV2", depth_multiplier=0.25), images(2, 3, 32, 32), 52, 0),
    "convnext": (
        transformers_model("ConvNext", depths=[1, 1, 1, 1], hidden_sizes=[4] * 4),
        images(2, 3, 32, 32),
        0,
        0,
    ),
    # It registers hooks on its layers when it is first called.
    "segformer": (
        transformers_model(
            "Segformer",
            "ForSemanticSegmentation",
            depths=[1] * 4,
            hidden_sizes=[4] * 4,
            num_attention_heads=[1] * 4,
            decoder_hidden_size=4,
        ),
        images(2, 3, 32, 32),
        1,
        0,
    ),
    # One dimension, transposed convolutions, no norms.
    "vocoder": (
        transformers_model(
            "SpeechT5",
            "HifiGan",
            model_in_dim=4,
            upsample_initial_channel=8,
            upsample_rates=[4, 2],
            upsample_kernel_sizes=[8, 4],
        ),
        images(2, 6, 4),
        36,
        0,
    ),
}
