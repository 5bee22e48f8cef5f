"""What implicit GEMMs share: the product, the order of tiles, and the choice of a tile."""

from __future__ import annotations

from collections.abc import Callable

import torch
import triton
import triton.language as tl
from torch import Tensor

from convkit.backends import tuned
from convkit.backends.gpu import tf32_allowed
from convkit.backends.triton import search, tiles
from convkit.backends.triton.devices import shared_memory
from convkit.backends.triton.windows import INTERPRETED


@triton.jit
def multiply(a, b, acc, PRECISION: tl.constexpr):
    """acc + a @ b. The interpreter knows no bfloat16 products; in float32 they are exact."""
    if INTERPRETED and a.dtype == tl.bfloat16:
        return tl.dot(a.to(tl.float32), b.to(tl.float32), acc, input_precision="ieee", out_dtype=acc.dtype)
    else:
        return tl.dot(a, b, acc, input_precision=PRECISION, out_dtype=acc.dtype)


@triton.jit
def walk(total, PERSISTENT: tl.constexpr):
    """(first, beyond, step): the tiles of this program. Programs that run together are at neighbouring tiles."""
    if PERSISTENT:
        return tl.program_id(0), total, tl.num_programs(0)
    else:
        return tl.program_id(0), tl.program_id(0) + 1, 1


@triton.jit
def grouped_tile(tile, tiles_m, tiles_n, GROUP: tl.constexpr):
    """(row tile, column tile): GROUP row tiles after one another for each column tile."""
    first = tile // (GROUP * tiles_n) * GROUP
    height = tl.minimum(tiles_m - first, GROUP)
    return first + tile % (GROUP * tiles_n) % height, tile % (GROUP * tiles_n) // height


def precision(dtype: torch.dtype, wanted: str | None = None) -> str:
    """How tl.dot multiplies: for float32 as asked for, else TF32 if PyTorch's switch for convolutions allows it."""
    if dtype != torch.float32:
        return "ieee"
    return wanted or ("tf32" if tf32_allowed() else "ieee")


def kind(dtype: torch.dtype, how: str) -> str:
    """The table of tiles for operands of a dtype."""
    return "float64" if dtype == torch.float64 else how if dtype == torch.float32 else "half"


def in_best_tile(
    run: Callable[[tiles.Tile], None],
    name: str,
    x: Tensor,
    kind: str,
    rows: int,
    columns: int,
    depth: int,
    copies: int,
    programs: int = 1,
    **ways: bool,
) -> None:
    """Runs an implicit GEMM of ``rows`` by ``columns`` by ``depth``, ``copies`` times, in its best tile; ``programs``
    times as many programs are to be had by splitting. ``ways``: what the kernel knows (:func:`tiles.candidates`)."""

    def problem() -> str:
        order = "channels last" if x.stride(1) == 1 else "rows"
        sizes = "x".join(str(tuned.rounded(n)) for n in (rows, columns, depth, copies))
        return f"{name} {kind} {x.dtype} {order} {sizes}"

    def candidates() -> list[tiles.Tile]:
        return tiles.candidates(kind, rows, columns, depth, shared_memory(x.device), **ways)

    search.in_best(run, x.device, problem, tiles.tile(kind, rows, columns, copies * programs), candidates)
