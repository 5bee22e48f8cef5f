"""Every implementation of the raw operations against the reference in float64: all cases, dtypes and layouts."""

from __future__ import annotations

from math import prod
from typing import Any

import pytest
import torch
from torch import Tensor

from convkit.backends.base import Backend
from convkit.testing.cases import ConvCase, PoolCase, TransposedCase
from convkit.testing.catalogue import CONVOLUTIONS, POOLS, TRANSPOSED
from convkit.testing.layouts import LAYOUTS
from convkit.testing.oracle import Call, conv_calls, mismatch, pool_calls, transposed_calls, verify

FLOATING = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
INTEGRAL = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
COMPLEX = (torch.complex64, torch.complex128)


def short(value: Any) -> str:
    return str(value).removeprefix("torch.") if isinstance(value, torch.dtype) else str(getattr(value, "name", value))


def stored(t: Tensor) -> Tensor:
    """The whole memory a tensor lives in, gaps included, as bytes."""
    return torch.empty(0, dtype=torch.uint8).set_(t.untyped_storage())


def result_strides(shape: tuple[int, ...], channels_last: bool) -> tuple[int, ...]:
    """Dense strides in the wanted order, sizes 0 counting as 1."""
    order = [0, *range(2, len(shape)), 1] if channels_last else list(range(len(shape)))
    return tuple(prod(max(shape[j], 1) for j in order[order.index(i) + 1 :]) for i in range(len(shape)))


def assert_right(call: Call, backend: Backend, reference: Backend) -> None:
    """The call is right, leaves its arguments alone and returns the layout that was asked for."""
    tensors = [a for a in call.arguments.values() if isinstance(a, Tensor)]
    before = [stored(a).clone() for a in tensors]
    for expected, result in verify(call, backend, reference):
        assert mismatch(result, expected) is None, f"{call.op}: {mismatch(result, expected)}"
        strides = result_strides(tuple(result.shape), call.arguments.get("channels_last", False))
        assert result.stride() == strides, f"{call.op}: strides {result.stride()} instead of {strides}"
    for tensor, copy in zip(tensors, before):
        assert torch.equal(stored(tensor), copy), f"{call.op} wrote to an argument"


def combinations(cases: tuple[Any, ...]) -> list[Any]:
    """Every case in every floating dtype, and in every layout in float32."""
    chosen = [(case, dtype, "contiguous") for case in cases for dtype in FLOATING]
    chosen += [(case, torch.bfloat16, "channels_last") for case in cases]
    chosen += [(case, torch.float32, layout) for case in cases for layout in LAYOUTS if layout != "contiguous"]
    return [pytest.param(*c, id="-".join(map(short, c))) for c in chosen]


@pytest.mark.parametrize(("case", "dtype", "layout"), combinations(CONVOLUTIONS))
def test_convolution(case: ConvCase, dtype: torch.dtype, layout: str, backend: Backend, reference: Backend) -> None:
    for call in conv_calls(case, dtype, layout):
        assert_right(call, backend, reference)


@pytest.mark.parametrize(("case", "dtype", "layout"), combinations(TRANSPOSED))
def test_transposed(
    case: TransposedCase, dtype: torch.dtype, layout: str, backend: Backend, reference: Backend
) -> None:
    for call in transposed_calls(case, dtype, layout):
        assert_right(call, backend, reference)


@pytest.mark.parametrize(("case", "dtype", "layout"), combinations(POOLS))
def test_pool(case: PoolCase, dtype: torch.dtype, layout: str, backend: Backend, reference: Backend) -> None:
    for call in pool_calls(case, dtype, reference, layout):
        assert_right(call, backend, reference)
