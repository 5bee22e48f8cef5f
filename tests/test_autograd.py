"""Derivatives of every order: finite differences, torch's own formulas, and what a graph keeps and computes."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

import convkit
import convkit.functional as CF
from convkit import backends
from convkit.autograd.conv import convolution, transposed_convolution
from convkit.autograd.function import Formula, operation
from convkit.autograd.pool import average_pooling, max_pooling
from convkit.backends.base import RAW_OPS, Backend
from convkit.backends.layout import is_channels_last, result_strides
from convkit.problem import ConvSpec, PoolSpec

# Sizes, kernel and spec: parameters differ between dimensions; padding differs between its two sides.
CONVOLUTIONS = {
    "1d strided dilated": ((6,), (2,), ConvSpec((2,), (1,), (2,), (3,))),
    "1d grouped": ((4,), (3,), ConvSpec((1,), (0,), (1,), (1,), 2)),
    "2d uneven": ((4, 5), (2, 3), ConvSpec((2, 1), (1, 0), (0, 2), (1, 2))),
    "2d depthwise": ((4, 3), (3, 2), ConvSpec((1, 2), (1, 1), (1, 0), (1, 1), 2)),
    "3d uneven": ((3, 2, 4), (2, 1, 2), ConvSpec((1, 1, 2), (1, 0, 1), (0, 0, 0), (1, 2, 2))),
}
POOLS = {
    "1d overlapping": ((7,), PoolSpec((3,), (2,), (1,), (1,), (1,), True)),
    "2d uneven": ((5, 4), PoolSpec((3, 2), (2, 1), (1, 1), (0, 1), (1, 1), False, False)),
    "3d": ((3, 4, 2), PoolSpec((2, 2, 1), (1, 2, 1), (1, 0, 0), (1, 1, 0), (1, 1, 1))),
}
DILATED = ((6, 5), PoolSpec((2, 2), (1, 2), (1, 0), (1, 1), (3, 2)))


def leaf(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape) + seed)
    return torch.randn(shape, generator=generator, dtype=dtype).requires_grad_()


def conv_inputs(case: str, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, ConvSpec]:
    size, kernel, spec = CONVOLUTIONS[case]
    return leaf(2, 2, *size, dtype=dtype), leaf(2, 2 // spec.groups, *kernel, dtype=dtype), leaf(2, dtype=dtype), spec


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolution_first_and_second_derivative(case: str, backend: Backend) -> None:
    x, w, bias, spec = conv_inputs(case)

    def run(x: Tensor, w: Tensor, bias: Tensor) -> Tensor:
        return convolution(x, w, bias, spec, backend.name)

    assert gradcheck(run, (x, w, bias), check_forward_ad=True, fast_mode=backend.name != "native")
    assert gradgradcheck(run, (x, w, bias), check_fwd_over_rev=True, fast_mode=True)


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_transposed_convolution_first_and_second_derivative(case: str, backend: Backend) -> None:
    x, w, _, spec = conv_inputs(case)
    y = convolution(x, w, None, spec).detach().requires_grad_()

    def run(y: Tensor, w: Tensor, bias: Tensor) -> Tensor:
        return transposed_convolution(y, w, bias, CONVOLUTIONS[case][0], spec, backend.name)

    assert gradcheck(run, (y, w, leaf(2)), check_forward_ad=True, fast_mode=backend.name != "native")
    assert gradgradcheck(run, (y, w, leaf(2)), check_fwd_over_rev=True, fast_mode=True)


def test_fewer_windows_than_fit(backend: Backend) -> None:
    """output_padding below dilation but not below stride: a window more would fit the output than x has values."""
    spec = ConvSpec((1, 2), (1, 0), (1, 1), (3, 1))

    def run(x: Tensor, w: Tensor) -> Tensor:
        return transposed_convolution(x, w, None, (4 + 2, 7), spec, backend.name)

    x, w = leaf(1, 2, 3, 3), leaf(2, 1, 2, 2)  # the least output is 4 x 5
    assert gradcheck(run, (x, w), fast_mode=True) and gradgradcheck(run, (x, w), fast_mode=True)
    expected = F.conv_transpose2d(x, w, None, (1, 2), (1, 0), (2, 0), dilation=(3, 1))
    torch.testing.assert_close(transposed_convolution(x, w, None, (6, 6), spec._replace(pad_after=(1, 0))), expected)
    (dx,) = torch.autograd.grad(run(x, w).sum(), x)
    assert dx.is_contiguous()


def test_complex_gradients_conjugate(backend: Backend) -> None:
    x, w, bias, spec = conv_inputs("2d uneven", torch.complex128)
    y = convolution(x, w, None, spec).detach().requires_grad_()

    def forward(x: Tensor, w: Tensor, bias: Tensor) -> Tensor:
        return convolution(x, w, bias, spec, backend.name)

    def transposed(y: Tensor, w: Tensor) -> Tensor:
        return transposed_convolution(y, w, None, (4, 5), spec, backend.name)

    assert gradcheck(forward, (x, w, bias), fast_mode=True) and gradcheck(transposed, (y, w), fast_mode=True)
    assert gradgradcheck(forward, (x, w, bias), fast_mode=True) and gradgradcheck(transposed, (y, w), fast_mode=True)


@pytest.mark.parametrize("case", POOLS)
@pytest.mark.parametrize("pool", [max_pooling, average_pooling])
def test_pooling_first_and_second_derivative(pool: Callable[..., Any], case: str, backend: Backend) -> None:
    size, spec = POOLS[case]

    def run(x: Tensor) -> Tensor:
        return pool(x, spec, backend=backend.name)

    assert gradcheck(run, (leaf(2, 2, *size),), check_forward_ad=True, fast_mode=backend.name != "native")
    assert gradgradcheck(run, (leaf(2, 2, *size),), check_fwd_over_rev=True, fast_mode=True)


def test_dilated_max_pooling_derivative(backend: Backend) -> None:
    size, spec = DILATED
    assert gradcheck(lambda x: max_pooling(x, spec, backend=backend.name), (leaf(1, 2, *size),), fast_mode=True)


def ours(x: Tensor, w: Tensor, bias: Tensor) -> Tensor:
    y = convolution(x, w, bias, ConvSpec((1, 2), (1, 0), (1, 0), (1, 1), 2))
    y = max_pooling(y, PoolSpec((2, 2), (1, 1), (1, 0), (1, 0), (1, 1)))
    y = transposed_convolution(y, w, None, (6, 2), ConvSpec((1, 2), (1, 0), (1, 0), (1, 1), 2))
    return average_pooling(y, PoolSpec((2, 1), (2, 1), (0, 0), (0, 0), (1, 1)))


def theirs(x: Tensor, w: Tensor, bias: Tensor) -> Tensor:
    y = F.conv2d(x, w, bias, (1, 2), (1, 0), 1, 2)
    y = F.max_pool2d(y, (2, 2), 1, (1, 0))
    y = F.conv_transpose2d(y, w, None, (1, 2), (1, 0), 0, 2)
    return F.avg_pool2d(y, (2, 1))


def derivatives(network: Callable[..., Tensor], order: int) -> list[Tensor]:
    """A gradient of a gradient of ... of a nonlinear function of the network, in every argument."""
    arguments = (leaf(2, 4, 5, 5), leaf(4, 2, 3, 2), leaf(4))
    value = network(*arguments).sin().sum()
    gradients: list[Tensor] = []
    for _ in range(order):
        gradients = list(torch.autograd.grad(value, arguments, create_graph=True))
        value = sum(g.sin().sum() for g in gradients)
    return [g.detach() for g in gradients]


@pytest.mark.parametrize("order", [1, 2, 3])
def test_a_network_has_torchs_derivatives(order: int, backend: Backend) -> None:
    with convkit.backend(backend.name):
        for got, expected in zip(derivatives(ours, order), derivatives(theirs, order)):
            # Sums of up to 10^3 float64 products per layer and order: far below 1e-9 of the largest.
            torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))


class Recorder(Backend):
    """The reference, writing down which raw operations it is asked for."""

    name = "recorder"

    def __init__(self) -> None:
        self.calls: list[str] = []

    def supports(self, *_: Any) -> None:
        return None

    def __getattribute__(self, name: str) -> Any:
        if name in RAW_OPS:
            self.calls.append(name)
            return getattr(backends.get("reference"), name)
        return super().__getattribute__(name)


@pytest.fixture
def recorder() -> Any:
    from convkit.backends import selection

    implementation = Recorder()
    backends.register(implementation)
    yield implementation
    del selection._backends["recorder"]
    selection._choose.cache_clear()


@pytest.mark.parametrize("wanted", list(itertools.product([True, False], repeat=3)))
def test_only_the_gradients_asked_for_are_computed(wanted: tuple[bool, ...], recorder: Recorder) -> None:
    x, w, bias, spec = conv_inputs("2d uneven")
    for tensor, needs in zip((x, w, bias), wanted):
        tensor.requires_grad_(needs)
    y = convolution(x, w, bias, spec, "recorder")
    if any(wanted):
        y.sum().backward()
    expected = {op for op, needs in zip(("conv_dgrad", "conv_wgrad", "conv_bgrad"), wanted) if needs}
    assert set(recorder.calls) == expected | {"conv_fprop"} and len(recorder.calls) == 1 + len(expected)
    assert [t.grad is not None for t in (x, w, bias)] == list(wanted)


def test_backward_and_double_backward_use_the_backend_of_forward(recorder: Recorder) -> None:
    x, w, bias, spec = conv_inputs("2d uneven")
    with convkit.backend("recorder"):
        y = convolution(x, w, bias, spec)
        z = max_pooling(y, PoolSpec((2, 2), (1, 1), (0, 0), (0, 0), (1, 1)))
    with convkit.backend("native"):
        gradients = torch.autograd.grad(z.pow(2).sum(), (x, w, bias), create_graph=True)
    before = list(recorder.calls)
    assert before.count("conv_dgrad") == before.count("conv_wgrad") == before.count("pool_select_bwd") == 1
    sum(g.pow(2).sum() for g in gradients).backward()
    second = recorder.calls[len(before) :]
    assert {"conv_fprop", "conv_dgrad", "conv_wgrad", "pool_select"} <= set(second)


def test_gradients_for_dy_of_any_strides() -> None:
    x, w, bias, spec = conv_inputs("2d uneven")
    y = convolution(x, w, bias, spec)
    dense = torch.randn(y.shape, dtype=y.dtype)
    forms = [
        dense.transpose(2, 3).contiguous().transpose(2, 3),
        dense.contiguous(memory_format=torch.channels_last),
        torch.stack([dense, dense], -1)[..., 0],
    ]
    expected = torch.autograd.grad(y, (x, w, bias), dense, retain_graph=True)
    for form in forms:
        for got, want in zip(torch.autograd.grad(y, (x, w, bias), form, retain_graph=True), expected):
            torch.testing.assert_close(got, want)
    ones = torch.ones((), dtype=y.dtype)
    expanded = torch.autograd.grad(y, (x, w, bias), ones.expand(y.shape), retain_graph=True)
    for got, want in zip(expanded, torch.autograd.grad(y, (x, w, bias), torch.ones_like(y))):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("changed", [0, 1])
def test_changing_a_saved_tensor_in_place_is_an_error(changed: int) -> None:
    arguments = conv_inputs("2d uneven")
    inputs = [t.clone() for t in arguments[:2]]
    y = convolution(*inputs, arguments[2], arguments[3])
    inputs[changed].mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_saved_tensor_hooks_see_what_is_kept() -> None:
    kept: list[Tensor] = []

    def pack(t: Tensor) -> Tensor:
        kept.append(t)
        return t

    x, w, bias, spec = conv_inputs("2d uneven")
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        convolution(x, w, bias, spec).sum().backward()
        assert {t.data_ptr() for t in kept} == {x.data_ptr(), w.data_ptr()}
        kept.clear()
        y = max_pooling(leaf(1, 1, 8, 8), PoolSpec((2, 2), (2, 2), (0, 0), (0, 0), (1, 1)))
        # One byte per window: neither the input nor its int64 indices.
        assert [t.dtype for t in kept] == [torch.uint8] and kept[0].shape == y.shape
        kept.clear()
        average_pooling(leaf(1, 1, 8, 8), PoolSpec((2, 2), (2, 2), (0, 0), (0, 0), (1, 1)))
        assert kept == []


def test_indices_are_not_differentiable_and_integers_pool() -> None:
    size, spec = POOLS["2d uneven"]
    y, indices = max_pooling(leaf(2, 2, *size), spec, return_indices=True)
    assert y.requires_grad and not indices.requires_grad and indices.dtype == torch.int64
    whole = torch.arange(40).view(2, 1, 5, 4)
    assert not max_pooling(whole, spec).requires_grad


def test_undefined_gradients_pass_through() -> None:
    class Drop(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> None:
            return None

    x, w, bias, spec = conv_inputs("2d uneven")
    y = Drop.apply(max_pooling(convolution(x, w, bias, spec), PoolSpec((1, 1), (1, 1), (0, 0), (0, 0), (1, 1))))
    (y.sum() + 0 * x.sum()).backward()
    assert w.grad is None and bias.grad is None


def test_modes_without_graph() -> None:
    x, w, bias, spec = conv_inputs("2d uneven")
    with torch.no_grad():
        assert convolution(x, w, bias, spec).grad_fn is None
    with torch.inference_mode():
        y = convolution(x, w, bias, spec)
        assert y.is_inference()
    with pytest.raises(RuntimeError, match=r"[Ii]nference tensors"):
        convolution(y.detach(), leaf(2, 2, 1, 1), None, ConvSpec((1, 1), (0, 0), (0, 0), (1, 1)))


def test_the_same_bits_under_deterministic_algorithms(backend: Backend) -> None:
    with convkit.backend(backend.name):
        free = derivatives(ours, 2)
        torch.use_deterministic_algorithms(True)
        try:
            fixed = derivatives(ours, 2)
        finally:
            torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) for a, b in zip(free, fixed))


def test_gradients_have_the_layout_of_their_tensors() -> None:
    x, w, bias, spec = conv_inputs("2d uneven")
    last = torch.channels_last
    for x_format, w_format in itertools.product([torch.contiguous_format, last], repeat=2):
        a = x.detach().contiguous(memory_format=x_format).requires_grad_()
        b = w.detach().contiguous(memory_format=w_format).requires_grad_()
        y = convolution(a, b, bias, spec)
        assert y.is_contiguous(memory_format=last if last in (x_format, w_format) else torch.contiguous_format)
        y.sum().backward()
        assert a.grad is not None and b.grad is not None
        assert a.grad.stride() == a.stride() and b.grad.stride() == b.stride()


def test_layout_is_pytorchs() -> None:
    """torch's max_pool2d returns its input's suggested memory format: all orders of strides, ambiguous sizes."""
    for size in itertools.product((1, 2), (1, 3), (1, 2), (1, 4)):
        for order in itertools.permutations(range(4)):
            x = torch.empty([size[i] for i in order]).permute([order.index(i) for i in range(4)])
            expected = F.max_pool2d(x, 1).stride()
            assert result_strides(size, is_channels_last(x)) == expected, (size, x.stride())
    for strides in ((4, 1, 4, 4), (4, 4, 4, 1), (1, 1, 1, 1), (0, 1, 0, 0), (0, 0, 0, 0)):
        x = torch.empty(16).as_strided((2, 1, 1, 1), strides)
        assert result_strides((2, 1, 1, 1), is_channels_last(x)) == F.max_pool2d(x, 1).stride(), strides


def test_transforms() -> None:
    _, w, bias, spec = conv_inputs("2d depthwise")
    x = leaf(2, 2, 4, 3).detach()

    def loss(x: Tensor) -> Tensor:
        y = convolution(x, w, bias, spec)
        return max_pooling(y, PoolSpec((2, 1), (1, 1), (0, 0), (0, 0), (1, 1))).pow(3).sum()

    expected = torch.autograd.functional.hessian(loss, x)
    torch.testing.assert_close(torch.func.hessian(loss)(x), expected)
    torch.testing.assert_close(torch.func.jacrev(torch.func.jacfwd(loss))(x), expected)
    batched = torch.func.vmap(torch.func.grad(loss))(torch.stack([x, 2 * x]))
    torch.testing.assert_close(batched[1], torch.func.grad(loss)(2 * x))


def test_vmap_of_every_kind_is_silent() -> None:
    """PyTorch warns at every use of an operator that has no rule for batches; a batch may be empty."""
    x, w = torch.randn(3, 2, 2, 6, 6), torch.randn(3, 4, 2, 3, 3)
    calls: dict[str, tuple[Callable[..., Any], tuple[Tensor, ...], tuple[int | None, ...]]] = {
        "conv2d": (lambda x: CF.conv2d(x, w[0], padding=1), (x,), (0,)),
        "conv2d by sample": (CF.conv2d, (x, w), (0, 0)),
        "conv_transpose2d": (lambda x, w: CF.conv_transpose2d(x, w.transpose(0, 1)), (x, w), (1, None)),
        "max_pool2d": (lambda x: CF.max_pool2d(x, 2, return_indices=True), (x,), (2,)),
        "lp_pool2d": (lambda x: CF.lp_pool2d(x, 2, 2), (x,), (0,)),
        "adaptive_avg_pool2d": (lambda x: CF.adaptive_avg_pool2d(x, (4, 5)), (x,), (0,)),
    }
    for name, (call, inputs, dims) in calls.items():
        fixed = call if dims[-1] is not None else lambda x, call=call: call(x, w[0])
        batched, axes = (inputs, dims) if dims[-1] is not None else (inputs[:1], dims[:1])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            got = torch.func.vmap(fixed, axes)(*batched)
            none = torch.func.vmap(fixed, axes)(*[t.narrow(d, 0, 0) for t, d in zip(batched, axes)])
        samples = zip(*[t.unbind(d) for t, d in zip(batched, axes)])
        each = [fixed(*sample) for sample in samples]
        for i, of_all in enumerate(got if isinstance(got, tuple) else (got,)):
            expected = torch.stack([r[i] if isinstance(r, tuple) else r for r in each])
            assert torch.equal(of_all, expected), name
            assert (none[i] if isinstance(none, tuple) else none).shape == (0, *expected.shape[1:]), name


NESTED = {
    "conv2d": lambda x: CF.conv2d(x, x[..., :2, :2], stride=2),
    "conv_transpose2d": lambda x: CF.conv_transpose2d(x, x[..., :2, :2], stride=2),
    "fused_conv2d": lambda x: CF.fused_conv2d(x, x[..., :2, :2], scale=x[0, 0, 0, :2], activation="silu"),
    "max_pool2d": lambda x: CF.max_pool2d(x, 2, 1),
    "avg_pool2d": lambda x: CF.avg_pool2d(x, 2, 1),
    "lp_pool2d": lambda x: CF.lp_pool2d(x.abs() + 1, 3, 2),
    "stochastic_pool2d": lambda x: CF.stochastic_pool2d(x, 2, training=False),
    "max_unpool2d": lambda x: CF.max_unpool2d(*CF.max_pool2d(x, 2, return_indices=True), 2, output_size=(4, 3)),
}


@pytest.mark.parametrize("name", NESTED)
def test_nested_transforms(name: str) -> None:
    """What a formula saves keeps, within transforms, its batch dimension and the tangents of those further out."""
    x = leaf(2, 2, 4, 3).detach()
    op = NESTED[name]

    def loss(x: Tensor) -> Tensor:
        return op(x).pow(3).sum()

    expected = torch.autograd.functional.hessian(loss, x)
    for outer, inner in itertools.product((torch.func.jacrev, torch.func.jacfwd), repeat=2):
        torch.testing.assert_close(outer(inner(loss))(x), expected)
    samples = torch.stack([x, 2 * x]).requires_grad_()
    (batched,) = torch.autograd.grad(torch.func.vmap(loss)(samples).sum(), samples)
    torch.testing.assert_close(batched[1], torch.func.grad(loss)(2 * x))
    _, tangent = torch.func.jvp(torch.func.vmap(loss), (samples.detach(),), (samples.detach(),))
    torch.testing.assert_close(tangent, (batched * samples).flatten(1).sum(1).detach())


def test_a_tensor_that_a_transform_left_behind_is_the_one_within() -> None:
    """Gradients reach what that one was computed from."""
    x, w, bias, spec = conv_inputs("2d depthwise")
    left: list[Tensor] = []

    def keep(t: Tensor) -> Tensor:
        left.append(2 * t)
        return left[0].sum()

    torch.func.grad(keep)(x)
    found = torch.autograd.grad(convolution(left[0], w, bias, spec).sum(), (x, w))
    expected = torch.autograd.grad(convolution(2 * x, w, bias, spec).sum(), (x, w))
    assert all(map(torch.equal, found, expected))


def test_max_pooling_keeps_no_offsets_where_nothing_is_differentiated(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[bool] = []
    reference = backends.get("reference")
    plain = type(reference).max_pool

    def watched(self: Backend, x: Tensor, spec: PoolSpec, offsets: bool, channels_last: bool) -> tuple[Tensor, Tensor]:
        kept.append(offsets)
        return plain(self, x, spec, offsets, channels_last)

    monkeypatch.setattr(type(reference), "max_pool", watched)
    x, spec = leaf(1, 1, 4, 4), PoolSpec((2, 2), (2, 2), (0, 0), (0, 0), (1, 1))
    with torch.no_grad():
        max_pooling(x, spec, backend="reference")
    max_pooling(x.detach(), spec, backend="reference")
    max_pooling(x.detach(), spec, return_indices=True, backend="reference")
    max_pooling(x, spec, backend="reference")
    torch.func.grad(lambda t: max_pooling(t, spec, backend="reference").sum())(x.detach())
    assert kept == [False, False, True, True, True]


# --- memory ---------------------------------------------------------------------------------------------------------


def test_a_result_without_memory_fails_in_torchs_words() -> None:
    x = torch.zeros(1, 1, 1, 1, dtype=torch.float64).expand(1 << 20, 1, 1 << 12, 1 << 12)  # as much as can be addressed
    for requires_grad in (False, True):
        with pytest.raises(RuntimeError, match=r"^DefaultCPUAllocator: can't allocate memory: .* 17592186044416 elem"):
            convkit.functional.max_pool2d(x.detach().requires_grad_(requires_grad), 1)


@pytest.mark.parametrize("requires_grad", [False, True])
def test_a_gpu_without_memory_is_torchs_error(requires_grad: bool) -> None:
    """By its type, which the compiled library cannot throw; all other errors stay what they are."""

    class Failing(Formula):
        tensors = 1

        @staticmethod
        def forward(x: Tensor, text: str) -> Tensor:
            raise RuntimeError(text)

    run, x = operation(Failing), torch.ones(1, requires_grad=requires_grad)
    with pytest.raises(torch.OutOfMemoryError, match=r"^CUDA out of memory. convkit asked"):
        run(x, "CUDA out of memory. convkit asked torch for a result of 7 elements")
    with pytest.raises(RuntimeError, match=r"^another") as caught:
        run(x, "another")
    assert type(caught.value) is RuntimeError
