"""What all reference operations share: taps of windows, padding and its adjoint, the form of results."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from math import prod

import torch
from torch import Tensor

from convkit.backends.layout import result_strides

Sizes = tuple[int, ...]


def finish(result: Tensor, dtype: torch.dtype, channels_last: bool) -> Tensor:
    """``result`` in the wanted dtype and with exactly the wanted strides."""
    result = result.to(dtype)
    strides = result_strides(tuple(result.shape), channels_last)
    if result.stride() == strides:
        return result
    return result.new_empty_strided(result.shape, strides).copy_(result)


def taps(kernel_size: Sizes) -> Iterator[Sizes]:
    """Window positions in row-major order."""
    return product(*map(range, kernel_size))


def tap_slice(padded: Tensor, tap: Sizes, out: Sizes, stride: Sizes, dilation: Sizes) -> Tensor:
    """The view (N, C, *out) of the elements at position ``tap`` of every window."""
    for d, (t, o, s, step) in enumerate(zip(tap, out, stride, dilation)):
        padded = padded.narrow(2 + d, t * step, (o - 1) * s + 1)
        if s > 1:
            padded = padded[(slice(None),) * (2 + d) + (slice(None, None, s),)]
    return padded


# Padding: a linear map P from an input to the padded input, and its adjoint.


def _source(length: int, before: int, after: int, mode: str, device: torch.device) -> Tensor:
    """For every position of a padded dimension, the input position whose value it takes."""
    at = torch.arange(-before, length + after, device=device)
    if mode == "replicate":
        return at.clamp(0, length - 1)
    if mode == "circular":
        return at.remainder(length)
    folded = at.abs()  # reflect: mirror at 0, then at length - 1
    return torch.where(folded < length, folded, 2 * (length - 1) - folded)


def _interior(padded: Tensor, before: Sizes, size: Sizes) -> Tensor:
    """The view of the unpadded elements inside a padded tensor."""
    for d, (start, length) in enumerate(zip(before, size)):
        padded = padded.narrow(2 + d, start, length)
    return padded


def _mean(total: Tensor, count: int) -> Tensor:
    if total.is_floating_point() or total.is_complex():
        return total / count
    return torch.div(total, count, rounding_mode="trunc")


def pad(x: Tensor, before: Sizes, after: Sizes, mode: str = "zeros") -> Tensor:
    """``x`` (N, C, *spatial) with ``before`` and ``after`` elements added around each spatial dimension."""
    size = tuple(x.shape[2:])
    if mode in ("zeros", "mean"):
        padded = x.new_zeros(*x.shape[:2], *(a + n + b for a, n, b in zip(before, size, after)))
        if mode == "mean":
            spatial = tuple(range(2, x.dim()))
            padded += _mean(x.sum(spatial, keepdim=True, dtype=x.dtype), prod(size))
        _interior(padded, before, size).copy_(x)
        return padded
    for d, (a, n, b) in enumerate(zip(before, size, after)):
        x = x.index_select(2 + d, _source(n, a, b, mode, x.device))
    return x


def unpad(dx: Tensor, before: Sizes, after: Sizes, size: Sizes, mode: str = "zeros") -> Tensor:
    """The adjoint of :func:`pad`: sums what every padded element contributed to its source."""
    if mode in ("zeros", "mean"):
        inside = _interior(dx, before, size)
        if mode == "zeros":
            return inside
        spatial = tuple(range(2, dx.dim()))
        border = dx.sum(spatial, keepdim=True) - inside.sum(spatial, keepdim=True)
        return inside + _mean(border, prod(size))
    for d, (a, n, b) in enumerate(zip(before, size, after)):
        folded = dx.new_zeros(*dx.shape[: 2 + d], n, *dx.shape[3 + d :])
        dx = folded.index_add_(2 + d, _source(n, a, b, mode, dx.device), dx)
    return dx
