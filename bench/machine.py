"""The machine and the software that numbers were measured on: no path, no host name."""

from __future__ import annotations

import os

from convkit import info
from convkit.build_info import build_info


def describe() -> dict[str, str | int]:
    """What a reader needs to know to compare two sets of numbers."""
    sections = info.collect()
    return {
        "processor": sections["processor"]["processor"],
        "cores": os.cpu_count() or 1,
        "instruction_set": build_info()["instruction_set"],
        **{name: sections["versions"][name] for name in ("convkit", "torch", "python")},
    }
