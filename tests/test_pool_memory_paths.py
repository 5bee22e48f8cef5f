"""Pooling kernels whose way through memory depends on size and shape: the values must not.

Large gradients are stored past the caches, draws are made for two vectors at a time, and rows of a whole vector are
not turned to channels.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from convkit.backends import get
from convkit.backends.layout import is_channels_last
from convkit.backends.native import Native
from convkit.problem import PoolSpec

native = Native()
pytestmark = pytest.mark.skipif(native.available() is not None, reason=str(native.available()))

LARGE = 8 << 20  # bytes of a gradient that is stored past the caches


def spec_of(kernel: int, stride: int, padding: int) -> PoolSpec:
    return PoolSpec((kernel,) * 2, (stride,) * 2, (padding,) * 2, (padding,) * 2, (1, 1))


def image_by_image(call, *tensors: Tensor) -> Tensor:
    return torch.cat([call(*(t[i : i + 1] for t in tensors)) for i in range(len(tensors[0]))])


@pytest.mark.parametrize("window", [(2, 2, 0), (3, 2, 1)], ids=str)
@pytest.mark.parametrize(
    "layout, shape",
    [
        (torch.channels_last, (3, 32, 160, 160)),
        (torch.channels_last, (3, 40, 160, 160)),  # no whole vectors
        (torch.contiguous_format, (3, 32, 160, 160)),
    ],
    ids=str,
)
def test_large_gradients_are_those_of_their_images(layout, shape, window) -> None:
    torch.manual_seed(0)
    x, spec = torch.randn(shape).to(memory_format=layout), spec_of(*window)
    size, last = shape[2:], is_channels_last(x)
    y, offsets = native.max_pool(x, spec, True, last)
    dy = torch.randn_like(y)

    def of_max(dy: Tensor, offsets: Tensor) -> Tensor:
        return native.pool_select_bwd(dy, offsets, size, spec, last)

    def of_average(dy: Tensor) -> Tensor:
        return native.avg_pool_bwd(dy, size, spec, last)

    assert x.nbytes >= LARGE > x[0].nbytes
    assert torch.equal(of_max(dy, offsets), image_by_image(of_max, dy, offsets))
    assert torch.equal(of_average(dy), image_by_image(of_average, dy))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "layout, shape, window",
    [
        (torch.channels_last, (2, 48, 6, 7), (3, 2, 1)),  # an odd number of vectors
        (torch.channels_last, (2, 81, 6, 6), (2, 2, 0)),  # and a part of one
        (torch.contiguous_format, (2, 3, 6, 96), (2, 2, 0)),
        (torch.contiguous_format, (2, 9, 32, 32), (3, 2, 1)),  # rows of 16
        (torch.contiguous_format, (2, 16, 16, 16), (2, 2, 0)),  # rows of 8
        (torch.contiguous_format, (4, 16, 10, 10), (2, 2, 0)),
    ],
    ids=str,
)
def test_draws_do_not_depend_on_how_many_are_made_at_once(layout, shape, window, dtype) -> None:
    torch.manual_seed(1)
    x = torch.randn(shape).to(dtype).to(memory_format=layout)
    seed, spec, last = torch.tensor(2**40 + 7), spec_of(*window), is_channels_last(x)
    expected = get("reference").stochastic_pool(x, seed, spec, last)
    for ours, theirs in zip(native.stochastic_pool(x, seed, spec, last), expected):
        assert torch.equal(ours, theirs)
