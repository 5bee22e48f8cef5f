"""Cases and calls of the operations on flat indices: unpooling, gathering, scattering, fractional pooling."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import torch
from torch import Tensor

from convkit.testing.layouts import LAYOUTS
from convkit.testing.oracle import Call, Sizes, data


@dataclass(frozen=True)
class IndexCase:
    """Indices (N, C, *spatial) into planes of size ``plane``."""

    name: str
    why: str
    indices: Sizes
    plane: Sizes
    order: str  # "rising", as a pooling gives them; "random", with repetitions; "one": all the same

    @property
    def dims(self) -> int:
        return len(self.plane)


@dataclass(frozen=True)
class FractionalCase:
    """A fractional pooling of an input (N, C, *spatial) to ``output`` windows of size ``kernel``."""

    name: str
    why: str
    input: Sizes
    kernel: Sizes
    output: Sizes

    @property
    def dims(self) -> int:
        return len(self.kernel)


INDICES = (
    IndexCase("rising_2d", "what max_pool2d gives: the ordinary case", (2, 3, 4, 5), (8, 10), "rising"),
    IndexCase("rising_1d", "the same in one dimension", (2, 3, 9), (18,), "rising"),
    IndexCase("rising_3d", "the same in three dimensions", (2, 3, 2, 3, 4), (4, 6, 8), "rising"),
    IndexCase("random_2d", "places in any order, some named twice", (2, 5, 6, 7), (5, 8), "random"),
    IndexCase("random_1d", "the same in one dimension", (3, 2, 40), (30,), "random"),
    IndexCase("random_3d", "the same in three dimensions", (1, 4, 3, 4, 5), (4, 3, 6), "random"),
    IndexCase("one_place", "every value to one place: a sum of all, the last of all", (2, 3, 5, 7), (3, 4), "one"),
    IndexCase("channels_17", "channels beside a vector's width", (2, 17, 5, 4), (7, 9), "random"),
    IndexCase("channels_64", "whole vectors of channels, in blocks", (1, 64, 6, 5), (11, 9), "rising"),
    IndexCase("channels_1", "one plane per image", (3, 1, 6, 7), (12, 13), "rising"),
    IndexCase("long_run", "more indices in a plane than are read at once", (1, 2, 50, 60), (70, 61), "rising"),
    IndexCase("long_random", "the same in any order", (1, 3, 45, 50), (60, 64), "random"),
    IndexCase("few_planes", "two planes, in bands of positions", (1, 2, 60, 70), (300, 280), "random"),
    IndexCase("enlarging", "more indices than places, as an upsampling reads", (1, 2, 9, 11), (3, 2), "random"),
    IndexCase("one_row", "height 1", (2, 2, 1, 19), (1, 40), "rising"),
    IndexCase("one_column", "width 1", (2, 2, 19, 1), (40, 1), "rising"),
    IndexCase("single", "all sizes 1", (1, 1, 1), (1,), "one"),
    IndexCase("planes_many", "more planes than threads", (5, 7, 3, 3), (6, 6), "rising"),
    IndexCase("batch_0", "an empty batch", (0, 3, 2, 3), (4, 6), "rising"),
)

FRACTIONAL = (
    FractionalCase("plain_2d", "the smallest ordinary case", (2, 3, 9, 11), (2, 3), (5, 4)),
    FractionalCase("plain_1d", "convkit's own one dimension", (2, 3, 17), (3,), (7,)),
    FractionalCase("plain_3d", "the same in three dimensions", (2, 2, 6, 7, 8), (2, 2, 3), (3, 4, 4)),
    FractionalCase("graham", "windows of 2 at a ratio of about 0.7", (1, 4, 25, 25), (2, 2), (17, 17)),
    FractionalCase("one_output", "one window, at the end of the input", (2, 3, 7, 8), (3, 2), (1, 1)),
    FractionalCase("two_outputs", "one window at each end", (1, 2, 9, 8), (2, 2), (2, 2)),
    FractionalCase("exact_fit", "as many windows as fit: every step is 1", (1, 2, 8, 9), (3, 2), (6, 8)),
    FractionalCase("whole_plane", "the window is the plane", (2, 3, 4, 5), (4, 5), (1, 1)),
    FractionalCase("gaps", "few small windows: most elements are never read", (1, 3, 31, 40), (1, 2), (4, 3)),
    FractionalCase("wide", "windows that start in several vectors", (1, 2, 5, 150), (2, 3), (3, 90)),
    FractionalCase("large_window", "a window larger than a vector", (1, 2, 24, 25), (20, 19), (3, 5)),
    FractionalCase("channels_17", "channels beside a block of planes", (1, 17, 6, 7), (2, 2), (4, 4)),
    FractionalCase("one_column", "width 1", (1, 3, 20, 1), (2, 1), (9, 1)),
    FractionalCase("long_1d", "one long row", (1, 2, 1000), (3,), (611,)),
    FractionalCase("batch_0", "an empty batch", (0, 3, 6, 7), (2, 2), (3, 3)),
    FractionalCase("no_output", "PyTorch allows no windows at all", (1, 2, 6, 7), (2, 2), (0, 3)),
)


def indices_of(case: IndexCase, unnamed: bool) -> Tensor:
    """The case's indices; with ``unnamed`` some name no element: -1, as empty windows give, and worse."""
    generator = torch.Generator().manual_seed(zlib.crc32(case.name.encode()))
    volume = int(torch.Size(case.plane).numel())
    flat = torch.randint(0, volume, (*case.indices[:2], torch.Size(case.indices[2:]).numel()), generator=generator)
    if case.order == "rising":
        flat = flat.sort(-1).values
    elif case.order == "one":
        flat = flat[..., :1].expand_as(flat)
    if unnamed:
        which = torch.rand(flat.shape, generator=generator)
        flat = torch.where(which < 0.2, -1, torch.where(which > 0.95, volume + 3, flat))
    return flat.reshape(case.indices)


def index_calls(case: IndexCase, dtype: torch.dtype, layout: str = "contiguous", exact: bool = False) -> list[Call]:
    """max_unpool with valid indices; the other two also with indices that name nothing."""
    place, last = LAYOUTS[layout], layout == "channels_last"
    small = place(data(case.indices, dtype, case.name + " small", exact))
    large = place(data((*case.indices[:2], *case.plane), dtype, case.name + " large", exact))
    # Layouts that repeat elements are none for indices that are to be different.
    valid, some = (
        (LAYOUTS["sliced"] if layout.startswith("expanded") else place)(indices_of(case, unnamed))
        for unnamed in (False, True)
    )
    calls = [
        Call("max_unpool", {"x": small, "indices": valid, "output_size": case.plane, "channels_last": last}),
    ]
    for indices in (valid, some):
        calls += [
            Call("plane_gather", {"x": large, "indices": indices, "channels_last": last}),
            Call("plane_scatter", {"dy": small, "indices": indices, "input_size": case.plane, "channels_last": last}),
        ]
    return calls


def fractional_calls(
    case: FractionalCase, dtype: torch.dtype, layout: str = "contiguous", exact: bool = False
) -> list[Call]:
    """fractional_max_pool with and without indices; small integers (``exact``) make ties."""
    x = LAYOUTS[layout](data(case.input, dtype, case.name + " x", exact))
    generator = torch.Generator().manual_seed(zlib.crc32(case.name.encode()))
    uniform = torch.rand((*case.input[:2], case.dims), generator=generator, dtype=torch.float64)
    shared = {
        "x": x,
        "samples": LAYOUTS["sliced"](uniform.to(dtype)),
        "kernel_size": case.kernel,
        "output_size": case.output,
        "channels_last": layout == "channels_last",
    }
    return [Call("fractional_max_pool", {**shared, "with_indices": wanted}) for wanted in (True, False)]


def flat_calls(dtype: torch.dtype, layout: str = "contiguous", exact: bool = False) -> list[tuple[str, Call]]:
    """Every call of this file with its case's name, in a floating dtype."""
    found = [(c.name, call) for c in INDICES for call in index_calls(c, dtype, layout, exact)]
    return found + [(c.name, call) for c in FRACTIONAL for call in fractional_calls(c, dtype, layout, exact)]
