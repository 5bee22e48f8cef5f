"""fuse on single forwards: what stands in a graph around a pattern, and what is added to it."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import convkit
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
}


@pytest.mark.parametrize("case", FORWARDS)
def test_what_is_around_a_pattern(case: str) -> None:
    body, parts = FORWARDS[case]
    torch.manual_seed(0)
    model = Layers(body).double()
    twin = copy.deepcopy(model)
    assert [r.layer for r in convkit.fuse(model).fused] == parts
    compare(model, twin, images(2, 3, 6, 6))
