"""What the sliding poolings that torch.nn lacks have in common."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from convkit.nn.options import Options


class WindowPool(Options, torch.nn.Module):
    """Keeps the windows and the arguments named in ``_own``, hands them on by name, and shows them."""

    _own: tuple[str, ...] = ()

    def __init__(
        self,
        kernel_size: Any,
        stride: Any,
        padding: Any,
        ceil_mode: bool,
        strict: bool,
        backend: str | None,
        **own: Any,
    ) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding = padding
        self.ceil_mode = ceil_mode
        for name, value in own.items():
            setattr(self, name, value)
        self._set_options(strict=strict, backend=backend)

    def _arguments(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("ceil_mode", *self._own, "strict", "backend")}

    def forward(self, input: Tensor) -> Any:
        """(N, C, ...) or (C, ...) to the pooled map."""
        return type(self)._functional(input, self.kernel_size, self.stride, self.padding, **self._arguments())

    def extra_repr(self) -> str:
        names = ("kernel_size", "stride", "padding", "ceil_mode", *self._own)
        own = ", ".join(f"{name}={getattr(self, name)}" for name in names)
        options = super().extra_repr()
        return f"{own}, {options}" if options else own
