"""The two options that every convkit module has beyond torch.nn's: ``strict`` and ``backend``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Options:
    """Stands before torch.nn's class among the bases.

    The defaults are class attributes, so that a module whose class alone was exchanged, or which an older
    torch.nn module's state was loaded into, has them too.
    """

    strict: bool = False
    backend: str | None = None
    _functional: Callable[..., Any]

    def _set_options(self, strict: bool, backend: str | None) -> None:
        if strict:
            self.strict = strict
        if backend is not None:
            self.backend = backend

    def extra_repr(self) -> str:
        parts: list[str] = [super().extra_repr()]  # type: ignore[misc]
        parts += ["strict=True"] * self.strict
        parts += [f"backend={self.backend}"] * (self.backend is not None)
        return ", ".join(part for part in parts if part)


def each_dimension(pairs: Any, ndim: int) -> tuple[tuple[int, int], ...]:
    """(before, after) pairs of a padding, one per dimension; a single one stands for all."""
    given = [tuple(pair) for pair in pairs]
    return tuple(given * ndim if len(given) == 1 else given)
