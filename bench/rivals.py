"""What convkit's poolings are timed against where PyTorch has no function of the same name: the best composition
of its functions that was found. Also what some functions take besides their input.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def itself(x: Tensor) -> tuple[Tensor, ...]:
    """The tensor arguments of a function of the input alone."""
    return (x,)


def pooled(kernel_size: int, stride: int, padding: int = 0) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """The tensor arguments of unpooling: the input's maxima and their indices, in the input's layout."""

    def pool(x: Tensor) -> tuple[Tensor, ...]:
        function = getattr(torch.nn.functional, f"max_pool{x.dim() - 2}d")
        y, indices = function(x, kernel_size, stride, padding, return_indices=True)
        return y, indices

    return pool
