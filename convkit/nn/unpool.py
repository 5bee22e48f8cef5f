"""MaxUnpool1d, MaxUnpool2d and MaxUnpool3d."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from convkit import functional
from convkit.nn.options import Options


class _MaxUnpool(Options):
    kernel_size: Any
    stride: Any
    padding: Any

    def __init__(self, kernel_size: Any, stride: Any = None, padding: Any = 0, *, backend: str | None = None) -> None:
        super().__init__(kernel_size, stride, padding)
        self._set_options(backend=backend)

    def forward(self, input: Tensor, indices: Tensor, output_size: Any = None) -> Tensor:
        """The values at their places among zeros; ``output_size`` where several sizes pool to the input's."""
        out: Tensor = type(self)._functional(
            input, indices, self.kernel_size, self.stride, self.padding, output_size, backend=self.backend
        )
        return out


class MaxUnpool1d(_MaxUnpool, torch.nn.MaxUnpool1d):
    """torch.nn.MaxUnpool1d on convkit's kernels: input and indices (N, C, L) or (C, L)."""

    _functional = staticmethod(functional.max_unpool1d)


class MaxUnpool2d(_MaxUnpool, torch.nn.MaxUnpool2d):
    """torch.nn.MaxUnpool2d on convkit's kernels: input and indices (N, C, H, W) or (C, H, W)."""

    _functional = staticmethod(functional.max_unpool2d)


class MaxUnpool3d(_MaxUnpool, torch.nn.MaxUnpool3d):
    """torch.nn.MaxUnpool3d on convkit's kernels: input and indices (N, C, D, H, W) or (C, D, H, W)."""

    _functional = staticmethod(functional.max_unpool3d)
