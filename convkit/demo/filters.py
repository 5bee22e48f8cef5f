"""Fixed filters of image processing, applied to photographs: Sobel's edges and a Gaussian blur.

The filters are the lectures': Sobel's derivative across (vertical edges) and down (horizontal edges), and the 5 x 5
binomial approximation of a Gaussian. As in every network here, convolution means cross-correlation.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from convkit import functional

SOBEL_VERTICAL = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])
SOBEL_HORIZONTAL = torch.tensor([[-1.0, -2, -1], [0, 0, 0], [1, 2, 1]])
GAUSSIAN = (
    torch.tensor([[1.0, 4, 6, 4, 1], [4, 16, 24, 16, 4], [6, 24, 36, 24, 6], [4, 16, 24, 16, 4], [1, 4, 6, 4, 1]]) / 256
)
LUMINANCE = torch.tensor([0.299, 0.587, 0.114])  # weights of red, green and blue


class Filtered(NamedTuple):
    """Grey images (N, 1, H, W): the photograph, its derivatives, their magnitude, and the photograph blurred."""

    grey: Tensor
    vertical: Tensor
    horizontal: Tensor
    magnitude: Tensor
    blurred: Tensor
    blurred_more: Tensor


def filter_photographs(photographs: Tensor, times: int = 10) -> Filtered:
    """Filters (N, 3, H, W) photographs; ``blurred_more`` went through the Gaussian ``times`` times."""
    grey = functional.conv2d(photographs, LUMINANCE.view(1, 3, 1, 1))
    sobel = torch.stack([SOBEL_VERTICAL, SOBEL_HORIZONTAL]).unsqueeze(1)
    vertical, horizontal = functional.conv2d(grey, sobel).split(1, dim=1)
    blurred = blurred_more = blur(grey)
    for _ in range(times - 1):
        blurred_more = blur(blurred_more)
    return Filtered(grey, vertical, horizontal, torch.hypot(vertical, horizontal), blurred, blurred_more)


def blur(grey: Tensor) -> Tensor:
    """The Gaussian over (N, 1, H, W), the border repeated outwards."""
    return functional.conv2d(torch.nn.functional.pad(grey, (2, 2, 2, 2), mode="replicate"), GAUSSIAN[None, None])
