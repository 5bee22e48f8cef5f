"""Averages of windows and their adjoint.

Computes  y = window sum / divisor; dx = sum of dy / divisor over the windows that read an element.
Mapping   One element of the result per lane, in the result's memory order; backward gathers from the windows that
          cover an element, without atomics.
Memory    As max_pool: through the caches, once per window that holds an element.
Limits    Sums of half-precision numbers in float32; int64 divides towards zero, as PyTorch does.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from convkit.backends.triton.launch import Sizes, dense
from convkit.backends.triton.windows import (
    counted,
    element_of,
    lanes,
    narrow,
    over_windows,
    plane_at,
    reader_of,
    readers_of,
    widen,
    window_of,
    within,
)
from convkit.problem import PoolSpec, pool_output_size


@triton.jit
def divisor(o, p, q, size, out, AXES: tl.constexpr, PADDED: tl.constexpr, OVERRIDE: tl.constexpr):
    """What the sum of a window is divided by."""
    if OVERRIDE != 0:
        return tl.full(o.shape, OVERRIDE, tl.int64)
    else:
        d = counted(o, size[0], out[0], AXES.d, PADDED).to(tl.int64)
        return d * counted(p, size[1], out[1], AXES.h, PADDED) * counted(q, size[2], out[2], AXES.w, PADDED)


@triton.jit
def divide(total, by):
    """Correctly rounded, as sums are divided by the reference; integers towards zero."""
    if total.dtype == tl.float32:
        return tl.div_rn(total, by.to(tl.float32))
    elif total.dtype == tl.float64:
        return total / by.to(tl.float64)
    else:
        return total // by


@triton.jit
def avg_pool_kernel(
    x,
    y,
    count,
    C,
    size,
    out,
    x_strides,
    AXES: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    PADDED: tl.constexpr,
    OVERRIDE: tl.constexpr,
    BLOCK: tl.constexpr,
    INDEX: tl.constexpr,
):
    i, inside, n, c, o, p, q = lanes(count, C, out, CHANNELS_LAST, BLOCK, INDEX)
    start, end = window_of(o, p, q, size, out, AXES)
    plane = x + plane_at(n, c, x_strides)
    total = widen(tl.zeros((BLOCK,), x.dtype.element_ty))
    for tap in range(AXES.taps):
        d, h, w, there = element_of(tap, start, end, AXES)
        total += widen(tl.load(plane + within(d, h, w, x_strides), mask=inside & there, other=0))
    result = divide(total, divisor(o, p, q, size, out, AXES, PADDED, OVERRIDE))
    tl.store(y + i, narrow(result, y.dtype.element_ty), mask=inside)


@triton.jit
def avg_pool_bwd_kernel(
    dy,
    dx,
    count,
    C,
    size,
    out,
    dy_strides,
    AXES: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    PADDED: tl.constexpr,
    OVERRIDE: tl.constexpr,
    BLOCK: tl.constexpr,
    INDEX: tl.constexpr,
):
    i, inside, n, c, d, h, w = lanes(count, C, size, CHANNELS_LAST, BLOCK, INDEX)
    begin, end = readers_of(d, h, w, size, out, AXES)
    plane = dy + plane_at(n, c, dy_strides)
    total = widen(tl.zeros((BLOCK,), dx.dtype.element_ty))
    for reader in range(AXES.covering):
        o, p, q, _, there = reader_of(reader, begin, end, d, h, w, size, out, AXES)
        value = widen(tl.load(plane + within(o, p, q, dy_strides), mask=inside & there, other=0))
        total += divide(value, divisor(o, p, q, size, out, AXES, PADDED, OVERRIDE))
    tl.store(dx + i, narrow(total, dx.dtype.element_ty), mask=inside)


def avg_pool(x: Tensor, spec: PoolSpec, channels_last: bool) -> Tensor:
    size = tuple(x.shape[2:])
    out = pool_output_size(size, spec)
    y = dense(x, (*x.shape[:2], *out), channels_last)
    meta = {"PADDED": spec.count_include_pad, "OVERRIDE": spec.divisor_override}
    over_windows(avg_pool_kernel, y, (x, y), (x,), spec, size, out, channels_last, **meta)
    return y


def avg_pool_bwd(dy: Tensor, input_size: Sizes, spec: PoolSpec, channels_last: bool) -> Tensor:
    size, out = tuple(input_size), tuple(dy.shape[2:])
    dx = dense(dy, (*dy.shape[:2], *size), channels_last)
    meta = {"PADDED": spec.count_include_pad, "OVERRIDE": spec.divisor_override}
    over_windows(avg_pool_bwd_kernel, dx, (dy, dx), (dy,), spec, size, out, channels_last, **meta)
    return dx
