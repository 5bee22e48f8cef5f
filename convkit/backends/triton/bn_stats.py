"""Mean and variance of each channel, of a tensor or of a convolution's result as it is stored.

Computes  mean and var = the mean of (x - mean)^2 per channel, without the square of the mean.
Mapping   As conv_bgrad: a program takes one split of some channels; every lane keeps a mean and a sum of squares about
          it (Welford), and lanes are merged about their common mean (Chan, Golub & LeVeque 1979). A convolution's
          programs do the same with the tile that they hold. A second kernel merges splits, many at a time, in order.
Memory    x is read once, a convolution's result not at all. Partial statistics: two numbers per split and channel.
Limits    In float32 (float64 for float64). Splits and tiles depend on the problem and on what convkit.tune found, never
          on the run: the same bits each time; no atomics.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from convkit.backends.triton import tiles
from convkit.backends.triton.launch import index_type, launch, spatial, strides
from convkit.backends.triton.sums import channel_block, over_channels, split_positions, sum_type
from convkit.backends.triton.windows import within


@triton.jit
def merged(n, mean, squares, axis: tl.constexpr):
    """(n, mean, squares) of all parts along an axis, each of n elements; squares are about the mean."""
    total = tl.sum(n, axis)
    common = tl.sum(n * mean, axis) / tl.maximum(total, 1.0)
    away = mean - tl.expand_dims(common, axis)
    return total, common, tl.sum(squares + tl.where(n > 0, n * away * away, 0.0), axis)


@triton.jit
def bn_stats_kernel(
    x,
    partial,
    channels,
    count,
    chunk,
    size,
    x_strides,
    CHANNELS: tl.constexpr,
    BLOCK: tl.constexpr,
    INDEX: tl.constexpr,
):
    """partial: (splits, 2, channels), means and squares."""
    split, k = channel_block(channels, CHANNELS, INDEX)
    seen = tl.zeros((1, BLOCK), partial.dtype.element_ty)
    mean = tl.zeros((CHANNELS, BLOCK), partial.dtype.element_ty)
    squares = tl.zeros((CHANNELS, BLOCK), partial.dtype.element_ty)
    for step in range(0, chunk, BLOCK):
        n, d, h, w, inside = split_positions(split, step, chunk, count, size, BLOCK)
        there = (k < channels)[:, None] & inside[None, :]
        at = (n * x_strides[0] + within(d, h, w, x_strides))[None, :]
        v = tl.load(x + (k * x_strides[1])[:, None] + at, mask=there, other=0).to(mean.dtype)
        seen += inside[None, :].to(seen.dtype)
        away = tl.where(there, v - mean, 0.0)
        mean += away / tl.maximum(seen, 1.0)
        squares += away * (v - mean)
    _, mean, squares = merged(seen + tl.zeros_like(mean), mean, squares, 1)
    at = partial + split * 2 * channels + k
    tl.store(at, mean, mask=k < channels)
    tl.store(at + channels, squares, mask=k < channels)


@triton.jit
def merge_statistics_kernel(
    partial,
    mean,
    var,
    channels,
    count,
    chunk,
    splits,
    SPLITS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Splits of ``chunk`` elements, the last perhaps of fewer, SPLITS at a time."""
    c = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    n = tl.zeros((CHANNELS,), partial.dtype.element_ty)
    total_mean = tl.zeros((CHANNELS,), partial.dtype.element_ty)
    total_squares = tl.zeros((CHANNELS,), partial.dtype.element_ty)
    for first in range(0, splits, SPLITS):
        split = (first + tl.arange(0, SPLITS)).to(tl.int64)
        there = (split < splits)[:, None] & (c < channels)[None, :]
        at = partial + (split * 2 * channels)[:, None] + c[None, :]
        part_mean = tl.load(at, mask=there, other=0)
        part_squares = tl.load(at + channels, mask=there, other=0)
        elements = tl.minimum(tl.maximum(count - split * chunk, 0), chunk).to(n.dtype)
        more, more_mean, more_squares = merged(elements[:, None] + tl.zeros_like(part_mean), part_mean, part_squares, 0)
        away = more_mean - total_mean
        share = more / tl.maximum(n + more, 1.0)
        total_mean += away * share
        total_squares += more_squares + away * away * (n * share)
        n += more
    tl.store(mean + c, total_mean, mask=c < channels)
    tl.store(var + c, total_squares / n, mask=c < channels)


def merge_statistics(partial: Tensor, mean: Tensor, var: Tensor, count: int, chunk: int) -> None:
    """Fills mean and var from the statistics (splits, 2, channels) of splits of ``chunk`` elements."""
    channels, width = mean.shape[0], 16
    launch(
        merge_statistics_kernel,
        tiles.cdiv(channels, width),
        partial,
        *(partial, mean, var, channels, count, chunk, partial.shape[0]),
        SPLITS=64,
        CHANNELS=width,
    )


def bn_stats(x: Tensor) -> tuple[Tensor, Tensor]:
    channels = x.shape[1]
    mean, var = (x.new_full((channels,), float("nan"), dtype=sum_type(x.dtype)) for _ in range(2))
    if x.numel() > 0:
        plan = over_channels(x)
        partial = mean.new_empty((plan.splits, 2, channels))
        launch(
            bn_stats_kernel,
            plan.programs,
            x,
            *(x, partial, channels, plan.elements, plan.chunk, spatial(tuple(x.shape[2:])), strides(x)),
            CHANNELS=plan.channels,
            BLOCK=plan.block,
            INDEX=index_type(x),
        )
        merge_statistics(partial, mean, var, plan.elements, plan.chunk)
    return mean, var
