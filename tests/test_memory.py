"""Nothing beside a tensor is read or written: arguments that end, or begin, at a page that cannot be touched.

A reading past the end is usually harmless, and so unseen; here it ends the process. The catalogue runs in
processes of their own, and the last line printed names the call that broke.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor

import convkit
from convkit import backends
from convkit.testing.catalogue import CONVOLUTIONS, POOLS, TRANSPOSED
from convkit.testing.flat import flat_calls
from convkit.testing.norms import fused_calls
from convkit.testing.oracle import Call, conv_calls, pool_calls, transposed_calls

ROOT = Path(__file__).parent.parent
PAGE = mmap.PAGESIZE
LIBC = ctypes.CDLL(None, use_errno=True)


def guarded(t: Tensor, at_end: bool) -> Tensor:
    """A dense copy in t's order of dimensions, whose last (or first) byte touches a page without access.

    The tensor holds its pages, and gives them back: a process has room for so many only.
    """
    size = max(t.numel(), 1) * t.element_size()
    pages = -(-size // PAGE)
    area = mmap.mmap(-1, (pages + 2) * PAGE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(area))
    for page in (0, pages + 1):
        assert LIBC.mprotect(ctypes.c_void_p(address + page * PAGE), PAGE, 0) == 0
    begin = PAGE + (pages * PAGE - size if at_end else 0)
    flat = torch.frombuffer(area, dtype=t.dtype, count=max(t.numel(), 1), offset=begin)
    view = flat.as_strided(t.shape, torch.empty_like(t).stride())
    return view.copy_(t)


def run_guarded() -> None:
    """Every call of the catalogue; other tests look at the values."""
    native, reference = backends.get("native"), backends.get("reference")
    for dtype, layout in product((torch.float32, torch.bfloat16), ("contiguous", "channels_last")):
        calls = [c for case in CONVOLUTIONS for c in conv_calls(case, dtype, layout)]
        calls += [c for case in TRANSPOSED for c in transposed_calls(case, dtype, layout)]
        calls += [c for case in POOLS for c in pool_calls(case, dtype, reference, layout)]
        calls += [c for _, c in flat_calls(dtype, layout) + fused_calls(dtype, layout)]
        for call, at_end in product(calls, (True, False)):
            changed = {k: guarded(v, at_end) if isinstance(v, Tensor) else v for k, v in call.arguments.items()}
            print(call.op, call.spec, dtype, layout, "end" if at_end else "begin", flush=True)
            Call(call.op, changed).run(native)


@pytest.mark.parametrize("isa", ["avx512", "avx2", "portable"])
def test_arguments_beside_guard_pages(isa: str) -> None:
    program = "import sys; sys.path[:0] = ['tests']; import test_memory; test_memory.run_guarded()"
    environment = {**os.environ, "CONVKIT_CPU_ISA": isa, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=300, env=environment
    )
    last = done.stdout.strip().splitlines()[-1:]
    assert done.returncode == 0, f"{last}\n{done.stderr[-2000:]}"


def test_guard_pages_work() -> None:
    """Reading one element too far ends the process."""
    program = (
        "import sys; sys.path[:0] = ['tests']; import ctypes, test_memory, torch;"
        "t = test_memory.guarded(torch.ones(3, 5), True); ctypes.string_at(t.data_ptr(), 61)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, timeout=120)
    assert done.returncode < 0


def test_large_results_ask_for_large_pages() -> None:
    """The kernel's flag "hg" is on the mapping of a result, wherever the kernel has large pages."""
    result = convkit.functional.avg_pool2d(torch.ones(1, 8, 1024, 1024), 1)
    middle, flags = result.data_ptr() + result.numel() * 2, ""
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first = line.split()[0]
        if not first.endswith(":"):
            low, high = (int(end, 16) for end in first.split("-"))
        elif first == "VmFlags:" and low <= middle < high:
            flags = line
    assert flags and ("hg" in flags.split()) == Path("/sys/kernel/mm/transparent_hugepage").is_dir()
