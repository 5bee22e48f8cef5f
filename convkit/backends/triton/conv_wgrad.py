"""The gradient of a convolution's filters, as an implicit GEMM whose reduction is split.

Computes  dw[k, c, tap] = sum over images and positions of dy[k, position] * x[c, what the tap of the position reads].
Mapping   A program computes M filters by N (tap, channel) pairs of one group, channels fastest, over one split of the
          positions. There are few tiles and many positions: splits fill the GPU, and a second kernel adds
          them in order.
Memory    Both operands are gathered by pointers; what a pair adds to x's address does not depend on the position.
          Partial sums in float32 (float64 for float64), in dw's own layout.
Limits    Splits are cut by the problem alone: the same bits on every GPU and in every run.
"""

from __future__ import annotations

from math import prod

import triton
import triton.language as tl
from torch import Tensor

from convkit.backends.triton import tiles
from convkit.backends.triton.conv_axes import axis_constants
from convkit.backends.triton.igemm import in_best_tile, kind, multiply, precision
from convkit.backends.triton.launch import index_type, launch, spatial, strides
from convkit.backends.triton.sums import ordered_sum, sum_type
from convkit.backends.triton.windows import narrow, tap_at, volume_position, within
from convkit.problem import ConvSpec


@triton.jit
def conv_wgrad_kernel(
    dy,
    x,
    dw,
    count,
    chunk,
    XC,
    YC,
    size,
    out,
    tiles_m,
    tiles_n,
    groups,
    dy_strides,
    x_strides,
    w_strides,
    split_stride,
    AXES: tl.constexpr,
    PRECISION: tl.constexpr,
    M: tl.constexpr,
    K: tl.constexpr,
    COLUMNS: tl.constexpr,
    INDEX: tl.constexpr,
):
    """XC and YC are channels and filters per group; ``count`` positions of all images, ``chunk`` of them per split."""
    program = tl.program_id(0)
    tile = program % (tiles_m * tiles_n)
    rest = program // (tiles_m * tiles_n)
    group = (rest % groups).to(INDEX)
    split = (rest // groups).to(INDEX)
    filters = tile % tiles_m * M + tl.arange(0, M)
    filter_inside = filters < YC
    pair = (tile // tiles_m * COLUMNS + tl.arange(0, COLUMNS)).to(INDEX)
    c = pair % XC
    t, r, s = tap_at(pair // XC, AXES.h.kernel, AXES.w.kernel)
    pair_inside = t < AXES.d.kernel
    k = group * YC + filters
    x_pair = (group * XC + c) * x_strides[1]
    x_pair += within(t * AXES.d.dilation, r * AXES.h.dilation, s * AXES.w.dilation, x_strides)
    acc = tl.zeros((M, COLUMNS), tl.float64 if x.dtype.element_ty == tl.float64 else tl.float32)
    for step in range(0, chunk, K):
        i = split * chunk + step + tl.arange(0, K)
        inside = i < tl.minimum(count, (split + 1) * chunk)
        n, o, p, q = volume_position(i, out)
        at = n * dy_strides[0] + within(o, p, q, dy_strides)
        there = filter_inside[:, None] & inside[None, :]
        a = tl.load(dy + (k * dy_strides[1])[:, None] + at[None, :], mask=there, other=0)
        base_d = o * AXES.d.stride - AXES.d.before
        base_h = p * AXES.h.stride - AXES.h.before
        base_w = q * AXES.w.stride - AXES.w.before
        d = base_d[:, None] + (t * AXES.d.dilation)[None, :]
        h = base_h[:, None] + (r * AXES.h.dilation)[None, :]
        w = base_w[:, None] + (s * AXES.w.dilation)[None, :]
        there = (d >= 0) & (d < size[0]) & (h >= 0) & (h < size[1]) & (w >= 0) & (w < size[2])
        there = there & inside[:, None] & pair_inside[None, :]
        at = n * x_strides[0] + within(base_d, base_h, base_w, x_strides)
        b = tl.load(x + at[:, None] + x_pair[None, :], mask=there, other=0)
        acc = multiply(a, b, acc, PRECISION)
    at = c * w_strides[1] + within(t, r, s, w_strides)
    at = split * split_stride + (k * w_strides[0])[:, None] + at[None, :]
    tl.store(dw + at, narrow(acc, dw.dtype.element_ty), mask=filter_inside[:, None] & pair_inside[None, :])


def wgrad(dy: Tensor, x: Tensor, dw: Tensor, spec: ConvSpec, how: str | None) -> None:
    """Fills dw."""
    kernel_size, groups, out = tuple(dw.shape[2:]), spec.groups, spatial(tuple(dy.shape[2:]))
    x_channels, filters = dw.shape[1], dy.shape[1] // groups
    count, pairs = dy.shape[0] * prod(out), x_channels * prod(kernel_size)
    dot = precision(x.dtype, how)

    def run(tile: tiles.Tile) -> None:
        tiles_m, tiles_n = tiles.cdiv(filters, tile.m), tiles.cdiv(pairs, tile.n)
        chunk, splits = tiles.split(count, tiles_m * tiles_n * groups, tile.k)
        partial = dw if splits == 1 else dw.new_empty((splits, dw.numel()), dtype=sum_type(dw.dtype))
        launch(
            conv_wgrad_kernel,
            tiles_m * tiles_n * groups * splits,
            dy,
            *(dy, x, partial, count, chunk, x_channels, filters, spatial(tuple(x.shape[2:])), out),
            *(tiles_m, tiles_n, groups, strides(dy), strides(x), strides(dw), dw.numel()),
            AXES=axis_constants(spec, kernel_size),
            PRECISION=dot,
            M=tile.m,
            K=tile.k,
            COLUMNS=tile.n,
            INDEX=index_type(dy, x, partial),
            num_warps=tile.warps,
            num_stages=tile.stages,
            enable_fp_fusion=True,
        )
        if splits > 1:
            ordered_sum(partial, dw)

    # As many programs as are wanted come from splits, so large tiles are taken.
    in_best_tile(run, "conv_wgrad", x, kind(x.dtype, dot), filters, pairs, count, groups, tiles.PROGRAMS)
