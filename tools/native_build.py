"""Builds the operator library: decides about CUDA, finds the tools, and runs CMake and ninja once.

``setup.py`` uses it for wheels and editable installs, ``python tools/native_build.py`` for the working tree
(``make build``). It needs no package but an installed torch, whose headers are compiled against and whose
``libtorch_cpu`` is linked.

Environment: CONVKIT_CUDA = auto (default), 0 or 1; CONVKIT_CUDA_ARCHS = a list for CMAKE_CUDA_ARCHITECTURES, such as
"80;90a-real": machine code and PTX for 8.0, machine code for 9.0. CONVKIT_BUILD_ISAS = the CPU's instruction sets
beside the portable one, such as "avx512" or "none"; by default all.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = "convkit_ops.so"
MINIMUM_CMAKE = (3, 18)
CUDA_PACKAGES = tuple(
    f"nvidia-{part}==13.0.*" for part in ("cuda-nvcc", "cuda-runtime", "cuda-crt", "nvvm", "cuda-cccl")
)
# Machine code for data centre GPUs and for the newest desktop ones, and PTX that drivers translate for the others.
DEFAULT_CUDA_ARCHS = "80;90a-real;100-real;120-real"


class BuildError(RuntimeError):
    """Something the build needs is missing; the message says what to do."""


class CudaPlan(NamedTuple):
    """Whether to build the CUDA part, and why or with which compiler."""

    build: bool
    reason: str
    nvcc: Path | None = None


def has_cuda_part(root: Path = ROOT) -> bool:
    """Whether the library gets CUDA code. Until it does, csrc/cuda runs on the emulator of the tests alone."""
    return "enable_language(CUDA" in (root / "CMakeLists.txt").read_text()


def find_nvcc() -> Path | None:
    """The CUDA compiler: PyPI's (inside any folder of sys.path), else the one on PATH, else that of CUDA_HOME or of the
    usual folder."""
    for folder in sys.path:
        candidate = Path(folder) / "nvidia" / "cu13" / "bin" / "nvcc"
        if candidate.is_file():
            return candidate
    usual = [os.environ.get("PATH", ""), f"{os.environ.get('CUDA_HOME') or '/usr/local/cuda'}/bin"]
    found = shutil.which("nvcc", path=os.pathsep.join(usual))
    return Path(found) if found else None


def cuda_toolkit(nvcc: Path) -> Path:
    """The folder of bin, include and lib that an nvcc uses; the one on PATH may be a script that calls another."""
    shown = subprocess.run([nvcc, "--dryrun", "-x", "cu", "-c", os.devnull], capture_output=True, text=True)
    found = re.search(r"^#\$ _HERE_=(.+)$", shown.stderr, re.MULTILINE)
    return Path(found[1]).parent if found else nvcc.parent.parent


def cuda_archs() -> str:
    """The list of CONVKIT_CUDA_ARCHS, or the default."""
    archs = os.environ.get("CONVKIT_CUDA_ARCHS", "").strip() or DEFAULT_CUDA_ARCHS
    if not all(re.fullmatch(r"\d+[af]?(-real|-virtual)?", arch) for arch in archs.split(";")):
        raise BuildError(f"CONVKIT_CUDA_ARCHS must be numbers such as 80;90a-real, got {archs!r}")
    return archs


def build_isas() -> str:
    """The list of CONVKIT_BUILD_ISAS; empty for all."""
    isas = os.environ.get("CONVKIT_BUILD_ISAS", "").strip()
    if not all(isa in ("", "none", "avx2", "avx512") for isa in isas.split(";")):
        raise BuildError(f"CONVKIT_BUILD_ISAS must be avx2, avx512, both with a ; between, or none, got {isas!r}")
    return isas


def cuda_plan(root: Path = ROOT) -> CudaPlan:
    setting = os.environ.get("CONVKIT_CUDA", "").strip().lower() or "auto"
    if setting not in ("auto", "0", "1"):
        raise BuildError(f"CONVKIT_CUDA must be auto, 0 or 1, got {setting!r}")
    if setting == "0":
        return CudaPlan(False, "CONVKIT_CUDA=0")
    if not has_cuda_part(root):
        reason = "this version's library has no CUDA part"
    elif (nvcc := find_nvcc()) is not None:
        return CudaPlan(True, f"with {nvcc}", nvcc)
    else:
        reason = "no nvcc found"
    if setting == "1":
        raise BuildError(f"CONVKIT_CUDA=1, but {reason}")
    return CudaPlan(False, reason)


def find_tool(name: str) -> str | None:
    """An executable from this interpreter's environment (PyPI has cmake and ninja), else from PATH."""
    scripts = sysconfig.get_path("scripts")
    return shutil.which(name, path=os.pathsep.join([scripts, os.environ.get("PATH", "")]))


def find_cmake() -> str | None:
    """A CMake that runs and is new enough, or None."""
    cmake = find_tool("cmake")
    if cmake is None:
        return None
    shown = subprocess.run([cmake, "--version"], capture_output=True, text=True)
    version = re.search(r"version (\d+)\.(\d+)", shown.stdout)
    if shown.returncode != 0 or version is None:
        return None
    return cmake if tuple(int(part) for part in version.groups()) >= MINIMUM_CMAKE else None


def missing_tools() -> list[str]:
    """What to install from PyPI before building: the PEP 517 hooks add this to the build environment."""
    requirements = []
    if find_cmake() is None:
        requirements.append("cmake>=3.18")
    if find_tool("ninja") is None:
        requirements.append("ninja")
    setting = os.environ.get("CONVKIT_CUDA", "").strip()
    if setting != "0" and has_cuda_part() and find_nvcc() is None:
        requirements.extend(CUDA_PACKAGES)
    return requirements


def torch_root() -> Path:
    """The folder of the installed torch, found without importing it."""
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        raise BuildError(f"{sys.executable} has no torch; install torch==2.13.0 (any torch from 2.10 on will do)")
    return Path(next(iter(spec.submodule_search_locations)))


def _compiler_id(build_dir: Path) -> str:
    """What must not change between two runs in one build folder: torch and the tools."""
    return "\n".join(str(part) for part in (torch_root(), find_cmake(), find_tool("ninja"), os.environ.get("CXX")))


def build(build_dir: Path, build_type: str = "Release", sanitize: str = "", testing: bool = False) -> Path:
    """Configures and builds in ``build_dir`` (incrementally, if it was used before); returns the library."""
    cmake, ninja = find_cmake(), find_tool("ninja")
    if cmake is None or ninja is None:
        raise BuildError(f"the build needs {' and '.join(missing_tools())}: python -m pip install cmake ninja")
    plan = cuda_plan()
    if not plan.build:
        print(f"convkit: building the CPU part only ({plan.reason})", flush=True)
    environment = dict(os.environ)
    options = {
        "CMAKE_BUILD_TYPE": build_type,
        "CMAKE_MAKE_PROGRAM": ninja,
        "TORCH_ROOT": torch_root(),
        "SANITIZE": sanitize,
        "CONVKIT_TESTING": "ON" if testing else "OFF",
        "Python_EXECUTABLE": sys.executable,
        "CONVKIT_CUDA": "ON" if plan.build else "OFF",
        "CONVKIT_BUILD_ISAS": build_isas(),
    }
    if plan.nvcc is not None:
        options["CMAKE_CUDA_COMPILER"] = plan.nvcc
        options["CMAKE_CUDA_ARCHITECTURES"] = cuda_archs()
        # PyPI's layout has lib, not lib64, which nvcc does not search by itself.
        folders = [str(cuda_toolkit(plan.nvcc) / "lib"), environment.get("LIBRARY_PATH", "")]
        environment["LIBRARY_PATH"] = os.pathsep.join(filter(None, folders))

    stamp = build_dir / "tools.txt"
    identity = _compiler_id(build_dir)
    if not stamp.exists() or stamp.read_text() != identity:
        shutil.rmtree(build_dir, ignore_errors=True)
        build_dir.mkdir(parents=True)
        stamp.write_text(identity)
    configure = [cmake, "-G", "Ninja", "-S", str(ROOT), "-B", str(build_dir)]
    configure += [f"-D{name}={value}" for name, value in options.items()]
    subprocess.run(configure, check=True, env=environment, stdout=subprocess.DEVNULL)
    subprocess.run([cmake, "--build", str(build_dir)], check=True, env=environment)
    return build_dir / LIBRARY


def install(library: Path, target: Path) -> None:
    """Puts the library at ``target`` in one step, so that a process that has the old one loaded keeps it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_name(target.name + ".new")
    shutil.copy2(library, fresh)
    os.replace(fresh, target)


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the operator library for the working tree.")
    parser.add_argument("--build-dir", type=Path, default=ROOT / "build" / "release")
    parser.add_argument("--build-type", default="Release")
    parser.add_argument("--sanitize", default="", help="value for -fsanitize=")
    parser.add_argument("--testing", action="store_true", help="also build the pybind11 module for tests")
    parser.add_argument("--install", action="store_true", help="copy the library into convkit/")
    arguments = parser.parse_args()
    try:
        library = build(arguments.build_dir, arguments.build_type, arguments.sanitize, arguments.testing)
    except BuildError as error:
        sys.exit(f"convkit: {error}")
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
    if arguments.install:
        install(library, ROOT / "convkit" / LIBRARY)


if __name__ == "__main__":
    main()
