"""Heuristics as data: the blocks that kernels work in. No triton here, so that any tool can read the tables."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple


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


#: From large to small; the first that gives every multiprocessor of a large GPU several programs is taken.
BLOCKS = (Block(1024, 8), Block(512, 4), Block(256, 4), Block(128, 4))
PROGRAMS = 512

#: By kind of operand, from the largest tile to the smallest. float32 by FMA ("ieee") keeps its tile in registers,
#: so its tiles are small; 3 x TF32 needs each operand twice.
TILES = {
    "half": (
        Tile(128, 256, 64, 8, 3),
        Tile(128, 128, 64, 8, 3),
        Tile(128, 64, 64, 4, 4),
        Tile(64, 64, 64, 4, 4),
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

#: The algorithms of convolution, in order of preference; groups of at most FEW_CHANNELS on both sides go by definition.
ALGORITHMS = ("conv_igemm", "conv_direct", "conv_igemm_tf32x3")
FEW_CHANNELS = 8

#: Long sums are split until there are about as many programs, each with at least this many steps.
SPLIT_PROGRAMS, SPLIT_STEPS = 264, 8

_forced: ContextVar[tuple[Tile | None, Block | None]] = ContextVar("convkit_triton_tiles", default=(None, None))


@contextmanager
def forced(tile: Tile | None = None, block: Block | None = None) -> Iterator[None]:
    """Within it every implicit GEMM runs in this tile and every other kernel in this block; None: as chosen."""
    token = _forced.set((tile, block))
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


def _cdiv(a: int, b: int) -> int:
    return -(-a // b)


def block(count: int) -> Block:
    """The block for a result of ``count`` elements."""
    return _forced.get()[1] or next((b for b in BLOCKS if count >= PROGRAMS * b.size), BLOCKS[-1])


def tile(kind: str, rows: int, columns: int, copies: int = 1) -> Tile:
    """The largest tile that neither leaves half of its columns or rows unused nor gives too few programs."""
    chosen = _forced.get()[0]
    if chosen is not None:
        return chosen
    table = TILES[kind]
    for t in table[:-1]:
        fits = t.n < 2 * columns and t.m < 2 * rows
        if fits and copies * _cdiv(rows, t.m) * _cdiv(columns, t.n) >= PROGRAMS // 4:
            return t
    return table[-1]


def split(count: int, programs: int, step: int) -> tuple[int, int]:
    """(terms per split, splits) of a sum of ``count`` terms, ``step`` at a time, that ``programs`` programs compute."""
    steps = _cdiv(count, step)
    wanted = max(1, min(_cdiv(SPLIT_PROGRAMS, programs), steps // SPLIT_STEPS))
    per_split = _cdiv(steps, wanted)
    return per_split * step, _cdiv(steps, per_split)
