"""StochasticPool1d, StochasticPool2d and StochasticPool3d."""

from __future__ import annotations

from typing import Any

from convkit import functional
from convkit.nn.window_pool import WindowPool


class _StochasticPool(WindowPool):
    """Draws in training, gives the expectation in evaluation; see :func:`convkit.functional.stochastic_pool2d`.

    With return_indices the call also returns the indices, which only a draw has.
    """

    _own = ("dilation", "return_indices")

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
        own = {"dilation": dilation, "return_indices": return_indices}
        super().__init__(kernel_size, stride, padding, ceil_mode, strict, backend, **own)

    def _arguments(self) -> dict[str, Any]:
        return {**super()._arguments(), "training": self.training}


class StochasticPool1d(_StochasticPool):
    """Stochastic pooling of (N, C, L) or (C, L): a draw in train(), the expectation in eval()."""

    _functional = staticmethod(functional.stochastic_pool1d)


class StochasticPool2d(_StochasticPool):
    """Stochastic pooling of (N, C, H, W) or (C, H, W): a draw in train(), the expectation in eval()."""

    _functional = staticmethod(functional.stochastic_pool2d)


class StochasticPool3d(_StochasticPool):
    """Stochastic pooling of (N, C, D, H, W) or (C, D, H, W): a draw in train(), the expectation in eval()."""

    _functional = staticmethod(functional.stochastic_pool3d)
