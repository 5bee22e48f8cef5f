"""Batch normalisation, residual and activation as one operation, behind a convolution that sums up its own result.

With the statistics of y (or running ones), invstd = 1 / sqrt(var + eps) and xhat = (y - mean) invstd,

    z = act(v),  v = xhat weight + bias + residual.

Backward recomputes v from y: with g = dz act'(v), dresidual = g, dbias = sum g, dweight = sum g xhat, and
(Ioffe & Szegedy, 2015)

    dy = invstd weight (g - sum g / n - xhat sum(g xhat) / n),

without the two means where the statistics are constants. Neither xhat nor v nor z is kept. Under a graph of
backward (double backward, transforms) the same formula runs in differentiable operations.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from convkit.autograd.conv import Fprop, Grads
from convkit.autograd.function import Formula, operation
from convkit.backends.base import Backend, Norm, NormSums
from convkit.backends.layout import is_channels_last
from convkit.backends.reference.activations import activation_gradient
from convkit.problem import ConvSpec


class Statistics(NamedTuple):
    """What the mean and invstd = 1 / sqrt(var + eps) of a norm are."""

    eps: float
    batch: bool  # those of y itself, which depend on it; otherwise constants
    elements: Tensor | None = None  # per channel, that they were taken over; None: those of y
    group: Any = None  # of the processes that share them, None: this one alone


class FpropStats(Formula):
    """(y, mean, var): y = conv(x, w) + bias, and the mean and biased variance of its channels, as constants."""

    tensors = Fprop.tensors

    @staticmethod
    def forward(
        x: Tensor, w: Tensor, bias: Tensor | None, spec: ConvSpec, channels_last: bool, backend: Backend
    ) -> tuple[Tensor, Tensor, Tensor]:
        return backend.conv_fprop_stats(x, w, bias, spec, channels_last)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        Fprop.setup_context(ctx, inputs, output[0])
        ctx.mark_non_differentiable(*output[1:])

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, *_: Any) -> Grads:
        return Fprop.backward(ctx, dy)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Any:
        return Fprop.jvp(ctx, *tangents), None, None


class BnStats(Formula):
    """(mean, biased variance) of y's channels, as constants."""

    tensors = 1

    @staticmethod
    def forward(y: Tensor, backend: Backend) -> tuple[Tensor, Tensor]:
        return backend.bn_stats(y)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward()
        ctx.mark_non_differentiable(*output)

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Grads:
        return None, None

    @staticmethod
    def jvp(ctx: Any, *_: Any) -> Any:
        return None, None


def vector(t: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """A weight or bias as backends take it; itself where it is so."""
    if t is None or (t.dtype is dtype and t.is_contiguous()):
        return t
    return t.to(dtype).contiguous()


def _for_kernels(norm: Norm) -> Norm:
    """``norm`` with weight and bias as backends take them: the modules' may be of half precision, or strided."""
    weight, bias = vector(norm.weight, norm.mean.dtype), vector(norm.bias, norm.mean.dtype)
    return norm if weight is norm.weight and bias is norm.bias else norm.with_affine(weight, bias)


class BnAct(Formula):
    """z of y and a :class:`Norm`, whose members are arguments; mean and invstd are constants to the caller."""

    tensors = 6

    @staticmethod
    def forward(
        y: Tensor,
        mean: Tensor,
        invstd: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        activation: int,
        alpha: float,
        statistics: Statistics,
        channels_last: bool,
        backend: Backend,
    ) -> Tensor:
        norm = Norm(mean, invstd, weight, bias, residual, activation, alpha)
        return backend.bn_act(y, _for_kernels(norm), channels_last)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, activation, alpha, ctx.statistics, _, ctx.backend = inputs
        ctx.form = activation, alpha
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, dz: Tensor | None) -> tuple[Any, ...]:
        if dz is None:
            return (None,) * 11
        y, *members = saved = ctx.saved_tensors
        needs = [ctx.needs_input_grad[i] for i in (0, 3, 4, 5)]
        graph = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (dz, *saved))
        run = _differentiable_backward if graph else _backward
        dy, dweight, dbias, dresidual = run(dz, y, Norm(*members, *ctx.form), ctx.statistics, needs, ctx.backend)
        return dy, None, None, dweight, dbias, dresidual, None, None, None, None, None

    @staticmethod
    def jvp(ctx: Any, ty: Any, tmean: Any, tinvstd: Any, tweight: Any, tbias: Any, tresidual: Any) -> Tensor:
        y, *members = ctx.saved_tensors
        parts = _Parts(y, Norm(*members, *ctx.form), ctx.statistics)
        tangent: Any = 0.0
        if ty is not None:
            tangent = parts.normalised(ty.to(parts.dtype))
        if tweight is not None:
            tangent = tangent + parts.xhat * parts.over_channels(tweight)
        if tbias is not None:
            tangent = tangent + parts.over_channels(tbias)
        if tresidual is not None:
            tangent = tangent + tresidual
        return parts.through_activation(torch.broadcast_to(tangent, y.shape)).to(y.dtype)


bn_act = operation(BnAct)
bn_stats = operation(BnStats)
fprop_stats = operation(FpropStats)


def across_processes(mean: Tensor, var: Tensor, number: int, group: Any) -> tuple[Tensor, Tensor, Tensor]:
    """(mean, var, count) of the values of all processes, from those of ``number`` values in this one.

    Sums of squares about a common mean add up (Chan, Golub & LeVeque, 1979). The count is a tensor: nothing waits for
    it.
    """
    mine = torch.cat((mean, var, mean.new_full((1,), number)))
    gathered = [torch.empty_like(mine) for _ in range(torch.distributed.get_world_size(group))]
    torch.distributed.all_gather(gathered, mine, group=group)
    means, variances, counts = torch.stack(gathered).split([mean.numel(), mean.numel(), 1], 1)
    count = counts.sum()
    share = counts / count
    mean = (means * share).sum(0)
    return mean, ((variances + (means - mean).square()) * share).sum(0), count


def _backward(
    dz: Tensor, y: Tensor, norm: Norm, statistics: Statistics, needs: list[bool], backend: Backend
) -> list[Tensor | None]:
    """The gradients of y, weight, bias and residual, where needed: one pass of sums, one that applies them.

    Both are one operation where they are over the same elements; between them, processes add up their sums.
    """
    operands = _for_kernels(norm)
    needs_y, needs_weight, needs_bias, needs_residual = needs
    needs_sums = needs_weight or needs_bias or (needs_y and statistics.batch)
    dweight = dbias = dy = dresidual = None
    if needs_y and needs_sums and statistics.elements is None:
        elements = y.numel() // y.shape[1] if statistics.batch else 0
        dy, dresidual, dbias, dweight = backend.bn_act_grad(
            dz, y, operands, elements, needs_residual, is_channels_last(y)
        )
    elif needs_sums:
        dbias, dweight = backend.bn_act_bwd_reduce(dz, y, operands)
    if dy is None and (needs_y or needs_residual):
        sums = NormSums()
        if statistics.batch and statistics.elements is not None:
            sums = _over_processes(dbias, dweight, statistics.elements, statistics.group)
        elif statistics.batch:
            sums = NormSums(dbias, dweight, y.numel() // y.shape[1])
        dy, dresidual = backend.bn_act_bwd(dz, y, operands, sums, needs_residual, is_channels_last(y))
    weight, bias = norm.weight, norm.bias
    return [
        dy if needs_y else None,
        dweight.to(weight.dtype) if needs_weight and weight is not None and dweight is not None else None,
        dbias.to(bias.dtype) if needs_bias and bias is not None and dbias is not None else None,
        dresidual if needs_residual else None,
    ]


def _over_processes(dbias: Any, dweight: Any, count: Tensor, group: Any) -> NormSums:
    """The sums of all processes over the number of all elements, which stays on its device."""
    both = torch.stack((dbias, dweight))
    torch.distributed.all_reduce(both, group=group)
    both = both / count
    return NormSums(both[0], both[1], 1)


class _Parts:
    """xhat, v and what they are made of, in differentiable operations in the dtype of the statistics."""

    def __init__(self, y: Tensor, norm: Norm, statistics: Statistics) -> None:
        self.dtype, self._norm, self._batch = norm.mean.dtype, norm, statistics.batch
        self.dims = (0, *range(2, y.dim()))
        self._shape = (1, -1, *(1,) * (y.dim() - 2))
        centred = y.to(self.dtype)
        if statistics.batch:  # as functions of y: a derivative of this takes them along
            centred = centred - centred.mean(self.dims, keepdim=True)
            self.invstd = torch.rsqrt(centred.square().mean(self.dims, keepdim=True) + statistics.eps)
        else:
            centred, self.invstd = centred - self.over_channels(norm.mean), self.over_channels(norm.invstd)
        self.xhat = centred * self.invstd
        v = self.xhat if norm.weight is None else self.xhat * self.over_channels(norm.weight)
        v = v if norm.bias is None else v + self.over_channels(norm.bias)
        self.v = v if norm.residual is None else v + norm.residual.to(self.dtype)

    def over_channels(self, vector: Tensor) -> Tensor:
        return vector.to(self.dtype).view(self._shape)

    def through_activation(self, t: Tensor) -> Tensor:
        """The activation's derivative at v, times ``t``."""
        return activation_gradient(t.to(self.dtype), self.v, *self._norm.form)

    def normalised(self, t: Tensor) -> Tensor:
        """The derivative of xhat weight by y, applied to ``t``: it is its own adjoint."""
        if self._batch:
            along = self.xhat * (self.xhat * t).mean(self.dims, keepdim=True)
            t = t - t.mean(self.dims, keepdim=True) - along
        t = t * self.invstd
        return t if self._norm.weight is None else t * self.over_channels(self._norm.weight)


def _differentiable_backward(
    dz: Tensor, y: Tensor, norm: Norm, statistics: Statistics, needs: list[bool], backend: Backend
) -> list[Tensor | None]:
    if statistics.elements is not None:
        raise RuntimeError(
            "a second derivative of batch normalisation over several processes is not available: "
            "process_group must be None for create_graph=True"
        )
    parts = _Parts(y, norm, statistics)
    g = parts.through_activation(dz)
    weight, bias, residual = norm.weight, norm.bias, norm.residual
    return [
        parts.normalised(g).to(y.dtype) if needs[0] else None,
        (g * parts.xhat).sum(parts.dims).to(weight.dtype) if needs[1] and weight is not None else None,
        g.sum(parts.dims).to(bias.dtype) if needs[2] and bias is not None else None,
        g.to(residual.dtype) if needs[3] and residual is not None else None,
    ]
