"""The machine and the software that numbers were measured on: no path, no host name."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch

from convkit.build_info import build_info
from convkit.version import __version__


def describe() -> dict[str, str | int]:
    return {
        "processor": _processor(),
        "cores": os.cpu_count() or 1,
        "torch": torch.__version__,
        "convkit": __version__,
        "instruction_set": build_info()["instruction_set"],
        "python": platform.python_version(),
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
