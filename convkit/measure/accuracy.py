"""How far a raw operation's result may be from the exact one, computed from the problem and never tuned.

Every raw operation but the choice of a maximum is linear in each of its tensors. So a result's exact value comes from
the ``reference`` backend in float64 (complex128, int64), and the scale of its rounding error from the same
operation on absolute values:

    |y - exact|  <=  u_out |exact|  +  f(L) u_acc op(|x|, |w|, ...)

u is the unit roundoff of the result's dtype and of the dtype that sums are kept in (float32 for the half
types), L the number of terms in a sum. f(L) = min(L, 8 sqrt(L)): the deterministic bound, or for long sums the
probabilistic one (Higham and Mary, "A new approach to probabilistic rounding error analysis", 2019; with 8
it fails less than once in 10^13). Integers and the operations that only move values must be exact.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from convkit import backends

MOVES_VALUES = ("max_pool", "pool_select", "pool_indices")


class Comparison(NamedTuple):
    """The largest error, and the largest error as a part of its bound: above 1 (or NaN) means wrong."""

    error: float
    of_bound: float

    @property
    def ok(self) -> bool:
        return self.of_bound <= 1.0


def compare(op: str, arguments: Mapping[str, Any], result: Tensor) -> Comparison:
    """Compares ``result`` of raw operation ``op`` (called with ``arguments``) with the oracle's."""
    exact = oracle(op, arguments)
    if result.shape != exact.shape:
        return Comparison(math.inf, math.inf)
    if not (result.is_floating_point() or result.is_complex()):  # integers wrap around
        same = torch.equal(result, exact.to(result.dtype))
        return Comparison(0.0 if same else math.inf, 0.0 if same else math.inf)
    error = (result.to(exact.dtype) - exact).abs()
    if error.numel() == 0:
        return Comparison(0.0, 0.0)
    if op in MOVES_VALUES:
        worst = float(error.max())
        return Comparison(worst, 0.0 if worst == 0 else math.inf)
    allowed = bound(op, arguments, exact, result.dtype)
    return Comparison(float(error.max()), float((error / allowed).max()))


def oracle(op: str, arguments: Mapping[str, Any]) -> Tensor:
    """The exact result, as nearly as float64 holds it."""
    return _run(op, _widest(arguments))


def bound(op: str, arguments: Mapping[str, Any], exact: Tensor, dtype: torch.dtype) -> Tensor:
    """The error allowed of each element of a result of ``dtype``."""
    magnitude = _run(op, {name: _magnitude(value) for name, value in _widest(arguments).items()}).abs()
    terms = terms_per_element(op, arguments)
    growth = min(terms, 8 * math.sqrt(terms)) * (2 * math.sqrt(2) if dtype.is_complex else 1)
    finfo, accumulate = torch.finfo(dtype), torch.finfo(accumulate_dtype(dtype))
    return finfo.eps / 2 * exact.abs() + growth * accumulate.eps / 2 * magnitude + finfo.smallest_normal * finfo.eps


def accumulate_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype that sums of ``dtype`` values are kept in."""
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype


def terms_per_element(op: str, arguments: Mapping[str, Any]) -> int:
    """How many rounded operations lead to one element of the result, at most."""
    if op == "conv_fprop":
        return arguments["w"][0].numel() + 3  # the epilogue scales, adds the bias and the residual
    if op == "conv_dgrad":
        w = arguments["w"]
        return w.shape[0] // arguments["spec"].groups * w[0, 0].numel() + 3
    if op in ("conv_wgrad", "conv_bgrad"):
        dy = arguments["dy"]
        return max(dy.numel() // max(dy.shape[1], 1), 1)
    return math.prod(arguments["spec"].kernel_size) + 1  # pools: a window's sum, and a division


def _run(op: str, arguments: Mapping[str, Any]) -> Tensor:
    result = getattr(backends.get("reference"), op)(**arguments)
    return result[0] if isinstance(result, tuple) else result


def _widest(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments with every tensor but the window offsets in the widest dtype of its kind."""

    def widen(name: str, value: Any) -> Any:
        if not isinstance(value, Tensor) or name == "offsets":
            return value
        if value.is_complex():
            return value.to(torch.complex128)
        return value.double() if value.is_floating_point() else value.long()

    return {name: widen(name, value) for name, value in arguments.items()}


def _magnitude(value: Any) -> Any:
    if isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex()):
        return value.abs()
    return value
