"""SpectralPool1d, SpectralPool2d and SpectralPool3d."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from convkit import functional


class _SpectralPool(torch.nn.Module):
    """A map's lowest frequencies; see :func:`convkit.functional.spectral_pool2d`."""

    _functional: Callable[..., Any]

    def __init__(self, output_size: Any) -> None:
        super().__init__()
        self.output_size = output_size

    def forward(self, input: Tensor) -> Any:
        """(N, C, ...) or (C, ...) to a map of output_size."""
        return type(self)._functional(input, self.output_size)

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"


class SpectralPool1d(_SpectralPool):
    """Spectral pooling of (N, C, L) or (C, L)."""

    _functional = staticmethod(functional.spectral_pool1d)


class SpectralPool2d(_SpectralPool):
    """Spectral pooling of (N, C, H, W) or (C, H, W)."""

    _functional = staticmethod(functional.spectral_pool2d)


class SpectralPool3d(_SpectralPool):
    """Spectral pooling of (N, C, D, H, W) or (C, D, H, W)."""

    _functional = staticmethod(functional.spectral_pool3d)
