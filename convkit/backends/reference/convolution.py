"""Convolution and its two adjoints, a matrix product per tap."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from convkit.backends.base import Backend, accumulate_dtype
from convkit.backends.reference.activations import activate
from convkit.backends.reference.windows import Sizes, finish, pad, tap_slice, taps, unpad
from convkit.problem import PADDING_MODES, ConvSpec, conv_output_size


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
    return activate(value, spec.activation, spec.alpha)


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


class ConvolutionReference(Backend):
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
        for tap in taps(kernel_size):
            read = _grouped(tap_slice(padded, tap, out, spec.stride, spec.dilation), spec.groups)
            y = y + _contract("ngcp,gkc->ngkp", read, _filter_tap(filters, tap, spec.groups))
        y = apply_epilogue(y.reshape(x.shape[0], w.shape[0], *out), bias, scale, residual, spec)
        return finish(y, x.dtype, channels_last)

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
        for tap in taps(tuple(w.shape[2:])):
            written = _contract("ngkp,gkc->ngcp", grouped_dy, _filter_tap(filters, tap, spec.groups))
            target = tap_slice(padded, tap, out, spec.stride, spec.dilation)
            target += written.reshape(dy.shape[0], channels, *out)
        mode = PADDING_MODES[spec.padding_mode]
        dx = unpad(padded, spec.pad_before, spec.pad_after, tuple(input_size), mode)
        return finish(apply_epilogue(dx, bias, scale, residual, spec), dy.dtype, channels_last)

    def conv_wgrad(self, dy: Tensor, x: Tensor, kernel_size: Sizes, spec: ConvSpec, channels_last: bool) -> Tensor:
        accumulate, out = accumulate_dtype(dy.dtype), tuple(dy.shape[2:])
        filters, channels = dy.shape[1], x.shape[1] // spec.groups
        padded = pad(x.to(accumulate), spec.pad_before, spec.pad_after, PADDING_MODES[spec.padding_mode])
        grouped_dy = _grouped(dy.to(accumulate), spec.groups)
        dw = []
        for tap in taps(tuple(kernel_size)):
            read = _grouped(tap_slice(padded, tap, out, spec.stride, spec.dilation), spec.groups)
            dw.append(_contract("ngkp,ngcp->gkc", grouped_dy, read).reshape(filters, channels))
        return finish(torch.stack(dw, -1).reshape(filters, channels, *kernel_size), dy.dtype, channels_last)

    def conv_bgrad(self, dy: Tensor) -> Tensor:
        return dy.sum((0, *range(2, dy.dim())), dtype=accumulate_dtype(dy.dtype)).to(dy.dtype)
