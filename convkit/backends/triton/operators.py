"""The raw operations as operators of torch, ``torch.ops.convkit_triton``: what a compiled graph calls.

Same schemas as the compiled library's operators, and the same fake kernels; so torch.compile and torch.export see one
node with exact sizes and strides, and no graph breaks. Eager calls do not pass through here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from torch import library

from convkit.backends import fake
from convkit.backends.base import bundled
from convkit.backends.triton import operations
from convkit.problem import ConvSpec, PoolSpec

NAMESPACE = "convkit_triton"


def _conv(packed: Sequence[int], alpha: float) -> dict[str, Any]:
    (stride, before, after, dilation), (groups, mode, activation, algorithm, tf32, last) = fake.unpack(packed, 4)
    return {
        "spec": ConvSpec(stride, before, after, dilation, groups, mode, activation, alpha, algorithm, bool(tf32)),
        "channels_last": bool(last),
    }


def _pool(packed: Sequence[int]) -> dict[str, Any]:
    (kernel, stride, before, after, dilation, out), (ceil, padded, override, last) = fake.unpack(packed, 6)
    adaptive = out if out[0] >= 0 else ()
    spec = PoolSpec(kernel, stride, before, after, dilation, bool(ceil), bool(padded), override, adaptive)
    return {"spec": spec, "channels_last": bool(last)}


def _unpacked(op: Callable[..., Any], names: tuple[str, ...]) -> Callable[..., Any]:
    """The operator's kernel: the backend's function, told its spec or norm by name."""

    def kernel(*args: Any) -> Any:
        named = dict(zip(names, args))
        packed = named.pop("packed", None)
        if packed is not None:
            is_conv = op.__name__.startswith("conv")
            named.update(_conv(packed, named.pop("alpha", 0.0)) if is_conv else _pool(packed))
        for name, value in named.items():
            if isinstance(value, list):
                named[name] = tuple(value)
        return op(**bundled(named))

    return kernel


@cache
def register() -> library.Library:
    """Defines the operators, once; the library they belong to lives as long as the process."""
    operators = library.Library(NAMESPACE, "DEF")
    for shape_of in fake.KERNELS:
        name = shape_of.__name__
        if name not in operations.__all__:
            continue
        names = tuple(shape_of.__code__.co_varnames[: shape_of.__code__.co_argcount])
        operators.define(name + library.infer_schema(shape_of, mutates_args=()))
        kernel = _unpacked(getattr(operations, name), names)
        for key in ("CPU", "CUDA"):
            operators.impl(name, kernel, key)
        library.register_fake(f"{NAMESPACE}::{name}", shape_of)
    return operators
