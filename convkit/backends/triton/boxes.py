"""Operands that the GPU copies as boxes (tensor memory access, TMA), instead of gathering them by pointers.

A box is a block of a tensor seen as (n, d, h, w, c), its channels side by side. What of it lies outside of the tensor
arrives as zeros: so a tap of an unstrided convolution, or of a stride phase of dgrad, reads one box, and padding needs
no masks. A filter is seen as (k, tap, c).

Limits: GPUs of compute capability 9.0 and newer. Triton 3.6 makes descriptors of at most five dimensions, whose address
and strides are multiples of 16 bytes, whose last dimension is contiguous, and whose blocks are at least 16 bytes long
there; it knows no strided boxes, and takes memory for descriptors from an allocator (``launch.py``). Elsewhere, and
where boxes would reach far beyond the result's edges, pointers are what is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from math import prod
from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from convkit.backends.triton import tiles
from convkit.backends.triton.launch import Constants, Sizes
from convkit.backends.triton.tiles import cdiv
from convkit.backends.triton.windows import volume_position

_BYTES = 16
_LONGEST = 256  # of a box's sides


class Box(NamedTuple):
    """The positions of a row tile, as many as it has rows: images by space."""

    n: int
    d: int
    h: int
    w: int


def _splits(volume: int, dimensions: int) -> Iterator[tuple[int, ...]]:
    """All ways to write a power of two as a product of powers of two, the last factor largest first."""
    if dimensions == 1:
        yield (volume,)
        return
    last = volume
    while last:
        for others in _splits(volume // last, dimensions - 1):
            yield (*others, last)
        last //= 2


@lru_cache(maxsize=4096)
def box_of(volume: int, counts: Sizes) -> tuple[Box, int]:
    """The box of so many positions that covers ``counts`` (n, d, h, w) with the fewest, and how many boxes do.

    Of equals, the one that is longest in w, then in h: its taps overlap most.
    """
    boxes = [Box(*sides) for sides in _splits(volume, 4) if max(sides) <= _LONGEST]
    number = [prod(map(cdiv, counts, box)) for box in boxes]
    least = number.index(min(number))
    return boxes[least], number[least]


@lru_cache(maxsize=4096)
def box_constants(box: Box | None) -> Constants:
    """The same as a kernel sees it; ``there`` tells whether rows come as boxes."""
    return Constants(there=box is not None, **(box or Box(1, 1, 1, 1))._asdict())


def one_step(sizes: Sizes, strides: Sizes) -> int | None:
    """The one stride with which several dimensions are passed through in order; None where it takes several."""
    length, step = 1, 0
    for size, stride in zip(reversed(sizes), reversed(strides)):
        if size > 1:
            if step and stride != step * length:
                return None
            step = step or stride
            length *= size
    return step


def dense_where_single(sizes: Sizes, strides: Sizes, innermost: int) -> Sizes:
    """The strides, those of dimensions of length 1, which nobody walks along, as if the tensor were dense."""
    found, dense = [], innermost
    for size, stride in zip(reversed(sizes), reversed(strides)):
        found.append(stride if size > 1 else dense)
        dense = found[-1] * size
    return tuple(reversed(found))


def _describable(t: Tensor, *steps: int) -> bool:
    """Whether a descriptor can be made of a tensor whose channels have stride 1, and other dimensions these strides."""
    size = t.element_size()
    return t.data_ptr() % _BYTES == 0 and all(s > 0 and s * size % _BYTES == 0 for s in steps)


def of_positions(
    x: Tensor, size: Sizes, steps: Sizes, counts: Sizes, volume: int, whole: bool
) -> tuple[Box, int, Sizes] | None:
    """(box, number of boxes, strides): how boxes of ``volume`` positions cover ``counts`` of images and space.

    ``size`` and ``steps`` are x's (n, d, h, w) and strides (n, c, d, h, w). None where x cannot be described, or boxes
    would cover too much; with ``whole`` they cover nothing else.
    """
    box, number = box_of(volume, counts)
    positions = prod(counts)
    most = positions / volume if whole else tiles.MOST_BOXES * cdiv(positions, volume)
    if steps[1] != 1 or number > most:
        return None
    n, d, h, w = dense_where_single(size, (steps[0], *steps[2:]), _BYTES)
    return (box, number, (n, 1, d, h, w)) if _describable(x, n, d, h, w) else None


def of_filter(w: Tensor, transposed: bool) -> Sizes | None:
    """The strides (result channel, source channel, 0, 0, tap) of a filter whose boxes can be copied."""
    k, c, *taps = w.stride()
    tap = one_step(tuple(w.shape[2:]), tuple(taps))
    if c != 1 or tap is None:
        return None
    k, tap = dense_where_single((w.shape[0], prod(w.shape[2:])), (k, tap), _BYTES)
    return ((1, k, 0, 0, tap) if transposed else (k, 1, 0, 0, tap)) if _describable(w, k, tap) else None


@triton.jit
def box_origin(tile, counts, BOX: tl.constexpr):
    """(n, d, h, w): the first position of a row tile, of images with so many positions."""
    boxes = (tl.cdiv(counts[0], BOX.d), tl.cdiv(counts[1], BOX.h), tl.cdiv(counts[2], BOX.w))
    n, d, h, w = volume_position(tile, boxes)
    return n * BOX.n, d * BOX.d, h * BOX.h, w * BOX.w


@triton.jit
def box_positions(n, d, h, w, BOX: tl.constexpr):
    """The positions of the box that begins there, in the order in which its elements arrive."""
    in_n, in_d, in_h, in_w = volume_position(tl.arange(0, BOX.n * BOX.d * BOX.h * BOX.w), (BOX.d, BOX.h, BOX.w))
    return n + in_n, d + in_d, h + in_h, w + in_w


@triton.jit
def position_box(x, N, C, size, strides, BOX: tl.constexpr, K: tl.constexpr):
    """The descriptor of a tensor's boxes: positions by K channels."""
    return tl.make_tensor_descriptor(
        x,
        [N, size[0], size[1], size[2], C],
        [strides[0], strides[2], strides[3], strides[4], 1],
        [BOX.n, BOX.d, BOX.h, BOX.w, K],
    )


@triton.jit
def filter_box(w, K, taps, C, k_stride, tap_stride, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """The descriptor of a filter's boxes: ROWS of K by COLUMNS of C, of one tap."""
    return tl.make_tensor_descriptor(w, [K, taps, C], [k_stride, tap_stride, 1], [ROWS, 1, COLUMNS])
