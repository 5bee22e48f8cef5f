"""What happens to a convolution's result before it is stored: act(value * scale[k] + bias[k] + residual)."""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from convkit.backends.triton.launch import strides
from convkit.problem import ACTIVATIONS, ConvSpec

_RELU: tl.constexpr = tl.constexpr(ACTIVATIONS.index("relu"))
_LEAKY_RELU: tl.constexpr = tl.constexpr(ACTIVATIONS.index("leaky_relu"))
_ELU: tl.constexpr = tl.constexpr(ACTIVATIONS.index("elu"))
_SIGMOID: tl.constexpr = tl.constexpr(ACTIVATIONS.index("sigmoid"))
_TANH: tl.constexpr = tl.constexpr(ACTIVATIONS.index("tanh"))
_SILU: tl.constexpr = tl.constexpr(ACTIVATIONS.index("silu"))
_GELU: tl.constexpr = tl.constexpr(ACTIVATIONS.index("gelu"))


@triton.jit
def expm1(v):
    """exp(v) - 1: near 0 by its series, whose first omitted term is below one rounding in float64."""
    small = tl.where(tl.abs(v) < 0.25, v, 0.0)
    series = 1.0 + small / 12.0
    for i in tl.static_range(11, 1, -1):
        series = 1.0 + small / i * series
    return tl.where(tl.abs(v) < 0.25, small * series, tl.exp(v) - 1.0)


@triton.jit
def sigmoid(v):
    return 1.0 / (1.0 + tl.exp(-v))


@triton.jit
def activate(v, alpha, ACTIVATION: tl.constexpr):
    if ACTIVATION == _RELU:
        return tl.where(v < 0, 0.0, v)  # a NaN stays
    elif ACTIVATION == _LEAKY_RELU:
        return tl.where(v < 0, v * alpha, v)
    elif ACTIVATION == _ELU:
        return tl.where(v < 0, alpha * expm1(tl.minimum(v, 0.0)), v)
    elif ACTIVATION == _SIGMOID:
        return sigmoid(v)
    elif ACTIVATION == _TANH:
        e = expm1(-2.0 * tl.abs(v))
        size = -e / (e + 2.0)
        return tl.where(v < 0, -size, size)
    elif ACTIVATION == _SILU:
        return v / (1.0 + tl.exp(-v))
    elif ACTIVATION == _GELU:
        return 0.5 * v * (1.0 + tl.erf(v * 0.7071067811865476))
    else:
        return v


@triton.jit
def activation_gradient(dz, v, alpha, ACTIVATION: tl.constexpr):
    """dz act'(v). Where a relu stops a gradient the result is 0, even of an infinite dz."""
    if ACTIVATION == _RELU:
        return tl.where(v <= 0, 0.0, dz)
    elif ACTIVATION == _LEAKY_RELU:
        return tl.where(v > 0, dz, dz * alpha)
    elif ACTIVATION == _ELU:
        return tl.where(v > 0, dz, dz * alpha * tl.exp(tl.minimum(v, 0.0)))
    elif ACTIVATION == _SIGMOID:
        return dz * sigmoid(-v) * sigmoid(v)
    elif ACTIVATION == _TANH:
        e = tl.exp(-2.0 * tl.abs(v))
        return dz * (4.0 * e / ((1.0 + e) * (1.0 + e)))
    elif ACTIVATION == _SILU:
        return dz * sigmoid(v) * (1.0 + v * sigmoid(-v))
    elif ACTIVATION == _GELU:
        density = tl.exp(-0.5 * v * v) * 0.3989422804014327
        return dz * (0.5 * (1.0 + tl.erf(v * 0.7071067811865476)) + v * density)
    else:
        return dz


@triton.jit
def per_channel(v, scale, bias, channels, inside, SCALE: tl.constexpr, BIAS: tl.constexpr):
    """v * scale[channel] + bias[channel], of vectors that are there; ``channels`` and ``inside`` have v's shape, or
    one that fits it."""
    if SCALE:
        v = v * tl.load(scale + channels, mask=inside, other=0).to(v.dtype)
    if BIAS:
        v = v + tl.load(bias + channels, mask=inside, other=0).to(v.dtype)
    return v


class Operands(NamedTuple):
    """What the epilogue reads beside the result, where it does."""

    bias: Tensor | None = None
    scale: Tensor | None = None
    residual: Tensor | None = None

    def pointers(self, any_tensor: Tensor) -> tuple[Tensor, ...]:
        """bias, scale and residual; in the place of one that is not there, a tensor that nothing is read from."""
        return tuple(any_tensor if t is None else t for t in self)

    def residual_strides(self, y: Tensor) -> tuple[int, ...]:
        return strides(y if self.residual is None else self.residual)

    def meta(self, spec: ConvSpec) -> dict[str, Any]:
        """The kernels' constants."""
        return {
            "SCALE": self.scale is not None,
            "BIAS": self.bias is not None,
            "RESIDUAL": self.residual is not None,
            "ACTIVATION": spec.activation,
            "ALPHA": float(spec.alpha) if spec.activation else 0.0,
        }
