"""Every implementation of the raw operations against the reference in float64: all cases, dtypes and layouts."""

from __future__ import annotations

from math import prod
from typing import Any

import pytest
import torch
from torch import Tensor

from convkit import backends
from convkit.backends.base import Backend
from convkit.backends.native import Native
from convkit.problem import ACTIVATIONS
from convkit.testing.cases import ConvCase, PoolCase, TransposedCase
from convkit.testing.catalogue import CONVOLUTIONS, POOLS, TRANSPOSED
from convkit.testing.flat import FRACTIONAL, INDICES, FractionalCase, IndexCase, fractional_calls, index_calls
from convkit.testing.layouts import LAYOUTS
from convkit.testing.oracle import Call, conv_calls, data, expect, judge, mismatch, pool_calls, transposed_calls

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
    last = channels_last and len(shape) > 2
    order = [0, *range(2, len(shape)), 1] if last else list(range(len(shape)))
    return tuple(prod(max(shape[j], 1) for j in order[order.index(i) + 1 :]) for i in range(len(shape)))


def assert_right(call: Call, backend: Backend, reference: Backend) -> tuple[Tensor, ...]:
    """The call is right, leaves its arguments alone and returns the layout that was asked for; its results."""
    tensors = [a for a in call.arguments.values() if isinstance(a, Tensor)]
    before = [stored(a).clone() for a in tensors]
    results = call.run(backend)
    for expected, result in judge(call, results, backend, reference):
        assert mismatch(result, expected) is None, f"{call.op}: {mismatch(result, expected)}"
        strides = result_strides(tuple(result.shape), call.arguments.get("channels_last", False))
        assert result.stride() == strides, f"{call.op}: strides {result.stride()} instead of {strides}"
    for tensor, copy in zip(tensors, before):
        assert torch.equal(stored(tensor), copy), f"{call.op} wrote to an argument"
    return results


def combinations(cases: tuple[Any, ...]) -> list[Any]:
    """Every case in every floating dtype, and in every layout in float32; those of like values side by side."""
    settings = [(torch.float32, layout) for layout in LAYOUTS] + [(torch.float64, "contiguous")]
    settings += [(torch.bfloat16, "contiguous"), (torch.bfloat16, "channels_last"), (torch.float16, "contiguous")]
    chosen = [(case, *setting) for case in cases for setting in settings]
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


@pytest.mark.parametrize(("case", "dtype", "layout"), combinations(INDICES))
def test_flat_indices(case: IndexCase, dtype: torch.dtype, layout: str, backend: Backend, reference: Backend) -> None:
    for call in index_calls(case, dtype, layout):
        assert_right(call, backend, reference)


@pytest.mark.parametrize(("case", "dtype", "layout"), combinations(FRACTIONAL))
def test_fractional_pool(
    case: FractionalCase, dtype: torch.dtype, layout: str, backend: Backend, reference: Backend
) -> None:
    for call in fractional_calls(case, dtype, layout) + fractional_calls(case, dtype, layout, exact=True):
        assert_right(call, backend, reference)


OTHER_DTYPES = (
    "plain_2d",
    "unequal_2d",
    "unequal_3d",
    "groups_3_unequal",
    "depthwise_unequal",
    "pad_pairs_1d",
    "batch_0",
)


@pytest.mark.parametrize("dtype", INTEGRAL + COMPLEX, ids=short)
@pytest.mark.parametrize("case", [c for c in CONVOLUTIONS if c.name in OTHER_DTYPES], ids=short)
def test_convolution_of_other_dtypes(case: ConvCase, dtype: torch.dtype, backend: Backend, reference: Backend) -> None:
    for layout in ("contiguous", "channels_last", "sliced"):
        for call in conv_calls(case, dtype, layout):
            assert_right(call, backend, reference)


@pytest.mark.parametrize("dtype", INTEGRAL, ids=short)
@pytest.mark.parametrize("case", POOLS, ids=short)
def test_pool_of_integers(case: PoolCase, dtype: torch.dtype, backend: Backend, reference: Backend) -> None:
    for call in pool_calls(case, dtype, reference):
        if not call.op.startswith("avg") or dtype == torch.int64:  # PyTorch averages no other integers
            assert_right(call, backend, reference)


def test_integers_wrap_around(backend: Backend) -> None:
    x, w = torch.full((1, 3, 4, 5), 100, dtype=torch.int8), torch.full((2, 3, 1, 1), 3, dtype=torch.int8)
    spec = ConvCase("", "", (1, 3, 4, 5), (2, 3, 1, 1)).spec
    y = backend.conv_fprop(x, w, None, None, None, spec, False)
    assert bool((y == (900 + 128) % 256 - 128).all())


@pytest.mark.parametrize("activation", range(len(ACTIVATIONS)), ids=lambda i: ACTIVATIONS[i])
@pytest.mark.parametrize("dtype", FLOATING, ids=short)
@pytest.mark.parametrize("name", ["same_3x3", "depthwise_3x3", "pointwise", "unequal_3d", "groups_2"])
def test_epilogue(name: str, dtype: torch.dtype, activation: int, backend: Backend, reference: Backend) -> None:
    case = next(c for c in CONVOLUTIONS if c.name == name)
    for layout in ("contiguous", "channels_last"):
        for call in conv_calls(case, dtype, layout)[:3]:
            shape = case.output if call.op == "conv_fprop" else case.input
            extra = {n: data((shape[1],), dtype, n) for n in ("bias", "scale")}
            residual = LAYOUTS[layout](data(shape, dtype, "residual"))
            spec = case.spec._replace(activation=activation, alpha=0.1)
            assert_right(call.replace(**extra, residual=residual, spec=spec), backend, reference)


def test_every_named_algorithm(reference: Backend) -> None:
    """An algorithm named by its number runs and is right, or refuses; each runs somewhere."""
    native = backends.get("native")
    assert isinstance(native, Native)
    for number, name in enumerate(native.algorithms_of("cpu"), 1):
        ran = set()
        calls = [(c, case.spec) for case in CONVOLUTIONS for c in conv_calls(case, torch.float32)[:4]]
        calls += [(c, case.spec) for case in TRANSPOSED for c in transposed_calls(case, torch.float32)]
        for call, spec in calls:
            try:
                result = call.replace(spec=spec._replace(algorithm=number)).run(native)[0]
            except RuntimeError as refusal:
                assert name in str(refusal)
                continue
            ran.add(call.op)
            assert mismatch(result, expect(call, reference)[0]) is None, f"{name} {call.op} {spec}"
        assert {"conv_fprop", "conv_dgrad"} <= ran, name
