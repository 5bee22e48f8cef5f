"""The implicit GEMM on tensor cores, by name, on the SIMT emulator: tiles, tails, the pipeline and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from convkit.backends.base import Backend
from convkit.backends.gpu import tf32_allowed
from convkit.problem import ACTIVATIONS
from convkit.testing.cases import ConvCase
from convkit.testing.layouts import LAYOUTS
from convkit.testing.oracle import Call, conv_calls, data, expect, mismatch, product_error
from convkit.testing.simt import Simt
from tests.test_raw_ops import assert_right

INF, NAN = float("inf"), float("nan")

# Tiles have 64 rows (positions; filters in wgrad) and 64 columns (filters; channels, taps), steps 32 or 16 elements of
# the reduction, the pipeline 4 stages.
CASES = (
    ConvCase(
        "tails", "rows, columns and steps end inside a tile; stages come round", (2, 24, 9, 11), (72, 24, 3, 3), 1, 1
    ),
    ConvCase("stride_2", "four phases of unlike taps in dgrad", (2, 16, 13, 10), (24, 16, 3, 3), 2, 1),
    ConvCase("stride_3", "phases without any tap", (1, 16, 14, 11), (16, 16, 2, 2), 3),
    ConvCase("dilated", "windows with holes", (1, 16, 12, 11), (8, 16, 3, 3), 1, 2, 2),
    ConvCase(
        "strided_and_dilated", "phases that take every other tap", (1, 16, 13, 12), (8, 16, 3, 4), (4, 2), 2, (2, 4)
    ),
    ConvCase("groups", "three groups, each with a tail", (2, 48, 7, 9), (72, 16, 3, 3), 1, 1, groups=3),
    ConvCase("one_dimension", "all parameters at once", (3, 32, 37), (40, 32, 5), 2, 2, 2),
    ConvCase("three_dimensions", "all parameters unlike", (1, 16, 5, 6, 7), (16, 16, 3, 2, 3), (2, 1, 3), (1, 0, 2)),
    ConvCase("pointwise", "a plain product of matrices", (2, 64, 8, 9), (80, 64, 1, 1)),
    ConvCase("pad_pairs", "four different paddings", (2, 16, 6, 7), (24, 16, 3, 4), 1, ((2, 0), (1, 3))),
    ConvCase("small_channels", "one step holds several taps", (1, 8, 9, 10), (16, 8, 5, 5), 1, 2),
    ConvCase("one_position", "a fully connected layer", (3, 16, 3, 4), (8, 16, 3, 4)),
)
KINDS = {  # dtype and algorithm
    "bfloat16": (torch.bfloat16, "conv_igemm"),
    "float16": (torch.float16, "conv_igemm"),
    "float32": (torch.float32, "conv_igemm"),
    "tf32": (torch.float32, "conv_igemm_tf32"),
}


def by_name(call: Call, simt: Simt, algorithm: str) -> Call:
    return call.replace(spec=call.spec._replace(algorithm=simt.algorithms().index(algorithm) + 1))


def operations(case: ConvCase, dtype: torch.dtype) -> list[Call]:
    """fprop with a bias, dgrad and wgrad."""
    return conv_calls(case, dtype, "channels_last")[1:4]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_simt_igemm(case: ConvCase, kind: str, simt: Simt, reference: Backend) -> None:
    dtype, algorithm = KINDS[kind]
    for call in operations(case, dtype):
        named = by_name(call, simt, algorithm)
        with simt.machine(seed=1, late_copies=False):
            first = named.run(simt)[0]
        assert_right(named, simt, reference)
        with simt.machine(seed=2):
            assert torch.equal(named.run(simt)[0], first), call.op


@pytest.mark.parametrize("kind", ["bfloat16", "float32"])
def test_simt_igemm_in_large_tiles(kind: str, simt: Simt, reference: Backend) -> None:
    """97 tiles of 128 x 128 are enough for large ones, where there are more than 64 columns."""
    dtype, algorithm = KINDS[kind]
    vector = 16 // dtype.itemsize
    rows = (97, 8, 16)
    wide = ConvCase("wide", "", (rows[0], vector, *rows[1:]), (72, vector, 3, 3), 1, 1)
    narrow = ConvCase("narrow", "", (rows[0], 72, *rows[1:]), (vector, 72, 3, 3), 1, 1)
    for call in (operations(wide, dtype)[0], operations(narrow, dtype)[1]):
        assert_right(by_name(call, simt, algorithm), simt, reference)


@pytest.mark.parametrize("kind", KINDS)
def test_simt_igemm_adds_parts_of_a_long_reduction(kind: str, simt: Simt, reference: Backend) -> None:
    """2560 positions are 80 or 160 steps, which are worth 5 or 10 blocks; the last part is shorter."""
    dtype, algorithm = KINDS[kind]
    call = by_name(operations(ConvCase("long", "", (4, 8, 32, 20), (8, 8, 3, 3), 1, 1), dtype)[2], simt, algorithm)
    assert_right(call, simt, reference)
    with simt.machine(seed=3, late_copies=False):
        first = call.run(simt)[0]
    assert torch.equal(first, call.run(simt)[0])


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_simt_igemm_epilogue(activation: str, simt: Simt, reference: Backend) -> None:
    """Packed and element by element: channels that are no whole vectors, residuals and results of the other layout."""
    for case in (CASES[1], ConvCase("odd", "", (1, 16, 5, 7), (21, 16, 3, 3))):
        for dtype in (torch.bfloat16, torch.float32):
            for call in conv_calls(case, dtype, "channels_last")[0:3:2]:
                shape = case.output if call.op == "conv_fprop" else case.input
                if call.op == "conv_dgrad" and case.name == "odd":
                    continue
                extra: dict[str, Any] = {n: data((shape[1],), dtype, n) for n in ("bias", "scale")}
                spec = case.spec._replace(activation=ACTIVATIONS.index(activation), alpha=0.1)
                for layout in ("contiguous", "channels_last"):
                    residual = LAYOUTS[layout](data(shape, dtype, "residual"))
                    wanted = call.replace(
                        **extra, residual=residual, spec=spec, channels_last=layout == "channels_last"
                    )
                    assert_right(by_name(wanted, simt, "conv_igemm"), simt, reference)


def plan(call: Call, simt: Simt) -> str | None:
    a = call.arguments
    first, second = (a["x"], a["w"]) if call.op == "conv_fprop" else (a["dy"], a.get("w", a.get("x")))
    size = a.get("input_size", a.get("kernel_size", ()))
    return simt.plan(call.op, first, second, size, a["spec"], True)


def test_simt_igemm_is_preferred(simt: Simt) -> None:
    """Where channels are whole vectors and neighbours; TF32 only where it is allowed."""
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        for call in operations(CASES[0], dtype):
            assert plan(call, simt) == "conv_igemm"
            tf32 = call.replace(spec=call.spec._replace(allow_tf32=True))
            assert plan(tf32, simt) == ("conv_igemm_tf32" if dtype == torch.float32 else "conv_igemm")
    for call in operations(CASES[0], torch.float64) + conv_calls(CASES[0], torch.bfloat16)[:4]:
        if call.op != "conv_bgrad":
            assert plan(call, simt) == "conv_direct"  # too small to pack operands for


def shaped(case: ConvCase, dtype: torch.dtype, last: str = "") -> dict[str, torch.Tensor]:
    """Tensors of no memory worth speaking of; those named in ``last`` are channels_last."""
    sizes = {"x": case.input, "w": case.weight, "y": case.output}
    return {
        n: torch.empty(1, dtype=dtype).expand(size)
        if n not in last
        else torch.empty(size, dtype=dtype, memory_format=torch.channels_last)
        for n, size in sizes.items()
    }


def test_simt_igemm_packs_where_that_pays(simt: Simt) -> None:
    """Filters as torch makes them, planes, and channels that are no whole vectors; small problems stay as they are."""
    deep = ConvCase("deep", "", (8, 128, 28, 28), (128, 128, 3, 3), 1, 1)
    first = ConvCase("first", "", (8, 3, 112, 112), (64, 3, 7, 7), 2, 3)
    few = ConvCase("few", "", (8, 64, 56, 56), (64, 2, 3, 3), 1, 1, groups=32)
    for dtype in (torch.bfloat16, torch.float32):
        for case, last, expected in (
            (deep, "x", ["conv_igemm_packed"] * 3),
            (deep, "", ["conv_igemm_packed"] * 3),
            (deep, "xwy", ["conv_igemm"] * 3),
            (first, "", ["conv_igemm_packed", "conv_direct", "conv_igemm_packed"]),  # dgrad: 3 columns of 64
            (few, "", ["conv_direct"] * 3),
        ):
            t = shaped(case, dtype, last)
            asked = (("conv_fprop", "x", "w", ()), ("conv_dgrad", "y", "w", case.input[2:]))
            asked += (("conv_wgrad", "y", "x", case.weight[2:]),)
            found = [simt.plan(op, t[a], t[b], size, case.spec, True) for op, a, b, size in asked]
            assert found == expected, (case.name, dtype, last)


def test_simt_igemm_packs_no_image_that_32_bits_do_not_span(simt: Simt, tmp_path: Path) -> None:
    case = ConvCase("deep", "", (8, 128, 28, 28), (128, 128, 3, 3), 1, 1)
    w = torch.empty(1, dtype=torch.bfloat16).expand(case.weight)
    memory = torch.from_file(str(tmp_path / "sparse"), shared=True, size=2**31 + 2**27, dtype=torch.bfloat16)
    for apart, expected in ((784, "conv_igemm_packed"), (17_000_000, "conv_direct")):
        x = memory.as_strided(case.input, (784, apart, 28, 1))
        assert simt.plan("conv_fprop", x, w, (), case.spec, True) == expected


PACKED = (
    *(CASES[i] for i in (0, 1, 4, 6, 7, 9)),
    ConvCase("odd", "no channels are whole vectors", (2, 5, 9, 10), (7, 5, 3, 3), 2, 1),
    ConvCase("odd_groups", "nor are a group's", (1, 15, 8, 7), (21, 5, 3, 2), 1, 1, groups=3),
    ConvCase("wide", "several tiles to pack", (2, 72, 9, 10), (70, 72, 1, 1)),
)


# Only elements of 2 and of 4 bytes are packed differently.
@pytest.mark.parametrize("kind", ["bfloat16", "float32"])
@pytest.mark.parametrize("case", PACKED, ids=lambda c: c.name)
def test_simt_igemm_of_other_layouts(case: ConvCase, kind: str, simt: Simt, reference: Backend) -> None:
    dtype, algorithm = KINDS[kind]
    algorithm = algorithm.replace("conv_igemm", "conv_igemm_packed")
    for layout in ("contiguous", "channels_last", "sliced"):
        for call in conv_calls(case, dtype, layout)[1:4]:
            named = by_name(call, simt, algorithm)
            with simt.machine(seed=1, late_copies=False):
                assert_right(named, simt, reference)


def refusal(call: Call, simt: Simt, algorithm: str = "conv_igemm") -> str:
    with pytest.raises(RuntimeError) as error:
        by_name(call, simt, algorithm).run(simt)
    return str(error.value)


def test_simt_igemm_says_what_it_refuses(simt: Simt) -> None:
    case = CASES[0]
    assert "tensor cores have no other" in refusal(operations(case, torch.float64)[0], simt)
    assert "TF32 round float32 only" in refusal(operations(case, torch.bfloat16)[0], simt, "conv_igemm_tf32")
    for call in conv_calls(case, torch.bfloat16)[1:4]:
        assert "must be neighbours (channels_last)" in refusal(call, simt)
    odd = ConvCase("odd", "", (1, 12, 5, 5), (20, 12, 3, 3))  # a multiple of 16 bytes in float32 alone
    for call in operations(odd, torch.bfloat16):
        assert "a multiple of 16 bytes" in refusal(call, simt)
    shifted = operations(case, torch.bfloat16)[0]
    storage = torch.zeros(shifted.arguments["x"].numel() + 1, dtype=torch.bfloat16)
    unaligned = storage[1:].as_strided(shifted.arguments["x"].shape, shifted.arguments["x"].stride())
    assert "aligned" in refusal(shifted.replace(x=unaligned), simt)


@pytest.mark.parametrize(("op", "channels", "filters"), [("conv_fprop", 0, 8), ("conv_dgrad", 8, 0)])
def test_simt_igemm_of_no_channels(op: str, channels: int, filters: int, simt: Simt, reference: Backend) -> None:
    """Refused by name (tiles of no channels divided by zero on the host), and right where nobody names it."""
    case = ConvCase("none", "", (2, channels, 5, 6), (filters, channels, 3, 3), 1, 1)
    for call in conv_calls(case, torch.bfloat16)[1:4]:
        assert_right(call, simt, reference)
        if call.op == op:
            assert "of which there are none" in refusal(call, simt, "conv_igemm_packed")
        else:
            assert_right(by_name(call, simt, "conv_igemm_packed"), simt, reference)


def test_simt_igemm_keeps_float32(simt: Simt, reference: Backend) -> None:
    """Three products keep what one of TF32 loses, and the largest numbers, which round to infinity in TF32."""
    for call in operations(CASES[8], torch.float32):
        rounded = by_name(call, simt, "conv_igemm_tf32").run(simt)[0]
        assert mismatch(rounded, expect(call, reference, product_error(call, simt))[0]) is not None, call.op
    near_overflow = torch.finfo(torch.float32).max * (1 - torch.linspace(0, 0.5, 40 * 4))
    x = near_overflow.view(40, 4, 1, 1).contiguous(memory_format=torch.channels_last)
    w = torch.tensor([0.2501, -0.2499, 0.5, 0.25]).view(1, 4, 1, 1).contiguous(memory_format=torch.channels_last)
    spec = ConvCase("", "", x.shape, w.shape).spec._replace(algorithm=simt.algorithms().index("conv_igemm") + 1)
    y = simt.conv_fprop(x, w, None, None, None, spec, True)
    exact = (x.double() * w.double()).sum(1, keepdim=True)
    torch.testing.assert_close(y.double(), exact, rtol=2**-20, atol=0)


def with_specials(t: torch.Tensor) -> torch.Tensor:
    """Scattered infinities and zeros, and NaN: quiet, and with no bit but one that TF32 cuts off."""
    late_nan = torch.tensor(0x7F800001, dtype=torch.int32).view(torch.float32)
    special = torch.tensor([INF, -INF, NAN, late_nan.item(), 0.0, -0.0])
    g = torch.Generator().manual_seed(t.numel())
    chosen = special[torch.randint(len(special), t.shape, generator=g)]
    scattered = torch.where(torch.rand(t.shape, generator=g) < 2e-3, chosen, t)
    return scattered.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("case", [CASES[1], CASES[8]], ids=lambda c: c.name)
def test_simt_igemm_treats_infinities_as_float32_does(case: ConvCase, simt: Simt, reference: Backend) -> None:
    """An infinity times a number is one too, times zero NaN, whatever parts three products are made of. Filters have
    none where there is padding: that its zeros are products too is as in any implicit GEMM."""
    kinds: set[str] = set()
    for call in operations(case, torch.float32):
        names = [n for n in ("x", "dy", "w") if n in call.arguments]
        for changed in (names[:1], names[1:], names):
            if "w" in changed and case.name != "pointwise":
                continue
            asked = call.replace(**{n: with_specials(call.arguments[n]) for n in changed})
            wide = {n: a.double() for n, a in asked.arguments.items() if isinstance(a, torch.Tensor)}
            (expected,) = asked.replace(**wide).run(reference)
            (got,) = by_name(asked, simt, "conv_igemm").run(simt)
            kinds |= {"nan"} if expected.isnan().any() else set()
            kinds |= {"inf"} if expected.isinf().any() and expected.isfinite().any() else set()
            assert torch.equal(got.isnan(), expected.isnan()), call.op
            assert torch.equal(got[got.isinf()].double(), expected[expected.isinf()]), call.op
    assert kinds == {"nan", "inf"}


def test_pytorchs_switches_of_tf32() -> None:
    for allowed in (True, False):
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=allowed):  # settable where tests froze the global ones
            assert tf32_allowed() == allowed
