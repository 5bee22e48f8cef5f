"""conv_depthwise's GPU kernels on the SIMT emulator, at the shapes where their code changes."""

from __future__ import annotations

import pytest
import torch

from convkit.backends.base import Backend
from convkit.testing.cases import ConvCase
from convkit.testing.layouts import LAYOUTS
from convkit.testing.oracle import conv_calls, data
from convkit.testing.simt import Simt
from tests.test_simt import check

CASES = (
    ConvCase("7x7", "ConvNeXt: tiles of channels and positions", (2, 40, 19, 21), (40, 1, 7, 7), 1, 3, groups=40),
    ConvCase("31x31", "RepLKNet: few filters fill a block", (1, 8, 12, 13), (8, 1, 31, 31), 1, 15, groups=8),
    ConvCase("5x5_s2_d2", "neither stride nor dilation 1: no register is used twice",
             (1, 24, 17, 16), (24, 1, 5, 5), 2, 4, 2, groups=24),
    ConvCase("3x3_s3_d2", "phases with and without taps", (1, 9, 14, 15), (9, 1, 3, 3), 3, 2, 2, groups=9),
    ConvCase("1d_31", "one dimension: results follow each other along W", (2, 16, 150), (16, 1, 31), 1, 15, groups=16),
    ConvCase("3d", "three dimensions", (1, 12, 6, 9, 8), (12, 1, 3, 5, 2), (1, 2, 1), (1, 2, 0), groups=12),
    ConvCase("long_rows", "planes of several blocks", (2, 3, 35, 70), (3, 1, 3, 3), 1, 1, groups=3),
    ConvCase("planes_5x4", "planes that share a block", (3, 70, 5, 4), (70, 1, 3, 3), 1, 1, groups=70),
    ConvCase("column", "width 1", (2, 8, 40, 1), (8, 1, 9, 1), 1, (4, 0), groups=8),
    ConvCase("rows_of_taps", "a filter of height 1", (2, 16, 7, 20), (16, 1, 1, 7), 1, (0, 3), groups=16),
    ConvCase("tail", "an input that the last window leaves unread", (1, 32, 12, 12), (32, 1, 3, 3), 2, 0, groups=32),
)  # fmt: skip
RUNS = (
    ("contiguous", torch.float32),
    ("contiguous", torch.bfloat16),
    ("channels_last", torch.float32),
    ("channels_last", torch.float64),
    ("channels_last", torch.float16),
    ("sliced", torch.float32),
)


def plan(simt: Simt, op: str, case: ConvCase, dtype: torch.dtype = torch.float32) -> str | None:
    x, w, dy = (torch.zeros(size, dtype=dtype) for size in (case.input, case.weight, case.output))
    a, b, size = {
        "conv_fprop": (x, w, ()),
        "conv_dgrad": (dy, w, case.input[2:]),
        "conv_wgrad": (dy, x, case.weight[2:]),
    }[op]
    return simt.plan(op, a, b, size, case.spec, False)


@pytest.mark.parametrize(("layout", "dtype"), RUNS, ids=lambda v: str(v).removeprefix("torch."))
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_simt_depthwise(case: ConvCase, layout: str, dtype: torch.dtype, simt: Simt, reference: Backend) -> None:
    for call in conv_calls(case, dtype, layout)[1:4]:  # with a bias
        assert plan(simt, call.op, case, dtype) == "conv_depthwise"
        check(call, simt, reference)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_simt_depthwise_has_the_whole_epilogue(layout: str, simt: Simt, reference: Backend) -> None:
    case = ConvCase("", "", (2, 8, 9, 10), (8, 1, 3, 3), 1, 1, groups=8)
    for call in conv_calls(case, torch.float32, layout)[1:3]:
        extra = {name: data((8,), torch.float32, name) for name in ("bias", "scale")}
        residual = LAYOUTS[layout](data(case.input, torch.float32, "residual"))
        spec = case.spec._replace(activation=3, alpha=0.1)
        check(call.replace(**extra, residual=residual, spec=spec), simt, reference)


def test_simt_depthwise_packs_only_what_is_aligned(simt: Simt, reference: Backend) -> None:
    """channels_last, whose memory starts one element late: no 16 bytes are read at once."""
    case = ConvCase("", "", (2, 16, 9, 10), (16, 1, 5, 5), 1, 2, groups=16)
    for call in conv_calls(case, torch.float32, "channels_last")[1:4]:
        name = "x" if "x" in call.arguments else "dy"
        given = call.arguments[name]
        late = torch.empty(given.numel() + 1).as_strided(given.shape, given.stride(), 1).copy_(given)
        check(call.replace(**{name: late}), simt, reference)


@pytest.mark.parametrize("op", ["conv_fprop", "conv_dgrad", "conv_wgrad"])
def test_simt_what_conv_depthwise_leaves_to_others(op: str, simt: Simt) -> None:
    twice = ConvCase("", "", (1, 3, 9, 9), (6, 1, 3, 3), 1, 1, groups=3)
    pairs = ConvCase("", "", (1, 6, 9, 9), (6, 2, 3, 3), 1, 1, groups=3)
    cube = ConvCase("", "", (1, 2, 23, 23, 23), (2, 1, 22, 22, 22), groups=2)
    for case, reason in (
        (twice, "needs as many groups and filters as channels"),
        (pairs, "needs as many groups and filters as channels"),
        (cube, "keeps a filter in 40 KB of shared memory"),
    ):
        assert plan(simt, op, case) != "conv_depthwise"
        forced = case.spec._replace(algorithm=simt.algorithms().index("conv_depthwise") + 1)
        calls = {call.op: call for call in conv_calls(case, torch.float32)}
        with pytest.raises(RuntimeError, match=reason):
            calls[op].replace(spec=forced).run(simt)
