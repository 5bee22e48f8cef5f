"""What the linker made of the library: nothing shared between instruction sets, nothing exported by chance."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from convkit.build_info import LIBRARY

BUILD_DIR = Path(os.environ.get("CONVKIT_BUILD_DIR", Path(__file__).parent.parent / "build" / "release"))
INSTRUCTION_SETS = ("portable", "avx2", "avx512")

# Binutils come with the compiler that built the library.
pytestmark = pytest.mark.skipif(
    shutil.which("nm") is None or shutil.which("readelf") is None, reason="binutils (nm, readelf) are not installed"
)


def run(*command: str | Path) -> str:
    return subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True).stdout


def symbols(paths: list[Path], kinds: str) -> dict[str, Path]:
    """Defined symbols of these kinds (nm's letters) and a file that defines each."""
    found: dict[str, Path] = {}
    for path in paths:
        for line in run("nm", "--defined-only", "--format=posix", path).splitlines():
            name, kind, *_ = line.split()
            if kind in kinds:
                found[name] = path
    return found


def dynamic_symbols(which: str) -> set[str]:
    return {line.split()[0] for line in run("nm", "-D", which, "--format=posix", LIBRARY).splitlines()}


def kernel_objects(instruction_set: str) -> list[Path]:
    return sorted((BUILD_DIR / "CMakeFiles" / f"cpu_{instruction_set}.dir").rglob("*.o"))


def other_objects() -> list[Path]:
    return sorted((BUILD_DIR / "CMakeFiles" / "convkit_ops.dir").rglob("*.o"))


def test_the_build_folder_holds_every_instruction_set() -> None:
    counts = {name: len(kernel_objects(name)) for name in INSTRUCTION_SETS if kernel_objects(name)}
    assert "portable" in counts
    assert len(set(counts.values())) == 1, counts
    assert other_objects()


def test_no_weak_symbol_is_shared_between_instruction_sets() -> None:
    """The linker keeps one copy of a weak symbol: an AVX-512 one would then run on a processor without."""
    groups = {name: symbols(kernel_objects(name), "WVu") for name in INSTRUCTION_SETS}
    groups["the rest"] = symbols(other_objects(), "WVu")
    shared = {
        (a, b): sorted(groups[a].keys() & groups[b].keys())
        for a, b in itertools.combinations(groups, 2)
        if groups[a].keys() & groups[b].keys()
    }
    assert shared == {}


def test_strong_symbols_of_kernels_carry_their_instruction_set() -> None:
    for name in INSTRUCTION_SETS:
        strangers = [s for s in symbols(kernel_objects(name), "TDBR") if f"{len(name)}{name}" not in s]
        assert strangers == [], name


def test_exported_symbols_are_the_c_functions() -> None:
    exported = dynamic_symbols("--defined-only")
    assert exported == {"convkit_algorithms", "convkit_build_info"}


def test_needed_libraries_are_libtorch_cpu_and_the_c_family() -> None:
    needed = re.findall(r"\(NEEDED\).*\[(.*)\]", run("readelf", "-d", LIBRARY))
    family = {"libstdc++.so", "libm.so", "libgcc_s.so", "libc.so", "libpthread.so", "libdl.so", "ld-linux-x86-64.so"}
    assert "libtorch_cpu.so" in needed
    others = {re.sub(r"\.so\..*", ".so", name) for name in needed} - {"libtorch_cpu.so"}
    assert others <= family | {"ld-linux-aarch64.so"}


def test_no_path_of_the_build_machine_is_left_in_the_library() -> None:
    assert not re.search(r"\((RUNPATH|RPATH)\)", run("readelf", "-d", LIBRARY))
    content = LIBRARY.read_bytes()
    for folder in {str(LIBRARY.parent.parent), str(Path.home()), "site-packages"}:
        assert folder.encode() not in content, folder


def test_only_the_stable_interface_of_torch_is_used() -> None:
    """Undefined C++ symbols of torch, c10 or ATen would tie the library to one torch version."""
    undefined = dynamic_symbols("--undefined-only")
    unstable = [s for s in undefined if re.match(r"_ZN?K?(2at|3c10|5torch|6caffe2)", s)]
    assert unstable == []
    assert any(s.startswith(("aoti_torch_", "torch_")) for s in undefined)
