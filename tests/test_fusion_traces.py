"""What a graph must not hold: whatever may be another way at the next call, or after a change to the model."""

from __future__ import annotations

import copy
import random
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from random import uniform
from types import SimpleNamespace
from typing import Any

import numpy
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch import enable_grad as gradients_on
from torch import no_grad as gradients_off
from torch.utils.checkpoint import checkpoint as again

import convkit
from convkit.fusion.tracing import Untraceable, trace
from tests.networks import images


class Layers(nn.Module):
    """A pattern, and what a forward may ask beside it."""

    by_class = 1.0

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.register_buffer("flag", torch.tensor(True))
        self.gamma = nn.Parameter(torch.tensor(2.0))
        self.register_buffer("mask", None)
        self.scale, self.share, self.name, self.nothing = 1.0, 0.25, "plus", None
        self.steps, self.options, self.settings = [1, 2], {"scale": 1.0}, SimpleNamespace(scale=1.0)
        self.drop, self.more = nn.Dropout(0.5), nn.ModuleList([nn.Conv2d(3, 3, 1)])

    def pattern(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))

    @gradients_off()
    def without_gradient(self, x: Tensor) -> Tensor:
        return self.pattern(x)

    def by_mode(self, x: Tensor) -> Tensor:
        return self.pattern(x) * 3 if self.training else self.pattern(x)

    @property
    def drawn(self) -> float:
        return random.random()


def of(forward: Callable[..., Any]) -> Layers:
    """Layers with this forward."""
    model: Layers = type("Case", (Layers,), {"forward": forward})()
    return model


def drawn_branch(self: Any, x: Tensor) -> Tensor:
    y = self.pattern(x)
    return y if torch.rand(1).item() < 0.5 else x


def drawn_and_caught(self: Any, x: Tensor) -> Tensor:
    scale = 1.0
    with suppress(Exception):
        scale = torch.rand(1).item()
    return self.pattern(x) * scale


def asks_a_buffer(self: Any, x: Tensor) -> Tensor:
    return self.pattern(x) if self.flag else x


def in_autocast(self: Any, x: Tensor) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        return self.pattern(x)


def under(mode: Callable[[], Any]) -> Callable[..., Any]:
    def forward(self: Any, x: Tensor) -> Tensor:
        with mode():
            return self.pattern(x)

    return forward


def asks_the_type(self: Any, x: Tensor) -> Tensor:
    return self.pattern(x) * 2 if type(x) is Tensor else self.pattern(x)


def seeds(self: Any, x: Tensor) -> Tensor:
    torch.manual_seed(0)
    return self.pattern(x)


UNTRACED: dict[str, tuple[Callable[..., Any], str]] = {
    "a branch that is drawn": (drawn_branch, "aten.rand.default computes"),
    "a number that is drawn": (lambda m, x: m.pattern(x) * torch.rand(1).item(), "aten.rand.default computes"),
    "drawn, and errors caught": (drawn_and_caught, "aten.rand.default computes"),
    "a buffer's value": (asks_a_buffer, "computes with something else"),
    "drawn by Python": (lambda m, x: m.pattern(x) * uniform(0, 1), "random numbers are drawn"),
    "drawn by NumPy": (lambda m, x: m.pattern(x) * numpy.random.rand(), "random numbers are drawn"),
    "drawn by a property": (lambda m, x: m.pattern(x) * m.drawn, "random numbers are drawn"),
    "a seed": (seeds, "random numbers are drawn"),
    "a parameter's dtype": (lambda m, x: m.pattern(x.to(next(m.parameters()).dtype)), "asked for its dtype"),
    "no gradient, as a decorator": (gradients_off()(lambda m, x: m.pattern(x)), "mode of gradients"),
    "no gradient, in a method": (lambda m, x: m.without_gradient(x), "mode of gradients"),
    "no gradient": (under(gradients_off), "mode of gradients"),
    "gradients again": (under(gradients_on), "mode of gradients"),
    "inference mode": (under(torch.inference_mode), "a mode of autocast, inference"),
    "autocast": (in_autocast, "a mode of autocast"),
    "autocast, as a decorator": (torch.autocast("cpu", enabled=False)(lambda m, x: m.pattern(x)), "a mode of autocast"),
    "a checkpoint": (lambda m, x: again(m.pattern, x, use_reentrant=False), "saved tensors is changed"),
    "the type of the input": (asks_the_type, "uses 'type'"),
    "an ordered result": (lambda m, x: OrderedDict(out=m.pattern(x)), "a OrderedDict is made"),
    "an object's attribute": (lambda m, x: m.pattern(x) * m.settings.scale, "reads 'settings', and a SimpleNamespace"),
}


def outcome(model: nn.Module, x: Tensor) -> list[Any]:
    """Results of several calls, and what they are, from the same random numbers."""
    torch.manual_seed(1), random.seed(1), numpy.random.seed(1)
    found: list[Any] = []
    for region in (torch.enable_grad, torch.no_grad, lambda: torch.autocast("cpu", torch.bfloat16)):
        for _ in range(3):
            with region():
                y = model(x)
            found.append(type(y))
            y = y["out"] if isinstance(y, dict) else y
            found += [y.detach().float(), y.dtype, y.requires_grad]
    return found


def assert_same(model: nn.Module, twin: nn.Module, x: Tensor) -> None:
    for got, want in zip(outcome(model, x), outcome(twin, x)):
        if isinstance(want, Tensor):
            torch.testing.assert_close(got, want, rtol=0.02, atol=0.02)  # bfloat16; what is fixed differs by halves
        else:
            assert got == want


@pytest.mark.parametrize("case", UNTRACED)
def test_what_a_call_finds_out_is_not_fixed(case: str) -> None:
    forward, reason = UNTRACED[case]
    model = of(forward)
    twin, states = copy.deepcopy(model), (random.getstate(), torch.get_rng_state().tolist())
    with pytest.raises(Untraceable, match=reason):
        trace(model)
    convkit.fuse(model)
    assert states == (random.getstate(), torch.get_rng_state().tolist())
    assert torch.is_grad_enabled() and "__getattribute__" not in vars(nn.Module)
    assert_same(model, twin, images(2, 3, 5, 5))


def test_a_dtype_is_no_question() -> None:
    """``x.type(...)`` converts; only the built-in function asks."""
    model = of(lambda m, x: m.pattern(x.type(torch.float32)))
    assert len(convkit.fuse(model).fused) == 1


class Outer(nn.Module):
    """Calls methods of a module that it does not call."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.tail = Layers(), nn.Conv2d(3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(self.inner.by_mode(x))


def steps(self: Any, x: Tensor) -> Tensor:
    x = self.pattern(x)
    for step in self.steps:
        x = x * step
    return x


def through_children(self: Any, x: Tensor) -> Tensor:
    x = self.pattern(x)
    for layer in self.more:
        x = layer(x)
    return x


# A forward, and a change after its fusion. All of these fuse.
CHANGES: dict[str, tuple[Callable[[], nn.Module], Callable[[Any], Any]]] = {
    "a number": (lambda: of(lambda m, x: m.pattern(x) * m.scale), lambda m: setattr(m, "scale", 3.0)),
    "a share": (
        lambda: of(lambda m, x: F.dropout(m.pattern(x), m.share, m.training)),
        lambda m: setattr(m, "share", 0.875),
    ),
    "a name": (
        lambda: of(lambda m, x: m.pattern(x) * (2 if m.name == "plus" else -2)),
        lambda m: setattr(m, "name", "minus"),
    ),
    "a class's default": (
        lambda: of(lambda m, x: m.pattern(x) * m.by_class),
        lambda m: setattr(m, "by_class", 3.0),
    ),
    "by name": (lambda: of(lambda m, x: m.pattern(x) * getattr(m, "sc" + "ale")), lambda m: setattr(m, "scale", 3.0)),
    "a new one": (
        lambda: of(lambda m, x: m.pattern(x) * getattr(m, "later", 1.0)),
        lambda m: setattr(m, "later", 3.0),
    ),
    "a deleted one": (
        lambda: of(lambda m, x: m.pattern(x) * (3.0 if hasattr(m, "scale") else 1.0)),
        lambda m: delattr(m, "scale"),
    ),
    "a list": (lambda: of(steps), lambda m: m.steps.append(3)),
    "a dict": (lambda: of(lambda m, x: m.pattern(x) * m.options["scale"]), lambda m: m.options.update(scale=3.0)),
    "a parameter that goes": (
        lambda: of(lambda m, x: m.pattern(x) if m.gamma is None else m.pattern(x) * m.gamma),
        lambda m: setattr(m, "gamma", None),
    ),
    "a buffer that comes": (
        lambda: of(lambda m, x: m.pattern(x) if m.mask is None else m.pattern(x) * m.mask),
        lambda m: setattr(m, "mask", torch.tensor(3.0)),
    ),
    "what was None": (
        lambda: of(lambda m, x: m.pattern(x) if m.nothing is None else m.nothing(m.pattern(x))),
        lambda m: setattr(m, "nothing", torch.tanh),
    ),
    "an attribute of a module that is not called": (
        lambda: of(lambda m, x: F.dropout(m.pattern(x), m.drop.p, m.drop.training)),
        lambda m: setattr(m.drop, "p", 0.875),
    ),
    "the mode of a module that is not called": (
        lambda: of(lambda m, x: F.dropout(m.pattern(x), m.drop.p, m.drop.training)),
        lambda m: m.drop.eval(),
    ),
    "one child more": (lambda: of(through_children), lambda m: m.more.append(nn.Tanh())),
    "a norm, reached by a method": (Outer, lambda m: setattr(m.inner, "bn", nn.Identity())),
    "a convolution, reached by a method": (Outer, lambda m: setattr(m.inner, "conv", nn.AvgPool2d(3, 1, 1))),
    "a mode, reached by a method": (Outer, lambda m: m.inner.eval()),
}


@pytest.mark.parametrize("compiled", [False, True], ids=["called", "compiled"])
@pytest.mark.parametrize("case", CHANGES)
def test_what_was_read_of_a_module_may_change(case: str, compiled: bool) -> None:
    make, change = CHANGES[case]
    model = make()
    twin, x = copy.deepcopy(model), images(2, 3, 5, 5)
    assert len(convkit.fuse(model).fused) == 1
    fused: Any = vars(model)["forward"]
    torch._dynamo.reset()
    call = torch.compile(model, backend="eager", fullgraph=True) if compiled else model
    for changed in (False, True):
        if changed:
            change(model), change(twin)
        assert (fused.program((x,), {}) is None) == changed
        results = []
        for m in (call, twin):
            torch.manual_seed(1)
            with torch.no_grad():
                results.append(m(x))
        torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", CHANGES)
def test_copies_notice_their_own_changes(case: str) -> None:
    make, change = CHANGES[case]
    model, x = make(), images(2, 3, 5, 5)
    convkit.fuse(model)
    programs: list[Any] = []
    for m in (copy.deepcopy(model), model):
        change(m)
        programs += [vars(each)["forward"].program((x,), {}) for each in (m, model)]
    assert [p is None for p in programs] == [True, False, True, True]


def test_an_attribute_of_a_class_may_change() -> None:
    """Not in compiled code: torch.compile does not notice it either."""
    model, x = of(lambda m, x: m.pattern(x) * m.by_class), images(2, 3, 5, 5)
    convkit.fuse(model)
    y = model(x)
    type(model).by_class = 3.0
    torch.testing.assert_close(model(x), 3 * y)


class Tail(nn.Module):
    """A pattern, and a method behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def tail(self, v: Tensor) -> Tensor:
        return torch.relu(v)

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(self.bn(self.conv(x)))


class Twice(Tail):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


@pytest.mark.parametrize("within", (False, True))
def test_a_method_may_be_replaced(within: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the object, on its class, or with another class; back as it was, the fused code runs again."""
    inner, x = Tail().eval(), images(2, 3, 5, 5)
    model = nn.Sequential(inner, nn.Flatten()) if within else inner
    expected = model(x)
    convkit.fuse(model)

    def fused() -> bool:
        forward = vars(inner).get("forward") or vars(model).get("forward")
        return forward is not None and forward.program((x,), {}) is not None

    assert fused()
    with monkeypatch.context() as patch:
        patch.setattr(inner, "tail", lambda v: torch.relu(v) * 3)
        torch.testing.assert_close(model(x), 3 * expected)
        patch.undo()
        patch.setattr(Tail, "tail", lambda self, v: torch.relu(v) * 5)
        torch.testing.assert_close(model(x), 5 * expected)
        patch.undo()
        patch.setattr(Tail, "forward", lambda self, x: self.bn(self.conv(x)).exp())
        torch.testing.assert_close(model(x), inner.bn(inner.conv(x)).exp().reshape(expected.shape))
    inner.__class__ = Twice
    torch.testing.assert_close(model(x), 2 * expected)
    inner.__class__ = Tail
    torch.testing.assert_close(model(x), expected)
    assert fused()
