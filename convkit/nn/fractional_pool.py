"""FractionalMaxPool1d (convkit's own), FractionalMaxPool2d and FractionalMaxPool3d."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from convkit import functional
from convkit.nn.options import Options


class _FractionalMaxPool(Options):
    kernel_size: Any
    output_size: Any
    output_ratio: Any
    return_indices: bool
    _random_samples: Tensor | None

    def __init__(
        self,
        kernel_size: Any,
        output_size: Any = None,
        output_ratio: Any = None,
        return_indices: bool = False,
        _random_samples: Tensor | None = None,
        *,
        backend: str | None = None,
    ) -> None:
        super().__init__(kernel_size, output_size, output_ratio, return_indices, _random_samples)
        self._set_options(backend=backend)

    def forward(self, input: Tensor) -> Any:
        """The maxima, with return_indices also their indices."""
        return type(self)._functional(
            input,
            self.kernel_size,
            self.output_size,
            self.output_ratio,
            self.return_indices,
            _random_samples=self._random_samples,
            backend=self.backend,
        )


class _FractionalMaxPoolRow(torch.nn.Module):
    """What torch.nn.FractionalMaxPool1d would be, in the words of its relatives."""

    def __init__(
        self,
        kernel_size: Any,
        output_size: Any = None,
        output_ratio: Any = None,
        return_indices: bool = False,
        _random_samples: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.kernel_size = _single(kernel_size)
        self.return_indices = return_indices
        self.register_buffer("_random_samples", _random_samples)
        self.output_size = None if output_size is None else _single(output_size)
        self.output_ratio = None if output_ratio is None else _single(output_ratio)
        if output_size is None and output_ratio is None:
            raise ValueError("FractionalMaxPool1d requires specifying either an output size, or a pooling ratio")
        if output_size is not None and output_ratio is not None:
            raise ValueError("only one of output_size and output_ratio may be specified")
        if self.output_ratio is not None and not 0 < self.output_ratio[0] < 1:
            raise ValueError(f"output_ratio must be between 0 and 1 (got {output_ratio})")


def _single(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)


class FractionalMaxPool1d(_FractionalMaxPool, _FractionalMaxPoolRow):
    """Fractional max pooling of rows: input (N, C, L) or (C, L); arguments as of torch.nn.FractionalMaxPool2d."""

    _functional = staticmethod(functional.fractional_max_pool1d)


class FractionalMaxPool2d(_FractionalMaxPool, torch.nn.FractionalMaxPool2d):
    """torch.nn.FractionalMaxPool2d on convkit's kernels: input (N, C, H, W) or (C, H, W)."""

    _functional = staticmethod(functional.fractional_max_pool2d)


class FractionalMaxPool3d(_FractionalMaxPool, torch.nn.FractionalMaxPool3d):
    """torch.nn.FractionalMaxPool3d on convkit's kernels: input (N, C, D, H, W) or (C, D, H, W)."""

    _functional = staticmethod(functional.fractional_max_pool3d)
