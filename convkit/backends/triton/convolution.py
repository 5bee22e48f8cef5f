"""Convolution: the algorithms, and which of them runs."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from convkit.backends.triton import conv_direct, conv_igemm, tiles
from convkit.backends.triton.conv_wgrad import wgrad as split_wgrad
from convkit.backends.triton.launch import Sizes
from convkit.problem import ConvSpec


def _how(spec: ConvSpec, channels: int, filters: int) -> tuple[bool, dict[str, Any]]:
    """(by definition?, the product's precision)."""
    name = tiles.algorithm(spec.algorithm, spec.groups, channels, filters)
    return name == "conv_direct", {"how": "tf32x3"} if name == "conv_igemm_tf32x3" else {}


def conv_fprop(
    x: Tensor,
    w: Tensor,
    bias: Tensor | None,
    scale: Tensor | None,
    residual: Tensor | None,
    spec: ConvSpec,
    channels_last: bool,
) -> Tensor:
    direct, how = _how(spec, w.shape[1], w.shape[0] // spec.groups)
    run: Any = conv_direct.fprop if direct else conv_igemm.fprop
    return run(x, w, bias, scale, residual, spec, channels_last, **how)


def conv_dgrad(
    dy: Tensor,
    w: Tensor,
    bias: Tensor | None,
    scale: Tensor | None,
    residual: Tensor | None,
    input_size: Sizes,
    spec: ConvSpec,
    channels_last: bool,
) -> Tensor:
    direct, how = _how(spec, w.shape[1], w.shape[0] // spec.groups)
    run: Any = conv_direct.dgrad if direct else conv_igemm.dgrad
    return run(dy, w, bias, scale, residual, input_size, spec, channels_last, **how)


def conv_wgrad(dy: Tensor, x: Tensor, kernel_size: Sizes, spec: ConvSpec, channels_last: bool) -> Tensor:
    direct, how = _how(spec, x.shape[1] // spec.groups, dy.shape[1] // spec.groups)
    run: Any = conv_direct.wgrad if direct else split_wgrad
    return run(dy, x, kernel_size, spec, channels_last, **how)
