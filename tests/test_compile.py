"""torch.compile, fake tensors and opcheck: the right sizes and strides without data, one graph for all sizes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, library
from torch._dynamo.testing import CompileCounterWithBackend

import convkit
import convkit.functional as CF
from convkit import backends
from convkit.autograd.conv import convolution
from convkit.backends.base import RAW_OPS, Backend
from convkit.backends.gpu import tf32_allowed
from convkit.problem import ConvSpec
from convkit.testing.catalogue import CONVOLUTIONS, POOLS, TRANSPOSED
from convkit.testing.flat import flat_calls
from convkit.testing.norms import NORMS, fused_calls, in_one, norm_calls
from convkit.testing.oracle import Call, conv_calls, pool_calls, transposed_calls

CHECKS = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")


@pytest.fixture(autouse=True)
def fresh_dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def operator_arguments(call: Call) -> tuple[Any, tuple[Any, ...]]:
    """The compiled operator behind a raw operation, and the arguments that backend ``native`` gives it."""
    seen: list[tuple[Any, ...]] = []
    native: Any = backends.get("native")
    attributes = {
        "conv_fprop": "_fprop",
        "conv_dgrad": "_dgrad",
        "conv_wgrad": "_wgrad",
        "conv_bgrad": "_bgrad",
        "pool_select": "_select",
        "pool_select_bwd": "_select_bwd",
        "pool_indices": "_indices",
    }
    attribute = attributes.get(call.op, f"_{call.op}")
    operator = getattr(native, attribute)
    setattr(native, attribute, lambda *args: seen.append(args))
    try:
        call.run(native)
    finally:
        setattr(native, attribute, operator)
    return operator, seen[0]


@functools.cache
def catalogue(dtype: torch.dtype, layout: str, reference: Backend) -> list[Call]:
    calls = [c for case in CONVOLUTIONS for c in conv_calls(case, dtype, layout)]
    calls += [c for case in TRANSPOSED for c in transposed_calls(case, dtype, layout)]
    calls += [c for case in POOLS for c in pool_calls(case, dtype, reference, layout)]
    return calls + [c for _, c in flat_calls(dtype, layout) + fused_calls(dtype, layout)]


@pytest.mark.parametrize("op", RAW_OPS)
def test_opcheck(op: str, reference: Backend) -> None:
    wanted = [c for c in catalogue(torch.float32, "channels_last", reference) if c.op == op]
    if op.endswith("_stats"):  # those of an empty batch are NaN, which opcheck finds unlike itself
        wanted = [c for c in wanted if c.arguments["x"].numel() > 0]
    for call in (wanted[0], wanted[-1]):
        operator, arguments = operator_arguments(call)
        library.opcheck(operator, arguments, test_utils=CHECKS)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("with_residual", [False, True])
def test_opcheck_of_the_gradient_in_one_operation(with_residual: bool, layout: str) -> None:
    """It is no raw operation, as backends without it compose it."""
    norm_gradient = norm_calls(NORMS[3], torch.float32, layout)[4].replace(with_residual=with_residual)
    arguments = in_one(norm_gradient)
    library.opcheck(torch.ops.convkit.bn_act_grad.default, (), arguments, test_utils=CHECKS)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_fake_kernels_know_every_size_stride_and_dtype(layout: str, reference: Backend) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    native, mode = backends.get("native"), FakeTensorMode()
    for call in catalogue(torch.float32, layout, reference):
        with mode:
            fakes = {k: mode.from_tensor(v) if isinstance(v, Tensor) else v for k, v in call.arguments.items()}
            results = Call(call.op, fakes).run(native)
        for fake, real in zip(results, call.run(native)):
            assert (fake.shape, fake.stride(), fake.dtype) == (real.shape, real.stride(), real.dtype), call.op


def network(f: Any) -> Callable[..., Tensor]:
    """One of each kind of layer, from convkit's or torch's functionals."""

    def run(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        y = f.max_pool2d(f.conv2d(x, w, b, padding=1), 3, 2, 1)
        y = f.avg_pool2d(f.conv_transpose2d(y, w, None, 2, 1, output_padding=1), (2, 1))
        return f.conv1d(y.flatten(2), w[:, :, 0], padding="same")

    return run


def inputs(n: int, size: int, memory_format: torch.memory_format = torch.contiguous_format) -> list[Tensor]:
    generator = torch.Generator().manual_seed(n + size)
    x = torch.randn(n, 4, size, size + 1, generator=generator, dtype=torch.float64)
    w, b = (torch.randn(s, generator=generator, dtype=torch.float64) for s in ((4, 4, 3, 3), (4,)))
    return [t.requires_grad_() for t in (x.contiguous(memory_format=memory_format), w, b)]


def assert_compiled_is_right(compiled: Callable[..., Tensor], arguments: list[Tensor]) -> None:
    """Outputs and gradients are those of eager mode, and torch's."""
    y = compiled(*arguments)
    gradients = torch.autograd.grad(y.sin().sum(), arguments)
    expected = network(CF)(*arguments)
    torch.testing.assert_close(y, expected, rtol=0, atol=0)
    assert y.stride() == expected.stride()
    torchs = network(F)(*arguments)
    torch.testing.assert_close(y, torchs)
    for g, want, t in zip(gradients, torch.autograd.grad(torchs.sin().sum(), arguments), arguments):
        torch.testing.assert_close(g, want)
        assert g.stride() == t.stride()


def test_layers_compile_whole_forward_and_backward() -> None:
    compiled = torch.compile(network(CF), backend="aot_eager", fullgraph=True, dynamic=False)
    assert_compiled_is_right(compiled, inputs(2, 6))


def test_the_reference_is_traced_into_the_graph() -> None:
    def run(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return CF.max_pool2d(CF.conv2d(x, w[..., :2, :2], b, backend="reference"), 2, backend="reference")

    arguments = inputs(2, 5)
    compiled = torch.compile(run, backend="aot_eager", fullgraph=True, dynamic=False)(*arguments)
    expected = run(*arguments)
    torch.testing.assert_close(compiled, expected)
    gradients = [torch.autograd.grad(y.sin().sum(), arguments) for y in (compiled, expected)]
    torch.testing.assert_close(*gradients)


def test_one_graph_for_all_sizes() -> None:
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(network(CF), backend=counter, fullgraph=True, dynamic=True)
    assert_compiled_is_right(compiled, inputs(2, 6, torch.channels_last))
    traced = counter.frame_count
    for n, size in ((3, 9), (5, 14)):
        assert_compiled_is_right(compiled, inputs(n, size, torch.channels_last))
    assert counter.frame_count == traced


def test_inductor() -> None:
    assert_compiled_is_right(torch.compile(network(CF), fullgraph=True, dynamic=False), inputs(2, 6))


def test_a_graph_belongs_to_the_choice_it_was_traced_under() -> None:
    counter = CompileCounterWithBackend("eager")
    compiled = torch.compile(network(CF), backend=counter, fullgraph=True)
    arguments = [t.detach() for t in inputs(2, 6)]

    def operators() -> bool:
        return any("convkit" in str(node.target) for node in counter.graphs[-1].graph.nodes)

    free = compiled(*arguments)
    assert operators() and counter.frame_count == 1
    with convkit.backend("reference"):
        torch.testing.assert_close(compiled(*arguments), free)
        assert not operators() and counter.frame_count == 2
        compiled(*arguments)
    compiled(*arguments)
    assert counter.frame_count == 2


def test_an_explicit_choice_refuses_while_compiling_too() -> None:
    spec = ConvSpec((1, 1), (1, 1), (1, 1), (1, 1), padding_mode=1)
    x, w = torch.randn(1, 1, 4, 4), torch.randn(1, 1, 3, 3)
    compiled = torch.compile(lambda: convolution(x, w, None, spec, "native"), backend="eager", fullgraph=True)
    with pytest.raises(Exception, match="zero padding only"):
        compiled()


def test_transforms_inside_compiled_code_are_right_or_an_error() -> None:
    """A Function's own backward is ignored by torch.compile(torch.func.grad(...)): it would return zeros."""
    x, w, b = (t.detach() for t in inputs(2, 6))
    reference_x = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(F.max_pool2d(F.conv2d(reference_x, w, b), 2).pow(2).sum(), reference_x)

    def loss(x: Tensor) -> Tensor:
        return CF.max_pool2d(CF.conv2d(x, w, b), 2).pow(2).sum()

    def inside(x: Tensor) -> Tensor:
        return torch.func.grad(loss)(x)

    torch.testing.assert_close(torch.compile(inside, backend="aot_eager")(x), expected)
    torch._dynamo.reset()
    with pytest.raises(torch._dynamo.exc.Unsupported):
        torch.compile(inside, backend="eager", fullgraph=True)(x)
    torch._dynamo.reset()

    def tangent(x: Tensor) -> Any:
        return torch.func.jvp(loss, (x,), (torch.ones_like(x),))[1]

    torch.testing.assert_close(torch.compile(tangent, backend="eager")(x), expected.sum())


def test_modules_compile_in_training_mode() -> None:
    model = torch.nn.Sequential(
        convkit.nn.Conv2d(1, 2, 3, padding=1), torch.nn.BatchNorm2d(2), torch.nn.ReLU(), convkit.nn.MaxPool2d(2)
    )
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    x = torch.randn(3, 1, 6, 6)
    compiled(x).sum().backward()
    gradient = model[0].weight.grad.clone()
    model.zero_grad()
    model(x).sum().backward()
    torch.testing.assert_close(gradient, model[0].weight.grad)


def test_the_switch_of_tf32_is_read_while_tracing() -> None:
    @torch.compile(fullgraph=True, backend="eager")
    def traced(x: Tensor) -> Tensor:
        return x + 1 if tf32_allowed() else x - 1

    assert float(traced(torch.zeros(()))) == (1 if tf32_allowed() else -1)


def test_torch_jit_trace_fixes_sizes() -> None:
    """It gives sizes as tensors; they are kept as numbers, and another size is refused, not computed wrongly."""
    w = torch.randn(4, 3, 2, 2)

    def run(x: Tensor) -> Tensor:
        return CF.adaptive_avg_pool2d(CF.conv_transpose2d(x, w), (3, None))

    x = torch.randn(2, 4, 6, 5)
    with pytest.warns(torch.jit.TracerWarning, match="Python integer"):
        traced = torch.jit.trace(run, (x,), check_trace=False)
    assert torch.equal(traced(x + 1), run(x + 1))
    with pytest.raises(RuntimeError, match="spatial dimension"):
        traced(torch.randn(2, 4, 7, 5))
