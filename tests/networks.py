"""Small networks of the kinds that people write, input for them, and the comparison of two that should be equal."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class BasicBlock(nn.Module):
    """A residual block as torchvision writes it: one relu for both places, everything in place."""

    def __init__(self, channels: int, out: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.conv2, self.bn2 = nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out)
        self.downsample: nn.Module | None = None
        if stride != 1:
            self.downsample = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        identity = x
        out = self.conv1(x)
        out = self.bn1(out)
        out = self.relu(out)
        out = self.conv2(out)
        out = self.bn2(out)
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


class UNet(nn.Module):
    """Down, up by transposed convolutions, and concatenations; functions for the activations."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.norm1 = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.down2, self.norm2 = nn.Conv2d(4, 8, 3, 2, 1), nn.BatchNorm2d(8)
        self.up, self.norm3 = nn.ConvTranspose2d(8, 4, 4, 2, 1, groups=2), nn.BatchNorm2d(4)
        self.last, self.norm4 = nn.Conv2d(8, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        a = F.leaky_relu(self.norm1(self.down1(x)), 0.1)
        b = torch.tanh(self.norm2(self.down2(a)))
        c = F.elu(self.norm3(self.up(b)), inplace=True)
        return self.norm4(self.last(torch.cat([a, c], 1))).sigmoid()


class DenseLayer(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(channels), nn.Conv2d(channels, 8, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(8), nn.Conv2d(8, 4, 3, padding=1, bias=False)

    def forward(self, features: Tensor | list[Tensor]) -> Tensor:
        previous = [features] if isinstance(features, Tensor) else features
        y = self.conv1(F.relu(self.norm1(torch.cat(previous, 1))))
        return self.conv2(F.relu(self.norm2(y)))


class DenseBlock(nn.Module):
    """DenseNet's: each layer reads the concatenation of all before it, which is given as a list."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([DenseLayer(3 + 4 * i) for i in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self.layers:
            features.append(layer(features))
        return torch.cat(features, 1)


class ListLayer(DenseLayer):
    def forward(self, features: list[Tensor]) -> Tensor:
        return self.conv2(F.relu(self.norm2(self.conv1(F.relu(self.norm1(torch.cat(features, 1)))))))


class ListBlock(DenseBlock):
    """The same with layers that trace, though what they are given is no tensor: the block as a whole is fused."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([ListLayer(3 + 4 * i) for i in range(3)])


class Video(nn.Module):
    """Three dimensions, a residual branch without activation, silu and gelu."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv3d(3, 4, 3, padding=1), nn.BatchNorm3d(4), nn.SiLU(inplace=True))
        self.body = nn.Sequential(
            nn.Conv3d(4, 4, 1), nn.BatchNorm3d(4), nn.GELU(), nn.Conv3d(4, 4, 3, padding=1), nn.BatchNorm3d(4)
        )
        self.head = nn.Sequential(nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 5))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(x + self.body(x))


class Branching(nn.Module):
    """Control flow that no trace can follow, around attributes used in order."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv1d(3, 4, 3, padding=1), nn.BatchNorm1d(4), nn.LeakyReLU(0.2)
        self.conv2, self.bn2, self.nothing = nn.Conv1d(4, 4, 3, padding=1), nn.BatchNorm1d(4), None
        self.conv3, self.bn3 = nn.Conv1d(4, 4, 1), nn.BatchNorm1d(4)
        self.tail = nn.Sequential(nn.Conv1d(4, 4, 1), nn.BatchNorm1d(4), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] != 3:
            raise ValueError("three channels")
        x = self.conv(x)
        if self.norm is not None:
            x = self.norm(x)
        x = self.act(x)
        identity = x
        x = self.bn2(self.conv2(x))
        if self.nothing is not None:
            x = self.nothing(x)
        x += identity
        x = F.relu(x, inplace=True)
        if float(x.detach().sum()) > 0:
            x = self.conv3(x)
            y = self.bn3(x)
            x = x + y
        return self.tail(x)


def images(*size: int) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(3))


def residual_network() -> nn.Module:
    stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
    return nn.Sequential(stem, nn.MaxPool2d(2), BasicBlock(4, 4), BasicBlock(4, 8, 2), BasicBlock(8, 8))


def run(model: nn.Module, x: Tensor, training: bool) -> list[Tensor]:
    """Output, gradients of input and parameters, and buffers afterwards."""
    torch.manual_seed(5)
    x = x.double().requires_grad_()
    output = model.train(training)(x)
    output = getattr(output, "logits", output)
    leaves = [x, *model.parameters()]
    gradients = torch.autograd.grad(output.sin().sum(), leaves, allow_unused=True)
    found = [torch.zeros_like(p) if g is None else g for g, p in zip(gradients, leaves)]
    return [output.detach(), *found, *(b.clone() for b in model.buffers())]


def compare(model: nn.Module, twin: nn.Module, x: Tensor, modes: tuple[bool, ...] = (True, False)) -> None:
    for training in modes:
        results = [run(m, x, training) for m in (model, twin)]
        # Float64: a network of fifty layers loses a few digits of sixteen; a wrong one differs in the first.
        scale = max(float(t.abs().max()) for t in results[1] if t.is_floating_point())
        for got, want in zip(*results):
            torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-9 * scale)
        if not training:
            with torch.no_grad():
                outputs = [getattr(y, "logits", y) for y in (m(x.double()) for m in (model, twin))]
            torch.testing.assert_close(*outputs, rtol=1e-6, atol=1e-9 * scale)
