"""ConvTranspose1d, ConvTranspose2d and ConvTranspose3d."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from convkit import functional
from convkit.nn.options import Options, each_dimension
from convkit.problem.arguments import is_pairs
from convkit.problem.convolution import output_padding_for


def _torch_padding(owner: object, padding: Any) -> Any:
    """A padding that torch.nn's constructor stores as it should; it would spell out a string."""
    if isinstance(padding, str):
        raise ValueError(
            f"Invalid padding string {padding!r}: {type(owner).__name__} takes an int, one per dimension, "
            "or (before, after) pairs"
        )
    return 0 if is_pairs(padding) else padding


class _TransposedConvolution(Options):
    """What the three classes share: the call. ``padding`` may also be (before, after) pairs per dimension."""

    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: Any
    output_padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    padding_mode: Any
    weight: Tensor
    bias: Tensor | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Any = 1,
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
            _torch_padding(self, padding),
            output_padding,
            groups,
            bias,
            dilation,
            padding_mode,
            device,
            dtype,
        )
        if is_pairs(padding):
            self.padding = each_dimension(padding, len(self.kernel_size))
        self._set_options(strict=strict, backend=backend)

    def forward(self, input: Tensor, output_size: Any = None) -> Tensor:
        """The transposed convolution; ``output_size`` (spatial, or of all dimensions) stands in for output_padding."""
        ndim = len(self.kernel_size)
        if self.padding_mode != "zeros":
            raise ValueError(
                f"Only `zeros` padding mode is supported for ConvTranspose{ndim}d, but got {self.padding_mode!r}"
            )
        if output_size is None:
            extra = self.output_padding
        else:
            extra = output_padding_for(
                ndim, input.shape, output_size, self.kernel_size, self.stride, self.padding, self.dilation
            )
        return type(self)._functional(
            input,
            self.weight,
            self.bias,
            self.stride,
            self.padding,
            extra,
            self.groups,
            self.dilation,
            strict=self.strict,
            backend=self.backend,
        )


class ConvTranspose1d(_TransposedConvolution, torch.nn.ConvTranspose1d):
    """torch.nn.ConvTranspose1d on convkit's kernels.

    Shapes: input (N, C, L) or (C, L), weight (C, K / groups, k).
    """

    _functional = staticmethod(functional.conv_transpose1d)


class ConvTranspose2d(_TransposedConvolution, torch.nn.ConvTranspose2d):
    """torch.nn.ConvTranspose2d on convkit's kernels.

    Shapes: input (N, C, H, W) or (C, H, W), weight (C, K / groups, kH, kW).
    """

    _functional = staticmethod(functional.conv_transpose2d)


class ConvTranspose3d(_TransposedConvolution, torch.nn.ConvTranspose3d):
    """torch.nn.ConvTranspose3d on convkit's kernels.

    Shapes: input (N, C, D, H, W) or (C, D, H, W), weight (C, K / groups, kD, kH, kW).
    """

    _functional = staticmethod(functional.conv_transpose3d)
