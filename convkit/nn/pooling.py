"""MaxPool1d, MaxPool2d, MaxPool3d, AvgPool1d, AvgPool2d and AvgPool3d."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from convkit import functional
from convkit.nn.options import Options


class _MaxPool(Options):
    kernel_size: Any
    stride: Any
    padding: Any
    dilation: Any
    ceil_mode: bool
    return_indices: bool

    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
        *,
        strict: bool = False,
        backend: str | None = None,
    ) -> None:
        super().__init__(kernel_size, stride, padding, dilation, return_indices, ceil_mode)
        self._set_options(strict=strict, backend=backend)

    def forward(self, input: Tensor) -> Any:
        """The maxima, with return_indices also their indices."""
        return type(self)._functional(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            ceil_mode=self.ceil_mode,
            return_indices=self.return_indices,
            strict=self.strict,
            backend=self.backend,
        )


class _AvgPool(Options):
    kernel_size: Any
    stride: Any
    padding: Any
    ceil_mode: bool
    count_include_pad: bool
    dilation: Any = 1
    _shown = ("dilation", *Options._shown)

    def _arguments(self) -> dict[str, Any]:
        return {}

    def forward(self, input: Tensor) -> Tensor:
        """The means."""
        return type(self)._functional(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.ceil_mode,
            self.count_include_pad,
            **self._arguments(),
            dilation=self.dilation,
            strict=self.strict,
            backend=self.backend,
        )


class _DividedAvgPool(_AvgPool):
    """With divisor_override, which PyTorch offers from two dimensions on."""

    divisor_override: int | None

    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
        *,
        dilation: Any = 1,
        strict: bool = False,
        backend: str | None = None,
    ) -> None:
        super().__init__(kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)
        self._set_options(dilation=dilation, strict=strict, backend=backend)

    def _arguments(self) -> dict[str, Any]:
        return {"divisor_override": self.divisor_override}


class MaxPool1d(_MaxPool, torch.nn.MaxPool1d):
    """torch.nn.MaxPool1d on convkit's kernels: input (N, C, L) or (C, L)."""

    _functional = staticmethod(functional.max_pool1d)


class MaxPool2d(_MaxPool, torch.nn.MaxPool2d):
    """torch.nn.MaxPool2d on convkit's kernels: input (N, C, H, W) or (C, H, W)."""

    _functional = staticmethod(functional.max_pool2d)


class MaxPool3d(_MaxPool, torch.nn.MaxPool3d):
    """torch.nn.MaxPool3d on convkit's kernels: input (N, C, D, H, W) or (C, D, H, W)."""

    _functional = staticmethod(functional.max_pool3d)


class AvgPool1d(_AvgPool, torch.nn.AvgPool1d):
    """torch.nn.AvgPool1d on convkit's kernels: input (N, C, L) or (C, L)."""

    _functional = staticmethod(functional.avg_pool1d)

    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        *,
        dilation: Any = 1,
        strict: bool = False,
        backend: str | None = None,
    ) -> None:
        super().__init__(kernel_size, stride, padding, ceil_mode, count_include_pad)
        self._set_options(dilation=dilation, strict=strict, backend=backend)


class AvgPool2d(_DividedAvgPool, torch.nn.AvgPool2d):
    """torch.nn.AvgPool2d on convkit's kernels: input (N, C, H, W) or (C, H, W)."""

    _functional = staticmethod(functional.avg_pool2d)


class AvgPool3d(_DividedAvgPool, torch.nn.AvgPool3d):
    """torch.nn.AvgPool3d on convkit's kernels: input (N, C, D, H, W) or (C, D, H, W)."""

    _functional = staticmethod(functional.avg_pool3d)
