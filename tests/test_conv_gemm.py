"""The implicit GEMM, named by number: every path of its packing and storing against conv_direct in float64."""

from __future__ import annotations

import ctypes
from math import prod, sqrt

import pytest
import torch
from torch import Tensor

from convkit.backends.native import LIBRARY, Native
from convkit.problem import ConvSpec, conv_output_size

Layout = str


@pytest.fixture(scope="module")
def native() -> Native:
    backend = Native()
    assert backend.available() is None, backend.available()
    return backend


@pytest.fixture(scope="module")
def numbers(native: Native) -> dict[str, int]:
    """Number of each algorithm."""
    library = ctypes.CDLL(str(LIBRARY))
    library.convkit_algorithms.restype = ctypes.c_char_p
    return {name: i + 1 for i, name in enumerate(library.convkit_algorithms().decode().split("\n"))}


def arrange(t: Tensor, layout: Layout) -> Tensor:
    """The same values: contiguous, channels beside each other, reversed order of dimensions, or with gaps."""
    if layout == "channels_last":
        return t.movedim(1, -1).contiguous().movedim(-1, 1)
    if layout == "reversed":
        order = list(range(t.dim()))[::-1]
        return t.permute(order).contiguous().permute(order)
    if layout == "gaps":
        wide = torch.full((*t.shape[:-1], 3 * t.shape[-1]), float("nan"), dtype=t.dtype)
        wide[..., 1::3] = t
        return wide[..., 1::3]
    return t


# id: batch, channels per group, filters per group, groups, size, kernel, stride, before, after, dilation
CASES = {
    "one_tile": (1, 3, 5, 1, (9, 9), (3, 3), (1, 1), (1, 1), (1, 1), (1, 1)),
    "tails_of_rows_and_columns": (2, 17, 33, 1, (7, 19), (3, 2), (1, 1), (1, 0), (0, 1), (1, 1)),
    "depth_split_over_channels": (1, 70, 15, 1, (5, 6), (3, 3), (1, 1), (1, 1), (1, 1), (1, 1)),
    "depth_split_over_taps": (1, 2, 3, 1, (400,), (300,), (1,), (7,), (0,), (1,)),
    "many_channels_few_pixels": (3, 300, 40, 1, (3, 3), (1, 1), (1, 1), (0, 0), (0, 0), (1, 1)),
    "several_blocks_of_pixels": (2, 4, 6, 1, (31, 23), (3, 3), (1, 1), (1, 1), (1, 1), (1, 1)),
    "several_blocks_of_filters": (1, 30, 520, 1, (4, 5), (1, 1), (1, 1), (0, 0), (0, 0), (1, 1)),
    "pointwise": (2, 20, 24, 1, (6, 7), (1, 1), (1, 1), (0, 0), (0, 0), (1, 1)),
    "rows_of_taps_of_one_channel": (2, 1, 34, 1, (12, 60), (5, 20), (2, 2), (0, 0), (0, 0), (1, 1)),
    "rows_of_taps_in_several_blocks": (1, 15, 5, 1, (12, 20), (7, 7), (1, 1), (3, 3), (3, 3), (1, 1)),
    "rows_of_taps_of_volumes": (2, 3, 6, 1, (4, 9, 20), (3, 3, 5), (1, 2, 1), (1, 1, 2), (1, 0, 2), (1, 1, 1)),
    "first_layer_runs_merge": (1, 3, 16, 1, (30, 37), (7, 7), (2, 2), (3, 3), (3, 3), (1, 1)),
    "staged_rows_of_several_planes": (2, 2, 4, 1, (6, 20, 20), (3, 5, 5), (1, 2, 1), (1, 2, 3), (1, 1, 2), (1, 1, 1)),
    "staged_rows_with_strides": (2, 3, 8, 1, (40, 61), (7, 8), (3, 3), (2, 4), (1, 0), (1, 1)),
    "staged_rows_with_gaps": (1, 4, 6, 2, (37, 50), (5, 6), (1, 2), (3, 9), (2, 0), (2, 3)),
    "staged_pieces_of_a_long_row": (1, 1, 8, 1, (1999,), (25,), (2,), (30,), (9,), (2,)),
    "run_wider_than_the_row": (2, 2, 4, 1, (3, 2), (5, 7), (1, 1), (4, 6), (3, 5), (1, 1)),
    "asymmetric_everything": (2, 5, 6, 2, (11, 14), (2, 3), (2, 1), (0, 2), (3, 1), (1, 2)),
    "stride_beyond_kernel": (1, 4, 6, 1, (16, 17), (2, 2), (5, 3), (1, 0), (0, 0), (1, 1)),
    "phases_without_taps": (1, 3, 4, 3, (13,), (2,), (4,), (1,), (2,), (6,)),
    "stride_and_dilation_share_a_factor": (2, 3, 4, 1, (21, 20), (3, 4), (4, 2), (2, 3), (1, 0), (2, 4)),
    "volume": (1, 6, 7, 2, (5, 6, 7), (2, 3, 2), (2, 1, 2), (1, 1, 0), (0, 1, 1), (1, 1, 2)),
    "rows_of_one_pixel": (2, 3, 4, 1, (40, 1), (3, 1), (1, 1), (1, 0), (1, 0), (1, 1)),
    "parts_along_both_axes": (2, 5, 6, 1, (32, 31), (3, 3), (1, 1), (12, 13), (12, 13), (12, 13)),
    "parts_along_one_axis_with_stride": (1, 20, 18, 2, (9, 90), (3, 3), (1, 2), (1, 36), (1, 36), (1, 36)),
    "parts_that_no_tap_reaches": (1, 3, 4, 1, (10, 20), (1, 2), (1, 1), (0, 30), (0, 30), (1, 5)),
    "parts_of_one_pixel": (9, 6, 20, 1, (5, 5), (5, 4), (1, 1), (0, 0), (0, 0), (1, 1)),
    "filter_covers_the_input": (9, 6, 20, 1, (5, 4), (5, 4), (3, 1), (0, 0), (2, 0), (1, 1)),
    "filter_covers_a_volume": (3, 2, 5, 1, (2, 1, 3), (2, 1, 3), (1, 2, 1), (0, 0, 0), (0, 1, 0), (1, 3, 1)),
    "parts_of_a_volume": (1, 2, 3, 1, (30, 3, 31), (2, 1, 3), (1, 1, 1), (14, 0, 12), (14, 0, 12), (28, 1, 12)),
    "in_place_over_several_planes": (5, 20, 18, 1, (9, 17), (3, 3), (1, 1), (1, 1), (1, 1), (1, 1)),
    "in_place_with_strides_and_groups": (2, 17, 19, 2, (23, 35), (3, 5), (2, 2), (1, 2), (2, 0), (1, 1)),
    "in_place_with_dilation": (2, 16, 18, 1, (20, 24), (3, 3), (1, 1), (2, 3), (1, 3), (2, 3)),
    "in_place_depth_split_over_channels": (1, 300, 20, 1, (6, 15), (3, 3), (1, 1), (1, 1), (1, 1), (1, 1)),
    "in_place_filter_packed_by_blocks": (1, 160, 140, 1, (5, 9), (3, 3), (1, 1), (1, 1), (1, 1), (1, 1)),
    "in_place_filter_shared_by_blocks": (1, 32, 2, 1, (66, 130), (3, 3), (1, 1), (1, 1), (1, 1), (1, 1)),
    "in_place_along_a_long_row": (1, 16, 20, 1, (600,), (5,), (1,), (2,), (2,), (1,)),
    "in_place_in_a_volume": (2, 16, 17, 1, (4, 5, 9), (3, 2, 3), (1, 1, 1), (1, 1, 1), (1, 0, 1), (1, 1, 1)),
    "rows_in_place": (2, 300, 20, 1, (9, 16), (1, 1), (1, 1), (0, 0), (0, 0), (1, 1)),
    "rows_in_place_with_strides": (3, 20, 40, 1, (6, 15), (1, 1), (2, 1), (0, 0), (0, 0), (1, 1)),
    "rows_not_in_place_for_padding_behind": (1, 20, 24, 1, (9, 40), (1, 1), (1, 1), (0, 0), (0, 1), (1, 1)),
    "empty_batch": (0, 3, 4, 1, (8, 8), (3, 3), (2, 2), (1, 1), (1, 1), (1, 1)),
}
LAYOUTS = ("contiguous", "channels_last", "reversed", "gaps")
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def draw(shape: tuple[int, ...], dtype: torch.dtype, layout: Layout = "contiguous") -> Tensor:
    return arrange(torch.randn(shape, dtype=torch.float64).to(dtype), layout)


def assert_close(got: Tensor, exact: Tensor, magnitude: Tensor, terms: int) -> None:
    """|error| <= rounding of the result + sqrt-law rounding of a sum of `terms` products, times a margin of 4."""
    assert not got.isnan().any()
    result = torch.finfo(got.dtype).eps
    work = torch.finfo(torch.promote_types(got.dtype, torch.float32)).eps
    bound = 4 * (result * exact.abs() + work * sqrt(terms + 4) * magnitude) + torch.finfo(got.dtype).smallest_normal
    assert ((got.double() - exact).abs() <= bound).all()


@pytest.mark.parametrize("channels_last", [False, True], ids=["planes", "channels_last"])
@pytest.mark.parametrize(
    ("dtype", "layout"),
    [(d, "contiguous") for d in DTYPES] + [(torch.float32, a) for a in LAYOUTS[1:]] + [(torch.bfloat16, "gaps")],
    ids=lambda v: str(v).removeprefix("torch."),
)
@pytest.mark.parametrize("case", CASES)
def test_agrees_with_direct(
    case: str, dtype: torch.dtype, layout: Layout, channels_last: bool, native: Native, numbers: dict[str, int]
) -> None:
    torch.manual_seed(0)
    n, c, k, groups, size, kernel, stride, before, after, dilation = CASES[case]
    direct = ConvSpec(stride, before, after, dilation, groups, algorithm=numbers["conv_direct"])
    gemm = direct._replace(algorithm=numbers["conv_gemm"])
    out = conv_output_size(size, kernel, direct)
    x, w = draw((n, c * groups, *size), dtype, layout), draw((k * groups, c, *kernel), dtype, layout)
    dy = draw((n, k * groups, *out), dtype, layout)

    got = native.conv_fprop(x, w, None, None, None, gemm, channels_last)
    exact = native.conv_fprop(x.double(), w.double(), None, None, None, direct, False)
    magnitude = native.conv_fprop(x.double().abs(), w.double().abs(), None, None, None, direct, False)
    assert_close(got, exact, magnitude, c * prod(kernel))

    got = native.conv_dgrad(dy, w, None, None, None, size, gemm, channels_last)
    exact = native.conv_dgrad(dy.double(), w.double(), None, None, None, size, direct, False)
    magnitude = native.conv_dgrad(dy.double().abs(), w.double().abs(), None, None, None, size, direct, False)
    assert_close(got, exact, magnitude, k * prod(kernel))

    got = native.conv_wgrad(dy, x, kernel, gemm, channels_last)
    exact = native.conv_wgrad(dy.double(), x.double(), kernel, direct, False)
    magnitude = native.conv_wgrad(dy.double().abs(), x.double().abs(), kernel, direct, False)
    assert_close(got, exact, magnitude, n * prod(out))


@pytest.mark.parametrize("activation", [0, 1, 2, 6])
@pytest.mark.parametrize("channels_last", [False, True], ids=["planes", "channels_last"])
def test_epilogue_is_fused(activation: int, channels_last: bool, native: Native, numbers: dict[str, int]) -> None:
    torch.manual_seed(0)
    direct = ConvSpec((1, 2), (1, 1), (1, 1), (1, 1), 2, 0, activation, 0.1, numbers["conv_direct"])
    gemm = direct._replace(algorithm=numbers["conv_gemm"])
    x, w = draw((2, 6, 9, 22), torch.float32), draw((20, 3, 3, 3), torch.float32)
    y = native.conv_fprop(x, w, None, None, None, direct, False)
    bias, scale, residual = draw((20,), torch.float32), draw((20,), torch.float32), draw(tuple(y.shape), torch.float32)
    for extras in [(bias, None, None), (None, scale, None), (None, None, residual), (bias, scale, residual)]:
        got = native.conv_fprop(x, w, *extras, gemm, channels_last)
        exact = native.conv_fprop(
            x.double(), w.double(), *(e if e is None else e.double() for e in extras), direct, False
        )
        # Activations here have slopes up to 1.1; magnitudes add up as in the sum.
        size = native.conv_fprop(
            x.double().abs(), w.double().abs(), None, None, None, direct._replace(activation=0), False
        )
        for i, extra in enumerate(extras):
            if extra is not None:
                shaped = extra.double().abs() if i == 2 else extra.double().abs()[:, None, None]
                size = size * (1 + shaped) if i == 1 else size + shaped
        assert_close(got, exact, 1.1 * size, 27)


@pytest.mark.parametrize("channels_last", [False, True], ids=["planes", "channels_last"])
def test_same_bits_for_any_number_of_threads(channels_last: bool, native: Native, numbers: dict[str, int]) -> None:
    torch.manual_seed(0)
    spec = ConvSpec((1, 1), (1, 1), (1, 1), (1, 1), algorithm=numbers["conv_gemm"])
    x, w, dy = (draw(s, torch.float32) for s in [(2, 40, 40, 40), (48, 40, 3, 3), (2, 48, 40, 40)])
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            results.append(
                (
                    native.conv_fprop(x, w, None, None, None, spec, channels_last),
                    native.conv_dgrad(dy, w, None, None, None, (40, 40), spec, channels_last),
                    native.conv_wgrad(dy, x, (3, 3), spec, channels_last),
                )
            )
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other))


def test_plan_names_what_runs(native: Native, numbers: dict[str, int]) -> None:
    from convkit.problem import pack_conv

    spec = ConvSpec((1,), (0,), (0,), (1,))
    x, w = torch.randn(1, 4, 9), torch.randn(4, 4, 3)
    plan = torch.ops.convkit.conv_plan
    assert plan(0, x, w, [], pack_conv(spec, False)) == numbers["conv_gemm"]
    assert plan(0, x.int(), w.int(), [], pack_conv(spec, False)) == numbers["conv_direct"]
    assert plan(0, x.int(), w.int(), [], pack_conv(spec._replace(algorithm=numbers["conv_gemm"]), False)) == 0


def test_a_named_algorithm_refuses_instead_of_falling_back(native: Native, numbers: dict[str, int]) -> None:
    spec = ConvSpec((1,), (0,), (0,), (1,), algorithm=numbers["conv_gemm"])
    x, w = torch.ones(1, 2, 5, dtype=torch.int32), torch.ones(2, 2, 3, dtype=torch.int32)
    with pytest.raises(RuntimeError, match="conv_gemm has kernels for floating dtypes only"):
        native.conv_fprop(x, w, None, None, None, spec, False)
    with pytest.raises(RuntimeError, match="argument 'algorithm'"):
        native.conv_fprop(x, w, None, None, None, spec._replace(algorithm=99), False)
