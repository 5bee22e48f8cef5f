"""The compiled pooling kernels against PyTorch's own, in every layout, dtype and awkward shape."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from convkit.backends.native import FLOATING, INTEGRAL, Native
from convkit.problem import PoolSpec, adaptive_pool_spec, pool_output_size

native = Native()
pytestmark = pytest.mark.skipif(native.available() is not None, reason=str(native.available()))

MAX = (F.max_pool1d, F.max_pool2d, F.max_pool3d)
AVG = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)


def spec_of(dims, kernel, stride=None, padding=0, dilation=1, **flags) -> PoolSpec:
    def per_dim(v):
        return tuple(v) if isinstance(v, (tuple, list)) else (v,) * dims

    pad = per_dim(padding)
    return PoolSpec(per_dim(kernel), per_dim(stride or kernel), pad, pad, per_dim(dilation), **flags)


def is_channels_last(x: Tensor) -> bool:
    return x.dim() > 3 and not x.is_contiguous() and x.stride(1) == 1


def max_pool(x: Tensor, spec: PoolSpec) -> tuple[Tensor, Tensor]:
    """Value and int64 indices; the pool without offsets must give the same values."""
    layout = is_channels_last(x)
    y, offsets = native.max_pool(x, spec, True, layout)
    alone, none = native.max_pool(x, spec, False, layout)
    assert none.numel() == 0
    torch.testing.assert_close(alone, y, rtol=0, atol=0, equal_nan=True)
    return y, native.pool_indices(offsets, tuple(x.shape[2:]), spec, layout)


def expect_max(x: Tensor, kernel, stride=None, padding=0, dilation=1, ceil_mode=False) -> None:
    dims = x.dim() - 2
    y, indices = max_pool(x, spec_of(dims, kernel, stride, padding, dilation, ceil_mode=ceil_mode))
    pool = MAX[dims - 1]
    want = x if x.dtype in FLOATING else x.double().contiguous()  # 1-d and channels_last integers are refused there
    value, index = pool(want, kernel, stride, padding, dilation, ceil_mode, return_indices=True)
    torch.testing.assert_close(y, value.to(x.dtype), rtol=0, atol=0, equal_nan=True)
    assert torch.equal(indices, index)


def strided(x: Tensor, how: str) -> Tensor:
    """The same values in another memory layout."""
    if how == "contiguous":
        return x.contiguous()
    if how == "channels_last":
        order = (0, *range(2, x.dim()), 1)
        return x.permute(order).contiguous().permute(0, x.dim() - 1, *range(1, x.dim() - 1))
    if how == "permuted":
        order = tuple(reversed(range(x.dim())))
        return x.permute(order).contiguous().permute(order)
    if how == "sliced":
        wide = torch.full((*x.shape[:-1], 2 * x.shape[-1] + 1), 7, dtype=x.dtype)
        wide[..., 1::2] = x
        return wide[..., 1::2]
    raise AssertionError(how)


LAYOUTS = ("contiguous", "channels_last", "permuted", "sliced")


def random(shape, dtype=torch.float32, seed=0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    if dtype in INTEGRAL:
        info = torch.iinfo(dtype)
        return torch.randint(max(info.min, -9), 9, shape, generator=g).to(dtype)
    return torch.randn(shape, generator=g, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_pattern_of_ties_nan_and_infinity(layout):
    """All 6^4 fillings of a 2x2 window, as planes, then as channels; and all 4^6 of a 2x3 window with padding."""
    symbols = torch.tensor([float("nan"), float("-inf"), float("inf"), 0.0, 1.0, -0.0])
    windows = torch.tensor(list(itertools.product(range(6), repeat=4)))
    x = symbols[windows].reshape(1, -1, 2, 2)
    expect_max(strided(x, layout), 2)
    symbols = torch.tensor([float("nan"), float("-inf"), 0.0, 1.0])
    windows = torch.tensor(list(itertools.product(range(4), repeat=6)))
    x = symbols[windows].reshape(8, -1, 2, 3)
    expect_max(strided(x, layout), (2, 3))
    expect_max(strided(x, layout), (2, 3), 1, 1)
    expect_max(strided(x, layout), 3, 2, 1)
    expect_max(strided(x.reshape(8, -1, 1, 6), layout), (1, 3), (1, 2), (0, 1))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_windows_that_are_the_whole_plane(layout):
    """Global pooling of planes shorter, as long and longer than a vector, full of ties and NaN."""
    symbols = torch.tensor([float("nan"), float("-inf"), 0.0, 1.0, 1.0, 2.0, 2.0])
    g = torch.Generator().manual_seed(1)
    for height, width in ((1, 3), (3, 5), (4, 4), (7, 7), (5, 13), (8, 8), (3, 43)):
        for low in (0, 1, 2):
            x = strided(symbols[torch.randint(low, 7, (2, 60, height, width), generator=g)], layout)
            expect_max(x, (height, width))
            expect_max(x.double(), (height, width))
        expect_avg(strided(random((2, 60, height, width)), layout), (height, width), None, 0, False, True)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_constant_planes_choose_the_right_element(dims):
    """Ties: the first element that is no padding, also of -inf (where max_pool3d of PyTorch errs); NaN: the last."""
    ones = torch.ones(2, 17, *(9, 8, 5)[:dims])
    for layout in LAYOUTS[:2]:
        for (kernel, stride, dilation), ceil in itertools.product(((3, 1, 1), (3, 2, 1), (2, 3, 2)), (False, True)):
            expect_max(strided(ones, layout), kernel, stride, 1, dilation, ceil)
            expect_max(strided(ones * float("nan"), layout), kernel, stride, 1, dilation, ceil)
            spec = spec_of(dims, kernel, stride, 1, dilation, ceil_mode=ceil)
            y, indices = max_pool(strided(ones * float("-inf"), layout), spec)
            assert bool((y == float("-inf")).all())
            assert torch.equal(indices, max_pool(strided(ones, layout), spec)[1])


GEOMETRY = {  # dims, spatial size, kernel, stride, padding, dilation, ceil_mode
    "resnet": (2, (30, 37), 3, 2, 1, 1, False),
    "vgg": (2, (16, 50), 2, 2, 0, 1, False),
    "same": (2, (19, 21), 3, 1, 1, 1, False),
    "sppf": (2, (20, 20), 5, 1, 2, 1, False),
    "small_plane": (2, (7, 7), 3, 2, 1, 1, False),
    "global": (2, (7, 7), 7, 7, 0, 1, False),
    "one_element": (2, (1, 1), 1, 1, 0, 1, False),
    "gap": (2, (23, 29), 2, (3, 5), 0, 1, False),
    "ceil": (2, (10, 12), 3, 2, 0, 1, True),
    "ceil_overhang": (2, (5, 9), (2, 3), (3, 4), (1, 1), 1, True),
    "dilated": (2, (17, 19), 3, 2, 1, 2, False),
    "dilated_wide": (2, (30, 31), (2, 4), (1, 3), 1, (5, 7), False),
    "window_misses_input": (2, (2, 2), 2, 1, 1, 3, False),
    "rectangle": (2, (9, 40), (4, 1), (2, 3), (2, 0), 1, False),
    "large_window": (2, (40, 41), 31, 1, 15, 1, False),
    "offsets_of_two_bytes": (2, (20, 22), 17, 3, 8, 1, False),
    "audio": (1, (1037,), 3, 3, 0, 1, False),
    "audio_long": (1, (5003,), 4, 2, 1, 1, True),
    "audio_dilated": (1, (301,), 5, 4, 2, 3, False),
    "video": (3, (4, 12, 19), (1, 2, 2), (1, 2, 2), 0, 1, False),
    "volume": (3, (7, 9, 11), 3, 2, 1, 1, False),
    "volume_dilated": (3, (8, 9, 10), 2, (1, 2, 3), 1, (3, 2, 1), True),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", GEOMETRY)
def test_max_pool_equals_pytorch(case, layout):
    dims, size, kernel, stride, padding, dilation, ceil = GEOMETRY[case]
    for n, c in ((2, 19), (1, 3), (1, 64)):
        x = random((n, c, *size)).mul(4).round()  # many ties
        if case == "window_misses_input":  # PyTorch's index is out of range there: values only
            y, _ = max_pool(strided(x, layout), spec_of(dims, kernel, stride, padding, dilation))
            assert torch.equal(y, F.max_pool2d(x, kernel, stride, padding, dilation))
        else:
            expect_max(strided(x, layout), kernel, stride, padding, dilation, ceil)


@pytest.mark.parametrize("dtype", FLOATING + INTEGRAL, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_max_pool_of_every_dtype(dtype, layout):
    for _dims, size in ((1, (67,)), (2, (13, 45)), (3, (5, 6, 9))):
        x = random((2, 70, *size), dtype)
        expect_max(strided(x, layout), 3, 2, 1)
        expect_max(strided(x, layout), 2, 2)
        if dtype in INTEGRAL:
            expect_max(strided(torch.full_like(x, torch.iinfo(dtype).min), layout), 3, 2, 1)


# Tiles of two columns, windows narrower and wider than a vector, with strides that no shuffle splits.
UNSTAGED = [(2, 2, 0), ((1, 2), (1, 2), 0), (3, 4, 1), (5, 4, 2)]
UNSTAGED += [((2, 20), (2, 16), (1, 10)), ((3, 17), (2, 19), (1, 4))]


@pytest.mark.parametrize("window", UNSTAGED, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_elements_that_meet_out_of_order(window, layout):
    """Ties, infinities and NaN where columns are reduced before rows; in planes of few and of many windows."""
    symbols = torch.tensor([float("nan"), float("-inf"), 0.0, 1.0, 1.0, 2.0, 2.0, -3.0])
    g = torch.Generator().manual_seed(2)
    for size in ((5, 20), (8, 41), (6, 150)):
        for low, high in ((0, 8), (1, 8), (2, 8), (0, 2), (1, 2), (0, 1)):
            x = strided(symbols[torch.randint(low, high, (2, 9, *size), generator=g)], layout)
            expect_max(x, *window)
            expect_max(x.double(), *window)
        for dtype in (torch.uint8, torch.int64, torch.bfloat16, torch.float16):
            x = strided(random((2, 9, *size), dtype), layout)
            expect_max(x, *window)
            if dtype in INTEGRAL:
                expect_max(torch.full_like(x, torch.iinfo(dtype).min), *window)
        spec = spec_of(2, *window)
        x = strided(random((2, 9, *size)).mul(4).round(), layout)
        cl = is_channels_last(x)
        y, offsets = native.max_pool(x, spec, True, cl)
        indices = native.pool_indices(offsets, size, spec, cl)
        dy = strided(random(y.shape, seed=3).mul(4).round(), layout)
        dx = native.pool_select_bwd(dy, strided(offsets, layout), size, spec, cl)
        want = torch.zeros(2, 9, size[0] * size[1]).scatter_add_(2, indices.flatten(2), dy.flatten(2))
        assert torch.equal(dx, want.view(x.shape))
        expect_avg(x, *window, False, True)


def test_an_offset_beyond_a_small_adaptive_window_names_nothing():
    """Windows [0, 2), [1, 4) and [3, 5) of 5 elements: tap 2 belongs to the second alone."""
    spec = adaptive_pool_spec((5,), (3,))
    assert spec.kernel_size == (3,)
    for layout in ("contiguous", "channels_last"):
        x = strided(random((2, 33, 5)).abs() + 1, layout)
        cl = is_channels_last(x)
        offsets = torch.full((2, 33, 3), 2, dtype=torch.uint8)
        got = native.pool_select(x, offsets, spec, cl)
        assert torch.equal(got[..., 1], x[..., 3]) and not got[..., 0].any() and not got[..., 2].any()
        assert native.pool_indices(offsets, (5,), spec, cl)[0, 0].tolist() == [-1, 3, -1]
        dx = native.pool_select_bwd(got, offsets, (5,), spec, cl)
        assert torch.equal(dx[..., 3], got[..., 1]) and dx.count_nonzero() == 66


def dense_select(x: Tensor, indices: Tensor) -> Tensor:
    return x.flatten(2).gather(2, indices.flatten(2)).view_as(indices)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", [c for c in GEOMETRY if c != "window_misses_input"])
def test_select_and_its_adjoint(case, layout):
    dims, size, kernel, stride, padding, dilation, ceil = GEOMETRY[case]
    spec = spec_of(dims, kernel, stride, padding, dilation, ceil_mode=ceil)
    for n, c in ((2, 19), (1, 3)):
        x = strided(random((n, c, *size), torch.float64).mul(4).round(), layout)
        cl = is_channels_last(x)
        y, offsets = native.max_pool(x, spec, True, cl)
        indices = native.pool_indices(offsets, size, spec, cl)
        other = strided(random(x.shape, torch.float64, 1), layout)
        assert torch.equal(native.pool_select(other, offsets, spec, cl), dense_select(other, indices))
        dy = strided(random(y.shape, torch.float64, 2).mul(8).round(), layout)
        dx = native.pool_select_bwd(dy, strided(offsets, layout), size, spec, cl)
        want = torch.zeros(n, c, x[0, 0].numel(), dtype=torch.float64)
        want.scatter_add_(2, indices.flatten(2), dy.flatten(2))
        assert torch.equal(dx, want.view(x.shape))  # whole numbers: every order of summation is exact


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", FLOATING + INTEGRAL, ids=str)
def test_select_backward_of_every_dtype(dtype, layout):
    spec = spec_of(2, 3, 2, 1)
    x = strided(random((2, 70, 13, 21), dtype), layout)
    cl = is_channels_last(x)
    y, offsets = native.max_pool(x, spec, True, cl)
    indices = native.pool_indices(offsets, (13, 21), spec, cl)
    assert torch.equal(native.pool_select(x, offsets, spec, cl), y)
    dx = native.pool_select_bwd(strided(y, layout), offsets, (13, 21), spec, cl)
    want = torch.zeros(2, 70, 13 * 21, dtype=torch.float64)
    want.scatter_add_(2, indices.flatten(2), y.double().flatten(2))
    assert torch.equal(dx, want.view(x.shape).to(dtype))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_invalid_offsets_are_harmless(layout):
    """An offset outside its window, or one that names padding, selects 0 and receives no gradient."""
    spec = spec_of(2, 3, 2, 1)
    x = strided(random((2, 33, 9, 9)).abs() + 1, layout)
    cl = is_channels_last(x)
    y, offsets = native.max_pool(x, spec, True, cl)
    for bad in (9, 10, 200, 255):
        broken = torch.full_like(offsets, bad)
        assert not native.pool_select(x, broken, spec, cl).any()
        assert not native.pool_select_bwd(y, broken, (9, 9), spec, cl).any()
        assert bool((native.pool_indices(broken, (9, 9), spec, cl) == -1).all())
    padding = torch.zeros_like(offsets)  # the top left tap: padding for the first row and column
    got = native.pool_select(x, padding, spec, cl)
    assert not got[:, :, 0].any() and not got[..., 0].any() and bool((got[:, :, 1:, 1:] > 0).all())
    dx = native.pool_select_bwd(y, padding, (9, 9), spec, cl)
    assert dx.sum(dtype=torch.float64) == pytest.approx(y[:, :, 1:, 1:].sum(dtype=torch.float64).item())
    large = spec_of(2, 17, 1, 8)  # int16 offsets, which can be negative
    _, offsets = native.max_pool(x, large, True, cl)
    assert offsets.dtype == torch.int16
    for bad in (-1, -32768, 289, 32767):
        broken = torch.full_like(offsets, bad)
        assert not native.pool_select(x, broken, large, cl).any()
        assert not native.pool_select_bwd(x, broken, (9, 9), large, cl).any()


SCATTERED = {
    "overlapping": ((17, 23), spec_of(2, 5, 1, 2)),
    "dilated": ((19, 21), spec_of(2, (4, 3), (2, 1), (3, 2), 2)),
    "volume": ((7, 9, 11), spec_of(3, 3, 2, 1, ceil_mode=True)),
    "row": ((300,), spec_of(1, 12, 5, 3)),
    "adaptive": ((23, 31), adaptive_pool_spec((23, 31), (3, 4))),
    "adaptive_volume": ((7, 9, 11), adaptive_pool_spec((7, 9, 11), (3, 4, 2))),
    "adaptive_row": ((1000,), adaptive_pool_spec((1000,), (7,))),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", SCATTERED)
def test_offsets_of_every_value_go_where_their_indices_say(case, layout):
    """Of large windows gradients are added one by one; taps may lie in the padding, outside of a window, or be none."""
    size, spec = SCATTERED[case]
    taps = torch.tensor(spec.kernel_size).prod().item()
    g = torch.Generator().manual_seed(5)
    whole = torch.randint(-16, 17, (3, 7, *pool_output_size(size, spec)), generator=g)
    offsets = torch.randint(0, min(taps + 20, 256), whole.shape, generator=g)
    offsets = strided(offsets.to(torch.uint8 if taps <= 255 else torch.int16), layout)
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.int8, torch.int32):
        scale = 2**28 if dtype == torch.int32 else 1  # so that sums of eight leave the range, and wrap around
        dy = strided((whole * scale).to(dtype), layout)
        cl = is_channels_last(dy)
        indices = native.pool_indices(offsets, size, spec, cl).flatten(2)
        named = torch.where(indices >= 0, dy.flatten(2).long(), 0)
        want = torch.zeros(3, 7, torch.tensor(size).prod().item(), dtype=torch.int64)
        want = want.scatter_add_(2, indices.clamp(min=0), named).view(3, 7, *size)
        assert torch.equal(native.pool_select_bwd(dy, offsets, size, spec, cl), want.to(dtype))


def tolerance(x: Tensor, window: int) -> dict[str, float]:
    """Summing `window` terms in either order, in the accumulate type, then one rounding to the dtype."""
    unit = torch.finfo(torch.float64 if x.dtype == torch.float64 else torch.float32).eps
    scale = float(x.double().abs().max()) if x.numel() else 0.0
    last = torch.finfo(x.dtype).eps
    return {"rtol": 2 * last, "atol": 2 * window * unit * scale}


def expect_avg(x: Tensor, kernel, stride, padding, ceil, include, override=None) -> None:
    dims = x.dim() - 2
    cl = is_channels_last(x)
    flags = {"ceil_mode": ceil, "count_include_pad": include, "divisor_override": override or 0}
    spec = spec_of(dims, kernel, stride, padding, **flags)
    window = 1
    for k in spec.kernel_size:
        window *= k
    extra = () if dims == 1 else (override,)
    leaf = x.double().detach().requires_grad_()
    want = AVG[dims - 1](leaf, kernel, stride, padding, ceil, include, *extra)
    y = native.avg_pool(x, spec, cl)
    torch.testing.assert_close(y, want.detach().to(x.dtype), **tolerance(x, window))
    dy = random(want.shape, x.dtype, 5)
    want.backward(dy.double())
    dx = native.avg_pool_bwd(strided(dy, "channels_last") if cl else dy, tuple(x.shape[2:]), spec, cl)
    torch.testing.assert_close(dx, leaf.grad.to(x.dtype), **tolerance(dy, window))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", [c for c in GEOMETRY if GEOMETRY[c][5] == 1])
def test_avg_pool_equals_pytorch(case, layout):
    dims, size, kernel, stride, padding, _, ceil = GEOMETRY[case]
    for (n, c), include in itertools.product(((2, 19), (1, 3)), (True, False)):
        for override in (None, -3) if dims > 1 else (None,):
            x = strided(random((n, c, *size)), layout)
            expect_avg(x, kernel, stride, padding, ceil, include, override)


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_avg_pool_of_every_floating_dtype(dtype, layout):
    for _dims, size in ((1, (67,)), (2, (13, 45)), (3, (5, 6, 9))):
        x = strided(random((2, 35, *size), dtype), layout)
        expect_avg(x, 3, 2, 1, True, False)
        expect_avg(x, 2, 2, 0, False, True)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_avg_pool_of_whole_numbers_is_exact(layout):
    x = strided(random((2, 35, 12, 15)).mul(99).round(), layout)
    y = native.avg_pool(x, spec_of(2, 3, 2, 1), is_channels_last(x))
    assert torch.equal(y, F.avg_pool2d(x, 3, 2, 1))
    whole = strided(random((2, 35, 12, 15), torch.int64) * 77, layout)
    for override in (None, 4, -4):
        spec = spec_of(2, 3, 2, 1, divisor_override=override or 0)
        want = F.avg_pool2d(whole, 3, 2, 1, divisor_override=override)
        assert torch.equal(native.avg_pool(whole, spec, is_channels_last(whole)), want)


def test_asymmetric_padding_is_padding():
    x = random((2, 18, 11, 14))
    spec = PoolSpec((3, 4), (2, 3), (2, 0), (0, 3), (1, 1))
    padded = F.pad(x, (0, 3, 2, 0), value=float("-inf"))
    zeros = F.pad(x, (0, 3, 2, 0))
    for layout in LAYOUTS:
        s = strided(x, layout)
        cl = is_channels_last(s)
        assert torch.equal(native.max_pool(s, spec, False, cl)[0], F.max_pool2d(padded, (3, 4), (2, 3)))
        torch.testing.assert_close(native.avg_pool(s, spec, cl), F.avg_pool2d(zeros, (3, 4), (2, 3)))


def test_dilated_avg_pool_and_its_adjoint():
    """Average pooling with dilation is convolution by a constant filter."""
    x = random((2, 18, 17, 20), torch.float64).requires_grad_()
    spec = spec_of(2, 3, 2, 2, (2, 3))
    want = F.conv2d(x, torch.full((18, 1, 3, 3), 1 / 9, dtype=torch.float64), None, 2, 2, (2, 3), 18)
    dy = random(want.shape, torch.float64, 3)
    want.backward(dy)
    for layout in LAYOUTS:
        s = strided(x.detach(), layout)
        cl = is_channels_last(s)
        torch.testing.assert_close(native.avg_pool(s, spec._replace(divisor_override=9), cl), want.detach())
        dx = native.avg_pool_bwd(strided(dy, layout), (17, 20), spec._replace(divisor_override=9), cl)
        torch.testing.assert_close(dx, x.grad)


def test_views_that_share_or_reverse_memory():
    base = random((1, 40, 12, 17))
    spec = spec_of(2, 3, 2, 1)
    expanded = base[:, :1].expand(3, 40, 12, 17)
    for x in (expanded, base[..., :1].expand(1, 40, 12, 17), base.transpose(2, 3), base[:, ::2, 1:, 2:]):
        y, offsets = native.max_pool(x, spec, True, False)
        dense = native.max_pool(x.contiguous(), spec, True, False)
        assert torch.equal(y, dense[0]) and torch.equal(offsets, dense[1])
        torch.testing.assert_close(native.avg_pool(x, spec, False), native.avg_pool(x.contiguous(), spec, False))
    # One column, whose stride means nothing; planes that are dense all the same, and enough of them to be turned.
    column = random((2, 20, 1, 12)).transpose(2, 3)
    assert column.stride() == (240, 12, 1, 12)
    for pool in (lambda x: native.max_pool(x, spec, True, False)[0], lambda x: native.avg_pool(x, spec, False)):
        assert torch.equal(pool(column), pool(column.contiguous()))
    y, offsets = native.max_pool(base, spec, True, False)
    one = torch.ones((), dtype=torch.float32).expand_as(y)
    for cl in (False, True):  # the gradient of sum()
        dx = native.pool_select_bwd(one, offsets, (12, 17), spec, cl)
        assert torch.equal(dx, native.pool_select_bwd(one.contiguous(), offsets, (12, 17), spec, False))
        assert dx.sum() == y.numel()
        mean = native.avg_pool_bwd(one, (12, 17), spec, cl)
        torch.testing.assert_close(mean, native.avg_pool_bwd(one.contiguous(), (12, 17), spec, False))


def test_batch_zero():
    x = torch.empty(0, 5, 8, 9)
    spec = spec_of(2, 3, 2, 1)
    for cl in (False, True):
        y, offsets = native.max_pool(x, spec, True, cl)
        assert y.shape == offsets.shape == (0, 5, *pool_output_size((8, 9), spec))
        assert native.pool_select(x, offsets, spec, cl).shape == y.shape
        assert native.pool_select_bwd(y, offsets, (8, 9), spec, cl).shape == x.shape
        assert native.pool_indices(offsets, (8, 9), spec, cl).shape == y.shape
        assert native.avg_pool(x, spec, cl).shape == y.shape
        assert native.avg_pool_bwd(y, (8, 9), spec, cl).shape == x.shape


def test_same_bits_for_any_number_of_threads():
    x = random((3, 37, 61, 67))
    spec = spec_of(2, 3, 2, 1)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            for layout in LAYOUTS[:2]:
                s = strided(x, layout)
                cl = is_channels_last(s)
                y, offsets = native.max_pool(s, spec, True, cl)
                dx = native.pool_select_bwd(y, offsets, (61, 67), spec, cl)
                mean = native.avg_pool(s, spec, cl)
                back = native.avg_pool_bwd(mean, (61, 67), spec, cl)
                results.append((layout, y, offsets, dx, mean, back))
    finally:
        torch.set_num_threads(before)
    for layout, *tensors in results:
        first = next(r for r in results if r[0] == layout)
        assert all(torch.equal(a, b) for a, b in zip(tensors, first[1:]))
