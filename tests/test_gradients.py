"""Derivatives of first and second order through the functional layer: against the raw oracle and finite differences."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import convkit.functional as F
from convkit.backends.base import Backend
from convkit.testing.cases import ConvCase, PoolCase, TransposedCase
from convkit.testing.catalogue import CONVOLUTIONS, POOLS, TRANSPOSED
from convkit.testing.oracle import Call, conv_calls, data, expect, mismatch, pool_calls, transposed_calls

SMALL = 900  # numbers in a problem, for the checks by finite differences


def size(case: Any) -> int:
    return sum(torch.Size(s).numel() for s in (case.input, getattr(case, "weight", ()), case.output))


def ids(case: Any) -> str:
    return str(case.name)


def differentiable(tensors: Any) -> list[torch.Tensor]:
    return [t.detach().clone().requires_grad_() for t in tensors]


def convolve(case: ConvCase, *tensors: torch.Tensor) -> torch.Tensor:
    spec = case.spec
    padding = spec.pad_before if case.symmetric else tuple(zip(spec.pad_before, spec.pad_after))
    function = getattr(F, f"conv{case.dims}d")
    return function(*tensors, stride=spec.stride, padding=padding, dilation=spec.dilation, groups=spec.groups)


def convolve_transposed(case: TransposedCase, *tensors: torch.Tensor) -> torch.Tensor:
    function = getattr(F, f"conv_transpose{case.dims}d")
    return function(*tensors, case.stride, case.padding, case.output_padding, case.groups, case.dilation)


def assert_as_expected(result: torch.Tensor | None, call: Call, reference: Backend) -> None:
    assert result is not None
    (expected, *_) = expect(call, reference)
    assert mismatch(result, expected) is None, f"{call.op}: {mismatch(result, expected)}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", CONVOLUTIONS, ids=ids)
def test_convolution(case: ConvCase, dtype: torch.dtype, reference: Backend) -> None:
    _, fprop, dgrad, wgrad, bgrad = conv_calls(case, dtype)
    x, w, bias = differentiable(fprop.arguments[name] for name in ("x", "w", "bias"))
    y = convolve(case, x, w, bias)
    assert_as_expected(y.detach(), fprop, reference)
    y.backward(dgrad.arguments["dy"])
    for tensor, call in ((x, dgrad), (w, wgrad), (bias, bgrad)):
        assert_as_expected(tensor.grad, call, reference)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", TRANSPOSED, ids=ids)
def test_transposed_convolution(case: TransposedCase, dtype: torch.dtype, reference: Backend) -> None:
    forward, dx, dw = transposed_calls(case, dtype)
    x, w, bias = differentiable(forward.arguments[name] for name in ("dy", "w", "bias"))
    y = convolve_transposed(case, x, w, bias)
    assert_as_expected(y.detach(), forward, reference)
    y.backward(dx.arguments["x"])
    (expected,) = expect(dx, reference)
    cut = tuple(slice(0, n) for n in case.input)  # where output_padding reaches the stride, more windows fit
    assert expected.tolerance is not None
    expected = expected._replace(value=expected.value[cut], tolerance=expected.tolerance[cut])
    assert x.grad is not None and mismatch(x.grad, expected) is None
    assert_as_expected(w.grad, dw, reference)
    assert_as_expected(bias.grad, Call("conv_bgrad", {"dy": dx.arguments["x"]}), reference)


def pool(case: PoolCase, x: torch.Tensor, average: bool) -> torch.Tensor:
    spec = case.spec
    if spec.output_size:
        return getattr(F, f"adaptive_{'avg' if average else 'max'}_pool{case.dims}d")(x, spec.output_size)
    if not average:
        function = getattr(F, f"max_pool{case.dims}d")
        return function(x, spec.kernel_size, spec.stride, spec.pad_before, spec.dilation, spec.ceil_mode)
    extra = {} if case.dims == 1 else {"divisor_override": case.divisor_override or None}
    function = getattr(F, f"avg_pool{case.dims}d")
    arguments = (spec.kernel_size, spec.stride, spec.pad_before, spec.ceil_mode, spec.count_include_pad)
    return function(x, *arguments, **extra)


def in_pytorchs_range(case: PoolCase, average: bool) -> bool:
    """What PyTorch's functions express; the raw operations' tests have the others."""
    spec = case.spec
    if spec.output_size:
        return True
    fits = not average or case.dims < 3 or all(n >= k for n, k in zip(case.input[2:], spec.kernel_size))
    return case.symmetric and fits and not (average and case.dilation != 1)


@pytest.mark.parametrize("average", [False, True], ids=["max", "avg"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_pools(dtype: torch.dtype, average: bool, reference: Backend) -> None:
    for case in POOLS:
        if not in_pytorchs_range(case, average):
            continue
        calls = {call.op: call for call in reversed(pool_calls(case, dtype, reference))}
        forward, backward = (
            calls[n] for n in (("avg_pool", "avg_pool_bwd") if average else ("max_pool", "pool_select_bwd"))
        )
        (x,) = differentiable([forward.arguments["x"]])
        y = pool(case, x, average)
        assert_as_expected(y.detach(), forward, reference)
        y.backward(backward.arguments["dy"])
        assert_as_expected(x.grad, backward, reference)


@pytest.mark.parametrize("case", [c for c in CONVOLUTIONS if size(c) < SMALL and c.input[0]], ids=ids)
def test_convolution_by_finite_differences(case: ConvCase) -> None:
    tensors = differentiable(data(s, torch.float64, case.name) for s in (case.input, case.weight, case.weight[:1]))
    assert gradcheck(lambda *t: convolve(case, *t), tensors, fast_mode=True)
    assert gradgradcheck(lambda *t: convolve(case, *t), tensors, fast_mode=True)


@pytest.mark.parametrize("case", [c for c in TRANSPOSED if size(c) < SMALL and c.input[0]], ids=ids)
def test_transposed_by_finite_differences(case: TransposedCase) -> None:
    shapes = (case.input, case.weight, case.output[1:2])
    tensors = differentiable(data(s, torch.float64, case.name) for s in shapes)
    assert gradcheck(lambda *t: convolve_transposed(case, *t), tensors, fast_mode=True)
    assert gradgradcheck(lambda *t: convolve_transposed(case, *t), tensors, fast_mode=True)


@pytest.mark.parametrize("average", [False, True], ids=["max", "avg"])
def test_pools_by_finite_differences(average: bool) -> None:
    for case in POOLS:
        empty_window = case.name == "dilation_jumps_input"  # minus infinity has no difference quotient
        if in_pytorchs_range(case, average) and size(case) < SMALL and case.input[0] and not empty_window:
            (x,) = differentiable([torch.randperm(torch.Size(case.input).numel()).double().view(case.input)])
            assert gradcheck(lambda t, c=case: pool(c, t, average), (x,), fast_mode=True), case.name
            assert gradgradcheck(lambda t, c=case: pool(c, t, average), (x,), fast_mode=True), case.name
