"""From one formula to every form of torch.autograd.Function that PyTorch's modes need.

An operation is written once, as a class with static methods (:class:`Formula`). :func:`operation` makes a
callable of it that takes, in this order of preference,

- eager, no gradient wanted: the forward computation, without any Function;
- eager, gradient wanted: a Function whose ``forward`` takes ``ctx``, the form with the least overhead;
- torch.func transforms and forward-mode AD: a Function with ``setup_context``, ``jvp`` and a generated vmap rule;
- torch.compile: one with ``setup_context`` but without ``jvp``, which Dynamo refuses.

What is private in torch.autograd and torch.func stands in this file alone. Where a PyTorch lacks it, every call
takes the form for transforms, which is slower and right everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, ParamSpec, Protocol, TypeVar, cast

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor
from torch._C import _functorch as functorch
from torch.autograd import Function

from convkit.backends.tracing import constant_while_traced

_P = ParamSpec("_P")
_R = TypeVar("_R", covariant=True)


class _Computes(Protocol[_P, _R]):
    """What a type checker sees of a :class:`Formula`: its operation takes and gives what ``forward`` does."""

    @staticmethod
    def forward(*args: _P.args, **kwargs: _P.kwargs) -> _R: ...


class Formula:
    """What an operation computes, saves, and how it is differentiated; ``operation`` makes it callable.

    The first ``tensors`` arguments are tensors or None, the others are static. ``backward`` consists of
    differentiable operations itself, so that all orders of derivatives work. ``jvp`` sees what
    ``setup_context`` saved for backward and the tangents of the tensors.
    """

    tensors: int

    @staticmethod
    def forward(*args: Any) -> Any:
        raise NotImplementedError

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        raise NotImplementedError

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Any, ...]:
        raise NotImplementedError

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise NotImplementedError


_unwrap_if_dead: Callable[[Tensor], Tensor] | None = getattr(functorch, "unwrap_if_dead", None)
_forward_ad_enabled: Callable[[bool], Any] = getattr(forward_ad, "_set_fwd_grad_enabled", nullcontext)
_functorch_active: Callable[[], bool] = getattr(torch._C, "_are_functorch_transforms_active", lambda: True)


def _forward_ad_active() -> bool:
    return getattr(forward_ad, "_current_level", 0) >= 0


@constant_while_traced  # what is active around the traced call: traced, it would see Dynamo's own interpreter
def _transforms_around_trace() -> bool:
    return functorch.peek_interpreter_stack() is not None or _forward_ad_active()


class _Static:
    __slots__ = ("values",)

    def __init__(self, values: tuple[Any, ...]) -> None:
        self.values = values


class _Context:
    """A ``ctx`` whose other attributes are those of the one within."""

    def __init__(self, ctx: Any) -> None:
        object.__setattr__(self, "within", ctx)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.within, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.within, name, value)


class _Saving(_Context):
    """Saves for forward-mode AD what is saved for backward.

    What ``ctx.to_save`` has afterwards does not tell under torch.vmap which dimension of a tensor is the batch's.
    """

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        self.within.save_for_backward(*tensors)
        self.within.save_for_forward(*tensors)


class _Primals(_Context):
    """Gives saved tensors without the tangents of the level that is differentiated."""

    @property
    def saved_tensors(self) -> tuple[Tensor | None, ...]:
        return tuple([t if t is None else _primal(t) for t in self.within.saved_tensors])


class _Watch:
    """Whether a tensor was changed in place since. Keeps none of its memory."""

    __slots__ = ("_alias", "_version")

    def __init__(self, tensor: Tensor) -> None:
        self._alias, self._version = tensor.detach(), tensor._version
        self._alias.data = tensor.new_empty(0)  # what is left of it is the counter of versions, which they share

    @property
    def changed(self) -> bool:
        return self._alias._version != self._version


def keep_result(ctx: Any, result: Tensor) -> Tensor | None:
    """What ``setup_context`` saves of an operation's own result, for :func:`kept_result` in ``backward`` and ``jvp``.

    The result may be changed in place, as behind PyTorch's compositions. Saved as it is, it would then be refused; with
    hooks on saved tensors, or compiled, which know no versions, gradients would be wrong.
    """
    ctx.watch = None
    if torch.compiler.is_compiling():
        return result.clone()  # to a compiler one value of two names, until one of them is changed
    if isinstance(ctx, _Saving) or type(result) is not Tensor:
        return None
    ctx.watch = _Watch(result)
    return result.data  # without the counter of versions that PyTorch compares


def kept_result(ctx: Any, kept: Tensor | None, again: Callable[[], Tensor]) -> Tensor:
    """The result, by ``again`` (differentiable) where it was not kept, is no longer, or is to be differentiated."""
    if kept is None or (ctx.watch is not None and (torch.is_grad_enabled() or ctx.watch.changed)):
        return again()
    return kept


def _primal(t: Tensor) -> Tensor:
    if functorch.is_batchedtensor(t):  # torch.vmap has no rule for what takes a tangent off
        primal = _primal(functorch.get_unwrapped(t))
        return functorch._add_batch_dim(primal, functorch.maybe_get_bdim(t), functorch.maybe_get_level(t))
    return forward_ad.unpack_dual(t).primal


def _function(name: str, **methods: Callable[..., Any]) -> Any:
    return type(name, (Function,), {key: staticmethod(method) for key, method in methods.items()})


def _applied(function: Any, count: int) -> Callable[..., Any]:
    """``function.apply`` where no transform is active, for functions that are given ``ctx``.

    PyTorch's looks among all arguments for tensors that a transform left behind, and for defaults: a third of the time
    a node takes. Here only the first ``count`` arguments are tensors.
    """
    if _unwrap_if_dead is None:
        return function.apply
    apply, unwrap = super(Function, function).apply, _unwrap_if_dead
    return lambda *args: apply(*[t if t is None else unwrap(t) for t in args[:count]], *args[count:])


def transforming() -> bool:
    """Whether a transform of torch.func or forward-mode AD is active, outside of compiled code."""
    return _functorch_active() or _forward_ad_active()


def differentiable(*tensors: Tensor | None) -> bool:
    """Whether a derivative of what is computed from ``tensors`` now may be asked for later."""
    transforms = _transforms_around_trace() if torch.compiler.is_compiling() else transforming()
    return transforms or (torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors))


def operation(formula: _Computes[_P, _R]) -> Callable[_P, _R]:
    """The callable of ``formula``, a :class:`Formula`: it takes the arguments of ``formula.forward``, by position."""
    return _operation(cast("type[Formula]", formula))  # it is both, which no type says


def _operation(formula: type[Formula]) -> Callable[..., Any]:
    name, count, forward, setup_context = formula.__name__, formula.tensors, formula.forward, formula.setup_context

    def eager_forward(ctx: Any, *args: Any) -> Any:
        output = forward(*args)
        setup_context(ctx, args, output)
        return output

    # Under transforms the static arguments travel as one opaque object: PyTorch's generated vmap rule takes
    # tuples apart and expects a gradient for each of their elements.
    def transformed_forward(*args: Any) -> Any:
        return forward(*args[:count], *args[count].values)

    def transformed_setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        setup_context(_Saving(ctx), (*inputs[:count], *inputs[count].values), output)

    def transformed_backward(ctx: Any, *gradients: Any) -> tuple[Any, ...]:
        return (*formula.backward(ctx, *gradients)[:count], None)

    def transformed_jvp(ctx: Any, *tangents: Any) -> Any:
        # PyTorch calls this with forward-mode AD switched off, so that the tangents of a level further out, of a jvp
        # around this one, would be lost.
        with _forward_ad_enabled(True):
            return formula.jvp(_Primals(ctx), *tangents[:count])

    eager = _applied(_function(name, forward=eager_forward, backward=formula.backward), count)
    compiled = _function(name, forward=forward, setup_context=setup_context, backward=formula.backward)
    transformed = _function(
        name,
        forward=transformed_forward,
        setup_context=transformed_setup,
        backward=transformed_backward,
        jvp=transformed_jvp,
    )
    transformed.generate_vmap_rule = True

    def call(*args: Any) -> Any:
        if torch.compiler.is_compiling():
            if _transforms_around_trace():
                from convkit.autograd.outside_graph import run

                return run(call, *args)
            return compiled.apply(*args)
        try:
            if transforming():
                return transformed.apply(*args[:count], _Static(args[count:]))
            if torch.is_grad_enabled():
                for t in args[:count]:
                    if t is not None and t.requires_grad:
                        return eager(*args)
            return forward(*args)
        except RuntimeError as error:
            # The library cannot throw torch's own type, by which programs know that less may fit.
            if "CUDA out of memory." in str(error) and not isinstance(error, torch.OutOfMemoryError):
                raise torch.OutOfMemoryError(*error.args) from None
            raise

    return call
