"""The Triton implicit GEMM's ways over a problem: tiles in groups, several per program, and operands as boxes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from convkit.backends.base import Backend
from convkit.backends.triton import tiles
from convkit.testing.cases import ConvCase
from convkit.testing.norms import stats_calls
from convkit.testing.oracle import Call, conv_calls
from tests.on_device import DEVICE
from tests.test_raw_ops import assert_right

SMALL = tiles.Tile(32, 16, 16, 4, 2, group=2)
Launches = list[tuple[int, dict[str, Any]]]


@pytest.fixture
def launches(triton: Backend, monkeypatch: pytest.MonkeyPatch) -> Launches:
    """The implicit GEMMs that a test launches: number of programs, and constants."""
    from convkit.backends.triton import launch

    seen: Launches = []
    runner = launch.runner

    def watch(kernel: Any, programs: int, device: int, args: tuple[Any, ...], meta: dict[str, Any]) -> Any:
        if "FILTER_BOX" in meta:
            seen.append((programs, meta))
        return runner(kernel, programs, device, args, meta)

    monkeypatch.setattr(launch, "runner", watch)
    return seen


@pytest.mark.parametrize("programs", (0, 4, 1000), ids=lambda p: f"{p} programs" if p else "one each")
@pytest.mark.parametrize("size", ((1, 1, 1), (7, 3, 2), (1, 5, 1), (9, 1, 1)), ids=str)
def test_triton_takes_each_tile_once(size: tuple[int, int, int], programs: int, triton: Backend) -> None:
    """And in groups of four row tiles, column by column."""
    from tests.triton_kernels import count_tiles_kernel

    tiles_m, tiles_n, copies = size
    total = tiles_m * tiles_n * copies
    counts, turns = (torch.zeros(copies, tiles_m, tiles_n, dtype=torch.int32, device=DEVICE) for _ in range(2))
    grid = (min(programs, total) if programs else total,)
    count_tiles_kernel[grid](counts, turns, copies, tiles_m, tiles_n, GROUP=4, PERSISTENT=programs > 0)
    assert bool((counts == 1).all())
    for first in range(0, tiles_m, 4):
        group = turns[0, first : first + 4].T.flatten()
        assert group.tolist() == list(range(first * tiles_n, first * tiles_n + group.numel()))


#: (case, dtype, layout, whether boxes: of x in fprop, of dy in dgrad, of the filter)
BOXED = (
    (ConvCase("padded", "", (2, 16, 8, 8), (24, 16, 3, 3), padding=1), torch.bfloat16, "channels_last", (1, 1, 1)),
    (ConvCase("strided", "", (2, 16, 8, 9), (16, 16, 3, 3), 2, 1), torch.float32, "channels_last", (0, 1, 1)),
    (ConvCase("phases", "", (4, 16, 8, 8), (16, 16, 3, 2), 2, (1, 0)), torch.float16, "channels_last", (0, 1, 1)),
    (ConvCase("one row", "", (3, 32, 5, 7), (32, 16, 1, 1), groups=2), torch.float16, "channels_last", (1, 1, 1)),
    (ConvCase("volume", "", (2, 16, 4, 4, 4), (16, 16, 1, 3, 1), 1, (0, 2, 0), (1, 2, 1)), torch.bfloat16,
     "channels_last", (1, 1, 1)),
    (ConvCase("last slice", "", (4, 24, 8), (24, 24, 3), padding=1), torch.bfloat16, "channels_last", (1, 1, 1)),
    (ConvCase("unaligned", "", (2, 20, 8, 8), (20, 20, 1, 1)), torch.float16, "channels_last", (0, 0, 0)),
    (ConvCase("planes", "", (2, 16, 8, 8), (16, 16, 3, 1), padding=(1, 0)), torch.float32, "contiguous", (0, 0, 0)),
    (ConvCase("beyond edges", "", (1, 16, 5, 5), (16, 16, 1, 3), 1, (0, 1)), torch.float16, "channels_last", (0, 0, 1)),
)  # fmt: skip


@pytest.mark.parametrize(("case", "dtype", "layout", "boxed"), BOXED, ids=lambda v: getattr(v, "name", ""))
def test_triton_copies_boxes(
    case: ConvCase,
    dtype: torch.dtype,
    layout: str,
    boxed: tuple[int, int, int],
    triton: Backend,
    reference: Backend,
    launches: Launches,
) -> None:
    """Where they are boxes, with pointers elsewhere; several tiles per program and one."""
    fprop, _, dgrad, *_ = conv_calls(case, dtype, layout)
    for persistent in (0, 1):
        with tiles.forced(tile=SMALL._replace(boxes=1, persistent=persistent)):
            assert_right(fprop if persistent else dgrad, triton, reference)
    if DEVICE == "cpu" or torch.cuda.get_device_capability() >= tiles.BOXES_FROM:
        (_, backwards), (_, forwards) = launches
        assert (forwards["BOX"].there, backwards["BOX"].there) == boxed[:2]
        assert forwards["FILTER_BOX"] == backwards["FILTER_BOX"] == boxed[2]


@pytest.mark.parametrize("op", (0, 2), ids=("fprop", "dgrad"))
def test_triton_takes_several_tiles_per_program(
    op: int, triton: Backend, reference: Backend, launches: Launches, monkeypatch: pytest.MonkeyPatch
) -> None:
    from convkit.backends.triton import conv_igemm

    monkeypatch.setattr(conv_igemm, "multiprocessors", lambda device: 3)
    case = ConvCase("", "", (3, 6, 7, 5), (34, 3, 2, 2), (2, 1), groups=2)
    with tiles.forced(tile=SMALL._replace(persistent=2)):
        assert_right(conv_calls(case, torch.float32)[op], triton, reference)
    ((programs, meta),) = launches
    assert programs == 6 and meta["PERSISTENT"]


def test_triton_boxes_of_a_group_leave_the_next_one_alone(triton: Backend, launches: Launches) -> None:
    """A slice of 16 of a group's 24 channels would reach into the next: its infinities must not become NaN."""
    case = ConvCase("", "", (2, 48, 4, 4), (32, 24, 1, 1), groups=2)
    call = conv_calls(case, torch.float16, "channels_last")[0]
    call.arguments["w"].abs_()
    call.arguments["x"][:, 24:] = float("inf")
    with tiles.forced(tile=SMALL._replace(boxes=1)):
        (y,) = call.run(triton)
    assert y[:, :16].isfinite().all() and not y[:, 16:].isfinite().any()


@pytest.mark.parametrize(("size", "whole"), (((2, 16, 4, 8), True), ((1, 16, 8, 9), False)), ids=str)
def test_triton_takes_statistics_of_whole_boxes(
    size: tuple[int, ...], whole: bool, triton: Backend, reference: Backend, launches: Launches
) -> None:
    call: Call
    for call in stats_calls(ConvCase("", "", size, (16, 16, 1, 3), 1, (0, 1)), torch.float32, "channels_last"):
        with tiles.forced(tile=SMALL._replace(boxes=1, persistent=1)):
            assert_right(call, triton, reference)
    assert launches and all(meta["BOX"].there == whole for _, meta in launches if DEVICE == "cpu")


def test_triton_descriptors_have_memory_in_every_thread(triton: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton asks an allocator of the calling context, which a backward pass's thread does not have."""
    from triton.runtime import _allocation

    from convkit.backends.triton import launch

    like, given = torch.zeros(1, device=DEVICE), []
    monkeypatch.setattr(launch, "runner", lambda *call: given.append(_allocation._allocator.get()(384, 128, None)))
    before = _allocation._allocator.get()

    def run() -> None:
        launch.launch(None, 1, like, descriptors=True)

    run()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(run).result()
    assert [(t.numel() * t.element_size(), t.device.type) for t in given] == [(384, DEVICE)] * 2
    assert _allocation._allocator.get() is before


@pytest.mark.parametrize("capability", ((8, 9), (9, 0), (12, 0)), ids=str)
def test_triton_copies_boxes_where_the_gpu_can(
    capability: tuple[int, int], triton: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    from convkit.backends.triton import devices

    monkeypatch.setattr(devices, "INTERPRETED", False)
    monkeypatch.setattr(devices, "_capability", lambda device: capability)
    assert devices.copies_boxes(torch.device("cuda", 0)) == (capability >= (9, 0))
