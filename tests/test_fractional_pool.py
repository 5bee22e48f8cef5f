"""Fractional max pooling by the contract: PyTorch's windows and choices, errors, derivatives, layouts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

import convkit
import convkit.functional as CF
from convkit.backends.base import Backend
from convkit.testing.layouts import LAYOUTS

FLOATING = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def pool(ndim: int, functional: Any = CF) -> Any:
    return getattr(functional, f"fractional_max_pool{ndim}d")


def with_indices(ndim: int, functional: Any = CF) -> Any:
    return getattr(functional, f"fractional_max_pool{ndim}d_with_indices")


def image(ndim: int, dtype: torch.dtype = torch.float64) -> Tensor:
    size = (2, 3, 9, 11, 10)[: 2 + ndim]
    n = int(torch.Size(size).numel())
    return torch.randperm(n, generator=torch.Generator().manual_seed(ndim)).to(dtype).view(size)


# --- results -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("ndim", [2, 3])
def test_b6_2_a_seed_gives_pytorchs_result(ndim: int, dtype: torch.dtype) -> None:
    for x in (image(ndim, dtype), image(ndim, dtype)[0]):
        results = []
        for m in (CF, F):
            torch.manual_seed(7)
            results.append(with_indices(ndim, m)(x, 2, output_ratio=(0.6,) * ndim) + (torch.rand(1),))
        for ours, theirs in zip(*results):
            assert torch.equal(ours, theirs) and ours.dtype == theirs.dtype


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_windows_are_pytorchs_in_each_dtype(dtype: torch.dtype, backend: Backend) -> None:
    """An image of zeros chooses the first element of each window: its start."""
    generator = torch.Generator().manual_seed(3)

    def number(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=generator))

    for ndim in (2, 3):
        for _ in range(60):
            kernel = [number(1, 4) for _ in range(ndim)]
            out = [number(1, 30 if ndim == 2 else 7) for _ in range(ndim)]
            size = [k + o + number(0, 40 if ndim == 2 else 5) for k, o in zip(kernel, out)]
            x = torch.zeros(2, 2, *size, dtype=dtype)
            samples = torch.rand(2, 2, ndim, dtype=dtype, generator=generator)
            expected = with_indices(ndim, F)(x, kernel, out, _random_samples=samples)[1]
            assert torch.equal(
                backend.fractional_max_pool(x, samples, tuple(kernel), tuple(out), True, False)[1], expected
            )


def test_the_order_of_the_samples(backend: Backend) -> None:
    """Images: width, height. alpha is 1.5: the second window starts at 2 for a sample of 0.5, at 1 for 0.1."""
    x, samples = torch.zeros(1, 1, 7, 7), torch.tensor([[[0.5, 0.1]]])
    indices = backend.fractional_max_pool(x, samples, (1, 1), (5, 5), True, False)[1][0, 0]
    assert (int(indices[0, 1]), int(indices[1, 0])) == (2, 1 * 7)
    x, samples = torch.zeros(1, 1, 7, 7, 7), torch.tensor([[[0.5, 0.1, 0.5]]])
    indices = backend.fractional_max_pool(x, samples, (1, 1, 1), (5, 5, 5), True, False)[1][0, 0]
    assert (int(indices[1, 0, 0]), int(indices[0, 1, 0]), int(indices[0, 0, 1])) == (2 * 49, 1 * 7, 2)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -3.3, 1.0, 1e12])
def test_samples_beyond_their_range_stay_inside(value: float, backend: Backend) -> None:
    x = torch.zeros(1, 1, 20, 21, 22)
    samples = torch.full((1, 1, 3), value)
    expected = F.fractional_max_pool3d_with_indices(x, 2, (7, 8, 9), _random_samples=samples)[1]
    assert torch.equal(backend.fractional_max_pool(x, samples, (2, 2, 2), (7, 8, 9), True, False)[1], expected)


def test_where_16_bits_round_windows_out_of_the_input(backend: Backend) -> None:
    """PyTorch stops with an internal error there; the windows end with the input instead."""
    x, samples = torch.zeros(1, 1, 1000, 1, dtype=torch.bfloat16), torch.full((1, 1, 2), 0.7, dtype=torch.bfloat16)
    y, indices = backend.fractional_max_pool(x, samples, (2, 1), (998, 1), True, False)
    assert int(indices.max()) == 998 and not y.any()


def test_ties_and_nan(backend: Backend) -> None:
    """The first of equal elements, -inf among them; the last NaN."""
    u = torch.zeros(1, 1, 2)
    for value in (0.0, float("-inf"), float("nan")):
        x = torch.full((1, 1, 7, 7), value)
        x[0, 0, 1, 1:3] = value if value != 0 else 5.0
        theirs = F.fractional_max_pool2d_with_indices(x, 3, 2, _random_samples=u)
        for ours, other in zip(backend.fractional_max_pool(x, u, (3, 3), (2, 2), True, False), theirs):
            assert torch.equal(torch.nan_to_num(ours, 9.0), torch.nan_to_num(other, 9.0))
    x = torch.tensor([[[[1.0, float("nan"), 7.0, float("nan"), 9.0]]]])
    y, indices = backend.fractional_max_pool(x, u, (1, 5), (1, 1), True, False)
    assert bool(y.isnan()) and int(indices) == 3


def test_one_dimension_is_an_image_of_height_1() -> None:
    x, u = torch.randn(2, 3, 30), torch.rand(2, 3, 1)
    y, indices = CF.fractional_max_pool1d_with_indices(x, 3, 11, _random_samples=u)
    expected = F.fractional_max_pool2d_with_indices(x.unsqueeze(2), (1, 3), (1, 11), _random_samples=u.expand(2, 3, 2))
    assert torch.equal(y, expected[0].squeeze(2)) and torch.equal(indices, expected[1].squeeze(2))
    assert torch.equal(CF.fractional_max_pool1d(x[0], 3, 11, _random_samples=u[:1]), y[0])
    for ratio in (0.4, (0.4,), [0.4]):
        assert CF.fractional_max_pool1d(x, 3, output_ratio=ratio).shape == (2, 3, 12)


def test_the_indices_unpool() -> None:
    x = image(2) + 1
    y, indices = CF.fractional_max_pool2d(x, 2, output_ratio=(0.5, 0.5), return_indices=True)
    back = CF.max_unpool2d(y, indices, (3, 3), 2, output_size=(9, 11))
    assert bool(((back == x) | (back == 0)).all())
    assert torch.equal(back[back > 0].unique(), y.unique())


# --- errors ------------------------------------------------------------------------------------------------------


def calls(ndim: int) -> dict[str, Callable[[Any], Any]]:
    """Wrong calls; each takes the module of functions."""
    x = torch.randn(2, 3, *(9,) * ndim)
    u = torch.rand(2, 3, ndim)
    f = f"fractional_max_pool{ndim}d"

    def call(*args: Any, **kwargs: Any) -> Callable[[Any], Any]:
        return lambda m: getattr(m, f)(*args, **kwargs)

    found = {
        "neither size nor ratio": call(x, 2),
        "ratio of one": call(x, 2, output_ratio=[1.0] * ndim),
        "ratio above one": call(x, 2, output_ratio=[1.5] * ndim),
        "negative ratio": call(x, 2, output_ratio=[-0.5] * ndim),
        "too few ratios": call(x, 2, output_ratio=[0.5]),
        "kernel of another length": call(x, (2,), 4),
        "kernel too long": call(x, (2,) * 4, 4),
        "float kernel": call(x, 2.0, 4),
        "negative output": call(x, 2, -1),
        "output of another length": call(x, 2, [4] * 4),
        "float output": call(x, 2, [4.0] * ndim),
        "bool output": call(x, 2, True),
        "windows too large": call(x, 2, 9),
        "kernel beyond the input": call(x, 10, 1),
        "last dimension too small": call(x, 2, [4] * (ndim - 1) + [9]),
        "too few dimensions": call(x[0, 0], 2, 4, _random_samples=u),
        "too few dimensions, nothing drawn": call(x[0, 0], 2, 4),
        "too many dimensions": call(x[None], 2, 4, _random_samples=u),
        "no channels": call(x[:, :0], 2, 4),
        "no space": call(x[:, :, :0], 2, 4),
        "samples of another dtype": call(x, 2, 4, _random_samples=u.double()),
        "samples for other dimensions": call(x, 2, 4, _random_samples=u[..., :1]),
        "samples for too few images": call(x, 2, 4, _random_samples=u[:1]),
        "samples for too few channels": call(x, 2, 4, _random_samples=u[:, :2]),
        "samples of two dimensions": call(x, 2, 4, _random_samples=u[0]),
        "samples that are no tensor": call(x, 2, 4, _random_samples=[1]),
        "samples that want a gradient": call(x, 2, 4, _random_samples=u.clone().requires_grad_()),
        "integers": call(x.long(), 2, 4),
        "integers with samples": call(x.long(), 2, 4, _random_samples=u),
        "complex numbers": call(x.to(torch.complex64), 2, 4),
    }
    if ndim == 2:
        found["ratio as a number"] = call(x, 2, output_ratio=0.5)
        found["too many ratios"] = call(x, 2, output_ratio=[0.5] * 3)
    else:
        found["as many windows as would fit"] = call(x, 2, 8)
    return found


@pytest.mark.parametrize(("ndim", "name"), [(n, name) for n in (2, 3) for name in calls(n)])
def test_b6_2_errors_are_pytorchs(ndim: int, name: str) -> None:
    call = calls(ndim)[name]
    with pytest.raises(Exception) as theirs:
        call(F)
    with pytest.raises(theirs.type) as ours:
        call(CF)
    assert type(ours.value) is theirs.type
    words = str(theirs.value).split("\nException raised from")[0]
    assert str(ours.value).startswith(words.rstrip(".")), str(ours.value)


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_a_window_has_elements(ndim: int) -> None:
    """PyTorch returns minus infinity, or reads nothing, without a word."""
    for wrong in (0, -1):
        with pytest.raises(ValueError, match=r"^kernel_size must be greater than 0, but got"):
            pool(ndim)(image(ndim), wrong, 3)


def test_both_size_and_ratio() -> None:
    """The function takes the size, the module refuses: PyTorch does so."""
    assert CF.fractional_max_pool2d(image(2), 2, (3, 4), (0.9, 0.9)).shape[2:] == (3, 4)
    for n in (1, 2, 3):
        module = getattr(convkit.nn, f"FractionalMaxPool{n}d")
        with pytest.raises(ValueError, match=r"^only one of output_size and output_ratio may be specified"):
            module(2, 3, 0.5)
        with pytest.raises(ValueError, match="requires specifying either an output size, or a pooling ratio"):
            module(2)
        with pytest.raises(ValueError, match=r"^output_ratio must be between 0 and 1 \(got 1.5\)"):
            module(2, output_ratio=1.5)


# --- layouts, derivatives, modes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_every_layout_gives_the_same(ndim: int) -> None:
    x, u = image(ndim), torch.rand(2, 3, ndim, dtype=torch.float64)
    out = (4,) * ndim
    expected = with_indices(ndim)(x, 2, out, _random_samples=u)
    weight = torch.randn(expected[0].shape, dtype=torch.float64)
    gradients = []
    for layout in LAYOUTS.values():
        if layout.__name__.startswith("expanded"):
            continue
        t = layout(x).requires_grad_()
        y, indices = with_indices(ndim)(t, 2, out, _random_samples=layout(u.unsqueeze(-1)).squeeze(-1))
        assert torch.equal(y, expected[0]) and torch.equal(indices, expected[1]), layout.__name__
        gradients += torch.autograd.grad(y, t, layout(weight))
    for g in gradients:
        assert torch.equal(g, gradients[0])


@pytest.mark.parametrize("ndim", [2, 3])
def test_b1_9_channels_last_is_kept(ndim: int) -> None:
    memory_format = torch.channels_last if ndim == 2 else torch.channels_last_3d
    x = image(ndim).contiguous(memory_format=memory_format).requires_grad_()
    y, indices = with_indices(ndim)(x, 2, 4)
    (g,) = torch.autograd.grad(y.sum(), x)
    assert all(t.is_contiguous(memory_format=memory_format) for t in (y, indices, g))


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_derivatives_of_every_order(ndim: int) -> None:
    x = image(ndim)[:, :2, :7].contiguous().requires_grad_()
    u = torch.rand(2, 2, ndim, dtype=torch.float64)
    function = partial(pool(ndim), kernel_size=3, output_size=(3,) * ndim, _random_samples=u)
    assert gradcheck(function, (x,), check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(function, (x,), check_fwd_over_rev=True, check_batched_grad=True)


def test_the_gradient_is_pytorchs() -> None:
    for ndim in (2, 3):
        u = torch.rand(2, 3, ndim, dtype=torch.float64)
        results = []
        for m in (CF, F):
            x = image(ndim).requires_grad_()
            y = pool(ndim, m)(x, 3, (6,) * ndim, _random_samples=u)
            results += torch.autograd.grad(y, x, torch.arange(y.numel(), dtype=y.dtype).view(y.shape))
        assert torch.equal(*results)


def test_vmap_and_func() -> None:
    x, u = image(2), torch.rand(2, 3, 2, dtype=torch.float64)

    def one(a: Tensor, s: Tensor) -> Tensor:
        return CF.fractional_max_pool2d(a, 2, 4, _random_samples=s.unsqueeze(0))

    expected = CF.fractional_max_pool2d(x, 2, 4, _random_samples=u)
    assert torch.equal(torch.func.vmap(one)(x, u), expected)
    y, tangent = torch.func.jvp(lambda a: one(a, u[0]), (x[0],), (torch.ones_like(x[0]),))
    assert torch.equal(y, expected[0]) and bool((tangent == 1).all())


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_b1_11_autocast_computes_in_float32(dtype: torch.dtype) -> None:
    results = []
    for m in (CF, F):
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16):
            results.append(m.fractional_max_pool2d(image(2, dtype), 2, 4))
    assert results[0].dtype == results[1].dtype and torch.equal(*results)


def test_deterministic_mode_does_not_refuse() -> None:
    torch.use_deterministic_algorithms(True)
    try:
        for ndim in (1, 2, 3):
            pool(ndim)(image(ndim).requires_grad_(), 2, 4).sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)


def test_fullgraph() -> None:
    u = torch.rand(2, 3, 2, dtype=torch.float64)

    def function(t: Tensor) -> Tensor:
        return CF.fractional_max_pool2d(t, 2, output_ratio=(0.5, 0.7), _random_samples=u)

    x = image(2).requires_grad_()
    y = torch.compile(function, fullgraph=True, backend="aot_eager")(x)
    assert torch.equal(y, function(x))
    assert torch.equal(*(torch.autograd.grad(t.sin().sum(), x)[0] for t in (y, function(x))))
    drawn = torch.compile(lambda t: CF.fractional_max_pool2d(t, 2, 4), fullgraph=True, backend="aot_eager")(x)
    assert drawn.shape == (2, 3, 4, 4)


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_modules(ndim: int) -> None:
    x, name = image(ndim), f"FractionalMaxPool{ndim}d"
    u = torch.rand(2, 3, ndim, dtype=torch.float64)
    ours = getattr(convkit.nn, name)(2, output_ratio=0.5, return_indices=True, _random_samples=u)
    assert list(ours.state_dict()) == ["_random_samples"]
    expected = with_indices(ndim)(x, 2, output_ratio=(0.5,) * ndim, _random_samples=u)
    assert all(torch.equal(a, b) for a, b in zip(ours(x), expected))
    assert repr(getattr(convkit.nn, name)(2, 3, backend="native")) == f"{name}(backend=native)"
    if ndim == 1:
        return
    model = torch.nn.Sequential(getattr(torch.nn, name)(2, 4, _random_samples=u))
    before = model(x)
    assert len(convkit.convert(model).replaced) == 1 and type(model[0]) is getattr(convkit.nn, name)
    assert torch.equal(model(x), before)
    convkit.revert(model)
    assert type(model[0]) is getattr(torch.nn, name)
    if ndim == 3:
        with pytest.raises(ValueError, match="kernel_size must be greater than 0, but got 0"):
            convkit.nn.FractionalMaxPool3d(0, 4)
