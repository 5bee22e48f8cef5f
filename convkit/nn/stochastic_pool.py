"""StochasticPool1d, StochasticPool2d and StochasticPool3d."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from convkit import functional
from convkit.nn.options import Options


class _StochasticPool(Options, torch.nn.Module):
    """Draws in training, gives the expectation in evaluation; see :func:`convkit.functional.stochastic_pool2d`."""

    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        return_indices: bool = False,
        *,
        dilation: Any = 1,
        strict: bool = False,
        backend: str | None = None,
    ) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding = padding
        self.ceil_mode = ceil_mode
        self.return_indices = return_indices
        self.dilation = dilation
        self._set_options(strict=strict, backend=backend)

    def forward(self, input: Tensor) -> Any:
        """A draw or, in eval(), the expectation; with return_indices also the indices, which only a draw has."""
        return type(self)._functional(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.ceil_mode,
            self.training,
            return_indices=self.return_indices,
            dilation=self.dilation,
            strict=self.strict,
            backend=self.backend,
        )

    def extra_repr(self) -> str:
        names = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
        own = ", ".join(f"{name}={getattr(self, name)}" for name in names)
        options = super().extra_repr()
        return f"{own}, {options}" if options else own


class StochasticPool1d(_StochasticPool):
    """Stochastic pooling of (N, C, L) or (C, L): a draw in train(), the expectation in eval()."""

    _functional = staticmethod(functional.stochastic_pool1d)


class StochasticPool2d(_StochasticPool):
    """Stochastic pooling of (N, C, H, W) or (C, H, W): a draw in train(), the expectation in eval()."""

    _functional = staticmethod(functional.stochastic_pool2d)


class StochasticPool3d(_StochasticPool):
    """Stochastic pooling of (N, C, D, H, W) or (C, D, H, W): a draw in train(), the expectation in eval()."""

    _functional = staticmethod(functional.stochastic_pool3d)
