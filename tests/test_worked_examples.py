"""The lectures' worked examples, to one unit in the last place. Their numbers and sources stand in data/."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import convkit
import convkit.functional as F

EXAMPLES = json.loads((Path(__file__).parent / "data" / "worked_examples.json").read_text())
DTYPES = (torch.float32, torch.float64)
BACKENDS = ("native", "reference")


def examples(operation: str) -> Any:
    cases = EXAMPLES[operation]
    return pytest.mark.parametrize("example", cases, ids=[f"{i}-{c['source']}" for i, c in enumerate(cases)])


def planes(values: list[list[float]], dtype: torch.dtype) -> Tensor:
    return torch.tensor(values, dtype=dtype)[None, None]


def assert_within_one_ulp(actual: Tensor, expected: Tensor) -> None:
    assert actual.shape == expected.shape
    above = torch.nextafter(expected, torch.full_like(expected, float("inf")))
    below = torch.nextafter(expected, torch.full_like(expected, -float("inf")))
    inside = (actual >= below) & (actual <= above)
    # Next to 0 the numbers are denser than the rounding of the terms that cancel there.
    rounding = torch.finfo(expected.dtype).eps * 0.5
    assert bool((inside | ((expected == 0) & (actual.abs() <= rounding))).all()), (actual, expected)


@pytest.mark.parametrize("chosen", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@examples("conv2d")
def test_conv2d(example: dict[str, Any], dtype: torch.dtype, chosen: str) -> None:
    x, w, y = (planes(example[key], dtype) for key in ("input", "weight", "output"))
    result = F.conv2d(x, w, stride=example["stride"], padding=example["padding"], backend=chosen)
    assert_within_one_ulp(result, y)


@pytest.mark.parametrize("chosen", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@examples("conv_transpose2d")
def test_conv_transpose2d(example: dict[str, Any], dtype: torch.dtype, chosen: str) -> None:
    x, w, y = (planes(example[key], dtype) for key in ("input", "weight", "output"))
    arguments = {key: example[key] for key in ("stride", "padding", "output_padding")}
    assert_within_one_ulp(F.conv_transpose2d(x, w, **arguments, backend=chosen), y)


@pytest.mark.parametrize("chosen", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("operation", ["max_pool2d", "avg_pool2d"])
def test_pools(operation: str, dtype: torch.dtype, chosen: str) -> None:
    for example in EXAMPLES[operation]:
        x, y = (planes(example[key], dtype) for key in ("input", "output"))
        result = getattr(F, operation)(x, example["kernel_size"], example["stride"], backend=chosen)
        assert_within_one_ulp(result, y)


@examples("output_size")
def test_output_size(example: dict[str, Any]) -> None:
    n, k = example["n"], example["kernel"]
    x, w = torch.zeros(1, 1, n, n), torch.zeros(1, 1, k, k)
    arguments = {"stride": example["stride"], "padding": example["padding"]}
    assert convkit.output_size(n, k, **arguments) == example["output"]
    assert F.conv2d(x, w, **arguments).shape[2:] == (example["output"], example["output"])
    if example.get("exact", True):
        F.conv2d(x, w, **arguments, strict=True)
    else:
        with pytest.raises(RuntimeError, match="doesn't fit"):
            F.conv2d(x, w, **arguments, strict=True)
        with pytest.raises(RuntimeError, match="doesn't fit"):
            convkit.output_size(n, k, **arguments, strict=True)


@examples("receptive_field")
def test_receptive_field(example: dict[str, Any]) -> None:
    assert convkit.receptive_field(example["layers"]).size == (example["field"],)


def test_smoothing_keeps_a_constant_image() -> None:
    """The Gaussian's weights over 256 sum to 1, exactly; Sobel's sum to 0."""
    kernels = EXAMPLES["kernels"]
    gaussian = torch.tensor(kernels["gaussian_5x5_over_256"])[None, None] / 256
    image = torch.full((1, 1, 12, 9), 3.0)
    assert torch.equal(F.conv2d(image, gaussian), torch.full((1, 1, 8, 5), 3.0))
    for name in ("sobel_vertical", "sobel_horizontal"):
        sobel = torch.tensor(kernels[name], dtype=torch.float32)[None, None]
        assert not F.conv2d(image, sobel).any()
