"""Convolution forwards and its adjoint in x, as an implicit GEMM.

Computes  fprop: y[m, k] = sum over (tap, c) of x[position(m) of tap, c] * w[k, c, tap]; dgrad: dx[m, c] likewise over
          (tap, k) of dy, phase by phase of the stride (see conv_axes); then the epilogue.
Mapping   A program computes M positions (over images and space) by N channels of one group and phase. Row tiles are
          ordered in groups that share their columns, so that a column tile of filters stays in the L2 cache. The
          reduction goes over taps, and over the channels of one tap in slices of K; with few channels (FLAT) taps and
          channels make one index, so that no slice is mostly empty.
Memory    Both operands are gathered from the tensors by pointers: base of the row + offset of the slice, with a mask
          for padding. Any strides: in channels_last the slice is contiguous. tl.dot goes by mma, wgmma or tcgen05.
Limits    Floating types. float32 in TF32 if PyTorch's switch allows it, else by FMA, or as 3 x TF32. Positions in 32
          bits where tensors have fewer than 2^31 elements.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import torch
import triton
import triton.language as tl
from torch import Tensor

from convkit.backends import tuned
from convkit.backends.gpu import tf32_allowed
from convkit.backends.triton import search, tiles
from convkit.backends.triton.bn_stats import merge_statistics, merged
from convkit.backends.triton.conv_axes import axis_constants, conv_axes, count_of, filter_strides, position_of, steps
from convkit.backends.triton.epilogue import Operands, activate, per_channel
from convkit.backends.triton.launch import index_type, launch, spatial, strides
from convkit.backends.triton.windows import INTERPRETED, narrow, plane_at, tap_at, within
from convkit.problem import ConvSpec


@triton.jit
def multiply(a, b, acc, PRECISION: tl.constexpr):
    """acc + a @ b. The interpreter knows no bfloat16 products; in float32 they are exact."""
    if INTERPRETED and a.dtype == tl.bfloat16:
        return tl.dot(a.to(tl.float32), b.to(tl.float32), acc, input_precision="ieee", out_dtype=acc.dtype)
    else:
        return tl.dot(a, b, acc, input_precision=PRECISION, out_dtype=acc.dtype)


@triton.jit
def across(v, FLAT: tl.constexpr):
    """A tap's coordinate beside a column of rows: one for all, or one per slice element."""
    if FLAT:
        return v[None, :]
    else:
        return v


@triton.jit
def conv_igemm_kernel(
    x,
    w,
    y,
    bias,
    scale,
    residual,
    statistics,
    N,
    XC,
    YC,
    size,
    out,
    tiles_m,
    tiles_n,
    groups,
    x_strides,
    y_strides,
    residual_strides,
    w_strides,
    w_group,
    AXES: tl.constexpr,
    TRANSPOSED: tl.constexpr,
    FLAT: tl.constexpr,
    PRECISION: tl.constexpr,
    SCALE: tl.constexpr,
    BIAS: tl.constexpr,
    RESIDUAL: tl.constexpr,
    ACTIVATION: tl.constexpr,
    ALPHA: tl.constexpr,
    STATISTICS: tl.constexpr,
    M: tl.constexpr,
    K: tl.constexpr,
    COLUMNS: tl.constexpr,
    GROUP: tl.constexpr,
    INDEX: tl.constexpr,
):
    """XC and YC are channels per group of source and result; w_strides (result channel, source channel, t, r, s)."""
    program = tl.program_id(0)
    tile = program % (tiles_m * tiles_n)
    rest = program // (tiles_m * tiles_n)
    group = (rest % groups).to(INDEX)
    phase = rest // groups
    # GROUP row tiles after one another for each column tile.
    first_m = tile // (GROUP * tiles_n) * GROUP
    height = tl.minimum(tiles_m - first_m, GROUP)
    tile_m = first_m + tile % (GROUP * tiles_n) % height
    tile_n = tile % (GROUP * tiles_n) // height

    phase_w = phase % AXES.w.stride
    phase_h = phase // AXES.w.stride % AXES.h.stride
    phase_d = phase // (AXES.w.stride * AXES.h.stride)
    count_d = count_of(phase_d, out[0], AXES.d, TRANSPOSED)
    count_h = count_of(phase_h, out[1], AXES.h, TRANSPOSED)
    count_w = count_of(phase_w, out[2], AXES.w, TRANSPOSED)
    row = tile_m.to(INDEX) * M + tl.arange(0, M)
    row_inside = row < N * count_d * count_h * count_w  # none where a stride is longer than the axis
    a_w = row % tl.maximum(count_w, 1)
    row = row // tl.maximum(count_w, 1)
    a_h = row % tl.maximum(count_h, 1)
    row = row // tl.maximum(count_h, 1)
    a_d = row % tl.maximum(count_d, 1)
    n = row // tl.maximum(count_d, 1)
    base_d, step_d, taps_d, first_d, every_d = steps(a_d, phase_d, AXES.d, TRANSPOSED)
    base_h, step_h, taps_h, first_h, every_h = steps(a_h, phase_h, AXES.h, TRANSPOSED)
    base_w, step_w, taps_w, first_w, every_w = steps(a_w, phase_w, AXES.w, TRANSPOSED)
    taps = taps_d * taps_h * taps_w

    column = tile_n * COLUMNS + tl.arange(0, COLUMNS)
    column_inside = column < YC
    x_row = plane_at(n, group * XC, x_strides) + within(base_d, base_h, base_w, x_strides)
    w_column = group * w_group + column.to(INDEX) * w_strides[0]
    acc = tl.zeros((M, COLUMNS), tl.float64 if x.dtype.element_ty == tl.float64 else tl.float32)
    origin = tl.zeros((1,), INDEX)  # makes sums of the wide type
    slices = tl.cdiv(taps * XC, K) if FLAT else taps * tl.cdiv(XC, K)
    for i in range(slices):
        if FLAT:
            k = i * K + tl.arange(0, K)
            c = k % XC
            tap = k // XC
            k_inside = tap < taps
        else:
            tap = i // tl.cdiv(XC, K)
            c = i % tl.cdiv(XC, K) * K + tl.arange(0, K)
            k_inside = c < XC
        t, r, s = tap_at(tap, taps_h, taps_w)
        d = base_d[:, None] + across(t * step_d, FLAT)
        h = base_h[:, None] + across(r * step_h, FLAT)
        v = base_w[:, None] + across(s * step_w, FLAT)
        there = (d >= 0) & (d < size[0]) & (h >= 0) & (h < size[1]) & (v >= 0) & (v < size[2])
        there = there & row_inside[:, None] & k_inside[None, :]
        x_k = (origin + c) * x_strides[1]
        x_k += within(origin + t * step_d, origin + r * step_h, origin + s * step_w, x_strides)
        w_k = (origin + c) * w_strides[1]
        w_k += within(
            origin + first_d + t * every_d, origin + first_h + r * every_h, origin + first_w + s * every_w, w_strides
        )
        a = tl.load(x + x_row[:, None] + x_k[None, :], mask=there, other=0)
        b = tl.load(w + w_k[:, None] + w_column[None, :], mask=k_inside[:, None] & column_inside[None, :], other=0)
        acc = multiply(a, b, acc, PRECISION)

    channel = group * YC + column
    acc = per_channel(acc, scale, bias, channel[None, :], column_inside[None, :], SCALE, BIAS)
    o_d = position_of(a_d, phase_d, AXES.d, TRANSPOSED)
    o_h = position_of(a_h, phase_h, AXES.h, TRANSPOSED)
    o_w = position_of(a_w, phase_w, AXES.w, TRANSPOSED)
    inside = row_inside[:, None] & column_inside[None, :]
    if RESIDUAL:
        at = n * residual_strides[0] + within(o_d, o_h, o_w, residual_strides)
        at = at[:, None] + (channel * residual_strides[1])[None, :]
        acc += tl.load(residual + at, mask=inside, other=0).to(acc.dtype)
    acc = activate(acc, ALPHA, ACTIVATION)
    at = n * y_strides[0] + within(o_d, o_h, o_w, y_strides)
    stored = narrow(acc, y.dtype.element_ty)
    tl.store(y + at[:, None] + (channel * y_strides[1])[None, :], stored, mask=inside)
    if STATISTICS:  # of this tile's rows, per channel, as they are stored
        elements = inside.to(acc.dtype)
        _, mean, squares = merged(elements, tl.where(inside, stored.to(acc.dtype), 0.0), tl.zeros_like(acc), 0)
        at = statistics + tile_m.to(INDEX) * 2 * groups * YC + channel
        tl.store(at, mean, mask=column_inside)
        tl.store(at + groups * YC, squares, mask=column_inside)


def precision(dtype: torch.dtype, wanted: str | None = None) -> str:
    """How tl.dot multiplies: for float32 as asked for, else TF32 if PyTorch's switch for convolutions allows it."""
    if dtype != torch.float32:
        return "ieee"
    return wanted or ("tf32" if tf32_allowed() else "ieee")


def kind(dtype: torch.dtype, how: str) -> str:
    """The table of tiles for operands of a dtype."""
    return "float64" if dtype == torch.float64 else how if dtype == torch.float32 else "half"


def convolve(
    x: Tensor,
    w: Tensor,
    y: Tensor,
    epilogue: Operands,
    spec: ConvSpec,
    transposed: bool,
    how: str | None,
    moments: tuple[Tensor, Tensor] | None = None,
) -> None:
    """Fills y with fprop of (x, w), or with dgrad of (x = dy, w); and moments with the mean and variance of fprop's."""
    axes, groups = conv_axes(spec, tuple(w.shape[2:])), spec.groups
    x_channels, y_channels = x.shape[1] // groups, y.shape[1] // groups
    phases = prod(a.stride for a in axes) if transposed else 1
    longest = [-(-n // a.stride) if transposed else n for n, a in zip(spatial(tuple(y.shape[2:])), axes)]
    rows, dot = y.shape[0] * prod(longest), precision(x.dtype, how)
    depth = x_channels * prod(a.kernel for a in axes)

    def run(tile: tiles.Tile) -> None:
        tiles_m, tiles_n = tiles.cdiv(rows, tile.m), tiles.cdiv(y_channels, tile.n)
        partial = x if moments is None else moments[0].new_empty((tiles_m, 2, y.shape[1]))
        launch(
            conv_igemm_kernel,
            tiles_m * tiles_n * groups * phases,
            x,
            *(x, w, y, *epilogue.pointers(x), partial, x.shape[0], x_channels, y_channels),
            *(spatial(tuple(x.shape[2:])), spatial(tuple(y.shape[2:])), tiles_m, tiles_n, groups),
            *(strides(x), strides(y), epilogue.residual_strides(y), *filter_strides(w, transposed, groups)),
            AXES=axis_constants(spec, tuple(w.shape[2:])),
            TRANSPOSED=transposed,
            FLAT=x_channels < tile.k,
            PRECISION=dot,
            STATISTICS=moments is not None,
            M=tile.m,
            K=tile.k,
            COLUMNS=tile.n,
            GROUP=tile.group,
            INDEX=index_type(x, w, y, epilogue.residual),
            num_warps=tile.warps,
            num_stages=tile.stages,
            enable_fp_fusion=True,
            **epilogue.meta(spec),
        )
        if moments is not None:
            merge_statistics(partial, *moments, rows, tile.m)

    name = f"conv_igemm {'dgrad' if transposed else 'fprop'}"
    in_best_tile(run, name, x, kind(x.dtype, dot), rows, y_channels, depth, groups * phases)


def in_best_tile(
    run: Callable[[tiles.Tile], None],
    name: str,
    x: Tensor,
    kind: str,
    rows: int,
    columns: int,
    depth: int,
    copies: int,
    programs: int = 1,
) -> None:
    """Runs an implicit GEMM of ``rows`` by ``columns`` by ``depth``, ``copies`` times, in its best tile; ``programs``
    times as many programs are to be had by splitting."""

    def problem() -> str:
        order = "channels last" if x.stride(1) == 1 else "rows"
        sizes = "x".join(str(tuned.rounded(n)) for n in (rows, columns, depth, copies))
        return f"{name} {kind} {x.dtype} {order} {sizes}"

    def candidates() -> list[tiles.Tile]:
        return tiles.candidates(kind, rows, columns, depth, search.shared_memory(x.device))

    search.in_best(run, x.device, problem, tiles.tile(kind, rows, columns, copies * programs), candidates)
