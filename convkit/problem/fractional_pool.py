"""Checks of fractional max pooling's arguments, with PyTorch's messages in PyTorch's order.

One dimension is convkit's own; its messages follow those of two.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from convkit.problem.arguments import Ints, out_of_range, parse

_AXES = {1: ("width",), 2: ("height", "width"), 3: ("time", "width", "height")}  # in the order of PyTorch's checks
_PLACES = {"time": -3, "height": -2, "width": -1}


class FractionalPlan(NamedTuple):
    """What a checked call does."""

    kernel_size: Ints
    output_size: Ints
    batched: bool


def plan_fractional_max_pool(
    ndim: int, shape: Ints, kernel_size: Any, output_size: Any, output_ratio: Any, drawn: bool
) -> FractionalPlan:
    """Checks a call of ``fractional_max_pool{ndim}d``; ``drawn``: the samples are still to be drawn."""
    op = f"fractional_max_pool{ndim}d"
    if output_size is None:
        output_size = _from_ratio(op, ndim, shape, output_ratio)
    if drawn and len(shape) < ndim + 1:
        raise out_of_range(op, ndim, shape, -ndim - 1)
    kernel, out = parse(op, ndim, ("kernel_size", "ints", kernel_size), ("output_size", "ints", output_size))
    for name, values in (("kernel_size", kernel), ("output_size", out)):
        if len(values) != ndim:
            count = "three " if ndim == 3 else ""
            raise RuntimeError(
                f"{op}: {name} must either be a single Int or tuple of {count}Ints, "
                f"but got {name}={list(values)}; allowed: an int or {ndim} ints"
            )
    where = f"{op}_out()" if ndim == 3 else f"{op}()"
    if len(shape) not in (ndim + 1, ndim + 2):
        raise RuntimeError(f"{where}: Expected {ndim + 1}D or {ndim + 2}D tensor, but got: {list(shape)}")
    for dim, length in enumerate(shape):
        if dim > 0 and length == 0:
            raise RuntimeError(
                f"{where}: Expected input to have non-zero size for non-batch dimensions, "
                f"but got{list(shape)} with dimension {dim} being empty."
            )
    if any(k <= 0 for k in kernel):
        raise ValueError(f"kernel_size must be greater than 0, but got {kernel_size}")
    for axis in _AXES[ndim]:
        place = _PLACES[axis]
        k, o, length = kernel[place], out[place], shape[place]
        most = length if ndim < 3 else length - 1
        if o + k - 1 > most:
            raise RuntimeError(
                f"{where}: pool {axis} {k} too large relative to input {axis} {length}: "
                f"output size {o} + kernel size {k} - 1 may be at most {most}"
            )
    if any(o < 0 for o in out):
        negative = next(o for o in out if o < 0)
        raise RuntimeError(
            f"Trying to create tensor with negative dimension {negative}: {[*shape[:-ndim], *out]}; "
            f"output_size={list(out)} must not be negative"
        )
    return FractionalPlan(kernel, out, len(shape) == ndim + 2)


def _from_ratio(op: str, ndim: int, shape: Ints, output_ratio: Any) -> list[int]:
    """int(L * ratio) in each dimension."""
    if output_ratio is None:
        raise ValueError(f"{op} requires specifying either an output_size or an output_ratio")
    single = not isinstance(output_ratio, (tuple, list))
    if single and ndim == 2:
        raise TypeError(
            f"object of type '{type(output_ratio).__name__}' has no len(): output_ratio must be a pair of floats"
        )
    ratios = (output_ratio,) * ndim if single else tuple(output_ratio)
    if len(ratios) > ndim and ndim < 3:
        raise ValueError(
            f"{op} requires output_ratio to either be a single Int or tuple of Ints. "
            f"It must have {ndim} elements, but got output_ratio={output_ratio}"
        )
    if not shape:
        raise IndexError(f"Dimension specified as {-ndim} but tensor has no dimensions: {op} needs {ndim} spatial ones")
    if len(shape) < ndim:
        raise out_of_range(op, ndim, shape, -ndim)
    if len(ratios) < ndim:
        raise IndexError(f"tuple index out of range: {op} needs {ndim} ratios, but got output_ratio={output_ratio}")
    for ratio in ratios[:ndim]:
        if isinstance(ratio, (str, bytes)) or not hasattr(ratio, "__mul__"):
            raise TypeError(
                f"unsupported operand type(s) for *: 'int' and '{type(ratio).__name__}': output_ratio of {op} must be "
                f"a float per dimension, but got {output_ratio!r}"
            )
    return [int(length * ratio) for length, ratio in zip(shape[len(shape) - ndim :], ratios)]


def check_samples(shape: Ints, samples: Ints, ndim: int, batched: bool) -> None:
    """RuntimeError unless samples of size ``samples`` hold ``ndim`` numbers for each plane of the input."""
    if len(samples) != 3:
        raise RuntimeError(f"Expect _random_samples to have 3 dimensions, got {len(samples)}: they are (N, C, {ndim})")
    n, c = (shape[0], shape[1]) if batched else (1, shape[0])
    if samples[0] < n:
        raise RuntimeError(
            f"Expect _random_samples.size(0) no less then input batch size. It is {samples[0]}, the batch size {n}"
        )
    if samples[1] != c:
        raise RuntimeError(
            f"Expect _random_samples.size(1) equals to input channel size. It is {samples[1]}, the channel size {c}"
        )
    if samples[2] != ndim:
        raise RuntimeError(f"Expect _random_samples.size(2) equals to {ndim}; got {samples[2]}.")
