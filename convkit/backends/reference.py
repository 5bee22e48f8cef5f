"""Backend ``reference``: every raw operation in plain PyTorch, written to be read. It is the oracle of the tests.

A window operation is a loop over the taps of the window. For one tap, the elements that all windows read
form a strided slice of the padded input (:func:`_tap_slice`); the forward operation reads that slice and
the adjoint adds to it. Sums are kept in the operands' type, for 16-bit floating types in float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from math import prod

import torch
from torch import Tensor

from convkit.backends.base import Backend
from convkit.backends.layout import OFFSET_DTYPES, result_strides
from convkit.problem import (
    ACTIVATIONS,
    PADDING_MODES,
    ConvSpec,
    PoolSpec,
    conv_output_size,
    offset_bytes,
    pool_output_size,
)

Sizes = tuple[int, ...]


def accumulate_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type sums are kept in."""
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype


def _finish(result: Tensor, dtype: torch.dtype, channels_last: bool) -> Tensor:
    """``result`` in the wanted dtype and with exactly the wanted strides."""
    result = result.to(dtype)
    strides = result_strides(tuple(result.shape), channels_last)
    if result.stride() == strides:
        return result
    return result.new_empty_strided(result.shape, strides).copy_(result)


def apply_epilogue(
    value: Tensor, bias: Tensor | None, scale: Tensor | None, residual: Tensor | None, spec: ConvSpec
) -> Tensor:
    """act(value * scale[k] + bias[k] + residual); integers and complex numbers take bias and residual only."""
    per_channel = (1, -1) + (1,) * (value.dim() - 2)
    if scale is not None:
        value = value * scale.to(value.dtype).view(per_channel)
    if bias is not None:
        value = value + bias.to(value.dtype).view(per_channel)
    if residual is not None:
        value = value + residual.to(value.dtype)
    return {
        "identity": lambda v: v,
        "relu": torch.relu,
        "leaky_relu": lambda v: torch.where(v < 0, v * spec.alpha, v),
        "elu": lambda v: torch.where(v < 0, spec.alpha * torch.expm1(v), v),
        "sigmoid": torch.sigmoid,
        "tanh": torch.tanh,
        "silu": lambda v: v * torch.sigmoid(v),
        "gelu": lambda v: v * 0.5 * (1 + torch.erf(v * 0.5**0.5)),
    }[ACTIVATIONS[spec.activation]](value)


# Padding: a linear map P from an input to the padded input, and its adjoint.


def _source(length: int, before: int, after: int, mode: str, device: torch.device) -> Tensor:
    """For every position of a padded dimension, the input position whose value it takes."""
    at = torch.arange(-before, length + after, device=device)
    if mode == "replicate":
        return at.clamp(0, length - 1)
    if mode == "circular":
        return at.remainder(length)
    folded = at.abs()  # reflect: mirror at 0, then at length - 1
    return torch.where(folded < length, folded, 2 * (length - 1) - folded)


def _interior(padded: Tensor, before: Sizes, size: Sizes) -> Tensor:
    """The view of the unpadded elements inside a padded tensor."""
    for d, (start, length) in enumerate(zip(before, size)):
        padded = padded.narrow(2 + d, start, length)
    return padded


def _mean(total: Tensor, count: int) -> Tensor:
    if total.is_floating_point() or total.is_complex():
        return total / count
    return torch.div(total, count, rounding_mode="trunc")


def pad(x: Tensor, before: Sizes, after: Sizes, mode: str = "zeros") -> Tensor:
    """``x`` (N, C, *spatial) with ``before`` and ``after`` elements added around each spatial dimension."""
    size = tuple(x.shape[2:])
    if mode in ("zeros", "mean"):
        padded = x.new_zeros(*x.shape[:2], *(a + n + b for a, n, b in zip(before, size, after)))
        if mode == "mean":
            spatial = tuple(range(2, x.dim()))
            padded += _mean(x.sum(spatial, keepdim=True, dtype=x.dtype), prod(size))
        _interior(padded, before, size).copy_(x)
        return padded
    for d, (a, n, b) in enumerate(zip(before, size, after)):
        x = x.index_select(2 + d, _source(n, a, b, mode, x.device))
    return x


def unpad(dx: Tensor, before: Sizes, after: Sizes, size: Sizes, mode: str = "zeros") -> Tensor:
    """The adjoint of :func:`pad`: sums what every padded element contributed to its source."""
    if mode in ("zeros", "mean"):
        inside = _interior(dx, before, size)
        if mode == "zeros":
            return inside
        spatial = tuple(range(2, dx.dim()))
        border = dx.sum(spatial, keepdim=True) - inside.sum(spatial, keepdim=True)
        return inside + _mean(border, prod(size))
    for d, (a, n, b) in enumerate(zip(before, size, after)):
        folded = dx.new_zeros(*dx.shape[: 2 + d], n, *dx.shape[3 + d :])
        dx = folded.index_add_(2 + d, _source(n, a, b, mode, dx.device), dx)
    return dx


# Windows.


def _taps(kernel_size: Sizes) -> Iterator[Sizes]:
    """Window positions in row-major order."""
    return product(*map(range, kernel_size))


def _tap_slice(padded: Tensor, tap: Sizes, out: Sizes, stride: Sizes, dilation: Sizes) -> Tensor:
    """The view (N, C, *out) of the elements at position ``tap`` of every window."""
    for d, (t, o, s, step) in enumerate(zip(tap, out, stride, dilation)):
        padded = padded.narrow(2 + d, t * step, (o - 1) * s + 1)
        if s > 1:
            padded = padded[(slice(None),) * (2 + d) + (slice(None, None, s),)]
    return padded


def _grouped(t: Tensor, groups: int) -> Tensor:
    """(N, C, *spatial) -> (N, groups, C / groups, positions)."""
    return t.reshape(t.shape[0], groups, t.shape[1] // groups, prod(t.shape[2:]))


def _filter_tap(w: Tensor, tap: Sizes, groups: int) -> Tensor:
    """(K, C / groups, *kernel) -> the matrices (groups, K / groups, C / groups) at one window position."""
    for position in tap:
        w = w[:, :, position]
    return w.reshape(groups, w.shape[0] // groups, w.shape[1])


def _contract(equation: str, a: Tensor, b: Tensor) -> Tensor:
    """einsum in the operands' own type, in an autocast region too."""
    if a.is_meta:  # autocast does not know meta tensors
        return torch.einsum(equation, a, b)
    with torch.autocast(a.device.type, enabled=False):
        return torch.einsum(equation, a, b)


def _pool_padding(size: Sizes, out: Sizes, spec: PoolSpec) -> Sizes:
    """Padding after each dimension so that every window, ceil_mode's overhang included, lies inside."""
    return tuple(
        max((o - 1) * s + d * (k - 1) + 1 - before - n, 0)
        for n, o, k, s, before, d in zip(size, out, spec.kernel_size, spec.stride, spec.pad_before, spec.dilation)
    )


def _reach(size: Sizes, out: Sizes, spec: PoolSpec, device: torch.device) -> list[Tensor]:
    """Per dimension (out, kernel): the input position that each tap of each window reads (maybe outside)."""
    return [
        (torch.arange(o, device=device) * s - before)[:, None] + torch.arange(k, device=device) * d
        for o, k, s, before, d in zip(out, spec.kernel_size, spec.stride, spec.pad_before, spec.dilation)
    ]


def _outer(per_dimension: list[Tensor]) -> Tensor:
    """The product of one vector per dimension, as a tensor of all of them."""
    result = per_dimension[0]
    for v in per_dimension[1:]:
        result = result[..., None] * v
    return result


def divisors(size: Sizes, out: Sizes, spec: PoolSpec, device: torch.device) -> Tensor | int:
    """What avg_pool divides each window's sum by."""
    if spec.divisor_override:
        return spec.divisor_override
    counts = []
    for d, reach in enumerate(_reach(size, out, spec, device)):
        if spec.count_include_pad:  # explicit padding counts, ceil_mode's overhang does not
            counts.append((reach < size[d] + spec.pad_after[d]).sum(1))
        else:
            counts.append(((reach >= 0) & (reach < size[d])).sum(1))
    return _outer(counts).clamp(min=1)  # an empty window has sum 0


def _divide(total: Tensor, divisor: Tensor | int) -> Tensor:
    if total.is_floating_point():
        return total / divisor
    return torch.div(total, divisor, rounding_mode="trunc")


class Reference(Backend):
    name = "reference"

    def supports(
        self, op: str, dtype: torch.dtype, device: torch.device, spec: ConvSpec | PoolSpec | None
    ) -> str | None:
        if dtype == torch.bool:
            return f"no {op} for {dtype}"
        if not op.startswith("conv") and dtype.is_complex:
            return f"no {op} for {dtype}: complex numbers have no order, and PyTorch does not pool them"
        if isinstance(spec, ConvSpec) and spec.activation and (dtype.is_complex or not dtype.is_floating_point):
            return f"no activation for {dtype}"
        if isinstance(spec, ConvSpec) and spec.algorithm:
            return "has no algorithms to choose from"
        return None

    def conv_fprop(
        self,
        x: Tensor,
        w: Tensor,
        bias: Tensor | None,
        scale: Tensor | None,
        residual: Tensor | None,
        spec: ConvSpec,
        channels_last: bool,
    ) -> Tensor:
        accumulate, kernel_size = accumulate_dtype(x.dtype), tuple(w.shape[2:])
        out = conv_output_size(tuple(x.shape[2:]), kernel_size, spec)
        padded = pad(x.to(accumulate), spec.pad_before, spec.pad_after, PADDING_MODES[spec.padding_mode])
        filters = w.to(accumulate)
        y = padded.new_zeros(x.shape[0], spec.groups, w.shape[0] // spec.groups, prod(out))
        for tap in _taps(kernel_size):
            read = _grouped(_tap_slice(padded, tap, out, spec.stride, spec.dilation), spec.groups)
            y = y + _contract("ngcp,gkc->ngkp", read, _filter_tap(filters, tap, spec.groups))
        y = apply_epilogue(y.reshape(x.shape[0], w.shape[0], *out), bias, scale, residual, spec)
        return _finish(y, x.dtype, channels_last)

    def conv_dgrad(
        self,
        dy: Tensor,
        w: Tensor,
        bias: Tensor | None,
        scale: Tensor | None,
        residual: Tensor | None,
        input_size: Sizes,
        spec: ConvSpec,
        channels_last: bool,
    ) -> Tensor:
        accumulate, out = accumulate_dtype(dy.dtype), tuple(dy.shape[2:])
        channels, filters = w.shape[1] * spec.groups, w.to(accumulate)
        grouped_dy = _grouped(dy.to(accumulate), spec.groups)
        padded = grouped_dy.new_zeros(
            dy.shape[0], channels, *(a + n + b for a, n, b in zip(spec.pad_before, input_size, spec.pad_after))
        )
        for tap in _taps(tuple(w.shape[2:])):
            written = _contract("ngkp,gkc->ngcp", grouped_dy, _filter_tap(filters, tap, spec.groups))
            target = _tap_slice(padded, tap, out, spec.stride, spec.dilation)
            target += written.reshape(dy.shape[0], channels, *out)
        mode = PADDING_MODES[spec.padding_mode]
        dx = unpad(padded, spec.pad_before, spec.pad_after, tuple(input_size), mode)
        return _finish(apply_epilogue(dx, bias, scale, residual, spec), dy.dtype, channels_last)

    def conv_wgrad(self, dy: Tensor, x: Tensor, kernel_size: Sizes, spec: ConvSpec, channels_last: bool) -> Tensor:
        accumulate, out = accumulate_dtype(dy.dtype), tuple(dy.shape[2:])
        filters, channels = dy.shape[1], x.shape[1] // spec.groups
        padded = pad(x.to(accumulate), spec.pad_before, spec.pad_after, PADDING_MODES[spec.padding_mode])
        grouped_dy = _grouped(dy.to(accumulate), spec.groups)
        dw = []
        for tap in _taps(tuple(kernel_size)):
            read = _grouped(_tap_slice(padded, tap, out, spec.stride, spec.dilation), spec.groups)
            dw.append(_contract("ngkp,ngcp->gkc", grouped_dy, read).reshape(filters, channels))
        return _finish(torch.stack(dw, -1).reshape(filters, channels, *kernel_size), dy.dtype, channels_last)

    def conv_bgrad(self, dy: Tensor) -> Tensor:
        return dy.sum((0, *range(2, dy.dim())), dtype=accumulate_dtype(dy.dtype)).to(dy.dtype)

    def max_pool(self, x: Tensor, spec: PoolSpec, offsets: bool, channels_last: bool) -> tuple[Tensor, Tensor]:
        size = tuple(x.shape[2:])
        out = pool_output_size(size, spec)
        padded = pad(x, spec.pad_before, _pool_padding(size, out, spec))
        inside = [(reach >= 0) & (reach < n) for reach, n in zip(_reach(size, out, spec, x.device), size)]
        lowest = float("-inf") if x.is_floating_point() else torch.iinfo(x.dtype).min
        top = x.new_full((*x.shape[:2], *out), lowest)  # what a window without any element keeps
        chosen = torch.full_like(top, -1, dtype=torch.int32)
        for offset, tap in enumerate(_taps(spec.kernel_size)):
            value = _tap_slice(padded, tap, out, spec.stride, spec.dilation)
            valid = _outer([dimension[:, t] for dimension, t in zip(inside, tap)])
            take = valid & ((chosen < 0) | (value > top) | (value != value))  # first of ties, last NaN
            top = torch.where(take, value, top)
            chosen = torch.where(take, offset, chosen)
        offset_dtype = OFFSET_DTYPES[offset_bytes(spec.kernel_size)]
        kept = chosen.clamp(min=0) if offsets else chosen[:0]
        return _finish(top, x.dtype, channels_last), _finish(kept, offset_dtype, channels_last)

    def pool_select(self, x: Tensor, offsets: Tensor, spec: PoolSpec, channels_last: bool) -> Tensor:
        size, out = tuple(x.shape[2:]), tuple(offsets.shape[2:])
        padded = pad(x, spec.pad_before, _pool_padding(size, out, spec))
        y = x.new_zeros(offsets.shape)
        for offset, tap in enumerate(_taps(spec.kernel_size)):
            y = torch.where(offsets == offset, _tap_slice(padded, tap, out, spec.stride, spec.dilation), y)
        return _finish(y, x.dtype, channels_last)

    def pool_select_bwd(
        self, dy: Tensor, offsets: Tensor, input_size: Sizes, spec: PoolSpec, channels_last: bool
    ) -> Tensor:
        size, out = tuple(input_size), tuple(dy.shape[2:])
        after = _pool_padding(size, out, spec)
        gradient = dy.to(accumulate_dtype(dy.dtype))
        padded = gradient.new_zeros(*dy.shape[:2], *(a + n + b for a, n, b in zip(spec.pad_before, size, after)))
        for offset, tap in enumerate(_taps(spec.kernel_size)):
            target = _tap_slice(padded, tap, out, spec.stride, spec.dilation)
            target += torch.where(offsets == offset, gradient, 0)
        return _finish(unpad(padded, spec.pad_before, after, size), dy.dtype, channels_last)

    def pool_indices(self, offsets: Tensor, input_size: Sizes, spec: PoolSpec, channels_last: bool) -> Tensor:
        size, out = tuple(input_size), tuple(offsets.shape[2:])
        tap = offsets.to(torch.int64)
        index, inside = torch.zeros_like(tap), torch.ones_like(tap, dtype=torch.bool)
        window = prod(spec.kernel_size)
        for d, k in enumerate(spec.kernel_size):
            window //= k
            start = torch.arange(out[d], device=offsets.device) * spec.stride[d] - spec.pad_before[d]
            at = start.view(-1, *(1,) * (len(out) - 1 - d)) + tap // window % k * spec.dilation[d]
            index = index * size[d] + at
            inside = inside & (at >= 0) & (at < size[d])
        return _finish(torch.where(inside, index, -1), torch.int64, channels_last)

    def avg_pool(self, x: Tensor, spec: PoolSpec, channels_last: bool) -> Tensor:
        size = tuple(x.shape[2:])
        out = pool_output_size(size, spec)
        padded = pad(x.to(accumulate_dtype(x.dtype)), spec.pad_before, _pool_padding(size, out, spec))
        total = padded.new_zeros(*x.shape[:2], *out)
        for tap in _taps(spec.kernel_size):
            total += _tap_slice(padded, tap, out, spec.stride, spec.dilation)
        return _finish(_divide(total, divisors(size, out, spec, x.device)), x.dtype, channels_last)

    def avg_pool_bwd(self, dy: Tensor, input_size: Sizes, spec: PoolSpec, channels_last: bool) -> Tensor:
        size, out = tuple(input_size), tuple(dy.shape[2:])
        after = _pool_padding(size, out, spec)
        share = _divide(dy.to(accumulate_dtype(dy.dtype)), divisors(size, out, spec, dy.device))
        padded = share.new_zeros(*dy.shape[:2], *(a + n + b for a, n, b in zip(spec.pad_before, size, after)))
        for tap in _taps(spec.kernel_size):
            _tap_slice(padded, tap, out, spec.stride, spec.dilation).add_(share)
        return _finish(unpad(padded, spec.pad_before, after, size), dy.dtype, channels_last)
