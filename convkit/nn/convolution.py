"""Conv1d, Conv2d and Conv3d."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from convkit import functional
from convkit.nn.options import Options, each_dimension
from convkit.problem.arguments import is_pairs
from convkit.problem.shapes import STRING_PADDINGS


def _torch_padding(padding: Any) -> Any:
    """A padding that torch.nn's constructor takes in place of one that only convkit knows."""
    if isinstance(padding, str) and padding in STRING_PADDINGS and padding not in ("same", "valid"):
        return 0
    return 0 if is_pairs(padding) else padding


class _Convolution(Options):
    """What the three classes share: the call, and paddings that torch.nn's constructors do not take.

    Parameters, state_dict, initialisation and representation are torch.nn's. Beyond it, ``padding`` may be
    (before, after) pairs per dimension, 'same_upper', 'same_lower' or 'causal'.
    """

    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: Any
    dilation: tuple[int, ...]
    groups: int
    padding_mode: Any

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: Any = "zeros",
        device: Any = None,
        dtype: Any = None,
        *,
        strict: bool = False,
        backend: str | None = None,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            _torch_padding(padding),
            dilation,
            groups,
            bias,
            padding_mode,
            device,
            dtype,
        )
        if isinstance(padding, str):
            self.padding = padding
        elif is_pairs(padding):
            self.padding = each_dimension(padding, len(self.kernel_size))
            self._reversed_padding_repeated_twice = [v for pair in reversed(self.padding) for v in pair]
        self._set_options(strict=strict, backend=backend)

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return type(self)._functional(
            input,
            weight,
            bias,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            padding_mode=self.padding_mode,
            strict=self.strict,
            backend=self.backend,
        )


class Conv1d(_Convolution, torch.nn.Conv1d):
    """torch.nn.Conv1d on convkit's kernels.

    Shapes: input (N, C, L) or (C, L), weight (K, C / groups, k).
    """

    _functional = staticmethod(functional.conv1d)


class Conv2d(_Convolution, torch.nn.Conv2d):
    """torch.nn.Conv2d on convkit's kernels.

    Shapes: input (N, C, H, W) or (C, H, W), weight (K, C / groups, kH, kW).
    """

    _functional = staticmethod(functional.conv2d)


class Conv3d(_Convolution, torch.nn.Conv3d):
    """torch.nn.Conv3d on convkit's kernels.

    Shapes: input (N, C, D, H, W) or (C, D, H, W), weight (K, C / groups, kD, kH, kW).
    """

    _functional = staticmethod(functional.conv3d)
