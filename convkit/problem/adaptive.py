"""Checks of an adaptive pooling's arguments, with PyTorch's messages in PyTorch's order.

PyTorch pools one dimension as two of height 1, and its messages show that. Its averages check the output size
first, its maxima the input; so do these.
"""

from __future__ import annotations

from typing import Any

import torch

from convkit.problem.arguments import Ints, out_of_range, parse
from convkit.problem.pooling import PoolPlan, check_dim_range
from convkit.problem.shapes import adaptive_pool_spec


def plan_adaptive_avg_pool(ndim: int, shape: Ints, output_size: Any) -> PoolPlan | None:
    """Checks a call of ``adaptive_avg_pool{ndim}d``.

    None: a mean over the last dimensions of something that is no batch of planes, or has no elements. To PyTorch every
    average over everything is a mean.
    """
    op = f"adaptive_avg_pool{ndim}d"
    out = _read(op, ndim, shape, output_size)
    if not _check_average(op, ndim, shape, out):
        return None
    return PoolPlan(adaptive_pool_spec(shape[-ndim:], out), len(shape) == ndim + 2)


def plan_adaptive_max_pool(ndim: int, shape: Ints, output_size: Any) -> PoolPlan:
    """Checks a call of ``adaptive_max_pool{ndim}d``."""
    op = f"adaptive_max_pool{ndim}d"
    out = _read(op, ndim, shape, output_size)
    _check_maximum(op, ndim, shape, out)
    return PoolPlan(adaptive_pool_spec(shape[-ndim:], out), len(shape) == ndim + 2)


def _read(op: str, ndim: int, shape: Ints, output_size: Any) -> Ints:
    return _parse_1d(op, shape, output_size) if ndim == 1 else _parse(op, ndim, shape, output_size)


def _parse_1d(op: str, shape: Ints, output_size: Any) -> Ints:
    (out,) = parse(op, 1, ("output_size", "ints", output_size))
    check_dim_range(op, shape)
    if len(out) != 1:
        raise RuntimeError(
            f"{op}() argument 'output_size' should contain one int (got {len(out)}); output_size={output_size!r}"
        )
    return tuple(out)


def _parse(op: str, ndim: int, shape: Ints, output_size: Any) -> Ints:
    """None, where it stands for a dimension, keeps that dimension's size."""
    if not isinstance(output_size, (int, torch.SymInt)):
        if not isinstance(output_size, (tuple, list)):
            try:
                len(output_size)
            except TypeError as error:
                allowed = f"output_size must be an int or {ndim} of ints and None"
                raise TypeError(f"{error}: {allowed}, not {type(output_size).__name__}") from None
            output_size = list(output_size)  # an array is as good
        count = len(output_size)
        if len(shape) <= count:
            raise ValueError(
                f"Input dimension should be at least {count + 1}, but got input of size {list(shape)} "
                f"for output_size={output_size!r}"
            )
        kept = shape[len(shape) - count :]
        output_size = [size if size is not None else n for size, n in zip(output_size, kept)]
    (out,) = parse(op, ndim, ("output_size", "ints", output_size))
    return tuple(out)


def _check_average(op: str, ndim: int, shape: Ints, out: Ints) -> bool:
    """Whether it is a pooling, and not only a mean."""
    if ndim == 1:
        op, out, shape = "adaptive_avg_pool2d", (1, *out), (*shape[:-1], 1, shape[-1])
    ndim = max(ndim, 2)
    if len(out) != ndim:
        raise RuntimeError(f"{op}: output_size must be {ndim}, but got {len(out)} values: {list(out)}")
    if any(n < 0 for n in out):
        listed = f"{out[0]}, " + ",".join(map(str, out[1:]))
        raise RuntimeError(
            f"{op}: elements of output_size must be greater than or equal to 0 but received {{{listed}}}"
        )
    planes = len(shape) in (ndim + 1, ndim + 2)
    if all(n == 1 for n in out):
        if len(shape) < ndim:
            raise out_of_range(op, ndim, shape, -max(len(shape), 1) - 1)
        return planes and 0 not in shape[1:]
    if not planes:
        raise RuntimeError(f"{op}(): Expected {ndim + 1}D or {ndim + 2}D tensor, but got {list(shape)}")
    _check_not_empty(op, shape, range(len(shape) - 2, len(shape)) if ndim == 2 else range(1, len(shape)))
    return True


def _check_maximum(op: str, ndim: int, shape: Ints, out: Ints) -> None:
    if len(shape) not in (ndim + 1, ndim + 2):
        raise RuntimeError(f"{op}(): Expected {ndim + 1}D or {ndim + 2}D tensor, but got: {list(shape)}")
    _check_not_empty(op, shape, range(1, len(shape)))
    if len(out) != ndim:
        raise RuntimeError(
            f"{op}(): internal error: output_size.size() must be {ndim}, but got {len(out)} values: {list(out)}"
        )
    for n in out:
        if n < 0:
            size = [*shape[:-ndim], *((1,) if ndim == 1 else ()), *out]
            raise RuntimeError(f"Trying to create tensor with negative dimension {n}: {size}; output_size={list(out)}")


def _check_not_empty(op: str, shape: Ints, dims: range) -> None:
    for dim in dims:
        if shape[dim] == 0:
            raise RuntimeError(
                f"{op}(): Expected input to have non-zero size for non-batch dimensions, but input has sizes "
                f"{list(shape)} with dimension {dim} being empty"
            )
