"""Stochastic pooling: what is drawn and how often, by whatever backend, and its derivatives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import loops
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

import convkit
from convkit import backends
from convkit.autograd.stochastic_pool import stochastic_expectation, stochastic_pooling
from convkit.backends.base import Backend
from convkit.backends.reference.stochastic_pool import philox4x32_10, uniform
from convkit.problem import PoolSpec
from convkit.testing.layouts import LAYOUTS

NAN, INF = float("nan"), float("inf")
FLOATING = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
STOCHASTIC = (
    convkit.functional.stochastic_pool1d,
    convkit.functional.stochastic_pool2d,
    convkit.functional.stochastic_pool3d,
)
pool = convkit.functional.stochastic_pool2d


def seed(number: int = 0) -> Tensor:
    return torch.tensor(number * 0x9E3779B97F4A7C15 % 2**63)


def spec_of(dims: int, kernel: int, stride: int | None = None, padding: int = 0, **flags: Any) -> PoolSpec:
    k, s, p = ((v,) * dims for v in (kernel, stride or kernel, padding))
    return PoolSpec(k, s, p, p, (1,) * dims, **flags)


def draw(backend: Backend, x: Tensor, spec: PoolSpec, number: int = 0) -> tuple[Tensor, Tensor]:
    """(y, indices) of a draw."""
    y, offsets = backend.stochastic_pool(x, seed(number), spec, False)
    return y, backend.pool_indices(offsets, tuple(x.shape[2:]), spec, False)


# --- the generator -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("counter", "key", "words"), loops.PHILOX_KNOWN_ANSWERS)
def test_philox_gives_its_known_answers(counter: Any, key: Any, words: Any) -> None:
    got = philox4x32_10(tuple(map(torch.tensor, counter)), (torch.tensor(key[0]), torch.tensor(key[1])))
    assert tuple(map(int, got)) == words
    assert loops.philox4x32_10(counter, key) == words


def test_the_whole_index_and_the_whole_seed_are_used() -> None:
    """Numbers that only the upper half of the counter or of the key tells apart give different draws."""
    for index, number in ((3, 5), (3 + 2**32, 5), (3, 5 + 2**32), (2**40 + 7, 2**62 + 11), (1, -1), (2**33, -(2**63))):
        word = loops.philox4x32_10((index % 2**32, index >> 32, 0, 0), (number % 2**32, number >> 32 & 0xFFFFFFFF))[0]
        got = uniform(torch.tensor([index]), torch.tensor(number), torch.float64)
        assert float(got) == (word >> 8) / 2**24


@pytest.mark.parametrize("number", [0, 1, -1, 2**32, 2**63 - 1, -(2**63)])
def test_any_seed_gives_the_same_choices_everywhere(number: int, reference: Backend) -> None:
    x, spec = torch.rand(2, 19, 9, 21), spec_of(2, 3, 2, 1)
    expected = reference.stochastic_pool(x, torch.tensor(number), spec, False)
    for shape in ((), (1,)):
        got = backends.get("native").stochastic_pool(x, torch.full(shape, number), spec, False)
        assert torch.equal(got[0], expected[0]) and torch.equal(got[1], expected[1])


# --- frequencies ---------------------------------------------------------------------------------------------------


def p_value(counts: Tensor, probabilities: Tensor) -> float:
    """Pearson's chi-square test: the probability of counts at least as far from what is expected."""
    expected = probabilities.double() * counts.sum()
    assert bool((expected >= 5).all())  # where the chi-square distribution is a good approximation
    statistic = ((counts - expected) ** 2 / expected).sum()
    return float(torch.special.gammaincc(torch.tensor((len(counts) - 1) / 2).double(), statistic / 2))


WEIGHTS = torch.tensor([[1.0, 0.0, 4.0], [2.0, -3.0, 0.5], [8.0, 1.5, 3.0]])
CHANCES = WEIGHTS.clamp(min=0).flatten() / 20
POSITIVE = CHANCES.nonzero().flatten()


@pytest.mark.parametrize("channels_last", [False, True])
def test_choices_have_their_probabilities(channels_last: bool, backend: Backend) -> None:
    """Over 40000 windows; the seeds are fixed, so the test passes always or never. 20 tests of p > 10^-4 each."""
    x = WEIGHTS.repeat(1, 40, 50, 20)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    spec = spec_of(2, 3)
    for number in range(5):
        y, offsets = backend.stochastic_pool(x, seed(number), spec, channels_last)
        counts = torch.bincount(offsets.flatten().long(), minlength=9)
        assert counts[CHANCES == 0].sum() == 0
        assert p_value(counts[POSITIVE], CHANCES[POSITIVE]) > 1e-4
        assert p_value(counts[POSITIVE], torch.full((7,), 1 / 7)) < 1e-9  # the test can fail
        assert torch.equal(y, WEIGHTS.flatten()[offsets.long()])


def test_choices_of_neighbours_are_independent(backend: Backend) -> None:
    """Pairs of choices along w, along the channels and along the batch, and of one window under successive seeds."""
    x, spec = torch.tensor([1.0, 2.0]).repeat(8, 20, 300), spec_of(1, 2)
    offsets = backend.stochastic_pool(x, seed(), spec, False)[1].long()
    later = torch.stack([backend.stochastic_pool(x[:1], torch.tensor(n), spec, False)[1].long() for n in range(40)])
    both = torch.tensor([1, 2, 2, 4]) / 9
    for a, b in (
        (offsets[..., 0::2], offsets[..., 1::2]),
        (offsets[:, 0::2], offsets[:, 1::2]),
        (offsets[0::2], offsets[1::2]),
        (later[0::2], later[1::2]),
    ):
        assert p_value(torch.bincount((2 * a + b).flatten(), minlength=4), both) > 1e-4


def test_the_average_of_draws_is_the_expectation(backend: Backend) -> None:
    x, spec = torch.rand(2, 3, 6, 8, dtype=torch.float64), spec_of(2, 3, 2, 1)
    mean = backend.stochastic_mean(x, spec, False)
    count = 2000
    draws = torch.stack([backend.stochastic_pool(x, torch.tensor(n), spec, False)[0] for n in range(count)])
    # A mean of values in [0, 1] deviates by 5.5 of its standard deviations (at most 1/2 each) once in 10^7 times.
    assert float((draws.mean(0) - mean).abs().max()) < 5.5 * 0.5 / count**0.5


# --- the same everywhere -------------------------------------------------------------------------------------------

GEOMETRY = [  # dims, spatial size, kernel, stride, padding, ceil_mode
    (1, (301,), 4, 3, 1, False),
    (2, (14, 45), 2, 2, 0, False),
    (2, (15, 33), 3, 2, 1, True),
    (2, (7, 7), 7, 7, 0, False),
    (2, (20, 22), 17, 3, 8, False),
    (3, (5, 6, 9), 3, 2, 1, False),
]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", GEOMETRY, ids=str)
def test_the_same_choices_in_every_layout(case: Any, layout: str, reference: Backend) -> None:
    dims, size, kernel, stride, padding, ceil = case
    spec, native = spec_of(dims, kernel, stride, padding, ceil_mode=ceil), backends.get("native")
    for channels in (3, 35):
        x = LAYOUTS[layout](torch.randn(2, channels, *size))
        expected = reference.stochastic_pool(x, seed(), spec, False)
        got = native.stochastic_pool(x, seed(), spec, layout == "channels_last")
        assert torch.equal(got[0], expected[0]) and torch.equal(got[1], expected[1])
        plain = native.stochastic_mean(x.contiguous(), spec, False)
        mean = native.stochastic_mean(x, spec, layout == "channels_last")
        assert torch.equal(mean, plain)
        dy = torch.randn(mean.shape)
        gradient = native.stochastic_mean_bwd(dy, x, mean, spec, layout == "channels_last")
        assert torch.equal(gradient, native.stochastic_mean_bwd(dy, x.contiguous(), plain, spec, False))


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_the_same_choices_in_every_dtype(dtype: torch.dtype, backend: Backend, reference: Backend) -> None:
    """Elements of few bits, whose sums no format rounds."""
    x = torch.randint(-2, 9, (2, 5, 24, 26)).double()
    spec = spec_of(2, 3, 2, 1)
    expected, got = draw(reference, x, spec), draw(backend, x.to(dtype), spec)
    assert torch.equal(got[1], expected[1]) and torch.equal(got[0].double(), expected[0])


def test_the_same_choices_for_any_number_of_threads() -> None:
    x, native, spec = torch.rand(3, 70, 60, 62), backends.get("native"), spec_of(2, 3, 2, 1)
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            y, offsets = native.stochastic_pool(x, seed(), spec, False)
            mean = native.stochastic_mean(x, spec, False)
            results.append((y, offsets, mean, native.stochastic_mean_bwd(y, x, mean, spec, False)))
    finally:
        torch.set_num_threads(1)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(other, results[0]))


def test_a_window_too_large_to_stage_is_drawn_from_as_any_other(reference: Backend) -> None:
    """Above 4 MiB of staged rows, windows are read one at a time."""
    native, length = backends.get("native"), 36000
    x, spec = torch.rand(1, 2, 2 * length), spec_of(1, length)
    expected, got = draw(reference, x, spec), draw(native, x, spec)
    assert torch.equal(got[0], expected[0]) and torch.equal(got[1], expected[1])
    roundings = {"rtol": 2 * length * 2.0**-24, "atol": 0.0}  # two sums of positive numbers
    mean = native.stochastic_mean(x, spec, False)
    torch.testing.assert_close(mean, reference.stochastic_mean(x, spec, False), **roundings)


# --- one window ----------------------------------------------------------------------------------------------------


def window(backend: Backend, values: list[float], dtype: torch.dtype = torch.float32) -> list[tuple[float, int]]:
    """What 64 draws from one window give."""
    x = torch.tensor(values, dtype=dtype).expand(1, 64, -1)
    y, indices = draw(backend, x, spec_of(1, len(values)))
    return list(zip(y.flatten().tolist(), indices.flatten().tolist()))


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_a_window_without_positive_elements_gives_zero(dtype: torch.dtype, backend: Backend) -> None:
    for values in ([0.0, 0.0], [-1.0, -2.0, 0.0], [-0.0], [-INF, -3.0]):
        drawn = torch.tensor([y for y, _ in window(backend, values, dtype)])
        assert set(window(backend, values, dtype)) == {(0.0, -1)} and not drawn.signbit().any()
        x = torch.tensor(values, dtype=dtype).view(1, 1, -1)
        mean = backend.stochastic_mean(x, spec_of(1, len(values)), False)
        assert mean.item() == 0 and not mean.signbit().any()
        one = torch.ones_like(mean)
        assert not backend.stochastic_mean_bwd(one, x, mean, spec_of(1, len(values)), False).any()


def test_one_positive_element_is_chosen_always(backend: Backend) -> None:
    assert set(window(backend, [3.0])) == {(3.0, 0)}
    assert set(window(backend, [-1.0, 0.0, 2.0, -5.0])) == {(2.0, 2)}
    tiny = torch.finfo(torch.float32).smallest_normal * torch.finfo(torch.float32).eps
    assert set(window(backend, [0.0, tiny, 0.0])) == {(tiny, 1)}


def test_equal_elements_are_all_chosen(backend: Backend) -> None:
    assert {index for _, index in window(backend, [2.0] * 4)} == {0, 1, 2, 3}


def test_rounding_never_leaves_a_window_without_a_choice(backend: Backend) -> None:
    """Of subnormal numbers u * sum can round to the sum itself: the last positive element is chosen, no later one."""
    tiny = torch.finfo(torch.float32).smallest_normal * torch.finfo(torch.float32).eps
    drawn = window(backend, [tiny, 0.0, tiny, 0.0, -1.0])
    assert {index for _, index in drawn} == {0, 2} and {y for y, _ in drawn} == {tiny}
    # Elements that vanish in the sum are never reached, and never choose a neighbour instead.
    assert {index for _, index in window(backend, [1.0, 1e-30, 1e-30, 0.0])} == {0}


def test_nan_wins_and_the_last_nan(backend: Backend) -> None:
    for values, at in (([1.0, NAN, 2.0, NAN, 3.0], 3), ([NAN, INF], 0), ([-1.0, NAN], 1), ([NAN, 0.0], 0)):
        drawn = window(backend, values)
        assert {index for _, index in drawn} == {at} and all(y != y for y, _ in drawn)
        x = torch.tensor(values).view(1, 1, -1)
        assert backend.stochastic_mean(x, spec_of(1, len(values)), False).isnan().all()


def test_infinite_sums(backend: Backend) -> None:
    assert set(window(backend, [1.0, INF, 2.0, INF])) == {(INF, 1)}
    assert set(window(backend, [INF])) == {(INF, 0)}
    largest = torch.finfo(torch.float32).max
    assert set(window(backend, [largest, largest, 1.0])) == {(largest, 1)}  # the sum becomes infinite here
    x = torch.tensor([1.0, INF, 2.0]).view(1, 1, -1)
    assert backend.stochastic_mean(x, spec_of(1, 3), False).item() == INF


@pytest.mark.parametrize("scale", [2.0**-148, 2.0**-130, 2.0**-80, 2.0**80, 2.0**120, 2.0**125])
def test_squares_neither_overflow_nor_vanish(scale: float, backend: Backend) -> None:
    """sum x^2 / sum x is as large as x, whatever x^2 is."""
    x = (torch.tensor([1.0, 3.0, 0.0, 4.0, -7.0]) * scale).view(1, 1, -1)
    mean = backend.stochastic_mean(x, spec_of(1, 5), False)
    assert mean.item() == pytest.approx(26 / 8 * scale, rel=1e-6, abs=2.0**-150)
    got = backend.stochastic_mean_bwd(torch.ones_like(mean), x, mean, spec_of(1, 5), False)
    expected = torch.tensor([2 - 3.25, 6 - 3.25, 0, 8 - 3.25, 0]) / 8
    if 2.0**-140 < scale < 2.0**125:  # y has all its bits, and the sum of x is finite
        torch.testing.assert_close(got.flatten(), expected)
    assert bool(got.isfinite().all())


# --- derivatives ---------------------------------------------------------------------------------------------------

SPECS = {
    "tiles": ((4, 6), spec_of(2, 2)),
    "overlap": ((5, 6), spec_of(2, 3, 2, 1)),
    "overhang": ((5,), spec_of(1, 2, 2, 0, ceil_mode=True)),
    "dilated": ((7, 6), PoolSpec((2, 3), (1, 2), (1, 0), (0, 2), (3, 2))),
    "volume": ((3, 4, 3), spec_of(3, 2, 1)),
}


def mixed(size: tuple[int, ...]) -> Tensor:
    """Elements of both signs, none near 0; the last channel is dead. Few planes: each element costs its differences."""
    x = torch.randn(1, 2, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    x = x + 0.3 * x.sign()
    x[:, 1] = -x[:, 1].abs()
    return x.requires_grad_()


@pytest.mark.parametrize("case", SPECS)
def test_derivatives_of_a_draw(case: str, backend: Backend) -> None:
    size, spec = SPECS[case]

    def drawn(x: Tensor) -> Any:
        return stochastic_pooling(x, seed(), spec, backend=backend.name)

    assert gradcheck(drawn, (mixed(size),), check_forward_ad=True)
    assert gradgradcheck(drawn, (mixed(size),), check_fwd_over_rev=True)


@pytest.mark.parametrize("case", SPECS)
def test_derivatives_of_the_expectation(case: str, backend: Backend) -> None:
    size, spec = SPECS[case]

    def expected(x: Tensor) -> Tensor:
        return stochastic_expectation(x, spec, backend.name)

    assert gradcheck(expected, (mixed(size),), check_forward_ad=True)
    assert gradgradcheck(expected, (mixed(size),), check_fwd_over_rev=True)


def test_third_derivatives_of_the_expectation(backend: Backend) -> None:
    size, spec = SPECS["overlap"]

    def slope(x: Tensor) -> Tensor:
        y = stochastic_expectation(x, spec, backend.name)
        return torch.autograd.grad(y.pow(3).sum(), x, create_graph=True)[0]

    assert gradgradcheck(slope, (mixed(size),))


def test_the_gradient_of_a_draw_goes_to_the_chosen_elements() -> None:
    x = torch.randn(2, 3, 8, 9, requires_grad=True)
    y, indices = pool(x, 2, return_indices=True)
    dy = torch.randn(y.shape)
    (dx,) = torch.autograd.grad(y, x, dy)
    expected = torch.zeros(2, 3, 8 * 9)
    live = indices.flatten(2) >= 0
    expected.scatter_add_(2, indices.flatten(2).clamp(min=0), torch.where(live, dy.flatten(2), 0))
    assert torch.equal(dx, expected.view_as(x)) and not bool(live.all())


def test_only_offsets_of_one_byte_are_kept() -> None:
    kept: list[Tensor] = []
    x = torch.randn(1, 2, 8, 8, requires_grad=True)

    def pack(t: Tensor) -> Tensor:
        kept.append(t)
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y = pool(x, 2)
    assert [t.dtype for t in kept] == [torch.uint8] and kept[0].shape == y.shape


# --- the functions and modules -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_functions_modules_and_seeds(dims: int) -> None:
    function, module = STOCHASTIC[dims - 1], getattr(convkit.nn, f"StochasticPool{dims}d")(3, 2, 1)
    torch.manual_seed(3)
    x = torch.rand(2, 16, *(9, 7, 8)[:dims])  # 160 windows and more: two draws do not meet by chance
    torch.manual_seed(3)
    first, second = function(x, 3, 2, 1), function(x, 3, 2, 1)
    assert not torch.equal(first, second)
    torch.manual_seed(3)
    assert torch.equal(module(x), first) and torch.equal(module(x), second)
    generator = torch.Generator().manual_seed(5)
    a, b = (function(x, 3, 2, 1, generator=generator) for _ in range(2))
    assert not torch.equal(a, b)
    state = torch.get_rng_state()
    assert torch.equal(function(x, 3, 2, 1, generator=generator.manual_seed(5)), a)
    assert torch.equal(state, torch.get_rng_state())  # the default generator was not asked
    mean = function(x, 3, 2, 1, training=False)
    assert torch.equal(module.eval()(x), mean) and torch.equal(module(x), mean)
    weights = x.clamp(min=0)
    average = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[dims - 1]
    expected = average(weights.square(), 3, 2, 1) / average(weights, 3, 2, 1)
    torch.testing.assert_close(mean, expected.nan_to_num(0))


@pytest.mark.parametrize("training", [True, False])
def test_unbatched_empty_and_overhanging(training: bool) -> None:
    x = torch.rand(3, 7, 8)
    torch.manual_seed(0)
    alone = pool(x, 3, 2, ceil_mode=True, training=training)
    torch.manual_seed(0)
    assert torch.equal(pool(x[None], 3, 2, ceil_mode=True, training=training)[0], alone)
    assert alone.shape == F.max_pool2d(x, 3, 2, ceil_mode=True).shape
    empty = torch.empty(0, 3, 7, 8, requires_grad=True)
    y = pool(empty, 3, 2, training=training)
    y.sum().backward()
    assert y.shape == (0, 3, 3, 3) and empty.grad is not None


def test_a_draw_of_an_element_comes_from_its_window() -> None:
    """Overhang, padding and dilation: indices lie among those that max pooling's windows hold."""
    x = torch.rand(2, 3, 11, 13)
    for arguments in (
        {"kernel_size": 3, "stride": 2, "ceil_mode": True},
        {"kernel_size": 4, "stride": 3, "padding": 2},
    ):
        y, indices = pool(x, return_indices=True, **arguments)
        assert torch.equal(x.flatten(2).gather(2, indices.flatten(2)).view_as(y), y)
        at = torch.zeros_like(x).flatten(2).scatter(2, indices.flatten(2), 1.0).view_as(x)
        assert bool((F.max_pool2d(at, **arguments) == 1).all())


def test_indices_feed_max_unpool() -> None:
    x = torch.rand(2, 3, 8, 10) + 0.1
    y, indices = pool(x, 2, return_indices=True)
    up = F.max_unpool2d(y, indices, 2)
    assert torch.equal(up[up > 0].sort()[0], y.flatten().sort()[0]) and torch.equal(pool(up, 2), y)


def test_layout_and_dtype_follow_the_input() -> None:
    for dtype in FLOATING:
        x = torch.rand(2, 8, 6, 6).to(dtype).contiguous(memory_format=torch.channels_last).requires_grad_()
        for training in (True, False):
            y = pool(x, 2, training=training)
            (dx,) = torch.autograd.grad(y.sum(), x)
            assert y.dtype == dx.dtype == dtype
            assert y.is_contiguous(memory_format=torch.channels_last) and dx.stride() == x.stride()


def test_explicit_backends_and_deterministic_mode() -> None:
    x = torch.randn(1, 2, 6, 6, requires_grad=True)
    torch.use_deterministic_algorithms(True)
    try:
        results = []
        for name in ("native", "reference"):
            torch.manual_seed(1)
            y = pool(x, 3, 1, backend=name)
            results.append((y, *torch.autograd.grad(y.sum(), x)))
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) for a, b in zip(*results))
    with pytest.raises(RuntimeError, match="PyTorch has no stochastic pooling"):
        pool(x, 2, backend="aten")


ERRORS: list[tuple[type[Exception], str, Callable[[Tensor], Any]]] = [
    (TypeError, r"stochastic_pool2d\(\): argument 'input'", lambda x: pool([1.0], 2)),
    (TypeError, r"argument 'kernel_size' .* must be tuple of ints", lambda x: pool(x, 2.0)),
    (TypeError, r"argument 'training' must be bool", lambda x: pool(x, 2, training=1)),
    (RuntimeError, r"kernel_size must either be a single int, or a tuple of two ints", lambda x: pool(x, (1, 2, 3))),
    (RuntimeError, r"Expected 3D or 4D \(batch mode\) tensor", lambda x: pool(x[0, 0], 2)),
    (RuntimeError, r"stride should not be zero", lambda x: pool(x, 2, 0)),
    (RuntimeError, r"pad should be at most half of effective kernel size", lambda x: pool(x, 2, 2, 2)),
    (RuntimeError, r"Output size is too small", lambda x: pool(x, 20)),
    (RuntimeError, r"strict: the window doesn't fit", lambda x: pool(x, 3, 2, strict=True)),
    (NotImplementedError, r"\"stochastic_pool2d\" not implemented for 'Int'", lambda x: pool(x.int(), 2)),
    (ValueError, r"return_indices=True needs training=True", lambda x: pool(x, 2, training=False, return_indices=True)),
    (TypeError, r"generator", lambda x: pool(x, 2, generator=3)),
]


@pytest.mark.parametrize(("kind", "message", "call"), ERRORS, ids=[message for _, message, _ in ERRORS])
def test_errors(kind: type[Exception], message: str, call: Callable[[Tensor], Any]) -> None:
    x = torch.rand(2, 3, 8, 8)
    state = torch.get_rng_state()
    with pytest.raises(kind, match=message):
        call(x)
    assert torch.equal(torch.get_rng_state(), state)


# --- transforms and compilation ------------------------------------------------------------------------------------


def test_vmap_follows_its_randomness() -> None:
    x = torch.rand(1, 2, 16, 16).expand(4, -1, -1, -1)

    def one(x: Tensor) -> Tensor:
        result: Tensor = pool(x, 2)
        return result

    with pytest.raises(RuntimeError, match="randomness"):
        torch.vmap(one)(x)
    same = torch.vmap(one, randomness="same")(x)
    assert torch.equal(same[0], same[1]) and torch.equal(same[0], same[3])
    different = torch.vmap(one, randomness="different")(x)
    assert not torch.equal(different[0], different[1]) and not torch.equal(different[2], different[3])
    for drawn in (*same, *different):
        assert bool((F.unfold(x[:1], 2, stride=2).view(2, 4, 64) == drawn.view(2, 1, 64)).any(1).all())
    gradients = torch.vmap(torch.func.grad(lambda x: one(x).sum()), randomness="different")(x)
    assert bool((gradients.unfold(2, 2, 2).unfold(3, 2, 2).sum((-1, -2)) == 1).all())
    torch.testing.assert_close(torch.vmap(lambda x: pool(x, 2, training=False))(x), pool(x, 2, training=False))


@pytest.mark.parametrize("training", [True, False])
def test_compiles_to_one_graph(training: bool) -> None:
    def step(x: Tensor) -> tuple[Tensor, Tensor]:
        y = pool(x.relu(), 3, 2, 1, training=training)
        return y, torch.autograd.grad(y.square().sum(), x)[0]

    def forward(x: Tensor) -> Tensor:
        result: Tensor = pool(x.relu(), 3, 2, 1, training=training)
        return result

    x = torch.randn(2, 5, 9, 11, requires_grad=True)
    torch._dynamo.reset()
    compiled = torch.compile(forward, fullgraph=True, backend="aot_eager")
    torch.manual_seed(0)
    y = compiled(x)
    (dx,) = torch.autograd.grad(y.square().sum(), x)
    torch.manual_seed(0)
    expected, slope = step(x)
    assert torch.equal(y, expected) and torch.equal(dx, slope)
    if training:
        assert not torch.equal(compiled(x), compiled(x))
