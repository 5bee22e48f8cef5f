"""Convolution: the algorithms, and which of them runs."""

from __future__ import annotations

from torch import Tensor

from convkit.backends.triton import conv_direct, conv_igemm, tiles
from convkit.backends.triton import conv_wgrad as igemm_wgrad
from convkit.backends.triton.bn_stats import bn_stats
from convkit.backends.triton.epilogue import Operands
from convkit.backends.triton.launch import Sizes, dense
from convkit.backends.triton.sums import sum_type
from convkit.problem import ConvSpec, conv_output_size


def _how(spec: ConvSpec, channels: int, filters: int) -> tuple[bool, str | None]:
    """(by definition?, the product's precision where it is named)."""
    name = tiles.algorithm(spec.algorithm, spec.groups, channels, filters)
    return name == "conv_direct", "tf32x3" if name == "conv_igemm_tf32x3" else None


def _convolve(
    x: Tensor, w: Tensor, y: Tensor, epilogue: Operands, spec: ConvSpec, channels_last: bool, transposed: bool
) -> Tensor:
    direct, how = _how(spec, w.shape[1], w.shape[0] // spec.groups)
    if direct:
        conv_direct.convolve(x, w, y, epilogue, spec, channels_last, transposed)
    elif y.numel() > 0:
        conv_igemm.convolve(x, w, y, epilogue, spec, transposed, how)
    return y


def conv_fprop(
    x: Tensor,
    w: Tensor,
    bias: Tensor | None,
    scale: Tensor | None,
    residual: Tensor | None,
    spec: ConvSpec,
    channels_last: bool,
) -> Tensor:
    out = conv_output_size(tuple(x.shape[2:]), tuple(w.shape[2:]), spec)
    y = dense(x, (x.shape[0], w.shape[0], *out), channels_last)
    return _convolve(x, w, y, Operands(bias, scale, residual), spec, channels_last, False)


def conv_fprop_stats(
    x: Tensor, w: Tensor, bias: Tensor | None, spec: ConvSpec, channels_last: bool
) -> tuple[Tensor, Tensor, Tensor]:
    direct, how = _how(spec, w.shape[1], w.shape[0] // spec.groups)
    out = conv_output_size(tuple(x.shape[2:]), tuple(w.shape[2:]), spec)
    y = dense(x, (x.shape[0], w.shape[0], *out), channels_last)
    if direct or y.numel() == 0:
        _convolve(x, w, y, Operands(bias), spec, channels_last, False)
        return y, *bn_stats(y)
    mean, var = (x.new_empty(w.shape[0], dtype=sum_type(x.dtype)) for _ in range(2))
    conv_igemm.convolve(x, w, y, Operands(bias), spec, False, how, (mean, var))
    return y, mean, var


def conv_dgrad(
    dy: Tensor,
    w: Tensor,
    bias: Tensor | None,
    scale: Tensor | None,
    residual: Tensor | None,
    input_size: Sizes,
    spec: ConvSpec,
    channels_last: bool,
) -> Tensor:
    dx = dense(dy, (dy.shape[0], w.shape[1] * spec.groups, *input_size), channels_last)
    return _convolve(dy, w, dx, Operands(bias, scale, residual), spec, channels_last, True)


def conv_wgrad(dy: Tensor, x: Tensor, kernel_size: Sizes, spec: ConvSpec, channels_last: bool) -> Tensor:
    dw = dense(dy, (dy.shape[1], x.shape[1] // spec.groups, *kernel_size), channels_last)
    if dw.numel() == 0 or dy.numel() == 0:
        return dw.zero_()
    direct, how = _how(spec, dw.shape[1], dw.shape[0] // spec.groups)
    if direct:
        conv_direct.wgrad(dy, x, dw, spec)
    else:
        igemm_wgrad.wgrad(dy, x, dw, spec, how)
    return dw
