"""The house's rules: layers point one way, torch headers in one folder, small text files only."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# What each layer may use besides itself.
CXX_LAYERS = {
    "core": set(),
    "cpu": {"core"},
    "cuda": {"core"},
    "simt_emulator": set(),
    "torch": {"core", "cpu", "cuda", "simt_emulator"},
    "testing": {"core", "cpu", "cuda"},
}
PYTHON_LAYERS = (
    {"version", "problem"},
    {"build_info"},
    {"backends"},
    {"testing"},
    {"autograd"},
    {"functional"},
    {"nn"},
    {"conversion", "fusion", "geometry"},
    {"check", "demo", "info", "terminal", "timing", "__main__"},
)
MOST_LINES = 500


def tracked_files() -> list[Path]:
    """Files under version control; without git (an unpacked archive), every file of the source folders."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode == 0 and listed.stdout:
        return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]
    folders = ("bench", "convkit", "csrc", "docs", "requirements", "tests", "tools")
    found = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    return [path for path in found if path.suffix not in (".so", ".pyc")]


def includes(path: Path) -> list[tuple[str, str]]:
    """(delimiter, header) of each include."""
    return re.findall(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', path.read_text(), re.MULTILINE)


def cxx_files() -> list[Path]:
    return sorted(p for p in (ROOT / "csrc").rglob("*") if p.suffix in (".h", ".cpp", ".cu", ".cuh"))


def python_modules() -> list[Path]:
    return sorted((ROOT / "convkit").rglob("*.py"))


def layer_of(path: Path) -> str:
    return path.relative_to(ROOT / "convkit").parts[0].removesuffix(".py")


def imported_layers(path: Path) -> set[str]:
    """First names below convkit that a module imports, at its top or inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, (ast.Import, ast.ImportFrom)):
            continue
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif node.level == 0 and node.module == "convkit":
            names = [f"convkit.{alias.name}" for alias in node.names]
        else:
            assert node.level == 0, f"{path}: imports are absolute"
            names = [node.module or ""]
        found.update(name.split(".")[1] for name in names if name.startswith("convkit."))
    return found


@pytest.mark.parametrize("path", cxx_files(), ids=lambda p: str(p.relative_to(ROOT)))
def test_cxx_layers_point_one_way(path: Path) -> None:
    layer = path.relative_to(ROOT / "csrc").parts[0]
    own = {header.split("/")[0] for delimiter, header in includes(path) if delimiter == '"'}
    assert own <= {layer} | CXX_LAYERS[layer]


@pytest.mark.parametrize("path", [p for p in cxx_files() if "cuda" in p.relative_to(ROOT).parts], ids=lambda p: p.name)
def test_the_gpu_is_addressed_in_one_folder(path: Path) -> None:
    if path.parent.name != "device":
        found = re.findall(r"<<<|\bcuda[A-Z]\w+|\basm\b|__cvta|extern __shared__|__CUDA_ARCH__", path.read_text())
        assert found == []


@pytest.mark.parametrize("path", cxx_files(), ids=lambda p: str(p.relative_to(ROOT)))
def test_torch_headers_are_included_in_csrc_torch_only(path: Path) -> None:
    torch_headers = [
        h for delimiter, h in includes(path) if re.match(r"(torch|ATen|c10|caffe2)/", h) and delimiter == "<"
    ]
    if path.parent.name != "torch":
        assert torch_headers == []
    unstable = [h for h in torch_headers if not h.startswith(("torch/csrc/stable/", "torch/headeronly/"))]
    assert unstable == []


@pytest.mark.parametrize("path", python_modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_python_layers_point_one_way(path: Path) -> None:
    layer = layer_of(path)
    if layer == "__init__":  # the public names, from every layer
        return
    rank = next((i for i, names in enumerate(PYTHON_LAYERS) if layer in names), None)
    assert rank is not None, f"layer {layer} has no place in PYTHON_LAYERS"
    allowed = set().union(*PYTHON_LAYERS[: rank + 1])
    assert imported_layers(path) <= allowed


def test_no_generated_or_binary_file_is_tracked() -> None:
    binary = [p for p in tracked_files() if b"\0" in p.read_bytes()]
    suffixes = {".so", ".o", ".a", ".pyc", ".whl", ".cubin", ".ptx", ".egg-info"}
    generated = [p for p in tracked_files() if p.suffix in suffixes or "build" in p.relative_to(ROOT).parts]
    assert binary == []
    assert generated == []


def test_files_are_small() -> None:
    code = [p for p in tracked_files() if p.suffix in (".py", ".h", ".cpp", ".cu", ".cuh")]
    long = {str(p.relative_to(ROOT)): n for p in code if (n := p.read_text().count("\n")) > MOST_LINES}
    assert long == {}


def test_every_source_is_listed_in_cmake() -> None:
    listed = set(re.findall(r"csrc/[\w/]+\.(?:cpp|cu)\b", (ROOT / "CMakeLists.txt").read_text()))
    assert listed == {str(p.relative_to(ROOT)) for p in cxx_files() if p.suffix in (".cpp", ".cu")}
