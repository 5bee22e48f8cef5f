"""Window mathematics of pooling, as device functions, and its parameters as a kernel sees them.

A problem has three spatial dimensions; 1-d and 2-d ones have axes of length 1 in front. The parameters of an axis are
compile-time constants (:class:`Axis`), sizes are arguments. The C++ twin is ``csrc/core/pool_problem.h``.
"""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import Any, NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from convkit.backends.triton import launch
from convkit.backends.triton.launch import Constants, Sizes, each_element, spatial, strides
from convkit.problem import PoolSpec, largest_window


class Axis(NamedTuple):
    """One dimension of a pooling; ``covering``: how many windows at most cover one position."""

    kernel: int
    stride: int
    before: int
    after: int
    dilation: int
    adaptive: bool
    covering: int


@lru_cache(maxsize=1024)
def axes(spec: PoolSpec, size: Sizes, out: Sizes) -> Constants:
    """The axes d, h and w of a pooling of ``size`` to ``out``, the taps of a window and the windows over a position."""
    adaptive = bool(spec.output_size)
    found = [Axis(1, 1, 0, 0, 1, adaptive, 1)] * (3 - len(spec.kernel_size))
    for i, k in enumerate(spec.kernel_size):
        stride, dilation = spec.stride[i], spec.dilation[i]
        covering = largest_window(out[i], size[i]) if adaptive else (k - 1) * dilation // stride + 1
        found.append(Axis(k, stride, spec.pad_before[i], spec.pad_after[i], dilation, adaptive, covering))
    d, h, w = (Constants(**a._asdict()) for a in found)
    return Constants(d=d, h=h, w=w, taps=prod(a.kernel for a in found), covering=prod(a.covering for a in found))


def over_windows(
    kernel: Any,
    result: Tensor,
    pointers: tuple[Tensor, ...],
    strided: tuple[Tensor, ...],
    spec: PoolSpec,
    size: Sizes,
    out: Sizes,
    channels_last: bool,
    **meta: Any,
) -> None:
    """Runs a pooling kernel: ``pointers``, the result's elements, its channels, both sizes, strides of ``strided``."""
    each_element(
        kernel,
        result,
        (*pointers, result),
        *(*pointers, result.numel(), result.shape[1], spatial(size), spatial(out), *map(strides, strided)),
        AXES=axes(spec, size, out),
        CHANNELS_LAST=channels_last,
        **meta,
    )


@triton.jit
def positions(BLOCK: tl.constexpr, INDEX: tl.constexpr):
    """The elements of the result that this program computes, by their place in memory."""
    return tl.program_id(0).to(INDEX) * BLOCK + tl.arange(0, BLOCK)


@triton.jit
def place(i, C, size, CHANNELS_LAST: tl.constexpr):
    """(n, c, d, h, w) of the i-th element in memory of a dense tensor."""
    if CHANNELS_LAST:
        c = i % C
        i = i // C
    w = i % size[2]
    i = i // size[2]
    h = i % size[1]
    i = i // size[1]
    d = i % size[0]
    i = i // size[0]
    if not CHANNELS_LAST:
        c = i % C
        i = i // C
    return i, c, d, h, w


@triton.jit
def lanes(count, C, size, CHANNELS_LAST: tl.constexpr, BLOCK: tl.constexpr, INDEX: tl.constexpr):
    """(i, whether it is there, n, c, d, h, w): this program's elements of a dense result of ``count``."""
    i = positions(BLOCK, INDEX)
    n, c, d, h, w = place(i, C, size, CHANNELS_LAST)
    return i, i < count, n, c, d, h, w


@triton.jit
def volume_position(i, size):
    """(n, d, h, w) of the i-th position of all images, in row-major order."""
    w = i % size[2]
    h = i // size[2] % size[1]
    d = i // (size[2] * size[1]) % size[0]
    return i // (size[2] * size[1]) // size[0], d, h, w


@triton.jit
def plane_at(n, c, strides):
    """Where the plane of an image and channel begins."""
    return n * strides[0] + c * strides[1]


@triton.jit
def within(d, h, w, strides):
    """Where a position lies in its plane."""
    return d * strides[2] + h * strides[3] + w * strides[4]


@triton.jit
def position_at(n, c, d, h, w, strides):
    """Where an element lies."""
    return plane_at(n, c, strides) + within(d, h, w, strides)


@triton.jit
def scaled(o, a, b):
    """floor(o a / b), whatever the size of the product."""
    return (o.to(tl.int64) * a // b).to(o.dtype)


@triton.jit
def span(o, length, outputs, A: tl.constexpr):
    """(start, end): tap t of window o reads start + t * dilation, if that is in [0, end)."""
    if A.adaptive:
        return scaled(o, length, outputs), ((o.to(tl.int64) + 1) * length + outputs - 1) // outputs
    else:
        return o * A.stride - A.before, length


@triton.jit
def window_of(o, p, q, size, out, AXES: tl.constexpr):
    """(start, end), three numbers each: of a window all that :func:`element_of` asks for."""
    d, d_end = span(o, size[0], out[0], AXES.d)
    h, h_end = span(p, size[1], out[1], AXES.h)
    w, w_end = span(q, size[2], out[2], AXES.w)
    return (d, h, w), (d_end, h_end, w_end)


@triton.jit
def tap_at(tap, R, S):
    """(t, r, s) of a tap by its row-major number in a filter or window of planes with R rows of S."""
    return tap // (R * S), tap // S % R, tap % S


@triton.jit
def element_of(tap, start, end, AXES: tl.constexpr):
    """(d, h, w, whether): the element that a window's tap, by its row-major number, reads."""
    t, r, s = tap_at(tap, AXES.h.kernel, AXES.w.kernel)
    d = start[0] + t * AXES.d.dilation
    h = start[1] + r * AXES.h.dilation
    w = start[2] + s * AXES.w.dilation
    there = (d >= 0) & (d < end[0]) & (h >= 0) & (h < end[1]) & (w >= 0) & (w < end[2])
    return d, h, w, there


@triton.jit
def readers(i, length, outputs, A: tl.constexpr):
    """[begin, end): the windows that cover input position i."""
    if A.adaptive:
        return scaled(i, outputs, length), ((i.to(tl.int64) + 1) * outputs + length - 1) // length
    else:
        shifted = i + A.before
        late = shifted - A.dilation * (A.kernel - 1)
        return tl.where(late <= 0, 0, (late + A.stride - 1) // A.stride), tl.minimum(shifted // A.stride + 1, outputs)


@triton.jit
def tap_of(i, o, length, outputs, A: tl.constexpr):
    """(tap, whether): the tap through which window o, one that covers i, reads it."""
    distance = i - span(o, length, outputs, A)[0]
    if A.dilation == 1:
        return distance, distance >= 0
    else:
        return distance // A.dilation, (distance >= 0) & (distance % A.dilation == 0)


@triton.jit
def readers_of(d, h, w, size, out, AXES: tl.constexpr):
    """(begin, end), three numbers each: of an element all that :func:`reader_of` asks for."""
    o, o_end = readers(d, size[0], out[0], AXES.d)
    p, p_end = readers(h, size[1], out[1], AXES.h)
    q, q_end = readers(w, size[2], out[2], AXES.w)
    return (o, p, q), (o_end, p_end, q_end)


@triton.jit
def reader_of(i, begin, end, d, h, w, size, out, AXES: tl.constexpr):
    """(o, p, q, tap, whether): the i-th window over an element, the tap through which it reads it, and if it does."""
    o_i, p_i, q_i = tap_at(i, AXES.h.covering, AXES.w.covering)
    o = begin[0] + o_i
    p = begin[1] + p_i
    q = begin[2] + q_i
    t, reads_d = tap_of(d, o, size[0], out[0], AXES.d)
    r, reads_h = tap_of(h, p, size[1], out[1], AXES.h)
    s, reads_w = tap_of(w, q, size[2], out[2], AXES.w)
    there = (o < end[0]) & (p < end[1]) & (q < end[2]) & reads_d & reads_h & reads_w
    return o, p, q, (t * AXES.h.kernel + r) * AXES.w.kernel + s, there


@triton.jit
def counted(o, length, outputs, A: tl.constexpr, PADDED: tl.constexpr):
    """What one dimension of window o counts in the divisor, at least 1; PADDED: explicit padding counts too."""
    start, end = span(o, length, outputs, A)
    if A.adaptive:
        return (end - start).to(o.dtype)
    else:
        stop = length + A.after if PADDED else length
        begin = tl.where((start < 0) & (not PADDED), (-start + A.dilation - 1) // A.dilation, 0)
        taken = tl.minimum((stop - start + A.dilation - 1) // A.dilation, A.kernel) - begin
        return tl.maximum(taken, 1)


@triton.jit
def widen(v):
    """Half-precision numbers as float32, in which they are compared and added."""
    if v.dtype == tl.float16 or v.dtype == tl.bfloat16:
        return v.to(tl.float32)
    else:
        return v


#: Code for the interpreter alone, where it differs from the compiler.
INTERPRETED: tl.constexpr = tl.constexpr(launch.INTERPRETED)


@triton.jit
def narrow(v, element: tl.constexpr):
    """A result in the type it is stored in, rounded to nearest even."""
    if INTERPRETED and element == tl.bfloat16 and v.dtype != tl.bfloat16:
        # The interpreter would cut the lower half off.
        bits = v.to(tl.float32).to(tl.uint32, bitcast=True)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        return tl.where(v == v, rounded, 0x7FC0).to(tl.uint16).to(tl.bfloat16, bitcast=True)
    else:
        return v.to(element)
