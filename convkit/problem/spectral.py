"""Checks of a spectral pooling's arguments, in the words of adaptive pooling."""

from __future__ import annotations

from typing import Any

from convkit.problem.arguments import Ints, parse


def plan_spectral_pool(ndim: int, shape: Ints, output_size: Any) -> Ints:
    """Checks a call of ``spectral_pool{ndim}d``; the spatial size of the result."""
    op = f"spectral_pool{ndim}d"
    if len(shape) not in (ndim + 1, ndim + 2):
        raise RuntimeError(f"{op}(): Expected {ndim + 1}D or {ndim + 2}D tensor, but got {list(shape)}")
    size = shape[-ndim:]
    if output_size is None:
        output_size = size
    if isinstance(output_size, (tuple, list)) and len(output_size) == ndim:
        output_size = [n if given is None else given for n, given in zip(size, output_size)]
    (out,) = parse(op, ndim, ("output_size", "ints", output_size))
    if len(out) != ndim:
        raise RuntimeError(f"{op}: output_size must be {ndim}, but got {len(out)} values: {list(out)}")
    if any(not 1 <= o <= n for o, n in zip(out, size)):
        raise RuntimeError(
            f"{op}: elements of output_size must be from 1 to the input's, which are {list(size)}, but got {list(out)}"
        )
    return tuple(out)
