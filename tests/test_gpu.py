"""The GPU kernels behind torch: every case of the catalogue, gradients, streams, graphs, devices and large tensors.

Each test runs on a GPU (``pytest -m gpu``) and, with a few cases, on the emulator, which test_simt.py gives the whole
catalogue.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

import convkit
from convkit import backends
from convkit.autograd.conv import convolution, transposed_convolution
from convkit.autograd.pool import average_pooling, max_pooling
from convkit.backends.base import Backend
from convkit.backends.native import Native
from convkit.problem import ConvSpec, PoolSpec, pack_conv, pack_pool
from convkit.testing.catalogue import CONVOLUTIONS, POOLS, TRANSPOSED
from convkit.testing.flat import FRACTIONAL, INDICES, fractional_calls, index_calls
from convkit.testing.norms import NORMS, WITH_STATISTICS, norm_calls, stats_calls
from convkit.testing.oracle import Call, conv_calls, data, pool_calls, transposed_calls
from tests.places import Place, filled_memory, move
from tests.test_autograd import CONVOLUTIONS as SMALL_CONVOLUTIONS
from tests.test_autograd import POOLS as SMALL_POOLS
from tests.test_autograd import conv_inputs, leaf
from tests.test_raw_ops import assert_right, combinations

PLACES = [pytest.param("cuda", marks=pytest.mark.gpu), "simt"]
CPU = torch.device("cpu")
ON_EMULATOR = 60  # one combination in so many


@pytest.fixture
def place(request: pytest.FixtureRequest, exact_float32: None) -> Place:
    chosen = Place(request.param)
    if (reason := chosen.refusal()) is not None:
        pytest.skip(reason)
    return chosen


everywhere = pytest.mark.parametrize("place", PLACES, indirect=True)


def catalogue(cases: tuple[Any, ...]) -> Any:
    """All combinations of case, dtype and layout on a GPU, some on the emulator."""
    parameters = combinations(cases)
    chosen = [pytest.param("cuda", *p.values, id=f"cuda-{p.id}", marks=pytest.mark.gpu) for p in parameters]
    chosen += [pytest.param("simt", *p.values, id=f"simt-{p.id}") for p in parameters[::ON_EMULATOR]]
    return pytest.mark.parametrize(("place", "case", "dtype", "layout"), chosen, indirect=["place"])


def check(calls: list[Call], place: Place, reference: Backend) -> None:
    for call in calls:
        if place.supports(call.op, call.dtype):  # all others are the reference's
            assert_right(call, place.from_cpu, reference)


@catalogue(CONVOLUTIONS)
def test_convolution(place: Place, case: Any, dtype: torch.dtype, layout: str, reference: Backend) -> None:
    check(conv_calls(case, dtype, layout), place, reference)


@catalogue(TRANSPOSED)
def test_transposed(place: Place, case: Any, dtype: torch.dtype, layout: str, reference: Backend) -> None:
    check(transposed_calls(case, dtype, layout), place, reference)


@catalogue(POOLS)
def test_pool(place: Place, case: Any, dtype: torch.dtype, layout: str, reference: Backend) -> None:
    check(pool_calls(case, dtype, reference, layout), place, reference)


@catalogue(INDICES)
def test_flat_indices(place: Place, case: Any, dtype: torch.dtype, layout: str, reference: Backend) -> None:
    check(index_calls(case, dtype, layout), place, reference)


@catalogue(FRACTIONAL)
def test_fractional_pool(place: Place, case: Any, dtype: torch.dtype, layout: str, reference: Backend) -> None:
    check(fractional_calls(case, dtype, layout) + fractional_calls(case, dtype, layout, exact=True), place, reference)


@catalogue(NORMS)
def test_norm(place: Place, case: Any, dtype: torch.dtype, layout: str, reference: Backend) -> None:
    check(norm_calls(case, dtype, layout), place, reference)


@catalogue(WITH_STATISTICS)
def test_statistics(place: Place, case: Any, dtype: torch.dtype, layout: str, reference: Backend) -> None:
    check(stats_calls(case, dtype, layout), place, reference)


@everywhere
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_every_named_algorithm(place: Place, dtype: torch.dtype, reference: Backend) -> None:
    """An algorithm named by its number runs and is right, or refuses with words."""
    cases = CONVOLUTIONS if place.is_gpu else CONVOLUTIONS[::ON_EMULATOR]
    assert isinstance(place.backend, Native)
    ran = set()
    for name in place.backend.algorithms_of(place.device.type):
        number = place.backend.algorithms().index(name) + 1
        for case in cases:
            for layout in ("contiguous", "channels_last"):
                for call in conv_calls(case, dtype, layout)[:4]:
                    named = call.replace(spec=case.spec._replace(algorithm=number))
                    try:
                        named.run(place.from_cpu)
                    except RuntimeError as refusal:
                        assert "convkit: " in str(refusal)
                        continue
                    assert_right(named, place.from_cpu, reference)
                    ran.add(name)
    assert "conv_direct" in ran


# --- derivatives --------------------------------------------------------------------------------------------------


def leaves(place: Place, *tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(move(t.detach(), place.device).requires_grad_() for t in tensors)


@everywhere
@pytest.mark.parametrize("case", SMALL_CONVOLUTIONS)
def test_derivatives_of_convolution(place: Place, case: str) -> None:
    x, w, bias, spec = conv_inputs(case)
    size = SMALL_CONVOLUTIONS[case][0]
    with place.chosen():
        y = convolution(x, w, bias, spec, "reference").detach()
        name = place.backend.name

        def run(x: Tensor, w: Tensor, bias: Tensor) -> Tensor:
            return convolution(x, w, bias, spec, name)

        def transposed(y: Tensor, w: Tensor, bias: Tensor) -> Tensor:
            return transposed_convolution(y, w, bias, size, spec, name)

        for function, arguments in ((run, leaves(place, x, w, bias)), (transposed, leaves(place, y, w, leaf(2)))):
            assert gradcheck(function, arguments, fast_mode=True)
            assert gradgradcheck(function, arguments, fast_mode=True)


@everywhere
@pytest.mark.parametrize("pool", [max_pooling, average_pooling])
@pytest.mark.parametrize("case", SMALL_POOLS)
def test_derivatives_of_pooling(place: Place, case: str, pool: Callable[..., Any]) -> None:
    size, spec = SMALL_POOLS[case]
    with place.chosen():

        def run(x: Tensor) -> Tensor:
            y = pool(x, spec, backend=place.backend.name)
            return y[0] if isinstance(y, tuple) else y

        (x,) = leaves(place, leaf(2, 2, *size))
        assert gradcheck(run, (x,), fast_mode=True) and gradgradcheck(run, (x,), fast_mode=True)


def network(x: Tensor, w: Tensor, bias: Tensor) -> Tensor:
    """A layer of each kind, through the functions that users call."""
    f = convkit.functional
    y = f.max_pool2d(f.conv2d(x, w, bias, padding=1), 3, 2, 1)
    return f.avg_pool2d(f.conv_transpose2d(y, w, None, stride=2), 2)


def arguments(dtype: torch.dtype) -> list[Tensor]:
    shapes = {"x": (2, 8, 9, 10), "w": (8, 8, 3, 3), "bias": (8,)}
    return [data(shape, dtype, name) for name, shape in shapes.items()]


def gradients(tensors: Any) -> tuple[Tensor, ...]:
    inputs = [t.detach().requires_grad_() for t in tensors]
    y = network(*inputs)
    return (y.detach(), *torch.autograd.grad(y.square().sum(), inputs))


@everywhere
@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
def test_the_functions_of_users(place: Place, last: bool) -> None:
    """As on the CPU in float64, where the order of terms makes no difference of 1e-11 in sums of 10^3 products."""
    inputs = arguments(torch.float64)
    with convkit.backend("reference"):
        expected = gradients(inputs)
    if last:
        inputs[0] = inputs[0].to(memory_format=torch.channels_last)
    with place.chosen():
        got = gradients([move(t, place.device) for t in inputs])
    assert got[0].is_contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
    for result, right in zip(got, expected):
        assert result.device == place.device
        torch.testing.assert_close(result.cpu(), right, rtol=1e-11, atol=1e-11 * float(right.abs().max()))


@pytest.mark.gpu
@pytest.mark.parametrize("place", ["cuda"], indirect=True)
def test_a_gpu_runs_native_kernels_by_default(place: Place) -> None:
    x, w = torch.ones(1, 2, 5, 5, device=place.device), torch.ones(3, 2, 3, 3, device=place.device)
    assert [c.backend for c in convkit.explain(convkit.functional.conv2d, x, w).choices] == ["native"]
    assert backends.resolve("conv_fprop", torch.int32, place.device).name == "reference"


# --- order, streams, graphs -----------------------------------------------------------------------------------------


def calls_of_each_kind(dtype: torch.dtype, reference: Backend) -> list[Call]:
    convolution_ = next(c for c in CONVOLUTIONS if c.name == "unequal_2d")
    pooling = next(c for c in POOLS if len(c.input) == 4)
    calls = conv_calls(convolution_, dtype) + conv_calls(convolution_, dtype, "channels_last")
    calls += pool_calls(pooling, dtype, reference) + index_calls(INDICES[0], dtype)
    normalised = next(c for c in NORMS if c.name == "relu_residual")
    calls += norm_calls(normalised, dtype) + norm_calls(normalised, dtype, "channels_last")
    return calls + fractional_calls(FRACTIONAL[0], dtype)


@everywhere
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_same_bits_every_time(place: Place, dtype: torch.dtype, reference: Backend) -> None:
    ran = set()
    for call in calls_of_each_kind(dtype, reference):
        if not place.supports(call.op, call.dtype):
            continue
        first, second = call.run(place.from_cpu), call.run(place.from_cpu)
        assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(first, second)), call.op
        ran.add(call.op)
    assert {"conv_fprop", "conv_dgrad", "conv_wgrad", "conv_bgrad", "max_pool", "avg_pool_bwd"} <= ran


def on_device(call: Call, place: Place) -> Call:
    return call.replace(**{n: move(a, place.device) for n, a in call.arguments.items() if isinstance(a, Tensor)})


def zeroed(call: Call) -> Call:
    """The call with other memory for its data, all zero for now."""
    return call.replace(
        **{n: torch.zeros_like(a) for n, a in call.arguments.items() if isinstance(a, Tensor) and a.is_floating_point()}
    )


def fill(call: Call, source: Call) -> None:
    for name, tensor in call.arguments.items():
        if isinstance(tensor, Tensor) and tensor.is_floating_point():
            tensor.copy_(source.arguments[name])


@everywhere
def test_the_current_stream(place: Place, reference: Backend) -> None:
    """What is launched there reads what was written there before, late as that may be."""
    for call in calls_of_each_kind(torch.float32, reference):
        if not place.supports(call.op, call.dtype):
            continue
        ready = on_device(call, place)
        expected = ready.run(place.backend)
        late = zeroed(ready)
        place.wait()
        with place.other_stream():
            place.delay()
            fill(late, ready)
            results = late.run(place.backend)
        place.wait()
        assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(results, expected)), call.op


@everywhere
def test_capture_and_replay(place: Place, reference: Backend) -> None:
    """A captured call computes anew from what its inputs hold at the replay."""
    for call in calls_of_each_kind(torch.float32, reference):
        if not place.supports(call.op, call.dtype):
            continue
        ready = on_device(call, place)
        expected = ready.run(place.backend)
        changing = zeroed(ready)
        replay, results = place.captured(lambda changing=changing: changing.run(place.backend))
        for _ in range(2):
            fill(changing, ready)
            replay()
            place.wait()
            assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(results, expected)), call.op


@everywhere
def test_a_step_of_training_is_captured(place: Place) -> None:
    """Forward and backward through autograd, workspaces included."""
    inputs = [move(t, place.device) for t in arguments(torch.float32)]
    with place.chosen():
        expected = gradients(inputs)
        changing = [torch.zeros_like(t) for t in inputs]
        replay, results = place.captured(lambda: gradients(changing))
        for tensor, value in zip(changing, inputs):
            tensor.copy_(value)
        replay()
    place.wait()
    assert all(torch.equal(a, b) for a, b in zip(results, expected))


@pytest.mark.gpu
@pytest.mark.parametrize("place", ["cuda"], indirect=True)
def test_memory_comes_from_torch_and_goes_back(place: Place, reference: Backend) -> None:
    for call in calls_of_each_kind(torch.float32, reference):
        if place.supports(call.op, call.dtype):
            ready = on_device(call, place)
            before = torch.cuda.memory_allocated(place.device)
            results = ready.run(place.backend)
            assert torch.cuda.memory_allocated(place.device) > before
            del results
            assert torch.cuda.memory_allocated(place.device) == before, call.op


# --- devices --------------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("place", ["cuda"], indirect=True)
def test_a_second_gpu(place: Place, reference: Backend) -> None:
    """Tensors elsewhere than on the current device: results lie beside them, and the current device stays."""
    if torch.cuda.device_count() < 2:
        pytest.skip("tensors on another than the current GPU: there is one only")
    place.device = torch.device("cuda", 1)
    place.from_cpu._device = place.device
    with torch.cuda.device(0):
        for call in calls_of_each_kind(torch.float32, reference):
            if place.supports(call.op, call.dtype):
                assert_right(call, place.from_cpu, reference)
                assert torch.cuda.current_device() == 0


@pytest.mark.gpu
@pytest.mark.parametrize("place", ["cuda"], indirect=True)
def test_tensors_of_several_devices_are_refused(place: Place) -> None:
    x, w, bias = torch.ones(1, 2, 5), torch.ones(3, 2, 3), torch.ones(3)
    spec = pack_conv(ConvSpec((1,), (0,), (0,), (1,)), False)
    fprop = torch.ops.convkit.conv_fprop
    x_there, w_there = x.to(place.device), w.to(place.device)
    for tensors in ((x_there, w, None), (x, w_there, None), (x_there, w_there, bias)):
        with pytest.raises(RuntimeError, match=r"same device.* cuda:0"):
            fprop(*tensors, None, None, spec, 0.0)
    with pytest.raises(RuntimeError, match="same device"):
        convkit.functional.conv1d(x_there, w)
    packed = pack_pool(PoolSpec((2,), (1,), (0,), (0,), (1,)), False)
    with pytest.raises(RuntimeError, match="same device"):
        torch.ops.convkit.pool_select(x_there, torch.zeros(1, 2, 4, dtype=torch.uint8), packed)


@everywhere
def test_what_has_no_kernel_is_refused_with_words(place: Place) -> None:
    x = torch.ones(1, 2, 5, dtype=torch.int32, device=place.device)
    spec = ConvSpec((1,), (0,), (0,), (1,))
    with pytest.raises(RuntimeError, match="convkit"):
        place.backend.conv_fprop(x, x, None, None, None, spec, False)


# --- size -----------------------------------------------------------------------------------------------------------


@everywhere
@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
def test_more_elements_than_32_bits_count(place: Place, last: bool, reference: Backend) -> None:
    """The last images are right where those before them hold 2^31 elements (on the emulator: a few)."""
    few, shape = 3, (4, 64, 64) if place.is_gpu else (4, 6, 6)
    images = 2**31 // (4 * 64 * 64) + few if place.is_gpu else 2 * few
    if place.is_gpu and torch.cuda.mem_get_info(place.device)[0] < 40e9:
        pytest.skip("a tensor of more than 2^31 elements and its result take 40 GB of GPU memory: less is free")
    format_ = torch.channels_last if last else torch.contiguous_format
    values = data((few, *shape), torch.bfloat16, "images").to(memory_format=format_)
    w = data((4, 4, 3, 3), torch.bfloat16, "w")
    x = torch.empty((images, *shape), dtype=torch.bfloat16, device=place.device, memory_format=format_).zero_()
    x[-few:] = values.to(place.device)
    ones, twos = (1, 1), (2, 2)
    conv, pool = ConvSpec(ones, ones, ones, ones), PoolSpec(twos, twos, (0, 0), (0, 0), ones)
    plain: dict[str, Any] = {"bias": None, "scale": None, "residual": None, "spec": conv, "channels_last": last}
    pooled = {"spec": pool, "channels_last": last}
    for op, name, rest in (
        ("conv_fprop", "x", {"w": w, **plain}),
        ("conv_dgrad", "dy", {"w": w, "input_size": shape[1:], **plain}),
        ("max_pool", "x", {"offsets": True, **pooled}),
        ("avg_pool", "x", pooled),
    ):
        moved = {n: a.to(place.device) if isinstance(a, Tensor) else a for n, a in rest.items()}
        with filled_memory():
            whole = Call(op, {name: x, **moved}).run(place.backend)
        tail = tuple(r[-few:].to("cpu", copy=True) for r in whole)
        others = bool(whole[0][:-few].any())
        del whole
        assert not others, op

        class Tail(Backend):
            """The results that are there already."""

            def __getattribute__(self, _: str, tail: tuple[Tensor, ...] = tail) -> Any:
                return lambda **_: tail if len(tail) > 1 else tail[0]

        assert_right(Call(op, {name: values, **rest}), Tail(), reference)
