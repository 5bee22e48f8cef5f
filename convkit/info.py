"""What this installation consists of: versions, instruction sets, CUDA, backends, and for what is missing, why."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from pathlib import Path

import torch

from convkit import backends
from convkit.build_info import build_info
from convkit.version import __version__

Section = dict[str, str]


def _library() -> Section:
    try:
        info = build_info()
    except OSError as error:
        return {"library": f"missing: {error}"}
    processor, used = info["runnable_instruction_sets"], info["instruction_set"]
    return {
        "library": f"convkit_ops {info['version']}, for any torch >= {info['minimum_torch']}",
        "compiler": f"{info['compiler']}, {info['flags']}",
        "instruction sets compiled": ", ".join(info["compiled_instruction_sets"]),
        "instruction sets of this processor": ", ".join(processor),
        "instruction set in use": used + ("" if used == processor[-1] else " (by CONVKIT_CPU_ISA)"),
        "CUDA architectures": ", ".join(info["cuda_archs"]) or "none: built without CUDA kernels",
    }


def _processor() -> Section:
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text() if cpuinfo.exists() else ""
    name = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    flags = re.search(r"^flags\s*: (.*)$", text, re.MULTILINE)
    interesting = re.compile(r"avx2|fma|f16c|avx512(f|bw|vl|dq|_vnni|_bf16|_fp16)|amx_\w+")
    shown = [flag for flag in (flags[1].split() if flags else ()) if interesting.fullmatch(flag)]
    return {
        "processor": name[1] if name else platform.processor() or platform.machine(),
        "features": ", ".join(shown) or "unknown",
        "threads": f"{torch.get_num_threads()} (torch.get_num_threads)",
    }


def nvidia_driver() -> str | None:
    """The driver's version, from the kernel or from nvidia-smi; None without a driver."""
    kernel = Path("/proc/driver/nvidia/version")
    if kernel.exists() and (found := re.search(r"\s(\d+\.\d+(\.\d+)?)\s", kernel.read_text())):
        return found[1]
    if (tool := shutil.which("nvidia-smi")) is None:
        return None
    query = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        shown = subprocess.run(query, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return shown.stdout.splitlines()[0].strip() if shown.returncode == 0 and shown.stdout.strip() else None


def _devices() -> Section:
    driver = nvidia_driver()
    if torch.version.cuda is None:
        devices = "none: this torch is built without CUDA"
    elif not torch.cuda.is_available():
        devices = "none: " + ("no NVIDIA driver" if driver is None else "torch finds no usable device")
    else:
        devices = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
    return {"NVIDIA driver": driver or "none", "CUDA of torch": torch.version.cuda or "none", "CUDA devices": devices}


def collect() -> dict[str, Section]:
    """Sections of name -> text, in the order in which they are shown."""
    return {
        "versions": {
            "convkit": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "system": platform.platform(),
        },
        "compiled library": _library(),
        "processor": _processor(),
        "devices": _devices(),
        "backends": {
            name: "available" if (reason := backends.get(name).available()) is None else f"missing: {reason}"
            for name in backends.names()
        },
    }
