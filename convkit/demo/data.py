"""Real data that scikit-learn carries: handwritten digits and two photographs."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate


class Digits(NamedTuple):
    """Images (N, 1, 32, 32) in [0, 1] and labels (N,), split once into a training and a test set."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def digits(test_share: float = 0.2, seed: int = 0) -> Digits:
    """1797 digits of 8 x 8 pixels, enlarged to LeNet-5's 32 x 32 (digit 28 x 28 within a margin of 2)."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.from_numpy(bunch.images).float().unsqueeze(1) / 16
    images = interpolate(images, size=(28, 28), mode="bilinear", align_corners=False)
    images = torch.nn.functional.pad(images, (2, 2, 2, 2))
    labels = torch.from_numpy(bunch.target).long()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    test, train = order.split([int(test_share * len(labels)), len(labels) - int(test_share * len(labels))])
    return Digits(images[train], labels[train], images[test], labels[test])


def photographs(size: int | None = 224) -> Tensor:
    """The photographs of a temple and a flower, (2, 3, size, size) in [0, 1], or whole at (2, 3, 427, 640).

    The central square is resized with antialiasing.
    """
    from sklearn.datasets import load_sample_images

    images = torch.stack([torch.from_numpy(image.copy()) for image in load_sample_images().images])
    images = images.permute(0, 3, 1, 2).float() / 255
    if size is None:
        return images.contiguous()
    side = min(images.shape[-2:])
    top, left = (images.shape[-2] - side) // 2, (images.shape[-1] - side) // 2
    square = images[..., top : top + side, left : left + side]
    return interpolate(square, size=(size, size), mode="bilinear", antialias=True, align_corners=False).contiguous()


def normalised(images: Tensor) -> Tensor:
    """Each colour channel with the mean and deviation that ImageNet models expect."""
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    deviation = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    return (images - mean) / deviation
