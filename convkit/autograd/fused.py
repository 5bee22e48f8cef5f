"""Convolution with everything that follows it: scale, bias, batch norm, residual, activation.

Without derivatives all of it is the convolution's epilogue: one kernel. With them, the convolution and what follows
are two operations, each with derivatives of every order: fprop (or dgrad, for a transposed convolution), and
:class:`~convkit.autograd.batch_norm.BnAct`, of which a scale and a bias are the case of mean 0 and variance 1.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from convkit.autograd.batch_norm import Statistics, bn_act, bn_stats, fprop_stats, vector
from convkit.autograd.conv import dense, dgrad, fprop
from convkit.autograd.function import differentiable, transforming
from convkit.autograd.recipe import Recipe, attach, remembering
from convkit.backends.base import Backend, Norm, accumulate_dtype
from convkit.backends.layout import elementwise, is_channels_last
from convkit.backends.selection import select
from convkit.problem import ConvSpec


class Problem(NamedTuple):
    """A convolution of ``x`` by ``w``, or where ``output_size`` is given the transposed one, and who computes it."""

    x: Tensor
    w: Tensor
    bias: Tensor | None
    output_size: tuple[int, ...] | None
    spec: ConvSpec
    channels_last: bool
    backend: Backend
    requested: str | None = None

    @property
    def norm_backend(self) -> Backend:
        """Who computes what follows in operations of its own: not every backend that convolves can."""
        return select("bn_act_bwd", self.x, None, None, self.requested)[0]


def problem(
    x: Tensor,
    w: Tensor,
    bias: Tensor | None,
    output_size: tuple[int, ...] | None,
    spec: ConvSpec,
    statistics: bool = False,
    backend: str | None = None,
) -> Problem:
    """The operands, and the backend, which must offer ``spec`` with its activation, or the sums of statistics."""
    op = "conv_dgrad" if output_size is not None else "conv_fprop_stats" if statistics else "conv_fprop"
    chosen, spec = select(op, x, w, spec, backend)
    channels_last = is_channels_last(x) or is_channels_last(w)
    return Problem(x, w, dense(bias), output_size, spec, channels_last, chosen, backend)


def in_one_kernel(p: Problem, scale: Tensor | None, bias: Tensor | None, residual: Tensor | None) -> Tensor:
    """act(conv(x, w) scale + bias + residual), without derivatives; the activation is that of ``p.spec``."""
    bias, scale = dense(bias), dense(scale)
    if p.output_size is None:
        z = p.backend.conv_fprop(p.x, p.w, bias, scale, residual, p.spec, p.channels_last)
    else:
        z = p.backend.conv_dgrad(p.x, p.w, bias, scale, residual, p.output_size, p.spec, p.channels_last)
    alone = scale is None and residual is None and not p.spec.activation
    return elementwise(z) if p.channels_last and not alone else z


def convolved(p: Problem) -> Tensor:
    """y = conv(x, w) + bias, differentiable."""
    spec = p.spec._replace(activation=0, alpha=0.0)
    with remembering(p.x):
        if p.output_size is None:
            return fprop(p.x, p.w, p.bias, spec, p.channels_last, p.backend)
        return dgrad(p.x, p.w, p.bias, p.output_size, spec, p.channels_last, p.backend)


def convolved_with_statistics(p: Problem) -> tuple[Tensor, Tensor, Tensor]:
    """y as :func:`convolved`, and the mean and biased variance of its channels; they count as constants."""
    if p.output_size is None:
        with remembering(p.x):
            return fprop_stats(p.x, p.w, p.bias, p.spec, p.channels_last, p.backend)
    y = convolved(p)
    return y, *bn_stats(y, p.norm_backend)


def normalised(y: Tensor, norm: Norm, statistics: Statistics, backend: Backend) -> Tensor:
    """z = act((y - mean) invstd weight + bias + residual), in y's layout, differentiable.

    weight and bias may be of any dtype and strides. Where there is no residual, whoever reads z need not keep it: see
    :mod:`convkit.autograd.recipe`.
    """
    channels_last = is_channels_last(y) and not y.is_contiguous()
    with remembering(norm.residual):
        z = bn_act(y, *norm, statistics, channels_last, backend)
    if norm.residual is None and not torch.compiler.is_compiling() and z.requires_grad and not transforming():
        attach(z, Recipe(y.detach(), _Again(norm, channels_last, backend)))
    return z


def _copied(t: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    if t is None:
        return None
    t = t.detach()
    copy = vector(t, dtype)
    return t.clone() if copy is t else copy


class _Again:
    """Computes z from y once more. Weight and bias are copies: an optimizer may step before backward."""

    def __init__(self, norm: Norm, channels_last: bool, backend: Backend) -> None:
        dtype = norm.mean.dtype
        self._norm = norm.with_affine(_copied(norm.weight, dtype), _copied(norm.bias, dtype))
        self._channels_last, self._backend = channels_last, backend

    def __call__(self, y: Tensor) -> Tensor:
        return self._backend.bn_act(y, self._norm, self._channels_last)


def scaled(p: Problem, scale: Tensor | None, residual: Tensor | None) -> Tensor:
    """act(conv(x, w) scale + bias + residual), in one kernel, or differentiable where a derivative may be asked for."""
    if not differentiable(p.x, p.w, p.bias, scale, residual):
        return in_one_kernel(p, scale, p.bias, residual)
    if scale is None and residual is None and not p.spec.activation:
        return convolved(p)
    y = convolved(p._replace(bias=None))
    zeros = torch.zeros(y.shape[1], dtype=accumulate_dtype(y.dtype), device=y.device)
    norm = Norm(zeros, zeros + 1, scale, p.bias, residual, p.spec.activation, p.spec.alpha)
    return normalised(y, norm, Statistics(0.0, batch=False), p.norm_backend)
