"""The reference backend against plain loops over its definition, on data that no format rounds."""

from __future__ import annotations

from typing import Any

import loops
import norm_loops
import numpy as np
import pytest
import torch
from torch import Tensor

from convkit.backends.base import Backend
from convkit.backends.reference import pooling
from convkit.problem import ACTIVATIONS
from convkit.testing.cases import ConvCase, PoolCase, TransposedCase
from convkit.testing.catalogue import CONVOLUTIONS, POOLS, TRANSPOSED
from convkit.testing.flat import FRACTIONAL, INDICES, FractionalCase, IndexCase, fractional_calls, index_calls
from convkit.testing.norms import NORMS, WITH_STATISTICS, NormCase, norm_calls, stats_calls
from convkit.testing.oracle import (
    Call,
    conv_calls,
    divided_roundings,
    expect,
    magnitude,
    mismatch,
    pool_calls,
    terms,
    transposed_calls,
    verify,
)
from convkit.testing.tolerances import summation


def test_the_oracle_needs_no_numpy(monkeypatch: pytest.MonkeyPatch, reference: Backend) -> None:
    """As torch does not."""

    def refuse(self: Tensor) -> None:
        raise RuntimeError("Numpy is not available")

    monkeypatch.setattr(Tensor, "numpy", refuse)
    for shape in ((1, 2, 5), (0, 2, 5)):
        x = torch.arange(10.0).view(1, 2, 5)[: shape[0]]
        call = Call("bn_stats", {"x": x}) if shape[0] else Call("conv_bgrad", {"dy": x})
        assert expect(call, reference)[0].value.shape == (2,)


def by_name(case: Any) -> str:
    return str(case.name)


conv_cases = pytest.mark.parametrize("case", CONVOLUTIONS, ids=by_name)
transposed_cases = pytest.mark.parametrize("case", TRANSPOSED, ids=by_name)
pool_cases = pytest.mark.parametrize("case", POOLS, ids=by_name)


def by_loops(call: Call) -> tuple[np.ndarray, ...]:
    """The call's results by definition, in float64."""
    a: dict[str, Any] = {k: v.numpy() if isinstance(v, Tensor) else v for k, v in call.arguments.items()}
    channel = (slice(None),) + (None,) * (len(a["spec"].stride) if "spec" in a else 0)
    bias = a["bias"][channel] if a.get("bias") is not None else 0
    if call.op == "conv_fprop":
        return (loops.conv_fprop(a["x"], a["w"], a["spec"]) + bias,)
    if call.op == "conv_dgrad":
        return (loops.conv_dgrad(a["dy"], a["w"], a["input_size"], a["spec"]) + bias,)
    if call.op == "conv_wgrad":
        return (loops.conv_wgrad(a["dy"], a["x"], a["kernel_size"], a["spec"]),)
    if call.op == "conv_bgrad":
        return (a["dy"].sum(axis=(0, *range(2, a["dy"].ndim))),)
    if call.op == "max_pool":
        return loops.max_pool(a["x"], a["spec"])[: 1 + a["offsets"]]
    if call.op == "pool_select":
        return (loops.pool_select(a["x"], a["offsets"], a["spec"]),)
    if call.op == "pool_select_bwd":
        return (loops.pool_select_bwd(a["dy"], a["offsets"], a["input_size"], a["spec"]),)
    if call.op == "pool_indices":
        return (loops.pool_indices(a["offsets"], a["input_size"], a["spec"]),)
    if call.op == "max_unpool":
        return (loops.max_unpool(a["x"], a["indices"], a["output_size"]),)
    if call.op == "plane_gather":
        return (loops.plane_gather(a["x"], a["indices"]),)
    if call.op == "plane_scatter":
        return (loops.plane_scatter(a["dy"], a["indices"], a["input_size"]),)
    if call.op == "fractional_max_pool":
        found = loops.fractional_max_pool(a["x"], a["samples"], a["kernel_size"], a["output_size"])
        return found[: 1 + a["with_indices"]]
    if call.op == "avg_pool":
        return (loops.avg_pool(a["x"], a["spec"]),)
    if call.op.startswith("lp"):
        p = a["p"] if a["exponent"] is None else float(a["exponent"])
        if call.op == "lp_pool":
            return (loops.lp_pool(a["x"], p, a["norm"], a["spec"]),)
        return (loops.lp_pool_bwd(a["dy"], a["x"], a["y"], p, a["norm"], a["spec"]),)
    if call.op == "avg_pool_bwd":
        return (loops.avg_pool_bwd(a["dy"], a["input_size"], a["spec"]),)
    if call.op == "stochastic_pool":
        return loops.stochastic_pool(a["x"], int(a["seed"]), a["spec"])
    if call.op == "stochastic_mean":
        return (loops.stochastic_mean(a["x"], a["spec"]),)
    return (loops.stochastic_mean_bwd(a["dy"], a["x"], a["y"], a["spec"]),)


def assert_equals_loops(call: Call, reference: Backend) -> None:
    for result, by_definition in zip(call.run(reference), by_loops(call)):
        expected = torch.from_numpy(np.asarray(by_definition))
        assert result.shape == expected.shape, call.op
        if call.op.startswith("lp"):  # so do powers and roots
            (bound,) = expect(call, reference)
            assert bound.tolerance is not None
            assert bool(((result - expected).abs() <= 2 * bound.tolerance).all()), call.op
        elif call.op.startswith(("avg", "stochastic_mean")):  # dividing rounds
            size = torch.from_numpy(by_loops(magnitude(call))[0])
            more = divided_roundings(call)
            allowed = 2 * summation(expected, size, terms(call), torch.float64, more_roundings=more)
            assert bool(((result - expected).abs() <= allowed).all()), call.op
        else:
            assert torch.equal(result, expected.to(result.dtype)), call.op


@conv_cases
def test_reference_convolves_as_loops_do(case: ConvCase, reference: Backend) -> None:
    for call in conv_calls(case, torch.float64, exact=True):
        assert_equals_loops(call, reference)


@transposed_cases
def test_reference_convolves_transposed_as_loops_do(case: TransposedCase, reference: Backend) -> None:
    for call in transposed_calls(case, torch.float64, exact=True):
        assert_equals_loops(call, reference)


@pool_cases
def test_reference_pools_as_loops_do(case: PoolCase, reference: Backend) -> None:
    for call in pool_calls(case, torch.float64, reference, exact=True):
        assert_equals_loops(call, reference)


@pytest.mark.parametrize("case", INDICES, ids=by_name)
def test_reference_follows_indices_as_loops_do(case: IndexCase, reference: Backend) -> None:
    for call in index_calls(case, torch.float64, exact=True):
        assert_equals_loops(call, reference)


@pytest.mark.parametrize("case", FRACTIONAL, ids=by_name)
def test_reference_pools_fractions_as_loops_do(case: FractionalCase, reference: Backend) -> None:
    for call in fractional_calls(case, torch.float64, exact=True):
        assert_equals_loops(call, reference)


def norm_by_loops(call: Call) -> tuple[np.ndarray, ...]:
    a: dict[str, Any] = {k: v.numpy() if isinstance(v, Tensor) else v for k, v in call.arguments.items()}
    if call.op == "bn_stats":
        return norm_loops.statistics(a["x"])
    name = ACTIVATIONS[a["activation"]]
    if call.op == "bn_act":
        return (norm_loops.act(a, name),)
    if call.op == "bn_act_bwd_reduce":
        return norm_loops.reduce(a, name)
    return norm_loops.apply(a, name)[: 1 + a["with_residual"]]


@pytest.mark.parametrize("case", NORMS, ids=by_name)
def test_reference_normalises_as_loops_do(case: NormCase, reference: Backend) -> None:
    """Derivatives to the accuracy of a difference quotient."""
    for call in norm_calls(case, torch.float64):
        quotient = 0.0
        if call.op.startswith("bn_act_bwd") and case.activation not in ("identity", "relu"):
            quotient = norm_loops.QUOTIENT_ERROR
        for (bound, result), by_definition in zip(verify(call, reference, reference), norm_by_loops(call)):
            assert bound.tolerance is not None and result.shape == by_definition.shape
            factor = float(call.arguments["dz"].abs().sum()) if quotient and result.numel() else 0.0
            for name in ("invstd", "weight", "x"):
                t = call.arguments.get(name)
                factor *= 1 + float(t.abs().max()) if quotient and t is not None and t.numel() else 1.0
            difference = (result - torch.from_numpy(by_definition)).abs()
            assert bool(((difference <= 2 * bound.tolerance + quotient * factor) | result.isnan()).all()), call.op
            assert torch.equal(result.isnan(), torch.from_numpy(by_definition).isnan())


def test_reference_takes_the_statistics_of_what_it_stores(reference: Backend) -> None:
    for case in WITH_STATISTICS[:3]:
        for call in stats_calls(case, torch.float64, exact=True):
            y, *statistics = call.run(reference)
            assert torch.equal(y, torch.from_numpy(by_loops(Call("conv_fprop", call.arguments))[0]))
            for result, expected in zip(statistics, norm_loops.statistics(y.numpy())):
                torch.testing.assert_close(result, torch.from_numpy(expected), rtol=1e-12, atol=1e-13, equal_nan=True)


@pytest.mark.parametrize(("name", "elements"), [("k3_s2_p1", 4 * 9 * 30), ("channels_17", 200), ("k2_s2_3d", 1)])
def test_windows_of_large_problems_come_in_blocks(
    name: str, elements: int, reference: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of four of six planes and the other two, of two of 17, of one."""
    case = next(c for c in POOLS if c.name == name)
    calls = pool_calls(case, torch.float32, reference)
    calls = [call for call in calls if call.arguments.get("offsets") is not False]  # no place holders
    whole = [expect(call, reference) for call in calls]
    monkeypatch.setattr(pooling, "_MOST_ELEMENTS", elements)
    for call, expectations in zip(calls, whole):
        for result, expected in zip(call.run(reference), expectations):
            assert mismatch(result, expected) is None, call.op
