"""conv1d, conv2d, conv3d and conv_transpose1d, conv_transpose2d, conv_transpose3d."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from convkit.autograd.conv import convolution, transposed_convolution
from convkit.functional.dimensions import public
from convkit.functional.dtypes import autocast_dtype, bias_mismatch, check_operands, check_tensors
from convkit.functional.padding import pad_input
from convkit.functional.plans import plans
from convkit.problem.convolution import ConvPlan, plan_conv, plan_conv_transpose


def _conv(
    ndim: int,
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
    """A {n}-dimensional convolution (cross-correlation), torch.nn.functional.conv{n}d.

    Shapes: input (N, C, {dims}) or (C, {dims}), weight (K, C / groups, {taps}), bias (K,); the result has
    floor((L + before + after - dilation (kernel - 1) - 1) / stride) + 1 elements per dimension.
    dtypes: floating point and complex; int64, and undilated 8, 16 and 32 bit integers, on the CPU.

    padding: an int, one per dimension, 'valid', 'same' (stride 1), or, beyond PyTorch, (before, after) pairs per
    dimension, 'same_upper' and 'same_lower' (ceil(L / stride) outputs, an odd element behind or before),
    'causal' (dilation (kernel - 1) before). padding_mode: zeros, replicate, reflect, circular, or mean (of
    the sample's channel).

    Raises PyTorch's TypeError, RuntimeError and NotImplementedError, in its words, before anything is computed.
    """
    x, weight, bias, plan = prepare_conv(
        f"conv{ndim}d", ndim, input, weight, bias, stride, padding, dilation, groups, padding_mode, strict
    )
    y = convolution(x, weight, bias, plan.spec, backend)
    return y if plan.batched else y.squeeze(0)


Prepared = tuple[Tensor, Tensor, Tensor | None, ConvPlan]


def prepare_conv(
    op: str,
    ndim: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
    padding_mode: str,
    strict: bool,
) -> Prepared:
    """A convolution's operands, batched, padded where kernels cannot, in autocast's dtype, and its checked plan."""
    x, weight, bias, plan = _prepare(
        plan_conv, op, ndim, input, weight, bias, stride, padding, dilation, groups, padding_mode, strict
    )
    if plan.pad:
        x = pad_input(x, plan.pad, padding_mode).to(x.dtype)  # under autocast, PyTorch pads in float32
    elif padding == "same" and plan.spec.pad_before != plan.spec.pad_after:
        _warn_uneven_same()
    return x, weight, bias, plan


def _conv_transpose(
    ndim: int,
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
    """A {n}-dimensional transposed convolution, torch.nn.functional.conv_transpose{n}d.

    Mind the order of arguments, which is PyTorch's: groups stands before dilation.

    Shapes: input (N, C, {dims}) or (C, {dims}), weight (C, K / groups, {taps}), bias (K,); the result has
    (L - 1) stride - before - after + dilation (kernel - 1) + output_padding + 1 elements per dimension.
    dtypes: floating point, complex; int64 on the CPU. padding may also be (before, after) pairs per dimension.

    Raises PyTorch's TypeError, RuntimeError and NotImplementedError, in its words, before anything is computed.
    """
    op = f"conv_transpose{ndim}d"
    x, weight, bias, plan = prepare_conv_transpose(
        op, ndim, input, weight, bias, stride, padding, output_padding, groups, dilation, strict
    )
    y = transposed_convolution(x, weight, bias, plan.output_size, plan.spec, backend)
    return y if plan.batched else y.squeeze(0)


def prepare_conv_transpose(
    op: str,
    ndim: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Any,
    padding: Any,
    output_padding: Any,
    groups: int,
    dilation: Any,
    strict: bool,
) -> Prepared:
    """A transposed convolution's operands, batched, in autocast's dtype, and its checked plan."""
    return _prepare(
        plan_conv_transpose, op, ndim, input, weight, bias, stride, padding, output_padding, groups, dilation, strict
    )


def _prepare(
    make_plan: Callable[..., ConvPlan],
    op: str,
    ndim: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *settings: Any,
) -> Prepared:
    check_tensors(op, input, weight, bias)
    low = autocast_dtype(input)
    if low is not None:
        input, weight, bias = _cast(input, low), _cast(weight, low), _cast(bias, low)
    bias_shape = None if bias is None else bias.shape
    mismatch = None if bias is None or bias.dtype is input.dtype else bias_mismatch(input, bias)
    plan = plans.get(make_plan, op, ndim, input.shape, weight.shape, bias_shape, mismatch, *settings)
    check_operands(op, input, weight, bias, plan.spec)
    return input if plan.batched else input.unsqueeze(0), weight, bias, plan


def autocast(op_input: Tensor, tensor: Tensor | None) -> Tensor | None:
    """A further operand of a convolution in the dtype that autocast gives the others."""
    low = autocast_dtype(op_input)
    return tensor if low is None else _cast(tensor, low)


Operand = TypeVar("Operand", Tensor, Tensor | None)


def _cast(tensor: Operand, dtype: torch.dtype) -> Operand:
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
        stacklevel=5,
    )


_TENSORS = ("input", "weight", "bias")
conv1d, conv2d, conv3d = (public(_conv, n, "conv{n}d", _TENSORS) for n in (1, 2, 3))
conv_transpose1d, conv_transpose2d, conv_transpose3d = (
    public(_conv_transpose, n, "conv_transpose{n}d", _TENSORS) for n in (1, 2, 3)
)
