"""Stochastic pooling (Zeiler & Fergus, ICLR 2013): draws from windows, the expectation of a draw, and its gradient.

Computes  of each window the first element whose cumulative sum exceeds u times the sum; sum x^2 / sum x; the gradient
          of that. Elements that are not positive count as 0.
Mapping   One element of the result per lane, as in max_pool; a draw takes two passes. The gradient gathers.
Memory    Through the caches. The gradient keeps the windows' sums, in float64, in a tensor between its two kernels.
Limits    Draws are bit for bit those of every other backend: Philox4x32-10 at the result's position, sums in row-major
          order, and no contraction of products and sums (the launcher switches it off).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from convkit.backends.layout import OFFSET_DTYPES
from convkit.backends.triton.launch import dense
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
def weight(plane, there, d, h, w, x_strides):
    """What an element weighs: itself where it is positive or NaN, else 0."""
    v = widen(tl.load(plane + within(d, h, w, x_strides), mask=there, other=0))
    return tl.where(v <= 0, 0.0, v)


@triton.jit
def stochastic_pool_kernel(
    x,
    seed,
    y,
    offsets,
    count,
    C,
    size,
    out,
    x_strides,
    AXES: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    LARGEST: tl.constexpr,
    BLOCK: tl.constexpr,
    INDEX: tl.constexpr,
):
    i, inside, n, c, o, p, q = lanes(count, C, out, CHANNELS_LAST, BLOCK, INDEX)
    start, end = window_of(o, p, q, size, out, AXES)
    plane = x + plane_at(n, c, x_strides)
    total = widen(tl.zeros((BLOCK,), x.dtype.element_ty))
    for tap in range(AXES.taps):
        d, h, w, there = element_of(tap, start, end, AXES)
        there &= inside
        total += weight(plane, there, d, h, w, x_strides)
    # The draw belongs to the position in a contiguous result, whatever the layout.
    address = (((n.to(tl.int64) * C + c) * out[0] + o) * out[1] + p) * out[2] + q
    none = tl.zeros((BLOCK,), tl.uint32)
    word, _, _, _ = tl.philox(tl.load(seed), address.to(tl.uint32), (address >> 32).to(tl.uint32), none, none, 10)
    uniform = (word >> 8).to(total.dtype) * 5.9604644775390625e-08  # its upper 24 bits times 2^-24
    threshold = tl.where(total > LARGEST, LARGEST, uniform * total)
    cumulative = tl.zeros_like(total)
    drawn = tl.zeros_like(total)
    chosen = tl.full((BLOCK,), -1, tl.int32)
    for tap in range(AXES.taps):
        d, h, w, there = element_of(tap, start, end, AXES)
        there &= inside
        v = weight(plane, there, d, h, w, x_strides)
        take = ((cumulative <= threshold) & (v > 0)) | (v != v)  # the last NaN wins
        drawn = tl.where(take, v, drawn)
        chosen = tl.where(take, tap, chosen)
        cumulative += v
    tl.store(y + i, narrow(drawn, y.dtype.element_ty), mask=inside)
    tl.store(offsets + i, chosen.to(offsets.dtype.element_ty), mask=inside)


@triton.jit
def stochastic_mean_kernel(
    x,
    y,
    count,
    C,
    size,
    out,
    x_strides,
    AXES: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    SUMS: tl.constexpr,
    BLOCK: tl.constexpr,
    INDEX: tl.constexpr,
):
    """The expectation of each window, or its sum (SUMS); in float64: squares of float32 numbers do not overflow."""
    i, inside, n, c, o, p, q = lanes(count, C, out, CHANNELS_LAST, BLOCK, INDEX)
    start, end = window_of(o, p, q, size, out, AXES)
    plane = x + plane_at(n, c, x_strides)
    total = tl.zeros((BLOCK,), tl.float64)
    squares = tl.zeros((BLOCK,), tl.float64)
    for tap in range(AXES.taps):
        d, h, w, there = element_of(tap, start, end, AXES)
        there &= inside
        v = weight(plane, there, d, h, w, x_strides).to(tl.float64)
        total += v
        squares += v * v
    if SUMS:
        tl.store(y + i, total, mask=inside)
    else:
        mean = tl.where(squares == float("inf"), squares, squares / tl.where(total == 0, 1.0, total))
        tl.store(y + i, narrow(tl.where(total <= 0, 0.0, mean), y.dtype.element_ty), mask=inside)


@triton.jit
def stochastic_mean_bwd_kernel(
    dy,
    x,
    y,
    sums,
    dx,
    count,
    C,
    size,
    out,
    dy_strides,
    x_strides,
    y_strides,
    AXES: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    BLOCK: tl.constexpr,
    INDEX: tl.constexpr,
):
    i, inside, n, c, d, h, w = lanes(count, C, size, CHANNELS_LAST, BLOCK, INDEX)
    begin, end = readers_of(d, h, w, size, out, AXES)
    at = position_at(n, c, d, h, w, x_strides)
    element = tl.load(x + at, mask=inside, other=0)
    element = widen(element).to(tl.float64)
    dy_plane = dy + plane_at(n, c, dy_strides)
    y_plane = y + plane_at(n, c, y_strides)
    total = tl.zeros((BLOCK,), tl.float64)
    for reader in range(AXES.covering):
        o, p, q, _, there = reader_of(reader, begin, end, d, h, w, size, out, AXES)
        there &= inside & ~(element <= 0)
        g = widen(tl.load(dy_plane + within(o, p, q, dy_strides), mask=there, other=0)).to(tl.float64)
        mean = widen(tl.load(y_plane + within(o, p, q, y_strides), mask=there, other=0)).to(tl.float64)
        sum_at = (((n * C + c) * out[0] + o) * out[1] + p) * out[2] + q  # sums lie contiguously
        weights = tl.load(sums + sum_at, mask=there, other=1)
        total += tl.where(there, g * ((2.0 * element - mean) / weights), 0.0)
    tl.store(dx + i, narrow(total, dx.dtype.element_ty), mask=inside)


def stochastic_pool(x: Tensor, seed: Tensor, spec: PoolSpec, channels_last: bool) -> tuple[Tensor, Tensor]:
    size = tuple(x.shape[2:])
    out = pool_output_size(size, spec)
    shape = (*x.shape[:2], *out)
    y = dense(x, shape, channels_last)
    offsets = dense(x, shape, channels_last, OFFSET_DTYPES[offset_bytes(spec.kernel_size)])
    largest = torch.finfo(torch.float64 if x.dtype == torch.float64 else torch.float32).max
    pointers = (x, seed, y, offsets)
    over_windows(stochastic_pool_kernel, y, pointers, (x,), spec, size, out, channels_last, LARGEST=largest)
    return y, offsets


def _windows(x: Tensor, y: Tensor, spec: PoolSpec, channels_last: bool, sums: bool) -> None:
    size, out = tuple(x.shape[2:]), tuple(y.shape[2:])
    over_windows(stochastic_mean_kernel, y, (x, y), (x,), spec, size, out, channels_last, SUMS=sums)


def stochastic_mean(x: Tensor, spec: PoolSpec, channels_last: bool) -> Tensor:
    y = dense(x, (*x.shape[:2], *pool_output_size(tuple(x.shape[2:]), spec)), channels_last)
    _windows(x, y, spec, channels_last, False)
    return y


def stochastic_mean_bwd(dy: Tensor, x: Tensor, y: Tensor, spec: PoolSpec, channels_last: bool) -> Tensor:
    size, out = tuple(x.shape[2:]), tuple(y.shape[2:])
    dx = dense(dy, tuple(x.shape), channels_last)
    sums = dense(x, tuple(y.shape), False, torch.float64)
    _windows(x, sums, spec, False, True)
    pointers, strided = (dy, x, y, sums, dx), (dy, x, y)
    over_windows(stochastic_mean_bwd_kernel, dx, pointers, strided, spec, size, out, channels_last)
    return dx
