"""The demo's pieces, in short form. What needs the demo's own packages runs where they are installed."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

import convkit
from convkit.demo.agreement import FACTOR, Agreement, compare_networks
from convkit.demo.filters import GAUSSIAN, filter_photographs
from convkit.demo.layers import each_layer
from convkit.demo.lenet import LeNet5


def small_pair() -> tuple[LeNet5, LeNet5]:
    torch.manual_seed(0)
    original, converted = LeNet5(nn), LeNet5(convkit.nn)
    converted.load_state_dict(original.state_dict())
    return original, converted


def test_networks_agree_and_a_changed_weight_shows() -> None:
    images, labels = torch.rand(3, 1, 32, 32), torch.tensor([1, 2, 3])
    original, converted = small_pair()
    agreement = compare_networks(original, converted, images, labels)
    assert {a.quantity.split(":")[0] for a in agreement} == {"eval", "train"}
    assert all(a.ok for a in agreement)
    with torch.no_grad():
        converted.c3.weight[0, 0, 0, 0] += 1e-3
    assert not any(a.ok for a in compare_networks(original, converted, images, labels))


def test_agreement_is_lost_beyond_the_factor_and_by_nan() -> None:
    assert Agreement("output", 1e-6, FACTOR * 1e-6).ok
    assert not Agreement("output", 1e-6, (FACTOR + 1) * 1e-6).ok
    assert not Agreement("output", 1e-6, float("nan")).ok


def test_every_layer_is_compared_and_timed() -> None:
    original, converted = small_pair()
    results = list(each_layer(original, converted, torch.rand(2, 1, 32, 32), seconds=0.0))
    assert [r.name for r in results] == ["c1", "s2", "c3", "s4", "c5"]
    assert all(r.ok for r in results)
    with torch.no_grad():
        converted.c3.weight[0, 0, 0, 0] += 1e-3  # then the two compute different things, and each its own rightly
    changed = {r.name: r for r in each_layer(original, converted, torch.rand(2, 1, 32, 32), seconds=0.0)}
    assert changed["c3"].difference > 1e-4 > changed["c1"].difference


def test_filters_find_an_edge_and_keep_brightness() -> None:
    image = torch.zeros(1, 3, 12, 16)
    image[..., 8:] = 1.0  # dark left, bright right
    filtered = filter_photographs(image)
    assert torch.allclose(filtered.vertical[0, 0, :, 6:8], torch.tensor(4.0))  # 1 + 2 + 1, on both sides of the edge
    assert filtered.vertical[..., :6].abs().max() < 1e-6
    assert filtered.horizontal.abs().max() < 1e-6
    assert GAUSSIAN.sum() == 1.0
    blurred = filtered.blurred_more[0, 0]
    assert torch.allclose(blurred + blurred.flip(1), torch.ones(12, 16))  # dark gains what bright loses
    assert bool((blurred.diff(dim=1) > 0).all())  # no edge is left


def test_every_kind_of_layer_of_a_residual_network_is_compared() -> None:
    layers = (nn.Conv2d(3, 4, 3, 2, 1), nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d((1, 1)))
    original = nn.Sequential(*layers)
    converted = copy.deepcopy(original)
    assert len(convkit.convert(converted).replaced) == len(layers)
    results = list(each_layer(original, converted, torch.randn(2, 3, 40, 40), seconds=0.0))
    assert len(results) == len(layers) and all(r.ok for r in results)
    assert results[-1].what == "AdaptiveAvgPool2d to 1x1 on 2x4x5x5"


def test_quick_demo_runs_from_end_to_end(tmp_path: Path) -> None:
    for package in ("matplotlib", "sklearn", "transformers"):
        pytest.importorskip(package, reason="a package of the extra convkit[demo]")
    from convkit.demo import data, pictures
    from convkit.demo.lenet import train

    digits = data.digits()
    assert len(digits.train_labels) + len(digits.test_labels) == 1797
    few = digits._replace(train_images=digits.train_images[:128], train_labels=digits.train_labels[:128])
    runs = {name: train(layers, few, epochs=2) for name, layers in (("torch.nn", nn), ("convkit.nn", convkit.nn))}
    theirs, ours = (torch.tensor(run.losses) for run in runs.values())
    assert torch.allclose(theirs, ours, rtol=1e-3)
    assert ours[-1] < ours[0]
    pictures.loss_curves(runs, tmp_path / "loss.png")
    pictures.filters_and_maps(runs["convkit.nn"].network, digits.test_images[:1], tmp_path / "maps.png")
    photographs = data.photographs(size=64)
    assert photographs.shape == (2, 3, 64, 64)
    pictures.filtered_photograph(filter_photographs(photographs), 0, "A photograph", tmp_path / "filtered.png")
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in tmp_path.iterdir())
    assert len(list(tmp_path.iterdir())) == 3
