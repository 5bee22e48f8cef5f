"""Raw operations called directly with malformed arguments, in processes of their own: exceptions, never a crash.

The functional layer validates before; these calls go around it. Every call starts from a right one of the
catalogue and spoils one or two of its arguments.
"""

from __future__ import annotations

import random
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from convkit import backends
from convkit.problem import ConvSpec, adaptive_pool_spec, pack_conv, pack_pool
from convkit.testing.catalogue import CONVOLUTIONS, POOLS, TRANSPOSED
from convkit.testing.flat import flat_calls
from convkit.testing.norms import fused_calls
from convkit.testing.oracle import Call, conv_calls, pool_calls, transposed_calls

ROOT = Path(__file__).parent.parent
DTYPES = (
    torch.float32,
    torch.bfloat16,
    torch.uint8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.bool,
    torch.complex64,
)
NUMBERS = (-(2**63), -(2**62), -(2**31), -2, -1, 0, 1, 2, 3, 7, 255, 256, 2**40, 2**60, 2**62, 2**63 - 1)
EXPECTED = (RuntimeError, ValueError, TypeError, NotImplementedError)


def packed(call: Call) -> dict[str, Any]:
    """The arguments as the compiled operators take them."""
    arguments = dict(call.arguments)
    if "spec" in arguments:
        last = arguments.pop("channels_last")
        spec = arguments["spec"]
        arguments["spec"] = pack_conv(spec, last) if isinstance(spec, ConvSpec) else pack_pool(spec, last)
        if call.op in ("conv_fprop", "conv_dgrad"):
            arguments["alpha"] = 0.0
    return arguments


def spoiled_tensor(t: Tensor, choose: random.Random) -> Tensor:
    dim = choose.randrange(t.dim())
    ways = (
        lambda: t.to(choose.choice(DTYPES)),
        lambda: t.narrow(dim, 0, t.shape[dim] // 2),
        lambda: t.repeat_interleave(2, dim),
        lambda: t.unsqueeze(0),
        lambda: t[0] if t.shape[0] else t,
        lambda: t.new_zeros([choose.choice([0, 1, s]) for s in t.shape]),
        lambda: t.new_zeros(()),
        lambda: t.new_zeros(0),
        lambda: t.to_sparse() if t.dtype == torch.float32 else t,
        lambda: torch.randint(0, 255, t.shape).to(t.dtype),
        lambda: t.as_strided(t.shape, [1] * t.dim()) if t.numel() else t,
        lambda: t.as_strided(t.shape, [0] * t.dim()) if t.numel() else t,
    )
    return choose.choice(ways)()


def spoiled_list(values: list[int], choose: random.Random) -> list[int]:
    values = list(values)
    way = choose.randrange(4)
    if way == 0 and values:
        values.pop()
    elif way == 1:
        values.append(choose.choice(NUMBERS))
    else:
        for _ in range(way - 1 if values else 0):
            values[choose.randrange(len(values))] = choose.choice(NUMBERS)
    return values


def spoil(value: Any, choose: random.Random) -> Any:
    if isinstance(value, Tensor):
        return spoiled_tensor(value, choose) if value.dim() and not value.is_sparse else value
    return spoiled_list(list(value), choose) if isinstance(value, (list, tuple)) else value


def would_be_large(arguments: dict[str, Any]) -> bool:
    """Whether a call asks for a legal, but enormous result."""
    numbers = [n for v in arguments.values() if isinstance(v, (list, tuple)) for n in v]
    return any(2**12 < n <= 2**58 for n in numbers)


def spoil_many(seed: int, count: int) -> None:
    """Makes ``count`` spoiled calls; prints each before it runs, so that the last line names a crash."""
    choose = random.Random(seed)
    reference = backends.get("reference")
    assert backends.get("native").available() is None
    refused = 0
    dtypes, layouts = (torch.float32, torch.float64, torch.bfloat16), ("contiguous", "channels_last", "sliced")
    flat = {key: [c for _, c in flat_calls(*key)] for key in product(dtypes, layouts)}
    fused = {key: [c for _, c in fused_calls(*key)] for key in product(dtypes, layouts)}
    for _ in range(count):
        dtype = choose.choice(dtypes)
        layout = choose.choice(layouts)
        kind = choose.randrange(5)
        if kind == 0:
            calls = conv_calls(choose.choice(CONVOLUTIONS), dtype, layout)
        elif kind == 1:
            calls = transposed_calls(choose.choice(TRANSPOSED), dtype, layout)
        elif kind == 2:
            calls = pool_calls(choose.choice(POOLS), dtype, reference, layout)
        elif kind == 3:
            calls = flat[dtype, layout]
        else:
            calls = fused[dtype, layout]
        call = choose.choice(calls)
        arguments = packed(call)
        for name in choose.choices(sorted(arguments), k=choose.choice((1, 1, 2))):
            arguments[name] = spoil(arguments[name], choose)
        if would_be_large(arguments):
            continue
        shown = {
            k: (v.shape, v.stride(), v.dtype) if isinstance(v, Tensor) and not v.is_sparse else v
            for k, v in arguments.items()
        }
        print(call.op, shown, flush=True)
        try:
            getattr(torch.ops.convkit, call.op)(**arguments)
        except EXPECTED:
            refused += 1
    assert refused > count // 4, f"only {refused} of {count} calls were refused"


def test_spoiled_calls_do_not_crash() -> None:
    program = "import sys; sys.path[:0] = ['tests']; import test_bad_raw_calls as t; t.spoil_many(0, 6000)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=300)
    last = done.stdout.strip().splitlines()[-1:]
    assert done.returncode == 0, f"{last}\n{done.stderr[-2000:]}"


X, W, ONE = torch.zeros(2, 4, 6, 6), torch.zeros(4, 4, 3, 3), torch.ones(4)
CONV = [2, 1, 1, 0, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0]
POOL = [2, 2, 2, 2, 2, 0, 0, 0, 0, 1, 1, -1, -1, 0, 1, 0, 0]


def with_value(values: list[int], at: int, value: int) -> list[int]:
    return [*values[:at], value, *values[at + 1 :]]


INDEX = torch.zeros(2, 4, 3, 3, dtype=torch.int64)
SMALL, SAMPLES = torch.zeros(2, 4, 3, 3), torch.rand(2, 4, 2)


def packed_adaptive(**changes: tuple[int, ...]) -> list[int]:
    """Four by four windows over the six by six elements of X, with something changed."""
    return pack_pool(adaptive_pool_spec((6, 6), (4, 4))._replace(**changes), False)


REFUSED = {
    "no spec": lambda ops: ops.conv_fprop(X, W, None, None, None, [], 0.0),
    "four dimensions": lambda ops: ops.conv_fprop(X, W, None, None, None, [4, *CONV[1:]], 0.0),
    "spec of another length": lambda ops: ops.conv_fprop(X, W, None, None, None, [*CONV, 0], 0.0),
    "stride 0": lambda ops: ops.conv_fprop(X, W, None, None, None, with_value(CONV, 1, 0), 0.0),
    "negative padding": lambda ops: ops.conv_fprop(X, W, None, None, None, with_value(CONV, 3, -1), 0.0),
    "dilation 0": lambda ops: ops.conv_fprop(X, W, None, None, None, with_value(CONV, 7, 0), 0.0),
    "huge dilation": lambda ops: ops.conv_fprop(X, W, None, None, None, with_value(CONV, 7, 2**62), 0.0),
    "huge padding": lambda ops: ops.conv_fprop(X, W, None, None, None, with_value(CONV, 3, 2**63 - 1), 0.0),
    "groups that do not divide": lambda ops: ops.conv_fprop(X, W[:, :1], None, None, None, with_value(CONV, 9, 3), 0.0),
    "unknown padding mode": lambda ops: ops.conv_fprop(X, W, None, None, None, with_value(CONV, 10, 9), 0.0),
    "unknown activation": lambda ops: ops.conv_fprop(X, W, None, None, None, with_value(CONV, 11, 99), 0.0),
    "unknown algorithm": lambda ops: ops.conv_fprop(X, W, None, None, None, with_value(CONV, 12, 99), 0.0),
    "negative algorithm": lambda ops: ops.conv_fprop(X, W, None, None, None, with_value(CONV, 12, -1), 0.0),
    "two dtypes": lambda ops: ops.conv_fprop(X, W.double(), None, None, None, CONV, 0.0),
    "bool": lambda ops: ops.conv_fprop(X.bool(), W.bool(), None, None, None, CONV, 0.0),
    "bias of another dtype": lambda ops: ops.conv_fprop(X, W, torch.zeros(4).double(), None, None, CONV, 0.0),
    "bias of another length": lambda ops: ops.conv_fprop(X, W, torch.zeros(3), None, None, CONV, 0.0),
    "scale of two dimensions": lambda ops: ops.conv_fprop(X, W, None, torch.zeros(2, 2), None, CONV, 0.0),
    "residual of another shape": lambda ops: ops.conv_fprop(X, W, None, None, X, CONV, 0.0),
    "kernel larger than the input": lambda ops: ops.conv_fprop(X, torch.zeros(4, 4, 7, 3), None, None, None, CONV, 0.0),
    "more gradient than windows": lambda ops: ops.conv_dgrad(X, W, None, None, None, [6, 6], CONV, 0.0),
    "negative input size": lambda ops: ops.conv_dgrad(X, W, None, None, None, [-8, 8], CONV, 0.0),
    "huge input size": lambda ops: ops.conv_dgrad(X, W, None, None, None, [2**62, 8], CONV, 0.0),
    "kernel size 0": lambda ops: ops.conv_wgrad(X, X, [0, 1], CONV),
    "huge kernel size": lambda ops: ops.conv_wgrad(X, X, [2**62, 1], CONV),
    "two batch sizes": lambda ops: ops.conv_wgrad(X[:1], X, [1, 1], CONV),
    "bgrad of two dimensions": lambda ops: ops.conv_bgrad(torch.zeros(2, 3)),
    "bgrad of six dimensions": lambda ops: ops.conv_bgrad(torch.zeros(1, 2, 1, 1, 1, 1)),
    "pool window in the padding": lambda ops: ops.max_pool(X, with_value(POOL, 5, 2), True),
    "pool window in the padding after": lambda ops: ops.max_pool(X, with_value(POOL, 7, 2), True),
    "pool window of 2^62 elements": lambda ops: ops.max_pool(X, [2, 2**31, 2**31, *POOL[3:]], True),
    "adaptive windows of another size": lambda ops: ops.avg_pool(X, packed_adaptive(kernel_size=(3, 2))),
    "adaptive windows with a stride": lambda ops: ops.avg_pool(X, packed_adaptive(stride=(2, 1))),
    "adaptive windows with padding": lambda ops: ops.max_pool(X, packed_adaptive(pad_after=(0, 1)), True),
    "adaptive windows in one dimension": lambda ops: ops.max_pool(X, packed_adaptive(output_size=(-1, 4)), True),
    "pool of complex numbers": lambda ops: ops.max_pool(X.to(torch.complex64), POOL, True),
    "indices of another dtype": lambda ops: ops.max_unpool(SMALL, INDEX.int(), [6, 6], False),
    "indices of another shape": lambda ops: ops.max_unpool(SMALL, INDEX[:1], [6, 6], False),
    "indices of other dimensions": lambda ops: ops.plane_scatter(SMALL, INDEX[0], [6, 6], False),
    "indices of other channels": lambda ops: ops.plane_gather(X, INDEX[:, :3], False),
    "unpooling of integers": lambda ops: ops.max_unpool(SMALL.long(), INDEX, [6, 6], False),
    "unpooling to three sizes": lambda ops: ops.max_unpool(SMALL, INDEX, [6, 6, 6], False),
    "unpooling to no sizes": lambda ops: ops.max_unpool(SMALL, INDEX, [], False),
    "unpooling to a negative size": lambda ops: ops.max_unpool(SMALL, INDEX, [-6, 6], False),
    "unpooling to a huge size": lambda ops: ops.max_unpool(SMALL, INDEX, [2**40, 2**40], False),
    "scattering to a huge size": lambda ops: ops.plane_scatter(SMALL, INDEX, [2**62, 6], False),
    "gathering from a matrix": lambda ops: ops.plane_gather(X[0, 0], INDEX[0, 0], False),
    "fractional kernel 0": lambda ops: ops.fractional_max_pool(X, SAMPLES, [0, 2], [3, 3], True, False),
    "fractional kernel beyond the input": lambda ops: ops.fractional_max_pool(X, SAMPLES, [7, 2], [1, 3], True, False),
    "more fractional windows than fit": lambda ops: ops.fractional_max_pool(X, SAMPLES, [2, 2], [6, 3], True, False),
    "negative number of windows": lambda ops: ops.fractional_max_pool(X, SAMPLES, [2, 2], [-1, 3], True, False),
    "samples of another dtype": lambda ops: ops.fractional_max_pool(X, SAMPLES.half(), [2, 2], [3, 3], True, False),
    "samples for one image": lambda ops: ops.fractional_max_pool(X, SAMPLES[:1], [2, 2], [3, 3], True, False),
    "samples for one dimension": lambda ops: ops.fractional_max_pool(X, SAMPLES[..., :1], [2, 2], [3, 3], True, False),
    "fractional pooling of integers": lambda ops: ops.fractional_max_pool(
        X.long(), SAMPLES.long(), [2, 2], [3, 3], True, False
    ),
    "lp_pool of integers": lambda ops: ops.lp_pool(X.int(), None, POOL, 2.0, False),
    "exponent of two elements": lambda ops: ops.lp_pool(X, torch.ones(2), POOL, 0.0, False),
    "exponent of no floating dtype": lambda ops: ops.lp_pool(X, torch.tensor(2), POOL, 0.0, False),
    "lp_pool's result of another shape": lambda ops: ops.lp_pool_bwd(X, X, X, None, POOL, 2.0, False),
    "lp_pool's gradient of another shape": lambda ops: ops.lp_pool_bwd(
        X, X, torch.ones(2, 4, 3, 3), None, POOL, 2.0, False
    ),
    "statistics after an activation": lambda ops: ops.conv_fprop_stats(X, W, None, with_value(CONV, 11, 1)),
    "statistics of integers": lambda ops: ops.bn_stats(X.int()),
    "statistics of a matrix": lambda ops: ops.bn_stats(X[0, 0]),
    "a mean of another length": lambda ops: ops.bn_act(X, torch.ones(3), ONE, None, None, None, 1, 0.0, False),
    "a mean of another dtype": lambda ops: ops.bn_act(X, ONE.double(), ONE, None, None, None, 1, 0.0, False),
    "a weight of two dimensions": lambda ops: ops.bn_act(X, ONE, ONE, ONE[None], None, None, 1, 0.0, False),
    "a residual of another dtype": lambda ops: ops.bn_act(X, ONE, ONE, None, None, X.half(), 1, 0.0, False),
    "a residual of another shape to normalise": lambda ops: ops.bn_act(X, ONE, ONE, None, None, W, 1, 0.0, False),
    "an unknown activation": lambda ops: ops.bn_act(X, ONE, ONE, None, None, None, 8, 0.0, False),
    "a gradient of another shape": lambda ops: ops.bn_act_bwd_reduce(W, X, ONE, ONE, None, None, None, 1, 0.0),
    "a negative count": lambda ops: ops.bn_act_bwd(X, X, ONE, ONE, None, None, None, ONE, ONE, -1, 1, 0.0, True, False),
    "a negative count of all": lambda ops: ops.bn_act_grad(X, X, ONE, ONE, None, None, None, -1, 1, 0.0, True, False),
    "a gradient of another shape for all": lambda ops: ops.bn_act_grad(
        W, X, ONE, ONE, None, None, None, 72, 1, 0.0, True, False
    ),
    "a count without sums": lambda ops: ops.bn_act_bwd(
        X, X, ONE, ONE, None, None, None, None, ONE, 72, 1, 0.0, True, False
    ),
    "sums of another length": lambda ops: ops.bn_act_bwd(
        X, X, ONE, ONE, None, None, None, ONE[:2], ONE, 72, 1, 0.0, True, False
    ),
    "normalised integers": lambda ops: ops.bn_act(X.int(), ONE.int(), ONE.int(), None, None, None, 1, 0.0, False),
    "offsets of another dtype": lambda ops: ops.pool_select(X, torch.zeros(2, 4, 3, 3, dtype=torch.int32), POOL),
    "offsets of another shape": lambda ops: ops.pool_select(X, torch.zeros(2, 4, 3, 2, dtype=torch.uint8), POOL),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_a_reason(name: str) -> None:
    with pytest.raises(EXPECTED, match="convkit"):
        REFUSED[name](torch.ops.convkit)


def test_offsets_that_name_no_element_are_ignored() -> None:
    """Offsets come from max_pool; others must not lead outside the input."""
    offsets = torch.full((2, 4, 4, 4), 255, dtype=torch.uint8)
    spec = [2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, -1, -1, 0, 1, 0, 0]
    assert not torch.ops.convkit.pool_select(X + 1, offsets, spec).any()
    assert not torch.ops.convkit.pool_select_bwd(torch.ones(2, 4, 4, 4), offsets, [6, 6], spec).any()
    assert bool((torch.ops.convkit.pool_indices(offsets, [6, 6], spec) == -1).all())
    in_padding = torch.zeros((2, 4, 4, 4), dtype=torch.uint8)
    assert not torch.ops.convkit.pool_select(X + 1, in_padding, spec)[:, :, 0].any()
    assert bool((torch.ops.convkit.pool_indices(in_padding, [6, 6], spec)[:, :, 0] == -1).all())
