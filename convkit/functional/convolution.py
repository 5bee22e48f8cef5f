"""conv1d, conv2d, conv3d and conv_transpose1d, conv_transpose2d, conv_transpose3d."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_variadic

from convkit.autograd.conv import convolution, transposed_convolution
from convkit.functional.dtypes import autocast_dtype, bias_mismatch, check_operands, check_tensors
from convkit.functional.padding import pad_input
from convkit.functional.plans import plans
from convkit.problem.convolution import plan_conv, plan_conv_transpose


def _convolve(
    op: str,
    ndim: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: Any,
    padding_mode: str,
    strict: bool,
    backend: str | None,
) -> Tensor:
    check_tensors(op, input, weight, bias)
    low = autocast_dtype(input)
    if low is not None:
        input, weight, bias = _cast(input, low), _cast(weight, low), _cast(bias, low)
    plan = plans.get(
        plan_conv,
        op,
        ndim,
        input.shape,
        weight.shape,
        None if bias is None else bias.shape,
        None if bias is None or bias.dtype is input.dtype else bias_mismatch(input, bias),
        stride,
        padding,
        dilation,
        groups,
        padding_mode,
        strict,
    )
    check_operands(op, input, weight, bias, plan.spec)
    x = input if plan.batched else input.unsqueeze(0)
    if plan.pad:
        x = pad_input(x, plan.pad, padding_mode)
    elif padding == "same" and plan.spec.pad_before != plan.spec.pad_after:
        _warn_uneven_same()
    y = convolution(x, weight, bias, plan.spec, backend)
    return y if plan.batched else y.squeeze(0)


def _convolve_transposed(
    op: str,
    ndim: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Any,
    padding: Any,
    output_padding: Any,
    groups: Any,
    dilation: Any,
    strict: bool,
    backend: str | None,
) -> Tensor:
    check_tensors(op, input, weight, bias)
    low = autocast_dtype(input)
    if low is not None:
        input, weight, bias = _cast(input, low), _cast(weight, low), _cast(bias, low)
    plan = plans.get(
        plan_conv_transpose,
        op,
        ndim,
        input.shape,
        weight.shape,
        None if bias is None else bias.shape,
        None if bias is None or bias.dtype is input.dtype else bias_mismatch(input, bias),
        stride,
        padding,
        output_padding,
        groups,
        dilation,
        strict,
    )
    check_operands(op, input, weight, bias, plan.spec)
    x = input if plan.batched else input.unsqueeze(0)
    y = transposed_convolution(x, weight, bias, plan.output_size, plan.spec, backend)
    return y if plan.batched else y.squeeze(0)


def _cast(tensor: Tensor | None, dtype: torch.dtype) -> Any:
    """Autocast's rule: floating-point tensors but float64."""
    if tensor is None or not tensor.is_floating_point() or tensor.dtype is torch.float64:
        return tensor
    return tensor.to(dtype)


_warned = False


def _warn_uneven_same() -> None:
    """PyTorch's warning, once per process; the copy is PyTorch's, the kernels here read uneven padding in place."""
    global _warned
    if _warned or torch.compiler.is_compiling():
        return
    _warned = True
    warnings.warn(
        "Using padding='same' with even kernel lengths and odd dilation may require a zero-padded copy of the input "
        "be created (by PyTorch; convkit makes none)",
        stacklevel=4,
    )


_CONV = """{article} {n}-dimensional convolution (cross-correlation), torch.nn.functional.conv{n}d.

    Shapes: input (N, C, {dims}) or (C, {dims}), weight (K, C / groups, {taps}), bias (K,); the result has
    floor((L + before + after - dilation (kernel - 1) - 1) / stride) + 1 elements per dimension.
    dtypes: floating point and complex; int64, and undilated 8, 16 and 32 bit integers, on the CPU.

    padding: an int, one per dimension, 'valid', 'same' (stride 1), or, beyond PyTorch, (before, after) pairs per
    dimension, 'same_upper' and 'same_lower' (ceil(L / stride) outputs, an odd element behind or before),
    'causal' (dilation (kernel - 1) before). padding_mode: zeros, replicate, reflect, circular, or mean (of
    the sample's channel).

    Raises PyTorch's TypeError, RuntimeError and NotImplementedError, in its words, before anything is computed.
    """

_CONV_TRANSPOSE = """{article} {n}-dimensional transposed convolution, torch.nn.functional.conv_transpose{n}d.

    Mind the order of arguments, which is PyTorch's: groups stands before dilation.

    Shapes: input (N, C, {dims}) or (C, {dims}), weight (C, K / groups, {taps}), bias (K,); the result has
    (L - 1) stride - before - after + dilation (kernel - 1) + output_padding + 1 elements per dimension.
    dtypes: floating point, complex; int64 on the CPU. padding may also be (before, after) pairs per dimension.

    Raises PyTorch's TypeError, RuntimeError and NotImplementedError, in its words, before anything is computed.
    """


def conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
    strict: bool = False,
    backend: str | None = None,
) -> Tensor:
    if has_torch_function_variadic(input, weight, bias):
        return handle_torch_function(
            conv1d,
            (input, weight, bias),
            input,
            weight,
            bias,
            stride,
            padding,
            dilation,
            groups,
            padding_mode=padding_mode,
            strict=strict,
            backend=backend,
        )
    return _convolve("conv1d", 1, input, weight, bias, stride, padding, dilation, groups, padding_mode, strict, backend)


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
    strict: bool = False,
    backend: str | None = None,
) -> Tensor:
    if has_torch_function_variadic(input, weight, bias):
        return handle_torch_function(
            conv2d,
            (input, weight, bias),
            input,
            weight,
            bias,
            stride,
            padding,
            dilation,
            groups,
            padding_mode=padding_mode,
            strict=strict,
            backend=backend,
        )
    return _convolve("conv2d", 2, input, weight, bias, stride, padding, dilation, groups, padding_mode, strict, backend)


def conv3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
    strict: bool = False,
    backend: str | None = None,
) -> Tensor:
    if has_torch_function_variadic(input, weight, bias):
        return handle_torch_function(
            conv3d,
            (input, weight, bias),
            input,
            weight,
            bias,
            stride,
            padding,
            dilation,
            groups,
            padding_mode=padding_mode,
            strict=strict,
            backend=backend,
        )
    return _convolve("conv3d", 3, input, weight, bias, stride, padding, dilation, groups, padding_mode, strict, backend)


def conv_transpose1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
    *,
    strict: bool = False,
    backend: str | None = None,
) -> Tensor:
    if has_torch_function_variadic(input, weight, bias):
        return handle_torch_function(
            conv_transpose1d,
            (input, weight, bias),
            input,
            weight,
            bias,
            stride,
            padding,
            output_padding,
            groups,
            dilation,
            strict=strict,
            backend=backend,
        )
    return _convolve_transposed(
        "conv_transpose1d",
        1,
        input,
        weight,
        bias,
        stride,
        padding,
        output_padding,
        groups,
        dilation,
        strict,
        backend,
    )


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
    *,
    strict: bool = False,
    backend: str | None = None,
) -> Tensor:
    if has_torch_function_variadic(input, weight, bias):
        return handle_torch_function(
            conv_transpose2d,
            (input, weight, bias),
            input,
            weight,
            bias,
            stride,
            padding,
            output_padding,
            groups,
            dilation,
            strict=strict,
            backend=backend,
        )
    return _convolve_transposed(
        "conv_transpose2d",
        2,
        input,
        weight,
        bias,
        stride,
        padding,
        output_padding,
        groups,
        dilation,
        strict,
        backend,
    )


def conv_transpose3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
    *,
    strict: bool = False,
    backend: str | None = None,
) -> Tensor:
    if has_torch_function_variadic(input, weight, bias):
        return handle_torch_function(
            conv_transpose3d,
            (input, weight, bias),
            input,
            weight,
            bias,
            stride,
            padding,
            output_padding,
            groups,
            dilation,
            strict=strict,
            backend=backend,
        )
    return _convolve_transposed(
        "conv_transpose3d",
        3,
        input,
        weight,
        bias,
        stride,
        padding,
        output_padding,
        groups,
        dilation,
        strict,
        backend,
    )


for _n, _dims, _taps in ((1, "L", "k"), (2, "H, W", "kH, kW"), (3, "D, H, W", "kD, kH, kW")):
    for _function, _text in ((f"conv{_n}d", _CONV), (f"conv_transpose{_n}d", _CONV_TRANSPOSE)):
        globals()[_function].__doc__ = _text.format(article="A", n=_n, dims=_dims, taps=_taps)
