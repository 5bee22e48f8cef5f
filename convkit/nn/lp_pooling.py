"""LPPool1d, LPPool2d and LPPool3d, and GaussianLPPool1d, GaussianLPPool2d and GaussianLPPool3d."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from convkit import functional
from convkit.nn.options import Options


class _LPPool(Options):
    norm_type: Any
    kernel_size: Any
    stride: Any
    ceil_mode: bool
    padding: Any = 0
    dilation: Any = 1
    semantics: str = "torch"
    _shown = ("padding", "dilation", "semantics", *Options._shown)

    def __init__(
        self,
        norm_type: float | Tensor,
        kernel_size: Any,
        stride: Any = None,
        ceil_mode: bool = False,
        *,
        padding: Any = 0,
        dilation: Any = 1,
        weight: Tensor | None = None,
        semantics: str = "torch",
        strict: bool = False,
        backend: str | None = None,
    ) -> None:
        super().__init__(norm_type, kernel_size, stride, ceil_mode)
        if semantics not in ("torch", "norm"):
            raise ValueError(f"semantics must be 'torch' or 'norm', but got semantics={semantics!r}")
        if isinstance(weight, torch.nn.Parameter):
            self.weight = weight
        elif weight is not None:
            self.register_buffer("weight", weight)
        self._set_options(padding=padding, dilation=dilation, semantics=semantics, strict=strict, backend=backend)

    def forward(self, input: Tensor) -> Tensor:
        """The norms of the windows."""
        exponent = self.norm_type
        return type(self)._functional(
            input,
            exponent if isinstance(exponent, Tensor) else float(exponent),
            self.kernel_size,
            self.stride,
            self.ceil_mode,
            padding=self.padding,
            dilation=self.dilation,
            weight=getattr(self, "weight", None),
            semantics=self.semantics,
            strict=self.strict,
            backend=self.backend,
        )

    def _torch_repr(self) -> str:  # torch's own reads __dict__, where no parameter stands
        shown = ("norm_type", "kernel_size", "stride", "ceil_mode")
        return ", ".join(f"{name}={getattr(self, name)}" for name in shown)


class LPPool1d(_LPPool, torch.nn.LPPool1d):
    """torch.nn.LPPool1d on convkit's kernels: input (N, C, L) or (C, L). norm_type may be a parameter."""

    _functional = staticmethod(functional.lp_pool1d)


class LPPool2d(_LPPool, torch.nn.LPPool2d):
    """torch.nn.LPPool2d on convkit's kernels: input (N, C, H, W) or (C, H, W). norm_type may be a parameter."""

    _functional = staticmethod(functional.lp_pool2d)


class LPPool3d(_LPPool, torch.nn.LPPool3d):
    """torch.nn.LPPool3d on convkit's kernels: input (N, C, D, H, W) or (C, D, H, W). norm_type may be a parameter."""

    _functional = staticmethod(functional.lp_pool3d)


def gaussian_window(kernel_size: tuple[int, ...], sigma: tuple[float, ...]) -> Tensor:
    """Weights exp(-sum over the dimensions of t^2 / (2 sigma^2)), t from the window's centre, divided by their sum."""
    window = torch.ones((), dtype=torch.float64)
    for k, s in zip(kernel_size, sigma):
        t = torch.arange(k, dtype=torch.float64) - (k - 1) / 2
        window = window[..., None] * torch.exp(-(t**2) / (2 * s**2))
    return window / window.sum()


class _GaussianLPPool(_LPPool):
    """The weights are a Gaussian window, in the buffer ``weight``: y = (sum of weight |x|^p)^(1/p)."""

    _ndim: int
    sigma: Any

    def __init__(
        self,
        kernel_size: Any,
        sigma: Any,
        norm_type: float | Tensor = 2.0,
        stride: Any = None,
        ceil_mode: bool = False,
        *,
        padding: Any = 0,
        dilation: Any = 1,
        semantics: str = "norm",
        strict: bool = False,
        backend: str | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        sizes = tuple(kernel_size) if isinstance(kernel_size, (tuple, list)) else (kernel_size,) * self._ndim
        widths = tuple(sigma) if isinstance(sigma, (tuple, list)) else (sigma,) * self._ndim
        for name, values in (("kernel_size", sizes), ("sigma", widths)):
            if len(values) != self._ndim or not all(v > 0 for v in values):
                raise ValueError(
                    f"{name} must be one positive number or {self._ndim} of them, but got {name}="
                    f"{kernel_size if name == 'kernel_size' else sigma!r}"
                )
        weight = gaussian_window(sizes, widths).to(device=device, dtype=dtype or torch.get_default_dtype())
        super().__init__(
            norm_type,
            kernel_size,
            stride,
            ceil_mode,
            padding=padding,
            dilation=dilation,
            weight=weight,
            semantics=semantics,
            strict=strict,
            backend=backend,
        )
        self.sigma = sigma

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, sigma={self.sigma}"


class GaussianLPPool1d(_GaussianLPPool, LPPool1d):
    """Lp pooling with a Gaussian window of standard deviation ``sigma``: input (N, C, L) or (C, L)."""

    _ndim = 1


class GaussianLPPool2d(_GaussianLPPool, LPPool2d):
    """Lp pooling with a Gaussian window: input (N, C, H, W) or (C, H, W); sigma as kernel_size."""

    _ndim = 2


class GaussianLPPool3d(_GaussianLPPool, LPPool3d):
    """Lp pooling with a Gaussian window: input (N, C, D, H, W) or (C, D, H, W); sigma as kernel_size."""

    _ndim = 3
