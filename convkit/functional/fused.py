"""fused_conv1d, fused_conv2d, ..., fused_conv_transpose3d: a convolution and what follows it in one call."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from convkit.autograd.activations import activate
from convkit.autograd.fused import problem, scaled
from convkit.functional.convolution import Prepared, autocast, prepare_conv, prepare_conv_transpose
from convkit.functional.dimensions import public
from convkit.functional.maxout import check_divides, check_pieces, maxout
from convkit.problem import ACTIVATIONS, conv_output_size
from convkit.problem.convolution import ConvPlan

#: Beyond those that kernels compute element by element.
MAXOUT = "maxout"
#: PyTorch's defaults of the activations that have a parameter.
ALPHAS = {"leaky_relu": 0.01, "elu": 1.0}


def activation_number(activation: str | None, alpha: float | None) -> tuple[int, float]:
    """An activation's index in ACTIVATIONS and its parameter; ValueError for an unknown one.

    Behind maxout's pieces nothing is activated: its index is identity's.
    """
    name = "identity" if activation in (None, MAXOUT) else activation
    if name not in ACTIVATIONS:
        known = ", ".join(map(repr, (*ACTIVATIONS, MAXOUT)))
        raise ValueError(f"unknown activation {activation!r}: must be one of {known}, or None")
    if name not in ALPHAS:
        return ACTIVATIONS.index(name), 0.0
    return ACTIVATIONS.index(name), ALPHAS[name] if alpha is None else float(alpha)


def _fused_conv(
    ndim: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    scale: Tensor | None = None,
    residual: Tensor | None = None,
    activation: str | None = None,
    alpha: float | None = None,
    pieces: int = 2,
    padding_mode: str = "zeros",
    strict: bool = False,
    backend: str | None = None,
) -> Tensor:
    """activation(conv{n}d(input, weight) * scale + bias + residual), one kernel where no derivative is wanted.

    Shapes: as conv{n}d; scale and bias (K,), residual that of the result, all of input's dtype (floating point).
    A batch norm in evaluation is scale = weight / sqrt(var + eps) and bias = bias - mean * scale.
    activation: None, 'relu', 'leaky_relu' (slope alpha, 0.01), 'elu' (alpha, 1), 'sigmoid', 'tanh', 'silu', 'gelu'
    or 'maxout': the largest of each ``pieces`` channels, K / pieces in the result, by a second kernel (see
    :func:`~convkit.functional.maxout`); the residual is added before.
    Differentiable to any order in all five tensors; the graph keeps input, weight, residual and conv(input, weight).

    Raises what conv{n}d does; RuntimeError for a scale or residual of another shape or dtype, or pieces that do not
    divide K; ValueError for an unknown activation, or pieces below 1; all before anything is computed.
    """
    op = f"fused_conv{ndim}d"
    prepared = prepare_conv(op[6:], ndim, input, weight, bias, stride, padding, dilation, groups, padding_mode, strict)
    return _run(op, prepared, False, scale, residual, activation, alpha, pieces, backend)


def _fused_conv_transpose(
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
    scale: Tensor | None = None,
    residual: Tensor | None = None,
    activation: str | None = None,
    alpha: float | None = None,
    pieces: int = 2,
    strict: bool = False,
    backend: str | None = None,
) -> Tensor:
    """activation(conv_transpose{n}d(input, weight) * scale + bias + residual), one kernel without derivatives.

    Shapes: as conv_transpose{n}d; scale, bias, residual, activation and errors as in fused_conv{n}d.
    """
    op = f"fused_conv_transpose{ndim}d"
    prepared = prepare_conv_transpose(
        op[6:], ndim, input, weight, bias, stride, padding, output_padding, groups, dilation, strict
    )
    return _run(op, prepared, True, scale, residual, activation, alpha, pieces, backend)


def _run(
    op: str,
    prepared: Prepared,
    transposed: bool,
    scale: Tensor | None,
    residual: Tensor | None,
    activation: str | None,
    alpha: float | None,
    pieces: int,
    backend: str | None,
) -> Tensor:
    x, weight, bias, plan = prepared
    number, alpha = activation_number(activation, alpha)
    scale, residual = autocast(x, scale), autocast(x, residual)
    if residual is not None and not plan.batched:
        residual = residual.unsqueeze(0)
    size = result_size(x, weight, plan, transposed)
    check_follower(op, "scale", scale, size[1:2], x)
    check_follower(op, "residual", residual, size, x)
    if activation == MAXOUT:
        check_pieces(op, pieces)
        check_divides(op, size[1], pieces, "the result's channels")
    output_size = plan.output_size if transposed else None
    spec = plan.spec._replace(activation=number, alpha=alpha)
    y = scaled(problem(x, weight, bias, output_size, spec, backend=backend), scale, residual)
    if activation == MAXOUT:
        y = maxout(y, pieces, backend=backend)
    return y if plan.batched else y.squeeze(0)


def conv_act(
    prepared: Prepared,
    transposed: bool,
    residual: Any,
    activation: tuple[int, float],
    backend: str | None,
) -> Tensor:
    """activation(conv + residual) of a batched input; a residual that does not fit is added as PyTorch adds."""
    x, weight, bias, plan = prepared
    if residual is not None and not fits(residual, result_size(x, weight, plan, transposed), x.dtype):
        return activate(conv_act(prepared, transposed, None, (0, 0.0), backend) + residual, *activation)
    spec = plan.spec._replace(activation=activation[0], alpha=activation[1])
    output_size = plan.output_size if transposed else None
    return scaled(problem(x, weight, bias, output_size, spec, backend=backend), None, residual)


def fits(residual: Any, size: tuple[int, ...], dtype: torch.dtype) -> bool:
    """Whether what is added is as the result; in a model's code it may be a number too."""
    return isinstance(residual, Tensor) and tuple(residual.shape) == tuple(size) and residual.dtype is dtype


def result_size(x: Tensor, weight: Tensor, plan: ConvPlan, transposed: bool) -> tuple[int, ...]:
    """The size of a convolution's result, with its batch dimension."""
    if transposed:
        return (x.shape[0], weight.shape[1] * plan.spec.groups, *plan.output_size)
    return (x.shape[0], weight.shape[0], *conv_output_size(tuple(x.shape[2:]), tuple(weight.shape[2:]), plan.spec))


def check_follower(op: str, name: str, tensor: Tensor | None, size: tuple[int, ...], x: Tensor) -> None:
    """RuntimeError unless a tensor of the epilogue has the size that follows from the others, and the input's dtype."""
    if tensor is None:
        return
    if tuple(tensor.shape) != tuple(size):
        raise RuntimeError(f"{op}: {name} has shape {list(tensor.shape)}, but must have the shape {list(size)}")
    if tensor.dtype is not x.dtype or tensor.device != x.device:
        raise RuntimeError(
            f"{op}: {name} is of {tensor.dtype} on {tensor.device}, but must be as the input, {x.dtype} on {x.device}"
        )


_TENSORS = ("input", "weight", "bias")
fused_conv1d, fused_conv2d, fused_conv3d = (public(_fused_conv, n, "fused_conv{n}d", _TENSORS) for n in (1, 2, 3))
fused_conv_transpose1d, fused_conv_transpose2d, fused_conv_transpose3d = (
    public(_fused_conv_transpose, n, "fused_conv_transpose{n}d", _TENSORS) for n in (1, 2, 3)
)
