"""Lp pooling through the functional and module layers: B6.3, B6.4, B8.1 and B9, and its derivatives."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

import convkit
import convkit.functional as CF
from convkit.testing.tolerances import ACCUMULATE, LP_SLOPE, gamma, root_of_sum, unit_roundoff

INF, NAN = float("inf"), float("nan")
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def row(*values: float, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.tensor([[values]], dtype=dtype)


def gradient(f: Any, x: Tensor) -> Tensor:
    x = x.detach().clone().requires_grad_()
    (g,) = torch.autograd.grad(f(x).sum(), x)
    return g


def draw(rng: random.Random) -> tuple[int, Tensor, tuple[Any, ...]]:
    """A number of dimensions, an input, and the arguments behind it; elements keep away from 0 and sums from NaN."""
    n, p = rng.choice((1, 2, 3)), rng.choice((1, 2, 2, 3, 2.5, 0.5, 4.0, -1, -2.0, INF, -INF))
    kernel = rng.choice((1, 2, 3)) if n == 1 else rng.choice((2, 3, [rng.choice((1, 2, 3)) for _ in range(n)]))
    stride = rng.choice((None, 1, 2, 3))
    shape = [rng.choice((0, 1, 2)), rng.choice((1, 3, 17))][rng.random() < 0.2 :]
    shape += [rng.randrange(3, 12) for _ in range(n)]
    g = torch.Generator().manual_seed(rng.getrandbits(31))
    x = torch.rand(shape, generator=g, dtype=torch.float64) + 0.125
    if p in (2, 4.0, -2.0, INF, -INF):
        x = x * (torch.randint(0, 2, shape, generator=g) * 2 - 1)
    x = x.to(rng.choice(DTYPES))
    layout = rng.choice(("contiguous", "channels_last", "transposed", "sliced"))
    if layout == "channels_last" and x.dim() == n + 2 and n > 1:
        x = x.contiguous(memory_format=torch.channels_last if n == 2 else torch.channels_last_3d)
    elif layout == "transposed":
        x = x.transpose(-1, -2).contiguous().transpose(-1, -2)
    elif layout == "sliced":
        x = torch.stack([x, x], -1)[..., 0]
    return n, x, (p, kernel, stride, rng.random() < 0.4)


@pytest.mark.parametrize("seed", range(12), ids=lambda s: f"B6.3-{s}")
def test_values_and_gradients_are_pytorchs(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(30):
        n, x, arguments = draw(rng)
        ours, theirs = getattr(CF, f"lp_pool{n}d"), getattr(F, f"lp_pool{n}d")
        exact, x = x.double().requires_grad_(), x.requires_grad_()
        expected, y = theirs(exact, *arguments), ours(x, *arguments)
        assert y.shape == expected.shape and y.dtype == x.dtype
        p, window = arguments[0], 27
        bound = root_of_sum(expected.detach(), window, p, x.dtype)
        assert bool(((y - expected).abs() <= bound).all()), (n, x.dtype, arguments)
        dy = torch.randn(y.shape, dtype=torch.float64).to(y.dtype)
        (dx,) = torch.autograd.grad(y, x, dy)
        (want,) = torch.autograd.grad(expected, exact, dy.double(), retain_graph=True)
        (size,) = torch.autograd.grad(expected, exact, dy.double().abs())
        # y was rounded to its dtype, and the gradient takes it to the power of 1 - p.
        u, v, bend = unit_roundoff(ACCUMULATE[x.dtype]), unit_roundoff(x.dtype), 0 if p in (INF, -INF) else abs(1 - p)
        allowed = (
            gamma(window + LP_SLOPE, u) + bend * (gamma(window + LP_SLOPE, u) / min(abs(p), 1) + 1.1 * v) + 1.1 * v
        )
        assert bool(((dx - want).abs() <= allowed * size.abs() + 1e-7 * (x.dtype == torch.float16)).all()), arguments


@pytest.mark.parametrize("p", [1, 2, 3, 2.5, 0.5, -1, -2], ids=lambda p: f"B6.3-{p}")
def test_special_values_are_pytorchs(p: float) -> None:
    """NaN from negative sums and bases, infinities, and zeros, where the gradient is 0 or PyTorch's NaN."""
    special = [0.0, -0.0, 1.0, -1.0, 2.0, -3.0, INF, -INF, NAN]
    x = torch.tensor([[[a, b] for a in special for b in special]], dtype=torch.float64).view(1, 1, -1)
    for dtype in (torch.float32, torch.float64):
        ours, theirs = CF.lp_pool1d(x.to(dtype), p, 2), F.lp_pool1d(x.to(dtype), p, 2)
        torch.testing.assert_close(ours, theirs, equal_nan=True)
        finite = x[..., ~x.view(-1, 2).isfinite().logical_not().any(1).repeat_interleave(2)].to(dtype)
        got, want = (gradient(lambda t, f=f: f(t, p, 2), finite) for f in (CF.lp_pool1d, F.lp_pool1d))
        torch.testing.assert_close(got, want, equal_nan=True)


def test_b63_named_examples() -> None:
    assert CF.lp_pool1d(row(-1, -2), 1, 2).item() == -3
    assert CF.lp_pool1d(row(-3, 4), 2, 2).item() == 5
    assert CF.lp_pool1d(row(-3, 2), 3, 2).isnan()
    assert CF.lp_pool1d(row(-3, 2), INF, 2).item() == 3 and CF.lp_pool1d(row(-3, 2), -INF, 2).item() == 2
    assert gradient(lambda t: CF.lp_pool1d(t, 2, 2), row(0, 0)).tolist() == [[[0, 0]]]
    assert gradient(lambda t: CF.lp_pool1d(t, 1, 2), row(-1, 1)).tolist() == [[[0, 0]]]
    with pytest.raises(ZeroDivisionError, match=r"^float division by zero"):
        CF.lp_pool2d(torch.ones(1, 1, 2, 2), 0, 2)
    with pytest.raises(TypeError, match=r"^mul\(\): argument 'other' \(position 1\) must be Tensor, not tuple"):
        CF.lp_pool1d(row(1, 2), 2, (2,))


def test_b63_clipped_windows() -> None:
    x = torch.ones(1, 1, 3, 3)
    assert CF.lp_pool2d(x, 1, 2, 2, ceil_mode=True).flatten().tolist() == [4, 4, 4, 4]
    assert CF.lp_pool2d(x, 1, 2, 2, ceil_mode=True, semantics="norm").flatten().tolist() == [4, 2, 2, 1]


def test_b64_gradient_at_zero_below_one() -> None:
    x = row(0, 1)
    assert gradient(lambda t: CF.lp_pool1d(t, 0.5, 2), x)[0, 0, 0].item() == INF
    assert gradient(lambda t: CF.lp_pool1d(t, 0.5, 2, semantics="norm"), x).tolist() == [[[0, 1]]]


@pytest.mark.parametrize("p", [1, 2, 3, 2.5, 0.5, -1, INF, -INF])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d)[6:])
def test_norm_neither_overflows_nor_vanishes(dtype: torch.dtype, p: float) -> None:
    """Windows of c and 2c have norms in proportion to c, whatever its size; gradients do not depend on c at all."""
    info = torch.finfo(dtype)
    for layout in (torch.contiguous_format, torch.channels_last):
        ones = torch.tensor([1.0, -2.0]).repeat(2, 17, 3, 2).to(dtype).contiguous(memory_format=layout)
        want = CF.lp_pool2d(ones.double(), p, 2, semantics="norm")
        slope = gradient(lambda t: CF.lp_pool2d(t, p, 2, semantics="norm"), ones.double())
        for exponent in (0, 40, -40, 63, -60, 120, -120):
            c = 2.0**exponent
            if not (info.smallest_normal * 64 < c < info.max / 64):
                continue
            y = CF.lp_pool2d(ones * c, p, 2, semantics="norm")
            # the norm of exact values, rounded; 8 roundings in between
            assert bool(((y.double() / c - want).abs() <= root_of_sum(want, 4, p, dtype)).all()), exponent
            g = gradient(lambda t: CF.lp_pool2d(t, p, 2, semantics="norm"), ones * c)
            allowed = 0 if abs(p) == INF else (2 + 2 * abs(p - 1)) * unit_roundoff(dtype) + 40 * 2.0**-24
            assert bool(((g - slope).abs() <= allowed * slope.abs()).all()), (exponent, g, slope)


def test_norm_in_half_precision() -> None:
    """B6.3: PyTorch's sum of squares overflows, which its semantics keep."""
    x = row(300, 300, dtype=torch.float16)
    assert CF.lp_pool1d(x, 2, 2).item() == F.lp_pool1d(x, 2, 2).item() == INF
    assert round(CF.lp_pool1d(x, 2, 2, semantics="norm").item()) == 424


@pytest.mark.parametrize("p", [1, 2, 3, 1.5, 0.5, -1, -2, INF, -INF])
def test_norm_gradients_are_finite(p: float) -> None:
    tiny, huge = torch.finfo(torch.float32).smallest_normal, 1e38
    values = [0.0, -0.0, tiny / 8, -tiny, 1e-20, 1.0, -3.0, 1e20, huge, -huge]
    x = torch.tensor([[[a, b] for a in values for b in values]]).view(1, 1, -1)
    g = gradient(lambda t: CF.lp_pool1d(t, p, 2, semantics="norm"), x)
    assert bool(g.isfinite().all())
    assert bool((g[x == 0] == 0).all())


def test_norm_of_infinite_and_undefined_elements() -> None:
    for p in (1, 2, 3, 2.5):
        assert CF.lp_pool1d(row(1, -INF), p, 2, semantics="norm").item() == INF
        assert CF.lp_pool1d(row(NAN, 1), p, 2, semantics="norm").isnan()
    assert CF.lp_pool1d(row(2, INF), -1, 2, semantics="norm").item() == 2
    assert CF.lp_pool1d(row(2, 0), -1, 2, semantics="norm").item() == 0


def test_limits_in_p() -> None:
    x = torch.randn(2, 3, 9, 10, dtype=torch.float64)
    top = CF.lp_pool2d(x, INF, 3, 2, semantics="norm")
    assert torch.equal(top, F.max_pool2d(x.abs(), 3, 2))
    # max <= y <= 9^(1/p) max
    y = CF.lp_pool2d(x, 200.0, 3, 2, semantics="norm")
    assert bool(((y >= top * (1 - 1e-15)) & (y <= top * 9 ** (1 / 200))).all())
    infinite = CF.lp_pool2d(x, torch.tensor(INF, dtype=torch.float64), 3, 2, semantics="norm")
    assert torch.equal(infinite, top)
    ties = gradient(lambda t: CF.lp_pool1d(t, INF, 3), row(-2, 2, 1))
    assert ties.tolist() == [[[-1, 0, 0]]]  # the first of equal elements
    assert torch.equal(CF.lp_pool2d(x, 1, 3, 2, semantics="norm"), CF.avg_pool2d(x.abs(), 3, 2, divisor_override=1))


@pytest.mark.parametrize("semantics", ["torch", "norm"])
def test_window_weights(semantics: str) -> None:
    """B8.1: uniform weights c scale by c^(1/p); a weight of 0 leaves its element out; p = inf knows zeros only."""
    x = torch.rand(2, 3, 9, 11, dtype=torch.float64) + 0.1
    for extra in ({}, {"padding": 1}, {"padding": 1, "ceil_mode": True}, {"dilation": 2, "padding": (1, 0)}):
        for p in (1, 2, 2.5, -1):
            plain = CF.lp_pool2d(x, p, 3, 2, semantics=semantics, **extra)
            w = torch.full((3, 3), 0.3, dtype=torch.float64)
            y = CF.lp_pool2d(x, p, 3, 2, weight=w, semantics=semantics, **extra)
            torch.testing.assert_close(y, plain * 0.3 ** (1 / p), rtol=64 * 2**-52, atol=0)
    w = torch.zeros(3, 3, dtype=torch.float64)
    w[1:, :2] = 1
    for p in (2, 3, INF, -INF):
        y = CF.lp_pool2d(x, p, 3, 2, weight=w, semantics=semantics)
        inner = CF.lp_pool2d(x[..., 1:, :-1], p, 2, 2, semantics=semantics)
        torch.testing.assert_close(y, inner, rtol=64 * 2**-52, atol=0)
    with pytest.raises(ValueError, match="shape of the window"):
        CF.lp_pool2d(x, 2, 3, weight=torch.ones(3))
    with pytest.raises(ValueError, match="must not be negative, but its least element is -1"):
        CF.lp_pool2d(x, 2, 2, weight=-torch.ones(2, 2))


def test_weighted_norm_does_not_overflow() -> None:
    w = torch.ones(2)
    for dtype, c in ((torch.float16, 300.0), (torch.float32, 1e30), (torch.float32, 1e-30)):
        y = CF.lp_pool1d(row(c, c, dtype=dtype), 4, 2, weight=w, semantics="norm")
        torch.testing.assert_close(y.item(), c * 2**0.25, rtol=4 * torch.finfo(dtype).eps, atol=0)


def test_padding_and_dilation() -> None:
    """B8.1: zero padding adds nothing, and dilation reads every second element."""
    x = torch.rand(2, 3, 8, 9, dtype=torch.float64)
    for semantics in ("torch", "norm"):
        y = CF.lp_pool2d(x, 3, 3, 2, padding=((1, 0), (0, 1)), semantics=semantics)
        torch.testing.assert_close(y, F.lp_pool2d(F.pad(x, (0, 1, 1, 0)), 3, 3, 2))
        y = CF.lp_pool1d(x[0], 2, 2, 1, dilation=3, semantics=semantics)
        torch.testing.assert_close(y, (x[0, ..., :-3] ** 2 + x[0, ..., 3:] ** 2).sqrt())


@pytest.mark.parametrize("p", [0.5, 0.3, 1, 1.5, 2, 3])
def test_windows_of_zeros_pass_nothing_on(p: float) -> None:
    """Below 1 the slope at 0 is infinite; how the gradient changes with dy, and forward mode, are 0 as PyTorch's."""
    x = torch.tensor([[[0.0, 0.0, 0.0, 1.0, 2.0]]], dtype=torch.float64).repeat(1, 2, 1).requires_grad_()
    seen = []
    for f in (CF.lp_pool1d, F.lp_pool1d, lambda *a: CF.lp_pool1d(*a, semantics="norm")):
        y = f(x, p, 2, 1)
        dy = torch.full_like(y, 1.5).requires_grad_()
        (dx,) = torch.autograd.grad(y, x, dy, create_graph=True)
        (ddy,) = torch.autograd.grad(dx, dy, torch.full_like(x, 0.5))
        _, tangent = torch.func.jvp(lambda t, f=f: f(t, p, 2, 1), (x.detach(),), (torch.full_like(x, 0.5),))
        seen.append((ddy, tangent))
    ours, theirs, norm = seen
    for a, b, c in zip(ours, theirs, norm):
        assert not a[..., :2].any() and not c[..., :2].any()
        torch.testing.assert_close(a, b if p <= 1 else b.nan_to_num())  # above 1 PyTorch's is 0 times infinity
        assert bool(c.isfinite().all())


@pytest.mark.parametrize("semantics", ["torch", "norm"])
@pytest.mark.parametrize("p", [1, 2, 3, 2.5, 1.5, -1])
@pytest.mark.parametrize("extra", [{}, {"padding": 1, "dilation": 2}, {"padding": 1, "ceil_mode": True}], ids=str)
def test_derivatives(semantics: str, p: float, extra: dict[str, Any]) -> None:
    if p < 0 and "padding" in extra and semantics == "torch":
        extra = {**extra, "padding": 0}  # a padded 0 to a negative power
    g = torch.Generator().manual_seed(0)
    x = torch.rand(1, 2, 5, 6, generator=g, dtype=torch.float64) + 0.2
    if semantics == "norm" or p in (1, 2):
        x = x * (torch.randint(0, 2, x.shape, generator=g) * 2 - 1)
    x.requires_grad_()

    def f(t: Tensor) -> Tensor:
        return CF.lp_pool2d(t, p, (3, 2), 2, semantics=semantics, **extra)

    assert gradcheck(f, (x,), check_forward_ad=True, check_batched_grad=True, fast_mode=True)
    assert gradgradcheck(f, (x,), check_fwd_over_rev=True, fast_mode=True)


@pytest.mark.parametrize("semantics", ["torch", "norm"])
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_derivatives_in_exponent_and_weights(semantics: str, weighted: bool) -> None:
    """B6.3, B8.1: p and the window's weights are learnable; in PyTorch's semantics, PyTorch's gradient."""
    g = torch.Generator().manual_seed(0)
    x = (torch.rand(1, 2, 5, 6, generator=g, dtype=torch.float64) + 0.2).requires_grad_()
    p = torch.tensor(2.3, dtype=torch.float64, requires_grad=True)
    w = (torch.rand(3, 2, generator=g, dtype=torch.float64) + 0.1).requires_grad_()

    def f(*t: Tensor) -> Tensor:
        weight = t[2] if weighted else None
        return CF.lp_pool2d(t[0], t[1], (3, 2), 2, True, padding=(1, 0), semantics=semantics, weight=weight)

    inputs = (x, p, w) if weighted else (x, p)
    assert gradcheck(f, inputs, check_forward_ad=True, fast_mode=True)
    assert gradgradcheck(f, inputs, fast_mode=True)
    if semantics == "torch" and not weighted:
        ours = torch.autograd.grad(CF.lp_pool2d(x, p, 3, 2).sum(), (x, p))
        theirs = torch.autograd.grad(F.lp_pool2d(x, p, 3, 2).sum(), (x, p))
        torch.testing.assert_close(ours, theirs)


def test_higher_derivatives_in_one_and_three_dimensions() -> None:
    for n in (1, 3):
        x = (torch.rand(1, 2, *(4,) * n, dtype=torch.float64) + 0.2).requires_grad_()
        f = getattr(CF, f"lp_pool{n}d")
        assert gradgradcheck(lambda t, f=f: f(t, 2.5, 2, 1), (x,), fast_mode=True)
    x = (torch.rand(1, 1, 5, dtype=torch.float64) + 0.2).requires_grad_()

    def third(t: Tensor) -> Tensor:
        (d,) = torch.autograd.grad(CF.lp_pool1d(t, 3, 3, 1).sum(), t, create_graph=True)
        return (torch.autograd.grad(d.pow(2).sum(), t, create_graph=True)[0] ** 2).sum()

    assert gradcheck(third, (x,), fast_mode=True)


def test_exponent_tensors() -> None:
    """B6.3: of one element they are read where they lie; others, and what promotes, PyTorch's composition takes."""
    x = torch.rand(2, 3, 7, 8) + 0.1
    for p in (torch.tensor(2), torch.tensor([3.0]), torch.tensor(2.5, dtype=torch.float64), torch.tensor(2.0).half()):
        torch.testing.assert_close(CF.lp_pool2d(x, p, 3, 2), F.lp_pool2d(x, p, 3, 2))
    for p in (torch.tensor([2.0], dtype=torch.float64), torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1)):
        torch.testing.assert_close(CF.lp_pool2d(x, p, 3, 2), F.lp_pool2d(x, p, 3, 2))
    with pytest.raises(ValueError, match="must have one element"):
        CF.lp_pool2d(x, torch.ones(3, 1, 1), 3, semantics="norm")


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.complex64], ids=str)
@pytest.mark.parametrize("p", [2, 2.0, 3, INF])
def test_other_dtypes_as_pytorch(dtype: torch.dtype, p: float) -> None:
    x = torch.randint(0, 5, (2, 3, 6, 7)).to(dtype)
    try:
        expected = F.lp_pool2d(x, p, 2)
    except (NotImplementedError, RuntimeError) as error:
        with pytest.raises(type(error)):
            CF.lp_pool2d(x, p, 2)
        return
    torch.testing.assert_close(CF.lp_pool2d(x, p, 2), expected)


INVALID: list[tuple[str, tuple[Any, ...]]] = [
    ("lp_pool2d", (2, (2, 2, 2))),
    ("lp_pool2d", (2, [2])),
    ("lp_pool3d", (2, (2, 2))),
    ("lp_pool2d", (2, 2.0)),
    ("lp_pool2d", (2, 0)),
    ("lp_pool2d", (2, 2, 0)),
    ("lp_pool2d", (2, 2, -1)),
    ("lp_pool2d", (2, 2, (1, 1, 1))),
    ("lp_pool2d", (2, 9)),
    ("lp_pool2d", (INF, 9)),
    ("lp_pool2d", (0, 9)),
    ("lp_pool2d", ("2", 2)),
    ("lp_pool2d", (2, 2, 1, 1)),
    ("lp_pool3d", (2, 9)),
    ("lp_pool1d", (2, 9)),
    ("lp_pool1d", (INF, 9)),
]


@pytest.mark.parametrize(("name", "arguments"), INVALID, ids=str)
def test_errors_are_pytorchs(name: str, arguments: tuple[Any, ...]) -> None:
    x = torch.ones(1, 2, *(5,) * int(name[-2]))
    with pytest.raises(Exception) as theirs:
        getattr(F, name)(x, *arguments)
    with pytest.raises(type(theirs.value)) as ours:
        getattr(CF, name)(x, *arguments)
    assert type(ours.value) is type(theirs.value)
    if not isinstance(theirs.value, TypeError):
        assert str(ours.value).startswith(str(theirs.value).split("\n")[0])


def test_own_errors() -> None:
    x = torch.ones(1, 1, 4, 4)
    with pytest.raises(ValueError, match="semantics must be one of"):
        CF.lp_pool2d(x, 2, 2, semantics="l2")
    with pytest.raises(RuntimeError, match="doesn't fit"):
        CF.lp_pool2d(x, 2, 3, 2, strict=True)
    with pytest.raises(RuntimeError, match="same device"):
        CF.lp_pool2d(x, torch.ones((), device="meta"), 2)
    with pytest.raises(TypeError, match="argument 'weight' must be Tensor"):
        CF.lp_pool2d(x, 2, 2, weight=[[1, 1], [1, 1]])


@pytest.mark.parametrize("n", [1, 2, 3])
def test_modules(n: int) -> None:
    x = torch.rand(2, 3, *(7,) * n)
    kind, base = getattr(convkit.nn, f"LPPool{n}d"), getattr(torch.nn, f"LPPool{n}d")
    ours, theirs = kind(2.5, 3, stride=2, ceil_mode=True), base(2.5, 3, stride=2, ceil_mode=True)
    assert repr(ours) == repr(theirs) and isinstance(ours, base) and not ours.state_dict()
    torch.testing.assert_close(ours(x), theirs(x))
    model = torch.nn.Sequential(base(2.0, 2))
    assert len(convkit.convert(model).replaced) == 1 and type(model[0]) is kind
    torch.testing.assert_close(model(x), base(2.0, 2)(x))
    assert len(convkit.revert(model).replaced) == 1 and type(model[0]) is base
    learned = kind(torch.nn.Parameter(torch.tensor(2.0)), 2, padding=1, semantics="norm")
    learned(x).sum().backward()
    assert learned.norm_type.grad is not None and "semantics=norm" in repr(learned)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_gaussian_windows(n: int) -> None:
    """B8.1: the weights fall off as exp(-t^2 / 2 sigma^2) from the centre and add up to 1."""
    module = getattr(convkit.nn, f"GaussianLPPool{n}d")(3, 0.8, stride=2, padding=1, dtype=torch.float64)
    line = torch.exp(-torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64) / (2 * 0.8**2))
    window = line
    for _ in range(n - 1):
        window = window[..., None] * line
    torch.testing.assert_close(module.weight, window / window.sum())
    assert list(module.state_dict()) == ["weight"] and not list(module.parameters())
    x = torch.randn(2, 4, *(8,) * n, dtype=torch.float64)
    sums = getattr(F, f"conv{n}d")(x.square(), (window / window.sum()).expand(4, 1, *window.shape), None, 2, 1, 1, 4)
    torch.testing.assert_close(module(x), sums.sqrt())
    ones = getattr(convkit.nn, f"GaussianLPPool{n}d")(3, 0.8, 5.0)(torch.ones(1, 1, *(3,) * n))
    torch.testing.assert_close(ones, torch.ones_like(ones))
    with pytest.raises(ValueError, match="sigma must be"):
        getattr(convkit.nn, f"GaussianLPPool{n}d")(3, 0)


@pytest.mark.parametrize("semantics", ["torch", "norm"])
def test_compiled(semantics: str) -> None:
    x = (torch.rand(2, 3, 9, 10) + 0.1).requires_grad_()
    p = torch.tensor(2.5, requires_grad=True)
    for exponent in (2, 2.5, p, INF):

        def f(t: Tensor, q: Any = exponent) -> Tensor:
            return CF.lp_pool2d(t, q, 3, 2, True, semantics=semantics)

        compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
        wanted = (x, p) if exponent is p else (x,)
        torch.testing.assert_close(compiled(x), f(x))
        for a, b in zip(torch.autograd.grad(compiled(x).sum(), wanted), torch.autograd.grad(f(x).sum(), wanted)):
            torch.testing.assert_close(a, b)


def test_deterministic_for_any_number_of_threads() -> None:
    x = torch.rand(3, 20, 60, 61).requires_grad_()
    torch.use_deterministic_algorithms(True)
    before = torch.get_num_threads()
    try:
        seen = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            y = CF.lp_pool2d(x, 2.5, 3, 2)
            seen.append((y, torch.autograd.grad(y.sum(), x)[0]))
        for y, g in seen[1:]:
            assert torch.equal(y, seen[0][0]) and torch.equal(g, seen[0][1])
    finally:
        torch.set_num_threads(before)
        torch.use_deterministic_algorithms(False)
