"""Memory layout: which one a tensor has, and the strides of a dense result. The only place that decides it."""

from __future__ import annotations

import torch
from torch import Tensor

OFFSET_DTYPES = {1: torch.uint8, 2: torch.int16, 4: torch.int32}  # by problem.offset_bytes


def is_channels_last(t: Tensor) -> bool:
    """Whether PyTorch takes ``t`` (N, C, H, W) or (N, C, D, H, W) as channels_last.

    It is PyTorch's rule for TensorImpl's channels_last flag: strides do not fall in the order C, W, H, (D,) N;
    sizes of 1 make that ambiguous, and then a contiguous tensor wins. Other numbers of dimensions have no such
    layout.
    """
    stride = t.stride()
    dims = len(stride)
    if dims < 4 or stride[1] > stride[-1]:  # the common contiguous tensor leaves here
        return False
    if dims > 5 or stride[1] == 0:
        return False
    size = t.shape
    least = 0
    for d in (1, *range(dims - 1, 1, -1), 0):
        if size[d] == 0 or stride[d] < least:
            return False
        if d == 0 and least == stride[1]:
            return False
        least = stride[d] * size[d] if size[d] > 1 else stride[d]
    return True


def in_layout(t: Tensor, channels_last: bool) -> Tensor:
    """``t``, dense."""
    if not channels_last:
        return t.contiguous()
    return t.contiguous(memory_format=torch.channels_last if t.dim() == 4 else torch.channels_last_3d)


def elementwise(t: Tensor) -> Tensor:
    """``t`` with the strides that an operation on its elements gives: of sizes of 1, those of a contiguous tensor."""
    return t.view(-1).view(t.shape) if t.is_contiguous() and is_channels_last(t) else t


def result_strides(size: tuple[int, ...], channels_last: bool) -> tuple[int, ...]:
    """Strides of a dense (N, C, *spatial) tensor; with ``channels_last``, C varies fastest."""
    last = len(size) - 1
    order = (1, *range(last, 1, -1), 0) if channels_last else range(last, -1, -1)
    strides = [0] * len(size)
    step = 1
    for d in order:
        strides[d] = step
        # A symbolic size is not 0 and needs no maximum.
        step = step * (max(size[d], 1) if isinstance(size[d], int) else size[d])
    return tuple(strides)
