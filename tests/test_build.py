"""What the build decides before it compiles: CUDA or not, which tools to ask PyPI for, the wheel's name."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from convkit.build_info import build_info
from convkit.version import __version__

ROOT = Path(__file__).parent.parent


def load_tool(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The build's decisions on a machine with every tool but nvcc, for sources with a CUDA kernel."""
    module = load_tool("native_build")
    monkeypatch.delenv("CONVKIT_CUDA", raising=False)
    monkeypatch.setattr(module, "has_cuda_part", lambda root=None: True)
    monkeypatch.setattr(module, "find_nvcc", lambda: None)
    monkeypatch.setattr(module, "find_cmake", lambda: "/bin/cmake")
    monkeypatch.setattr(module, "find_tool", lambda name: f"/bin/{name}")
    return module


def test_without_nvcc_the_cpu_part_is_built_and_nvcc_is_asked_for(build: Any) -> None:
    assert build.cuda_plan() == (False, "no nvcc found", None)
    assert build.missing_tools() == list(build.CUDA_PACKAGES)
    assert all(re.fullmatch(r"nvidia-[a-z-]+==13\.0\.\*", package) for package in build.CUDA_PACKAGES)


def test_an_nvcc_that_is_there_is_used(build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "find_nvcc", lambda: Path("/opt/cuda/bin/nvcc"))
    assert build.cuda_plan() == (True, "with /opt/cuda/bin/nvcc", Path("/opt/cuda/bin/nvcc"))
    assert build.missing_tools() == []


def test_cuda_can_be_switched_off(build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVKIT_CUDA", "0")
    monkeypatch.setattr(build, "find_nvcc", lambda: Path("/opt/cuda/bin/nvcc"))
    assert build.cuda_plan() == (False, "CONVKIT_CUDA=0", None)
    monkeypatch.setattr(build, "find_nvcc", lambda: None)
    assert build.missing_tools() == []


def test_cuda_can_be_demanded(build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVKIT_CUDA", "1")
    with pytest.raises(build.BuildError, match="CONVKIT_CUDA=1, but no nvcc found"):
        build.cuda_plan()
    monkeypatch.setenv("CONVKIT_CUDA", "yes")
    with pytest.raises(build.BuildError, match="must be auto, 0 or 1, got 'yes'"):
        build.cuda_plan()


def test_architectures_are_numbers(build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CONVKIT_CUDA_ARCHS", raising=False)
    assert build.cuda_archs() == build.DEFAULT_CUDA_ARCHS == "80;90a-real;100-real;120-real"
    monkeypatch.setenv("CONVKIT_CUDA_ARCHS", "90a-real")
    assert build.cuda_archs() == "90a-real"
    for wrong in ("native", "sm_90", "80,90"):
        monkeypatch.setenv("CONVKIT_CUDA_ARCHS", wrong)
        with pytest.raises(build.BuildError, match=f"CONVKIT_CUDA_ARCHS must be numbers .* got '{wrong}'"):
            build.cuda_archs()


def test_instruction_sets_to_build_are_known(build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CONVKIT_BUILD_ISAS", raising=False)
    assert build.build_isas() == ""
    for known in ("none", "avx512", "avx2;avx512"):
        monkeypatch.setenv("CONVKIT_BUILD_ISAS", known)
        assert build.build_isas() == known
    monkeypatch.setenv("CONVKIT_BUILD_ISAS", "avx2,avx512")
    with pytest.raises(build.BuildError, match=r"CONVKIT_BUILD_ISAS must be .* got 'avx2,avx512'"):
        build.build_isas()


def test_the_toolkit_of_an_nvcc_that_calls_another_is_found(tmp_path: Path) -> None:
    build = load_tool("native_build")
    nvcc = tmp_path / "nvcc"
    nvcc.write_text("#!/bin/sh\necho '#$ _HERE_=/opt/cuda/bin' >&2\n")
    nvcc.chmod(0o755)
    assert build.cuda_toolkit(nvcc) == Path("/opt/cuda")


def test_without_cuda_kernels_no_compiler_is_downloaded(build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "has_cuda_part", lambda root=None: False)
    assert build.cuda_plan() == (False, "this version's library has no CUDA part", None)
    assert build.missing_tools() == []


def test_missing_tools_are_asked_for(build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "has_cuda_part", lambda root=None: False)
    monkeypatch.setattr(build, "find_cmake", lambda: None)
    monkeypatch.setattr(build, "find_tool", lambda name: None)
    assert build.missing_tools() == ["cmake>=3.18", "ninja"]


def test_an_old_or_broken_cmake_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = load_tool("native_build")
    cmake = tmp_path / "cmake"
    monkeypatch.setattr(build, "find_tool", lambda name: str(cmake))
    for output, status, accepted in (("version 3.17.2", 0, False), ("version 3.18.0", 0, True), ("", 1, False)):
        cmake.write_text(f"#!/bin/sh\necho cmake {output}\nexit {status}\n")
        cmake.chmod(0o755)
        assert (build.find_cmake() is not None) is accepted


def test_the_compiler_of_pypi_is_found_inside_sys_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = load_tool("native_build")
    nvcc = tmp_path / "nvidia" / "cu13" / "bin" / "nvcc"
    nvcc.parent.mkdir(parents=True)
    nvcc.touch()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert build.find_nvcc() == nvcc


def test_library_and_package_have_one_version() -> None:
    assert build_info()["version"] == __version__


def test_setup_asks_setuptools_for_one_wheel_for_every_python() -> None:
    pytest.importorskip("setuptools", minversion="77", reason="an interpreter of one's own may have an older one")
    script = (
        "import setuptools, sys; sys.argv = ['setup.py', '--version']; import runpy; "
        "from setuptools import Distribution; namespace = runpy.run_path('setup.py'); "
        "command = namespace['PlatformWheel'](Distribution({'name': 'x', 'ext_modules': [None]})); "
        "command.ensure_finalized(); print(*command.get_tag())"
    )
    shown = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert re.search(r"^py3 none linux_\w+$", shown, re.MULTILINE), shown
    assert __version__ in shown.split()
