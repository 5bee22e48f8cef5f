"""Folding batch normalisation into the convolution before it, for inference.

With s = gamma / sqrt(var + eps), the pair computes s (conv(x, w) + b - mean) + beta, which is one convolution with
the filters of output channel k scaled by s[k] and the bias (b - mean) s + beta.
"""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
from torch import Tensor

Layer = TypeVar("Layer", bound=torch.nn.Module)


def fuse_conv_bn_eval(conv: Layer, bn: torch.nn.Module, transpose: bool | None = None) -> Layer:
    """A copy of ``conv`` that computes what ``conv`` and then ``bn`` do, both in eval mode.

    As torch.nn.utils.fusion.fuse_conv_bn_eval: keeps class, dtype, padding mode and requires_grad, creates the bias
    where there is none. ``transpose`` says that the filters are (in, out / groups, *kernel); None reads it from the
    layer. Unlike torch's, it takes transposed convolutions with groups.
    AssertionError, as there, in training mode or without running statistics.
    """
    layer, norm = _any(conv), _any(bn)
    if layer.training or norm.training:
        raise AssertionError("Fusion only for eval!")
    mean, var = norm.running_mean, norm.running_var
    if mean is None or var is None:
        raise AssertionError("bn.running_mean and bn.running_var must not be None")
    fused: Any = copy.deepcopy(layer)
    transposed = bool(getattr(layer, "transposed", False)) if transpose is None else transpose
    weight: Tensor = fused.weight
    bias: Tensor | None = fused.bias
    scale = torch.rsqrt(var + norm.eps) * (1 if norm.weight is None else norm.weight)
    if transposed:  # (in, out / groups, ...): output channel g * (out / groups) + i is column i of the rows of group g
        groups = layer.groups
        columns = scale.view(groups, 1, -1).expand(-1, weight.shape[0] // groups, -1).reshape(weight.shape[:2])
        factors = columns.reshape(*weight.shape[:2], *(1,) * (weight.dim() - 2))
    else:
        factors = scale.view(-1, *(1,) * (weight.dim() - 1))
    shift = (-mean if bias is None else bias - mean) * scale + (0 if norm.bias is None else norm.bias)
    fused.weight = torch.nn.Parameter((weight * factors).to(weight.dtype), weight.requires_grad)
    fused.bias = torch.nn.Parameter(
        shift.to(weight.dtype if bias is None else bias.dtype), False if bias is None else bias.requires_grad
    )
    return fused


def _any(module: torch.nn.Module) -> Any:
    return module
