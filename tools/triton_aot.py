"""Compiles the Triton kernels ahead of time, in every dtype and tile of the tables, and prints what each takes.

No GPU is needed: launches of the backend are turned into compilations for a GPU that is not there. Exit status 1 if
a kernel does not compile, spills more than ``--most-spilled`` bytes, needs more shared memory than the GPU has, or a
matrix product is not done by the instruction of its architecture. What was compiled is kept in build/triton.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.pop("TRITON_INTERPRET", None)
os.environ.setdefault("TRITON_CACHE_DIR", str(ROOT / "build" / "triton"))

from convkit.backends.base import Norm, NormSums  # noqa: E402 - found by the path above
from convkit.backends.triton import tiles  # noqa: E402 - likewise
from convkit.problem import ConvSpec, PoolSpec  # noqa: E402 - likewise
from convkit.terminal import table  # noqa: E402 - likewise

#: Compute capability -> (matrix instruction of the main tiles, bytes of shared memory that a block can have).
ARCHITECTURES = {80: ("mma.sync", 163 * 1024), 90: ("wgmma", 227 * 1024), 100: ("tcgen05", 227 * 1024)}
DTYPES = {d: getattr(torch, d) for d in ("bfloat16", "float16", "float32", "float64")}


class Job(NamedTuple):
    """One operation in a dtype, perhaps in a tile, on an architecture."""

    op: str
    dtype: str
    layout: str
    arch: int
    precision: str  # of float32 products; "" for what has none
    tile: tiles.Tile | None


class Kernel(NamedTuple):
    """What a compiled kernel takes; sizes in bytes."""

    job: Job
    name: str
    registers: int
    shared: int
    stack: int
    spilled: int
    instruction: str
    asserts: bool
    boxes: bool | None  # whether it copies boxes; None: it should not


def jobs() -> Iterator[Job]:
    """Convolutions in every tile of their table, in channels_last; pools in every dtype and both layouts."""
    for arch in ARCHITECTURES:
        for dtype in DTYPES:
            kinds = {"float32": ("tf32", "tf32x3", "ieee"), "float64": ("float64",)}.get(dtype, ("half",))
            for kind in kinds:
                precision = kind if dtype == "float32" else ""
                for tile in tiles.TILES[kind]:
                    yield Job("conv_wgrad", dtype, "channels_last", arch, precision, tile)
                    for way in ways(tile, arch):
                        for op in ("conv_fprop", "conv_dgrad"):
                            yield Job(op, dtype, "channels_last", arch, precision, way)
            precision = "tf32" if dtype == "float32" else ""
            for layout in ("contiguous", "channels_last"):  # and what has no tile
                for op in ("depthwise", "first layer", "pools"):
                    yield Job(op, dtype, layout, arch, precision, None)
            for op in ("powers", "flat", "normalising", "wide"):
                yield Job(op, dtype, "channels_last", arch, precision, None)


def ways(tile: tiles.Tile, arch: int) -> Iterator[tiles.Tile]:
    """A tile as it is in its table: its operands gathered, and as boxes where the architecture copies these."""
    yield tile._replace(boxes=0)
    if tile.boxes and divmod(arch, 10) >= tiles.BOXES_FROM:
        yield tile
        if tile == tiles.TILES["half"][1]:  # and one by programs that take several tiles
            yield tile._replace(persistent=1)


def launches(job: Job) -> None:
    """Calls the backend as a user would, on tensors without memory; sizes decide which kernel is built."""
    from convkit.backends.triton import operations

    def tensor(*size: int, dtype: torch.dtype = DTYPES[job.dtype]) -> torch.Tensor:
        format = torch.channels_last if job.layout == "channels_last" else torch.contiguous_format
        return torch.empty(size, dtype=dtype, device="meta").to(memory_format=format)

    last = job.layout == "channels_last"
    algorithm = tiles.ALGORITHMS.index("conv_igemm_tf32x3") + 1 if job.precision == "tf32x3" else 0
    plain = ConvSpec((1, 1), (1, 1), (1, 1), (1, 1), algorithm=algorithm)
    window = PoolSpec((3, 3), (2, 2), (1, 1), (1, 1), (1, 1))
    torch.backends.cudnn.allow_tf32 = job.precision == "tf32"
    none = (None, None, None)
    if job.op == "conv_fprop":
        operations.conv_fprop(tensor(2, 64, 32, 32), tensor(64, 64, 3, 3), *none, plain, last)
    elif job.op == "conv_dgrad":
        strided = plain._replace(stride=(2, 2))
        operations.conv_dgrad(tensor(2, 64, 16, 16), tensor(64, 64, 3, 3), *none, (32, 32), strided, last)
    elif job.op == "conv_wgrad":
        operations.conv_wgrad(tensor(2, 64, 32, 32), tensor(2, 64, 32, 32), (3, 3), plain, last)
    elif job.op == "depthwise":
        depthwise = plain._replace(groups=64)
        x, w = tensor(2, 64, 32, 32), tensor(64, 1, 3, 3)
        operations.conv_fprop(x, w, *none, depthwise, last)
        operations.conv_dgrad(x, w, *none, (32, 32), depthwise, last)
        operations.conv_wgrad(x, x, (3, 3), depthwise, last)
    elif job.op == "first layer":
        bias = torch.empty(64, dtype=DTYPES[job.dtype], device="meta")
        stem = ConvSpec((2, 2), (3, 3), (3, 3), (1, 1), activation=1)
        operations.conv_fprop(tensor(2, 3, 64, 64), tensor(64, 3, 7, 7), bias, bias, tensor(2, 64, 32, 32), stem, last)
        operations.conv_bgrad(tensor(2, 64, 32, 32))
    elif job.op == "pools":
        x = tensor(32, 64, 32, 32)
        y, offsets = operations.max_pool(x, window, True, last)
        operations.pool_select(x, offsets, window, last)
        operations.pool_select_bwd(y, offsets, (32, 32), window, last)
        operations.pool_indices(offsets, (32, 32), window, last)
        operations.avg_pool_bwd(operations.avg_pool(x, window, last), (32, 32), window, last)
        adaptive = PoolSpec((5, 5), (1, 1), (0, 0), (0, 0), (1, 1), output_size=(7, 7))
        operations.avg_pool_bwd(operations.avg_pool(x, adaptive, last), (32, 32), adaptive, last)
    elif job.op == "powers":
        x, seed = tensor(32, 64, 32, 32), torch.empty((), dtype=torch.int64, device="meta")
        y, _ = operations.stochastic_pool(x, seed, window, last)
        operations.stochastic_mean_bwd(operations.stochastic_mean(x, window, last), x, y, window, last)
        for p, norm in ((2.0, False), (2.5, True)) if job.dtype != "float64" else ():
            operations.lp_pool_bwd(
                operations.lp_pool(x, None, window, p, norm, last), x, y, None, window, p, norm, last
            )
    elif job.op == "flat":
        x, small = tensor(32, 64, 32, 32), tensor(32, 64, 16, 16)
        indices = tensor(32, 64, 16, 16, dtype=torch.int64)
        operations.max_unpool(small, indices, (32, 32), last)
        operations.plane_gather(x, indices, last)
        operations.plane_scatter(small, indices, (32, 32), last)
        samples = torch.empty((32, 64, 2), dtype=x.dtype, device="meta")
        operations.fractional_max_pool(x, samples, (2, 2), (17, 17), True, last)
    elif job.op == "normalising":
        x, residual = tensor(32, 64, 32, 32), tensor(32, 64, 32, 32)
        vector = torch.empty(64, dtype=torch.float64 if job.dtype == "float64" else torch.float32, device="meta")
        norm = Norm(*(vector,) * 4, residual, 1)
        operations.bn_stats(x)
        operations.bn_act(x, norm, last)
        operations.bn_act_bwd_reduce(x, x, norm)
        operations.bn_act_bwd(x, x, norm, NormSums(vector, vector, 32 * 32 * 32), True, last)
        operations.conv_fprop_stats(x, tensor(64, 64, 3, 3), None, plain, last)
    else:  # more positions than 32 bits count
        x = tensor(4096, 512, 32, 32)
        y = operations.conv_fprop(x, tensor(64, 512, 3, 3), *none, plain, last)
        operations.conv_wgrad(y, x, (3, 3), plain, last)
        y, offsets = operations.max_pool(x, window, True, last)
        operations.pool_select_bwd(y, offsets, (32, 32), window, last)


class AbsentGpu:
    """As much of a driver as compiling asks for."""

    def __init__(self, arch: int) -> None:
        self._arch = arch

    def get_current_device(self) -> int:
        return self._arch  # kernels are kept per device

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self._arch, 32)


@cache
def _tool(name: str) -> Path:
    import triton

    return Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name


def _resources(cubin: bytes) -> tuple[int, int]:
    """(registers, bytes of stack) of a kernel; what does not fit into registers lies on the stack."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        shown = subprocess.run([_tool("cuobjdump"), "-res-usage", file.name], capture_output=True, text=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", shown)
    if found is None:
        raise RuntimeError(f"cuobjdump says nothing of registers: {shown}")
    return int(found[1]), int(found[2])


def _spilled(cubin: bytes) -> int:
    """Bytes that instructions store to local memory."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        shown = subprocess.run([_tool("nvdisasm"), "-c", file.name], capture_output=True, text=True).stdout
    widths = re.findall(r"\bSTL(?:\.(\d+))?\b", shown)
    return sum(int(w or 32) // 8 for w in widths)


def instruction(ptx: str) -> str:
    """The matrix instruction of a kernel, "" where it has none."""
    for name in ("tcgen05.mma", "wgmma", "mma.sync"):
        if name in ptx:
            return name.removesuffix(".mma")
    return ""


def compile_job(job: Job) -> list[Kernel]:
    """Every kernel that one job launches, compiled."""
    from triton.runtime import driver

    from convkit.backends.triton import launch

    found: list[Kernel] = []

    def build(kernel: Any, programs: int, device: int, args: tuple[Any, ...], meta: dict[str, Any]) -> None:
        compiled = kernel.warmup(*args, grid=(programs,), **meta)
        ptx, cubin = compiled.asm["ptx"], compiled.asm["cubin"]
        registers, stack = _resources(cubin)
        spilled = _spilled(cubin) if stack else 0
        shared = compiled.metadata.shared
        asserts = "__assertfail" in ptx
        asked = "FILTER_BOX" in meta and (meta["FILTER_BOX"] or meta["BOX"].there)
        boxes = "cp.async.bulk.tensor" in ptx if asked else None
        name = kernel.fn.__name__ + (" (boxes)" if boxes else "")
        found.append(Kernel(job, name, registers, shared, stack, spilled, instruction(ptx), asserts, boxes))

    driver.set_active(AbsentGpu(job.arch))
    runner = launch.runner
    launch.runner = build
    try:
        with tiles.forced(tile=job.tile):
            launches(job)
    finally:
        launch.runner = runner
    return found


def _start() -> None:
    torch.set_num_threads(1)


def faults(kernels: list[Kernel], most_spilled: int) -> Iterator[str]:
    """What is wrong, one line each."""
    for k in kernels:
        wanted, most_shared = ARCHITECTURES[k.job.arch]
        where = f"{k.name} {k.job.dtype} {_tile(k.job)} sm_{k.job.arch}"
        if k.spilled > most_spilled:
            yield f"{where}: {k.spilled} bytes spilled, {most_spilled} are allowed"
        if k.shared > most_shared:
            yield f"{where}: {k.shared} bytes of shared memory, {most_shared} are there"
        if k.name == "unpool_winner_kernel" and not k.asserts:
            yield f"{where}: the check of indices is not there"
        if k.boxes is False:
            yield f"{where}: operands are not copied as boxes"
        if not k.name.startswith(("conv_igemm", "conv_wgrad_kernel")) or k.job.precision == "ieee":
            continue
        if not k.instruction and k.job.dtype != "float64":  # which Triton 3.6 multiplies by FMA
            yield f"{where}: no matrix instruction"
        if k.job.tile is not None and main_tile(k.job) and k.instruction != wanted:
            yield f"{where}: {k.instruction or 'no matrix instruction'} instead of {wanted}"


def main_tile(job: Job) -> bool:
    """Whether a tile is one that large problems run in, which the architecture's widest instruction must serve."""
    small = job.tile is None or job.tile.m < 64 or job.tile.warps < 4
    return not small and job.precision in ("", "tf32") and job.dtype != "float64"


def _tile(job: Job) -> str:
    if job.tile is None:
        return f"{job.op}, {job.layout}"
    t = job.tile
    ways = "persistent" if t.persistent else ""
    return " ".join(filter(None, (f"{t.m}x{t.n}x{t.k} {t.warps} warps {t.stages} stages", ways, job.precision)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--most-spilled", type=int, default=64, help="bytes a kernel may spill (default 64)")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--every", type=int, default=1, metavar="N", help="compile one job in N")
    options = parser.parse_args()
    try:
        import triton
    except ImportError:
        print("triton is not installed: its kernels are not compiled")
        return 0
    chosen = list(jobs())[:: options.every]
    with ProcessPoolExecutor(options.processes, get_context("spawn"), _start) as pool:
        kernels = [k for found in pool.map(compile_job, chosen) for k in found]
    rows: list[list[str]] = []
    by_kernel: dict[tuple[str, ...], dict[int, Kernel]] = {}
    variants: Counter[tuple[Job, str]] = Counter()  # of one kernel in one job
    for k in kernels:
        variants[k.job, k.name] += 1
        key = (k.name, k.job.dtype, _tile(k.job), k.job.op, str(variants[k.job, k.name]))
        by_kernel.setdefault(key, {})[k.job.arch] = k
    for (name, dtype, tile, *_), archs in by_kernel.items():
        cells = []
        for arch in ARCHITECTURES:
            k = archs.get(arch)
            cells.append(f"{k.registers} / {k.shared} / {k.spilled} {k.instruction}".strip() if k else "")
        rows.append([name, dtype, tile, *cells])
    print(table(("kernel", "dtype", "tile", *(f"sm_{a}" for a in ARCHITECTURES)), rows, left=(0, 1, 2)))
    print(f"registers / bytes of shared memory / bytes spilled, matrix instruction; triton {triton.__version__}")
    wrong = list(faults(kernels, options.most_spilled))
    for line in wrong:
        print("FAIL", line)
    return 1 if wrong or not kernels else 0


if __name__ == "__main__":
    sys.exit(main())
