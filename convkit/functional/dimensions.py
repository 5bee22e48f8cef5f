"""From one definition of an operation to its public functions for one, two and three dimensions."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import FunctionType
from typing import Any, Concatenate, ParamSpec, TypeVar

from torch.overrides import handle_torch_function, has_torch_function

P = ParamSpec("P")
R = TypeVar("R")

# What the docstrings call the sizes of the spatial dimensions and of a window.
_SIZES = {1: ("L",), 2: ("H", "W"), 3: ("D", "H", "W")}
_TAPS = {1: "k", 2: "kH, kW", 3: "kD, kH, kW"}


def public(
    body: Callable[Concatenate[int, P], R], ndim: int, name: str, tensors: tuple[str, ...] = ("input",)
) -> Callable[P, R]:
    """``body`` for ``ndim`` dimensions, named ``name``, which may hold the place of the number: "conv{n}d".

    ``body`` takes the number of dimensions first, and its docstring is a template. ``tensors``: its first arguments
    after that which may be tensors, and so may override the function by ``__torch_function__``.
    """
    name = name.format(n=ndim)
    count = len(tensors)
    sizes = _SIZES[ndim]
    compute = _renamed(body, name)

    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        given: tuple[Any, ...] = args[:count]
        if len(given) < count:
            given += tuple([kwargs[t] for t in tensors if t in kwargs])
        if has_torch_function(given):
            overridden: R = handle_torch_function(call, given, *args, **kwargs)
            return overridden
        # Not ndim itself: torch.compile(dynamic=True) would take a number that it finds here for one that varies.
        return compute(len(sizes), *args, **kwargs)

    signature = inspect.signature(body)
    call.__dict__["__signature__"] = signature.replace(parameters=list(signature.parameters.values())[1:])
    call.__name__ = call.__qualname__ = name
    call.__module__ = body.__module__
    call.__annotations__ = {key: value for key, value in body.__annotations__.items() if key != "ndim"}
    call.__doc__ = body.__doc__ and body.__doc__.format(n=ndim, dims=", ".join(sizes), taps=_TAPS[ndim])
    return call


def _renamed(body: Any, name: str) -> Any:
    """The same function, which a TypeError about missing or superfluous arguments calls ``name``."""
    renamed = FunctionType(body.__code__, body.__globals__, name, body.__defaults__, body.__closure__)
    renamed.__kwdefaults__ = body.__kwdefaults__
    renamed.__qualname__ = name
    return renamed
