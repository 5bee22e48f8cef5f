"""conv_depthwise, conv_grouped and conv_bgrad against a float64 convolution, at the shapes where their code changes."""

from __future__ import annotations

import pytest
import torch

from convkit.backends.native import Native
from convkit.problem import ConvSpec

NATIVE = Native()
CONV = {1: torch.nn.functional.conv1d, 2: torch.nn.functional.conv2d, 3: torch.nn.functional.conv3d}

# name: (channels, filters, groups, size, kernel, stride, pad_before, pad_after, dilation)
CASES = {
    "7 rows and one": (3, 3, 3, (8, 33), (3, 3), (1, 1), (1, 1), (1, 1), (1, 1)),
    "small planes turned": (40, 40, 40, (7, 7), (3, 3), (1, 1), (1, 1), (1, 1), (1, 1)),
    "overlapping channel vectors": (33, 33, 33, (21, 23), (5, 5), (2, 2), (2, 2), (2, 2), (1, 1)),
    "stride beyond the kernel": (17, 17, 17, (11, 13), (2, 2), (3, 4), (0, 1), (1, 0), (1, 1)),
    "dilation beyond the input": (4, 4, 4, (4, 5), (3, 3), (1, 1), (6, 7), (7, 6), (5, 6)),
    "asymmetric padding": (20, 20, 20, (9, 10), (4, 3), (2, 1), (3, 0), (0, 2), (1, 2)),
    "channel multiplier": (6, 18, 6, (10, 19), (3, 3), (2, 2), (1, 1), (1, 1), (1, 1)),
    "7x7": (18, 18, 18, (30, 35), (7, 7), (1, 1), (3, 3), (3, 3), (1, 1)),
    "1-d causal": (24, 24, 24, (150,), (4,), (1,), (3,), (0,), (1,)),
    "1-d in blocks": (2, 2, 2, (4500,), (3,), (2,), (1,), (1,), (1,)),
    "3-d": (16, 16, 16, (6, 9, 10), (3, 3, 3), (1, 2, 1), (1, 1, 1), (1, 1, 1), (1, 1, 1)),
    "rows shared where stride and dilation differ": (18, 18, 18, (23, 20), (3, 3), (3, 2), (4, 3), (3, 4), (2, 3)),
    "wider than a block of columns": (16, 16, 16, (9, 24), (3, 9), (1, 1), (1, 4), (1, 4), (1, 1)),
    "3-d in tiles": (72, 72, 72, (3, 31, 40), (3, 3, 2), (1, 1, 1), (1, 1, 0), (1, 1, 1), (1, 1, 1)),
    "groups that share a vector": (40, 40, 10, (6, 31), (3, 3), (1, 1), (1, 1), (1, 1), (1, 1)),
    "pairs with stride and dilation": (24, 24, 12, (9, 33), (3, 3), (2, 2), (2, 2), (2, 2), (1, 2)),
    "groups of a vector and a half": (48, 48, 2, (5, 16), (3, 3), (1, 1), (1, 1), (1, 1), (1, 1)),
    "groups of two vectors": (64, 96, 2, (6, 18), (3, 2), (2, 1), (1, 1), (1, 0), (1, 1)),
    "3-d groups of one vector": (32, 16, 2, (3, 4, 15), (2, 1, 3), (1, 2, 2), (1, 0, 1), (0, 0, 1), (1, 1, 1)),
    "groups of 3 and 2": (12, 8, 4, (9, 20), (3, 3), (2, 1), (1, 1), (1, 1), (1, 1)),
}
LARGE = "3-d in tiles"
LAYOUTS = ("contiguous", "channels_last", "permuted", "sliced")
EPSILON = {torch.float32: 2.0**-24, torch.float64: 2.0**-53, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}


def in_layout(t: torch.Tensor, layout: str) -> torch.Tensor:
    """The same values at other places in memory; what lies between them is NaN."""
    if layout == "channels_last":
        return t.movedim(1, -1).contiguous().movedim(-1, 1)
    if layout == "permuted":
        return t.transpose(0, -1).contiguous().transpose(0, -1)
    if layout == "sliced":
        wide = torch.full([2 * s for s in t.shape], float("nan"), dtype=t.dtype)
        view = wide[tuple(slice(1, None, 2) for _ in t.shape)]
        view.copy_(t)
        return view
    return t


def close(got: torch.Tensor, want: torch.Tensor, magnitude: torch.Tensor, length: int) -> None:
    """|got - want| within the rounding of `length` products whose absolute values sum to `magnitude`."""
    accumulate = EPSILON[torch.float64 if got.dtype == torch.float64 else torch.float32]
    # float64 results carry the oracle's rounding as well as our own
    bound = 2 * (length + 4) * accumulate * magnitude + EPSILON[got.dtype] * (1 + 2.0**-8) * want.abs()
    if got.dtype == torch.float16:
        bound = bound + 2.0**-25  # half of the smallest subnormal number
    assert got.shape == want.shape
    assert bool(((got.double() - want).abs() <= bound).all()), float((got.double() - want).abs().max())


@pytest.mark.parametrize("dtype", EPSILON, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", [case for case in CASES if case != LARGE])
def test_in_every_layout_and_dtype(case: str, layout: str, dtype: torch.dtype) -> None:
    check_against_float64(case, layout, dtype)


def test_tiles_of_3d_rows() -> None:
    check_against_float64(LARGE, "channels_last", torch.float32)


def check_against_float64(case: str, layout: str, dtype: torch.dtype) -> None:
    c, k, groups, size, kernel, stride, before, after, dilation = CASES[case]
    generator = torch.Generator().manual_seed(0)
    dims = len(size)
    spec = ConvSpec(stride, before, after, dilation, groups=groups)
    channels_last = layout == "channels_last"
    x = torch.randn(2, c, *size, generator=generator).to(dtype)
    w = torch.randn(k, c // groups, *kernel, generator=generator).to(dtype)
    bias = torch.randn(k, generator=generator).to(dtype)
    pads = [n for i in reversed(range(dims)) for n in (before[i], after[i])]

    def oracle(*tensors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        xd, wd, dyd = (t.double() for t in tensors)
        xd.requires_grad_(), wd.requires_grad_()
        y = CONV[dims](torch.nn.functional.pad(xd, pads), wd, None, stride, 0, dilation, groups)
        dx, dw = torch.autograd.grad(y, (xd, wd), dyd)
        return y.detach(), dx, dw

    shape = NATIVE.conv_fprop(x, w, None, None, None, spec, False).shape
    dy = torch.randn(shape, generator=generator).to(dtype)
    y, dx, dw = oracle(x, w, dy)
    y_abs, dx_abs, dw_abs = oracle(x.abs(), w.abs(), dy.abs())
    per_channel = bias.double().view(1, -1, *[1] * dims)
    taps = w[0, 0].numel()

    xs, ws, dys = (in_layout(t, layout) for t in (x, w, dy))
    got = NATIVE.conv_fprop(xs, ws, bias, None, dys, spec._replace(activation=1), channels_last)
    magnitude = y_abs + per_channel.abs() + dy.double().abs()
    close(got, torch.relu(y + per_channel + dy.double()), magnitude, taps * c // groups + 2)
    got = NATIVE.conv_dgrad(dys, ws, None, None, None, size, spec, channels_last)
    close(got, dx, dx_abs, taps * k // groups)
    close(NATIVE.conv_wgrad(dys, xs, kernel, spec, channels_last), dw, dw_abs, dy[:, 0].numel())
    sums = (0, *range(2, 2 + dims))
    close(NATIVE.conv_bgrad(dys), dy.double().sum(sums), dy.double().abs().sum(sums), dy[:, 0].numel())


@pytest.mark.parametrize("layout", ("contiguous", "channels_last"))
@pytest.mark.parametrize("groups", (24, 12))
def test_same_bits_for_any_number_of_threads(layout: str, groups: int) -> None:
    spec = ConvSpec((1, 1), (1, 1), (1, 1), (1, 1), groups=groups)
    x, dy = (in_layout(torch.randn(3, 24, 40, 41), layout) for _ in range(2))
    w = torch.randn(24, 24 // groups, 3, 3)

    def run() -> list[torch.Tensor]:
        channels_last = layout == "channels_last"
        return [
            NATIVE.conv_fprop(x, w, None, None, None, spec, channels_last),
            NATIVE.conv_dgrad(dy, w, None, None, None, (40, 41), spec, channels_last),
            NATIVE.conv_wgrad(dy, x, (3, 3), spec, channels_last),
            NATIVE.conv_bgrad(dy),
        ]

    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = run()
        torch.set_num_threads(4)
        assert all(torch.equal(a, b) for a, b in zip(one, run()))
    finally:
        torch.set_num_threads(threads)


def test_empty_batch() -> None:
    spec = ConvSpec((1, 1), (1, 1), (1, 1), (1, 1), groups=4)
    x, w = torch.empty(0, 4, 5, 5), torch.randn(4, 1, 3, 3)
    assert NATIVE.conv_fprop(x, w, None, None, None, spec, False).shape == (0, 4, 5, 5)
    assert NATIVE.conv_dgrad(x, w, None, None, None, (5, 5), spec, False).shape == (0, 4, 5, 5)
    assert torch.equal(NATIVE.conv_wgrad(x, x, (3, 3), spec, False), torch.zeros(4, 1, 3, 3))
    assert torch.equal(NATIVE.conv_bgrad(x), torch.zeros(4))


def test_bias_gradient_does_not_lose_small_terms() -> None:
    """A million ones after a large number: a running float32 sum would stop growing."""
    dy = torch.ones(1, 1, 1024, 1025)
    dy[0, 0, 0, 0] = 2.0**24
    assert NATIVE.conv_bgrad(dy).item() == pytest.approx(2.0**24 + 1024 * 1025 - 1, rel=2e-3)


@pytest.mark.parametrize("channels", (1, 3, 8, 20, 130))
@pytest.mark.parametrize("width", (1023, 1024, 1025, 5000, 1 << 18))
def test_bias_gradient_of_long_rows_of_neighbouring_channels(channels: int, width: int) -> None:
    """A float32 sum of a quarter of a million equal terms would be off by a part in a thousand."""
    if channels > 20 and width > 5000:
        width = 20000
    dy = torch.full((1, 1, 1, channels), 0.1).expand(2, 2, width, channels).contiguous().permute(0, 3, 1, 2)
    exact = 4 * width * float(dy[0, 0, 0, 0].double())
    torch.testing.assert_close(
        NATIVE.conv_bgrad(dy), torch.full((channels,), exact), rtol=2048 * EPSILON[torch.float32], atol=0
    )


@pytest.mark.parametrize("dtype", (torch.complex64, torch.complex128))
def test_bias_gradient_of_complex_numbers_is_rounded_once(dtype: torch.dtype) -> None:
    dy = torch.full((1, 2, 1 << 17), 0.1 - 0.3j, dtype=dtype)
    exact = (1 << 17) * dy[0, 0, 0].to(torch.complex128)
    rtol = (1 << 17) * torch.finfo(torch.float64).eps + torch.finfo(dtype).eps
    torch.testing.assert_close(NATIVE.conv_bgrad(dy), exact.to(dtype).expand(2), rtol=rtol, atol=0)


def test_infinite_input_reaches_only_its_taps() -> None:
    """Lanes beyond the end of a row of dy must not meet an infinite x: 0 * inf would poison other taps."""
    x, dy = torch.zeros(1, 2, 40, 40), torch.ones(1, 2, 40, 38)
    x[..., -1] = float("inf")
    dw = NATIVE.conv_wgrad(dy, x, (1, 3), ConvSpec((1, 1), (0, 0), (0, 0), (1, 1), groups=2), False)
    assert torch.equal(dw[0, 0, 0].isfinite(), torch.tensor([True, True, False]))


@pytest.mark.parametrize("dtype", EPSILON, ids=str)
@pytest.mark.parametrize("size", ((10, 1), (10, 2), (5, 2, 1), (6, 1, 1)), ids=str)
def test_dimensions_of_one_element_and_repeated_ones(size: tuple[int, ...], dtype: torch.dtype) -> None:
    """A dimension of one element may have any stride, a repeated one has stride 0: neither tells where rows lie."""
    generator = torch.Generator().manual_seed(0)
    dims = len(size)

    def whole(*shape: int) -> torch.Tensor:
        return torch.randint(-2, 3, shape, generator=generator).to(dtype)

    def strange(t: torch.Tensor) -> torch.Tensor:
        if t.shape[-1] > 1:
            return t[..., :1].expand_as(t)
        return t.as_strided(t.shape, [1000003 if n == 1 else stride for n, stride in zip(t.shape, t.stride())])

    x, dy = (strange(whole(1, 20, *size)) for _ in range(2))
    w = whole(20, 1, 3, *[1] * (dims - 1))
    spec = ConvSpec((1,) * dims, *((1,) + (0,) * (dims - 1),) * 2, (1,) * dims, groups=20)
    xd, wd = x.double().contiguous().requires_grad_(), w.double().requires_grad_()
    y = CONV[dims](xd, wd, None, 1, spec.pad_before, 1, 20)
    dx, dw = torch.autograd.grad(y, (xd, wd), dy.double().contiguous())
    assert torch.equal(NATIVE.conv_fprop(x, w, None, None, None, spec, False).double(), y)
    assert torch.equal(NATIVE.conv_dgrad(dy, w, None, None, None, size, spec, False).double(), dx)
    assert torch.equal(NATIVE.conv_wgrad(dy, x, tuple(w.shape[2:]), spec, False).double(), dw)
