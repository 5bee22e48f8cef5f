"""Random calls, valid and invalid: convkit does what torch.nn.functional does, or raises what it raises."""

from __future__ import annotations

import random

import pytest

from tests.differential import OPS, SPOILT, compare, draw_call, spoil

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
