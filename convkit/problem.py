"""What a convolution or a pooling computes, apart from its data: specs and the one place of shape formulas.

A spec is an immutable, hashable tuple of plain integers. It travels unchanged from the functional
layer through autograd to a backend; :func:`pack_conv` and :func:`pack_pool` flatten it to the integer
list that the compiled operators take. The C++ twin of the layout is ``csrc/torch/binding.h``.
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


class PoolSpec(NamedTuple):
    """A sliding window reduction; every spatial value is in (d, h, w) order, one entry per dimension."""

    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    pad_before: tuple[int, ...]
    pad_after: tuple[int, ...]
    dilation: tuple[int, ...]
    ceil_mode: bool = False
    count_include_pad: bool = True
    divisor_override: int = 0  # 0: none


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
        int(spec.ceil_mode),
        int(spec.count_include_pad),
        spec.divisor_override,
        int(channels_last),
    ]


def conv_output_size(size: tuple[int, ...], kernel_size: tuple[int, ...], spec: ConvSpec) -> tuple[int, ...]:
    """floor((L + before + after - d(k-1) - 1) / s) + 1 in each dimension."""
    return tuple(
        (length + before + after - d * (k - 1) - 1) // s + 1
        for length, k, s, before, after, d in zip(
            size, kernel_size, spec.stride, spec.pad_before, spec.pad_after, spec.dilation
        )
    )


def conv_transpose_output_size(
    size: tuple[int, ...], kernel_size: tuple[int, ...], spec: ConvSpec, output_padding: tuple[int, ...]
) -> tuple[int, ...]:
    """(L - 1)s - before - after + d(k-1) + output_padding + 1 in each dimension."""
    return tuple(
        (length - 1) * s - before - after + d * (k - 1) + extra + 1
        for length, k, s, before, after, d, extra in zip(
            size, kernel_size, spec.stride, spec.pad_before, spec.pad_after, spec.dilation, output_padding
        )
    )


def pool_output_size(size: tuple[int, ...], spec: PoolSpec) -> tuple[int, ...]:
    """floor or ceil of (L + before + after - d(k-1) - 1) / s, plus 1.

    In ceil mode the last window is dropped if it starts at or beyond ``L + before``.
    """
    out = []
    for length, k, s, before, after, d in zip(
        size, spec.kernel_size, spec.stride, spec.pad_before, spec.pad_after, spec.dilation
    ):
        span = length + before + after - d * (k - 1) - 1
        count = (span + (s - 1 if spec.ceil_mode else 0)) // s + 1
        if spec.ceil_mode and (count - 1) * s >= length + before:
            count -= 1
        out.append(count)
    return tuple(out)


def offset_bytes(kernel_size: tuple[int, ...]) -> int:
    """Bytes of one window offset: 1 (uint8) up to 256 window elements, 2 (int16) up to 32768, else 4 (int32)."""
    window = 1
    for k in kernel_size:
        window *= k
    return 1 if window <= 256 else 2 if window <= 32768 else 4
