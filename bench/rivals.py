"""What convkit's poolings are timed against where PyTorch has no function of the same name: the best composition
of its functions that was found. Also what some functions take besides their input.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

Pair = tuple[int, int]


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


def stochastic_pool2d(x: Tensor, kernel_size: Pair, stride: Pair, padding: Pair = (0, 0)) -> Tensor:
    """A draw from each window, as passes over the strided slices that hold one tap of all windows.

    It takes half the time of unfold, cumsum, compare and gather (without a copy per tap), and differentiates the
    final gather alone.
    """
    padded = F.pad(x.relu(), (padding[1], padding[1], padding[0], padding[0])) if any(padding) else x.relu()
    with torch.no_grad():
        total = F.avg_pool2d(padded, kernel_size, stride, divisor_override=1)
        rows, columns = total.shape[2:]
        width = padded.shape[3]
        ends = ((rows - 1) * stride[0] + 1, (columns - 1) * stride[1] + 1)
        taps = list(product(range(kernel_size[0]), range(kernel_size[1])))
        threshold = torch.rand_like(total).mul_(total)
        cumulative, chosen = torch.zeros_like(total), torch.zeros_like(total, dtype=torch.int32)
        for i, j in taps:
            cumulative.add_(padded[:, :, i : i + ends[0] : stride[0], j : j + ends[1] : stride[1]])
            chosen.add_(cumulative <= threshold)
        # A sum of 0 is never exceeded: the last tap, which is 0 as well.
        flat = torch.tensor([i * width + j for i, j in (*taps, taps[-1])], device=x.device)
        across = torch.arange(columns, device=x.device) * stride[1]
        start = torch.arange(rows, device=x.device)[:, None] * (stride[0] * width) + across
        index = flat[chosen].add_(start).flatten(2)
    return padded.flatten(2).gather(2, index).view_as(total)
