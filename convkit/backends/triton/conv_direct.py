"""Convolution by its definition, for groups of few channels: depthwise convolution above all.

Computes  fprop, dgrad and wgrad with multiplications element by element; a matrix product would be mostly padding.
Mapping   fprop, dgrad: one element of the result per lane, in memory order, over the source channels of its group and
          all taps. wgrad: a program adds one split of the positions for one tap and some (filter, channel) pairs.
Memory    Through the caches: neighbouring lanes share rows, and in channels_last filters are vectors of channels.
Limits    dgrad tries every tap and drops those whose stride phase is another. wgrad reads dy and x once per tap.
"""

from __future__ import annotations

from math import prod

import triton
import triton.language as tl
from torch import Tensor

from convkit.backends.triton import tiles
from convkit.backends.triton.conv_axes import axis_constants, filter_strides
from convkit.backends.triton.epilogue import Operands, activate, per_channel
from convkit.backends.triton.launch import each_element, index_type, launch, spatial, strides
from convkit.backends.triton.sums import ordered_sum, sum_type
from convkit.backends.triton.windows import (
    lanes,
    narrow,
    plane_at,
    position_at,
    tap_at,
    volume_position,
    within,
)
from convkit.problem import ConvSpec


@triton.jit
def source(o, t, length, A: tl.constexpr, TRANSPOSED: tl.constexpr):
    """(position, whether): what tap t of the result position o reads along one axis."""
    if TRANSPOSED:
        ahead = o + A.before - t * A.dilation
        return ahead // A.stride, (ahead >= 0) & (ahead % A.stride == 0) & (ahead < length * A.stride)
    else:
        at = o * A.stride - A.before + t * A.dilation
        return at, (at >= 0) & (at < length)


@triton.jit
def conv_direct_kernel(
    x,
    w,
    y,
    bias,
    scale,
    residual,
    count,
    C,
    XC,
    YC,
    size,
    out,
    x_strides,
    residual_strides,
    w_strides,
    w_group,
    AXES: tl.constexpr,
    TRANSPOSED: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    SCALE: tl.constexpr,
    BIAS: tl.constexpr,
    RESIDUAL: tl.constexpr,
    ACTIVATION: tl.constexpr,
    ALPHA: tl.constexpr,
    BLOCK: tl.constexpr,
    INDEX: tl.constexpr,
):
    """C channels of the result, XC and YC per group of source and result; w_strides as conv_igemm's."""
    i, inside, n, c, o, p, q = lanes(count, C, out, CHANNELS_LAST, BLOCK, INDEX)
    group = c // YC
    image = x + plane_at(n, group * XC, x_strides)
    filters = w + group * w_group + c % YC * w_strides[0]
    acc = tl.zeros((BLOCK,), tl.float64 if x.dtype.element_ty == tl.float64 else tl.float32)
    for tap in range(AXES.d.kernel * AXES.h.kernel * AXES.w.kernel):
        t, r, s = tap_at(tap, AXES.h.kernel, AXES.w.kernel)
        d, in_d = source(o, t, size[0], AXES.d, TRANSPOSED)
        h, in_h = source(p, r, size[1], AXES.h, TRANSPOSED)
        v, in_w = source(q, s, size[2], AXES.w, TRANSPOSED)
        there = inside & in_d & in_h & in_w
        x_at = within(d, h, v, x_strides)
        w_at = within(t, r, s, w_strides)
        for k in range(XC):
            a = tl.load(image + x_at + k * x_strides[1], mask=there, other=0).to(acc.dtype)
            acc += a * tl.load(filters + w_at + k * w_strides[1], mask=there, other=0).to(acc.dtype)
    acc = per_channel(acc, scale, bias, c, inside, SCALE, BIAS)
    if RESIDUAL:
        at = position_at(n, c, o, p, q, residual_strides)
        acc += tl.load(residual + at, mask=inside, other=0).to(acc.dtype)
    tl.store(y + i, narrow(activate(acc, ALPHA, ACTIVATION), y.dtype.element_ty), mask=inside)


@triton.jit
def conv_wgrad_direct_kernel(
    dy,
    x,
    partial,
    pairs,
    count,
    chunk,
    XC,
    YC,
    size,
    out,
    dy_strides,
    x_strides,
    w_strides,
    split_stride,
    AXES: tl.constexpr,
    PAIRS: tl.constexpr,
    BLOCK: tl.constexpr,
    INDEX: tl.constexpr,
):
    blocks = tl.cdiv(pairs, PAIRS)
    pair = (tl.program_id(0) % blocks * PAIRS + tl.arange(0, PAIRS)).to(INDEX)
    tap = tl.program_id(0) // blocks % (AXES.d.kernel * AXES.h.kernel * AXES.w.kernel)
    split = (tl.program_id(0) // blocks // (AXES.d.kernel * AXES.h.kernel * AXES.w.kernel)).to(INDEX)
    t, r, s = tap_at(tap, AXES.h.kernel, AXES.w.kernel)
    k = pair // XC
    c = pair % XC
    channel = k // YC * XC + c
    total = tl.zeros((PAIRS, BLOCK), partial.dtype.element_ty)
    for step in range(0, chunk, BLOCK):
        i = split * chunk + step + tl.arange(0, BLOCK)
        inside = i < tl.minimum(count, (split + 1) * chunk)
        n, o, p, q = volume_position(i, out)
        d, in_d = source(o, t, size[0], AXES.d, False)
        h, in_h = source(p, r, size[1], AXES.h, False)
        v, in_w = source(q, s, size[2], AXES.w, False)
        there = (inside & in_d & in_h & in_w)[None, :] & (pair < pairs)[:, None]
        at = n * dy_strides[0] + within(o, p, q, dy_strides)
        a = tl.load(dy + (k * dy_strides[1])[:, None] + at[None, :], mask=there, other=0).to(total.dtype)
        at = n * x_strides[0] + within(d, h, v, x_strides)
        total += a * tl.load(x + (channel * x_strides[1])[:, None] + at[None, :], mask=there, other=0).to(total.dtype)
    at = position_at(k, c, t, r, s, w_strides)
    tl.store(partial + split * split_stride + at, tl.sum(total, 1), mask=pair < pairs)


def convolve(
    x: Tensor, w: Tensor, y: Tensor, epilogue: Operands, spec: ConvSpec, channels_last: bool, transposed: bool
) -> None:
    """Fills y with fprop of (x, w), or with dgrad of (x = dy, w)."""
    each_element(
        conv_direct_kernel,
        y,
        (x, w, y, epilogue.residual),
        *(x, w, y, *epilogue.pointers(x), y.numel(), y.shape[1]),
        *(x.shape[1] // spec.groups, y.shape[1] // spec.groups),
        *(spatial(tuple(x.shape[2:])), spatial(tuple(y.shape[2:])), strides(x), epilogue.residual_strides(y)),
        *filter_strides(w.shape[0], w.stride(), transposed, spec.groups),
        AXES=axis_constants(spec, tuple(w.shape[2:])),
        TRANSPOSED=transposed,
        CHANNELS_LAST=channels_last,
        enable_fp_fusion=True,
        **epilogue.meta(spec),
    )


def wgrad(dy: Tensor, x: Tensor, dw: Tensor, spec: ConvSpec) -> None:
    """Fills dw."""
    kernel_size, out = tuple(dw.shape[2:]), spatial(tuple(dy.shape[2:]))
    count, pairs, taps = dy.shape[0] * prod(out), dw.shape[0] * dw.shape[1], prod(kernel_size)
    # Lanes along the channels where these lie side by side, else along positions.
    per_program = 32 if dy.stride(1) == 1 and pairs >= 32 else 1
    block = 1024 // per_program
    blocks = tiles.cdiv(pairs, per_program)
    chunk, splits = tiles.split(count, blocks * taps, block)
    partial = dw.new_empty((splits, dw.numel()), dtype=sum_type(dw.dtype))
    launch(
        conv_wgrad_direct_kernel,
        blocks * taps * splits,
        dy,
        *(dy, x, partial, pairs, count, chunk, dw.shape[1], dy.shape[1] // spec.groups),
        *(spatial(tuple(x.shape[2:])), out, strides(dy), strides(x), strides(dw), dw.numel()),
        AXES=axis_constants(spec, kernel_size),
        PAIRS=per_program,
        BLOCK=block,
        INDEX=index_type(dy, x, partial),
        enable_fp_fusion=True,
    )
    ordered_sum(partial, dw)
