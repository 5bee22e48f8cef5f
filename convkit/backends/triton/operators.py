"""The raw operations as operators of torch, ``torch.ops.convkit_triton``: what a compiled graph calls.

Same schemas as the compiled library's operators, and the same fake kernels; so torch.compile and torch.export see one
node with exact sizes and strides, and no graph breaks. Modes of torch's dispatcher (a counter of operations, fake
tensors) see them too. Other eager calls do not pass through here. What imports triton is the first call, not the
definition of the operators.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from torch import library

from convkit.backends import fake, flops
from convkit.backends.base import RAW_OPS, bundled
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


@cache
def _function(op: str) -> Callable[..., Any]:
    from convkit.backends.triton import operations

    return getattr(operations, op)


def _unpacked(op: str, names: tuple[str, ...]) -> Callable[..., Any]:
    """The operator's kernel: the backend's function, told its spec or norm by name."""

    def kernel(*args: Any) -> Any:
        named = dict(zip(names, args))
        packed = named.pop("packed", None)
        if packed is not None:
            is_conv = op.startswith("conv")
            named.update(_conv(packed, named.pop("alpha", 0.0)) if is_conv else _pool(packed))
        for name, value in named.items():
            if isinstance(value, list):
                named[name] = tuple(value)
        return _function(op)(**bundled(named))

    return kernel


@cache
def register() -> library.Library:
    """Defines the operators, once; the library they belong to lives as long as the process."""
    operators = library.Library(NAMESPACE, "DEF")
    for shape_of in fake.KERNELS:
        name = shape_of.__name__
        if name not in RAW_OPS:
            continue
        names = tuple(shape_of.__code__.co_varnames[: shape_of.__code__.co_argcount])
        operators.define(name + library.infer_schema(shape_of, mutates_args=()))
        kernel = _unpacked(name, names)
        for key in ("CPU", "CUDA"):
            operators.impl(name, kernel, key)
        library.register_fake(f"{NAMESPACE}::{name}", shape_of)
    flops.register(NAMESPACE)
    return operators
