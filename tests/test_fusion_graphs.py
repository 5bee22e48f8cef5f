"""fuse on single forwards: what stands in a graph around a pattern, and what is added to it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import convkit
from convkit import backends
from convkit.problem import ACTIVATIONS
from tests.networks import compare, images


class Layers(nn.Module):
    """Two convolutions of each kind with norms and activations, in a forward that the test gives."""

    def __init__(self, body: Callable[..., Tensor]) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 3, padding=1, groups=2), nn.BatchNorm2d(4)
        self.up, self.bn3 = nn.ConvTranspose2d(4, 6, 4, 2, 1, groups=2), nn.BatchNorm2d(6)
        self.relu, self.silu = nn.ReLU(), nn.SiLU()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self, x)


def first(m: Layers, x: Tensor) -> Tensor:
    return m.relu(m.bn1(m.conv1(x)))


# A forward, and the parts that are one operation each.
FORWARDS: dict[str, tuple[Callable[..., Tensor], list[str]]] = {
    "a pattern's result is added to the next": (
        lambda m, x: m.silu(m.bn2(m.conv2(y := first(m, x))) + y),
        ["Conv2d, BatchNorm2d, relu", "Conv2d, BatchNorm2d, add, silu"],
    ),
    "two patterns are added": (
        lambda m, x: torch.tanh(m.bn1(m.conv1(x)) + m.bn2(m.conv2(torch.cat([x, x[:, :1]], 1)))),
        ["Conv2d, BatchNorm2d, add, tanh", "Conv2d, BatchNorm2d"],
    ),
    "a size is added": (lambda m, x: m.bn1(m.conv1(x)) + x.shape[0], ["Conv2d, BatchNorm2d, add"]),
    "what is added is broadcast": (
        lambda m, x: m.relu(m.bn1(m.conv1(x)).add(x.mean((1, 2, 3), keepdim=True))),
        ["Conv2d, BatchNorm2d, add, relu"],
    ),
    "transposed, in groups, with an addition": (
        lambda m, x: m.silu(m.bn3(m.up(y := first(m, x))) + y.repeat(1, 2, 2, 2)[:, :6]),
        ["Conv2d, BatchNorm2d, relu", "ConvTranspose2d, BatchNorm2d, add, silu"],
    ),
    "an activation without a norm": (
        lambda m, x: F.leaky_relu(m.up(m.silu(m.conv2(first(m, x)))), 0.1, inplace=True),
        ["Conv2d, BatchNorm2d, relu", "Conv2d, silu", "ConvTranspose2d, leaky_relu"],
    ),
    "an addition without a norm": (
        lambda m, x: m.relu(m.conv2(y := first(m, x)) + y) * 2,
        ["Conv2d, BatchNorm2d, relu", "Conv2d, add, relu"],
    ),
    "a size and a mean added without a norm": (
        lambda m, x: (m.conv1(x) + x.shape[0]).sigmoid() + m.conv2(x.mean().expand(2, 4, 6, 6) + 0).add(x.mean()),
        ["Conv2d, add, sigmoid", "Conv2d, add"],
    ),
    "no batch": (lambda m, x: m.silu(m.conv1(x[0])), ["Conv2d, silu"]),
}


@pytest.mark.parametrize("case", FORWARDS)
def test_what_is_around_a_pattern(case: str) -> None:
    body, parts = FORWARDS[case]
    torch.manual_seed(0)
    model = Layers(body).double()
    twin = copy.deepcopy(model)
    assert [r.layer for r in convkit.fuse(model).fused] == parts
    compare(model, twin, images(2, 3, 6, 6))


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_transposed_convolutions_in_groups(dims: int) -> None:
    convolution, norm = getattr(nn, f"ConvTranspose{dims}d"), getattr(nn, f"BatchNorm{dims}d")
    layers = [convolution(4, 6, 3, 2, 1, 1, groups=2), norm(6), nn.LeakyReLU(0.1), convolution(6, 4, 2, groups=2)]
    model = nn.Sequential(*layers, nn.Tanh()).double()
    twin = copy.deepcopy(model)
    parts = [f"ConvTranspose{dims}d, BatchNorm{dims}d, leaky_relu", f"ConvTranspose{dims}d, tanh"]
    assert [r.layer for r in convkit.fuse(model).fused] == parts
    compare(model, twin, images(2, 4, *(4, 3, 3)[:dims]))


def test_a_forward_that_differs_by_mode_has_each_pattern_once() -> None:
    model = Layers(lambda m, x: m.silu(m.conv2(first(m, x) + (1 if m.training else 0)))).double()
    twin = copy.deepcopy(model)
    assert [r.name for r in convkit.fuse(model)][:2] == ["conv1, bn1", "conv2"]
    compare(model, twin, images(2, 3, 6, 6))
    assert [r.name for r in convkit.unfuse(model)] == ["conv1, bn1", "conv2"]


class Untraced(Layers):
    """The same without a graph: the text of forward is what shows the patterns."""

    def forward(self, x: Tensor) -> Tensor:
        if not isinstance(x, Tensor):
            raise TypeError("a tensor")
        x = F.gelu(self.conv1(x))
        y = x
        x = self.conv2(x)
        x = x + y
        x = self.silu(x)
        x = self.up(x)
        return x * 2


MODELS: dict[str, tuple[type[Layers], Callable[..., Tensor]]] = {
    "traced": (Layers, lambda m, x: m.up(m.silu(m.conv2(y := F.gelu(m.conv1(x))) + y)) * 2),
    "untraced": (Untraced, lambda m, x: x),
}


@pytest.mark.parametrize("case", MODELS)
def test_convolutions_without_norms_are_one_kernel_where_gradients_are_disabled(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cls, body = MODELS[case]
    model = cls(body).double()
    twin = copy.deepcopy(model)
    report = convkit.fuse(model)
    assert [(r.name, r.layer) for r in report.fused] == [("conv1", "Conv2d, gelu"), ("conv2", "Conv2d, add, silu")]
    assert {r.reason for r in report.fused} == {"one kernel where gradients are disabled, else its layers"}
    calls: list[tuple[int, bool]] = []
    native = type(backends.get("native"))
    plain = native.conv_fprop

    def fprop(self: Any, x: Any, w: Any, bias: Any, scale: Any, residual: Any, spec: Any, *rest: Any) -> Tensor:
        calls.append((spec.activation, residual is not None))
        return plain(self, x, w, bias, scale, residual, spec, *rest)

    monkeypatch.setattr(native, "conv_fprop", fprop)
    compare(model, twin, images(2, 3, 6, 6))
    numbers = [(ACTIVATIONS.index("gelu"), False), (ACTIVATIONS.index("silu"), True)]
    assert calls == numbers  # in compare's call without gradients, and in no other
    assert [r.name for r in convkit.unfuse(model)] == ["conv1", "conv2"]
    assert "forward" not in vars(model)


def test_derivatives_without_reverse_mode_are_those_of_the_layers() -> None:
    model = Layers(lambda m, x: m.silu(m.conv1(x))).double()
    twin = copy.deepcopy(model)
    convkit.fuse(model)
    x = images(2, 3, 6, 6).double()
    with torch.no_grad():
        results = [torch.func.jvp(m, (x,), (x.cos(),)) for m in (model, twin)]
    torch.testing.assert_close(*results)


@pytest.mark.filterwarnings("ignore:Complex modules")
def test_numbers_that_kernels_have_no_activation_for() -> None:
    model = Layers(lambda m, x: torch.tanh(m.conv1(x))).to(torch.complex128)
    twin = copy.deepcopy(model)
    assert convkit.fuse(model).fused
    x = torch.complex(images(2, 3, 6, 6).double(), images(2, 3, 6, 6).double())
    with torch.no_grad():
        torch.testing.assert_close(model(x), twin(x))


def writes_to_an_alias(m: Layers, x: Tensor) -> Tensor:
    y = x * 2
    same = y
    y += 1
    y *= 3
    z = first(m, x)
    other = z
    z -= 0.5
    return m.silu(m.conv2(z)) + other + (same + y)[:, :1]


def counts_in_place(m: Layers, x: Tensor) -> Tensor:
    n = x.shape[0]
    before = n
    n += 1
    return first(m, x) * n + before


def writes_to_the_input(m: Layers, x: Tensor) -> Tensor:
    x += 1
    return first(m, x)


@pytest.mark.parametrize("body", [writes_to_an_alias, counts_in_place, writes_to_the_input])
def test_what_is_written_in_place_is_seen_by_other_names(body: Callable[..., Tensor]) -> None:
    model = Layers(body).double()
    twin = copy.deepcopy(model)
    assert convkit.fuse(model).fused and "forward" in vars(model)
    for gradients in (True, False):
        inputs = [images(2, 3, 6, 6).double() for _ in range(2)]
        with torch.set_grad_enabled(gradients):
            results = [m(x) for m, x in zip((model, twin), inputs)]
        torch.testing.assert_close(*results), torch.testing.assert_close(*inputs)


class Subclass(nn.Conv2d):
    def _conv_forward(self, *args: Any) -> Tensor:
        return super()._conv_forward(*args) * 2


LEFT: dict[str, tuple[Callable[[Layers], Any], str]] = {
    "hook": (lambda m: m.conv1.register_forward_hook(lambda *a: None), "the Conv2d has hooks"),
    "subclass": (lambda m: setattr(m, "conv1", Subclass(3, 4, 3, padding=1)), "Subclass is a subclass"),
    "parametrized": (lambda m: parametrizations.weight_norm(m.conv1), "the Conv2d is parametrized"),
    "shared": (lambda m: setattr(m, "up", m.conv1), "shared, or used more than once"),
    "replaced forward": (lambda m: setattr(m.conv1, "forward", m.conv1.forward), "was replaced on the object"),
}


@pytest.mark.parametrize("case", LEFT)
@pytest.mark.parametrize("cls", [Layers, Untraced])
def test_convolutions_without_norms_that_do_more_are_left(cls: type[Layers], case: str) -> None:
    change, reason = LEFT[case]
    model = cls(lambda m, x: m.silu(m.conv1(x)))
    change(model)
    report = convkit.fuse(model)
    assert [r.name for r in report.left if reason in r.reason] == ["conv1"], report
    assert "conv1" not in [r.name for r in report.fused]


class Depthwise(nn.Conv2d):
    """A subclass whose call does what its base class's does, as EfficientNet has one."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, padding=1, groups=channels)


class Momentum(nn.BatchNorm2d):
    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-3, momentum=0.5)


def test_subclasses_that_add_nothing_to_a_call_are_fused() -> None:
    model = nn.Sequential(Depthwise(3), Momentum(3), nn.ReLU(), Depthwise(3), nn.SiLU()).double()
    twin = copy.deepcopy(model)
    assert [r.layer for r in convkit.fuse(model).fused] == ["Depthwise, Momentum, relu", "Depthwise, silu"]
    compare(model, twin, images(2, 3, 6, 6))


class Watching(Layers):
    """Registers a hook of its own when it is first called, as transformers' models do to collect hidden states."""

    def __init__(self) -> None:
        super().__init__(lambda m, x: x)
        self.seen: list[Tensor] = []
        self.watches = False

    def forward(self, x: Tensor) -> Tensor:
        if not self.watches:
            self.conv2.register_forward_hook(lambda m, args, y: self.seen.append(y))
            self.watches = True
        return self.conv2(self.relu(self.bn1(self.conv1(x))))


def test_a_trace_leaves_no_hook_behind() -> None:
    model = Watching()
    report = convkit.fuse(model)
    assert not model.conv2._forward_hooks and not model.watches and not model.seen
    assert [r.layer for r in report.fused] == ["Conv2d, BatchNorm2d, relu"]  # by the text of forward
    model(images(2, 3, 6, 6)), model(images(2, 3, 6, 6))
    assert len(model.seen) == 2


def added_in_place(m: Layers, x: Tensor) -> Tensor:
    y = m.bn2(m.conv2(x))
    y += x
    return m.relu(y)


class AddedInPlace(Layers):
    """The same where text shows it."""

    def forward(self, x: Tensor) -> Tensor:
        if not isinstance(x, Tensor):
            raise TypeError("a tensor")
        y = self.conv2(x)
        y = self.bn2(y)
        y += x
        return self.relu(y)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("cls", [Layers, AddedInPlace])
def test_what_is_added_in_place_does_not_promote(cls: type[Layers], training: bool) -> None:
    model = cls(added_in_place).train(training)
    twin = copy.deepcopy(model)
    assert [r.layer for r in convkit.fuse(model).fused] == ["Conv2d, BatchNorm2d, add, relu"]
    for dtype in (torch.float32, torch.bfloat16):
        x = images(2, 4, 6, 6).to(dtype)
        for gradients in (True, False):
            with torch.set_grad_enabled(gradients), torch.autocast("cpu", torch.bfloat16):
                got, want = model(x), twin(x)
            assert got.dtype is want.dtype is torch.bfloat16
            torch.testing.assert_close(got, want, rtol=0.05, atol=0.05)
