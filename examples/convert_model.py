"""Converts a model made of torch.nn's layers in place, trains a step, and converts it back.

python examples/convert_model.py
"""

from __future__ import annotations

import torch
from torch import nn

import convkit


def main() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2, padding=1),
        nn.Conv2d(16, 16, 3, padding=1, groups=16),
        nn.AvgPool2d(2),
        nn.ConvTranspose2d(16, 8, 4, stride=2, padding=1),
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    images = torch.randn(4, 3, 32, 32)
    before = model(images)

    print(convkit.convert(model))  # the optimizer goes on working: the parameters are the same objects
    print(convkit.explain(model, images))
    print(f"largest difference of the outputs: {(model(images) - before).abs().max():.1e}")
    model(images).square().mean().backward()
    optimizer.step()

    print(convkit.revert(model))


if __name__ == "__main__":
    main()
