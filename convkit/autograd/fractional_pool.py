"""Fractional max pooling with derivatives of every order: what was chosen is kept as flat indices."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from convkit.autograd.function import Formula, differentiable, operation
from convkit.autograd.unpool import plane_gather, plane_scatter
from convkit.backends.base import Backend
from convkit.backends.layout import is_channels_last
from convkit.backends.selection import select


class FractionalMaxPool(Formula):
    """y = the maximum of each window, and its flat index (not differentiable)."""

    tensors = 2

    @staticmethod
    def forward(
        x: Tensor,
        samples: Tensor,
        kernel_size: tuple[int, ...],
        output_size: tuple[int, ...],
        channels_last: bool,
        backend: Backend,
    ) -> tuple[Tensor, Tensor]:
        return backend.fractional_max_pool(x, samples, kernel_size, output_size, True, channels_last)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        x = inputs[0]
        ctx.backend, ctx.size, ctx.channels_last = inputs[5], tuple(x.shape[2:]), is_channels_last(x)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1])

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, _: Any) -> tuple[Tensor | None, ...]:
        if dy is None:
            return None, None, None, None, None, None
        (indices,) = ctx.saved_tensors
        dx = plane_scatter(dy, indices, ctx.size, ctx.channels_last, ctx.backend)
        return dx, None, None, None, None, None

    @staticmethod
    def jvp(ctx: Any, tx: Tensor, _: None) -> tuple[Tensor, None]:
        (indices,) = ctx.saved_tensors
        return plane_gather(tx, indices, ctx.channels_last, ctx.backend), None


fractional_max_pool = operation(FractionalMaxPool)


def fractional_pooling(
    x: Tensor,
    samples: Tensor,
    kernel_size: tuple[int, ...],
    output_size: tuple[int, ...],
    return_indices: bool = False,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """The maximum of each window that ``samples`` (N, C, dims) place in x -> (N, C, *output_size), in x's layout.

    With ``return_indices`` also the int64 indices of the chosen elements, flat within the plane of x.
    """
    chosen, _ = select("fractional_max_pool", x, None, None, backend)
    if not (return_indices or differentiable(x)):
        return chosen.fractional_max_pool(x, samples, kernel_size, output_size, False, is_channels_last(x))[0]
    out = fractional_max_pool(x, samples, kernel_size, output_size, is_channels_last(x), chosen)
    return out if return_indices else out[0]
