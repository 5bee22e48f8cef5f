"""Parsing of arguments: an int, or one per dimension, or (before, after) pairs, as torch's argument parser takes them.

PyTorch accepts Python and NumPy integers and integer tensors of one element, refuses floats, and looks for
bools only in the first place of a tuple. Its messages come first in ours, so code that matches on them goes on working.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from convkit.problem.shapes import STRING_PADDINGS

Ints = tuple[int, ...]

INT64_MAX = 2**63 - 1
DTYPE_NAMES = {  # torch.dtype -> the name that PyTorch's C++ messages print
    torch.bool: "Bool",
    torch.uint8: "Byte",
    torch.int8: "Char",
    torch.int16: "Short",
    torch.int32: "Int",
    torch.int64: "Long",
    torch.float16: "Half",
    torch.float32: "Float",
    torch.float64: "Double",
    torch.bfloat16: "BFloat16",
    torch.complex32: "ComplexHalf",
    torch.complex64: "ComplexFloat",
    torch.complex128: "ComplexDouble",
    torch.uint16: "UInt16",
    torch.uint32: "UInt32",
    torch.uint64: "UInt64",
}
# Where PyTorch's message counts positions: operands everywhere; max_pool* hand all arguments on by position.
_POSITIONS = {"input": 1, "weight": 2, "bias": 3, "kernel_size": 2, "indices": 2, "output_size": 3, "random_samples": 4}
_ADAPTIVE_POSITIONS = {"input": 1, "output_size": 2}
_MAX_POOL_POSITIONS = {**_POSITIONS, "stride": 3, "padding": 4, "dilation": 5, "ceil_mode": 6}
# lp_pool* hand theirs on to avg_pool*, by position where a stride is given.
AVG_POOL_POSITIONS = {**_POSITIONS, "stride": 3, "padding": 4, "ceil_mode": 5}


def dtype_name(dtype: torch.dtype) -> str:
    """The name of ``dtype`` in PyTorch's C++ messages: ``Float`` for torch.float32."""
    return DTYPE_NAMES.get(dtype) or str(dtype).removeprefix("torch.").capitalize()


def _type_name(value: Any) -> str:
    kind = type(value)
    return f"{kind.__module__}.{kind.__name__}" if kind.__module__ == "numpy" else kind.__name__


def wrong_type(
    op: str, name: str, value: Any, expected: str, allowed: str, positions: Mapping[str, int] | None = None
) -> TypeError:
    """The TypeError that PyTorch raises for argument ``name``, then what is allowed.

    ``positions``: of the arguments that PyTorch's message counts, where they are not those of every call of ``op``.
    """
    got = _type_name(value)
    if op.startswith("conv") and "transpose" not in op:
        start = f"{op}() received an invalid combination of arguments - got (Tensor, Tensor, {name}={got})"
        return TypeError(f"{start}; argument '{name}' must be {allowed}, not {got}")
    if positions is None:
        positions = _MAX_POOL_POSITIONS if op.startswith("max_pool") else _POSITIONS
        positions = _ADAPTIVE_POSITIONS if op.startswith("adaptive") else positions
    position = f" (position {positions[name]})" if name in positions else ""
    if position and expected != "Tensor" and isinstance(value, (tuple, list)) and value:
        got = f"but found element of type {_type_name(value[0])} at pos 0"
    else:
        got = f"not {got}"
    return TypeError(f"{op}(): argument '{name}'{position} must be {expected}, {got}; allowed: {allowed}")


def _as_index(value: Any) -> Any:
    """``value`` as an int if PyTorch reads it as one (a bool is not), else None."""
    if isinstance(value, (int, torch.SymInt)):
        return None if isinstance(value, bool) else value
    if isinstance(value, torch.Tensor) and (
        value.numel() != 1 or value.dtype == torch.bool or value.is_floating_point()
    ):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def _bounded(value: Any) -> int:
    if isinstance(value, int) and not -INT64_MAX - 1 <= value <= INT64_MAX:
        raise ValueError(f"Overflow when unpacking long long: {value} is not a 64-bit integer")
    return value


def parse(
    op: str, ndim: int, *arguments: tuple[str, str, Any], positions: Mapping[str, int] | None = None
) -> list[Any]:
    """The values of ``arguments``, each given as (name, kind, value).

    Kinds: ``int``; ``bool``; ``ints``: an int, which holds for all ``ndim`` dimensions, or a sequence, whose
    length the caller checks; ``padding``: ints or (before, after) pairs; ``text padding``: also a string;
    ``rule padding``: also one of STRING_PADDINGS; a ``?`` behind the kind also allows None. As in PyTorch,
    every type is checked before any element.
    ``positions``: see :func:`wrong_type`.
    """
    for name, kind, value in arguments:
        _check_type(op, ndim, name, kind, value, positions)
    return [_read(op, ndim, name, kind, value) for name, kind, value in arguments]


def _check_type(
    op: str, ndim: int, name: str, kind: str, value: Any, positions: Mapping[str, int] | None = None
) -> None:
    if (type(value) is int and kind != "bool") or (value is None and kind[-1] == "?"):
        return
    if kind == "bool":
        if not isinstance(value, bool):
            raise wrong_type(op, name, value, "bool", "True or False", positions)
        return
    if kind.startswith("int") and not kind.startswith("ints"):
        if _as_index(value) is None:
            raise wrong_type(op, name, value, "int", "an int", positions)
        return
    if isinstance(value, str) and (kind == "text padding" or (kind == "rule padding" and value in STRING_PADDINGS)):
        return
    if "padding" in kind and is_pairs(value):
        return
    first = value[0] if isinstance(value, (tuple, list)) and value else value
    if not (isinstance(value, (tuple, list)) and not value) and _as_index(first) is None:
        also = "" if kind.startswith("ints") else f", {ndim} (before, after) pairs"
        also += (
            ", or a string" if kind == "text padding" else f", or one of {STRING_PADDINGS}" if "rule" in kind else ""
        )
        raise wrong_type(op, name, value, "tuple of ints", f"an int or a tuple of {ndim} ints{also}", positions)


def _read(op: str, ndim: int, name: str, kind: str, value: Any) -> Any:
    if value is None or kind == "bool" or isinstance(value, str):
        return value
    if kind.startswith("int") and not kind.startswith("ints"):
        return _bounded(_as_index(value))
    if "padding" in kind and is_pairs(value):
        return _read_pairs(op, ndim, value)
    if not isinstance(value, (tuple, list)):
        return (_bounded(_as_index(value)),) * ndim
    out = []
    for place, v in enumerate(value):
        index = int(v) if isinstance(v, bool) else _as_index(v)
        if index is None:
            raise TypeError(
                f"{op}(): argument '{name}' failed to unpack the object at pos {place + 1} with error \"type must be "
                f'tuple of ints,but got {_type_name(v)}"; {name}={value!r}, allowed: an int or a tuple of {ndim} ints'
            )
        out.append(_bounded(index))
    return tuple(out)


def is_pairs(padding: Any) -> bool:
    """Whether ``padding`` is written as (before, after) pairs: a sequence whose first element is a sequence."""
    return isinstance(padding, (tuple, list)) and len(padding) > 0 and isinstance(padding[0], (tuple, list))


class Pairs(NamedTuple):
    """Padding given as (before, after) pairs."""

    before: Ints
    after: Ints


def _read_pairs(op: str, ndim: int, padding: Any) -> Pairs:
    for pair in padding:
        _check_type(op, 2, "padding", "ints", pair)
    pairs = [_read(op, 2, "padding", "ints", pair) for pair in padding]
    if len(pairs) not in (1, ndim) or any(len(pair) != 2 for pair in pairs):
        raise RuntimeError(
            f"expected padding to be a single integer value or a list of {ndim} values to match the convolution "
            f"dimensions, but got padding={padding!r}; pairs must be {ndim} of (before, after), or one for all"
        )
    pairs = pairs * ndim if len(pairs) == 1 else pairs
    return Pairs(tuple(pair[0] for pair in pairs), tuple(pair[1] for pair in pairs))


def before_and_after(padding: Ints | Pairs) -> tuple[Ints, Ints]:
    """The two sides of a parsed padding."""
    return (padding.before, padding.after) if isinstance(padding, Pairs) else (padding, padding)


def out_of_range(op: str, ndim: int, shape: Ints, dim: int) -> IndexError:
    """PyTorch's IndexError for a dimension that the input of ``op`` lacks."""
    limits = f"expected to be in range of [{-max(len(shape), 1)}, {max(len(shape), 1) - 1}], but got {dim}"
    return IndexError(
        f"Dimension out of range ({limits}): {op} takes {ndim + 1} or {ndim + 2} dimensions, "
        f"but got input of size {list(shape)}"
    )


def spaced(values: Any, separator: str = ", ") -> str:
    """Sizes as PyTorch's messages print them: without the brackets."""
    return separator.join(str(v) for v in values)
