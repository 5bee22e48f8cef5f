"""Fractional max pooling (Graham, "Fractional Max-Pooling", arXiv:1412.6071): maxima of windows that samples place.

Computes  y = the largest element of each window and its flat index; window i < outputs - 1 of a dimension starts at
          trunc((i + u) alpha) - trunc(u alpha) with alpha = (length - kernel) / (outputs - 1), the last at the end.
Mapping   One element of the result per lane, as in max_pool.
Memory    Through the caches; the samples are shared by all windows of a plane.
Limits    Every step of a start is rounded to the input's type, and nothing is contracted (the launcher switches it
          off): another precision would choose other windows. The C++ twin is csrc/core/fractional_window.h.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from convkit.backends.triton.avg_pool import divide
from convkit.backends.triton.launch import Sizes, dense, each_element, spatial, strides
from convkit.backends.triton.windows import lanes, narrow, plane_at, position_at, tap_at, widen, within


@triton.jit
def rounded(v, element: tl.constexpr):
    """v as it would be stored."""
    return widen(narrow(v, element))


@triton.jit
def truncated(v):
    """The integer part; one value for what no 32-bit integer holds, NaN included."""
    fits = (v > -2147483648.0) & (v < 2147483648.0)
    return tl.where(fits, tl.where(fits, v, 0.0).to(tl.int64), -2147483648)


@triton.jit
def start_of(samples, i, inside, length, kernel, outputs, element: tl.constexpr):
    """Where window i of a dimension starts, given where its sample lies."""
    u = widen(tl.load(samples, mask=inside, other=0))
    last = length - kernel
    many = tl.maximum(outputs - 1, 1)
    alpha = rounded(
        divide(rounded(tl.zeros_like(u) + last, element), rounded(tl.zeros_like(u) + many, element)), element
    )
    shifted = rounded(rounded(i.to(u.dtype), element) + u, element)
    start = truncated(rounded(shifted * alpha, element)) - truncated(rounded(u * alpha, element))
    start = tl.minimum(tl.maximum(start, 0), last)
    return tl.where(i == outputs - 1, last, start).to(i.dtype)


@triton.jit
def fractional_max_pool_kernel(
    x,
    samples,
    y,
    indices,
    count,
    C,
    size,
    out,
    x_strides,
    sample_strides,
    KERNEL: tl.constexpr,
    SAMPLE: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    INDICES: tl.constexpr,
    BLOCK: tl.constexpr,
    INDEX: tl.constexpr,
):
    """SAMPLE: which of a plane's samples belongs to d, h and w."""
    i, inside, n, c, o, p, q = lanes(count, C, out, CHANNELS_LAST, BLOCK, INDEX)
    element: tl.constexpr = x.dtype.element_ty
    sample = samples + plane_at(n, c, sample_strides)
    d0 = start_of(sample + SAMPLE[0] * sample_strides[2], o, inside, size[0], KERNEL[0], out[0], element)
    h0 = start_of(sample + SAMPLE[1] * sample_strides[2], p, inside, size[1], KERNEL[1], out[1], element)
    w0 = start_of(sample + SAMPLE[2] * sample_strides[2], q, inside, size[2], KERNEL[2], out[2], element)
    plane = x + position_at(n, c, d0, h0, w0, x_strides)
    best = widen(tl.full((BLOCK,), float("-inf"), element))
    chosen = tl.zeros((BLOCK,), tl.int32)
    for tap in range(KERNEL[0] * KERNEL[1] * KERNEL[2]):
        t, r, s = tap_at(tap, KERNEL[1], KERNEL[2])
        v = widen(tl.load(plane + within(t, r, s, x_strides), mask=inside, other=0))
        take = (v > best) | (v != v)  # the first of equal ones, the last NaN
        best = tl.where(take, v, best)
        chosen = tl.where(take, tap, chosen)
    tl.store(y + i, narrow(best, element), mask=inside)
    if INDICES:
        t, r, s = tap_at(chosen, KERNEL[1], KERNEL[2])
        flat = ((d0 + t).to(tl.int64) * size[1] + h0 + r) * size[2] + w0 + s
        tl.store(indices + i, flat, mask=inside)


def fractional_max_pool(
    x: Tensor, samples: Tensor, kernel_size: Sizes, output_size: Sizes, with_indices: bool, channels_last: bool
) -> tuple[Tensor, Tensor]:
    shape = (*x.shape[:2], *output_size)
    y = dense(x, shape, channels_last)
    indices = dense(x, shape if with_indices else (0, *shape[1:]), channels_last, torch.int64)
    n, c, k = samples.stride()
    each_element(
        fractional_max_pool_kernel,
        y,
        (x, samples, y),
        *(x, samples, y, indices, y.numel(), x.shape[1], spatial(tuple(x.shape[2:])), spatial(tuple(output_size))),
        *(strides(x), (n, c, k)),
        KERNEL=spatial(tuple(kernel_size)),
        # PyTorch takes the samples of an image in the order W, H, those of a volume in the order D, H, W.
        SAMPLE={1: (0, 0, 0), 2: (0, 1, 0), 3: (0, 1, 2)}[len(kernel_size)],
        CHANNELS_LAST=channels_last,
        INDICES=with_indices,
    )
    return y, indices
