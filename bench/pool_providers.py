"""Pooling rows as functions of no arguments: convkit's public function and its rival, and the check of the first.

Passes: ``forward`` and ``forward+backward``, the second through autograd, from the input to its gradient. Inputs are
positive: every sum then has one sign, and a relative bound holds for each element of the result.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor

import convkit
from bench.pools import PoolRow
from convkit.testing.oracle import Expectation, error
from convkit.testing.tolerances import ACCUMULATE, unit_roundoff

PASSES = ("forward", "forward+backward")
Call = Callable[[], Tensor]


def calls(
    row: PoolRow, pass_: str, layout: str, dtype: torch.dtype, seed: int, compiled: bool, device: str = "cpu"
) -> dict[str, Call]:
    """convkit, PyTorch eager and, if asked for, PyTorch compiled, each on a copy of the input of one seed."""
    x = _input(row, layout, dtype, seed, device)
    theirs = row.rival or getattr(torch.nn.functional, row.op)
    candidates: dict[str, Callable[..., Any]] = {"convkit": _ours(row), "eager": partial(theirs, **row.arguments)}
    if compiled and pass_ == "forward":
        candidates["compile"] = torch.compile(candidates["eager"], dynamic=False)
    return {name: _call(row, pass_, f, x.clone()) for name, f in candidates.items()}


def backend_calls(
    name: str, row: PoolRow, pass_: str, layout: str, dtype: torch.dtype, copies: int, device: str
) -> list[Call] | None:
    """Another backend of convkit, one call per copy; None where it refuses the pooling."""
    made = [
        _call(row, pass_, _ours(row, backend=name), _input(row, layout, dtype, seed, device)) for seed in range(copies)
    ]
    try:
        made[0]()
    except RuntimeError:  # it says why
        return None
    return made


def verify(row: PoolRow, pass_: str, layout: str, dtype: torch.dtype, ours: Call, device: str = "cpu") -> float:
    """The error of ``ours`` on the input of seed 0, in units of the admissible one; above 1 means wrong.

    Images do not meet in a sum: two are compared with the reference backend on the same values and dtype.
    """
    x = _input(row, layout, dtype, 0, device)[:2]
    reference = _call(row, pass_, _ours(row, backend="reference"), x)
    torch.manual_seed(0)  # for what draws its windows; the first images get the same numbers in any batch
    expected = reference()
    torch.manual_seed(0)
    # Two sums of that many terms on either side, with a root, a power and a few products; and their rounding.
    roundings = 4 * prod(row.kernel) + 32
    relative = roundings * unit_roundoff(ACCUMULATE[dtype]) + 8 * unit_roundoff(dtype)
    return error(ours()[:2], Expectation(expected, expected.abs().double() * relative, dtype))


def _ours(row: PoolRow, **options: Any) -> Callable[..., Any]:
    return partial(getattr(convkit.functional, row.op), **row.arguments, **options)


def _input(row: PoolRow, layout: str, dtype: torch.dtype, seed: int, device: str) -> Tensor:
    generator = torch.Generator(device).manual_seed(seed)
    x = torch.rand(row.shape, generator=generator, device=device).add_(2.0**-6).to(dtype)
    return x.to(memory_format=memory_format(layout, row.dims))


def memory_format(layout: str, dims: int) -> torch.memory_format:
    if layout == "nchw":
        return torch.contiguous_format
    return torch.channels_last if dims == 2 else torch.channels_last_3d


def _call(row: PoolRow, pass_: str, f: Callable[..., Any], x: Tensor) -> Call:
    x, *more = row.tensors(x)
    if pass_ == "forward":
        return lambda: _first(f(x, *more))
    x = x.detach().requires_grad_()
    with torch.no_grad():
        dy = torch.ones_like(_first(f(x, *more)))

    def step() -> Tensor:
        with torch.enable_grad():
            return torch.autograd.grad(_first(f(x, *more)), x, dy)[0]

    return step


def _first(result: Any) -> Tensor:
    first: Tensor = result[0] if isinstance(result, tuple) else result
    return first
