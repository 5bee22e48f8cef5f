"""Checks of max unpooling's arguments, with PyTorch's messages in PyTorch's order, and the output size.

PyTorch unpools a row as an image of width 1, and checks the output size in Python before anything else.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from convkit.problem.arguments import Ints, parse

_EXACTLY = {2: "two elements (height, width)", 3: "three elements (depth, height, width)"}


class UnpoolPlan(NamedTuple):
    """What a checked call does."""

    output_size: Ints
    batched: bool


def plan_max_unpool(
    ndim: int,
    shape: Ints,
    index_shape: Ints,
    index_dtype: str,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    output_size: Any,
) -> UnpoolPlan:
    """Checks a call of ``max_unpool{ndim}d``; ``index_dtype`` is the indices' dtype as PyTorch prints it."""
    op = f"max_unpool{ndim}d"
    kernel, strides, pads = parse(
        op, ndim, ("kernel_size", "ints", kernel_size), ("stride", "ints?", stride), ("padding", "ints", padding)
    )
    strides = kernel if strides is None else strides
    out = _output_size(op, ndim, shape, kernel, strides, pads, output_size)
    if index_dtype != "Long":
        raise RuntimeError(f"elements in indices should be type int64 but got: {index_dtype}")
    # From here on PyTorch sees a row as an image.
    as_row = ndim == 1
    dims, row = max(ndim, 2), (1,) if as_row else ()
    shape, index_shape, given = (*shape, *row), (*index_shape, *row), (*out, *row)
    if len(given) != dims:
        raise RuntimeError(
            f"There should be exactly {_EXACTLY[dims]} in output_size, but got {len(given)} elements. "
            f"kernel_size={list(kernel)} must be an int or {ndim} ints"
        )
    if len(shape) not in (dims + 1, dims + 2):
        raise RuntimeError(
            f"Input to max_unpooling{dims}d should be a {dims + 1}d or {dims + 2}d Tensor, but got a tensor with "
            f"{len(shape)} dimensions." + (" (A row counts as an image of width 1.)" if as_row else "")
        )
    for name, values in (("stride", strides), ("padding", pads)):
        if ndim == 3 and len(values) != 3:
            raise RuntimeError(
                f"There should be exactly {_EXACTLY[3]} in {name}, but got: {len(values)} elements. "
                f"{name}={list(values)}"
            )
    if shape != index_shape:
        raise RuntimeError(
            f"Expected shape of indices to be same as that of the input tensor ({list(shape)}) but got indices tensor "
            f"with shape: {list(index_shape)}"
        )
    for dim, length in enumerate(shape):
        if dim > 0 and length == 0:
            raise RuntimeError(
                f"max_unpooling{dims}d_forward_out_cpu(): Expected input to have non-zero size for non-batch "
                f"dimensions, but got {list(shape)} with dimension {dim} being empty."
            )
    if ndim == 3 and any(s <= 0 for s in strides):
        raise RuntimeError(f"strides should be greater than zero, but got stride: {list(strides)}")
    return UnpoolPlan(tuple(out), len(shape) == dims + 2)


def _output_size(
    op: str, ndim: int, shape: Ints, kernel: Ints, stride: Ints, padding: Ints, output_size: Any
) -> tuple[int, ...]:
    """(L - 1) s - 2p + k per dimension, or ``output_size``, which must differ from it by less than the stride."""
    n = len(kernel)
    for name, values in (("input", shape), ("stride", stride), ("padding", padding)):
        if len(values) < n:
            raise IndexError(
                f"tuple index out of range: {op} with kernel_size={list(kernel)} needs {n} spatial sizes of the "
                f"input, strides and paddings, but got {name} {list(values)}"
            )
    default = tuple(
        (length - 1) * s + k - 2 * p for length, k, s, p in zip(shape[len(shape) - n :], kernel, stride, padding)
    )
    if output_size is None:
        out = default
    else:
        try:
            given = len(output_size)
        except TypeError:
            raise TypeError(
                f"object of type '{type(output_size).__name__}' has no len(): output_size must be a sequence of {n} or "
                f"{n + 2} ints, or None"
            ) from None
        chosen = output_size[2:] if given == n + 2 else output_size
        if len(chosen) != n:
            raise ValueError(
                f"output_size should be a sequence containing {n} or {n + 2} elements, but it has a length of '{given}'"
            )
        for d, (size, middle, s) in enumerate(zip(chosen, default, stride)):
            if not middle - s < size < middle + s:
                raise ValueError(
                    f'invalid output_size "{chosen}" (dim {d} must be between {middle - s} and {middle + s})'
                    ": the limits themselves are excluded"
                )
        (out,) = parse(op, n, ("output_size", "ints", tuple(chosen)))
    for d, size in enumerate(out):
        if size < 0:
            raise ValueError(
                "max_unpooling: output_size must contain non-negative spatial dimensions, "
                f"but got output_size[{d}]={size}"
            )
    return tuple(out)
