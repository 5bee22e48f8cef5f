"""The Triton kernels: the catalogue in the interpreter (on a GPU: compiled), NaN and ties, graphs, and refusals."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import convkit
from convkit import backends
from convkit.backends.base import Backend
from convkit.backends.gpu import tf32_allowed
from convkit.backends.triton import tiles
from convkit.problem import ACTIVATIONS
from convkit.testing.cases import ConvCase, PoolCase, TransposedCase
from convkit.testing.catalogue import CONVOLUTIONS, POOLS, TRANSPOSED
from convkit.testing.flat import FRACTIONAL, INDICES, FractionalCase, IndexCase, fractional_calls, index_calls
from convkit.testing.layouts import LAYOUTS
from convkit.testing.norms import NORMS, WITH_STATISTICS, NormCase, norm_calls, stats_calls
from convkit.testing.oracle import (
    Call,
    conv_calls,
    data,
    expect,
    mismatch,
    pool_calls,
    stochastic_calls,
    transposed_calls,
)
from convkit.testing.tolerances import tensor_core_error
from tests.on_device import DEVICE
from tests.test_raw_ops import assert_right, short

ROOT = Path(__file__).parent.parent
FORMS = (
    (torch.float32, "contiguous"),
    (torch.bfloat16, "channels_last"),
    (torch.float16, "channels_last_sliced"),
    (torch.float64, "sliced"),
    (torch.float32, "reversed"),
    (torch.bfloat16, "expanded_space"),
)


def forms(cases: tuple[Any, ...], count: int) -> list[Any]:
    """Every case in ``count`` of the forms, each form with as many cases as the others."""
    chosen = [(case, *FORMS[(count * i + j) % len(FORMS)]) for i, case in enumerate(cases) for j in range(count)]
    return [pytest.param(*c, id="-".join(map(short, c))) for c in chosen]


#: A quarter of the catalogue's convolutions, and those in which all parameters differ.
ALL_DIFFER = ("unequal_3d", "pad_pairs_1d", "groups_3_unequal", "dilated_strided", "depthwise_unequal")
CONVOLVED = tuple(c for i, c in enumerate(CONVOLUTIONS) if i % 4 == 0 or c.name in ALL_DIFFER)


@pytest.mark.parametrize(("case", "dtype", "layout"), forms(CONVOLVED, 1))
def test_triton_convolution(
    case: ConvCase, dtype: torch.dtype, layout: str, triton: Backend, reference: Backend
) -> None:
    for call in conv_calls(case, dtype, layout)[1:]:
        assert_right(call, triton, reference)


@pytest.mark.parametrize(("case", "dtype", "layout"), forms(TRANSPOSED, 1))
def test_triton_transposed(
    case: TransposedCase, dtype: torch.dtype, layout: str, triton: Backend, reference: Backend
) -> None:
    assert_right(transposed_calls(case, dtype, layout)[0], triton, reference)


@pytest.mark.parametrize("activation", range(len(ACTIVATIONS)), ids=lambda i: ACTIVATIONS[i])
@pytest.mark.parametrize("name", ["same_3x3", "depthwise_3x3"])
def test_triton_epilogue(name: str, activation: int, triton: Backend, reference: Backend) -> None:
    case = next(c for c in CONVOLUTIONS if c.name == name)
    dtype, layout = FORMS[activation % 4]
    call = conv_calls(case, dtype, layout)[0]
    extra = {n: data((case.output[1],), dtype, n) for n in ("bias", "scale")}
    spec = case.spec._replace(activation=activation, alpha=0.1)
    residual = LAYOUTS[layout](data(case.output, dtype, "residual"))
    assert_right(call.replace(**extra, residual=residual, spec=spec), triton, reference)


def test_triton_is_judged_without_tf32(triton: Backend) -> None:
    """PyTorch's switch is on by default, and what TF32 rounds is no error of the kernels."""
    assert not tf32_allowed()


@pytest.mark.gpu
def test_triton_rounds_to_tf32_where_pytorch_allows_it(triton: Backend, reference: Backend) -> None:
    """Within the bound of operands with 11 bits, and beyond that of float32."""
    case = ConvCase("", "", (2, 32, 9, 10), (40, 32, 3, 3), padding=1)
    for call in conv_calls(case, torch.float32)[1:4]:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=True):
            result = call.run(triton)[0]
        rounded = expect(call, reference, tensor_core_error(tf32=True))[0]
        assert mismatch(result, rounded) is None, f"{call.op}: {mismatch(result, rounded)}"
        assert mismatch(result, expect(call, reference)[0]) is not None, call.op


@pytest.mark.parametrize("algorithm", tiles.ALGORITHMS)
def test_triton_runs_the_named_algorithm(algorithm: str, triton: Backend, reference: Backend) -> None:
    case = next(c for c in CONVOLUTIONS if c.name == "groups_2")
    spec = case.spec._replace(algorithm=tiles.ALGORITHMS.index(algorithm) + 1)
    for call in conv_calls(case, torch.float64)[:4]:
        result = call.replace(spec=spec).run(triton)[0]
        assert mismatch(result, expect(call, reference)[0]) is None


def test_triton_splits_long_sums_and_adds_them_in_order(triton: Backend, reference: Backend) -> None:
    case = ConvCase("", "", (2, 3, 40, 41), (5, 3, 3, 3), padding=1)
    assert tiles.split(2 * 40 * 41, 1, 32)[1] > 1
    for call in conv_calls(case, torch.float32)[3:]:
        assert_right(call, triton, reference)
        assert torch.equal(call.run(triton)[0], call.run(triton)[0])


def slow(case: PoolCase, op: str) -> bool:
    """Whether the interpreter takes seconds: it goes over a window's taps, or over an element's windows, one by one."""
    spec = case.spec
    windows = prod((k - 1) * d // s + 1 for k, s, d in zip(spec.kernel_size, spec.stride, spec.dilation))
    return windows > 16 if op.endswith("bwd") else prod(spec.kernel_size) > (256 if op == "max_pool" else 64)


#: The cases in which Lp and stochastic pooling run too: their way over windows is that of maxima and averages.
POWERS = ("k2_s2", "k3_s2_p1_3d", "unequal_2d", "ceil_overhang_padded", "dilation_jumps_input", "channels_17")


@pytest.mark.parametrize(("case", "dtype", "layout"), forms(POOLS, 1))
def test_triton_pool(case: PoolCase, dtype: torch.dtype, layout: str, triton: Backend, reference: Backend) -> None:
    supports = backends.get("triton").supports
    for call in pool_calls(case, dtype, reference, layout):
        if case.name not in POWERS and call.op.startswith(("lp", "stochastic")):
            continue
        if supports(call.op, call.dtype, torch.device(DEVICE), call.spec) is not None:
            continue
        if DEVICE == "cuda" or not slow(case, call.op):
            assert_right(call, triton, reference)


#: Those of many positions or taps only where kernels are compiled; long_random has what they have.
FLAT = tuple(c for c in INDICES if DEVICE == "cuda" or c.name not in ("few_planes", "long_run"))
STARTED = tuple(c for c in FRACTIONAL if DEVICE == "cuda" or c.name != "large_window")


@pytest.mark.parametrize(("case", "dtype", "layout"), forms(FLAT, 1))
def test_triton_flat_indices(
    case: IndexCase, dtype: torch.dtype, layout: str, triton: Backend, reference: Backend
) -> None:
    for call in index_calls(case, dtype, layout):
        assert_right(call, triton, reference)


@pytest.mark.parametrize(("case", "dtype", "layout"), forms(STARTED, 1))
def test_triton_fractional_pool(
    case: FractionalCase, dtype: torch.dtype, layout: str, triton: Backend, reference: Backend
) -> None:
    for call in fractional_calls(case, dtype, layout) + fractional_calls(case, dtype, layout, exact=True)[:1]:
        assert_right(call, triton, reference)


@pytest.mark.parametrize(("case", "dtype", "layout"), forms(NORMS, 1))
def test_triton_batch_norm(
    case: NormCase, dtype: torch.dtype, layout: str, triton: Backend, reference: Backend
) -> None:
    for call in norm_calls(case, dtype, layout):
        assert_right(call, triton, reference)


@pytest.mark.parametrize(("case", "dtype", "layout"), forms(WITH_STATISTICS, 1))
def test_triton_statistics(
    case: ConvCase, dtype: torch.dtype, layout: str, triton: Backend, reference: Backend
) -> None:
    for call in stats_calls(case, dtype, layout):
        assert_right(call, triton, reference)


def test_triton_statistics_far_from_zero(triton: Backend, reference: Backend) -> None:
    """A variance of 1 about a mean of 3000, over several splits and several blocks of splits."""
    x = torch.randn(40, 2, 61, 59, dtype=torch.float64) + 3000
    expected = (x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False))
    for got, value in zip(triton.bn_stats(x=x.float()), expected):
        torch.testing.assert_close(got.double(), value, rtol=1e-4, atol=0)


@pytest.mark.skipif(DEVICE == "cuda", reason="on a GPU the index ends the kernel, and with it the process's work")
def test_triton_writes_nothing_for_an_index_outside_of_its_plane(triton: Backend) -> None:
    x, indices = torch.tensor([[[1.0, 2.0, 3.0, 4.0]]]), torch.tensor([[[4, -1, 2, 2**40]]])
    y = triton.max_unpool(x=x, indices=indices, output_size=(4,), channels_last=False)
    assert y.tolist() == [[[0.0, 0.0, 3.0, 0.0]]]


@pytest.mark.parametrize("dtype", (torch.uint8, torch.int16, torch.int64), ids=short)
def test_triton_pools_integers(dtype: torch.dtype, triton: Backend, reference: Backend) -> None:
    case = next(c for c in POOLS if c.name == "ceil_overhang_padded")
    for call in pool_calls(case, dtype, reference):
        if not call.op.startswith("avg") or dtype == torch.int64:
            assert_right(call, triton, reference)


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=short)
def test_triton_keeps_ties_and_nan(dtype: torch.dtype, triton: Backend, reference: Backend) -> None:
    """Of equal elements the first, of NaN the last, and a NaN before anything else."""
    case = next(c for c in POOLS if c.name == "k3_s2_p1")
    x = data(case.input, dtype, "ties", exact=True)
    x.view(-1)[::7] = float("nan")
    x.view(-1)[3::11] = -float("inf")
    call = Call("max_pool", {"x": x, "spec": case.spec, "offsets": True, "channels_last": False})
    y, offsets = call.run(triton)
    expected_y, expected_offsets = call.run(reference)
    assert torch.equal(offsets, expected_offsets) and offsets.unique().numel() == 9
    torch.testing.assert_close(y, expected_y, rtol=0, atol=0, equal_nan=True)


def test_triton_draws_what_the_others_draw(triton: Backend) -> None:
    """Bit for bit, through the public function, at addresses beyond one block, and in another layout."""
    x = torch.randn(2, 5, 24, 25).relu()
    calls = {}
    for layout in ("contiguous", "channels_last"):
        call = stochastic_calls(
            PoolCase("drawn", "", (2, 5, 24, 25), 3, 2, 1),
            LAYOUTS[layout](x),
            torch.zeros(2, 5, 12, 13),
            backends.get("native"),
            layout,
        )[0]
        calls[layout] = call.run(triton)
        for ours, theirs in zip(calls[layout], call.run(backends.get("native"))):
            assert torch.equal(ours, theirs)
    assert torch.equal(calls["contiguous"][1], calls["channels_last"][1])


def traced(f: Callable[..., Any], *args: Any) -> Any:
    return torch.compile(f, backend="aot_eager", fullgraph=True)(*args)


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=short)
def test_triton_is_seen_through_by_compile(dtype: torch.dtype, triton: Backend) -> None:
    """One graph without breaks, forward and backward, with the eager call's numbers."""
    x = torch.randn(2, 3, 8, 9, device=DEVICE).to(dtype).contiguous(memory_format=torch.channels_last)

    w = torch.randn(4, 3, 3, 3, device=DEVICE).to(dtype)

    def network(x: Tensor) -> Tensor:
        y = convkit.functional.conv2d(x, w, padding=1)
        y = convkit.functional.max_pool2d(y, 3, 2, 1)
        return convkit.functional.avg_pool2d(y, 2)

    def gradient(f: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        leaf = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
        y = f(leaf)
        y.square().sum().backward()
        assert leaf.grad is not None
        return y.detach(), leaf.grad

    with convkit.backend("triton"):
        eager = gradient(network)
        graph = gradient(lambda x: traced(network, x))
    for a, b in zip(eager, graph):
        assert torch.equal(a, b) and a.stride() == b.stride()


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(DEVICE == "cuda", reason="the refusal of a machine without a GPU")
def test_triton_says_that_there_is_no_gpu() -> None:
    code = """
import convkit, torch
print(convkit.explain("max_pool"))
try:
    convkit.functional.max_pool2d(torch.ones(1, 1, 4, 4), 2, backend="triton")
except RuntimeError as error:
    print(error)
"""
    shown = python(code)
    assert shown.count("need a CUDA GPU; TRITON_INTERPRET=1 runs them on the CPU") == 2, shown
    assert "native     runs" in shown


def test_triton_says_that_it_is_not_installed() -> None:
    code = """
import sys
sys.modules["triton"] = None
import importlib.util
importlib.util.find_spec = lambda name: None
from convkit import backends
print(backends.get("triton").available())
"""
    assert "triton is not installed" in python(code)


@pytest.mark.skipif(DEVICE == "cuda", reason="kernels are interpreted where there is no GPU")
def test_without_numpy_the_tests_of_triton_are_left_out() -> None:
    """Triton's interpreter needs it. An import of triton that fails would end the run, or hurt a later import."""
    code = """
import sys
sys.modules["numpy"] = None
import pytest
code = pytest.main(["-q", "-p", "no:cacheprovider", "tests/test_triton.py::test_triton_is_judged_without_tf32"])
import triton
sys.exit(code)
"""
    shown = python(code)
    assert "1 skipped" in shown and "Triton's interpreter needs numpy" in shown, shown
