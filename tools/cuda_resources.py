"""Compiles every GPU kernel ahead of time and prints what each takes: registers, shared memory, stack, spilled bytes.

No GPU is needed. Exit status 1 if a source does not compile, a kernel spills more than ``--most-spilled`` bytes, or the
machine code lacks what ``machine_code.py`` demands: tensor core instructions, 16-byte copies.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

from machine_code import complaints, count, disassemble, find_disassembler  # noqa: E402 - found by the path above

from convkit.terminal import table  # noqa: E402 - likewise
from native_build import find_nvcc  # noqa: E402 - likewise

DISASSEMBLED = ("conv_igemm_*.o", "pool_gather.o", "pool_reduce.o", "pool_stochastic.o")
ARCHITECTURES = ("80", "90a", "100a")  # the first also as PTX, which newer GPUs translate
FLAGS = ("-std=c++17", "-O3", "--expt-relaxed-constexpr", "-Xcompiler=-Wall,-Wextra", "-Werror=all-warnings")


class Kernel(NamedTuple):
    """What ptxas says of one kernel on one architecture; sizes in bytes."""

    source: str
    name: str
    arch: str
    registers: int
    shared: int
    stack: int
    spilled: int


def compile_source(nvcc: Path, source: Path, folder: Path) -> str:
    """ptxas' account of one source file for all architectures; RuntimeError with the compiler's words."""
    targets = [
        f"-gencode=arch=compute_{a},code=[sm_{a}{',compute_' + a if a == ARCHITECTURES[0] else ''}]"
        for a in ARCHITECTURES
    ]
    command = [nvcc, *FLAGS, *targets, "-Xptxas=-v", f"-I{ROOT / 'csrc'}", "-c", source]
    done = subprocess.run([*command, "-o", folder / f"{source.stem}.o"], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{source.name} does not compile:\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def readable(names: list[str]) -> list[str]:
    """Demangled names without namespaces and parameters."""
    shown = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True).stdout.splitlines()
    plain = [
        re.sub(r"\((?:int|bool)\)", "", re.sub(r"\(anonymous namespace\)::|convkit::(?:\w+::)*", "", n)) for n in shown
    ]
    return [re.sub(r"^void ", "", n.split("(")[0]) for n in plain]


def parse(source: Path, account: str) -> list[Kernel]:
    entries = re.split(r"Compiling entry function ", account)[1:]
    names = readable([entry.split("'")[1] for entry in entries])
    kernels = []
    for name, entry in zip(names, entries):
        arch = entry.split("'")[3].removeprefix("sm_")

        def number(pattern: str, entry: str = entry) -> int:
            found = re.search(pattern, entry)
            return int(found.group(1)) if found else 0

        kernels.append(
            Kernel(
                source.name,
                name,
                arch,
                number(r"Used (\d+) registers"),
                number(r"(\d+) bytes smem"),
                number(r"(\d+) bytes stack frame"),
                number(r"(\d+) bytes spill stores"),
            )
        )
    return kernels


def read_machine_code(folder: Path) -> list[str]:
    """What is wrong with the kernels of a folder's objects that machine_code.py knows."""
    tool = find_disassembler()
    if tool is None:
        return ["no cuobjdump found: pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm"]
    try:
        listings = [disassemble(tool, binary) for name in DISASSEMBLED for binary in sorted(folder.glob(name))]
    except RuntimeError as error:
        return [str(error)]
    return complaints([code for listing in listings for code in count(listing)], ARCHITECTURES)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--most-spilled", type=int, default=64, help="bytes a kernel may spill (default 64)")
    options = parser.parse_args()
    nvcc = find_nvcc()
    if nvcc is None:
        print("no nvcc found: GPU kernels are not compiled")
        return 0
    sources = sorted((ROOT / "csrc" / "cuda").glob("*.cu"))
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:
        try:
            accounts = list(pool.map(lambda source: compile_source(nvcc, source, Path(folder)), sources))
        except RuntimeError as error:
            print(error)
            return 1
        failures = read_machine_code(Path(folder))
    kernels = [k for source, account in zip(sources, accounts) for k in parse(source, account)]
    rows = []
    for source, name in dict.fromkeys((k.source, k.name) for k in kernels):
        by_arch = {k.arch: k for k in kernels if (k.source, k.name) == (source, name)}
        cells = [f"{k.registers} / {k.stack} / {k.spilled}" for a in ARCHITECTURES if (k := by_arch.get(a))]
        rows.append([source, name, *cells])
    headers = ("source", "kernel", *(f"sm_{a}" for a in ARCHITECTURES))
    print(table(headers, rows, left=(0, 1)))
    print("registers / bytes of stack / bytes spilled, per thread")
    spilling = [k for k in kernels if k.spilled > options.most_spilled]
    for k in spilling:
        print(f"FAIL {k.source} {k.name} sm_{k.arch}: {k.spilled} bytes spilled, {options.most_spilled} are allowed")
    for failure in failures:
        print(f"FAIL {failure}")
    return 1 if spilling or failures or not kernels else 0


if __name__ == "__main__":
    sys.exit(main())
