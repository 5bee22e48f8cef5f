"""Kernels of tests alone. Importing this imports triton."""

from __future__ import annotations

import triton
import triton.language as tl

from convkit.backends.triton.igemm import grouped_tile, walk


@triton.jit
def count_tiles_kernel(counts, turns, copies, tiles_m, tiles_n, GROUP: tl.constexpr, PERSISTENT: tl.constexpr):
    """Adds 1 to each tile that a program takes, and notes when it is its turn."""
    first, beyond, step = walk(tiles_m * tiles_n * copies, PERSISTENT)
    for number in range(first, beyond, step):
        tile_m, tile_n = grouped_tile(number % (tiles_m * tiles_n), tiles_m, tiles_n, GROUP)
        at = (number // (tiles_m * tiles_n) * tiles_m + tile_m) * tiles_n + tile_n
        tl.atomic_add(counts + at, 1)
        tl.store(turns + at, number)
