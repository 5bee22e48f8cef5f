"""Window mathematics of pooling, as device functions, and its parameters as a kernel sees them.

A problem has three spatial dimensions; 1-d and 2-d ones have axes of length 1 in front. The parameters of an axis are
compile-time constants (:class:`Axis`), sizes are arguments. The C++ twin is ``csrc/core/pool_problem.h``.
"""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl

from convkit.backends.triton import launch
from convkit.backends.triton.launch import Sizes
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


def axes(spec: PoolSpec, size: Sizes, out: Sizes) -> tuple[Axis, Axis, Axis]:
    """The axes (d, h, w) of a pooling of ``size`` to ``out``."""
    adaptive = bool(spec.output_size)
    found = []
    for i, k in enumerate(spec.kernel_size):
        stride, dilation = spec.stride[i], spec.dilation[i]
        covering = largest_window(out[i], size[i]) if adaptive else (k - 1) * dilation // stride + 1
        found.append(Axis(k, stride, spec.pad_before[i], spec.pad_after[i], dilation, adaptive, covering))
    d, h, w = [Axis(1, 1, 0, 0, 1, adaptive, 1)] * (3 - len(found)) + found
    return d, h, w


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
