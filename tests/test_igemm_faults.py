"""Faults planted in an implicit GEMM that is made of conv_igemm's headers: the emulator finds each."""

from __future__ import annotations

import ctypes

import pytest
import torch
from torch import Tensor

from convkit.testing.simt import Simt
from convkit.testing.tolerances import summation

# As csrc/testing/simt_igemm_faults.cu numbers them, and what the emulator reports; None: wrong or varying numbers.
FAULTS = {
    "none": None,
    "no wait for the copies of a step": None,
    "no barrier behind the wait": None,
    "a stage filled while others read it": None,
    "fragments with indices exchanged": None,
    "a vector at the place that is not permuted": None,
    "halo off by one": None,
    "parts of the reduction added in order of arrival": None,
    "half a warp at a matrix instruction": "divergent warp operation: lane",
}
MACHINES = ((0, True), (0, False), (1, True), (2, False))
LENGTH, CHANNELS, FILTERS = 100, 256, 64


def operands() -> tuple[Tensor, Tensor]:
    """x with a row of NaN behind it, and w."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(LENGTH + 1, CHANNELS, generator=generator).bfloat16()
    x[LENGTH] = float("nan")
    return x, torch.randn(FILTERS, 3, CHANNELS, generator=generator).bfloat16()


def outcomes(simt: Simt, fault: str) -> list[Tensor | str]:
    """What the kernel leaves or the emulator reports, on every machine."""
    run = ctypes.CDLL(str(simt.binary)).convkit_simt_igemm_fault
    run.restype, run.argtypes = ctypes.c_char_p, [ctypes.c_int, *[ctypes.c_void_p] * 3, ctypes.c_int]
    x, w = operands()
    found: list[Tensor | str] = []
    for seed, late in MACHINES:
        y = torch.zeros(LENGTH, FILTERS)
        with simt.machine(seed, late):
            report = run(list(FAULTS).index(fault), x.data_ptr(), w.data_ptr(), y.data_ptr(), LENGTH)
        found.append(report.decode() if report else y)
    return found


@pytest.fixture(scope="module")
def right(simt: Simt) -> Tensor:
    found = outcomes(simt, "none")
    assert all(isinstance(y, Tensor) and torch.equal(y, found[0]) for y in found), found
    assert isinstance(found[0], Tensor)
    return found[0]


def test_simt_igemm_without_a_fault(right: Tensor) -> None:
    x, w = (t.double() for t in operands())

    def convolve(x: Tensor, w: Tensor) -> Tensor:
        return torch.nn.functional.conv1d(x[:LENGTH].t()[None], w.transpose(1, 2), padding=1)[0].t()

    exact, magnitude = convolve(x, w), convolve(x.abs(), w.abs())
    bound = summation(exact, magnitude, 3 * CHANNELS, torch.float32)
    assert bool(((right - exact).abs() <= bound).all())


@pytest.mark.parametrize("fault", list(FAULTS)[1:])
def test_simt_finds_a_fault_in_an_igemm(fault: str, simt: Simt, right: Tensor) -> None:
    report, found = FAULTS[fault], outcomes(simt, fault)
    if report is not None:
        assert all(isinstance(outcome, str) and report in outcome for outcome in found), found
    else:
        assert any(isinstance(outcome, str) or not torch.equal(outcome, right) for outcome in found)
