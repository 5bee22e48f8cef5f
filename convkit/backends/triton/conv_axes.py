"""The geometry of a convolution, as device functions: which source positions a result position reads.

fprop: y at o reads x at o * stride - before + t * dilation, for t of the filter.
dgrad: dx at i reads dy at o = (i + before - t * dilation) / stride, for those t that leave no remainder. With
g = gcd(stride, dilation), these t are every (stride / g)-th one, and the first depends on i mod stride alone, the
position's stride phase. In a phase dgrad is a convolution of stride 1 over dy, with steps of -dilation / g.

Both are told the same way (:func:`steps`): a base per position, and per axis a step, a number of taps, the first tap
of the filter and the distance to the next. So one kernel computes both.
"""

from __future__ import annotations

from functools import lru_cache
from math import gcd
from typing import NamedTuple

import triton
import triton.language as tl

from convkit.backends.triton.launch import Constants, Sizes, in_five
from convkit.problem import ConvSpec


class ConvAxis(NamedTuple):
    """One dimension; ``common`` = gcd(stride, dilation), ``every`` = stride / common, and ``inverse`` is that of
    dilation / common modulo ``every``."""

    kernel: int
    stride: int
    before: int
    dilation: int
    common: int
    every: int
    inverse: int


@lru_cache(maxsize=1024)
def conv_axes(spec: ConvSpec, kernel_size: Sizes) -> tuple[ConvAxis, ConvAxis, ConvAxis]:
    """The axes (d, h, w) of a convolution."""
    found = [ConvAxis(1, 1, 0, 1, 1, 1, 0)] * (3 - len(kernel_size))
    for k, s, before, d in zip(kernel_size, spec.stride, spec.pad_before, spec.dilation):
        common = gcd(s, d)
        every = s // common
        found.append(ConvAxis(k, s, before, d, common, every, pow(d // common, -1, every) if every > 1 else 0))
    on_d, on_h, on_w = found
    return on_d, on_h, on_w


@lru_cache(maxsize=1024)
def axis_constants(spec: ConvSpec, kernel_size: Sizes) -> Constants:
    """The same as the kernels see them: attributes d, h and w."""
    d, h, w = (Constants(**a._asdict()) for a in conv_axes(spec, kernel_size))
    return Constants(d=d, h=h, w=w)


@triton.jit
def count_of(phase, length, A: tl.constexpr, TRANSPOSED: tl.constexpr):
    """How many result positions of an axis are in a phase."""
    if TRANSPOSED:
        return (length - phase + A.stride - 1) // A.stride
    else:
        return length


@triton.jit
def position_of(a, phase, A: tl.constexpr, TRANSPOSED: tl.constexpr):
    """The a-th result position of a phase."""
    if TRANSPOSED:
        return a * A.stride + phase
    else:
        return a


@triton.jit
def first_tap(phase, A: tl.constexpr):
    """The first tap of a phase of dgrad; the kernel's size where it has none."""
    shifted = phase + A.before
    first = shifted // A.common * A.inverse % A.every
    return tl.where(shifted % A.common == 0, first, A.kernel)


@triton.jit
def steps(a, phase, A: tl.constexpr, TRANSPOSED: tl.constexpr):
    """(base, step, taps, first, every): position a of a phase reads the source at base + j * step for j < taps,
    times the filter at first + j * every."""
    if TRANSPOSED:
        first = first_tap(phase, A)
        taps = (A.kernel - first + A.every - 1) // A.every
        ahead = phase + A.before - first * A.dilation
        # Exact where there are taps; else of no importance.
        return a + ahead // A.stride, -(A.dilation // A.common), taps, first, A.every
    else:
        return a * A.stride - A.before, A.dilation, A.kernel, 0, 1


def filter_strides(filters: int, stride: Sizes, transposed: bool, groups: int) -> tuple[Sizes, int]:
    """Strides of the filters (result channel, source channel, t, r, s), and from one group's filters to the next's."""
    k, c, *taps = in_five(stride)
    return ((c, k, *taps) if transposed else (k, c, *taps)), filters // groups * k
