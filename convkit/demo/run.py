"""The demonstration from beginning to end: three acts, one table, pictures, and an exit status."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

import convkit
from convkit.demo import data, pictures
from convkit.demo.agreement import Agreement, compare_networks
from convkit.demo.filters import filter_photographs
from convkit.demo.layers import LayerResult, Times, each_layer, replaced_layers
from convkit.demo.lenet import LeNet5, Run, train
from convkit.demo.resnet import resnet18
from convkit.terminal import Progress, table
from convkit.timing import interleaved

ACCURACY = 0.97
LEGEND = """\
difference: largest difference of convkit and PyTorch in output and gradients, of their largest value; error: convkit's
largest error against float64, in units of what rounding admits; x: how many times as fast as PyTorch;
training: forward and backward; times in milliseconds, medians of calls in turn."""
PHOTOGRAPHS = ("temple", "flower")


def run(out: Path, quick: bool = False, threads: int | None = None) -> int:
    """Runs the demonstration; 0 if the accuracy is reached and everything agrees, else 1.

    ``quick`` trains for three epochs only (without asking for the accuracy) and measures times briefly.
    """
    started = time.perf_counter()
    if threads is not None:
        torch.set_num_threads(threads)
    out.mkdir(parents=True, exist_ok=True)
    seconds = 0.02 if quick else 0.2
    problems: list[str] = []

    print(f"convkit {convkit.__version__}, torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    print("1. LeNet-5 on scikit-learn's handwritten digits, with torch.nn's layers and with convkit's")
    runs, digits = train_both(epochs=3 if quick else 20)
    problems += report_training(runs, 0.0 if quick else ACCURACY)
    pictures.loss_curves(runs, out / "loss_curves.png")
    pictures.filters_and_maps(runs["convkit.nn"].network, digits.test_images[:1], out / "filters_and_maps.png")

    print("\n2. transformers' ResNet-18, converted in place, on scikit-learn's photographs")
    images = data.normalised(data.photographs())
    original = resnet18()
    converted = copy.deepcopy(original)
    print(convkit.convert(converted))
    fused = copy.deepcopy(converted)
    print(f"Fused: {convkit.fuse(fused).summary}")
    agreement = compare_networks(original, converted, images, torch.tensor([497, 985]), fused)
    problems += report_agreement(agreement)

    print("\n3. Sobel and Gaussian filters over the photographs")
    filtered = filter_photographs(data.photographs(size=None))
    for i, name in enumerate(PHOTOGRAPHS):
        pictures.filtered_photograph(filtered, i, f"The {name}", out / f"filtered_{name}.png")
    print(f"   pictures: {', '.join(sorted(str(path) for path in out.glob('*.png')))}")

    print("\nLayer by layer, on the input that each gets in its network")
    lenet = LeNet5(nn).eval()
    lenet.load_state_dict(runs["convkit.nn"].network.state_dict())
    ours = runs["convkit.nn"].network.eval()
    pairs = {
        "LeNet-5": (lenet, ours, digits.test_images[:64]),
        "ResNet-18": (original.eval(), converted.eval(), images),
    }
    problems += report_layers(pairs, seconds, {"ResNet-18": fused.eval()})

    print(f"\n{time.perf_counter() - started:.0f} seconds in all.")
    for problem in problems:
        print(f"FAILED: {problem}")
    if not problems:
        print("Everything agrees.")
    return 1 if problems else 0


def train_both(epochs: int) -> tuple[dict[str, Run], data.Digits]:
    digits = data.digits()
    progress = Progress(2 * epochs)
    runs = {
        name: train(layers, digits, epochs, step=progress.step)
        for name, layers in (("torch.nn", nn), ("convkit.nn", convkit.nn))
    }
    progress.close()
    return runs, digits


def report_training(runs: dict[str, Run], least: float) -> list[str]:
    """Prints the two runs; returns what falls short."""
    rows = [
        [name, f"{r.losses[-1]:.4f}", f"{100 * r.accuracies[-1]:.2f} %", f"{r.seconds:.1f} s"]
        for name, r in runs.items()
    ]
    print(table(("layers", "last loss", "test accuracy", "training"), rows))
    return [
        f"the network of {name} reaches {100 * r.accuracies[-1]:.2f} %, less than {100 * least:.0f} %"
        for name, r in runs.items()
        if r.accuracies[-1] < least
    ]


def report_agreement(agreement: Sequence[Agreement]) -> list[str]:
    """Prints the errors of both networks; returns what disagrees."""
    rows = [[a.quantity, f"{a.pytorch:.1e}", f"{a.convkit:.1e}", "agrees" if a.ok else "DIFFERS"] for a in agreement]
    print(table(("relative error against float64", "PyTorch", "convkit", ""), rows))
    return [f"ResNet-18, {a.quantity}: error {a.convkit:.1e}" for a in agreement if not a.ok]


def report_layers(
    pairs: dict[str, tuple[nn.Module, nn.Module, Tensor]], seconds: float, fused: dict[str, nn.Module]
) -> list[str]:
    """Prints the table of layers, with each network as a whole, and fused, at its end; returns what disagrees."""
    progress = Progress(sum(len(replaced_layers(converted)) for _, converted, _ in pairs.values()))
    rows: list[list[str]] = []
    problems = []
    for network, (original, converted, images) in pairs.items():
        rows.append([f"-- {network}"])
        for result in each_layer(original, converted, images, seconds, progress.step):
            rows.append(_layer_row(result))
            if not result.ok:
                problems.append(f"{network}, {result.name}: {result.error:.2g} times the admissible error")
        whole = [f"on {'x'.join(map(str, images.shape))}", "", "", ""]
        networks = {"PyTorch": original, "convkit": converted}
        if network in fused:
            networks["fused"] = fused[network]
        forward, training = time_networks(networks, images, 3 * seconds), time_training(networks, images, seconds)
        rows.append(["whole network", *whole, *_times(forward), *_times(training)])
        if network in fused:
            rows.append(["whole network, fused", *whole, *_times(forward, "fused"), *_times(training, "fused")])
    progress.close()
    headers = ("layer", "what", "difference", "error", "", "forward: PyTorch", "convkit", "x")
    print(table((*headers, "training: PyTorch", "convkit", "x"), rows, left=(0, 1)))
    print(LEGEND)
    return problems


@torch.no_grad()
def time_networks(networks: dict[str, nn.Module], images: Tensor, seconds: float) -> Times:
    """Forward passes of all networks, taken in turn."""
    return interleaved({who: partial(_forward, network, images) for who, network in networks.items()}, seconds)


def time_training(networks: dict[str, nn.Module], images: Tensor, seconds: float) -> Times:
    """Forward and backward passes in training mode, taken in turn; the networks are left in eval mode."""
    steps = {who: partial(_step, network.train(), images) for who, network in networks.items()}
    times = interleaved(steps, seconds, min_rounds=3, warm_up=1)
    for network in networks.values():
        network.eval().zero_grad()
    return times


def _forward(network: nn.Module, images: Tensor, round_number: int) -> object:
    return network(images)


def _step(network: nn.Module, images: Tensor, round_number: int) -> None:
    output = network(images)
    getattr(output, "logits", output).sum().backward()


def _layer_row(result: LayerResult) -> list[str]:
    agreement = [f"{result.difference:.1e}", f"{result.error:.2f}", "agrees" if result.ok else "DIFFERS"]
    return [_short(result.name), result.what, *agreement, *_times(result.forward), *_times(result.training)]


def _times(times: Times, who: str = "convkit") -> list[str]:
    pytorch, ours = times["PyTorch"].median, times[who].median
    return [f"{1e3 * pytorch:.3f}", f"{1e3 * ours:.3f}", f"{pytorch / ours:.2f}"]


def _short(name: str) -> str:
    """A module's path without the words that every path has."""
    words = [w for w in name.split(".") if w not in ("resnet", "encoder", "layers", "layer", "convolution")]
    return ".".join(words)
