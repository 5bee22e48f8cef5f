"""Heuristics as data: the blocks that kernels work in. No triton here, so that any tool can read the tables."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import product
from typing import Any, NamedTuple, TypeVar


class Block(NamedTuple):
    """Elements of the result per program, for kernels that compute them one by one."""

    size: int
    warps: int


class Tile(NamedTuple):
    """An implicit GEMM's tile: rows, columns, and the slice of the reduction per step."""

    m: int
    n: int
    k: int
    warps: int
    stages: int
    group: int = 8  # row tiles that share their columns while these stay in the L2 cache
    persistent: int = 0  # programs per multiprocessor, which take tile after tile; 0: a program takes one tile
    boxes: int = 0  # 1: operands are copied as boxes (boxes.py) where device and problem allow it


Shape = TypeVar("Shape", Tile, Block)

#: From large to small; the first that gives every multiprocessor of a large GPU several programs is taken.
BLOCKS = (Block(1024, 8), Block(512, 4), Block(256, 4), Block(128, 4))
PROGRAMS = 512

#: By kind of operand, from the largest tile to the smallest. float32 by FMA ("ieee") keeps its tile in registers,
#: so its tiles are small; 3 x TF32 needs each operand twice.
TILES = {
    "half": (
        Tile(128, 256, 64, 8, 3, boxes=1),
        Tile(128, 128, 64, 8, 3, boxes=1),
        Tile(128, 64, 64, 4, 4, boxes=1),
        Tile(64, 64, 64, 4, 4, boxes=1),
        Tile(64, 32, 32, 4, 4),
        Tile(32, 32, 32, 2, 4),
    ),
    "tf32": (
        Tile(128, 128, 32, 8, 3),
        Tile(128, 64, 32, 4, 3),
        Tile(64, 64, 32, 4, 3),
        Tile(32, 32, 32, 2, 3),
    ),
    "tf32x3": (Tile(128, 64, 32, 8, 2), Tile(64, 64, 32, 4, 2), Tile(32, 32, 32, 2, 2)),
    "ieee": (Tile(64, 64, 16, 8, 2), Tile(32, 32, 16, 4, 2)),
    "float64": (Tile(64, 64, 16, 8, 2), Tile(32, 32, 16, 4, 2)),
}

#: Compute capability from which a GPU copies boxes; and how many may be taken per tile that pointers would take.
BOXES_FROM, MOST_BOXES = (9, 0), 1.125

#: The algorithms of convolution, in order of preference; groups of at most FEW_CHANNELS on both sides go by definition.
ALGORITHMS = ("conv_igemm", "conv_direct", "conv_igemm_tf32x3")
FEW_CHANNELS = 8

#: Long sums are split until there are about as many programs, each with at least this many steps.
SPLIT_PROGRAMS, SPLIT_STEPS = 264, 8

#: How many tiles a search measures for one shape class; and how many of them in every way of going over the problem.
MOST_CANDIDATES, MOST_IN_ALL_WAYS = 60, 8

_forced: ContextVar[tuple[Tile | None, Block | None]] = ContextVar("convkit_triton_tiles", default=(None, None))


@contextmanager
def forced(tile: Tile | None = None, block: Block | None = None) -> Iterator[None]:
    """Within it every implicit GEMM runs in this tile and every other kernel in this block; None: as outside of it."""
    outer = _forced.get()
    token = _forced.set((tile or outer[0], block or outer[1]))
    try:
        yield
    finally:
        _forced.reset(token)


def algorithm(number: int, groups: int, channels: int, filters: int) -> str:
    """The algorithm of a convolution: by its number, from 1, else by the channels per group on both sides."""
    if number:
        return ALGORITHMS[number - 1]
    few = groups > 1 and channels <= FEW_CHANNELS and filters <= FEW_CHANNELS
    return "conv_direct" if few else "conv_igemm"


def cdiv(a: int, b: int) -> int:
    """a / b, rounded up."""
    return -(-a // b)


def fixed(default: Shape) -> Shape | None:
    """The tile or block that is forced, where one is."""
    tile, block = _forced.get()
    found: Any = tile if isinstance(default, Tile) else block
    return found


def block(count: int) -> Block:
    """The block for a result of ``count`` elements."""
    return next((b for b in BLOCKS if count >= PROGRAMS * b.size), BLOCKS[-1])


def blocks() -> Iterator[Block]:
    """The blocks that a search tries: 1 to 16 elements per lane."""
    for size in (128, 256, 512, 1024, 2048):
        for warps in (1, 2, 4, 8):
            if 32 * warps <= size <= 512 * warps:
                yield Block(size, warps)


def tile(kind: str, rows: int, columns: int, copies: int = 1) -> Tile:
    """The largest tile that neither leaves half of its columns or rows unused nor gives too few programs."""
    table = TILES[kind]
    for t in table[:-1]:
        fits = t.n < 2 * columns and t.m < 2 * rows
        if fits and copies * cdiv(rows, t.m) * cdiv(columns, t.n) >= PROGRAMS // 4:
            return t
    return table[-1]


def candidates(
    kind: str, rows: int, columns: int, depth: int, shared: int, persistent: bool = False, boxes: bool = False
) -> list[Tile]:
    """The tiles that a search tries: those that fit a problem, ``shared`` bytes of shared memory and the registers.

    The accumulators of a lane are at most 128 registers of 255, with as many operands as the kind keeps beside them. Of
    equal tiles that differ in stages only the deepest that fits and the next are kept. The largest are also tried
    ``persistent`` and with operands as ``boxes``, where the kernel knows these.
    """
    size = {"half": 2, "float64": 8}.get(kind, 4)
    most = {"half": 128, "tf32": 128, "tf32x3": 64}.get(kind, 32)  # accumulators
    found: list[Tile] = []
    for m, n, k, warps in product((32, 64, 128, 256), (32, 64, 128, 256), (16, 32, 64, 128), (4, 8)):
        lane = m * n // (32 * warps) * (2 if kind == "float64" else 1)
        if m >= max(2 * rows, 64) or n >= max(2 * columns, 64) or k >= max(2 * depth, 64) or not 8 <= lane <= most:
            continue
        if k * size < 32 or k * size > 256:  # from two vectors to two lines of a row
            continue
        fitting = [s for s in (4, 3, 2) if s * (m + n) * k * size <= shared]
        found += [Tile(m, n, k, warps, stages) for stages in fitting[:2]]
    # Large tiles first: they reuse most.
    found.sort(key=lambda t: (t.m * t.n / (t.m + t.n), t.k), reverse=True)
    ways = list(product(range(1 + persistent), range(1 + boxes)))[1:]  # but for the plain one
    several = [t._replace(persistent=p, boxes=b) for t in found[:MOST_IN_ALL_WAYS] for p, b in ways]
    return found[: MOST_CANDIDATES - len(several)] + several


def split(count: int, programs: int, step: int) -> tuple[int, int]:
    """(terms per split, splits) of a sum of ``count`` terms, ``step`` at a time, that ``programs`` programs compute."""
    steps = cdiv(count, step)
    wanted = max(1, min(cdiv(SPLIT_PROGRAMS, programs), steps // SPLIT_STEPS))
    per_split = cdiv(steps, wanted)
    return per_split * step, cdiv(steps, per_split)
