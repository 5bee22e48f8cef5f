"""Sums over batch and space, in an order that is always the same.

Computes  db[k] = sum of dy[n, k, ...]; and the second step of sums that were split: partial[0, i] + partial[1, i] ...
Mapping   bgrad: a program adds one split of some channels, a block of positions at a time. The second step: one
          element of the result per lane.
Memory    Partial sums in float32 (float64 for float64), one row per split.
Limits    Splits are cut by the problem alone, so that results have the same bits on every GPU; no atomics.
"""

from __future__ import annotations

from math import prod

import torch
import triton
import triton.language as tl
from torch import Tensor

from convkit.backends.triton import tiles
from convkit.backends.triton.launch import each_element, index_type, launch, spatial, strides
from convkit.backends.triton.windows import narrow, positions, volume_position, within


@triton.jit
def ordered_sum_kernel(partial, y, count, SPLITS: tl.constexpr, BLOCK: tl.constexpr, INDEX: tl.constexpr):
    i = positions(BLOCK, INDEX)
    inside = i < count
    total = tl.zeros((BLOCK,), partial.dtype.element_ty)
    for split in range(SPLITS):
        total += tl.load(partial + (split + i * 0) * count + i, mask=inside, other=0)
    tl.store(y + i, narrow(total, y.dtype.element_ty), mask=inside)


def sum_type(dtype: torch.dtype) -> torch.dtype:
    """The type that partial sums are kept in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def ordered_sum(partial: Tensor, y: Tensor) -> None:
    """y, as it lies in memory, = the sum of the rows of ``partial``."""
    each_element(ordered_sum_kernel, y, (partial,), partial, y, y.numel(), SPLITS=partial.shape[0])


@triton.jit
def conv_bgrad_kernel(
    dy,
    partial,
    channels,
    count,
    chunk,
    size,
    dy_strides,
    CHANNELS: tl.constexpr,
    BLOCK: tl.constexpr,
    INDEX: tl.constexpr,
):
    blocks = tl.cdiv(channels, CHANNELS)
    split = tl.program_id(0) // blocks
    k = (tl.program_id(0) % blocks * CHANNELS + tl.arange(0, CHANNELS)).to(INDEX)
    total = tl.zeros((CHANNELS, BLOCK), partial.dtype.element_ty)
    for step in range(0, chunk, BLOCK):
        i = split.to(INDEX) * chunk + step + tl.arange(0, BLOCK)
        inside = i < tl.minimum(count, (split.to(INDEX) + 1) * chunk)
        n, d, h, w = volume_position(i, size)
        at = n * dy_strides[0] + within(d, h, w, dy_strides)
        there = (k < channels)[:, None] & inside[None, :]
        total += tl.load(dy + (k * dy_strides[1])[:, None] + at[None, :], mask=there, other=0).to(total.dtype)
    tl.store(partial + split * channels + k, tl.sum(total, 1), mask=k < channels)


def conv_bgrad(dy: Tensor) -> Tensor:
    channels, size = dy.shape[1], spatial(tuple(dy.shape[2:]))
    count = dy.shape[0] * prod(size)
    if count == 0 or channels == 0:
        return dy.new_zeros(channels)
    # Lanes along the channels where these lie side by side, else along positions.
    block = 32 if dy.stride(1) == 1 and channels >= 32 else 1024
    per_program = 1024 // block
    chunk, splits = tiles.split(count, tiles.cdiv(channels, per_program), block)
    partial = dy.new_empty((splits, channels), dtype=sum_type(dy.dtype))
    launch(
        conv_bgrad_kernel,
        tiles.cdiv(channels, per_program) * splits,
        dy,
        *(dy, partial, channels, count, chunk, size, strides(dy)),
        CHANNELS=per_program,
        BLOCK=block,
        INDEX=index_type(dy),
    )
    db = dy.new_empty(channels)
    ordered_sum(partial, db)
    return db
