"""Batch normalisation's GPU kernels on the SIMT emulator, where the catalogue does not reach."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from convkit.backends.base import Backend
from convkit.testing.cases import ConvCase
from convkit.testing.layouts import LAYOUTS
from convkit.testing.norms import NORMS, NormCase, alone, composed, norm_calls, stats_calls
from convkit.testing.oracle import Call
from convkit.testing.simt import Simt
from tests.test_igemm import KINDS, by_name
from tests.test_simt import check

INF, NAN = float("inf"), float("nan")
CASES = (
    NormCase("parts", "sums of many parts, of packs of channels and of positions", (4, 64, 18, 20), "relu", True),
    NormCase("tiles", "more packs of channels than a warp has lanes", (2, 264, 5, 6), "relu", True),
    NormCase("odd_planes", "planes that are no whole vectors, in parts", (3, 2, 45, 45), "leaky_relu"),
    NormCase("images", "more images than blocks along them", (1100, 16, 1, 2), "relu", True),
)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_simt_norm_in_parts(case: NormCase, dtype: torch.dtype, layout: str, simt: Simt, reference: Backend) -> None:
    for call in norm_calls(case, dtype, layout):
        check(call, simt, reference)


@pytest.mark.parametrize("last", [False, True])
def test_simt_norm_of_unlike_layouts(last: bool, simt: Simt, reference: Backend) -> None:
    """Packs only where all operands have them."""
    for name in ("channels_64", "relu_residual_3d"):
        for call in norm_calls(next(c for c in NORMS if c.name == name), torch.float32)[1:]:
            names = [n for n in ("dz", "x", "residual") if call.arguments.get(n) is not None]
            for layouts in (
                ("contiguous", "channels_last", "sliced"),
                ("channels_last", "channels_last", "contiguous"),
            ):
                changed = {n: LAYOUTS[layout](call.arguments[n]) for n, layout in zip(names, layouts)}
                if "channels_last" in call.arguments:
                    changed["channels_last"] = last
                check(call.replace(**changed), simt, reference)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_simt_statistics_far_from_zero(layout: str, simt: Simt, reference: Backend) -> None:
    """A variance of 1 around 10^5 keeps its digits; the bound knows how far an element lies from the mean alone."""
    x = torch.randn(2, 8, 16, 16, generator=torch.Generator().manual_seed(1)) + 1e5
    call = Call("bn_stats", {"x": LAYOUTS[layout](x)})
    check(call, simt, reference)
    var = call.run(simt)[1].double()
    torch.testing.assert_close(var, x.double().var((0, 2, 3), correction=0), rtol=1e-4, atol=0)


@pytest.mark.parametrize("first", [INF, NAN, 1.0])
def test_simt_statistics_of_infinities(first: float, simt: Simt, reference: Backend) -> None:
    x = torch.ones(2, 3, 4, 4)
    x[0, 0, 0, 0], x[1, 1, 2, 3], x[1, 2, 0, 0] = first, INF, NAN
    for got, expected in zip(simt.bn_stats(x), reference.bn_stats(x)):
        torch.testing.assert_close(got, expected, equal_nan=True)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_simt_gradient_in_one_operation(layout: str, simt: Simt) -> None:
    for case in NORMS[:4]:
        for call in norm_calls(case, torch.float32, layout)[3:]:
            for got, right in zip(alone(call, simt), composed(call, simt)):
                assert torch.equal(got, right), case.name


def test_simt_norm_gradient_with_nan(simt: Simt, reference: Backend) -> None:
    """A gradient that a relu stops is 0, whatever it was; NaN before a relu passes it on."""
    case = next(c for c in NORMS if c.name == "relu_residual")
    calls: list[Any] = norm_calls(case, torch.float32)
    for call in (calls[2], calls[4]):
        dz, x = call.arguments["dz"].clone(), call.arguments["x"].clone()
        dz[0, 0], x[1, 1, 2, 2] = INF, NAN
        asked = call.replace(dz=dz, x=x)
        for got, expected in zip(asked.run(simt), asked.run(reference)):
            torch.testing.assert_close(got, expected, equal_nan=True, rtol=1e-4, atol=1e-4)


# --- statistics out of an implicit GEMM's epilogue --------------------------------------------------------------------

TILES = (
    ConvCase("tiles", "three row tiles, the last one short, of two groups", (2, 32, 9, 10), (48, 16, 3, 3), 1, 1,
             groups=2),
    ConvCase("columns", "two column tiles, the second one narrow", (1, 16, 9, 9), (72, 16, 1, 1)),
    ConvCase("odd", "results that are no whole vectors", (1, 16, 9, 9), (21, 16, 3, 3), 2, 1),
)  # fmt: skip


def tile_calls(case: ConvCase, kind: str, layout: str, simt: Simt) -> list[Call]:
    dtype, algorithm = KINDS[kind]
    if layout != "channels_last":
        algorithm = algorithm.replace("conv_igemm", "conv_igemm_packed")
    return [by_name(call, simt, algorithm) for call in stats_calls(case, dtype, layout)]


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("kind", ["bfloat16", "float32"])
@pytest.mark.parametrize("case", TILES, ids=lambda c: c.name)
def test_simt_statistics_of_tiles(case: ConvCase, kind: str, layout: str, simt: Simt, reference: Backend) -> None:
    for call in tile_calls(case, kind, layout, simt):
        check(call, simt, reference)
        plain = Call("conv_fprop", {**call.arguments, "scale": None, "residual": None})
        assert torch.equal(call.run(simt)[0], plain.run(simt)[0])


@pytest.mark.parametrize("kind", ["bfloat16", "float32"])
def test_simt_statistics_of_large_tiles(kind: str, simt: Simt, reference: Backend) -> None:
    """97 tiles of 128 x 128, the last one short."""
    channels = 16 // KINDS[kind][0].itemsize
    check(tile_calls(ConvCase("", "", (96, channels, 8, 17), (72, channels, 1, 1)), kind, "channels_last", simt)[0],
          simt, reference)  # fmt: skip


def test_simt_statistics_of_tiles_far_from_zero(simt: Simt, reference: Backend) -> None:
    """A bias of 10^5 takes no digit of the variance but those that it takes of the result."""
    call = tile_calls(TILES[0], "float32", "channels_last", simt)[1]
    call = call.replace(bias=torch.full((48,), 1e5))
    check(call, simt, reference)
    y, mean, var = call.run(simt)
    exact = y.double().var((0, 2, 3), correction=0)
    torch.testing.assert_close(mean.double(), y.double().mean((0, 2, 3)), rtol=2**-23, atol=0)
    torch.testing.assert_close(var.double(), exact, rtol=1e-5, atol=0)


def test_simt_statistics_of_no_result(simt: Simt, reference: Backend) -> None:
    for n, k in ((0, 16), (2, 0)):
        call = tile_calls(ConvCase("", "", (n, 16, 3, 3), (k, 16, 1, 1)), "bfloat16", "contiguous", simt)[0]
        check(call, simt, reference)
