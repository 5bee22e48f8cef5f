"""What the GPU part of a compiled library runs, and which devices can run it.

The library's machine code and PTX are made for certain GPUs, and its copy of the CUDA runtime needs a driver that is as
new. Both are looked at once per device, before anything is launched there.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from convkit.backends.tracing import constant_while_traced
from convkit.build_info import build_info

FLOATING = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


@constant_while_traced  # a compiled function keeps the switch that it finds
def tf32_allowed() -> bool:
    """PyTorch's switch for convolutions on a GPU, in all of its spellings."""
    cudnn: Any = torch.backends.cudnn
    return bool(cudnn.conv.fp32_precision == "tf32")


def lines(library: Path, function: str) -> tuple[str, ...]:
    """The lines of a text that a function of the library gives; none where the library lacks it."""
    get = getattr(ctypes.CDLL(str(library)), function, None)
    if get is None:
        return ()
    get.restype = ctypes.c_char_p
    text: bytes = get()
    return tuple(text.decode().split())


@lru_cache
def operations(library: Path) -> tuple[str, ...]:
    """The raw operations that have a GPU kernel."""
    return lines(library, "convkit_gpu_operations")


@constant_while_traced  # ctypes cannot be traced
def lacks_kernel(library: Path, op: str, dtype: torch.dtype) -> str | None:
    """None, or why no GPU kernel computes ``op`` in ``dtype``."""
    if op not in operations(library):
        return f"no GPU kernel for {op}"
    if dtype not in FLOATING and op != "pool_indices":  # it reads offsets
        return f"no {op} kernel for {dtype} on a GPU"
    return None


def code_for(archs: Sequence[str], capability: tuple[int, int]) -> str | None:
    """What a GPU of this compute capability runs of code for ``archs``: "machine code", "PTX" or None.

    Machine code (sm_80) runs on GPUs of the same major and no smaller minor number; PTX (compute_80) is translated by
    the driver of any later GPU. A letter a behind the number ties both to that very GPU, an f to its major number.
    """
    found = None
    for arch in archs:
        match = re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", arch)
        assert match is not None, arch  # the build writes them
        kind, major, minor, letter = match.groups()
        made_for = (int(major), int(minor))
        if letter == "a":
            runs = capability == made_for
        elif kind == "sm" or letter == "f":
            runs = capability[0] == made_for[0] and capability >= made_for
        else:
            runs = capability >= made_for
        if runs and kind == "sm":
            return "machine code"
        if runs:
            found = "PTX"
    return found


def misfit(archs: Sequence[str], toolkit: str, capability: tuple[int, int], driver: int) -> str | None:
    """None, or why a GPU with this driver (13020: made for CUDA 13.2) runs no code that CUDA ``toolkit`` made."""
    code = code_for(archs, capability)
    if code is None:
        return f"compute capability {capability[0]}.{capability[1]}, and the library has code for {', '.join(archs)}"
    major, minor = map(int, toolkit.split("."))
    needed = major * 1000 + (minor * 10 if code == "PTX" else 0)  # machine code runs on every driver of one major
    if driver < needed:
        have = f"for CUDA {driver // 1000}.{driver % 1000 // 10}" if driver else "missing"
        return f"the NVIDIA driver is {have}, and the library needs one for CUDA {needed // 1000}.{needed % 1000 // 10}"
    return None


@lru_cache
def _unusable(library: Path, index: int) -> str | None:
    if torch.version.cuda is None:
        return "this torch has no CUDA"
    if not torch.cuda.is_available():
        return "torch finds no CUDA device"
    if index >= torch.cuda.device_count():
        return f"there is no device {index}"
    info = build_info()
    driver: int = ctypes.CDLL(str(library)).convkit_cuda_driver()
    return misfit(info["cuda_archs"], info["cuda"], torch.cuda.get_device_capability(index), driver)


@constant_while_traced  # nor can the driver
def unusable(library: Path, device: torch.device) -> str | None:
    """None, or why the library's GPU kernels do not run on ``device`` at all."""
    if not operations(library):
        return "the library is built without GPU kernels"
    index = device.index
    if index is None:
        index = torch.cuda.current_device() if torch.cuda.is_initialized() else 0
    return _unusable(library, index)
