"""Max unpooling, and the pair of operations that read and write planes by flat index, with all their derivatives.

plane_gather reads the elements that indices name and plane_scatter adds to them: each is the other's adjoint and so
its derivative. Unpooling puts values where indices say; its derivative reads there. Where indices repeat, unpooling
keeps the last value only, and still every one of them gets the gradient of the place they share, as in PyTorch.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from convkit.autograd.function import Formula, operation
from convkit.backends.base import Backend
from convkit.backends.layout import is_channels_last
from convkit.backends.selection import select


def _remember(ctx: Any, source: Tensor, indices: Tensor, backend: Backend) -> None:
    """What a derivative needs: the indices, and the size and layout of the tensor that gets the gradient."""
    ctx.backend, ctx.size, ctx.channels_last = backend, tuple(source.shape[2:]), is_channels_last(source)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(indices)


class MaxUnpool(Formula):
    """y[indices[o]] = x[o], zero elsewhere."""

    tensors = 2

    @staticmethod
    def forward(
        x: Tensor, indices: Tensor, output_size: tuple[int, ...], channels_last: bool, backend: Backend
    ) -> Tensor:
        return backend.max_unpool(x, indices, output_size, channels_last)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _remember(ctx, inputs[0], inputs[1], inputs[4])
        ctx.output_size, ctx.result_channels_last = inputs[2], inputs[3]

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None) -> tuple[Tensor | None, ...]:
        if dy is None:
            return None, None, None, None, None
        (indices,) = ctx.saved_tensors
        return plane_gather(dy, indices, ctx.channels_last, ctx.backend), None, None, None, None

    @staticmethod
    def jvp(ctx: Any, tx: Tensor, _: None) -> Tensor:
        (indices,) = ctx.saved_tensors
        return max_unpool(tx, indices, ctx.output_size, ctx.result_channels_last, ctx.backend)


class PlaneGather(Formula):
    """y[o] = x[indices[o]]."""

    tensors = 2

    @staticmethod
    def forward(x: Tensor, indices: Tensor, channels_last: bool, backend: Backend) -> Tensor:
        return backend.plane_gather(x, indices, channels_last)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _remember(ctx, inputs[0], inputs[1], inputs[3])
        ctx.result_channels_last = inputs[2]

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None) -> tuple[Tensor | None, ...]:
        if dy is None:
            return None, None, None, None
        (indices,) = ctx.saved_tensors
        return plane_scatter(dy, indices, ctx.size, ctx.channels_last, ctx.backend), None, None, None

    @staticmethod
    def jvp(ctx: Any, tx: Tensor, _: None) -> Tensor:
        (indices,) = ctx.saved_tensors
        return plane_gather(tx, indices, ctx.result_channels_last, ctx.backend)


class PlaneScatter(Formula):
    """dx[indices[o]] += dy[o]: the adjoint of PlaneGather."""

    tensors = 2

    @staticmethod
    def forward(
        dy: Tensor, indices: Tensor, input_size: tuple[int, ...], channels_last: bool, backend: Backend
    ) -> Tensor:
        return backend.plane_scatter(dy, indices, input_size, channels_last)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _remember(ctx, inputs[0], inputs[1], inputs[4])
        ctx.input_size, ctx.result_channels_last = inputs[2], inputs[3]

    @staticmethod
    def backward(ctx: Any, g: Tensor | None) -> tuple[Tensor | None, ...]:
        if g is None:
            return None, None, None, None, None
        (indices,) = ctx.saved_tensors
        return plane_gather(g, indices, ctx.channels_last, ctx.backend), None, None, None, None

    @staticmethod
    def jvp(ctx: Any, tdy: Tensor, _: None) -> Tensor:
        (indices,) = ctx.saved_tensors
        return plane_scatter(tdy, indices, ctx.input_size, ctx.result_channels_last, ctx.backend)


max_unpool = operation(MaxUnpool)
plane_gather = operation(PlaneGather)
plane_scatter = operation(PlaneScatter)


def unpooling(x: Tensor, indices: Tensor, output_size: tuple[int, ...], backend: str | None = None) -> Tensor:
    """x (N, C, *spatial) at the flat positions ``indices`` of zeros (N, C, *output_size), in x's memory layout."""
    chosen, _ = select("max_unpool", x, None, None, backend)
    return max_unpool(x, indices, output_size, is_channels_last(x), chosen)
