"""AdaptiveAvgPool1d, 2d, 3d and AdaptiveMaxPool1d, 2d, 3d."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from convkit import functional
from convkit.nn.options import Options


class _AdaptiveAvgPool(Options):
    output_size: Any

    def __init__(self, output_size: Any, *, backend: str | None = None) -> None:
        super().__init__(output_size)
        self._set_options(backend=backend)

    def forward(self, input: Tensor) -> Tensor:
        """The means."""
        return type(self)._functional(input, self.output_size, backend=self.backend)


class _AdaptiveMaxPool(Options):
    output_size: Any
    return_indices: bool

    def __init__(self, output_size: Any, return_indices: bool = False, *, backend: str | None = None) -> None:
        super().__init__(output_size, return_indices)
        self._set_options(backend=backend)

    def forward(self, input: Tensor) -> Any:
        """The maxima, with return_indices also their indices."""
        return type(self)._functional(input, self.output_size, self.return_indices, backend=self.backend)


class AdaptiveAvgPool1d(_AdaptiveAvgPool, torch.nn.AdaptiveAvgPool1d):
    """torch.nn.AdaptiveAvgPool1d on convkit's kernels: input (N, C, L) or (C, L)."""

    _functional = staticmethod(functional.adaptive_avg_pool1d)


class AdaptiveAvgPool2d(_AdaptiveAvgPool, torch.nn.AdaptiveAvgPool2d):
    """torch.nn.AdaptiveAvgPool2d on convkit's kernels: input (N, C, H, W) or (C, H, W)."""

    _functional = staticmethod(functional.adaptive_avg_pool2d)


class AdaptiveAvgPool3d(_AdaptiveAvgPool, torch.nn.AdaptiveAvgPool3d):
    """torch.nn.AdaptiveAvgPool3d on convkit's kernels: input (N, C, D, H, W) or (C, D, H, W)."""

    _functional = staticmethod(functional.adaptive_avg_pool3d)


class AdaptiveMaxPool1d(_AdaptiveMaxPool, torch.nn.AdaptiveMaxPool1d):
    """torch.nn.AdaptiveMaxPool1d on convkit's kernels: input (N, C, L) or (C, L)."""

    _functional = staticmethod(functional.adaptive_max_pool1d)


class AdaptiveMaxPool2d(_AdaptiveMaxPool, torch.nn.AdaptiveMaxPool2d):
    """torch.nn.AdaptiveMaxPool2d on convkit's kernels: input (N, C, H, W) or (C, H, W)."""

    _functional = staticmethod(functional.adaptive_max_pool2d)


class AdaptiveMaxPool3d(_AdaptiveMaxPool, torch.nn.AdaptiveMaxPool3d):
    """torch.nn.AdaptiveMaxPool3d on convkit's kernels: input (N, C, D, H, W) or (C, D, H, W)."""

    _functional = staticmethod(functional.adaptive_max_pool3d)
