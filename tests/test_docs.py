"""The documentation: generated pages are current, links lead somewhere, commands exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import convkit

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def test_support_matrix_is_what_the_registry_says() -> None:
    tool = [sys.executable, str(ROOT / "tools" / "support_matrix.py"), "--check"]
    shown = subprocess.run(tool, capture_output=True, text=True)
    assert shown.returncode == 0, "run python tools/support_matrix.py " + shown.stderr


def test_memory_table_is_what_is_counted() -> None:
    shown = subprocess.run([sys.executable, str(ROOT / "tools" / "kept_memory.py"), "--check"], capture_output=True)
    assert shown.returncode == 0, b"run python tools/kept_memory.py " + shown.stderr
    rows = re.findall(r"^\| ([^|]+) \|.* ([\d.]+) \|$", (ROOT / "docs" / "memory.md").read_text(), re.MULTILINE)
    parts = {name: float(part) for name, part in rows}
    assert len(parts) == 7 and max(parts.values()) <= 0.75
    assert all(part == 0.5 for name, part in parts.items() if " x convolution" in name)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_named_files_exist(page: Path) -> None:
    text = page.read_text()
    for name in re.findall(r"`((?:csrc|convkit|bench|tests|tools|examples|docs|requirements)/[\w./-]*)`", text):
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([\w-]+(?: [\w-]+)*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    known = {name for group in targets for name in group.split()}
    for line in re.findall(r"^\s*make ([^#\n]+)", page.read_text(), re.MULTILINE):
        for word in line.split("ARGS=")[0].split():
            assert "=" in word or word in known, f"make {word}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_public_names_exist(page: Path) -> None:
    for path in re.findall(r"\bconvkit\.((?:nn|functional)\.\w+|[a-z_]+)\(", page.read_text()):
        found = convkit
        for name in path.split("."):
            found = getattr(found, name)


def test_readme_usage_runs() -> None:
    import torch

    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert code is not None
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.MaxPool2d(2))
    exec(code[1], {"model": model})
    assert type(model[0]) is torch.nn.Conv2d  # converted, and reverted
