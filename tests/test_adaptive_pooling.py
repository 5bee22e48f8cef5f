"""Adaptive average and max pooling by the contract: windows, errors in PyTorch's order, derivatives, layouts."""

from __future__ import annotations

import random
from math import prod
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._dynamo.testing import CompileCounter
from torch.autograd import gradcheck, gradgradcheck

import convkit
import convkit.functional as CF
from convkit.problem import adaptive_pool_spec, largest_window
from convkit.testing.layouts import LAYOUTS
from convkit.testing.tolerances import unit_roundoff

FLOATING = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
OPS = [f"adaptive_{kind}_pool{n}d" for kind in ("avg", "max") for n in (1, 2, 3)]
SIZES = {1: (11,), 2: (9, 10), 3: (5, 6, 7)}


def dims(op: str) -> int:
    return int(op[-2])


def values(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    """Small integers: ties in every window, and sums that no format rounds."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-4, 5, shape, generator=generator).to(dtype)


def assert_equal(ours: Tensor, theirs: Tensor) -> None:
    """Equal but for the rounding of divisions: PyTorch divides an average by each extent of its window in turn."""
    assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
    if not ours.dtype.is_floating_point:
        assert torch.equal(ours, theirs)
        return
    allowed = 5 * unit_roundoff(ours.dtype) * theirs.double().abs()
    error = (ours.double() - theirs.double()).abs()
    assert bool(((error <= allowed) | (ours.isnan() & theirs.isnan())).all())


# --- B6.1: windows ---------------------------------------------------------------------------------------------------


def test_b6_1_windows_start_and_end_where_the_formula_says() -> None:
    for length in range(1, 14):
        x = torch.arange(1.0, length + 1).view(1, 1, length)
        for out in range(1, 30):
            starts = [o * length // out for o in range(out)]
            ends = [-(-(o + 1) * length // out) for o in range(out)]
            means = [sum(range(a + 1, b + 1)) / (b - a) for a, b in zip(starts, ends)]
            assert CF.adaptive_avg_pool1d(x, out).flatten().tolist() == pytest.approx(means, rel=1e-6)
            y, indices = CF.adaptive_max_pool1d(x, out, return_indices=True)
            assert y.flatten().tolist() == [float(b) for b in ends]
            assert indices.flatten().tolist() == [b - 1 for b in ends]
            assert largest_window(length, out) == max(b - a for a, b in zip(starts, ends))


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("length, out", ((48, 1), (97, 2), (333, 5), (1000, 7), (1003, 16)))
def test_wide_windows_of_one_row(length: int, out: int, dtype: torch.dtype) -> None:
    """Several vectors each, with ends of every length, ties and values that hide among padding."""
    x = torch.randint(-3, 4, (3, 7, length)).to(dtype)
    x[0] = float("-inf")
    x[1, 0, length // 2] = x[1, 3, ::9] = float("nan")
    x[2, :, -1] = 9
    for plane in (x, x.unsqueeze(2).expand(-1, -1, 2, -1)):
        size: Any = out if plane.dim() == 3 else (2, out)
        pool = CF.adaptive_max_pool1d if plane.dim() == 3 else CF.adaptive_max_pool2d
        y, indices = pool(plane, size, return_indices=True)
        expected, places = getattr(F, pool.__name__)(plane, size, return_indices=True)
        assert torch.equal(indices, places)
        torch.testing.assert_close(y, expected, rtol=0, atol=0, equal_nan=True)
        torch.testing.assert_close(pool(plane, size), expected, rtol=0, atol=0, equal_nan=True)
    whole = x[2:]  # sums of small whole numbers are exact, in float16 too where they stay below 2048
    average = CF.adaptive_avg_pool1d(whole, out)
    torch.testing.assert_close(
        average, F.adaptive_avg_pool1d(whole.double(), out).to(dtype), rtol=2 * unit_roundoff(dtype), atol=0
    )


def test_a_global_average_does_not_lose_small_terms() -> None:
    x = torch.full((1, 1, 1500, 1500), 0.1)
    terms = 1024 + 1500 * 1500 // (1024 * 4) + 4  # of a lane, of sums of lanes where vectors are shortest, and lanes
    mean = CF.adaptive_avg_pool2d(x, 1)
    torch.testing.assert_close(mean, x[..., :1, :1], rtol=terms * unit_roundoff(torch.float32), atol=0)


@pytest.mark.parametrize("output_size", (2, 7))
def test_one_graph_for_sizes_of_every_kind(output_size: int) -> None:
    """Whether output_size divides a length is not to be decided when a graph is made."""
    counter = CompileCounter()
    compiled = torch.compile(convkit.nn.AdaptiveAvgPool2d(output_size), backend=counter, dynamic=True)
    for size in ((16, 21), (17, 24), (14, 14), (28, 30), (33, 35)):
        x = torch.randn(2, 3, *size)
        assert torch.equal(compiled(x), CF.adaptive_avg_pool2d(x, output_size))
    assert counter.frame_count == 1
    free = torch.export.Dim.DYNAMIC
    for layer in (convkit.nn.AdaptiveAvgPool2d(output_size), convkit.nn.AdaptiveMaxPool2d(output_size)):
        exported = torch.export.export(
            layer, (torch.randn(2, 3, 16, 21),), dynamic_shapes=({0: free, 2: free, 3: free},)
        )
        x = torch.randn(5, 3, 17, 28)
        assert torch.equal(exported.module()(x), layer(x))


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("op", OPS)
def test_b6_1_equals_pytorch(op: str, dtype: torch.dtype) -> None:
    rng = random.Random(f"{op} {dtype}")
    for trial in range(40):
        size = tuple(rng.randint(1, 20 if dims(op) < 3 else 9) for _ in range(dims(op)))
        out = tuple(rng.choice((1, 2, 3, n, rng.randint(1, 24 if dims(op) < 3 else 8))) for n in size)
        x = values((rng.randint(1, 3), rng.choice((1, 3, 17)), *size), dtype, trial)
        layout = LAYOUTS[rng.choice(list(LAYOUTS))]
        x = layout(x)
        if rng.random() < 0.2:
            x = x[0]
        ours, theirs = x.detach().clone().requires_grad_(), x.detach().clone().requires_grad_()
        a, b = getattr(CF, op)(ours, out), getattr(F, op)(theirs, out)
        assert_equal(a, b)
        dy = values(tuple(a.shape), dtype, trial + 1)
        a.backward(dy)
        b.backward(dy)
        assert ours.grad is not None and theirs.grad is not None
        if "max" in op:
            assert_equal(ours.grad, theirs.grad)
            for i, j in zip(getattr(CF, op)(x, out, True), getattr(F, op)(x, out, True)):
                assert_equal(i, j)
        elif dtype in (torch.float32, torch.float64):  # half precision: PyTorch rounds after every addition
            windows = prod(largest_window(m, n) for m, n in zip(out, size))  # that read an element, each with at most 4
            bound = 2 * (windows + 1) * unit_roundoff(dtype) * 4 * windows
            assert float((ours.grad - theirs.grad).abs().max()) <= bound


@pytest.mark.parametrize("op", [op for op in OPS if "3d" in op or "2d" in op])
def test_b6_1_none_keeps_a_dimension(op: str) -> None:
    x = torch.rand(2, 3, *SIZES[dims(op)])
    for place in range(dims(op)):
        size: list[Any] = [2] * dims(op)
        size[place] = None
        assert torch.equal(getattr(CF, op)(x, size), getattr(CF, op)(x, [n or x.shape[2 + place] for n in size]))
        assert getattr(CF, op)(x, size).shape[2 + place] == x.shape[2 + place]
    nothing = (None,) * dims(op)
    assert torch.equal(getattr(CF, op)(x, nothing), x)


@pytest.mark.parametrize("op", OPS)
def test_b6_1_an_output_without_elements(op: str) -> None:
    x = torch.rand(2, 3, *SIZES[dims(op)], requires_grad=True)
    for size in ([0] * dims(op), [2] * (dims(op) - 1) + [0], [0] + [2] * (dims(op) - 1)):
        ours, theirs = getattr(CF, op)(x, size), getattr(F, op)(x, size)
        assert ours.shape == theirs.shape
        (dx,) = torch.autograd.grad(ours.sum(), x)
        assert torch.equal(dx, torch.zeros_like(x))
        if "max" in op:
            assert getattr(CF, op)(x, size, True)[1].shape == theirs.shape


@pytest.mark.parametrize("op", OPS)
def test_b6_1_batch_0_and_channels_0(op: str) -> None:
    size = SIZES[dims(op)]
    for shape in ((0, 3, *size), (0, *size)):
        assert getattr(CF, op)(torch.rand(shape), 2).shape == getattr(F, op)(torch.rand(shape), 2).shape
    if op in ("adaptive_avg_pool1d", "adaptive_avg_pool2d"):
        assert getattr(CF, op)(torch.rand(2, 0, *size), 2).shape == (2, 0, *(2,) * dims(op))


@pytest.mark.parametrize("op", OPS)
def test_b6_1_ties_infinities_and_nan(op: str) -> None:
    if "avg" in op:
        return
    rng = random.Random(op)
    for trial in range(30):
        size = tuple(rng.randint(2, 8) for _ in range(dims(op)))
        out = tuple(rng.randint(1, 5) for _ in size)
        x = values((2, 17, *size), torch.float32, trial)
        x = torch.where(x < -2, float("nan") if trial % 3 == 0 else float("-inf"), x)
        if trial % 5 == 0:
            x.fill_(float("-inf"))
        for layout in LAYOUTS.values():
            y, indices = getattr(CF, op)(layout(x), out, return_indices=True)
            expected, places = getattr(F, op)(layout(x), out, return_indices=True)
            assert torch.equal(y.nan_to_num(nan=7), expected.nan_to_num(nan=7))
            assert torch.equal(indices, places)


@pytest.mark.parametrize("op", [op for op in OPS if "1d" not in op])
def test_b6_1_channels_last_is_kept(op: str) -> None:
    form = torch.channels_last if dims(op) == 2 else torch.channels_last_3d
    x = torch.rand(2, 5, *SIZES[dims(op)]).to(memory_format=form).requires_grad_()
    for out in (3, 1, SIZES[dims(op)]):
        y = getattr(CF, op)(x, out)
        assert y.is_contiguous(memory_format=form)
        (dx,) = torch.autograd.grad(y.sum(), x)
        assert dx.is_contiguous(memory_format=form)
        if "max" in op:
            assert getattr(CF, op)(x, out, True)[1].is_contiguous(memory_format=form)


# --- errors and dtypes -----------------------------------------------------------------------------------------------


def outcome(function: Any, *arguments: Any, **options: Any) -> Any:
    try:
        result = function(*arguments, **options)
    except Exception as error:
        return type(error), str(error).split("\n")[0]
    return result.shape if isinstance(result, Tensor) else tuple(r.shape for r in result)


@pytest.mark.parametrize("op", OPS)
def test_errors_are_pytorchs_in_pytorchs_order(op: str) -> None:
    n = dims(op)
    sizes: list[Any] = [None, (None,) * n, (4,) * (n + 1), (4,), (-1,) * n, -2, 2.5, (2.0,) * n, "a", (), [3] * n]
    sizes += [True, torch.tensor(3), 0, (3,) * (n - 1) + (-1,), (2,) * (n - 1) + ("x",), torch.Size([2] * n), 2**40]
    shapes = [(2, 3, *SIZES[n]), (3, *SIZES[n]), SIZES[n], (1, 2, 3, *SIZES[n])]
    shapes += [(2, 0, *SIZES[n]), (2, 3, *SIZES[n][:-1], 0), (2, 3, 0, *SIZES[n][1:]), (0, 3, *SIZES[n])]
    for shape in shapes:
        for size in sizes:
            if size == 2**40 or (size == (1,) * n):
                continue  # more memory than there is
            theirs = outcome(getattr(F, op), torch.rand(shape), size)
            ours = outcome(getattr(CF, op), torch.rand(shape), size)
            where = (op, shape, size, ours, theirs)
            if isinstance(theirs, tuple) and isinstance(theirs[0], type):
                assert isinstance(ours, tuple) and ours[0] is theirs[0], where
                assert ours[1].startswith(theirs[1]), where
            else:
                assert ours == theirs, where


@pytest.mark.parametrize("op", OPS)
def test_dtypes_are_pytorchs(op: str) -> None:
    kinds = (torch.int64, torch.int32, torch.uint8, torch.bool, torch.complex64, torch.complex128, *FLOATING)
    for dtype in kinds:
        for size in (1, 3):
            x = torch.ones(2, 3, *SIZES[dims(op)]).to(dtype)
            theirs, ours = outcome(getattr(F, op), x, size), outcome(getattr(CF, op), x, size)
            if isinstance(theirs, tuple) and isinstance(theirs[0], type):
                assert ours[0] is theirs[0] and ours[1].startswith(theirs[1]), (dtype, ours, theirs)
            else:
                assert ours == theirs, (dtype, size)
                results = [getattr(functional, op)(x, size) for functional in (CF, F)]
                assert_equal(*[torch.view_as_real(y) if x.is_complex() else y for y in results])


def test_what_is_no_tensor_and_what_is_beyond_the_processor() -> None:
    with pytest.raises(TypeError, match=r"argument 'input' \(position 1\) must be Tensor, not list"):
        CF.adaptive_avg_pool2d([1.0], 2)
    with pytest.raises(RuntimeError, match="largest of 2 adaptive windows over 5 elements"):
        spec = adaptive_pool_spec((5,), (2,))._replace(kernel_size=(4,))
        convkit.backends.get("native").avg_pool(torch.rand(1, 1, 5), spec, False)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", ["max_pool", "avg_pool", "adaptive_avg_pool", "adaptive_max_pool"])
def test_autocast_computes_in_the_dtype_that_pytorch_does(kind: str, dtype: torch.dtype) -> None:
    for n in (1, 2, 3):
        x = torch.rand(2, 3, *SIZES[n]).to(dtype)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            ours, theirs = getattr(CF, f"{kind}{n}d")(x, 2), getattr(F, f"{kind}{n}d")(x, 2)
        assert ours.dtype == theirs.dtype


# --- derivatives -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("size", [3, 12], ids=["fewer", "more"])
def test_derivatives(op: str, size: int) -> None:
    shape = (2, 2, *(n - 1 for n in SIZES[dims(op)]))
    if dims(op) == 3:
        shape = (1, 2, 3, 4, 5)
    out = tuple(min(size, 2 * n - 1) for n in shape[2:])
    count = int(torch.Size(shape).numel())
    x = torch.randperm(count, generator=torch.Generator().manual_seed(0)).double().view(shape).requires_grad_()

    def pool(t: Tensor) -> Tensor:
        result: Tensor = getattr(CF, op)(t, out)
        return result

    assert gradcheck(pool, (x,), fast_mode=True, check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(pool, (x,), fast_mode=True)
    batched = torch.func.vmap(pool)(torch.stack([x, 2 * x]).detach())
    assert torch.equal(batched, torch.stack([pool(x), pool(2 * x)]))


def test_deterministic_algorithms_are_no_obstacle() -> None:
    torch.use_deterministic_algorithms(True)
    try:
        for op in OPS:
            x = torch.rand(2, 3, *SIZES[dims(op)], requires_grad=True)
            getattr(CF, op)(x, 3).sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)


# --- torch.compile, modules, conversion ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["avg", "max"])
def test_one_graph_compiles_forward_and_backward(kind: str) -> None:
    def pool(x: Tensor) -> Tensor:
        return getattr(CF, f"adaptive_{kind}_pool2d")(x, (3, 4)) * 2

    compiled = torch.compile(pool, fullgraph=True, backend="aot_eager")
    x = torch.rand(2, 3, 8, 10, requires_grad=True)
    expected, got = pool(x), compiled(x)
    assert torch.equal(got, expected) and got.stride() == expected.stride()
    (a,), (b,) = torch.autograd.grad(expected.sum(), x), torch.autograd.grad(got.sum(), x)
    assert torch.equal(a, b)


def test_dynamic_sizes_share_graphs() -> None:
    counter = CompileCounter()
    compiled = torch.compile(lambda x: CF.adaptive_avg_pool2d(x, 3), fullgraph=True, dynamic=True, backend=counter)
    for size in (10, 13, 16, 19, 22, 25):  # one more than a multiple of 3
        x = torch.rand(2, 3, size, size)
        assert torch.equal(compiled(x), CF.adaptive_avg_pool2d(x, 3))
    assert counter.frame_count == 1
    for size in (9, 12, 11, 14):
        x = torch.rand(2, 3, size, size)
        assert torch.equal(compiled(x), CF.adaptive_avg_pool2d(x, 3))


@pytest.mark.parametrize("name", [f"Adaptive{kind}Pool{n}d" for kind in ("Avg", "Max") for n in (1, 2, 3)])
def test_modules(name: str) -> None:
    n = int(name[-2])
    x = values((2, 3, *SIZES[n]), torch.float32, 0)
    theirs, ours = getattr(torch.nn, name)(3), getattr(convkit.nn, name)(3)
    assert repr(ours) == repr(theirs) and isinstance(ours, type(theirs))
    assert repr(getattr(convkit.nn, name)(3, backend="reference")) == f"{name}(output_size=3, backend=reference)"
    assert_equal(ours(x), theirs(x))
    if "Max" in name:
        ours, theirs = getattr(convkit.nn, name)(2, True), getattr(torch.nn, name)(2, True)
        assert all(torch.equal(a, b) for a, b in zip(ours(x), theirs(x)))


def test_convert_takes_the_head_of_a_network() -> None:
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1),
        torch.nn.AdaptiveMaxPool2d((5, 6)),
        torch.nn.AdaptiveAvgPool2d((1, 1)),
        torch.nn.Flatten(),
        torch.nn.Linear(8, 2),
    )
    x = torch.rand(2, 3, 11, 13)
    expected = model(x)
    report = convkit.convert(model)
    assert [layer.layer for layer in report.replaced] == ["Conv2d", "AdaptiveMaxPool2d", "AdaptiveAvgPool2d"]
    assert type(model[2]) is convkit.nn.AdaptiveAvgPool2d
    torch.testing.assert_close(model(x), expected)
    convkit.revert(model)
    assert type(model[1]) is torch.nn.AdaptiveMaxPool2d
