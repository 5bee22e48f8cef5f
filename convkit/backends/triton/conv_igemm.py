"""Convolution forwards and its adjoint in x, as an implicit GEMM.

Computes  fprop: y[m, k] = sum over (tap, c) of x[position(m) of tap, c] * w[k, c, tap]; dgrad: dx[m, c] likewise over
          (tap, k) of dy, phase by phase of the stride (see conv_axes); then the epilogue.
Mapping   A tile is M positions (over images and space) by N channels of one group and phase. Row tiles are ordered in
          groups that share their columns, so that a column tile of filters stays in the L2 cache. A program computes
          one tile; or (PERSISTENT) there are as many programs as run at once, and each takes tile after tile. The
          reduction goes over taps, and over the channels of one tap in slices of K; with few channels (FLAT) taps and
          channels make one index, so that no slice is mostly empty.
Memory    Either operand is gathered by pointers: base of the row + offset of the slice, with a mask for padding; any
          strides, and in channels_last the slice is contiguous. Or it is copied as boxes (boxes.py), where the device
          can and neighbouring results read neighbours; then a row tile is a box of positions, and of a filter the box
          is a tile's filters by a slice of one tap. tl.dot goes by mma, wgmma or tcgen05.
Limits    Floating types. float32 in TF32 if PyTorch's switch allows it, else by FMA, or as 3 x TF32. Positions in 32
          bits where tensors have fewer than 2^31 elements.
"""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import Any, NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from convkit.backends.triton import tiles
from convkit.backends.triton.bn_stats import merge_statistics, merged
from convkit.backends.triton.boxes import (
    box_constants,
    box_origin,
    box_positions,
    filter_box,
    of_filter,
    of_positions,
    one_step,
    position_box,
)
from convkit.backends.triton.conv_axes import (
    axis_constants,
    conv_axes,
    count_of,
    filter_strides,
    position_of,
    steps,
)
from convkit.backends.triton.devices import copies_boxes, multiprocessors
from convkit.backends.triton.epilogue import Operands, activate, per_channel
from convkit.backends.triton.igemm import grouped_tile, in_best_tile, kind, multiply, precision, walk
from convkit.backends.triton.launch import Constants, Sizes, in_five, is_wide, launch, spatial
from convkit.backends.triton.windows import narrow, plane_at, tap_at, volume_position, within
from convkit.problem import ConvSpec


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
    BOX: tl.constexpr,
    FILTER_BOX: tl.constexpr,
    M: tl.constexpr,
    K: tl.constexpr,
    COLUMNS: tl.constexpr,
    GROUP: tl.constexpr,
    PERSISTENT: tl.constexpr,
    INDEX: tl.constexpr,
):
    """XC and YC are channels per group of source and result; w_strides (result channel, source channel, t, r, s)."""
    phases: tl.constexpr = AXES.d.stride * AXES.h.stride * AXES.w.stride if TRANSPOSED else 1
    if BOX.there:
        x_box = position_box(x, N, XC * groups, size, x_strides, BOX, K)
    if FILTER_BOX:
        every_tap: tl.constexpr = AXES.d.kernel * AXES.h.kernel * AXES.w.kernel
        if TRANSPOSED:
            w_box = filter_box(w, XC * groups, every_tap, YC, w_strides[1], w_strides[4], K, COLUMNS)
        else:
            w_box = filter_box(w, YC * groups, every_tap, XC, w_strides[0], w_strides[4], COLUMNS, K)
    first_tile, beyond, stride = walk(tiles_m * tiles_n * groups * phases, PERSISTENT)
    for number in range(first_tile, beyond, stride):
        rest = number // (tiles_m * tiles_n)
        tile_m, tile_n = grouped_tile(number % (tiles_m * tiles_n), tiles_m, tiles_n, GROUP)
        group = (rest % groups).to(INDEX)
        phase = rest // groups

        phase_w = phase % AXES.w.stride
        phase_h = phase // AXES.w.stride % AXES.h.stride
        phase_d = phase // (AXES.w.stride * AXES.h.stride)
        count_d = count_of(phase_d, out[0], AXES.d, TRANSPOSED)
        count_h = count_of(phase_h, out[1], AXES.h, TRANSPOSED)
        count_w = count_of(phase_w, out[2], AXES.w, TRANSPOSED)
        # Not 0, which nobody can divide by: where a stride is longer than the axis a phase has no rows.
        counts = (tl.maximum(count_d, 1), tl.maximum(count_h, 1), tl.maximum(count_w, 1))
        if BOX.there:
            from_n, from_d, from_h, from_w = box_origin(tile_m, counts, BOX)
            n, a_d, a_h, a_w = box_positions(from_n, from_d, from_h, from_w, BOX)
            row_inside = (n < N) & (a_d < count_d) & (a_h < count_h) & (a_w < count_w)
        else:
            row = tile_m.to(INDEX) * M + tl.arange(0, M)
            row_inside = row < N * count_d * count_h * count_w
            n, a_d, a_h, a_w = volume_position(row, counts)
            from_d, from_h, from_w = a_d, a_h, a_w
        # What the positions read; of a box, what its first one does.
        base_d, step_d, taps_d, first_d, every_d = steps(from_d, phase_d, AXES.d, TRANSPOSED)
        base_h, step_h, taps_h, first_h, every_h = steps(from_h, phase_h, AXES.h, TRANSPOSED)
        base_w, step_w, taps_w, first_w, every_w = steps(from_w, phase_w, AXES.w, TRANSPOSED)
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
                from_c = i % tl.cdiv(XC, K) * K
                c = from_c + tl.arange(0, K)
                k_inside = c < XC
            t, r, s = tap_at(tap, taps_h, taps_w)
            d = base_d + t * step_d if BOX.there else base_d[:, None] + across(t * step_d, FLAT)
            h = base_h + r * step_h if BOX.there else base_h[:, None] + across(r * step_h, FLAT)
            v = base_w + s * step_w if BOX.there else base_w[:, None] + across(s * step_w, FLAT)
            if BOX.there:
                a = x_box.load([from_n, d, h, v, group * XC + from_c]).reshape(M, K)
            else:
                there = (d >= 0) & (d < size[0]) & (h >= 0) & (h < size[1]) & (v >= 0) & (v < size[2])
                there = there & row_inside[:, None] & k_inside[None, :]
                x_k = (origin + c) * x_strides[1]
                x_k += within(origin + t * step_d, origin + r * step_h, origin + s * step_w, x_strides)
                a = tl.load(x + x_row[:, None] + x_k[None, :], mask=there, other=0)
            t, r, s = first_d + t * every_d, first_h + r * every_h, first_w + s * every_w
            if FILTER_BOX:
                at_tap = (t * AXES.h.kernel + r) * AXES.w.kernel + s
                if TRANSPOSED:
                    b = w_box.load([group * XC + from_c, at_tap, tile_n * COLUMNS]).reshape(K, COLUMNS)
                else:
                    b = w_box.load([group * YC + tile_n * COLUMNS, at_tap, from_c]).reshape(COLUMNS, K).T
            else:
                w_k = (origin + c) * w_strides[1] + within(origin + t, origin + r, origin + s, w_strides)
                mask = k_inside[:, None] & column_inside[None, :]
                b = tl.load(w + w_k[:, None] + w_column[None, :], mask=mask, other=0)
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


#: (size, strides) of a tensor.
_Extent = tuple[Sizes, Sizes]


class _Problem(NamedTuple):
    """What does not depend on the tile. Strides are (n, c, d, h, w), the filter's as the kernel takes them."""

    axes: Constants
    channels: int  # of the source, per group
    columns: int  # channels of the result, per group
    images: int
    size: Sizes
    out: Sizes
    counts: Sizes  # images and positions (n, d, h, w) of the largest phase
    phases: int
    depth: int
    x: Sizes
    y: Sizes
    residual: Sizes
    filters: Sizes
    filter_group: int
    index: Any
    neighbours: bool  # neighbouring results read neighbours


def _in_one_row(sizes: Sizes, of: Sizes) -> Sizes | None:
    """Strides of the images and positions as one row; None where memory has them otherwise."""
    step = one_step(sizes, (of[0], *of[2:]))
    return None if step is None else (0, of[1], 0, 0, step)


@lru_cache(maxsize=4096)
def _problem(spec: ConvSpec, transposed: bool, x: _Extent, w: _Extent, y: _Extent, residual: Sizes) -> _Problem:
    """What is known of a problem; where every position reads itself alone (1x1), and memory has them in one row, that
    of one row."""
    kernel_size = tuple(w[0][2:])
    axes = conv_axes(spec, kernel_size)
    images, size, out = x[0][0], spatial(tuple(x[0][2:])), spatial(tuple(y[0][2:]))
    of_x, of_y, of_residual = in_five(x[1]), in_five(y[1]), in_five(residual)
    if size == out and all(a.kernel == 1 and a.stride == 1 and a.before == 0 for a in axes):
        rows = [row for s in (of_x, of_y, of_residual) if (row := _in_one_row((images, *size), s)) is not None]
        if len(rows) == 3:
            of_x, of_y, of_residual = rows
            images, size = 1, (1, 1, images * prod(size))
            out = size
    channels = x[0][1] // spec.groups
    longest = [-(-n // a.stride) if transposed else n for n, a in zip(out, axes)]
    filters, filter_group = filter_strides(w[0][0], w[1], transposed, spec.groups)
    return _Problem(
        axes=axis_constants(spec, kernel_size),
        channels=channels,
        columns=y[0][1] // spec.groups,
        images=images,
        size=size,
        out=out,
        counts=(images, *longest),
        phases=prod(a.stride for a in axes) if transposed else 1,
        depth=channels * prod(kernel_size),
        x=of_x,
        y=of_y,
        residual=of_residual,
        filters=filters,
        filter_group=filter_group,
        index=tl.int64 if any(is_wide(*e) for e in (x, w, y, (y[0], residual))) else tl.int32,
        neighbours=transposed or all(a.stride == 1 for a in axes),
    )


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
    extents = ((x.shape, x.stride()), (w.shape, w.stride()), (y.shape, y.stride()))
    of = _problem(spec, transposed, *extents, y.stride() if epilogue.residual is None else epilogue.residual.stride())
    groups, rows, dot = spec.groups, prod(of.counts), precision(x.dtype, how)
    can_box = of.index is tl.int32 and copies_boxes(x.device)

    def run(tile: tiles.Tile) -> None:
        # A slice that reached into the next group would multiply its numbers by zeros: NaN, if they are infinite.
        boxed = can_box and tile.boxes and of.channels >= tile.k and (groups == 1 or of.channels % tile.k == 0)
        found = w_box = None
        if boxed:
            w_box = of_filter(w, transposed)
            if of.neighbours:
                found = of_positions(x, (of.images, *of.size), of.x, of.counts, tile.m, moments is not None)
        box, tiles_m, x_strides = found or (None, tiles.cdiv(rows, tile.m), of.x)
        tiles_n = tiles.cdiv(of.columns, tile.n)
        number = tiles_m * tiles_n * groups * of.phases
        programs = min(number, tile.persistent * multiprocessors(x.device)) or number
        partial = x if moments is None else moments[0].new_empty((tiles_m, 2, y.shape[1]))
        launch(
            conv_igemm_kernel,
            programs,
            x,
            *(x, w, y, *epilogue.pointers(x), partial, of.images, of.channels, of.columns),
            *(of.size, of.out, tiles_m, tiles_n, groups),
            *(x_strides, of.y, of.residual, w_box or of.filters, of.filter_group),
            AXES=of.axes,
            TRANSPOSED=transposed,
            FLAT=of.channels < tile.k,
            PRECISION=dot,
            STATISTICS=moments is not None,
            BOX=box_constants(box),
            FILTER_BOX=w_box is not None,
            M=tile.m,
            K=tile.k,
            COLUMNS=tile.n,
            GROUP=tile.group,
            PERSISTENT=programs < number,
            INDEX=of.index,
            num_warps=tile.warps,
            num_stages=tile.stages,
            enable_fp_fusion=True,
            descriptors=box is not None or w_box is not None,
            **epilogue.meta(spec),
        )
        if moments is not None:
            merge_statistics(partial, *moments, rows, tile.m)

    name = "conv_igemm dgrad" if transposed else "conv_igemm fprop"
    ways = {"persistent": True, "boxes": can_box}
    in_best_tile(run, name, x, kind(x.dtype, dot), rows, of.columns, of.depth, groups * of.phases, **ways)
