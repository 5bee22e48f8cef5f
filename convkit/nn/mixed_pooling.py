"""MixedPool1d, MixedPool2d, MixedPool3d, and NMaxPool1d, NMaxPool2d, NMaxPool3d: between maximum and mean."""

from __future__ import annotations

from math import log
from typing import Any

import torch
from torch import Tensor

from convkit import functional
from convkit.nn.window_pool import WindowPool


class _MixedPool(WindowPool):
    """a max + (1 - a) mean; see :func:`convkit.functional.mixed_pool2d`.

    a: the share of the maximum. learned=True makes it a parameter that starts there: one for the layer or, with
    ``channels``, one per channel; ``logit`` holds it, a = sigmoid(logit), so that it stays between 0 and 1.
    drawn: in train() the maximum is drawn with probability a, in eval() they are mixed; not with learned=True.
    """

    _own = ("count_include_pad", "drawn")

    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        *,
        a: float = 0.5,
        learned: bool = False,
        channels: int | None = None,
        drawn: str | None = None,
        strict: bool = False,
        backend: str | None = None,
    ) -> None:
        own = {"count_include_pad": count_include_pad, "drawn": drawn}
        super().__init__(kernel_size, stride, padding, ceil_mode, strict, backend, **own)
        self.fixed = float(a)
        self.logit: torch.nn.Parameter | None = None
        if learned:
            if drawn is not None or not 0 < a < 1:
                raise ValueError(f"a learned share needs drawn=None and 0 < a < 1, but got drawn={drawn!r} and a={a}")
            size = () if channels is None else (channels,)
            self.logit = torch.nn.Parameter(torch.full(size, log(a / (1 - a))))
        elif channels is not None:
            raise ValueError(f"channels={channels} needs learned=True")

    @property
    def a(self) -> float | Tensor:
        """The share of the maximum: a number, or a tensor of one element or one per channel."""
        return self.fixed if self.logit is None else self.logit.sigmoid()

    def _arguments(self) -> dict[str, Any]:
        return {**super()._arguments(), "a": self.a, "training": self.training}

    def extra_repr(self) -> str:
        share = f"a={self.fixed}" if self.logit is None else f"a learned of shape {tuple(self.logit.shape)}"
        return f"{super().extra_repr()}, {share}"


class MixedPool1d(_MixedPool):
    """Mixed pooling of (N, C, L) or (C, L)."""

    _functional = staticmethod(functional.mixed_pool1d)


class MixedPool2d(_MixedPool):
    """Mixed pooling of (N, C, H, W) or (C, H, W)."""

    _functional = staticmethod(functional.mixed_pool2d)


class MixedPool3d(_MixedPool):
    """Mixed pooling of (N, C, D, H, W) or (C, D, H, W)."""

    _functional = staticmethod(functional.mixed_pool3d)


class _NMaxPool(WindowPool):
    """The mean of each window's n largest elements; see :func:`convkit.functional.nmax_pool2d`."""

    _own = ("dilation", "n")

    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
        *,
        n: int,
        strict: bool = False,
        backend: str | None = None,
    ) -> None:
        super().__init__(kernel_size, stride, padding, ceil_mode, strict, backend, dilation=dilation, n=n)


class NMaxPool1d(_NMaxPool):
    """N-max pooling of (N, C, L) or (C, L)."""

    _functional = staticmethod(functional.nmax_pool1d)


class NMaxPool2d(_NMaxPool):
    """N-max pooling of (N, C, H, W) or (C, H, W)."""

    _functional = staticmethod(functional.nmax_pool2d)


class NMaxPool3d(_NMaxPool):
    """N-max pooling of (N, C, D, H, W) or (C, D, H, W)."""

    _functional = staticmethod(functional.nmax_pool3d)
