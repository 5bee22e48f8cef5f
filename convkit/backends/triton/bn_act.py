"""Batch normalisation with what follows it, in one pass over the elements, and its gradient in two.

Computes  bn_act             z = act((x - mean) invstd weight + bias + residual)
          bn_act_bwd_reduce  dbias = sum g, dweight = sum g (x - mean) invstd, with g = dz act'(v), v computed again
          bn_act_bwd         dx = invstd weight (g - dbias / count - (x - mean) invstd dweight / count), dresidual = g
Mapping   bn_act and bn_act_bwd: one element of the result per lane, in its memory order. The sums: as conv_bgrad.
Memory    Every tensor is read once; per-channel vectors come from the caches.
Limits    In float32 (float64 for float64), rounded once. Partial sums are cut by the problem alone and added in order.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from convkit.backends.base import Norm, NormSums
from convkit.backends.triton.epilogue import activate, activation_gradient
from convkit.backends.triton.launch import dense, each_element, index_type, launch, spatial, strides
from convkit.backends.triton.sums import channel_block, ordered_sum, over_channels, split_positions
from convkit.backends.triton.windows import lanes, narrow, position_at, within


@triton.jit
def normalised(
    x,
    mean,
    invstd,
    weight,
    bias,
    residual,
    x_at,
    residual_at,
    c,
    inside,
    WEIGHT: tl.constexpr,
    BIAS: tl.constexpr,
    RESIDUAL: tl.constexpr,
):
    """(x - mean, invstd, invstd * weight, what is activated) of elements and their channels."""
    centred = tl.load(x + x_at, mask=inside, other=0).to(mean.dtype.element_ty) - tl.load(
        mean + c, mask=inside, other=0
    )
    deviation = tl.load(invstd + c, mask=inside, other=0)
    scale = deviation
    if WEIGHT:
        scale = deviation * tl.load(weight + c, mask=inside, other=0)
    v = centred * scale
    if BIAS:
        v = v + tl.load(bias + c, mask=inside, other=0)
    if RESIDUAL:
        v = v + tl.load(residual + residual_at, mask=inside, other=0).to(v.dtype)
    return centred, deviation, scale, v


@triton.jit
def bn_act_kernel(
    x,
    mean,
    invstd,
    weight,
    bias,
    residual,
    z,
    count,
    C,
    size,
    x_strides,
    residual_strides,
    WEIGHT: tl.constexpr,
    BIAS: tl.constexpr,
    RESIDUAL: tl.constexpr,
    ACTIVATION: tl.constexpr,
    ALPHA: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    BLOCK: tl.constexpr,
    INDEX: tl.constexpr,
):
    i, inside, n, c, d, h, w = lanes(count, C, size, CHANNELS_LAST, BLOCK, INDEX)
    x_at = position_at(n, c, d, h, w, x_strides)
    residual_at = position_at(n, c, d, h, w, residual_strides)
    _, _, _, v = normalised(
        x, mean, invstd, weight, bias, residual, x_at, residual_at, c, inside, WEIGHT, BIAS, RESIDUAL
    )
    tl.store(z + i, narrow(activate(v, ALPHA, ACTIVATION), z.dtype.element_ty), mask=inside)


@triton.jit
def bn_act_bwd_reduce_kernel(
    x,
    mean,
    invstd,
    weight,
    bias,
    residual,
    dz,
    partial,
    channels,
    count,
    chunk,
    size,
    x_strides,
    residual_strides,
    dz_strides,
    WEIGHT: tl.constexpr,
    BIAS: tl.constexpr,
    RESIDUAL: tl.constexpr,
    ACTIVATION: tl.constexpr,
    ALPHA: tl.constexpr,
    CHANNELS: tl.constexpr,
    BLOCK: tl.constexpr,
    INDEX: tl.constexpr,
):
    """partial: (splits, 2, channels), dbias and dweight."""
    split, k = channel_block(channels, CHANNELS, INDEX)
    dbias = tl.zeros((CHANNELS, BLOCK), partial.dtype.element_ty)
    dweight = tl.zeros((CHANNELS, BLOCK), partial.dtype.element_ty)
    c = k[:, None]
    for step in range(0, chunk, BLOCK):
        n, d, h, w, inside = split_positions(split, step, chunk, count, size, BLOCK)
        there = (c < channels) & inside[None, :]
        x_at = c * x_strides[1] + (n * x_strides[0] + within(d, h, w, x_strides))[None, :]
        residual_at = c * residual_strides[1] + (n * residual_strides[0] + within(d, h, w, residual_strides))[None, :]
        dz_at = c * dz_strides[1] + (n * dz_strides[0] + within(d, h, w, dz_strides))[None, :]
        centred, deviation, _, v = normalised(
            x, mean, invstd, weight, bias, residual, x_at, residual_at, c, there, WEIGHT, BIAS, RESIDUAL
        )
        g = activation_gradient(tl.load(dz + dz_at, mask=there, other=0).to(v.dtype), v, ALPHA, ACTIVATION)
        dbias += tl.where(there, g, 0.0)
        dweight += tl.where(there, g * (centred * deviation), 0.0)
    at = partial + split * 2 * channels + k
    tl.store(at, tl.sum(dbias, 1), mask=k < channels)
    tl.store(at + channels, tl.sum(dweight, 1), mask=k < channels)


@triton.jit
def bn_act_bwd_kernel(
    x,
    mean,
    invstd,
    weight,
    bias,
    residual,
    dz,
    dbias,
    dweight,
    dx,
    dresidual,
    elements,
    C,
    per_channel,
    size,
    x_strides,
    residual_strides,
    dz_strides,
    WEIGHT: tl.constexpr,
    BIAS: tl.constexpr,
    RESIDUAL: tl.constexpr,
    ACTIVATION: tl.constexpr,
    ALPHA: tl.constexpr,
    STATISTICS: tl.constexpr,
    DRESIDUAL: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    BLOCK: tl.constexpr,
    INDEX: tl.constexpr,
):
    """``per_channel`` elements gave the statistics; where they are constants (not STATISTICS) it does not matter."""
    i, inside, n, c, d, h, w = lanes(elements, C, size, CHANNELS_LAST, BLOCK, INDEX)
    x_at = position_at(n, c, d, h, w, x_strides)
    residual_at = position_at(n, c, d, h, w, residual_strides)
    dz_at = position_at(n, c, d, h, w, dz_strides)
    centred, deviation, scale, v = normalised(
        x, mean, invstd, weight, bias, residual, x_at, residual_at, c, inside, WEIGHT, BIAS, RESIDUAL
    )
    g = activation_gradient(tl.load(dz + dz_at, mask=inside, other=0).to(v.dtype), v, ALPHA, ACTIVATION)
    share = g
    if STATISTICS:
        over = 1.0 / tl.full((1,), per_channel, v.dtype)
        share = g - tl.load(dbias + c, mask=inside, other=0) * over
        share -= centred * deviation * (tl.load(dweight + c, mask=inside, other=0) * over)
    tl.store(dx + i, narrow(share * scale, dx.dtype.element_ty), mask=inside)
    if DRESIDUAL:
        tl.store(dresidual + i, narrow(g, dx.dtype.element_ty), mask=inside)


def _operands(x: Tensor, norm: Norm) -> tuple[tuple[Tensor, ...], dict[str, Any]]:
    """What every kernel here begins with, with a stand-in for what is not there; and its constants."""
    mean, invstd, weight, bias, residual = norm.tensors
    activation, alpha = norm.form
    meta = {"WEIGHT": weight is not None, "BIAS": bias is not None, "RESIDUAL": residual is not None}
    optional = (mean if weight is None else weight, mean if bias is None else bias, x if residual is None else residual)
    return (x, mean, invstd, *optional), {**meta, "ACTIVATION": activation, "ALPHA": float(alpha)}


def bn_act(x: Tensor, norm: Norm, channels_last: bool) -> Tensor:
    z = dense(x, tuple(x.shape), channels_last)
    operands, meta = _operands(x, norm)
    each_element(
        bn_act_kernel,
        z,
        (x, norm.residual, z),
        *(*operands, z, z.numel(), x.shape[1], spatial(tuple(x.shape[2:])), strides(x), strides(operands[-1])),
        CHANNELS_LAST=channels_last,
        **meta,
    )
    return z


def bn_act_bwd_reduce(dz: Tensor, x: Tensor, norm: Norm) -> tuple[Tensor, Tensor]:
    sums = norm.mean.new_zeros((2, x.shape[1]))
    if x.numel() > 0:
        operands, meta = _operands(x, norm)
        plan = over_channels(x)
        partial = norm.mean.new_empty((plan.splits, 2, x.shape[1]))
        launch(
            bn_act_bwd_reduce_kernel,
            plan.programs,
            x,
            *(*operands, dz, partial, x.shape[1], plan.elements, plan.chunk, spatial(tuple(x.shape[2:]))),
            *(strides(x), strides(operands[-1]), strides(dz)),
            CHANNELS=plan.channels,
            BLOCK=plan.block,
            INDEX=index_type(x, norm.residual, dz),
            **meta,
        )
        ordered_sum(partial, sums)
    dbias, dweight = sums
    return dbias, dweight


def bn_act_bwd(
    dz: Tensor, x: Tensor, norm: Norm, sums: NormSums, with_residual: bool, channels_last: bool
) -> tuple[Tensor, Tensor]:
    dx = dense(x, tuple(x.shape), channels_last)
    dresidual = dense(x, (x.shape[0] if with_residual else 0, *x.shape[1:]), channels_last)
    operands, meta = _operands(x, norm)
    dbias, dweight, count = sums
    known = dbias is not None and dweight is not None and count != 0
    sum_operands = (norm.mean if dbias is None else dbias, norm.mean if dweight is None else dweight)
    each_element(
        bn_act_bwd_kernel,
        dx,
        (x, norm.residual, dz, dx),
        *(*operands, dz, *sum_operands, dx, dresidual),
        *(dx.numel(), x.shape[1], count, spatial(tuple(x.shape[2:]))),
        *(strides(x), strides(operands[-1]), strides(dz)),
        STATISTICS=known,
        DRESIDUAL=with_residual,
        CHANNELS_LAST=channels_last,
        **meta,
    )
    return dx, dresidual
