"""Mixed and N-max pooling against loops over the definition; their gradients, draws, errors and modules."""

from __future__ import annotations

import inspect
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

import convkit.functional as CF
import convkit.nn as cn

EPS = torch.finfo(torch.float64).eps


def window_elements(x: Tensor, kernel: int, stride: int, padding: int) -> dict[tuple[int, ...], list[Tensor]]:
    """The elements of the input in every window, by the window's place; vectors over N and C."""
    size = x.shape[2:]
    out = [(n + 2 * padding - kernel) // stride + 1 for n in size]
    found = {}
    for o in product(*map(range, out)):
        places = product(*(range(i * stride - padding, i * stride - padding + kernel) for i in o))
        inside = [p for p in places if all(0 <= i < n for i, n in zip(p, size))]
        found[o] = [x[(slice(None), slice(None), *p)] for p in inside]
    return found


def image(dims: int, dtype: torch.dtype = torch.float64) -> Tensor:
    g = torch.Generator().manual_seed(dims)
    return torch.randn(2, 3, *(7, 6, 5)[:dims], generator=g, dtype=torch.float64).to(dtype)


CASES = [(dims, *case) for dims in (1, 2, 3) for case in ((3, 2, 1), (2, 1, 0), (2, 3, 1))]


@pytest.mark.parametrize(("dims", "kernel", "stride", "padding"), CASES)
def test_mixture_of_maximum_and_mean(dims: int, kernel: int, stride: int, padding: int) -> None:
    x, pool = image(dims), getattr(CF, f"mixed_pool{dims}d")
    share = torch.tensor([0.25, 0.5, 1.0], dtype=torch.float64)
    windows = window_elements(x, kernel, stride, padding)
    for include, a in product((True, False), (0.0, 0.3, 1, share, share[0])):
        y = pool(x, kernel, stride, padding, count_include_pad=include, a=a)
        for o, elements in windows.items():
            v = torch.stack(elements)
            mean = v.sum(0) / (kernel**dims if include else len(v))
            want = a * v.max(0).values + (1 - a) * mean
            # a sum of at most 27 terms below 4, a division, two products and a sum
            assert (y[(slice(None), slice(None), *o)] - want).abs().max() <= 4 * (27 + 4) * EPS
        assert torch.equal(pool(x[0], kernel, stride, padding, count_include_pad=include, a=a), y[0])


@pytest.mark.parametrize(("dims", "kernel", "stride", "padding"), CASES)
def test_mean_of_the_largest(dims: int, kernel: int, stride: int, padding: int) -> None:
    x, pool = image(dims), getattr(CF, f"nmax_pool{dims}d")
    windows = window_elements(x, kernel, stride, padding)
    for n in {1, 2, kernel**dims - 1, kernel**dims}:
        y = pool(x, kernel, stride, padding, n=n)
        for o, elements in windows.items():
            v = torch.stack(elements).sort(0, descending=True).values[:n]
            assert (y[(slice(None), slice(None), *o)] - v.mean(0)).abs().max() <= 4 * (27 + 1) * EPS
        assert torch.equal(pool(x[0], kernel, stride, padding, n=n), y[0])


def test_largest_of_ties_nan_and_infinity() -> None:
    inf, nan = float("inf"), float("nan")
    x = torch.tensor([[[2.0, 2.0, 1.0, 2.0, nan, 0.0, -inf, -inf, 3.0]]], requires_grad=True)
    y = CF.nmax_pool1d(x, 3, n=2)
    torch.testing.assert_close(y, torch.tensor([[[2.0, nan, -inf]]]), equal_nan=True)
    (dx,) = torch.autograd.grad(CF.nmax_pool1d(x[..., :4], 4, n=2).sum(), x)
    assert dx[0, 0, :4].tolist() == [0.5, 0.5, 0, 0]  # the first of equal elements
    # 16-bit types are summed in float32: 2048 + 1 would be 2048
    three = torch.tensor([[2048.0, 1, 1, -5]]).half()
    assert CF.nmax_pool1d(three, 4, n=3) == torch.tensor(2050 / 3).half()
    # Windows that have fewer than n elements
    assert CF.nmax_pool1d(torch.tensor([[4.0, -2.0]]), 2, 2, 1, n=1).tolist() == [[4, -2]]
    assert CF.nmax_pool2d(torch.tensor([[[-4.0, -2.0]]]), 3, 1, 1, n=4).tolist() == [[[-3, -3]]]


@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_largest_of_nothing(n: int) -> None:
    """Taps -1, 2 and 5 of a window lie around an input of 2 elements: the mean is 0, as an average's, whatever n."""
    window = {"stride": 1, "padding": ((2, 5),), "dilation": 3, "n": n}
    x = torch.tensor([[[-5.0, -7.0]]], requires_grad=True)
    y = CF.nmax_pool1d(x, 3, **window)
    assert y.tolist() == [[[-7, 0, -5]]]
    assert CF.avg_pool1d(x, 3, 1, ((2, 5),), False, False, dilation=3).tolist() == y.tolist()
    (dx,) = torch.autograd.grad(y.sum(), x)
    assert dx.tolist() == [[[1, 1]]]
    image = x.detach().view(1, 1, 2, 1).repeat(2, 3, 1, 4).contiguous(memory_format=torch.channels_last)
    z = CF.nmax_pool2d(image, (3, 1), **{**window, "padding": ((2, 5), (0, 0))})
    assert torch.equal(z, y.detach().view(1, 1, 3, 1).expand(2, 3, 3, 4))
    assert z.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_derivatives(dims: int) -> None:
    x = image(dims)[:1, :2, ..., :4].clone().requires_grad_()
    share = torch.tensor([0.3, 0.8], dtype=torch.float64, requires_grad=True)
    mixed, largest = getattr(CF, f"mixed_pool{dims}d"), getattr(CF, f"nmax_pool{dims}d")
    for check in (torch.autograd.gradcheck, torch.autograd.gradgradcheck):
        assert check(lambda x, a: mixed(x, 2, 1, 1, a=a), (x, share))
        assert check(lambda x: largest(x, 2, 1, 1, n=2), (x,))


def test_draws() -> None:
    x = torch.rand(3, 4, 8, 6)
    top, mean = CF.max_pool2d(x, 2), CF.avg_pool2d(x, 2)
    shapes = {"layer": (3, 1, 1, 1), "channel": (3, 4, 1, 1), "region": (3, 1, 4, 3), "window": (3, 4, 4, 3)}
    for drawn, shape in shapes.items():
        g = torch.Generator().manual_seed(3)
        y = CF.mixed_pool2d(x, 2, drawn=drawn, a=0.4, generator=g)
        chosen = torch.rand(shape, generator=g.manual_seed(3)) < 0.4
        assert torch.equal(y, torch.where(chosen, top, mean))
        expected = CF.mixed_pool2d(x, 2, drawn=drawn, a=0.4, training=False)
        assert torch.equal(expected, CF.mixed_pool2d(x, 2, a=0.4))
        assert torch.equal(CF.mixed_pool2d(x, 2, drawn=drawn, a=1.0), top)
    x = torch.rand(1, 1, 2, 40000)
    share = (CF.mixed_pool2d(x, 2, drawn="window", a=0.3) == CF.max_pool2d(x, 2)).double().mean()
    assert abs(share - 0.3) < 6 * (0.3 * 0.7 / 20000) ** 0.5  # six standard deviations


@pytest.mark.parametrize("drawn", ["layer", "window"])
def test_one_graph_draws_for_all_sizes(drawn: str) -> None:
    def pool(x: torch.Tensor) -> torch.Tensor:
        return CF.mixed_pool2d(x, 2, drawn=drawn)

    compiled = torch.compile(pool, backend="aot_eager", fullgraph=True, dynamic=True)
    for size in (6, 9):
        x = torch.randn(2, 3, size, size + 1)
        torch.manual_seed(0)
        expected = pool(x)
        torch.manual_seed(0)
        assert torch.equal(compiled(x), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_layout_and_dtype(dtype: torch.dtype) -> None:
    x = image(2, dtype).contiguous(memory_format=torch.channels_last)
    results = [CF.nmax_pool2d(x, 2, n=n) for n in (1, 2, 4)] + [CF.mixed_pool2d(x, 2, a=0.3)]
    for y in (*results, *(CF.mixed_pool2d(x, 2, drawn=drawn) for drawn in ("layer", "region", "window"))):
        assert y.dtype == dtype and y.is_contiguous(memory_format=torch.channels_last)
    assert CF.mixed_pool2d(x[:0], 2).shape == CF.nmax_pool2d(x[:0], 2, n=3).shape == (0, 3, 3, 3)


ERRORS: list[tuple[str, tuple[Any, ...], dict[str, Any], type[Exception], str]] = [
    ("mixed_pool2d", (2,), {"a": 1.5}, ValueError, "a must be from 0 to 1, but got a=1.5"),
    ("mixed_pool2d", (2,), {"a": "x"}, TypeError, "argument 'a' must be float or Tensor, not str"),
    ("mixed_pool2d", (2,), {"drawn": "image"}, ValueError, "drawn must be None or one of layer, channel"),
    ("mixed_pool2d", (2,), {"a": torch.rand(3), "drawn": "layer"}, ValueError, "needs a number a"),
    ("mixed_pool2d", (2,), {"a": torch.rand(5)}, RuntimeError, "size of tensor a"),
    ("mixed_pool2d", (2,), {"a": torch.rand(7, 2, 3, 3, 3)}, RuntimeError, "does not fit the result"),
    ("mixed_pool2d", (2, 1, 3), {}, RuntimeError, "pad should be at most half of effective kernel size"),
    ("mixed_pool2d", ("x",), {}, TypeError, "argument 'kernel_size' (position 2) must be tuple of ints, not str"),
    ("nmax_pool2d", (2,), {"n": 0}, ValueError, "n must be from 1 to the 4 elements of the window, but got n=0"),
    ("nmax_pool2d", (2,), {"n": 5}, ValueError, "n must be from 1 to the 4 elements"),
    ("nmax_pool2d", (2,), {"n": 2.0}, TypeError, "argument 'n' must be int, not float"),
    ("nmax_pool2d", (9,), {"n": 2}, RuntimeError, "Output size is too small"),
]


@pytest.mark.parametrize(("op", "args", "kwargs", "kind", "text"), ERRORS)
def test_wrong_arguments(op: str, args: Any, kwargs: Any, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind) as error:
        getattr(CF, op)(image(2), *args, **kwargs)
    assert type(error.value) is kind and text in str(error.value)


def test_wrong_inputs() -> None:
    for op, extra in (("mixed_pool2d", {}), ("nmax_pool2d", {"n": 2})):
        with pytest.raises(NotImplementedError, match="not implemented for 'Int'"):
            getattr(CF, op)(torch.ones(1, 1, 4, 4, dtype=torch.int32), 2, **extra)
        with pytest.raises(TypeError, match="argument 'input'"):
            getattr(CF, op)([1.0], 2, **extra)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_modules(dims: int) -> None:
    x = image(dims, torch.float32)
    mixed = getattr(cn, f"MixedPool{dims}d")
    functional = getattr(CF, f"mixed_pool{dims}d")
    assert torch.equal(mixed(2, 1, a=0.25)(x), functional(x, 2, 1, a=0.25))
    for channels, count in ((None, 1), (3, 3)):
        layer = mixed(3, 2, 1, a=0.25, learned=True, channels=channels)
        assert list(layer.state_dict()) == ["logit"] and layer.logit.numel() == count
        torch.testing.assert_close(layer.a, torch.full_like(layer.logit, 0.25))
        layer(x).square().sum().backward()
        assert layer.logit.grad is not None and bool((layer.logit.grad != 0).all())
    layer = mixed(2, drawn="window")
    top = getattr(CF, f"max_pool{dims}d")(x, 2)
    assert 0 < (layer(x) == top).sum() < top.numel()
    assert torch.equal(layer.eval()(x), functional(x, 2))
    largest = getattr(cn, f"NMaxPool{dims}d")(2, n=2)
    assert torch.equal(largest(x), getattr(CF, f"nmax_pool{dims}d")(x, 2, n=2))
    assert repr(largest) == f"NMaxPool{dims}d(kernel_size=2, stride=2, padding=0, ceil_mode=False, dilation=1, n=2)"
    with pytest.raises(ValueError, match="drawn=None"):
        mixed(2, learned=True, drawn="layer")
    with pytest.raises(ValueError, match="needs learned=True"):
        mixed(2, channels=3)


def test_signatures() -> None:
    for n in (1, 2, 3):
        assert list(inspect.signature(getattr(CF, f"mixed_pool{n}d")).parameters)[:4] == [
            "input",
            "kernel_size",
            "stride",
            "padding",
        ]


def test_deterministic_algorithms() -> None:
    x = image(2, torch.float32).requires_grad_()
    torch.use_deterministic_algorithms(True)
    try:
        (CF.nmax_pool2d(x, 3, 1, n=4).sum() + CF.mixed_pool2d(x, 3, 1).sum()).backward()
    finally:
        torch.use_deterministic_algorithms(False)
