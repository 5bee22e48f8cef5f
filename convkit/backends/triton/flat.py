"""Operations on flat indices: row-major positions in the plane of one image and channel.

Computes  max_unpool    y[indices[o]] = x[o], zero elsewhere; of equal indices the last o counts
          plane_gather  y[o] = x[indices[o]], 0 where an index lies outside of its plane
          plane_scatter dx[indices[o]] += dy[o], added in row-major order of o
Mapping   max_unpool: one kernel finds the largest o that names each position, by integer maxima, whose order does not
          matter; the second reads it. plane_scatter: PyTorch sorts each plane's indices, stably, so that those of one
          position stand in a row, and one lane adds each such row in order. So every sum has one order; no atomics
          on numbers.
Memory    max_unpool keeps 4 bytes per element of the result (8 beyond 2^31 of them), plane_scatter the sorted indices
          and their order, 16 bytes per index. Where all indices name one position, one lane adds them all.
Limits    An index outside of its plane ends max_unpool's kernel, as it does the native one: naming it in an
          exception would need a wait for the GPU. The interpreter passes over it. In plane_scatter it adds nothing.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from convkit.backends.layout import is_channels_last
from convkit.backends.triton.launch import Sizes, dense, each_element, index_type, spatial, strides, volume
from convkit.backends.triton.windows import (
    lanes,
    narrow,
    plane_at,
    position_at,
    positions,
    volume_position,
    widen,
    within,
)


@triton.jit
def unpool_winner_kernel(
    indices,
    winners,
    count,
    C,
    size,
    plane,
    index_strides,
    CHANNELS_LAST: tl.constexpr,
    BLOCK: tl.constexpr,
    INDEX: tl.constexpr,
):
    """winners[index] = the largest 1 + o whose index it is."""
    _, inside, n, c, d, h, w = lanes(count, C, size, CHANNELS_LAST, BLOCK, INDEX)
    index = tl.load(indices + position_at(n, c, d, h, w, index_strides), mask=inside, other=0)
    named = (index >= 0) & (index < plane)
    tl.device_assert(named | ~inside, "Found an invalid max index")
    number = ((d * size[1] + h) * size[2] + w + 1).to(winners.dtype.element_ty)
    at = (n * C + c).to(tl.int64) * plane + index
    tl.atomic_max(winners + at, number, mask=inside & named, sem="relaxed")


@triton.jit
def unpool_kernel(
    x,
    winners,
    y,
    count,
    C,
    size,
    out,
    x_strides,
    CHANNELS_LAST: tl.constexpr,
    BLOCK: tl.constexpr,
    INDEX: tl.constexpr,
):
    """``size`` of x, ``out`` of y."""
    i, inside, n, c, d, h, w = lanes(count, C, out, CHANNELS_LAST, BLOCK, INDEX)
    at = (((n * C + c) * out[0] + d) * out[1] + h) * out[2] + w
    winner = tl.load(winners + at, mask=inside, other=0).to(INDEX)
    there = inside & (winner > 0)
    _, o, p, q = volume_position(tl.where(there, winner - 1, 0), size)
    value = tl.load(x + position_at(n, c, o, p, q, x_strides), mask=there, other=0)
    tl.store(y + i, value, mask=inside)


@triton.jit
def plane_gather_kernel(
    x,
    indices,
    y,
    count,
    C,
    size,
    out,
    plane,
    x_strides,
    index_strides,
    CHANNELS_LAST: tl.constexpr,
    BLOCK: tl.constexpr,
    INDEX: tl.constexpr,
):
    i, inside, n, c, o, p, q = lanes(count, C, out, CHANNELS_LAST, BLOCK, INDEX)
    index = tl.load(indices + position_at(n, c, o, p, q, index_strides), mask=inside, other=0)
    there = inside & (index >= 0) & (index < plane)
    _, d, h, w = volume_position(tl.where(there, index, 0).to(INDEX), size)
    value = tl.load(x + position_at(n, c, d, h, w, x_strides), mask=there, other=0)
    tl.store(y + i, value, mask=inside)


@triton.jit
def plane_scatter_kernel(
    dy,
    sorted_indices,
    order,
    dx,
    count,
    C,
    run,
    size,
    out,
    plane,
    dy_strides,
    dx_strides,
    BLOCK: tl.constexpr,
    INDEX: tl.constexpr,
):
    """``run`` sorted indices per plane; ``size`` of dx, ``out`` of dy. The lane of a row's first index adds the row."""
    i = positions(BLOCK, INDEX)
    inside = i < count
    at = i % run
    n = i // run // C
    c = i // run % C
    index = tl.load(sorted_indices + i, mask=inside, other=-1)
    before = tl.load(sorted_indices + i - 1, mask=inside & (at > 0), other=-1)
    first = inside & (index >= 0) & (index < plane) & ((at == 0) | (before != index))
    dy_plane = dy + plane_at(n, c, dy_strides)
    total = widen(tl.zeros((BLOCK,), dx.dtype.element_ty))
    more = first
    while tl.max(more.to(tl.int32), 0) > 0:
        _, o, p, q = volume_position(tl.load(order + i, mask=more, other=0).to(INDEX), out)
        total += widen(tl.load(dy_plane + within(o, p, q, dy_strides), mask=more, other=0))
        i += 1
        at += 1
        more = more & (at < run)
        more = more & (tl.load(sorted_indices + i, mask=more, other=-1) == index)
    _, d, h, w = volume_position(tl.where(first, index, 0).to(INDEX), size)
    at = position_at(n, c, d, h, w, dx_strides)
    tl.store(dx + at, narrow(total, dx.dtype.element_ty), mask=first)


def max_unpool(x: Tensor, indices: Tensor, output_size: Sizes, channels_last: bool) -> Tensor:
    y = dense(x, (*x.shape[:2], *output_size), channels_last)
    out, plane = spatial(tuple(output_size)), volume(tuple(output_size))
    number = torch.int32 if index_type(indices) == tl.int32 else torch.int64
    winners = x.new_zeros((x.shape[0] * x.shape[1], plane), dtype=number)
    each_element(
        unpool_winner_kernel,
        indices,
        (indices, winners),
        *(indices, winners, indices.numel(), x.shape[1], spatial(tuple(indices.shape[2:])), plane, strides(indices)),
        CHANNELS_LAST=is_channels_last(indices),
        debug=True,  # keeps the assertion
        sanitize_overflow=False,
    )
    each_element(
        unpool_kernel,
        y,
        (x, winners, y),
        *(x, winners, y, y.numel(), x.shape[1], spatial(tuple(x.shape[2:])), out, strides(x)),
        CHANNELS_LAST=channels_last,
    )
    return y


def plane_gather(x: Tensor, indices: Tensor, channels_last: bool) -> Tensor:
    y = dense(x, tuple(indices.shape), channels_last)
    size, out = tuple(x.shape[2:]), tuple(indices.shape[2:])
    each_element(
        plane_gather_kernel,
        y,
        (x, indices, y),
        *(x, indices, y, y.numel(), x.shape[1], spatial(size), spatial(out), volume(size), strides(x)),
        strides(indices),
        CHANNELS_LAST=channels_last,
    )
    return y


def plane_scatter(dy: Tensor, indices: Tensor, input_size: Sizes, channels_last: bool) -> Tensor:
    size, out = tuple(input_size), tuple(dy.shape[2:])
    dx = dense(dy, (*dy.shape[:2], *size), channels_last).zero_()
    if dx.numel() > 0 and dy.numel() > 0:
        sorted_indices, order = indices.flatten(2).contiguous().sort(dim=2, stable=True)
        each_element(
            plane_scatter_kernel,
            sorted_indices,
            (dy, sorted_indices, dx),
            *(dy, sorted_indices, order, dx, sorted_indices.numel(), dy.shape[1], volume(out)),
            *(spatial(size), spatial(out), volume(size), strides(dy), strides(dx)),
        )
    return dx
