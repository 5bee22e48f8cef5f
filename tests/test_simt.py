"""The GPU kernels on the SIMT emulator: the catalogue under several orders of threads, and faults it must find."""

from __future__ import annotations

import ctypes

import pytest
import torch

from convkit.backends.base import Backend
from convkit.testing.cases import ConvCase, PoolCase, TransposedCase
from convkit.testing.catalogue import CONVOLUTIONS, POOLS, TRANSPOSED
from convkit.testing.oracle import Call, conv_calls, pool_calls, transposed_calls
from convkit.testing.simt import Simt
from tests.test_raw_ops import assert_right, combinations


@pytest.fixture(scope="session")
def simt() -> Simt:
    backend = Simt()
    if (reason := backend.available()) is not None:
        pytest.skip(reason)
    return backend


def check(call: Call, simt: Simt, reference: Backend) -> None:
    """Right under two orders of threads, with the same bits: nothing depends on which thread comes first."""
    if simt.supports(call.op, call.dtype, torch.device("cpu"), call.spec) is not None:  # no GPU kernel yet
        return
    assert_right(call, simt, reference)
    first = call.run(simt)
    with simt.machine(seed=0x5EED, late_copies=False):
        second = call.run(simt)
    for a, b in zip(first, second):
        assert torch.equal(a.nan_to_num(), b.nan_to_num())


@pytest.mark.parametrize(("case", "dtype", "layout"), combinations(CONVOLUTIONS))
def test_simt_convolution(case: ConvCase, dtype: torch.dtype, layout: str, simt: Simt, reference: Backend) -> None:
    for call in conv_calls(case, dtype, layout):
        check(call, simt, reference)


@pytest.mark.parametrize(("case", "dtype", "layout"), combinations(TRANSPOSED))
def test_simt_transposed(case: TransposedCase, dtype: torch.dtype, layout: str, simt: Simt, reference: Backend) -> None:
    for call in transposed_calls(case, dtype, layout):
        check(call, simt, reference)


@pytest.mark.parametrize(("case", "dtype", "layout"), combinations(POOLS))
def test_simt_pool(case: PoolCase, dtype: torch.dtype, layout: str, simt: Simt, reference: Backend) -> None:
    for call in pool_calls(case, dtype, reference, layout):
        check(call, simt, reference)


# --- planted faults -------------------------------------------------------------------------------------------

# As csrc/testing/simt_faults.cu numbers them, and what the emulator reports; None: wrong or varying numbers show it.
FAULTS = {
    "none": None,
    "no wait for a copy": None,
    "no barrier after the wait": None,
    "no barrier before a buffer is used again": None,
    "halo off by one": None,
    "divergent barrier": "divergent barrier: 32 of 64 threads wait",
    "misaligned pack": "misaligned read of 16 bytes",
    "lane outside of its mask": "lane 31 is not in its own mask",
    "sum in order of arrival": None,
    "shared memory read before it is written": None,
}
MACHINES = ((0, True), (0, False), (1, True), (2, False), (3, True), (4, False))


def outcomes(simt: Simt, fault: str) -> list[torch.Tensor | str]:
    """What the kernel leaves or the emulator reports, on every machine."""
    run = ctypes.CDLL(str(simt.binary)).convkit_simt_fault
    run.restype, run.argtypes = ctypes.c_char_p, [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
    blocks, x = 3, torch.randn(3 * 256, generator=torch.Generator().manual_seed(0))
    found: list[torch.Tensor | str] = []
    for seed, late in MACHINES:
        y = torch.full((x.numel() + blocks,), float("nan"))
        with simt.machine(seed, late):
            report = run(list(FAULTS).index(fault), x.data_ptr(), y.data_ptr(), blocks)
        found.append(report.decode() if report else y)
    return found


def test_simt_runs_a_pipeline_right(simt: Simt) -> None:
    x = torch.randn(3 * 256, generator=torch.Generator().manual_seed(0))
    padded = torch.nn.functional.pad(x, (1, 1))
    expected = padded[:-2] + padded[1:-1] + padded[2:]
    for y in outcomes(simt, "none"):
        assert isinstance(y, torch.Tensor), y
        torch.testing.assert_close(y[:-3], expected, rtol=0, atol=2 * 2**-24 * 3 * float(x.abs().max()))
        assert torch.equal(y, outcomes(simt, "none")[0])


@pytest.mark.parametrize("fault", list(FAULTS)[1:])
def test_simt_finds_a_planted_fault(fault: str, simt: Simt) -> None:
    right = outcomes(simt, "none")[0]
    assert isinstance(right, torch.Tensor)
    report = FAULTS[fault]
    found = outcomes(simt, fault)
    if report is not None:
        assert all(isinstance(outcome, str) and report in outcome for outcome in found), found
    else:
        assert any(isinstance(outcome, str) or not torch.equal(outcome, right) for outcome in found)


def test_simt_needs_both_ways_of_delivery(simt: Simt) -> None:
    """A missing wait shows only where copies come late, a buffer used too early only where they come at once."""
    right = outcomes(simt, "none")[0]

    def shows(fault: str, late: bool) -> bool:
        results = [r for r, machine in zip(outcomes(simt, fault), MACHINES) if machine[1] is late]
        return any(isinstance(r, str) or not torch.equal(r, right) for r in results)  # type: ignore[arg-type]

    assert shows("no wait for a copy", late=True) and not shows("no wait for a copy", late=False)
    assert shows("no barrier before a buffer is used again", late=False)
