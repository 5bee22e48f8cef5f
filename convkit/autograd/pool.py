"""Max and average pooling with derivatives of every order, for any backend.

Max pooling keeps one small offset per window (which tap was chosen) and not its input; then its derivative is
pool_select_bwd, the adjoint of pool_select, and each of these two is the derivative of the other. In the same
way avg_pool and avg_pool_bwd are each other's adjoints. A gradient has the memory layout of the tensor it belongs
to. The forward pass chooses the backend; every backward pass of it uses that one.
"""

from __future__ import annotations

from typing import Any, Literal, overload

from torch import Tensor

from convkit.autograd.function import Formula, differentiable, operation
from convkit.backends.base import Backend
from convkit.backends.layout import is_channels_last
from convkit.backends.selection import select
from convkit.problem import PoolSpec


def _remember(ctx: Any, source: Tensor, spec: PoolSpec, backend: Backend) -> None:
    """What the adjoint of a pool needs to know of the tensor it must give a gradient to."""
    ctx.spec, ctx.backend = spec, backend
    ctx.size, ctx.channels_last = tuple(source.shape[2:]), is_channels_last(source)
    ctx.set_materialize_grads(False)


class MaxPool(Formula):
    """y = the maximum of each window, and the offset of the tap that has it (not differentiable)."""

    tensors = 1

    @staticmethod
    def forward(x: Tensor, spec: PoolSpec, channels_last: bool, backend: Backend) -> tuple[Tensor, Tensor]:
        return backend.max_pool(x, spec, True, channels_last)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        _remember(ctx, inputs[0], inputs[1], inputs[3])
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1])

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, _: Any) -> tuple[Tensor | None, ...]:
        if dy is None:
            return None, None, None, None
        (offsets,) = ctx.saved_tensors
        return select_bwd(dy, offsets, ctx.size, ctx.spec, ctx.channels_last, ctx.backend), None, None, None

    @staticmethod
    def jvp(ctx: Any, tx: Tensor) -> tuple[Tensor, None]:
        (offsets,) = ctx.saved_tensors
        return pool_select(tx, offsets, ctx.spec, ctx.channels_last, ctx.backend), None


class Select(Formula):
    """y[o] = x[the element that offsets[o] names]."""

    tensors = 2

    @staticmethod
    def forward(x: Tensor, offsets: Tensor, spec: PoolSpec, channels_last: bool, backend: Backend) -> Tensor:
        return backend.pool_select(x, offsets, spec, channels_last)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _remember(ctx, inputs[0], inputs[2], inputs[4])
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None) -> tuple[Tensor | None, ...]:
        if dy is None:
            return None, None, None, None, None
        (offsets,) = ctx.saved_tensors
        dx = select_bwd(dy, offsets, ctx.size, ctx.spec, ctx.channels_last, ctx.backend)
        return dx, None, None, None, None

    @staticmethod
    def jvp(ctx: Any, tx: Tensor, _: None) -> Tensor:
        (offsets,) = ctx.saved_tensors
        return pool_select(tx, offsets, ctx.spec, ctx.channels_last, ctx.backend)


class SelectBwd(Formula):
    """dx[i] = the sum of dy[o] over the windows o whose offset names i: the adjoint of Select."""

    tensors = 2

    @staticmethod
    def forward(
        dy: Tensor, offsets: Tensor, input_size: tuple[int, ...], spec: PoolSpec, channels_last: bool, backend: Backend
    ) -> Tensor:
        return backend.pool_select_bwd(dy, offsets, input_size, spec, channels_last)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _remember(ctx, inputs[0], inputs[3], inputs[5])
        ctx.input_size = inputs[2]
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, g: Tensor | None) -> tuple[Tensor | None, ...]:
        if g is None:
            return None, None, None, None, None, None
        (offsets,) = ctx.saved_tensors
        ddy = pool_select(g, offsets, ctx.spec, ctx.channels_last, ctx.backend)
        return ddy, None, None, None, None, None

    @staticmethod
    def jvp(ctx: Any, tdy: Tensor, _: None) -> Tensor:
        (offsets,) = ctx.saved_tensors
        return select_bwd(tdy, offsets, ctx.input_size, ctx.spec, ctx.channels_last, ctx.backend)


class AvgPool(Formula):
    """y = the sum of each window over its divisor."""

    tensors = 1

    @staticmethod
    def forward(x: Tensor, spec: PoolSpec, channels_last: bool, backend: Backend) -> Tensor:
        return backend.avg_pool(x, spec, channels_last)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _remember(ctx, inputs[0], inputs[1], inputs[3])
        ctx.save_for_backward()

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None) -> tuple[Tensor | None, ...]:
        if dy is None:
            return None, None, None, None
        return avg_pool_bwd(dy, ctx.size, ctx.spec, ctx.channels_last, ctx.backend), None, None, None

    @staticmethod
    def jvp(ctx: Any, tx: Tensor) -> Tensor:
        return avg_pool(tx, ctx.spec, ctx.channels_last, ctx.backend)


class AvgPoolBwd(Formula):
    """dx = the adjoint of AvgPool applied to dy."""

    tensors = 1

    @staticmethod
    def forward(
        dy: Tensor, input_size: tuple[int, ...], spec: PoolSpec, channels_last: bool, backend: Backend
    ) -> Tensor:
        return backend.avg_pool_bwd(dy, input_size, spec, channels_last)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _remember(ctx, inputs[0], inputs[2], inputs[4])
        ctx.input_size = inputs[1]
        ctx.save_for_backward()

    @staticmethod
    def backward(ctx: Any, g: Tensor | None) -> tuple[Tensor | None, ...]:
        if g is None:
            return None, None, None, None, None
        return avg_pool(g, ctx.spec, ctx.channels_last, ctx.backend), None, None, None, None

    @staticmethod
    def jvp(ctx: Any, tdy: Tensor) -> Tensor:
        return avg_pool_bwd(tdy, ctx.input_size, ctx.spec, ctx.channels_last, ctx.backend)


max_pool = operation(MaxPool)
pool_select = operation(Select)
select_bwd = operation(SelectBwd)
avg_pool = operation(AvgPool)
avg_pool_bwd = operation(AvgPoolBwd)


@overload
def max_pooling(
    x: Tensor, spec: PoolSpec, return_indices: Literal[False] = False, backend: str | None = None
) -> Tensor: ...
@overload
def max_pooling(
    x: Tensor, spec: PoolSpec, return_indices: bool, backend: str | None = None
) -> Tensor | tuple[Tensor, Tensor]: ...
def max_pooling(
    x: Tensor, spec: PoolSpec, return_indices: bool = False, backend: str | None = None
) -> Tensor | tuple[Tensor, Tensor]:
    """The maximum of each window of x (N, C, *spatial) -> (N, C, *out), in x's memory layout.

    With ``return_indices`` also the int64 indices of the chosen elements, flat within the unpadded plane of x.
    """
    chosen, spec = select("max_pool", x, None, spec, backend)
    if not (return_indices or differentiable(x)):
        return chosen.max_pool(x, spec, False, is_channels_last(x))[0]
    y, offsets = max_pool(x, spec, is_channels_last(x), chosen)
    if not return_indices:
        return y
    return y, chosen.pool_indices(offsets, tuple(x.shape[2:]), spec, is_channels_last(x))


def average_pooling(x: Tensor, spec: PoolSpec, backend: str | None = None) -> Tensor:
    """The sum of each window of x (N, C, *spatial) over its divisor -> (N, C, *out), in x's memory layout."""
    chosen, spec = select("avg_pool", x, None, spec, backend)
    return avg_pool(x, spec, is_channels_last(x), chosen)
