"""What the machine code of compiled GPU kernels must contain: tensor cores in the implicit GEMMs, and 16-byte copies in
them and in the kernels that pool planes in bands.

``cuobjdump`` and ``nvdisasm`` are in CUDA toolkits and on PyPI (nvidia-cuda-cuobjdump, nvidia-cuda-nvdisasm).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

# Instructions of the machines from sm_80 on, and what a kernel named igemm or igemm_... has of them. mma.sync is HMMA
# on all of them; a global-to-shared copy is LDGSTS, or a load into registers before a store.
TENSOR_CORES = re.compile(r"\bHMMA\.\d+")
VECTOR_COPIES = re.compile(r"\b(?:LDGSTS|LDG)\.E(?:\.\w+)*\.128\b")


class Code(NamedTuple):
    """How many instructions of the two kinds one kernel has on one architecture."""

    name: str
    arch: str
    tensor_cores: int
    vector_copies: int


def find_disassembler() -> Path | None:
    """PyPI's cuobjdump (inside any folder of sys.path), else the one on PATH; nvdisasm stands beside it or on PATH."""
    for folder in sys.path:
        candidate = Path(folder) / "nvidia" / "cu13" / "bin" / "cuobjdump"
        if candidate.is_file():
            return candidate
    found = shutil.which("cuobjdump")
    return Path(found) if found else None


def disassemble(tool: Path, binary: Path) -> str:
    """The machine code of every kernel in an object file; RuntimeError with the tool's words."""
    environment = {**os.environ, "PATH": os.pathsep.join([str(tool.parent), os.environ.get("PATH", "")])}
    done = subprocess.run([tool, "-sass", binary], capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        raise RuntimeError(f"{tool.name} cannot read {binary.name}: {done.stderr.strip()}")
    return done.stdout


def count(listing: str) -> Iterator[Code]:
    """The kernels of a listing."""
    for part in re.split(r"^\s*arch = sm_", listing, flags=re.MULTILINE)[1:]:
        arch = part.split()[0]
        for function in re.split(r"^\s*Function : ", part, flags=re.MULTILINE)[1:]:
            name = function.split()[0]
            yield Code(name, arch, len(TENSOR_CORES.findall(function)), len(VECTOR_COPIES.findall(function)))


def is_igemm(code: Code) -> bool:
    """Whether a kernel, by its mangled name, is an implicit GEMM: named igemm, or igemm_ and an operation."""
    return re.search(r"\d+igemm(?:_wgrad)?I", code.name) is not None


def pools_bands(code: Code) -> bool:
    """Whether a kernel, by its mangled name, pools planes in bands."""
    return re.search(r"\d+(?:pool|pool_gather|stochastic)_bandsI", code.name) is not None


def complaints(kernels: list[Code], archs: tuple[str, ...]) -> list[str]:
    """What implicit GEMMs and pools in bands lack; also where one of the architectures has none of them."""
    missing = []
    for kind, belongs in (("implicit GEMM", is_igemm), ("pool in bands", pools_bands)):
        found = [k for k in kernels if belongs(k)]
        missing += [f"no {kind} for sm_{arch}" for arch in archs if not any(k.arch == arch for k in found)]
        for k in found:
            if not k.tensor_cores and belongs is is_igemm:
                missing.append(f"{k.name} sm_{k.arch}: no instruction of the tensor cores")
            if not k.vector_copies:
                missing.append(f"{k.name} sm_{k.arch}: no copy of 16 bytes from global memory")
    return missing
