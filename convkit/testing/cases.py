"""What a case of the catalogue is: one problem, named, with the reason why it is there."""

from __future__ import annotations

from dataclasses import dataclass

from convkit.problem import (
    ConvSpec,
    PoolSpec,
    adaptive_pool_spec,
    conv_output_size,
    conv_transpose_output_size,
    pool_output_size,
)

Sizes = tuple[int, ...]
PerDim = int | Sizes
Padding = int | tuple[int | tuple[int, int], ...]


def _each(value: PerDim, dims: int) -> Sizes:
    return (value,) * dims if isinstance(value, int) else value


def _pads(value: Padding, dims: int) -> tuple[Sizes, Sizes]:
    per_dim = (value,) * dims if isinstance(value, int) else value
    pairs = [(p, p) if isinstance(p, int) else p for p in per_dim]
    return tuple(p[0] for p in pairs), tuple(p[1] for p in pairs)


@dataclass(frozen=True)
class ConvCase:
    """A convolution: input (N, C, *spatial), weight (K, C/groups, *kernel)."""

    name: str
    why: str
    input: Sizes
    weight: Sizes
    stride: PerDim = 1
    padding: Padding = 0  # per dimension a number or a (before, after) pair
    dilation: PerDim = 1
    groups: int = 1

    @property
    def dims(self) -> int:
        return len(self.input) - 2

    @property
    def spec(self) -> ConvSpec:
        before, after = _pads(self.padding, self.dims)
        return ConvSpec(_each(self.stride, self.dims), before, after, _each(self.dilation, self.dims), self.groups)

    @property
    def output(self) -> Sizes:
        return (self.input[0], self.weight[0], *conv_output_size(self.input[2:], self.weight[2:], self.spec))

    @property
    def symmetric(self) -> bool:
        """Whether PyTorch can express the padding."""
        return self.spec.pad_before == self.spec.pad_after


@dataclass(frozen=True)
class TransposedCase:
    """A transposed convolution: input (N, C, *spatial), weight (C, K/groups, *kernel)."""

    name: str
    why: str
    input: Sizes
    weight: Sizes
    stride: PerDim = 1
    padding: PerDim = 0
    output_padding: PerDim = 0
    dilation: PerDim = 1
    groups: int = 1

    @property
    def dims(self) -> int:
        return len(self.input) - 2

    @property
    def spec(self) -> ConvSpec:
        """The convolution whose input gradient this is."""
        pad = _each(self.padding, self.dims)
        return ConvSpec(_each(self.stride, self.dims), pad, pad, _each(self.dilation, self.dims), self.groups)

    @property
    def output(self) -> Sizes:
        extra = _each(self.output_padding, self.dims)
        spatial = conv_transpose_output_size(self.input[2:], self.weight[2:], self.spec, extra)
        return (self.input[0], self.weight[1] * self.groups, *spatial)


@dataclass(frozen=True)
class PoolCase:
    """A pooling of an input (N, C, *spatial); count_include_pad and divisor_override concern averages only.

    ``output_size`` stands for adaptive windows, and then all fields between are left as they are.
    """

    name: str
    why: str
    input: Sizes
    kernel: PerDim = 1
    stride: PerDim | None = None  # None: the kernel size
    padding: Padding = 0
    dilation: PerDim = 1
    ceil_mode: bool = False
    count_include_pad: bool = True
    divisor_override: int = 0
    output_size: PerDim | None = None

    @property
    def dims(self) -> int:
        return len(self.input) - 2

    @property
    def spec(self) -> PoolSpec:
        if self.output_size is not None:
            return adaptive_pool_spec(self.input[2:], _each(self.output_size, self.dims))
        before, after = _pads(self.padding, self.dims)
        kernel = _each(self.kernel, self.dims)
        stride = kernel if self.stride is None else _each(self.stride, self.dims)
        dilation = _each(self.dilation, self.dims)
        return PoolSpec(
            kernel, stride, before, after, dilation, self.ceil_mode, self.count_include_pad, self.divisor_override
        )

    @property
    def output(self) -> Sizes:
        return (*self.input[:2], *pool_output_size(self.input[2:], self.spec))

    @property
    def symmetric(self) -> bool:
        """Whether PyTorch can express the padding."""
        return self.spec.pad_before == self.spec.pad_after
