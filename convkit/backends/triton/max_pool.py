"""Maxima of windows, and selection by window offset with its adjoint.

Computes  y = the largest element of each window and its offset; y[o] = x[the element that offset o names]; the
          adjoint of that; and flat int64 indices of offsets.
Mapping   One element of the result per lane, in the result's memory order: stores are contiguous, and loads are
          along W (contiguous) or along C (channels last). Backward gathers: an element of dx asks the windows that
          cover it, so that each is written once, without atomics.
Memory    Every operand is read through the caches once per window that holds it; nothing is staged.
Limits    Positions in 32 bits where all tensors have fewer than 2^31 elements, else in 64. Any strides.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from convkit.backends.layout import OFFSET_DTYPES
from convkit.backends.triton.launch import Sizes, dense
from convkit.backends.triton.windows import (
    element_of,
    lanes,
    narrow,
    over_windows,
    plane_at,
    position_at,
    reader_of,
    readers_of,
    widen,
    window_of,
    within,
)
from convkit.problem import PoolSpec, offset_bytes, pool_output_size


@triton.jit
def max_pool_kernel(
    x,
    y,
    offsets,
    count,
    C,
    size,
    out,
    x_strides,
    AXES: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    OFFSETS: tl.constexpr,
    LOWEST: tl.constexpr,
    BLOCK: tl.constexpr,
    INDEX: tl.constexpr,
):
    i, inside, n, c, o, p, q = lanes(count, C, out, CHANNELS_LAST, BLOCK, INDEX)
    start, end = window_of(o, p, q, size, out, AXES)
    plane = x + plane_at(n, c, x_strides)
    chosen = tl.full((BLOCK,), -1, tl.int32)
    best = widen(tl.zeros((BLOCK,), x.dtype.element_ty))
    for tap in range(AXES.taps):
        d, h, w, there = element_of(tap, start, end, AXES)
        there &= inside
        v = widen(tl.load(plane + within(d, h, w, x_strides), mask=there, other=0))
        # The first element of a window, a larger one (so of equal ones the first), and any NaN (so the last).
        take = there & ((chosen < 0) | (v > best) | (v != v))
        best = tl.where(take, v, best)
        chosen = tl.where(take, tap, chosen)
    best = tl.where(chosen < 0, LOWEST, best)  # a window that holds nothing
    tl.store(y + i, narrow(best, y.dtype.element_ty), mask=inside)
    if OFFSETS:
        tl.store(offsets + i, tl.maximum(chosen, 0).to(offsets.dtype.element_ty), mask=inside)


@triton.jit
def named_element(offset, o, p, q, size, out, AXES: tl.constexpr):
    """(d, h, w, whether): the input element that a window's offset names."""
    start, end = window_of(o, p, q, size, out, AXES)
    d, h, w, there = element_of(offset, start, end, AXES)
    return d, h, w, there & (offset >= 0) & (offset < AXES.taps)


@triton.jit
def pool_select_kernel(
    x,
    offsets,
    y,
    count,
    C,
    size,
    out,
    x_strides,
    offset_strides,
    AXES: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    INDICES: tl.constexpr,
    BLOCK: tl.constexpr,
    INDEX: tl.constexpr,
):
    """The element that each offset names, or its flat index (INDICES); where it names none 0, or -1."""
    i, inside, n, c, o, p, q = lanes(count, C, out, CHANNELS_LAST, BLOCK, INDEX)
    at = position_at(n, c, o, p, q, offset_strides)
    offset = tl.load(offsets + at, mask=inside, other=0).to(tl.int32)
    d, h, w, there = named_element(offset, o, p, q, size, out, AXES)
    if INDICES:
        flat = (d.to(tl.int64) * size[1] + h) * size[2] + w
        tl.store(y + i, tl.where(there, flat, -1), mask=inside)
    else:
        at = position_at(n, c, d, h, w, x_strides)
        tl.store(y + i, tl.load(x + at, mask=inside & there, other=0), mask=inside)


@triton.jit
def pool_select_bwd_kernel(
    dy,
    offsets,
    dx,
    count,
    C,
    size,
    out,
    dy_strides,
    offset_strides,
    AXES: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    BLOCK: tl.constexpr,
    INDEX: tl.constexpr,
):
    i, inside, n, c, d, h, w = lanes(count, C, size, CHANNELS_LAST, BLOCK, INDEX)
    begin, end = readers_of(d, h, w, size, out, AXES)
    dy_plane = dy + plane_at(n, c, dy_strides)
    offset_plane = offsets + plane_at(n, c, offset_strides)
    total = widen(tl.zeros((BLOCK,), dx.dtype.element_ty))
    for reader in range(AXES.covering):
        o, p, q, tap, there = reader_of(reader, begin, end, d, h, w, size, out, AXES)
        there &= inside
        offset = tl.load(offset_plane + within(o, p, q, offset_strides), mask=there, other=0).to(tl.int32)
        chosen = there & (offset == tap)
        total += widen(tl.load(dy_plane + within(o, p, q, dy_strides), mask=chosen, other=0))
    tl.store(dx + i, narrow(total, dx.dtype.element_ty), mask=inside)


def max_pool(x: Tensor, spec: PoolSpec, offsets: bool, channels_last: bool) -> tuple[Tensor, Tensor]:
    size = tuple(x.shape[2:])
    out = pool_output_size(size, spec)
    shape = (*x.shape[:2], *out)
    y = dense(x, shape, channels_last)
    kept = dense(x, shape if offsets else (0, *shape[1:]), channels_last, OFFSET_DTYPES[offset_bytes(spec.kernel_size)])
    lowest = float("-inf") if x.is_floating_point() else torch.iinfo(x.dtype).min
    meta = {"OFFSETS": offsets, "LOWEST": lowest}
    over_windows(max_pool_kernel, y, (x, y, kept), (x,), spec, size, out, channels_last, **meta)
    return y, kept


def _select(
    x: Tensor, offsets: Tensor, size: Sizes, dtype: torch.dtype, spec: PoolSpec, channels_last: bool, indices: bool
) -> Tensor:
    y = dense(offsets, tuple(offsets.shape), channels_last, dtype)
    out, pointers = tuple(offsets.shape[2:]), (x, offsets, y)
    over_windows(pool_select_kernel, y, pointers, (x, offsets), spec, size, out, channels_last, INDICES=indices)
    return y


def pool_select(x: Tensor, offsets: Tensor, spec: PoolSpec, channels_last: bool) -> Tensor:
    return _select(x, offsets, tuple(x.shape[2:]), x.dtype, spec, channels_last, False)


def pool_indices(offsets: Tensor, input_size: Sizes, spec: PoolSpec, channels_last: bool) -> Tensor:
    return _select(offsets, offsets, tuple(input_size), torch.int64, spec, channels_last, True)


def pool_select_bwd(dy: Tensor, offsets: Tensor, input_size: Sizes, spec: PoolSpec, channels_last: bool) -> Tensor:
    size, out = tuple(input_size), tuple(dy.shape[2:])
    dx = dense(dy, (*dy.shape[:2], *size), channels_last)
    over_windows(pool_select_bwd_kernel, dx, (dy, offsets, dx), (dy, offsets), spec, size, out, channels_last)
    return dx
