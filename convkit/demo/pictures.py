"""The demo's pictures. Each function takes finished results and writes one PNG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from convkit.demo.filters import Filtered
from convkit.demo.lenet import LeNet5, Run

BLUE, ORANGE = "#1f5fa8", "#d8702a"


def loss_curves(runs: dict[str, Run], path: Path) -> None:
    """Training loss of both networks over each other, their difference, and the test accuracy."""
    figure = Figure(figsize=(13, 4.2), layout="constrained")
    loss, difference, accuracy = figure.subplots(1, 3)
    styles: dict[str, dict[str, Any]] = {
        "torch.nn": {"color": ORANGE, "linewidth": 3.2, "alpha": 0.6},
        "convkit.nn": {"color": BLUE, "linewidth": 1.1},
    }
    for name, run in runs.items():
        steps_per_epoch = len(run.losses) // len(run.accuracies)
        smooth = _moving_mean(run.losses, steps_per_epoch)
        first = len(run.losses) - len(smooth) + 1
        loss.plot(range(first, len(run.losses) + 1), smooth, label=name, **styles[name])
        epochs = range(1, len(run.accuracies) + 1)
        accuracy.plot(epochs, [100 * a for a in run.accuracies], label=name, marker="o", markersize=4, **styles[name])
    loss.set(title="Training loss (mean over one epoch)", xlabel="step", ylabel="cross-entropy", yscale="log")
    theirs, ours = runs["torch.nn"].losses, runs["convkit.nn"].losses
    gap = [(i + 1, abs(a - b)) for i, (a, b) in enumerate(zip(theirs, ours)) if a != b]
    difference.plot(*zip(*gap), ".", color="0.35", markersize=3)
    difference.set_yscale("log")
    difference.set(title="Difference of the losses, if any", xlabel="step", ylabel="absolute difference")
    accuracy.axhline(97, color="0.5", linewidth=1, linestyle="--")
    accuracy.annotate("97 %", (1, 97.15), fontsize=8, color="0.35")
    accuracy.set(title="Test accuracy", xlabel="epoch", ylabel="per cent", ylim=(85, 100.2))
    accuracy.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in (loss, accuracy):
        axes.legend(loc="best")
    for axes in (loss, difference, accuracy):
        axes.grid(color="0.92")
    figure.suptitle("LeNet-5 on handwritten digits: the same network, seed and data with both sets of layers")
    figure.savefig(path, dpi=110)


def filters_and_maps(network: LeNet5, digit: Tensor, path: Path) -> None:
    """LeNet-5's first filters, and what they and the pooling after them make of one digit (1, 1, 32, 32)."""
    network.eval()
    with torch.no_grad():
        maps = torch.tanh(network.c1(digit))
        pooled = network.s2(maps)
    filters = network.c1.weight.detach()[:, 0]
    figure = Figure(figsize=(13, 5.6), layout="constrained")
    parts: Any = figure.subfigures(1, 2, width_ratios=(1, 3.4))
    left, right = parts
    axes = left.subplots()
    _image(axes, digit[0, 0], "input, 32 x 32", cmap="gray")
    grid = right.subplots(3, len(filters))
    reach = float(filters.abs().max())
    for i in range(len(filters)):
        shown = _image(grid[0, i], filters[i], f"filter {i + 1}", cmap="RdBu_r", vmin=-reach, vmax=reach)
        mapped = _image(grid[1, i], maps[0, i], "", cmap="RdBu_r", vmin=-1, vmax=1)
        _image(grid[2, i], pooled[0, i], "", cmap="RdBu_r", vmin=-1, vmax=1)
    for row, label in enumerate(("C1 filters, 5 x 5", "tanh(C1), 28 x 28", "S2 (mean), 14 x 14")):
        grid[row, 0].set_ylabel(label)
    right.colorbar(shown, ax=list(grid[0]), shrink=0.8, label="weight")
    right.colorbar(mapped, ax=list(grid[1:].flat), shrink=0.5, label="activation")
    figure.suptitle("What the first layers of the trained LeNet-5 look for, and what they find")
    figure.savefig(path, dpi=110)


def filtered_photograph(filtered: Filtered, index: int, name: str, path: Path) -> None:
    """One photograph with Sobel's derivatives, their magnitude, and the Gaussian applied once and ten times."""
    figure = Figure(figsize=(15, 6.6), layout="compressed")
    grid = figure.subplots(2, 3)
    reach = float(filtered.magnitude[index].quantile(0.995))
    signed = {"cmap": "RdBu_r", "vmin": -reach, "vmax": reach}
    grey = {"cmap": "gray", "vmin": 0.0, "vmax": 1.0}
    _image(grid[0, 0], filtered.grey[index, 0], "photograph, grey", **grey)
    across = _image(
        grid[0, 1], filtered.vertical[index, 0], "Sobel, vertical edges: [-1 0 1; -2 0 2; -1 0 1]", **signed
    )
    _image(grid[0, 2], filtered.horizontal[index, 0], "Sobel, horizontal edges: [-1 -2 -1; 0 0 0; 1 2 1]", **signed)
    _image(grid[1, 0], filtered.magnitude[index, 0], "strength of the edges", cmap="gray_r", vmin=0, vmax=reach)
    _image(grid[1, 1], filtered.blurred[index, 0], "Gaussian 5 x 5, once", **grey)
    _image(grid[1, 2], filtered.blurred_more[index, 0], "Gaussian 5 x 5, ten times", **grey)
    figure.colorbar(across, ax=list(grid[0]), shrink=0.7, label="red: brighter right or below")
    figure.suptitle(f"{name}: filtered by convkit.functional.conv2d")
    figure.savefig(path, dpi=100)


def _image(axes: Axes, values: Tensor, title: str, **style: Any) -> Any:
    axes.set_xticks([])
    axes.set_yticks([])
    if title:
        axes.set_title(title, fontsize=10)
    return axes.imshow(values.numpy(), interpolation="nearest", **style)


def _moving_mean(values: list[float], window: int) -> list[float]:
    return torch.tensor(values, dtype=torch.float64).unfold(0, window, 1).mean(1).tolist()
