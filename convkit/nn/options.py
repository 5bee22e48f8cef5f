"""What every convkit module has beyond torch.nn's: options that the constructor takes by keyword."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

# A mixin stands before torch.nn's class among the bases, and calls it by super(). The type checker sees a module.
if TYPE_CHECKING:
    Mixin = torch.nn.Module
else:
    Mixin = object


class Options(Mixin):
    """Keeps the options of a module, and shows those that are not the default.

    The defaults are class attributes, so that a module whose class alone was exchanged, or which an older
    torch.nn module's state was loaded into, has them too. A family adds its own to ``_shown``.
    """

    strict: bool = False
    backend: str | None = None
    _shown: tuple[str, ...] = ("strict", "backend")
    _functional: Callable[..., Any]

    def _set_options(self, **given: Any) -> None:
        for name, value in given.items():
            if value != getattr(type(self), name):
                setattr(self, name, value)

    def _torch_repr(self) -> str:
        return super().extra_repr()

    def extra_repr(self) -> str:
        parts = [self._torch_repr()]
        for name in self._shown:
            value = getattr(self, name)
            if value != getattr(type(self), name):
                parts.append(f"{name}={value}")
        return ", ".join(part for part in parts if part)


def each_dimension(pairs: Any, ndim: int) -> tuple[tuple[int, int], ...]:
    """(before, after) pairs of a padding, one per dimension; a single one stands for all."""
    given = [tuple(pair) for pair in pairs]
    return tuple(given * ndim if len(given) == 1 else given)
