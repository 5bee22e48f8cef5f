"""The GPU kernels on the SIMT emulator: the catalogue under several orders of threads, and faults it must find."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest
import torch

from convkit import backends
from convkit.backends import gpu
from convkit.backends.base import RAW_OPS, Backend
from convkit.problem import adaptive_pool_spec
from convkit.testing.cases import ConvCase, PoolCase, TransposedCase
from convkit.testing.catalogue import CONVOLUTIONS, POOLS, TRANSPOSED
from convkit.testing.flat import FRACTIONAL, INDICES, FractionalCase, IndexCase, fractional_calls, index_calls
from convkit.testing.layouts import LAYOUTS
from convkit.testing.norms import NORMS, WITH_STATISTICS, NormCase, norm_calls, stats_calls
from convkit.testing.oracle import Call, conv_calls, data, pool_calls, transposed_calls
from convkit.testing.simt import Simt
from convkit.testing.tolerances import ACCUMULATE, LP_SLOPE, gamma, unit_roundoff
from tests.test_raw_ops import assert_right, combinations

INF, NAN = float("inf"), float("nan")


def check(call: Call, simt: Simt, reference: Backend) -> None:
    """Right under two orders of threads, with the same bits: nothing depends on which thread comes first."""
    if simt.supports(call.op, call.dtype, torch.device("cpu"), call.spec) is not None:
        return
    first = assert_right(call, simt, reference)
    with simt.machine(seed=0x5EED, late_copies=False):
        second = call.run(simt)
    for a, b in zip(first, second):
        assert torch.equal(a.nan_to_num(), b.nan_to_num())


@pytest.mark.parametrize(("case", "dtype", "layout"), combinations(CONVOLUTIONS))
def test_simt_convolution(case: ConvCase, dtype: torch.dtype, layout: str, simt: Simt, reference: Backend) -> None:
    for call in conv_calls(case, dtype, layout):
        check(call, simt, reference)


@pytest.mark.parametrize(("case", "dtype", "layout"), combinations(TRANSPOSED))
def test_simt_transposed(case: TransposedCase, dtype: torch.dtype, layout: str, simt: Simt, reference: Backend) -> None:
    for call in transposed_calls(case, dtype, layout):
        check(call, simt, reference)


def quick(cases: tuple[Any, ...], long: tuple[str, ...]) -> list[Any]:
    """All combinations, but of long cases only float32 in the two dense layouts."""
    return [
        p
        for p in combinations(cases)
        if p.values[0].name not in long
        or (p.values[1] == torch.float32 and p.values[2] in ("contiguous", "channels_last"))
    ]


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "sliced"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize(
    "shape", [(5, 64, 18, 20), (2, 264, 5, 6), (3, 5, 45, 45), (40, 1, 64, 65), (3, 9, 7)], ids=str
)
def test_simt_bias_gradient(
    shape: tuple[int, ...], dtype: torch.dtype, layout: str, simt: Simt, reference: Backend
) -> None:
    """In packs of channels and of positions, and without; several parts, whose rows of threads are not all full."""
    dy = data(shape, dtype, "dy")
    check(Call("conv_bgrad", {"dy": LAYOUTS[layout](dy)}), simt, reference)
    dy[0, 0].view(-1)[3], dy[-1, -1].view(-1)[-1] = NAN, INF
    (db,) = Call("conv_bgrad", {"dy": LAYOUTS[layout](dy)}).run(simt)
    finite = torch.ones(shape[1], dtype=torch.bool)
    finite[0] = finite[-1] = False
    assert torch.equal(db.isfinite(), finite) and bool(db[0].isnan())


LONG_WINDOWS = tuple(case.name for case in POOLS if case.name.startswith("offsets_"))


@pytest.mark.parametrize(("case", "dtype", "layout"), quick(POOLS, LONG_WINDOWS))
def test_simt_pool(case: PoolCase, dtype: torch.dtype, layout: str, simt: Simt, reference: Backend) -> None:
    dense = layout in ("contiguous", "channels_last")
    for call in pool_calls(case, dtype, reference, layout):
        # Lp and stochastic pooling read tensors as max_pool does: strange layouts are its part.
        if dense or not call.op.startswith(("lp", "stochastic")):
            check(call, simt, reference)


@pytest.mark.parametrize(("case", "dtype", "layout"), quick(INDICES, ("few_planes", "long_random", "long_run")))
def test_simt_flat_indices(case: IndexCase, dtype: torch.dtype, layout: str, simt: Simt, reference: Backend) -> None:
    for call in index_calls(case, dtype, layout):
        check(call, simt, reference)


@pytest.mark.parametrize(("case", "dtype", "layout"), combinations(FRACTIONAL))
def test_simt_fractional(case: FractionalCase, dtype: torch.dtype, layout: str, simt: Simt, reference: Backend) -> None:
    for call in fractional_calls(case, dtype, layout) + fractional_calls(case, dtype, layout, exact=True):
        check(call, simt, reference)


@pytest.mark.parametrize(("case", "dtype", "layout"), combinations(NORMS))
def test_simt_norm(case: NormCase, dtype: torch.dtype, layout: str, simt: Simt, reference: Backend) -> None:
    for call in norm_calls(case, dtype, layout):
        check(call, simt, reference)


@pytest.mark.parametrize(("case", "dtype", "layout"), combinations(WITH_STATISTICS))
def test_simt_statistics(case: ConvCase, dtype: torch.dtype, layout: str, simt: Simt, reference: Backend) -> None:
    for call in stats_calls(case, dtype, layout):
        check(call, simt, reference)


def test_simt_runs_every_operation(simt: Simt) -> None:
    assert set(gpu.operations(simt.binary)) == set(RAW_OPS)


# --- what the catalogue does not show ----------------------------------------------------------------------------


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_simt_draws_and_expects_with_the_bits_of_the_cpu(dtype: torch.dtype, channels_last: bool, simt: Simt) -> None:
    native, spec = backends.get("native"), PoolCase("", "", (2, 5, 13, 14), 3, 2, 1).spec
    g = torch.Generator().manual_seed(5)
    exponents = torch.randint(-20, 20, (2, 5, 13, 14), generator=g)  # so that the order of a sum shows
    x = (torch.randn(2, 5, 13, 14, generator=g, dtype=torch.float64) * 2.0**exponents).to(dtype)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    for seed in range(4):
        number = torch.tensor(seed << 40 | 7)
        for ours, theirs in zip(*(b.stochastic_pool(x, number, spec, channels_last) for b in (simt, native))):
            assert torch.equal(ours, theirs)
    y = simt.stochastic_mean(x, spec, channels_last)
    assert torch.equal(y, native.stochastic_mean(x, spec, channels_last))
    dy = torch.randn(y.shape, generator=g).to(dtype)
    ours, theirs = (b.stochastic_mean_bwd(dy, x, y, spec, channels_last) for b in (simt, native))
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("p", [1, 2, 3, 2.5, 1.7, 0.5, -0.5, -1, -2, INF, -INF])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=lambda d: str(d)[6:])
def test_simt_powers_of_special_values(dtype: torch.dtype, p: float, simt: Simt, reference: Backend) -> None:
    """Where sums overflow, vanish or are none: as the CPU kernels; a norm as the reference in float64, which loses
    nothing. The exponent comes either way."""
    native, spec = backends.get("native"), PoolCase("", "", (1, 1, 4), 2, 2).spec
    info = torch.finfo(dtype)
    special = [0.0, -0.0, 1.0, -1.0, 2.0, -3.0, INF, -INF, NAN, info.max / 8, -info.max / 9, info.smallest_normal]
    x = torch.tensor([[[a, b] for a in special for b in special]], dtype=dtype).view(1, 1, -1)
    u, bound = 2 * unit_roundoff(dtype), gamma(2 + LP_SLOPE, unit_roundoff(ACCUMULATE[dtype]))
    for norm in (False, True):
        for exponent in (None, torch.tensor(p, dtype=torch.float64)):
            other, wide = (reference, x.double()) if norm else (native, x)
            power: Any = (exponent, spec, 0.0 if exponent is not None else float(p), norm, False)
            y, expected = simt.lp_pool(x, *power), other.lp_pool(wide, *power).to(dtype)
            allowed = bound * max(1, 1 / abs(p)) + u
            torch.testing.assert_close(y, expected, rtol=allowed, atol=info.tiny, equal_nan=True)
            if dtype == torch.float16:  # its rounded results are no roots of its elements
                continue
            y = other.lp_pool(wide, *power)
            dx = simt.lp_pool_bwd(torch.ones_like(expected), x, expected, *power)
            slope = other.lp_pool_bwd(torch.ones_like(y), wide, expected.to(y.dtype), *power)
            slope = slope.clamp(-info.max, info.max) if norm else slope  # a norm's gradient is finite
            allowed, some = bound * max(1, abs(p - 1) if abs(p) < INF else 1) + u, ~x.isnan()
            torch.testing.assert_close(dx[some], slope[some].to(dtype), rtol=allowed, atol=info.tiny, equal_nan=True)


def test_simt_finds_an_invalid_index(simt: Simt) -> None:
    x, indices = torch.ones(1, 2, 3, 4), torch.zeros(1, 2, 3, 4, dtype=torch.int64)
    for wrong in (-1, 20, 2**63 - 1):
        indices[0, 1, 2, 0] = wrong
        with pytest.raises(RuntimeError, match=f"Found an invalid max index: {wrong}"):
            simt.max_unpool(x, indices, (4, 5), False)


def test_simt_unpools_images_in_turn_where_a_table_holds_few(simt: Simt) -> None:
    """2900 x 2900 numbers are more than 32 MB for two images; of equal indices the last one wins."""
    x, size = torch.arange(1.0, 31.0).view(2, 1, 3, 5), 2900
    indices = torch.tensor([7, size * size - 1, 7, 0, size]).expand(2, 1, 3, 5).contiguous()
    y = simt.max_unpool(x, indices, (size, size), False).view(2, -1)
    assert y.count_nonzero() == 8
    assert y[:, [7, -1, 0, size]].tolist() == x[:, 0, 2, [2, 1, 3, 4]].tolist()


@pytest.mark.parametrize("channels", [3, 32])
def test_simt_an_offset_beyond_a_small_adaptive_window_names_nothing(channels: int, simt: Simt) -> None:
    """Windows [0, 2), [1, 4) and [3, 5) of 5 elements: tap 2 belongs to the second alone."""
    spec = adaptive_pool_spec((5,), (3,))
    x = torch.rand(2, 5, channels).transpose(1, 2) + 1
    offsets = torch.full((2, 3, channels), 2, dtype=torch.uint8).transpose(1, 2)
    got = simt.pool_select(x, offsets, spec, True)
    assert torch.equal(got[..., 1], x[..., 3]) and not got[..., 0].any() and not got[..., 2].any()
    assert simt.pool_indices(offsets, (5,), spec, True)[1, 2].tolist() == [-1, 3, -1]
    dx = simt.pool_select_bwd(got, offsets, (5,), spec, True)
    assert torch.equal(dx[..., 3], got[..., 1]) and dx.count_nonzero() == 2 * channels


@pytest.mark.parametrize("channels_last", [False, True])
def test_simt_ties_and_nan_in_windows_that_share_rows(channels_last: bool, simt: Simt, reference: Backend) -> None:
    """The first of ties and the last NaN, for any number of windows below each other and beside the padding."""
    values = torch.tensor([0.0, 1.0, 2.0, -INF, INF, NAN])
    g = torch.Generator().manual_seed(7)
    for kernel, stride, padding in ((3, 1, 1), (3, 2, 1), (5, 2, 0), ((4, 2), (3, 1), (2, 0))):
        for height in range(5, 13):
            case = PoolCase("", "", (2, 8, height, 9), kernel, stride, padding)
            x = values[torch.randint(0, 6, case.input, generator=g) * torch.randint(0, 2, case.input, generator=g)]
            if channels_last:
                x = x.contiguous(memory_format=torch.channels_last)
            for ours, right in zip(*(b.max_pool(x, case.spec, True, channels_last) for b in (simt, reference))):
                assert torch.equal(ours.nan_to_num(nan=7.0), right.nan_to_num(nan=7.0)), (case, height)
            average = Call("avg_pool", {"x": x.nan_to_num(), "spec": case.spec, "channels_last": channels_last})
            check(average.replace(x=average.arguments["x"].clamp(-9, 9)), simt, reference)


@pytest.mark.parametrize("channels", [3, 16])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(("kernel", "stride"), [(2, 1), (3, 2), ((1, 3), 1), (17, 3)], ids=str)
def test_simt_windows_of_minus_infinity_choose_an_element(
    kernel: int | tuple[int, int], stride: int, channels_last: bool, channels: int, simt: Simt, reference: Backend
) -> None:
    """Of nothing but -inf the first element counts, and not the padding before it, which is no element."""
    case = PoolCase("", "", (2, channels, 20, 19), kernel, stride, (0, 1) if kernel == (1, 3) else 1)
    x = torch.full(case.input, -INF)
    x[..., 9:, 9:] = 1.0
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    for ours, right in zip(*(b.max_pool(x, case.spec, True, channels_last) for b in (simt, reference))):
        assert torch.equal(ours, right)


LARGE = (
    *(PoolCase("", "", (2, 40, 21, 19), 17, 5, 8), PoolCase("", "", (1, 3, 20, 33), (16, 17), 1, 0)),
    PoolCase("", "", (1, 2, 140, 5), (130, 2), 1, (0, 3), dilation=(1, 10)),
    *(PoolCase("", "", (2, 5, 700), 300, 150, 7, dilation=2), PoolCase("", "", (1, 16, 9, 9, 9), 7, 3, 3)),
    PoolCase("", "", (3, 20, 40, 30), 23, 20, 11, ceil_mode=True),
)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", LARGE, ids=lambda case: f"{case.input}")
def test_simt_large_windows(case: PoolCase, dtype: torch.dtype, layout: str, simt: Simt, reference: Backend) -> None:
    """Several rows of threads take a window; ties and NaN are dense, and meet out of order."""
    values = torch.tensor([0.0, 1.0, -INF, 2.0, NAN]).to(dtype)
    g = torch.Generator().manual_seed(3)
    lost = torch.randint(0, 5, case.input, generator=g) * torch.randint(0, 40, case.input, generator=g).eq(0)
    x, last = LAYOUTS[layout](values[lost]), layout == "channels_last"
    for ours, right in zip(*(b.max_pool(x, case.spec, True, last) for b in (simt, reference))):
        assert torch.equal(ours.nan_to_num(nan=7.0), right.nan_to_num(nan=7.0))
    common = {"x": LAYOUTS[layout](data(case.input, dtype, "large")), "spec": case.spec, "channels_last": last}
    for call in (Call("max_pool", {**common, "offsets": wanted}) for wanted in (True, False)):
        check(call, simt, reference)
    check(Call("avg_pool", common), simt, reference)


@pytest.mark.parametrize("channels", [1, 24])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_simt_adaptive_windows_of_many_elements(channels: int, layout: str, simt: Simt, reference: Backend) -> None:
    x, last = data((2, channels, 50, 37), torch.float32, "large", exact=True), layout == "channels_last"
    x = LAYOUTS[layout](x)
    for size in ((1, 1), (2, 2)):
        spec = adaptive_pool_spec((50, 37), size)
        for ours, right in zip(*(b.max_pool(x, spec, True, last) for b in (simt, reference))):
            assert torch.equal(ours, right)
        check(Call("avg_pool", {"x": x, "spec": spec, "channels_last": last}), simt, reference)


@pytest.mark.parametrize("start", range(4))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_simt_packs_only_what_is_aligned(dtype: torch.dtype, start: int, simt: Simt, reference: Backend) -> None:
    """Channels that are neighbours, of a tensor that begins `start` elements after a multiple of 16 bytes."""
    case = PoolCase("", "", (2, 16, 6, 7), 3, 2, 1)
    for call in pool_calls(case, dtype, reference, "channels_last"):
        check(Call(call.op, {k: shifted(a, start) for k, a in call.arguments.items()}), simt, reference)


def shifted(a: object, start: int) -> object:
    if not isinstance(a, torch.Tensor) or a.dim() == 0:
        return a
    memory = torch.empty(a.numel() + start, dtype=a.dtype)
    return memory.as_strided(a.shape, a.stride(), start).copy_(a)


# --- planted faults -------------------------------------------------------------------------------------------

# As csrc/testing/simt_faults.cu numbers them, and what the emulator reports; None: wrong or varying numbers show it.
FAULTS = {
    "none": None,
    "no wait for a copy": None,
    "no barrier after the wait": None,
    "no barrier before a buffer is used again": None,
    "halo off by one": None,
    "divergent barrier": "divergent barrier: 32 of 64 threads wait",
    "misaligned pack": "misaligned read of 16 bytes",
    "lane outside of its mask": "lane 31 is not in its own mask",
    "sum in order of arrival": None,
    "shared memory read before it is written": None,
    "a write behind shared memory": "a write behind the block's 592 bytes of shared memory",
}
MACHINES = ((0, True), (0, False), (1, True), (2, False), (3, True), (4, False))


def outcomes(simt: Simt, fault: str) -> list[torch.Tensor | str]:
    """What the kernel leaves or the emulator reports, on every machine."""
    run = ctypes.CDLL(str(simt.binary)).convkit_simt_fault
    run.restype, run.argtypes = ctypes.c_char_p, [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
    blocks, x = 3, torch.randn(3 * 256, generator=torch.Generator().manual_seed(0))
    found: list[torch.Tensor | str] = []
    for seed, late in MACHINES:
        y = torch.full((x.numel() + blocks,), float("nan"))
        with simt.machine(seed, late):
            report = run(list(FAULTS).index(fault), x.data_ptr(), y.data_ptr(), blocks)
        found.append(report.decode() if report else y)
    return found


def test_simt_runs_a_pipeline_right(simt: Simt) -> None:
    x = torch.randn(3 * 256, generator=torch.Generator().manual_seed(0))
    padded = torch.nn.functional.pad(x, (1, 1))
    expected = padded[:-2] + padded[1:-1] + padded[2:]
    for y in outcomes(simt, "none"):
        assert isinstance(y, torch.Tensor), y
        torch.testing.assert_close(y[:-3], expected, rtol=0, atol=2 * 2**-24 * 3 * float(x.abs().max()))
        assert torch.equal(y, outcomes(simt, "none")[0])


@pytest.mark.parametrize("fault", list(FAULTS)[1:])
def test_simt_finds_a_planted_fault(fault: str, simt: Simt) -> None:
    right = outcomes(simt, "none")[0]
    assert isinstance(right, torch.Tensor)
    report = FAULTS[fault]
    found = outcomes(simt, fault)
    if report is not None:
        assert all(isinstance(outcome, str) and report in outcome for outcome in found), found
    else:
        assert any(isinstance(outcome, str) or not torch.equal(outcome, right) for outcome in found)


def test_simt_needs_both_ways_of_delivery(simt: Simt) -> None:
    """A missing wait shows only where copies come late, a buffer used too early only where they come at once."""
    right = outcomes(simt, "none")[0]

    def shows(fault: str, late: bool) -> bool:
        results = [r for r, machine in zip(outcomes(simt, fault), MACHINES) if machine[1] is late]
        return any(isinstance(r, str) or not torch.equal(r, right) for r in results)

    assert shows("no wait for a copy", late=True) and not shows("no wait for a copy", late=False)
    assert shows("no barrier before a buffer is used again", late=False)
