"""Specs: what a convolution or a pooling computes, as immutable, hashable tuples of plain integers.

A spec travels unchanged from the functional layer through autograd to a backend; :func:`pack_conv` and
:func:`pack_pool` flatten it to the integer list that the compiled operators take. The C++ twin of that
layout is ``csrc/torch/binding.h``.
"""

from __future__ import annotations

from typing import NamedTuple

PADDING_MODES = ("zeros", "replicate", "reflect", "circular", "mean")
ACTIVATIONS = ("identity", "relu", "leaky_relu", "elu", "sigmoid", "tanh", "silu", "gelu")


class ConvSpec(NamedTuple):
    """A convolution in fprop's terms; every spatial value is in (d, h, w) order, one entry per dimension.

    A transposed convolution is described by the convolution whose input gradient it is.
    """

    stride: tuple[int, ...]
    pad_before: tuple[int, ...]
    pad_after: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int = 1
    padding_mode: int = 0  # index into PADDING_MODES
    activation: int = 0  # index into ACTIVATIONS, applied by the epilogue
    alpha: float = 0.0  # the activation's parameter (slope of leaky_relu, alpha of elu)
    algorithm: int = 0  # 0: the backend's table chooses; i: its i-th named algorithm, or an error
    allow_tf32: bool = False  # float32 operands may be rounded to TF32, where a GPU multiplies them faster so


class PoolSpec(NamedTuple):
    """A reduction of windows; every spatial value is in (d, h, w) order, one entry per dimension.

    Windows slide, unless ``output_size`` is given: then they are adaptive, window o of O over a length L being
    [floor(o L / O), ceil((o + 1) L / O)), and ``kernel_size`` must be the size of the largest.
    """

    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    pad_before: tuple[int, ...]
    pad_after: tuple[int, ...]
    dilation: tuple[int, ...]
    ceil_mode: bool = False
    count_include_pad: bool = True
    divisor_override: int = 0  # 0: none
    output_size: tuple[int, ...] = ()  # of adaptive windows


def pack_conv(spec: ConvSpec, channels_last: bool) -> list[int]:
    """The compiled operators' spec list; ``channels_last`` is the memory layout wanted of the result."""
    return [
        len(spec.stride),
        *spec.stride,
        *spec.pad_before,
        *spec.pad_after,
        *spec.dilation,
        spec.groups,
        spec.padding_mode,
        spec.activation,
        spec.algorithm,
        int(spec.allow_tf32),
        int(channels_last),
    ]


def pack_pool(spec: PoolSpec, channels_last: bool) -> list[int]:
    """The compiled operators' spec list; ``channels_last`` is the memory layout wanted of the result."""
    return [
        len(spec.kernel_size),
        *spec.kernel_size,
        *spec.stride,
        *spec.pad_before,
        *spec.pad_after,
        *spec.dilation,
        *(spec.output_size or (-1,) * len(spec.kernel_size)),
        int(spec.ceil_mode),
        int(spec.count_include_pad),
        spec.divisor_override,
        int(channels_last),
    ]


def offset_bytes(kernel_size: tuple[int, ...]) -> int:
    """Bytes of one window offset: 1 (uint8) up to 255 window elements, 2 (int16) up to 32768, else 4 (int32).

    Each has room for "none": 255, or -1 in the signed types; it converts from -1 by wrapping around.
    """
    window = 1
    for k in kernel_size:
        window *= k
    return 1 if window <= 255 else 2 if window <= 32768 else 4
