"""LeNet-5 (LeCun et al., 1998), written once for any set of layers: torch.nn's or convkit.nn's."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from convkit.demo.data import Digits


class LeNet5(nn.Module):
    """Images (N, 1, 32, 32) to logits (N, 10). ``layers`` provides Conv2d and AvgPool2d."""

    def __init__(self, layers: ModuleType) -> None:
        super().__init__()
        self.c1: nn.Conv2d = layers.Conv2d(1, 6, 5)
        self.s2: nn.AvgPool2d = layers.AvgPool2d(2)
        self.c3: nn.Conv2d = layers.Conv2d(6, 16, 5)
        self.s4: nn.AvgPool2d = layers.AvgPool2d(2)
        self.c5: nn.Conv2d = layers.Conv2d(16, 120, 5)
        self.f6 = nn.Linear(120, 84)
        self.output = nn.Linear(84, 10)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.s2(torch.tanh(self.c1(images)))
        maps = self.s4(torch.tanh(self.c3(maps)))
        features = torch.tanh(self.c5(maps)).flatten(1)
        return self.output(torch.tanh(self.f6(features)))


class Run(NamedTuple):
    """A trained network, the mean loss of each step, its test accuracy after each epoch, and the seconds it took."""

    network: LeNet5
    losses: list[float]
    accuracies: list[float]
    seconds: float


def train(
    layers: ModuleType,
    data: Digits,
    epochs: int = 20,
    batch: int = 32,
    rate: float = 2e-3,
    seed: int = 0,
    step: Callable[[str], None] = lambda label: None,
) -> Run:
    """Trains a LeNet-5; the seed fixes first weights, order and shifts of the data, whatever the layers.

    Each batch is shifted by up to two pixels, so that the network learns shapes rather than places.
    """
    torch.manual_seed(seed)
    network = LeNet5(layers)
    optimizer = torch.optim.Adam(network.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    order = torch.Generator().manual_seed(seed)
    losses, accuracies = [], []
    started = time.perf_counter()
    for epoch in range(epochs):
        network.train()
        for chosen in torch.randperm(len(data.train_labels), generator=order).split(batch):
            shift = torch.randint(-2, 3, (2,), generator=order).tolist()
            images = data.train_images[chosen].roll(shift, (2, 3))
            loss = cross_entropy(network(images), data.train_labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        schedule.step()
        accuracies.append(accuracy(network, data.test_images, data.test_labels))
        step(f"{layers.__name__} epoch {epoch + 1}")
    return Run(network, losses, accuracies, time.perf_counter() - started)


@torch.no_grad()
def accuracy(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """The share of images whose largest logit is the label's."""
    network.eval()
    return (network(images).argmax(1) == labels).float().mean().item()
