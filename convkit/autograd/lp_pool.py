"""Lp pooling with derivatives of every order, for any backend, in its input and in its exponent.

With a(x) = x^(p-1), b(y) = y^(1-p), W the window sum and W* its adjoint,

    y  = W(x^p)^(1/p)                       LpPool, one raw operation
    dx = a(x) W*(dy b(y))                   LpPoolBwd, another
    dp = sum of dy (y / p) (W(x^p ln x) y^-p - ln y)

dx is differentiated in dy, x, y and p, as if y were a variable of its own: y is LpPool's result, computed once more
where that is differentiated, so what flows to it goes on through LpPool's backward. These derivatives are made of
elementwise operations and of average pooling (times the size of the window), which are differentiable themselves. Where
y is 0, PyTorch's gradient is 0, and so is b.
In the semantics of a norm, x stands for |x| and a(x) for sign(x) |x|^(p-1), 0 at 0.
"""

from __future__ import annotations

from math import inf, prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from convkit.autograd.function import Formula, keep_result, kept_result, operation
from convkit.autograd.pool import avg_pool, avg_pool_bwd
from convkit.backends.base import Backend
from convkit.backends.layout import is_channels_last
from convkit.backends.selection import select
from convkit.problem import PoolSpec

Grads = tuple[Tensor | None, ...]


class Power(NamedTuple):
    """What the exponent is used for; ``p`` is its value where no tensor holds it."""

    p: float
    norm: bool


class _Terms:
    """The pieces of the formulas for one x, y and exponent, in the type that sums are kept in."""

    def __init__(self, x: Tensor, y: Tensor, exponent: Tensor | None, ctx: Any) -> None:
        self.dtype = x.dtype
        self.wide = torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else x.dtype
        self.x, self.y = x.to(self.wide), y.to(self.wide)
        self.p: Any = ctx.power.p if exponent is None else exponent.reshape(()).to(self.wide)
        self.norm, self.backend = ctx.power.norm, ctx.backend
        self.layout, self.size = is_channels_last(x), tuple(x.shape[2:])
        counted = {"count_include_pad": True, "divisor_override": 1 if self.norm else 0}
        self.spec = ctx.spec._replace(**counted)
        self.window = 1 if self.norm else prod(self.spec.kernel_size)
        self.dead = self.y == 0
        if not self.norm:  # a negative power of the sum 0
            self.dead = self.dead | ((self.y == inf) & (torch.as_tensor(self.p, device=x.device) < 0))
        self.live = torch.where(self.dead, 1, self.y)
        self.zero = self.x == 0
        self.size_of = torch.where(self.zero, 1, self.x.abs())

    def sums(self, v: Tensor) -> Tensor:
        """W(v), what a change of the powers does to the sums; 0 where y and b are, though a slope may be infinite."""
        return torch.where(self.dead, 0, avg_pool(v, self.spec, self.layout, self.backend) * self.window)

    def spread(self, v: Tensor) -> Tensor:
        """W*(v)."""
        return avg_pool_bwd(v, self.size, self.spec, self.layout, self.backend) * self.window

    def _times(self, factor: Any, power: Tensor) -> Tensor:
        """factor * power, where a factor of 0 wins over an infinite power: no power, no derivative."""
        if isinstance(factor, Tensor):
            return torch.where(factor == 0, 0, factor * power)
        return power * factor if factor != 0 else torch.zeros_like(power)

    def slope(self) -> Tensor:
        """a(x)."""
        if not self.norm:
            return self.x.pow(self.p - 1)
        return torch.where(self.zero, 0, self.size_of.pow(self.p - 1) * self.x.sign())

    def slope_in_x(self) -> Tensor:
        """a'(x)."""
        factor = self.p - 1
        if not self.norm:
            return self._times(factor, self.x.pow(self.p - 2))
        ordinary = self._times(factor, self.size_of.pow(self.p - 2))
        at_zero = torch.where(torch.as_tensor(self.p, device=self.x.device) == 2, 1.0, 0.0).to(self.wide)
        return torch.where(self.zero, at_zero, ordinary)

    def weight(self) -> Tensor:
        """b(y)."""
        return torch.where(self.dead, 0, self.live.pow(1 - self.p))

    def weight_in_y(self) -> Tensor:
        """b'(y)."""
        return torch.where(self.dead, 0, self._times(1 - self.p, self.live.pow(-self.p)))

    def log_x(self) -> Tensor:
        """ln x, 0 at 0."""
        inside = self.size_of if self.norm else torch.where(self.zero, 1, self.x)
        return inside.log()

    def log_y(self) -> Tensor:
        return self.live.log()

    def in_exponent(self) -> Tensor:
        """The derivative of y in p."""
        base = self.size_of if self.norm else torch.where(self.zero, 1, self.x)
        mixed = torch.where(self.zero, 0, base.pow(self.p) * base.log())
        return self.live / self.p * (self.sums(mixed) * self.live.pow(-self.p) - self.log_y())


def _scalar(total: Tensor, exponent: Tensor) -> Tensor:
    return total.sum().to(exponent.dtype).reshape(exponent.shape)


class LpPool(Formula):
    """y = the p-norm of each window."""

    tensors = 2

    @staticmethod
    def forward(
        x: Tensor, exponent: Tensor | None, power: Power, spec: PoolSpec, channels_last: bool, backend: Backend
    ) -> Tensor:
        return backend.lp_pool(x, exponent, spec, power.p, power.norm, channels_last)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, exponent, ctx.power, ctx.spec, _, ctx.backend = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, exponent, keep_result(ctx, output))

    @staticmethod
    def saved(ctx: Any) -> tuple[Tensor, Any, Tensor]:
        """x, the exponent and y."""
        x, exponent, kept = ctx.saved_tensors

        def again() -> Tensor:
            return lp_pool(x, exponent, ctx.power, ctx.spec, is_channels_last(x), ctx.backend)

        return x, exponent, kept_result(ctx, kept, again)

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None) -> Grads:
        if dy is None:
            return None, None, None, None, None, None
        x, exponent, y = LpPool.saved(ctx)
        needs_x, needs_exponent = ctx.needs_input_grad[:2]
        dx = dp = None
        if needs_x:
            dx = lp_pool_bwd(dy, x, y, exponent, ctx.power, ctx.spec, is_channels_last(x), ctx.backend)
        if needs_exponent:
            t = _Terms(x, y, exponent, ctx)
            dp = _scalar(dy.to(t.wide) * t.in_exponent(), exponent)
        return dx, dp, None, None, None, None

    @staticmethod
    def jvp(ctx: Any, tx: Tensor | None, tp: Tensor | None) -> Tensor:
        x, exponent, y = LpPool.saved(ctx)
        t = _Terms(x, y, exponent, ctx)
        total = torch.zeros_like(t.y)
        if tx is not None:
            total = total + t.weight() * t.sums(t.slope() * tx.to(t.wide))
        if tp is not None:
            total = total + tp.to(t.wide).reshape(()) * t.in_exponent()
        return total.to(t.dtype)


class LpPoolBwd(Formula):
    """dx = the gradient of LpPool in x, a function of dy, x, y and the exponent."""

    tensors = 4

    @staticmethod
    def forward(
        dy: Tensor,
        x: Tensor,
        y: Tensor,
        exponent: Tensor | None,
        power: Power,
        spec: PoolSpec,
        channels_last: bool,
        backend: Backend,
    ) -> Tensor:
        return backend.lp_pool_bwd(dy, x, y, exponent, spec, power.p, power.norm, channels_last)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        dy, x, y, exponent, ctx.power, ctx.spec, _, ctx.backend = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(dy, x, y, exponent)

    @staticmethod
    def backward(ctx: Any, g: Tensor | None) -> Grads:
        none = (None,) * 4
        if g is None:
            return (None,) * 4 + none
        dy, x, y, exponent = ctx.saved_tensors
        t = _Terms(x, y, exponent, ctx)
        wide = g.to(t.wide)
        gradient = dy.to(t.wide)
        needs_dy, needs_x, needs_y, needs_exponent = ctx.needs_input_grad[:4]
        ddy = dx = ddy_y = dp = None
        slope, weight = t.slope(), t.weight()
        if needs_dy or needs_y or needs_exponent:
            arriving = t.sums(wide * slope)  # what dx's change asks of every window
            if needs_dy:
                ddy = (weight * arriving).to(dy.dtype)
            if needs_y:
                ddy_y = (gradient * t.weight_in_y() * arriving).to(y.dtype)
        if needs_x or needs_exponent:
            spread = t.spread(gradient * weight)
            if needs_x:
                dx = (wide * t.slope_in_x() * spread).to(x.dtype)
        if needs_exponent:
            through_x = (wide * slope * t.log_x() * spread).sum()
            through_y = (arriving * gradient * weight * t.log_y()).sum()
            dp = _scalar(through_x - through_y, exponent)
        return (ddy, dx, ddy_y, dp, *none)

    @staticmethod
    def jvp(ctx: Any, tdy: Tensor | None, tx: Tensor | None, ty: Tensor | None, tp: Tensor | None) -> Tensor:
        dy, x, y, exponent = ctx.saved_tensors
        t = _Terms(x, y, exponent, ctx)
        gradient, slope, weight = dy.to(t.wide), t.slope(), t.weight()
        windows = torch.zeros_like(gradient)  # the tangent of dy b(y)
        if tdy is not None:
            windows = windows + tdy.to(t.wide) * weight
        if ty is not None:
            windows = windows + gradient * t.weight_in_y() * ty.to(t.wide)
        if tp is not None:
            power = tp.to(t.wide).reshape(())
            windows = windows - power * gradient * weight * t.log_y()
        total = slope * t.spread(windows)
        if tx is not None or tp is not None:
            spread = t.spread(gradient * weight)
            if tx is not None:
                total = total + t.slope_in_x() * tx.to(t.wide) * spread
            if tp is not None:
                total = total + power * slope * t.log_x() * spread
        return total.to(t.dtype)


lp_pool = operation(LpPool)
lp_pool_bwd = operation(LpPoolBwd)


def lp_pooling(
    x: Tensor, exponent: Tensor | float, spec: PoolSpec, norm: bool = False, backend: str | None = None
) -> Tensor:
    """The p-norm of each window of x (N, C, *spatial) -> (N, C, *out), in x's memory layout.

    ``exponent``: a number, or a floating tensor of one element, which may require a gradient. ``norm``: |x| instead
    of x, and scaled; see :meth:`convkit.backends.base.Backend.lp_pool`.
    """
    chosen, spec = select("lp_pool", x, None, spec, backend)
    tensor, p = (exponent, 0.0) if isinstance(exponent, Tensor) else (None, exponent)
    return lp_pool(x, tensor, Power(p, norm), spec, is_channels_last(x), chosen)
