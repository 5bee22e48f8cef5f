"""What the operations of batch normalisation must return, and how far a correct result may lie from it.

With u the unit roundoff of the accumulate type, v = (x - mean) invstd weight + bias + residual is a sum of three terms
after at most three roundings of the first, so it errs by gamma(5, u) of the sum of their magnitudes. An activation's
derivative passes an error in v on with its own derivative, which is at most ``CURVATURE``, but where it jumps (relu
and leaky_relu at 0): an element whose v may lie on either side of the corner may have either gradient.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from convkit.backends.base import Backend, Norm, NormSums, bundled
from convkit.backends.reference.batch_norm import channel_sums, over_channels
from convkit.problem import ACTIVATIONS
from convkit.testing.tolerances import (
    ACCUMULATE,
    PIECEWISE,
    STEEPEST,
    activated,
    gamma,
    smallest_subnormal,
    stored,
    summation,
    unit_roundoff,
)

NORM_OPS = ("bn_stats", "bn_act", "bn_act_bwd_reduce", "bn_act_bwd")
#: The steepest second derivative of an activation: gelu's at 0, sqrt(2 / pi).
CURVATURE = 0.8
#: Roundings of v.
OF_V = 5

#: The exact result, the admissible error of one, and the dtype it has.
Expected = tuple[Tensor, Tensor, torch.dtype]


def _largest(t: Tensor) -> Tensor:
    """The largest magnitude in each channel; 0 where there are no elements."""
    flat = t.abs().transpose(0, 1).flatten(1)
    return torch.cat([flat, flat.new_zeros(flat.shape[0], 1)], 1).amax(1)


def _statistics(x: Tensor, dtype: torch.dtype, reference: Backend) -> tuple[Expected, ...]:
    """Shifted by some element of the channel or by the mean, or updated from element to element or block to block.

    The shifted sum of n squares errs by gamma(n) of what it adds up, n (var + (mean - shift)^2) (Chan, Golub, LeVeque
    1983), an updated one by gamma(n) sqrt(var E[x^2]) n, one around the rounded mean by n times its error squared.
    """
    wide = ACCUMULATE[dtype]
    mean, var = reference.bn_stats(x)
    count = x.numel() // max(1, x.shape[1])
    largest, farthest = _largest(x), _largest(x - over_channels(mean, x))
    error = gamma(count + 8, unit_roundoff(wide))
    tiny = (count + 8) * smallest_subnormal(wide)
    of_var = error * (var + farthest**2 + var.sqrt() * largest) + (error * largest) ** 2 + tiny
    return (mean, error * largest + tiny, wide), (var, of_var, wide)


class Inner(NamedTuple):
    """v with its error, and what it is made of, all in float64: v = centred scale + bias + residual."""

    centred: Tensor
    scale: Tensor
    v: Tensor
    v_error: Tensor


def _inner(a: dict[str, Any], u: float) -> Inner:
    x = a["x"]
    centred = x - over_channels(a["mean"], x)
    scale = over_channels(a["invstd"] if a["weight"] is None else a["invstd"] * a["weight"], x)
    v, size = centred * scale, (centred * scale).abs()
    for more in (None if a["bias"] is None else over_channels(a["bias"], x), a["residual"]):
        if more is not None:
            v, size = v + more, size + more.abs()
    return Inner(centred, scale, v, gamma(OF_V, u) * size)


def _jump(activation: int, alpha: float) -> float:
    """By how much the derivative jumps at 0."""
    return {"relu": 1.0, "leaky_relu": abs(1 - alpha), "elu": abs(1 - alpha)}.get(ACTIVATIONS[activation], 0.0)


def _gradient(a: dict[str, Any], inner: Inner, u: float, reference: Backend) -> tuple[Tensor, Tensor]:
    """g = dz act'(v), and its error."""
    activation, alpha = a["activation"], a["alpha"]
    as_it_is = Norm(a["mean"] * 0, a["invstd"] * 0 + 1, activation=activation, alpha=alpha)
    _, g = reference.bn_act_bwd(a["dz"], inner.v, as_it_is, NormSums(), True, False)
    dz = a["dz"].abs()
    slope = max(STEEPEST, abs(alpha))
    if activation in PIECEWISE:
        error = gamma(2, u) * g.abs()  # a slope is rounded, and so is the product
    else:
        error = dz * (max(CURVATURE, abs(alpha)) * inner.v_error + gamma(12, u) * slope)
    at_corner = inner.v.abs() <= inner.v_error
    return g, error + torch.where(at_corner, dz * _jump(activation, alpha), 0)


def norm_expectations(
    op: str, arguments: dict[str, Any], dtype: torch.dtype, reference: Backend
) -> tuple[Expected, ...]:
    """The results of one operation of ``NORM_OPS`` in float64, from arguments in ``dtype``."""
    a: dict[str, Any] = {k: v.double() if isinstance(v, Tensor) else v for k, v in arguments.items()}
    x = a["x"]
    if op == "bn_stats":
        return _statistics(x, dtype, reference)
    wide = ACCUMULATE[dtype]
    u = unit_roundoff(wide) + unit_roundoff(torch.float64)
    inner = _inner(a, u)
    values = getattr(reference, op)(**bundled(a))
    if op == "bn_act":
        error = activated(inner.v, inner.v_error, a["activation"], a["alpha"], dtype)
        return ((values, stored(values, error, dtype), dtype),)
    g, g_error = _gradient(a, inner, u, reference)
    hat = inner.centred * over_channels(a["invstd"], x)
    if op == "bn_act_bwd_reduce":
        count = x.numel() // max(1, x.shape[1])
        found = []
        for value, factor in zip(values, (torch.ones_like(hat), hat)):
            of_terms = channel_sums(g_error * factor.abs())
            tolerance = summation(value, channel_sums((g * factor).abs()), count, wide, more_roundings=6)
            found.append((value, tolerance + of_terms * (1 + gamma(count + 6, u)), wide))
        return tuple(found)
    size, error = g.abs(), g_error
    if a["count"] != 0:
        size = size + (over_channels(a["dbias"], x).abs() + (hat * over_channels(a["dweight"], x)).abs()) / a["count"]
    error = inner.scale.abs() * (g_error + gamma(10, u) * (size + g_error))
    return (
        (values[0], stored(values[0], error, dtype), dtype),
        (g, stored(g, g_error, dtype), dtype),
    )
