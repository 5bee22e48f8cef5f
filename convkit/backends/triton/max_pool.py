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
from convkit.backends.triton import tiles
from convkit.backends.triton.launch import Sizes, dense, index_type, launch, spatial, strides
from convkit.backends.triton.windows import axes, narrow, place, positions, readers, span, tap_of, widen
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
    i = positions(BLOCK, INDEX)
    inside = i < count
    n, c, o, p, q = place(i, C, out, CHANNELS_LAST)
    d0, d1 = span(o, size[0], out[0], AXES[0])
    h0, h1 = span(p, size[1], out[1], AXES[1])
    w0, w1 = span(q, size[2], out[2], AXES[2])
    plane = x + n * x_strides[0] + c * x_strides[1]
    chosen = tl.full((BLOCK,), -1, tl.int32)
    best = widen(tl.zeros((BLOCK,), x.dtype.element_ty))
    for tap in range(AXES[0].kernel * AXES[1].kernel * AXES[2].kernel):
        d = d0 + tap // (AXES[1].kernel * AXES[2].kernel) * AXES[0].dilation
        h = h0 + tap // AXES[2].kernel % AXES[1].kernel * AXES[1].dilation
        w = w0 + tap % AXES[2].kernel * AXES[2].dilation
        there = inside & (d >= 0) & (d < d1) & (h >= 0) & (h < h1) & (w >= 0) & (w < w1)
        v = widen(tl.load(plane + d * x_strides[2] + h * x_strides[3] + w * x_strides[4], mask=there, other=0))
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
    S: tl.constexpr = AXES[2].kernel
    RS: tl.constexpr = AXES[1].kernel * AXES[2].kernel
    d0, d1 = span(o, size[0], out[0], AXES[0])
    h0, h1 = span(p, size[1], out[1], AXES[1])
    w0, w1 = span(q, size[2], out[2], AXES[2])
    d = d0 + offset // RS * AXES[0].dilation
    h = h0 + offset // S % AXES[1].kernel * AXES[1].dilation
    w = w0 + offset % S * AXES[2].dilation
    there = (offset >= 0) & (offset < AXES[0].kernel * RS)
    there &= (d >= 0) & (d < d1) & (h >= 0) & (h < h1) & (w >= 0) & (w < w1)
    return d, h, w, there


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
    i = positions(BLOCK, INDEX)
    inside = i < count
    n, c, o, p, q = place(i, C, out, CHANNELS_LAST)
    at = n * offset_strides[0] + c * offset_strides[1]
    at += o * offset_strides[2] + p * offset_strides[3] + q * offset_strides[4]
    offset = tl.load(offsets + at, mask=inside, other=0).to(tl.int32)
    d, h, w, there = named_element(offset, o, p, q, size, out, AXES)
    if INDICES:
        flat = (d.to(tl.int64) * size[1] + h) * size[2] + w
        tl.store(y + i, tl.where(there, flat, -1), mask=inside)
    else:
        at = n * x_strides[0] + c * x_strides[1] + d * x_strides[2] + h * x_strides[3] + w * x_strides[4]
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
    i = positions(BLOCK, INDEX)
    inside = i < count
    n, c, d, h, w = place(i, C, size, CHANNELS_LAST)
    o0, o1 = readers(d, size[0], out[0], AXES[0])
    p0, p1 = readers(h, size[1], out[1], AXES[1])
    q0, q1 = readers(w, size[2], out[2], AXES[2])
    dy_plane = dy + n * dy_strides[0] + c * dy_strides[1]
    offset_plane = offsets + n * offset_strides[0] + c * offset_strides[1]
    total = widen(tl.zeros((BLOCK,), dx.dtype.element_ty))
    for reader in range(AXES[0].covering * AXES[1].covering * AXES[2].covering):
        o = o0 + reader // (AXES[1].covering * AXES[2].covering)
        p = p0 + reader // AXES[2].covering % AXES[1].covering
        q = q0 + reader % AXES[2].covering
        t, reads_d = tap_of(d, o, size[0], out[0], AXES[0])
        r, reads_h = tap_of(h, p, size[1], out[1], AXES[1])
        s, reads_w = tap_of(w, q, size[2], out[2], AXES[2])
        there = inside & (o < o1) & (p < p1) & (q < q1) & reads_d & reads_h & reads_w
        at = o * offset_strides[2] + p * offset_strides[3] + q * offset_strides[4]
        offset = tl.load(offset_plane + at, mask=there, other=0).to(tl.int32)
        chosen = there & (offset == (t * AXES[1].kernel + r) * AXES[2].kernel + s)
        at = o * dy_strides[2] + p * dy_strides[3] + q * dy_strides[4]
        total += widen(tl.load(dy_plane + at, mask=chosen, other=0))
    tl.store(dx + i, narrow(total, dx.dtype.element_ty), mask=inside)


def max_pool(x: Tensor, spec: PoolSpec, offsets: bool, channels_last: bool) -> tuple[Tensor, Tensor]:
    size = tuple(x.shape[2:])
    out = pool_output_size(size, spec)
    shape = (*x.shape[:2], *out)
    y = dense(x, shape, channels_last)
    kept = dense(x, shape if offsets else (0, *shape[1:]), channels_last, OFFSET_DTYPES[offset_bytes(spec.kernel_size)])
    if y.numel() > 0:
        block = tiles.block(y.numel())
        launch(
            max_pool_kernel,
            triton.cdiv(y.numel(), block.size),
            x,
            *(x, y, kept, y.numel(), x.shape[1], spatial(size), spatial(out), strides(x)),
            AXES=axes(spec, size, out),
            CHANNELS_LAST=channels_last,
            OFFSETS=offsets,
            LOWEST=float("-inf") if x.is_floating_point() else torch.iinfo(x.dtype).min,
            BLOCK=block.size,
            INDEX=index_type(x, y),
            num_warps=block.warps,
        )
    return y, kept


def _select(
    x: Tensor | None, offsets: Tensor, size: Sizes, dtype: torch.dtype, spec: PoolSpec, channels_last: bool
) -> Tensor:
    out = tuple(offsets.shape[2:])
    y = dense(offsets, tuple(offsets.shape), channels_last, dtype)
    if y.numel() > 0:
        block = tiles.block(y.numel())
        launch(
            pool_select_kernel,
            triton.cdiv(y.numel(), block.size),
            offsets,
            *(offsets if x is None else x, offsets, y, y.numel(), offsets.shape[1], spatial(size), spatial(out)),
            *(strides(offsets if x is None else x), strides(offsets)),
            AXES=axes(spec, size, out),
            CHANNELS_LAST=channels_last,
            INDICES=x is None,
            BLOCK=block.size,
            INDEX=index_type(x, y, offsets),
            num_warps=block.warps,
        )
    return y


def pool_select(x: Tensor, offsets: Tensor, spec: PoolSpec, channels_last: bool) -> Tensor:
    return _select(x, offsets, tuple(x.shape[2:]), x.dtype, spec, channels_last)


def pool_indices(offsets: Tensor, input_size: Sizes, spec: PoolSpec, channels_last: bool) -> Tensor:
    return _select(None, offsets, tuple(input_size), torch.int64, spec, channels_last)


def pool_select_bwd(dy: Tensor, offsets: Tensor, input_size: Sizes, spec: PoolSpec, channels_last: bool) -> Tensor:
    size, out = tuple(input_size), tuple(dy.shape[2:])
    dx = dense(dy, (*dy.shape[:2], *size), channels_last)
    if dx.numel() > 0:
        block = tiles.block(dx.numel())
        launch(
            pool_select_bwd_kernel,
            triton.cdiv(dx.numel(), block.size),
            dy,
            *(dy, offsets, dx, dx.numel(), dy.shape[1], spatial(size), spatial(out), strides(dy), strides(offsets)),
            AXES=axes(spec, size, out),
            CHANNELS_LAST=channels_last,
            BLOCK=block.size,
            INDEX=index_type(dy, offsets, dx),
            num_warps=block.warps,
        )
    return dx
