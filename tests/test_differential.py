"""Random calls, valid and invalid: convkit does what torch.nn.functional does, or raises what it raises."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import convkit.functional as CF
from tests import differential_pools
from tests.differential import OPS, SPOILT, Call, compare, draw_call, spoil

ROUNDS = 3
CALLS = 50


@pytest.mark.parametrize("seed", range(ROUNDS))
@pytest.mark.parametrize("op", OPS)
def test_valid_calls(op: str, seed: int) -> None:
    rng = random.Random(f"valid {op} {seed}")
    for _ in range(CALLS):
        call = draw_call(rng, op)
        difference = compare(call)
        assert difference is None, f"{call}: {difference}"


@pytest.mark.parametrize("seed", range(ROUNDS))
@pytest.mark.parametrize("op", SPOILT)
def test_spoilt_calls(op: str, seed: int) -> None:
    rng = random.Random(f"spoilt {op} {seed}")
    for _ in range(CALLS):
        call = spoil(rng, draw_call(rng, op))
        difference = compare(call)
        assert difference is None, f"{call}: {difference}"


def draw_pool(rng: random.Random, op: str) -> Call:
    n = int(op[-2])
    if op.startswith("max_unpool"):
        return differential_pools.draw_unpool(rng, n)
    if op.startswith("fractional"):
        return differential_pools.draw_fractional(rng, n)
    while not (call := draw_call(rng, op)).args[0].numel():
        pass  # spoilt enough
    return call


@pytest.mark.parametrize("seed", range(ROUNDS))
@pytest.mark.parametrize("op", differential_pools.SPOILT)
def test_spoilt_calls_of_other_poolings(op: str, seed: int) -> None:
    rng = random.Random(f"spoilt {op} {seed}")
    for i in range(CALLS):
        call = draw_pool(rng, op)
        call = differential_pools.spoil(rng, call) if i % 8 else call
        difference = compare(call)
        assert difference is None, f"{call}: {difference}"


NUMBERS = {
    "stride of one element": ("conv2d", (torch.ones(1, 2, 3, 3), None, torch.tensor([2]))),
    "padding with elements": ("conv2d", (torch.ones(1, 2, 3, 3), None, 1, (torch.tensor([[1]]), 0))),
    "kernel size of one element": ("max_pool2d", (torch.tensor([2]),)),
    "array of output sizes": ("adaptive_avg_pool2d", (np.array([2, 3]),)),
    "range of output sizes": ("adaptive_max_pool2d", (range(2, 4),)),
    "NumPy's integer exponent": ("lp_pool2d", (np.int64(2), 2)),
    "NumPy's exponent": ("lp_pool2d", (np.float32(1.5), 2)),
}


@pytest.mark.parametrize("case", NUMBERS)
def test_numbers_that_are_no_python_ints(case: str) -> None:
    op, arguments = NUMBERS[case]
    x = torch.arange(1.0, 73.0).reshape(1, 2, 6, 6)
    torch.testing.assert_close(getattr(CF, op)(x, *arguments), getattr(F, op)(x, *arguments))
