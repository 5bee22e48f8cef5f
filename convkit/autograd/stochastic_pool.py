"""Stochastic pooling with derivatives of every order.

A draw is differentiated as a choice: it keeps one small offset per window, and its gradient is pool_select_bwd, as
that of max pooling. The expectation y = sum x^2 / sum x, over the positive x of a window with sum s, has

    dy/dx_j = (2 x_j - y) / s    where x_j > 0, else 0,

one raw operation; the derivatives of that one are made of sums over windows, P, and their adjoint A (avg_pool and
avg_pool_bwd with the divisor 1).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from convkit.autograd.function import Formula, keep_result, kept_result, operation
from convkit.autograd.pool import avg_pool, avg_pool_bwd, pool_select, select_bwd
from convkit.backends.base import Backend
from convkit.backends.layout import is_channels_last
from convkit.backends.selection import select
from convkit.problem import PoolSpec


class StochasticPool(Formula):
    """y = one element of each window, and the offset of its tap (not differentiable)."""

    tensors = 2

    @staticmethod
    def forward(
        x: Tensor, seed: Tensor, spec: PoolSpec, channels_last: bool, backend: Backend
    ) -> tuple[Tensor, Tensor]:
        return backend.stochastic_pool(x, seed, spec, channels_last)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        x, _, ctx.spec, _, ctx.backend = inputs
        ctx.size, ctx.channels_last = tuple(x.shape[2:]), is_channels_last(x)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1])

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, _: Any) -> tuple[Tensor | None, ...]:
        if dy is None:
            return None, None, None, None, None
        (offsets,) = ctx.saved_tensors
        dx = select_bwd(dy, offsets, ctx.size, ctx.spec, ctx.channels_last, ctx.backend)
        return dx, None, None, None, None

    @staticmethod
    def jvp(ctx: Any, tx: Tensor, _: None) -> tuple[Tensor, None]:
        (offsets,) = ctx.saved_tensors
        return pool_select(tx, offsets, ctx.spec, ctx.channels_last, ctx.backend), None


class _Sums:
    """Sums over windows of functions of x, and the adjoint: what derivatives of the gradient are made of."""

    def __init__(self, x: Tensor, spec: PoolSpec, channels_last: bool, backend: Backend) -> None:
        self._spec = spec._replace(divisor_override=1)
        self._size, self._channels_last, self._backend = tuple(x.shape[2:]), channels_last, backend
        self.x, self.positive = x, x > 0
        self.total = self.over_windows(x)
        self._alive = self.total > 0
        self._divisor = torch.where(self._alive, self.total, 1)

    def over_windows(self, v: Tensor) -> Tensor:
        """P(v): the sum of v at the positive x of each window."""
        kept = torch.where(self.positive, v, 0)
        return avg_pool(kept, self._spec, self._channels_last, self._backend)

    def adjoint(self, g: Tensor) -> Tensor:
        """A(g): the sum of g over the windows of each positive x."""
        spread = avg_pool_bwd(g, self._size, self._spec, self._channels_last, self._backend)
        return torch.where(self.positive, spread, 0)

    def share(self, v: Tensor) -> Tensor:
        """v / s, and 0 where a window has no positive element."""
        return torch.where(self._alive, v / self._divisor, 0)

    def slope(self, t: Tensor, y: Tensor) -> Tensor:
        """The derivative of y in direction t: sum of (2 x - y) t over s."""
        return self.share(2 * self.over_windows(self.x * t) - y * self.over_windows(t))


class StochasticMean(Formula):
    """y = sum x^2 / sum x over the positive x of each window."""

    tensors = 1

    @staticmethod
    def forward(x: Tensor, spec: PoolSpec, channels_last: bool, backend: Backend) -> Tensor:
        return backend.stochastic_mean(x, spec, channels_last)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, ctx.spec, ctx.channels_last, ctx.backend = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, keep_result(ctx, output))

    @staticmethod
    def saved(ctx: Any) -> tuple[Tensor, Tensor]:
        """x and y."""
        x, kept = ctx.saved_tensors
        return x, kept_result(ctx, kept, lambda: mean(x, ctx.spec, ctx.channels_last, ctx.backend))

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None) -> tuple[Tensor | None, ...]:
        if dy is None:
            return None, None, None, None
        x, y = StochasticMean.saved(ctx)
        return mean_bwd(dy, x, y, ctx.spec, ctx.channels_last, ctx.backend), None, None, None

    @staticmethod
    def jvp(ctx: Any, tx: Tensor) -> Tensor:
        x, y = StochasticMean.saved(ctx)
        return _Sums(x, ctx.spec, ctx.channels_last, ctx.backend).slope(tx, y)


class StochasticMeanBwd(Formula):
    """dx = A(dy (2 x - y) / s), a function of dy, x and y, s being the sum of x."""

    tensors = 3

    @staticmethod
    def forward(dy: Tensor, x: Tensor, y: Tensor, spec: PoolSpec, channels_last: bool, backend: Backend) -> Tensor:
        return backend.stochastic_mean_bwd(dy, x, y, spec, channels_last)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        dy, x, y, ctx.spec, ctx.channels_last, ctx.backend = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(dy, x, y)

    @staticmethod
    def backward(ctx: Any, g: Tensor | None) -> tuple[Tensor | None, ...]:
        if g is None:
            return None, None, None, None, None, None
        dy, x, y = ctx.saved_tensors
        sums = _Sums(x, ctx.spec, ctx.channels_last, ctx.backend)
        share, ddy = sums.share(dy), sums.slope(g, y)
        dx = 2 * g * sums.adjoint(share) - sums.adjoint(share * ddy)  # through x itself, and through s
        return ddy, dx, -share * sums.over_windows(g), None, None, None

    @staticmethod
    def jvp(ctx: Any, tdy: Tensor | None, tx: Tensor | None, ty: Tensor | None) -> Tensor:
        dy, x, y = ctx.saved_tensors
        sums = _Sums(x, ctx.spec, ctx.channels_last, ctx.backend)
        share = sums.share(dy)
        weight = torch.zeros_like(dy) if tdy is None else tdy  # what moves dy / s
        dx = torch.zeros_like(x)
        if tx is not None:
            weight = weight - share * sums.over_windows(tx)
            dx = dx + 2 * tx * sums.adjoint(share)
        if ty is not None:
            dx = dx - sums.adjoint(share * ty)
        return dx + mean_bwd(weight, x, y, ctx.spec, ctx.channels_last, ctx.backend)


draw = operation(StochasticPool)
mean = operation(StochasticMean)
mean_bwd = operation(StochasticMeanBwd)


def stochastic_pooling(
    x: Tensor, seed: Tensor, spec: PoolSpec, return_indices: bool = False, backend: str | None = None
) -> Tensor | tuple[Tensor, Tensor]:
    """One element of each window of x (N, C, *spatial) -> (N, C, *out), drawn by the number in ``seed``.

    With ``return_indices`` also the int64 indices of the chosen elements, flat within the unpadded plane of x, and
    -1 where a window has no positive element.
    """
    chosen, spec = select("stochastic_pool", x, None, spec, backend)
    y, offsets = draw(x, seed, spec, is_channels_last(x), chosen)
    if not return_indices:
        return y
    return y, chosen.pool_indices(offsets, tuple(x.shape[2:]), spec, is_channels_last(x))


def stochastic_expectation(x: Tensor, spec: PoolSpec, backend: str | None = None) -> Tensor:
    """The expectation of :func:`stochastic_pooling`."""
    chosen, spec = select("stochastic_mean", x, None, spec, backend)
    return mean(x, spec, is_channels_last(x), chosen)
