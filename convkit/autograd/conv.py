"""Convolution and transposed convolution with derivatives of every order, for any backend.

Three raw operations are closed under differentiation. With y = fprop(x, w), each is linear in each of its two
tensors, and the derivative of one in an operand is one of the other two:

========== ================ ===============================================
fprop      dx = dgrad(dy, w)    dw = wgrad(dy, x)
dgrad      d(dy) = fprop(g, w)  dw = wgrad(dy, g)
wgrad      d(dy) = fprop(x, g)  dx = dgrad(dy, g)
========== ================ ===============================================

The other operand is conjugated in these (autograd's convention for complex numbers). A gradient has the memory
layout of the tensor it belongs to. The forward pass chooses the backend; every backward pass of it uses that one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from convkit.autograd.function import Formula, operation
from convkit.autograd.recipe import remembering
from convkit.backends.base import Backend
from convkit.backends.layout import is_channels_last
from convkit.backends.selection import select
from convkit.problem import ConvSpec

Grads = tuple[Tensor | None, ...]


def _sum(terms: list[Tensor]) -> Tensor:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def _conj(t: Tensor) -> Tensor:
    return t.conj() if t.is_complex() else t


def _windows(y: Tensor, like: Tensor) -> Tensor:
    """The first windows of ``y``, as many as ``like`` has.

    A transposed convolution whose output_padding is not below its stride has fewer windows than fit its output.
    """
    first = y
    for d in range(2, y.dim()):
        if y.shape[d] != like.shape[d]:
            first = first.narrow(d, 0, like.shape[d])
    return y if first is y else first.clone()  # as dense as a gradient is elsewhere


class Fprop(Formula):
    """y = conv(x, w) + bias."""

    tensors = 3

    @staticmethod
    def forward(
        x: Tensor, w: Tensor, bias: Tensor | None, spec: ConvSpec, channels_last: bool, backend: Backend
    ) -> Tensor:
        return backend.conv_fprop(x, w, bias, None, None, spec, channels_last)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, w, _, ctx.spec, ctx.channels_last, ctx.backend = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, w)

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None) -> Grads:
        dx = dw = db = None
        if dy is not None:
            x, w = ctx.saved_tensors
            needs_x, needs_w, needs_b = ctx.needs_input_grad[:3]
            if needs_x:
                dx = dgrad(dy, _conj(w), None, tuple(x.shape[2:]), ctx.spec, is_channels_last(x), ctx.backend)
            if needs_w:
                dw = wgrad(dy, _conj(x), tuple(w.shape[2:]), ctx.spec, is_channels_last(w), ctx.backend)
            if needs_b:
                db = bgrad(dy, ctx.backend)
        return dx, dw, db, None, None, None

    @staticmethod
    def jvp(ctx: Any, tx: Tensor | None, tw: Tensor | None, tb: Tensor | None) -> Tensor:
        x, w = ctx.saved_tensors
        static = ctx.spec, ctx.channels_last, ctx.backend
        terms = [] if tx is None else [fprop(tx, w, None, *static)]
        terms += [] if tw is None else [fprop(x, tw, None, *static)]
        terms += [] if tb is None else [fprop(x, torch.zeros_like(w), tb, *static)]
        return _sum(terms)


class Dgrad(Formula):
    """dx = the adjoint of conv(., w) applied to dy, + bias; read forwards, a transposed convolution of dy."""

    tensors = 3

    @staticmethod
    def forward(
        dy: Tensor,
        w: Tensor,
        bias: Tensor | None,
        input_size: tuple[int, ...],
        spec: ConvSpec,
        channels_last: bool,
        backend: Backend,
    ) -> Tensor:
        return backend.conv_dgrad(dy, w, bias, None, None, input_size, spec, channels_last)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        dy, w, _, ctx.input_size, ctx.spec, ctx.channels_last, ctx.backend = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(dy, w)

    @staticmethod
    def backward(ctx: Any, g: Tensor | None) -> Grads:
        ddy = dw = db = None
        if g is not None:
            dy, w = ctx.saved_tensors
            needs_dy, needs_w, needs_b = ctx.needs_input_grad[:3]
            if needs_dy:
                ddy = _windows(fprop(g, _conj(w), None, ctx.spec, is_channels_last(dy), ctx.backend), dy)
            if needs_w:
                dw = wgrad(_conj(dy), g, tuple(w.shape[2:]), ctx.spec, is_channels_last(w), ctx.backend)
            if needs_b:
                db = bgrad(g, ctx.backend)
        return ddy, dw, db, None, None, None, None

    @staticmethod
    def jvp(ctx: Any, tdy: Tensor | None, tw: Tensor | None, tb: Tensor | None) -> Tensor:
        dy, w = ctx.saved_tensors
        static = ctx.input_size, ctx.spec, ctx.channels_last, ctx.backend
        terms = [] if tdy is None else [dgrad(tdy, w, None, *static)]
        terms += [] if tw is None else [dgrad(dy, tw, None, *static)]
        terms += [] if tb is None else [dgrad(dy, torch.zeros_like(w), tb, *static)]
        return _sum(terms)


class Wgrad(Formula):
    """dw = the adjoint of conv(x, .) applied to dy."""

    tensors = 2

    @staticmethod
    def forward(
        dy: Tensor, x: Tensor, kernel_size: tuple[int, ...], spec: ConvSpec, channels_last: bool, backend: Backend
    ) -> Tensor:
        return backend.conv_wgrad(dy, x, kernel_size, spec, channels_last)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        dy, x, ctx.kernel_size, ctx.spec, ctx.channels_last, ctx.backend = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(dy, x)

    @staticmethod
    def backward(ctx: Any, g: Tensor | None) -> Grads:
        ddy = dx = None
        if g is not None:
            dy, x = ctx.saved_tensors
            needs_dy, needs_x = ctx.needs_input_grad[:2]
            if needs_dy:
                ddy = _windows(fprop(_conj(x), g, None, ctx.spec, is_channels_last(dy), ctx.backend), dy)
            if needs_x:
                dx = dgrad(_conj(dy), g, None, tuple(x.shape[2:]), ctx.spec, is_channels_last(x), ctx.backend)
        return ddy, dx, None, None, None, None

    @staticmethod
    def jvp(ctx: Any, tdy: Tensor | None, tx: Tensor | None) -> Tensor:
        dy, x = ctx.saved_tensors
        static = ctx.kernel_size, ctx.spec, ctx.channels_last, ctx.backend
        terms = [] if tdy is None else [wgrad(tdy, x, *static)]
        terms += [] if tx is None else [wgrad(dy, tx, *static)]
        return _sum(terms)


class Bgrad(Formula):
    """db = the sum of dy over batch and space."""

    tensors = 1

    @staticmethod
    def forward(dy: Tensor, backend: Backend) -> Tensor:
        return backend.conv_bgrad(dy)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.size, ctx.backend = inputs[0].shape, inputs[1]
        ctx.set_materialize_grads(False)
        ctx.save_for_backward()

    @staticmethod
    def backward(ctx: Any, g: Tensor | None) -> Grads:
        if g is None:
            return None, None
        return g.view(1, -1, *(1,) * (len(ctx.size) - 2)).expand(ctx.size), None

    @staticmethod
    def jvp(ctx: Any, tdy: Tensor) -> Tensor:
        return bgrad(tdy, ctx.backend)


fprop = operation(Fprop)
dgrad = operation(Dgrad)
wgrad = operation(Wgrad)
bgrad = operation(Bgrad)


def dense(vector: Tensor | None) -> Tensor | None:
    """A bias or scale with its elements side by side, as raw operations read it."""
    return vector if vector is None or vector.is_contiguous() else vector.contiguous()


def convolution(x: Tensor, w: Tensor, bias: Tensor | None, spec: ConvSpec, backend: str | None = None) -> Tensor:
    """y = conv(x, w) + bias: x (N, C, *spatial), w (K, C/groups, *kernel), bias (K,) or None -> (N, K, *out).

    y is channels_last where x or w is. Shapes and dtypes were validated by the caller.
    """
    chosen, spec = select("conv_fprop", x, w, spec, backend)
    with remembering(x):
        return fprop(x, w, dense(bias), spec, is_channels_last(x) or is_channels_last(w), chosen)


def transposed_convolution(
    x: Tensor, w: Tensor, bias: Tensor | None, output_size: tuple[int, ...], spec: ConvSpec, backend: str | None = None
) -> Tensor:
    """The adjoint of the convolution of ``spec``: x (N, K, *spatial), w (K, C/groups, *kernel) -> (N, C, *output_size).

    The result is channels_last where x or w is. Shapes and dtypes were validated by the caller.
    """
    chosen, spec = select("conv_dgrad", x, w, spec, backend)
    with remembering(x):
        return dgrad(x, w, dense(bias), tuple(output_size), spec, is_channels_last(x) or is_channels_last(w), chosen)
