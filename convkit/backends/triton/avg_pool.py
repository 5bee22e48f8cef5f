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

from convkit.backends.triton import tiles
from convkit.backends.triton.launch import Sizes, dense, index_type, launch, spatial, strides
from convkit.backends.triton.windows import axes, counted, narrow, place, positions, readers, span, tap_of, widen
from convkit.problem import PoolSpec, pool_output_size


@triton.jit
def divisor(o, p, q, size, out, AXES: tl.constexpr, PADDED: tl.constexpr, OVERRIDE: tl.constexpr):
    """What the sum of a window is divided by."""
    if OVERRIDE != 0:
        return tl.full(o.shape, OVERRIDE, tl.int64)
    else:
        d = counted(o, size[0], out[0], AXES[0], PADDED).to(tl.int64)
        return d * counted(p, size[1], out[1], AXES[1], PADDED) * counted(q, size[2], out[2], AXES[2], PADDED)


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
    i = positions(BLOCK, INDEX)
    inside = i < count
    n, c, o, p, q = place(i, C, out, CHANNELS_LAST)
    d0, d1 = span(o, size[0], out[0], AXES[0])
    h0, h1 = span(p, size[1], out[1], AXES[1])
    w0, w1 = span(q, size[2], out[2], AXES[2])
    plane = x + n * x_strides[0] + c * x_strides[1]
    total = widen(tl.zeros((BLOCK,), x.dtype.element_ty))
    for tap in range(AXES[0].kernel * AXES[1].kernel * AXES[2].kernel):
        d = d0 + tap // (AXES[1].kernel * AXES[2].kernel) * AXES[0].dilation
        h = h0 + tap // AXES[2].kernel % AXES[1].kernel * AXES[1].dilation
        w = w0 + tap % AXES[2].kernel * AXES[2].dilation
        there = inside & (d >= 0) & (d < d1) & (h >= 0) & (h < h1) & (w >= 0) & (w < w1)
        at = d * x_strides[2] + h * x_strides[3] + w * x_strides[4]
        total += widen(tl.load(plane + at, mask=there, other=0))
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
    i = positions(BLOCK, INDEX)
    inside = i < count
    n, c, d, h, w = place(i, C, size, CHANNELS_LAST)
    o0, o1 = readers(d, size[0], out[0], AXES[0])
    p0, p1 = readers(h, size[1], out[1], AXES[1])
    q0, q1 = readers(w, size[2], out[2], AXES[2])
    plane = dy + n * dy_strides[0] + c * dy_strides[1]
    total = widen(tl.zeros((BLOCK,), dx.dtype.element_ty))
    for reader in range(AXES[0].covering * AXES[1].covering * AXES[2].covering):
        o = o0 + reader // (AXES[1].covering * AXES[2].covering)
        p = p0 + reader // AXES[2].covering % AXES[1].covering
        q = q0 + reader % AXES[2].covering
        there = inside & (o < o1) & (p < p1) & (q < q1)
        there &= tap_of(d, o, size[0], out[0], AXES[0])[1]
        there &= tap_of(h, p, size[1], out[1], AXES[1])[1]
        there &= tap_of(w, q, size[2], out[2], AXES[2])[1]
        at = o * dy_strides[2] + p * dy_strides[3] + q * dy_strides[4]
        value = widen(tl.load(plane + at, mask=there, other=0))
        total += divide(value, divisor(o, p, q, size, out, AXES, PADDED, OVERRIDE))
    tl.store(dx + i, narrow(total, dx.dtype.element_ty), mask=inside)


def avg_pool(x: Tensor, spec: PoolSpec, channels_last: bool) -> Tensor:
    size = tuple(x.shape[2:])
    out = pool_output_size(size, spec)
    y = dense(x, (*x.shape[:2], *out), channels_last)
    if y.numel() > 0:
        block = tiles.block(y.numel())
        launch(
            avg_pool_kernel,
            triton.cdiv(y.numel(), block.size),
            x,
            *(x, y, y.numel(), x.shape[1], spatial(size), spatial(out), strides(x)),
            AXES=axes(spec, size, out),
            CHANNELS_LAST=channels_last,
            PADDED=spec.count_include_pad,
            OVERRIDE=spec.divisor_override,
            BLOCK=block.size,
            INDEX=index_type(x, y),
            num_warps=block.warps,
        )
    return y


def avg_pool_bwd(dy: Tensor, input_size: Sizes, spec: PoolSpec, channels_last: bool) -> Tensor:
    size, out = tuple(input_size), tuple(dy.shape[2:])
    dx = dense(dy, (*dy.shape[:2], *size), channels_last)
    if dx.numel() > 0:
        block = tiles.block(dx.numel())
        launch(
            avg_pool_bwd_kernel,
            triton.cdiv(dx.numel(), block.size),
            dy,
            *(dy, dx, dx.numel(), dy.shape[1], spatial(size), spatial(out), strides(dy)),
            AXES=axes(spec, size, out),
            CHANNELS_LAST=channels_last,
            PADDED=spec.count_include_pad,
            OVERRIDE=spec.divisor_override,
            BLOCK=block.size,
            INDEX=index_type(dy, dx),
            num_warps=block.warps,
        )
    return dx
