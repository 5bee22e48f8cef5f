"""maxout: the largest of each group of channels."""

from __future__ import annotations

from math import prod

from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_unary

from convkit.autograd.pool import max_pooling
from convkit.functional.dtypes import check_floating, check_pool_input
from convkit.problem import PoolSpec


def maxout(input: Tensor, pieces: int, dim: int = 1, *, backend: str | None = None) -> Tensor:
    """z[k] = max over j < pieces of input[k pieces + j], along dimension ``dim``.

    Maxout (Goodfellow, Warde-Farley, Mirza, Courville & Bengio, "Maxout Networks", ICML 2013): behind a convolution,
    the largest of ``pieces`` affine maps, an activation that is learned. It is a max pooling whose windows lie in
    ``dim``, and runs as one: one pass, and one byte of each result for backward up to 255 pieces. The gradient goes to
    the first of equal pieces; a NaN wins, and the last NaN. Derivatives of every order.

    Shapes: input of any number of dimensions, of which ``dim`` is a multiple of pieces, and is divided by it in the
    result; the memory layout is the input's. dtypes: floating point.

    Raises TypeError for an input that is no tensor or pieces that are no int, ValueError for pieces below 1,
    IndexError for a dim that is none, NotImplementedError for other dtypes, RuntimeError where pieces do not divide.
    """
    if has_torch_function_unary(input):
        overridden: Tensor = handle_torch_function(maxout, (input,), input, pieces, dim, backend=backend)
        return overridden
    check_pool_input("maxout", input)
    check_pieces("maxout", pieces)
    size = input.size(dim)
    check_floating("maxout", input)
    check_divides("maxout", size, pieces, f"dimension {dim}")
    dim %= input.dim()
    if input.numel() == 0:
        return input.unflatten(dim, (size // pieces, pieces)).amax(dim + 1)
    rows = input.movedim(dim, -1)
    if rows.is_contiguous():  # windows along rows
        images = rows.shape[0] if rows.dim() > 1 else 1
        y = max_pooling(rows.reshape(images, 1, -1, size), _spec(1, pieces), False, backend)
        return y.reshape(*rows.shape[:-1], size // pieces).movedim(-1, dim)
    planes = input.reshape(prod(input.shape[:dim]), 1, size, -1)
    y = max_pooling(planes, _spec(pieces, 1), False, backend)
    return y.reshape(*input.shape[:dim], size // pieces, *input.shape[dim + 1 :])


def check_pieces(op: str, pieces: int) -> None:
    """TypeError, or ValueError, unless ``pieces`` is a positive int."""
    if isinstance(pieces, bool) or not isinstance(pieces, int):
        raise TypeError(f"{op}(): argument 'pieces' must be int, not {type(pieces).__name__}")
    if pieces < 1:
        raise ValueError(f"{op}: pieces must be at least 1, but got pieces={pieces}")


def check_divides(op: str, size: int, pieces: int, what: str) -> None:
    """RuntimeError unless a dimension of ``size`` is made of groups of ``pieces``."""
    if size % pieces:
        raise RuntimeError(f"{op}: the size of {what} must be a multiple of pieces={pieces}, but is {size}")


def _spec(*window: int) -> PoolSpec:
    return PoolSpec(window, window, (0, 0), (0, 0), (1, 1))
