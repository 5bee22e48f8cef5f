"""What GPU convolutions do to a sum before it is stored: every combination in every algorithm, on the SIMT emulator."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from convkit.backends.base import Backend
from convkit.problem import ACTIVATIONS
from convkit.testing.cases import ConvCase
from convkit.testing.layouts import LAYOUTS
from convkit.testing.oracle import conv_calls, data
from convkit.testing.simt import Simt
from tests.test_raw_ops import assert_right

DENSE = ConvCase("dense", "channels that are whole vectors", (1, 8, 5, 6), (16, 8, 3, 3), 1, 1)
DEPTHWISE = ConvCase("depthwise", "one filter per channel", (1, 8, 5, 6), (8, 1, 3, 3), 2, 1, groups=8)
ALGORITHMS = {
    "conv_igemm": DENSE,
    "conv_igemm_packed": ConvCase("odd", "no whole vectors", (1, 5, 5, 6), (7, 5, 3, 3), 1, 1),
    "conv_direct": DENSE,
    "conv_depthwise": DEPTHWISE,
}
PARTS = ("bias", "scale", "residual")
COMBINATIONS = [c for n in range(len(PARTS) + 1) for c in itertools.combinations(PARTS, n)]


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_simt_epilogue(algorithm: str, activation: str, simt: Simt, reference: Backend) -> None:
    case, number = ALGORITHMS[algorithm], simt.algorithms().index(algorithm) + 1
    spec = case.spec._replace(activation=ACTIVATIONS.index(activation), alpha=0.1, algorithm=number)
    for dtype, layout in (
        (torch.float32, "channels_last"),
        (torch.bfloat16, "channels_last"),
        (torch.float32, "contiguous"),
    ):
        if algorithm == "conv_igemm" and layout == "contiguous":
            continue
        calls = conv_calls(case, dtype, layout)
        for call, shape in ((calls[0], case.output), (calls[2], case.input)):
            for parts in COMBINATIONS:
                extra: dict[str, Any] = dict.fromkeys(PARTS)
                extra |= {n: data((shape[1],), dtype, n) for n in parts}
                if "residual" in parts:
                    extra["residual"] = LAYOUTS[layout](data(shape, dtype, "residual"))
                assert_right(call.replace(**extra, spec=spec), simt, reference)
