"""Pooling of planes in bands on the SIMT emulator, at the shapes where bands and their copies change."""

from __future__ import annotations

import pytest
import torch

from convkit.backends.base import Backend
from convkit.problem import adaptive_pool_spec
from convkit.testing.cases import PoolCase
from convkit.testing.oracle import Call, data, pool_calls
from convkit.testing.simt import Simt
from tests.test_simt import check

CASES = (
    PoolCase("bands", "several bands of a plane, rows that begin anywhere in a vector", (1, 2, 71, 45), 3, 2, 1),
    PoolCase("planes", "many small planes in a block, the last one with fewer", (3, 37, 7, 7), 3, 1, 1),
    PoolCase("tiles", "windows that tile planes", (2, 3, 40, 34), 2, 2),
    PoolCase("wide", "one row of windows is a band", (1, 2, 9, 900), (3, 3), (2, 2), (1, 1)),
    PoolCase("long", "one dimension, in bands along it", (1, 2, 5001), 5, 3, 2),
    PoolCase("volume", "bands of slices", (1, 2, 9, 22, 21), 3, 2, 1),
    PoolCase("holes", "dilated windows, and rows that none reads", (1, 3, 47, 31), (2, 3), (5, 4), 1, (2, 2)),
    PoolCase("too_wide", "a row of windows that shared memory cannot hold", (1, 1, 7, 2100), (6, 3), (4, 3), (2, 1)),
)


def at_odd_address(call: Call) -> Call:
    """The call with its tensors one element later in memory than a vector begins."""
    moved = {}
    for name, t in call.arguments.items():
        if isinstance(t, torch.Tensor) and t.dim() > 2:
            moved[name] = torch.empty(t.numel() + 1, dtype=t.dtype).as_strided(t.shape, t.stride(), 1).copy_(t)
    return call.replace(**moved)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_simt_pooling_in_bands(case: PoolCase, dtype: torch.dtype, simt: Simt, reference: Backend) -> None:
    for call in pool_calls(case, dtype, reference):
        check(call, simt, reference)
        if dtype != torch.float64:
            check(at_odd_address(call), simt, reference)


@pytest.mark.parametrize(("length", "out"), [((60, 33), (7, 5)), ((13, 11), (29, 8)), ((4000,), (3,))])
def test_simt_adaptive_pooling_in_bands(
    length: tuple[int, ...], out: tuple[int, ...], simt: Simt, reference: Backend
) -> None:
    spec = adaptive_pool_spec(length, out)
    x, dy = data((2, 3, *length), torch.float32, "x"), data((2, 3, *out), torch.float32, "dy")
    plain = {"spec": spec, "channels_last": False}
    offsets = reference.max_pool(x, spec, True, False)[1]
    for call in (
        Call("max_pool", {"x": x, "offsets": True, **plain}),
        Call("avg_pool", {"x": x, **plain}),
        Call("avg_pool_bwd", {"dy": dy, "input_size": length, **plain}),
        Call("pool_select_bwd", {"dy": dy, "offsets": offsets, "input_size": length, **plain}),
    ):
        check(call, simt, reference)
