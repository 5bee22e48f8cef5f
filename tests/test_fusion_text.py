"""fuse on forwards that do not trace: only what their text proves is one operation, and all else runs as written."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import convkit
from tests.networks import images


class Text(nn.Module):
    """What the forwards below are made of; the assertion in each fails with a stand-in for a tensor."""

    SCALE = 2.0

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.same = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Identity()
        self.conv2, self.nothing = nn.Conv2d(4, 4, 1), None
        self.__secret = 3.0


class ReturnsWithTheValueBetween(Text):
    """What is added is the convolution's result, which a run must not read before it is computed."""

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[1] == 4
        x = self.conv(x)
        return F.relu(self.bn(x) + x)


class ReturnsWithANorm(Text):
    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[1] == 4
        x = self.conv(x)
        x = self.bn(x)
        return F.relu(self.conv2(x) + x)


class AddsToAnAlias(Text):
    """``x += y`` before the pattern is seen through the other name."""

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[1] == 4
        y = x * 2
        x = x + 1
        identity = x
        x += y
        x = self.conv(x)
        x = self.bn(x)
        return F.relu(x) + identity


class AddsToAnAliasInARun(Text):
    """The same where a layer that may give its input back stands before."""

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[1] == 4
        y = x * 2
        other = x + 1
        x = other
        x = self.same(x)
        x += y
        x = self.conv(x)
        x = self.bn(x)
        return F.relu(x) + other


class AddsToAPattern(Text):
    """Here nobody else can see what is written."""

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[1] == 4
        y = x
        x = self.conv(x)
        x = self.bn(x)
        x += y
        return F.relu(x)


class PrivateNames(Text):
    def __init__(self) -> None:
        super().__init__()
        self.__secret = 5.0

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[1] == 4
        x = self.conv(x)
        x = self.bn(x)
        return x * self.__secret


class DefaultsOfAClass(Text):
    KIND = Tensor
    FACTOR = 2.0

    def forward(self, x: KIND, factor: float = FACTOR, *, shift: float = FACTOR) -> KIND:
        assert x.shape[1] == 4
        x = self.conv(x)
        x = self.bn(x)
        return x * factor + shift


class AsksForNone(Text):
    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[1] == 4
        x = self.conv(x)
        x = self.bn(x)
        if self.nothing is not None:
            x = self.nothing(x)
        return F.relu(x)


# The model, and how many patterns its text shows with a norm.
MODELS: dict[type[Text], int] = {
    ReturnsWithTheValueBetween: 0,
    ReturnsWithANorm: 1,
    AddsToAnAlias: 1,
    AddsToAnAliasInARun: 1,
    AddsToAPattern: 1,
    PrivateNames: 0,
    DefaultsOfAClass: 1,
    AsksForNone: 1,
}


def assert_same(model: nn.Module, twin: nn.Module, *args: Any, **kwargs: Any) -> None:
    for mode in (True, False):
        for gradients in (True, False):
            with torch.set_grad_enabled(gradients):
                x = images(2, 4, 5, 5).double()
                results = [m.train(mode)(x.clone(), *args, **kwargs) for m in (model, twin)]
            torch.testing.assert_close(*results)


@pytest.mark.parametrize("cls", MODELS, ids=lambda c: c.__name__)
def test_forwards_that_only_text_shows(cls: type[Text]) -> None:
    model = cls().double()
    twin = copy.deepcopy(model)
    with_norm = [r for r in convkit.fuse(model).fused if "Norm" in r.layer]
    assert len(with_norm) == MODELS[cls]
    assert_same(model, twin)


def test_defaults_stay_those_of_the_class() -> None:
    model = DefaultsOfAClass().double()
    twin = copy.deepcopy(model)
    assert convkit.fuse(model).fused
    assert_same(model, twin, 3.0)
    assert_same(model, twin, shift=1.0)


CHANGES: dict[str, Callable[[Any], Any]] = {
    "None no more": lambda m: setattr(m, "nothing", torch.tanh),
    "a module instead of None": lambda m: setattr(m, "nothing", nn.Tanh()),
    "another norm": lambda m: setattr(m, "bn", nn.Identity()),
}


@pytest.mark.parametrize("case", CHANGES)
def test_what_the_text_asks_may_change(case: str) -> None:
    model = AsksForNone().double()
    twin = copy.deepcopy(model)
    assert convkit.fuse(model).fused
    CHANGES[case](model), CHANGES[case](twin)
    assert_same(model, twin)
