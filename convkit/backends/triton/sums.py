"""Sums over batch and space, in an order that is always the same.

Computes  db[k] = sum of dy[n, k, ...]; and the second step of sums that were split: partial[0, i] + partial[1, i] ...
Mapping   bgrad: a program adds one split of some channels, a block of positions at a time. The second step: one
          element of the result per lane.
Memory    Partial sums in float32 (float64 for float64), one row per split.
Limits    Splits are cut by the problem alone, so that results have the same bits on every GPU; no atomics.
"""

from __future__ import annotations

from math import prod
from typing import NamedTuple

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


class OverChannels(NamedTuple):
    """How sums over all but the channels are cut: ``programs`` programs of ``channels`` channels and one split each."""

    channels: int
    block: int  # positions at a time
    elements: int  # positions in all
    chunk: int  # positions of a split
    splits: int
    programs: int


def over_channels(x: Tensor) -> OverChannels:
    """The cut for x (N, C, *spatial), which has elements."""
    count = x.shape[0] * prod(x.shape[2:])
    # Lanes along the channels where these lie side by side, else along positions.
    block = 32 if x.stride(1) == 1 and x.shape[1] >= 32 else 1024
    blocks = tiles.cdiv(x.shape[1], 1024 // block)
    chunk, splits = tiles.split(count, blocks, block)
    return OverChannels(1024 // block, block, count, chunk, splits, blocks * splits)


@triton.jit
def channel_block(channels, CHANNELS: tl.constexpr, INDEX: tl.constexpr):
    """(the split, the channels) of this program."""
    blocks = tl.cdiv(channels, CHANNELS)
    split = tl.program_id(0) // blocks
    return split.to(INDEX), (tl.program_id(0) % blocks * CHANNELS + tl.arange(0, CHANNELS)).to(INDEX)


@triton.jit
def split_positions(split, step, chunk, count, size, BLOCK: tl.constexpr):
    """(n, d, h, w, whether): the positions of a split from ``step`` on."""
    i = split * chunk + step + tl.arange(0, BLOCK)
    n, d, h, w = volume_position(i, size)
    return n, d, h, w, i < tl.minimum(count, (split + 1) * chunk)


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
    split, k = channel_block(channels, CHANNELS, INDEX)
    total = tl.zeros((CHANNELS, BLOCK), partial.dtype.element_ty)
    for step in range(0, chunk, BLOCK):
        n, d, h, w, inside = split_positions(split, step, chunk, count, size, BLOCK)
        at = n * dy_strides[0] + within(d, h, w, dy_strides)
        there = (k < channels)[:, None] & inside[None, :]
        total += tl.load(dy + (k * dy_strides[1])[:, None] + at[None, :], mask=there, other=0).to(total.dtype)
    tl.store(partial + split * channels + k, tl.sum(total, 1), mask=k < channels)


def conv_bgrad(dy: Tensor) -> Tensor:
    if dy.numel() == 0:
        return dy.new_zeros(dy.shape[1])
    plan = over_channels(dy)
    partial = dy.new_empty((plan.splits, dy.shape[1]), dtype=sum_type(dy.dtype))
    launch(
        conv_bgrad_kernel,
        plan.programs,
        dy,
        *(dy, partial, dy.shape[1], plan.elements, plan.chunk, spatial(tuple(dy.shape[2:])), strides(dy)),
        CHANNELS=plan.channels,
        BLOCK=plan.block,
        INDEX=index_type(dy),
    )
    db = dy.new_empty(dy.shape[1])
    ordered_sum(partial, db)
    return db
