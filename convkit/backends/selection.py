"""The registry of backends and the one place where a backend is chosen."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ContextDecorator, contextmanager
from contextvars import ContextVar, Token
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from convkit.backends import preference
from convkit.backends.aten import Aten
from convkit.backends.base import Backend
from convkit.backends.native import Native
from convkit.backends.reference import Reference
from convkit.backends.tracing import constant_while_traced
from convkit.backends.triton.backend import Triton
from convkit.problem import ConvSpec, PoolSpec

Spec = ConvSpec | PoolSpec

VARIABLE = "CONVKIT_BACKEND"
#: In this order; a backend outside of it runs when named, or where it was measured to be faster (preference.py).
AUTOMATIC = ("native", "reference")

_backends: dict[str, Backend] = {}


class Request(NamedTuple):
    """An explicit choice, and where it was made."""

    name: str
    algorithm: str | None
    source: str


_context: ContextVar[Request | None] = ContextVar("convkit_backend", default=None)
# The request of the context entered or left last. A compiled graph guards on it (a ContextVar cannot be guarded
# on), so that a graph traced under one choice is traced anew under another. It is the process's, not a thread's:
# code that is compiled while another thread is in a context may run later with what was chosen for the other.
_latest: Request | None = None
# Told of every choice before it is made, with what it is made for.
Listener = Callable[[str, Tensor, "Tensor | None", Any, "Request | None"], None]
_listener: ContextVar[Listener | None] = ContextVar("convkit_listener", default=None)
# Takes the place of automatic choices, while backends are measured. Of the process: a backward pass has its own thread.
Substitute = Callable[[str, Tensor, "Tensor | None", Any], "Backend | None"]
_substitute: Substitute | None = None


def register(implementation: Backend) -> None:
    """Adds a backend, or replaces the one of the same name."""
    _backends[implementation.name] = implementation
    _choose.cache_clear()


def names() -> tuple[str, ...]:
    """The names of all registered backends, usable on this machine or not."""
    return tuple(_backends)


def get(name: str) -> Backend:
    """The backend of this name; ValueError for an unknown one."""
    try:
        return _backends[name]
    except KeyError:
        known = ", ".join(map(repr, _backends))
        raise ValueError(f"unknown backend {name!r}: must be one of {known}") from None


class backend(ContextDecorator):
    """Chooses the backend, and maybe the algorithm, for the calls inside a ``with`` block or a decorated function.

    ``with convkit.backend("reference"): ...`` runs the block's operations there or raises RuntimeError with the
    reason. ``backend(None)`` returns to the automatic choice. ``algorithm`` names one algorithm of the backend.
    The choice is local to the thread or asyncio task. A backward pass uses its forward pass's backend. Compiled code
    is guarded by the choice that the process made last: threads must not run it under different choices at once.
    """

    def __init__(self, name: str | None, *, algorithm: str | None = None) -> None:
        if name is None and algorithm is not None:
            raise ValueError(f"algorithm={algorithm!r} needs the name of its backend")
        if name is not None:
            implementation = get(name)
            if algorithm is not None and algorithm not in implementation.algorithms():
                known = ", ".join(implementation.algorithms()) or "none"
                raise ValueError(f"backend {name!r} has no algorithm {algorithm!r}: it has {known}")
        self._request = Request(name or "", algorithm, f"with convkit.backend({name!r})")
        self._tokens: list[Token[Request | None]] = []

    def __enter__(self) -> backend:
        global _latest
        self._tokens.append(_context.set(self._request))
        _latest = self._request
        return self

    def __exit__(self, *exception: Any) -> None:
        global _latest
        _context.reset(self._tokens.pop())
        _latest = _context.get()

    def _recreate_cm(self) -> backend:
        # A decorated function may run in several threads at once: each call gets its own tokens.
        fresh = object.__new__(type(self))
        fresh._request, fresh._tokens = self._request, []
        return fresh


def request(name: str | None = None) -> Request | None:
    """The explicit choice in force: argument, else context, else environment; None where there is none."""
    if name is not None:
        return Request(name, None, f"backend={name!r}")
    chosen = _context.get()
    if chosen is not None:
        return chosen if chosen.name else None
    variable = os.environ.get(VARIABLE)
    return Request(variable, None, f"{VARIABLE}={variable}") if variable else None


@constant_while_traced  # which can read neither a ContextVar nor the environment
def _traced_request(name: str | None) -> Request | None:
    return request(name)


def refusal(
    implementation: Backend, op: str, dtype: torch.dtype, device: torch.device, spec: Spec | None
) -> str | None:
    """None, or the reason why a backend cannot run this."""
    return implementation.available() or implementation.supports(op, dtype, device, spec)


def with_algorithm(implementation: Backend, spec: Any, chosen: Request | None) -> Any:
    """``spec``, naming the requested algorithm where one was requested; pools have one each."""
    if chosen is None or chosen.algorithm is None or not isinstance(spec, ConvSpec):
        return spec
    return spec._replace(algorithm=implementation.algorithms().index(chosen.algorithm) + 1)


def listen(listener: Listener) -> Token[Listener | None]:
    """From now on in this context, tells ``listener`` of every choice; undone by :func:`unlisten`."""
    return _listener.set(listener)


def unlisten(token: Token[Listener | None]) -> None:
    _listener.reset(token)


@contextmanager
def substituted(substitute: Substitute) -> Iterator[None]:
    """Within it ``substitute`` chooses where nobody else does; None leaves the choice as it is."""
    global _substitute
    before, _substitute = _substitute, substitute
    try:
        yield
    finally:
        _substitute = before


def _find(op: str, dtype: torch.dtype, device: torch.device, spec: Any, chosen: Request | None) -> tuple[Backend, Any]:
    if chosen is not None:
        implementation = get(chosen.name)
        spec = with_algorithm(implementation, spec, chosen)
        reason = refusal(implementation, op, dtype, device, spec)
        if reason is not None:
            raise RuntimeError(f"backend {chosen.name!r}, chosen by {chosen.source}, cannot run {op}: {reason}")
        return implementation, spec
    reasons = []
    for name in AUTOMATIC:
        reason = refusal(_backends[name], op, dtype, device, spec)
        if reason is None:
            return _backends[name], spec
        reasons.append(f"{name}: {reason}")
    raise RuntimeError(f"no backend can run {op} for {dtype} on {device} ({'; '.join(reasons)})")


_choose = lru_cache(maxsize=4096)(_find)


def _measured(op: str, x: Tensor, w: Tensor | None, spec: Any) -> Backend | None:
    """The backend that was measured to be the fastest, where one was, and it can run this."""
    name = preference.fastest(op, x, w, spec)
    if name is None:
        return None
    implementation = get(name)
    return implementation if refusal(implementation, op, x.dtype, x.device, spec) is None else None


def select(op: str, x: Tensor, w: Tensor | None, spec: Any, name: str | None = None) -> tuple[Backend, Any]:
    """The backend for raw operation ``op`` of ``x`` (and ``w``), and ``spec`` with the requested algorithm."""
    if torch.compiler.is_compiling():
        # Reading _latest makes Dynamo guard on it; only then is the constant right in every later call.
        chosen = _traced_request(name) if _latest is None or _latest.name is not None else None
        better = _measured(op, x, w, spec) if chosen is None else None
        return _find(op, x.dtype, x.device, spec, chosen) if better is None else (better, spec)
    listener = _listener.get()
    if listener is not None:
        listener(op, x, w, spec, request(name))
    explicit = request(name)
    if explicit is None:
        if _substitute is not None and (found := _substitute(op, x, w, spec)) is not None:
            return found, spec
        if (better := _measured(op, x, w, spec)) is not None:
            return better, spec
    return _choose(op, x.dtype, x.device, spec, explicit)


def resolve(
    op: str, dtype: torch.dtype, device: torch.device, spec: Spec | None = None, backend: str | None = None
) -> Backend:
    """The backend that runs raw operation ``op``; RuntimeError with the reason where an explicit choice cannot."""
    return _choose(op, dtype, device, spec, request(backend))[0]


for _implementation in (Native(), Triton(), Reference(), Aten()):
    register(_implementation)
