"""Batch normalisation's raw operations: the catalogue on every implementation, exact values, corners, NaN, PyTorch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from convkit import backends
from convkit.backends.base import Backend, Norm, NormSums
from convkit.problem import ACTIVATIONS
from convkit.testing.cases import ConvCase
from convkit.testing.layouts import LAYOUTS
from convkit.testing.norms import NORMS, WITH_STATISTICS, NormCase, alone, composed, norm_calls, stats_calls
from convkit.testing.oracle import Call, expect, mismatch, verify
from convkit.testing.tolerances import ACCUMULATE, PIECEWISE, gamma, unit_roundoff
from tests.test_raw_ops import FLOATING, assert_right, combinations, short

INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize(("case", "dtype", "layout"), combinations(NORMS))
def test_norm(case: NormCase, dtype: torch.dtype, layout: str, backend: Backend, reference: Backend) -> None:
    for call in norm_calls(case, dtype, layout):
        assert_right(call, backend, reference)


@pytest.mark.parametrize(("case", "dtype", "layout"), combinations(WITH_STATISTICS))
def test_convolution_with_statistics(
    case: ConvCase, dtype: torch.dtype, layout: str, backend: Backend, reference: Backend
) -> None:
    for call in stats_calls(case, dtype, layout):
        assert_right(call, backend, reference)


@pytest.mark.parametrize(
    ("dtype", "layout"),
    [(torch.float32, "contiguous"), (torch.float32, "channels_last"), (torch.bfloat16, "channels_last")],
)
def test_statistics_of_a_large_result(dtype: torch.dtype, layout: str, reference: Backend) -> None:
    """More than the caches hold: the CPU kernels take its images in groups, here of unlike sizes."""
    case = ConvCase("large", "", (5, 2, 250, 251), (11, 2, 1, 1))
    for call in stats_calls(case, dtype, layout):
        assert_right(call, backends.get("native"), reference)


@pytest.mark.parametrize(("case", "dtype", "layout"), combinations(NORMS))
def test_the_gradient_in_one_operation(
    case: NormCase, dtype: torch.dtype, layout: str, backend: Backend, reference: Backend
) -> None:
    """Its sums, and the gradients that follow from them."""
    _, _, of_sums, *gradients = norm_calls(case, dtype, layout)
    for call in gradients:
        dx, dresidual, *sums = alone(call, backend)
        given = call.replace(**dict(zip(("dbias", "dweight"), sums)))
        for right, got in zip(expect(of_sums, reference), sums):
            assert mismatch(got, right) is None, mismatch(got, right)
        for right, got in zip(expect(given, reference), (dx, dresidual)):
            if got is dx or call.arguments["with_residual"]:
                assert mismatch(got, right) is None, mismatch(got, right)
            else:
                assert got.numel() == 0


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=short)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_the_gradient_channel_by_channel(activation: str, layout: str, dtype: torch.dtype, threads: int) -> None:
    """More channels than one task takes, in tasks of several and of one, on any number of threads."""
    native, before = backends.get("native"), torch.get_num_threads()
    for size, residual in (((3, 250, 33, 37), True), ((11, 17, 60, 61), False)):
        calls = norm_calls(NormCase("by channels", "", size, activation, residual), dtype, layout)
        expected = [composed(call, native) for call in calls[3:]]
        torch.set_num_threads(threads)
        try:
            for call, right in zip(calls[3:], expected):
                assert_same(alone(call, native), right)
        finally:
            torch.set_num_threads(before)


def assert_same(results: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    """The same bits, where tensors are of one layout, and the same strides."""
    assert len(results) == len(expected) == 4
    for name, got, right in zip(("dx", "dresidual", "dbias", "dweight"), results, expected):
        torch.testing.assert_close(got, right, rtol=0, atol=0, equal_nan=True, msg=lambda m, n=name: f"{n}: {m}")
        assert got.stride() == right.stride(), name


def mixed(call: Call, layouts: tuple[str, ...]) -> Call:
    """The call with each of its large tensors in another layout."""
    names = [n for n in ("dz", "x", "residual") if call.arguments.get(n) is not None]
    return call.replace(**{n: LAYOUTS[layout](call.arguments[n]) for n, layout in zip(names, layouts)})


@pytest.mark.parametrize("name", ["relu_residual", "silu_residual", "relu_residual_3d", "channels_64", "plane_long"])
def test_operands_of_unlike_layouts(name: str, backend: Backend, reference: Backend) -> None:
    case = next(c for c in NORMS if c.name == name)
    for layouts in (
        ("contiguous", "channels_last", "sliced"),
        ("channels_last", "contiguous", "channels_last_sliced"),
        ("channels_last", "channels_last", "contiguous"),
        ("expanded_space", "channels_last", "channels_last"),
        ("width_slowest", "contiguous", "reversed"),
    ):
        for call in norm_calls(case, torch.float32)[1:]:
            for last in (False, True):
                changed = mixed(call, layouts)
                assert_right(
                    changed.replace(channels_last=last) if "channels_last" in changed.arguments else changed,
                    backend,
                    reference,
                )


@pytest.mark.parametrize("dtype", FLOATING, ids=short)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("activation", PIECEWISE, ids=lambda i: ACTIVATIONS[i])
def test_exact_values_at_the_corners(
    activation: int, layout: str, dtype: torch.dtype, backend: Backend, reference: Backend
) -> None:
    """Small integers, of which nothing is rounded before it is stored; many an activation is given exactly 0."""
    zeros = 0
    for name in ("relu_residual", "relu_constant", "channels_64", "width_17"):
        case = next(c for c in NORMS if c.name == name)
        calls = norm_calls(case, dtype, layout, exact=True)
        for call in calls[1:]:
            exact = call.replace(activation=activation)
            wide = {k: v.double() if isinstance(v, Tensor) else v for k, v in exact.arguments.items()}
            for result, expected in zip(exact.run(backend), Call(call.op, wide).run(reference)):
                assert torch.equal(result, expected.to(result.dtype)), f"{call.op} of {name}"
        zeros += int((calls[1].replace(activation=0).run(reference)[0] == 0).sum())
    assert zeros > 100


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=short)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_statistics_of_channels_far_from_zero(
    layout: str, dtype: torch.dtype, backend: Backend, reference: Backend
) -> None:
    """Where the mean is 1e4 standard deviations, E[x^2] - mean^2 has no correct digit in float32."""
    generator = torch.Generator().manual_seed(1)
    for size in ((3, 5, 2, 3), (2, 17, 11, 13), (1, 3, 1, 2), (4, 70, 5, 4)):
        x = torch.randn(size, generator=generator, dtype=torch.float64) + 1e4
        x[:, 0] -= 1e4
        x[:, 1] *= -1e-3
        call = Call("bn_stats", {"x": LAYOUTS[layout](x.to(dtype))})
        for expected, result in verify(call, backend, reference):
            assert mismatch(result, expected) is None


def test_statistics_with_an_outlier_first(backend: Backend, reference: Backend) -> None:
    """A shift by the first element is no better than none where that lies far from all others."""
    for layout in ("contiguous", "channels_last"):
        x = torch.randn(2, 20, 13, 7, generator=torch.Generator().manual_seed(2)) + 3
        x[0, :, 0, 0] = 1e4
        for expected, result in verify(Call("bn_stats", {"x": LAYOUTS[layout](x)}), backend, reference):
            assert mismatch(result, expected) is None


def test_statistics_that_are_not_finite(backend: Backend) -> None:
    for layout in ("contiguous", "channels_last"):
        x = torch.randn(2, 5, 6, 7, generator=torch.Generator().manual_seed(3))
        x[1, 1, 2, 3], x[0, 2, 0, 0], x[1, 3, 5, 6] = NAN, INF, -INF
        mean, var = backend.bn_stats(LAYOUTS[layout](x))
        assert mean.isfinite().tolist() == var.isfinite().tolist() == [True, False, False, False, True]
        assert mean.isnan().tolist()[1] and var.isnan().tolist()[1:4] == [True] * 3
    mean, var = backend.bn_stats(torch.empty(0, 3, 4, 5))
    assert mean.isnan().all() and var.isnan().all()
    mean, var = backend.bn_stats(torch.full((1, 3, 1, 1), 7.0))
    assert torch.equal(mean, torch.full((3,), 7.0)) and torch.equal(var, torch.zeros(3))


TORCH = {
    "identity": lambda v, alpha: v,
    "relu": lambda v, alpha: F.relu(v),
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "sigmoid": lambda v, alpha: torch.sigmoid(v),
    "tanh": lambda v, alpha: torch.tanh(v),
    "silu": lambda v, alpha: F.silu(v),
    "gelu": lambda v, alpha: F.gelu(v),
}


def arguments_of(case: NormCase, dtype: torch.dtype, layout: str) -> dict[str, Any]:
    return norm_calls(case, dtype, layout)[4].arguments


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_training_as_pytorch(layout: str, affine: bool, activation: str, backend: Backend) -> None:
    """A step of torch.nn.functional's batch norm, residual and activation in float64, forward and backward."""
    case = NormCase("pytorch", "", (3, 5, 4, 6), activation, residual=True, affine=affine)
    a = arguments_of(case, torch.float64, layout)
    x, residual = a["x"].clone().requires_grad_(), a["residual"].clone().requires_grad_()
    weight, bias = (t if t is None else t.clone().requires_grad_() for t in (a["weight"], a["bias"]))
    v = F.batch_norm(x, None, None, weight, bias, training=True, eps=1e-5) + residual
    z = TORCH[activation](v, case.alpha)
    leaves = [t for t in (x, residual, weight, bias) if t is not None]
    expected = torch.autograd.grad(z, leaves, a["dz"])
    with torch.no_grad():
        mean, var = backend.bn_stats(x)
        norm = Norm(mean, (var + 1e-5).rsqrt(), weight, bias, residual, ACTIVATIONS.index(activation), case.alpha)
        close = dict(rtol=1e-11, atol=1e-12)  # sums of 72 terms of order 1 in float64, amplified by 1 / std
        torch.testing.assert_close(backend.bn_act(x, norm, False), z, **close)
        dbias, dweight = backend.bn_act_bwd_reduce(a["dz"], x, norm)
        sums = NormSums(dbias, dweight, x.numel() // 5)
        dx, dresidual = backend.bn_act_bwd(a["dz"], x, norm, sums, True, False)
    for got, right in zip((dx, dresidual, dweight, dbias), expected):
        torch.testing.assert_close(got, right, **close)


SPECIAL = (0.0, -0.0, 1.0, -1.0, 30.0, -30.0, 90.0, -90.0, 200.0, -200.0, 1e-30, -1e-30, 3e38, -3e38, INF, -INF, NAN)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_special_values_as_pytorch(layout: str, activation: str, backend: Backend) -> None:
    """Large, infinite and missing values through every activation and its derivative: as PyTorch's of float64.

    Its float32 gelu of infinity is NaN, and its gradient of elu at NaN is NaN or not, by the place in a vector.
    """
    values = torch.tensor(SPECIAL, dtype=torch.float32)
    x = LAYOUTS[layout](values.view(1, 1, 1, -1).expand(2, 18, 2, -1).contiguous())
    dz = LAYOUTS[layout](torch.tensor([1.0, -2.0]).view(2, 1, 1, 1).expand_as(x).contiguous())
    one, zero, alpha = torch.ones(18), torch.zeros(18), 0.25
    norm = Norm(zero, one, activation=ACTIVATIONS.index(activation), alpha=alpha)
    leaf = x.double().requires_grad_()
    z = TORCH[activation](leaf, alpha)
    (slope,) = torch.autograd.grad(z, leaf, dz.double())
    if activation == "elu":
        slope = torch.where(x.isnan(), NAN, slope)
    tiny = 1e-37  # exp(90) is infinite in float32
    allowed = gamma(16, unit_roundoff(torch.float32))
    got = backend.bn_act(x, norm, layout == "channels_last")
    torch.testing.assert_close(got, z.detach().float(), rtol=allowed, atol=tiny, equal_nan=True)
    dx, g = backend.bn_act_bwd(dz, x, norm, NormSums(), True, layout == "channels_last")
    assert torch.equal(dx.nan_to_num(nan=7.0), g.nan_to_num(nan=7.0))
    torch.testing.assert_close(g, slope.float(), rtol=allowed, atol=2 * allowed, equal_nan=True)


def test_a_stopped_gradient_is_zero(backend: Backend) -> None:
    """Also an infinite one, and one that is not a number: as PyTorch's threshold."""
    x = -torch.ones(1, 2, 1, 20)
    dz = torch.tensor([INF, -INF, NAN, 1.0] * 5).expand_as(x)
    zero = torch.zeros(2)
    norm = Norm(zero, torch.ones(2), activation=ACTIVATIONS.index("relu"))
    for count in (0, 20):
        dx, g = backend.bn_act_bwd(dz, x, norm, NormSums(zero, zero, count), True, False)
        assert not dx.any() and not g.any()
    dbias, dweight = backend.bn_act_bwd_reduce(dz, x, norm)
    assert not dbias.any() and not dweight.any()


def test_constant_statistics_keep_infinities_apart(backend: Backend) -> None:
    """With count 0 nothing is taken from the gradient: an infinite x does not make it NaN."""
    x, norm = torch.full((1, 3, 2, 9), INF), Norm(torch.zeros(3), torch.ones(3), activation=ACTIVATIONS.index("relu"))
    dx, _ = backend.bn_act_bwd(torch.ones_like(x), x, norm, NormSums(), False, False)
    assert torch.equal(dx, torch.ones_like(x))


@pytest.mark.parametrize("dtype", FLOATING, ids=short)
def test_vectors_are_of_the_accumulate_type(dtype: torch.dtype, backend: Backend) -> None:
    call = norm_calls(NORMS[0], dtype)[2]
    wide = ACCUMULATE[dtype]
    assert {r.dtype for r in call.run(backend)} == {r.dtype for r in backend.bn_stats(call.arguments["x"])} == {wide}


def test_no_channels(backend: Backend) -> None:
    x, none = torch.zeros(2, 0, 3, 4), torch.zeros(0)
    norm = Norm(none, none, activation=ACTIVATIONS.index("relu"))
    assert [t.shape for t in backend.bn_stats(x)] == [(0,), (0,)]
    assert backend.bn_act(x, norm, False).shape == x.shape
    assert [t.shape for t in backend.bn_act_bwd_reduce(x, x, norm)] == [(0,), (0,)]
    assert backend.bn_act_bwd(x, x, norm, NormSums(none, none, 24), True, False)[1].shape == x.shape
    assert [t.shape for t in backend.bn_act_grad(x, x, norm, 24, True, False)] == [x.shape, x.shape, (0,), (0,)]
