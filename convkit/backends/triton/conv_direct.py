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
from convkit.backends.triton.conv_axes import conv_axes
from convkit.backends.triton.epilogue import activate, per_channel
from convkit.backends.triton.launch import Sizes, dense, index_type, launch, spatial, strides
from convkit.backends.triton.sums import ordered_sum, sum_type
from convkit.backends.triton.windows import narrow, place, positions
from convkit.problem import ConvSpec, conv_output_size


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
    i = positions(BLOCK, INDEX)
    inside = i < count
    n, c, o, p, q = place(i, C, out, CHANNELS_LAST)
    group = c // YC
    image = x + n * x_strides[0] + group * XC * x_strides[1]
    filters = w + group * w_group + c % YC * w_strides[0]
    acc = tl.zeros((BLOCK,), tl.float64 if x.dtype.element_ty == tl.float64 else tl.float32)
    for tap in range(AXES[0].kernel * AXES[1].kernel * AXES[2].kernel):
        s = tap % AXES[2].kernel
        r = tap // AXES[2].kernel % AXES[1].kernel
        t = tap // (AXES[2].kernel * AXES[1].kernel)
        d, in_d = source(o, t, size[0], AXES[0], TRANSPOSED)
        h, in_h = source(p, r, size[1], AXES[1], TRANSPOSED)
        v, in_w = source(q, s, size[2], AXES[2], TRANSPOSED)
        there = inside & in_d & in_h & in_w
        x_at = d * x_strides[2] + h * x_strides[3] + v * x_strides[4]
        w_at = t * w_strides[2] + r * w_strides[3] + s * w_strides[4]
        for k in range(XC):
            a = tl.load(image + x_at + k * x_strides[1], mask=there, other=0).to(acc.dtype)
            acc += a * tl.load(filters + w_at + k * w_strides[1], mask=there, other=0).to(acc.dtype)
    acc = per_channel(acc, scale, bias, c, inside, SCALE, BIAS)
    if RESIDUAL:
        at = n * residual_strides[0] + c * residual_strides[1]
        at += o * residual_strides[2] + p * residual_strides[3] + q * residual_strides[4]
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
    tap = tl.program_id(0) // blocks % (AXES[0].kernel * AXES[1].kernel * AXES[2].kernel)
    split = (tl.program_id(0) // blocks // (AXES[0].kernel * AXES[1].kernel * AXES[2].kernel)).to(INDEX)
    s = tap % AXES[2].kernel
    r = tap // AXES[2].kernel % AXES[1].kernel
    t = tap // (AXES[2].kernel * AXES[1].kernel)
    k = pair // XC
    c = pair % XC
    channel = k // YC * XC + c
    total = tl.zeros((PAIRS, BLOCK), partial.dtype.element_ty)
    for step in range(0, chunk, BLOCK):
        i = split * chunk + step + tl.arange(0, BLOCK)
        inside = i < tl.minimum(count, (split + 1) * chunk)
        q = i % out[2]
        p = i // out[2] % out[1]
        o = i // (out[2] * out[1]) % out[0]
        n = i // (out[2] * out[1]) // out[0]
        d, in_d = source(o, t, size[0], AXES[0], False)
        h, in_h = source(p, r, size[1], AXES[1], False)
        v, in_w = source(q, s, size[2], AXES[2], False)
        there = (inside & in_d & in_h & in_w)[None, :] & (pair < pairs)[:, None]
        at = n * dy_strides[0] + o * dy_strides[2] + p * dy_strides[3] + q * dy_strides[4]
        a = tl.load(dy + (k * dy_strides[1])[:, None] + at[None, :], mask=there, other=0).to(total.dtype)
        at = n * x_strides[0] + d * x_strides[2] + h * x_strides[3] + v * x_strides[4]
        total += a * tl.load(x + (channel * x_strides[1])[:, None] + at[None, :], mask=there, other=0).to(total.dtype)
    at = k * w_strides[0] + c * w_strides[1] + t * w_strides[2] + r * w_strides[3] + s * w_strides[4]
    tl.store(partial + split * split_stride + at, tl.sum(total, 1), mask=pair < pairs)


def _run(
    x: Tensor,
    w: Tensor,
    y: Tensor,
    bias: Tensor | None,
    scale: Tensor | None,
    residual: Tensor | None,
    spec: ConvSpec,
    channels_last: bool,
    transposed: bool,
) -> Tensor:
    if y.numel() == 0:
        return y
    block = tiles.block(y.numel())
    x_channels, y_channels = x.shape[1] // spec.groups, y.shape[1] // spec.groups
    k, c, *taps = strides(w)
    launch(
        conv_direct_kernel,
        triton.cdiv(y.numel(), block.size),
        x,
        *(x, w, y, x if bias is None else bias, x if scale is None else scale, x if residual is None else residual),
        *(y.numel(), y.shape[1], x_channels, y_channels, spatial(tuple(x.shape[2:])), spatial(tuple(y.shape[2:]))),
        *(strides(x), strides(y if residual is None else residual)),
        (c, k, *taps) if transposed else (k, c, *taps),
        (x_channels if transposed else y_channels) * k,
        AXES=conv_axes(spec, tuple(w.shape[2:])),
        TRANSPOSED=transposed,
        CHANNELS_LAST=channels_last,
        SCALE=scale is not None,
        BIAS=bias is not None,
        RESIDUAL=residual is not None,
        ACTIVATION=spec.activation,
        ALPHA=float(spec.alpha) if spec.activation else 0.0,
        BLOCK=block.size,
        INDEX=index_type(x, w, y, residual),
        num_warps=block.warps,
        enable_fp_fusion=True,
    )
    return y


def fprop(
    x: Tensor,
    w: Tensor,
    bias: Tensor | None,
    scale: Tensor | None,
    residual: Tensor | None,
    spec: ConvSpec,
    channels_last: bool,
) -> Tensor:
    out = conv_output_size(tuple(x.shape[2:]), tuple(w.shape[2:]), spec)
    y = dense(x, (x.shape[0], w.shape[0], *out), channels_last)
    return _run(x, w, y, bias, scale, residual, spec, channels_last, False)


def dgrad(
    dy: Tensor,
    w: Tensor,
    bias: Tensor | None,
    scale: Tensor | None,
    residual: Tensor | None,
    input_size: Sizes,
    spec: ConvSpec,
    channels_last: bool,
) -> Tensor:
    dx = dense(dy, (dy.shape[0], w.shape[1] * spec.groups, *input_size), channels_last)
    return _run(dy, w, dx, bias, scale, residual, spec, channels_last, True)


def wgrad(dy: Tensor, x: Tensor, kernel_size: Sizes, spec: ConvSpec, channels_last: bool) -> Tensor:
    out = spatial(tuple(dy.shape[2:]))
    x_channels = x.shape[1] // spec.groups
    dw = dense(dy, (dy.shape[1], x_channels, *kernel_size), channels_last)
    count, pairs, taps = dy.shape[0] * prod(out), dy.shape[1] * x_channels, prod(kernel_size)
    if dw.numel() == 0 or count == 0:
        return dw.zero_()
    # Lanes along the channels where these lie side by side, else along positions.
    per_program = 32 if dy.stride(1) == 1 and pairs >= 32 else 1
    block = 1024 // per_program
    blocks = triton.cdiv(pairs, per_program)
    chunk, splits = tiles.split(count, blocks * taps, block)
    partial = dw.new_empty((splits, dw.numel()), dtype=sum_type(dw.dtype))
    launch(
        conv_wgrad_direct_kernel,
        blocks * taps * splits,
        dy,
        *(dy, x, partial, pairs, count, chunk, x_channels, dy.shape[1] // spec.groups),
        *(spatial(tuple(x.shape[2:])), out, strides(dy), strides(x), strides(dw), dw.numel()),
        AXES=conv_axes(spec, tuple(kernel_size)),
        PAIRS=per_program,
        BLOCK=block,
        INDEX=index_type(dy, x, partial),
        enable_fp_fusion=True,
    )
    ordered_sum(partial, dw)
    return dw
