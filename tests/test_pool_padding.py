"""Paddings of pools beyond PyTorch's: rules by name, and pairs up to the window's extent."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import convkit.functional as CF
from tests.test_functional_contract import INF, SPACE, each_dim, op, operands


@each_dim
@pytest.mark.parametrize("rule", ["same", "same_upper", "same_lower", "causal"], ids=lambda s: f"B8.4-{s}")
def test_pools_take_padding_rules(n: int, rule: str) -> None:
    """Those of convolutions, 'same' with any stride; so wide that PyTorch would refuse them as numbers."""
    x, _, _ = operands(n)
    kernel, stride = 4, 3
    outputs = [-(-s // stride) for s in SPACE[n]]
    totals = [max((o - 1) * stride + kernel - s, 0) for o, s in zip(outputs, SPACE[n])]
    sides = [(t - t // 2, t // 2) if rule == "same_lower" else (t // 2, t - t // 2) for t in totals]
    sides = [(kernel - 1, 0)] * n if rule == "causal" else sides
    pad = [v for side in reversed(sides) for v in side]
    expected = op(F, "max_pool", n)(F.pad(x, pad, value=-INF), kernel, stride)
    assert torch.equal(op(CF, "max_pool", n)(x, kernel, stride, rule), expected)
    assert rule == "causal" or expected.shape[2:] == tuple(outputs)
    expected = op(F, "avg_pool", n)(F.pad(x, pad), kernel, stride)
    torch.testing.assert_close(op(CF, "avg_pool", n)(x, kernel, stride, rule), expected)
    powers = op(CF, "lp_pool", n)(x, 2, kernel, stride, padding=rule, semantics="norm") ** 2
    torch.testing.assert_close(powers, op(F, "avg_pool", n)(F.pad(x, pad) ** 2, kernel, stride) * kernel**n)


@each_dim
def test_pools_refuse_padding_beyond_the_window(n: int) -> None:
    x, _, _ = operands(n)
    for name in ("max_pool", "avg_pool"):
        with pytest.raises(
            RuntimeError, match=r"pad should be smaller than the effective kernel size.*allowed: 0 to 2"
        ):
            op(CF, name, n)(x, 3, 1, ((3, 0),) * n)
        with pytest.raises(TypeError, match=r"must be tuple of ints, not str; allowed:.*'same_lower'"):
            op(CF, name, n)(x, 3, 1, "full")
