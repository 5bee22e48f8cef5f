"""Lp pooling and its gradient, as :meth:`convkit.backends.base.Backend.lp_pool` defines them.

Computes  torch: y = (scale * sum of x^p)^(1/p), dx = x^(p-1) * sum of dy y^(1-p) scale over the windows of an element.
          norm: of |x|, by way of |x| / m with m the window's extreme element; dx = sum of dy sign(x) (|x| / y)^(p-1).
Mapping   One element of the result per lane, as in max_pool; norm goes over a window twice. Backward gathers.
Memory    Through the caches.
Limits    p = 1, 2, 3 multiply; other powers are exp2(p log2 |x|) in float64, whose rounding a float32 result hides. Not
          for float64, where it would show.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from convkit.backends.triton.avg_pool import divisor
from convkit.backends.triton.launch import dense
from convkit.backends.triton.windows import (
    element_of,
    lanes,
    narrow,
    over_windows,
    plane_at,
    position_at,
    reader_of,
    readers_of,
    widen,
    window_of,
    within,
)
from convkit.problem import PoolSpec, pool_output_size


@triton.jit
def power(x, p):
    """x^p in float64, with pow's rules for negative numbers and for p = 0."""
    wide = x.to(tl.float64)
    size = tl.exp2(p * tl.log2(tl.abs(wide)))
    whole = tl.floor(p) == p
    odd = whole & (tl.floor(p * 0.5) * 2.0 != p)
    negative = tl.where(whole, tl.where(odd, -size, size), float("nan"))
    result = tl.where(wide < 0, negative, size)
    return tl.where((wide == 1.0) | (p == 0.0), 1.0, result)


@triton.jit
def raised(x, p, P: tl.constexpr):
    """x^p in x's type; P is p where it is known when the kernel is built, else NaN."""
    if P == 1.0:
        return x
    elif P == 2.0:
        return x * x
    elif P == 3.0:
        return x * x * x
    else:
        return power(x, p).to(x.dtype)


@triton.jit
def rooted(x, p, P: tl.constexpr):
    """x^(1/p)."""
    if P == 1.0:
        return x
    elif P == 2.0:
        return tl.sqrt_rn(x)
    else:
        return power(x, 1.0 / p).to(x.dtype)


@triton.jit
def exponent_of(exponent, P: tl.constexpr):
    """p as one float64 number in a vector."""
    if P == P:
        return tl.full((1,), P, tl.float64)
    else:
        return tl.load(exponent + tl.arange(0, 1)).to(tl.float64)


@triton.jit
def lp_pool_kernel(
    x,
    exponent,
    y,
    count,
    C,
    size,
    out,
    x_strides,
    AXES: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    P: tl.constexpr,
    NORM: tl.constexpr,
    LARGEST: tl.constexpr,
    BLOCK: tl.constexpr,
    INDEX: tl.constexpr,
):
    """LARGEST: what the stored type holds; a sum beyond it is infinite, as where PyTorch stores the sum."""
    i, inside, n, c, o, p, q = lanes(count, C, out, CHANNELS_LAST, BLOCK, INDEX)
    start, end = window_of(o, p, q, size, out, AXES)
    plane = x + plane_at(n, c, x_strides)
    e = exponent_of(exponent, P)
    positive = e > 0
    extreme = tl.where(positive, 0.0, float("inf")).to(tl.float32) + tl.zeros((BLOCK,), tl.float32)
    if NORM:
        for tap in range(AXES.taps):
            d, h, w, there = element_of(tap, start, end, AXES)
            there &= inside
            a = tl.abs(widen(tl.load(plane + within(d, h, w, x_strides), mask=there, other=0)))
            take = there & (tl.where(positive, a > extreme, a < extreme) | (a != a))
            extreme = tl.where(take, a, extreme)  # nothing beats a NaN
    ordinary = (extreme > 0) & (extreme < float("inf"))
    unit = tl.where(ordinary, extreme, 1.0)
    total = tl.zeros((BLOCK,), tl.float32)
    for tap in range(AXES.taps):
        d, h, w, there = element_of(tap, start, end, AXES)
        there &= inside
        v = widen(tl.load(plane + within(d, h, w, x_strides), mask=there, other=0))
        if NORM:
            v = tl.div_rn(tl.abs(v), unit)
        total += tl.where(there, raised(v, e, P), 0.0)
    if NORM:
        result = tl.where(ordinary, extreme * rooted(total, e, P), extreme)
    else:
        by = divisor(o, p, q, size, out, AXES, True, 0).to(tl.float32)
        total = total * tl.div_rn(tl.full((BLOCK,), AXES.taps, tl.float32), by)
        total = tl.where(tl.abs(total) > LARGEST, tl.where(total > 0, float("inf"), -float("inf")), total)
        result = rooted(total + 0.0, e, P)
    tl.store(y + i, narrow(result, y.dtype.element_ty), mask=inside)


@triton.jit
def lp_pool_bwd_kernel(
    dy,
    x,
    y,
    exponent,
    dx,
    count,
    C,
    size,
    out,
    dy_strides,
    x_strides,
    y_strides,
    AXES: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    P: tl.constexpr,
    NORM: tl.constexpr,
    BLOCK: tl.constexpr,
    INDEX: tl.constexpr,
):
    i, inside, n, c, d, h, w = lanes(count, C, size, CHANNELS_LAST, BLOCK, INDEX)
    begin, end = readers_of(d, h, w, size, out, AXES)
    at = position_at(n, c, d, h, w, x_strides)
    element = widen(tl.load(x + at, mask=inside, other=0))
    dy_plane = dy + plane_at(n, c, dy_strides)
    y_plane = y + plane_at(n, c, y_strides)
    e = exponent_of(exponent, P)
    total = tl.zeros((BLOCK,), tl.float32)
    for reader in range(AXES.covering):
        o, p, q, _, there = reader_of(reader, begin, end, d, h, w, size, out, AXES)
        there &= inside
        g = widen(tl.load(dy_plane + within(o, p, q, dy_strides), mask=there, other=0))
        root = widen(tl.load(y_plane + within(o, p, q, y_strides), mask=there, other=1))
        if NORM:
            a = tl.abs(element)
            ratio = tl.where(a == root, 1.0, tl.div_rn(a, tl.where(root == 0, 1.0, root)))
            slope = tl.minimum(power(ratio, e - 1.0), 3.4028234663852886e38).to(tl.float32)
            slope = tl.where(element < 0, -slope, slope)
            share = g * tl.where((element == 0) | (root == 0), 0.0, slope)
        else:
            by = divisor(o, p, q, size, out, AXES, True, 0).to(tl.float32)
            share = g * power(root, 1.0 - e).to(tl.float32) * tl.div_rn(tl.full((BLOCK,), AXES.taps, tl.float32), by)
            share = tl.where((root == 0) | ((e < 0) & (root == float("inf"))), 0.0, share)
        total += tl.where(there, share, 0.0)
    if not NORM:
        total = total * power(element, e - 1.0).to(tl.float32)
    tl.store(dx + i, narrow(total, dx.dtype.element_ty), mask=inside)


_UNKNOWN = float("nan")  # one object: a key of caches, in which no NaN equals another


def _power(exponent: Tensor | None, x: Tensor, p: float, norm: bool) -> tuple[Tensor, dict[str, Any]]:
    """(the tensor to read p from, or any; how the kernels know p)."""
    known = exponent is None
    return (x if exponent is None else exponent), {"P": float(p) if known else _UNKNOWN, "NORM": norm}


def lp_pool(x: Tensor, exponent: Tensor | None, spec: PoolSpec, p: float, norm: bool, channels_last: bool) -> Tensor:
    size = tuple(x.shape[2:])
    out = pool_output_size(size, spec)
    y = dense(x, (*x.shape[:2], *out), channels_last)
    source, meta = _power(exponent, x, p, norm)
    meta["LARGEST"] = torch.finfo(x.dtype).max
    over_windows(lp_pool_kernel, y, (x, source, y), (x,), spec, size, out, channels_last, **meta)
    return y


def lp_pool_bwd(
    dy: Tensor,
    x: Tensor,
    y: Tensor,
    exponent: Tensor | None,
    spec: PoolSpec,
    p: float,
    norm: bool,
    channels_last: bool,
) -> Tensor:
    size, out = tuple(x.shape[2:]), tuple(dy.shape[2:])
    dx = dense(dy, tuple(x.shape), channels_last)
    source, meta = _power(exponent, x, p, norm)
    pointers, strided = (dy, x, y, source, dx), (dy, x, y)
    over_windows(lp_pool_bwd_kernel, dx, pointers, strided, spec, size, out, channels_last, **meta)
    return dx
