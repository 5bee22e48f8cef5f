"""A convolution with batch norm, residual and activation, for the modules: training, and both kinds of evaluation.

Training: the convolution sums up its own result, so normalisation is one pass. Evaluation with derivatives: the running
statistics are constants. Evaluation without: batch norm is the scale and bias of the convolution's epilogue.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from convkit.autograd.activations import activate
from convkit.autograd.batch_norm import Statistics, across_processes
from convkit.autograd.function import differentiable
from convkit.autograd.fused import convolved, convolved_with_statistics, in_one_kernel, normalised, problem
from convkit.backends.base import Norm, accumulate_dtype
from convkit.functional.convolution import Prepared
from convkit.functional.fused import fits, result_size
from convkit.problem import ConvSpec

Operands = tuple[Tensor, Tensor, Tensor | None, tuple[int, ...] | None]
HALF = (torch.float16, torch.bfloat16)


class BatchNorm(NamedTuple):
    """The batch norm of one call. In training its running statistics are updated, if there are any."""

    running_mean: Tensor | None
    running_var: Tensor | None
    weight: Tensor | None
    bias: Tensor | None
    training: bool
    momentum: float
    eps: float
    group: Any = None  # of processes that share statistics in training


def conv_bn_act(
    prepared: Prepared,
    transposed: bool,
    bn: BatchNorm,
    residual: Tensor | None,
    activation: tuple[int, float],
    backend: str | None,
) -> Tensor:
    """activation(bn(conv) + residual) of a batched input; ``activation`` as of activation_number.

    A number, or a residual of another shape or dtype than the result's, is added as PyTorch adds: broadcast, promoted.
    Raises torch.nn.functional.batch_norm's errors before anything is computed.
    """
    x, weight, bias, plan = prepared
    size = result_size(x, weight, plan, transposed)
    _check(bn, size, x)
    if residual is not None and not fits(residual, size, x.dtype):
        return activate(conv_bn_act(prepared, transposed, bn, None, (0, 0.0), backend) + residual, *activation)
    spec, output_size = plan.spec, plan.output_size if transposed else None
    operands = x, weight, bias, output_size
    if bn.training:
        return _train(operands, spec, bn, residual, activation, backend)
    if differentiable(x, weight, bias, bn.weight, bn.bias, residual):
        p = problem(*operands, spec, backend=backend)
        dtype = accumulate_dtype(x.dtype)
        invstd = (_defined(bn.running_var).to(dtype) + bn.eps).rsqrt_()
        norm = Norm(_defined(bn.running_mean).to(dtype), invstd, bn.weight, bn.bias, residual, *activation)
        return normalised(convolved(p), norm, Statistics(bn.eps, batch=False), p.norm_backend)
    p = problem(*operands, spec._replace(activation=activation[0], alpha=activation[1]), backend=backend)
    return in_one_kernel(p, *_folded(bn, bias, x), residual)


def _train(
    operands: Operands,
    spec: ConvSpec,
    bn: BatchNorm,
    residual: Tensor | None,
    activation: tuple[int, float],
    backend: str | None,
) -> Tensor:
    p = problem(*operands, spec, statistics=True, backend=backend)
    y, mean, var = convolved_with_statistics(p)
    count: Tensor | None = None
    number: Any = y.numel() // y.shape[1]
    if _processes(bn.group) > 1:
        mean, var, count = across_processes(mean, var, number, bn.group)
        number = count
    norm, norm_backend = Norm(mean, (var + bn.eps).rsqrt_(), bn.weight, bn.bias, residual, *activation), p.norm_backend
    # Before the result: a checkpoint ends its second run where the last tensor is kept, and counts the batch twice.
    for running, value in ((bn.running_mean, mean), (bn.running_var, var)):
        if running is not None:  # neither has a graph; the unbiased variance is kept
            value = value if value is mean else value * (number / (number - 1))
            running.lerp_(value if value.dtype is running.dtype else value.to(running.dtype), bn.momentum)
    return normalised(y, norm, Statistics(bn.eps, True, count, bn.group), norm_backend)


def _folded(bn: BatchNorm, conv_bias: Tensor | None, x: Tensor) -> tuple[Tensor, Tensor]:
    """The epilogue's scale s = gamma / sqrt(var + eps) and bias s (b - mean) + beta; b is the convolution's."""
    dtype = accumulate_dtype(x.dtype)
    scale = (_defined(bn.running_var).to(dtype) + bn.eps).rsqrt_()
    if bn.weight is not None:
        scale = scale * bn.weight
    mean = _defined(bn.running_mean)
    if conv_bias is None and bn.bias is not None and bn.bias.dtype is mean.dtype is dtype:
        shift = torch.addcmul(bn.bias, mean, scale, value=-1)
    else:
        shift = (-mean if conv_bias is None else conv_bias - mean) * scale
        shift = shift if bn.bias is None else shift + bn.bias
    return scale.to(x.dtype), shift.to(x.dtype)


def _defined(statistics: Tensor | None) -> Tensor:
    if statistics is None:
        raise ValueError("Expected running_mean and running_var to be defined when training=False")
    return statistics


def _processes(group: Any) -> int:
    return 1 if group is None else torch.distributed.get_world_size(group)


def _check(bn: BatchNorm, size: tuple[int, ...], x: Tensor) -> None:
    """PyTorch's errors: one value to normalise, and vectors of another length or dtype."""
    values = size[0]
    for n in size[2:]:
        values *= n
    if bn.training and values == 1 and _processes(bn.group) < 2:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {torch.Size(size)}")
    names = ("running_mean", "running_var", "weight", "bias")
    given = [(name, t) for name, t in zip(names, bn[:4]) if t is not None]
    for name, t in given:
        if t.numel() != size[1]:
            raise RuntimeError(f"{name} should contain {size[1]} elements not {t.numel()}")
    if all(t.dtype is x.dtype for _, t in given):
        return
    if x.dtype not in HALF or any(t.dtype is not torch.float32 for _, t in given):
        allowed = f"the input's, {x.dtype}" + (", or torch.float32" if x.dtype in HALF else "")
        raise RuntimeError(
            "mixed dtype: batch norm's parameters and statistics are of "
            f"{', '.join(sorted({str(t.dtype) for _, t in given}))}, but must all be of {allowed}"
        )
