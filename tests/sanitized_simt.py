"""GPU kernels that reach beyond their memory, on an emulator compiled with AddressSanitizer: `make sanitize` runs this.

What AddressSanitizer finds ends the process, so each kernel has its own.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.test_simt import FAULTS

# A kernel without a fault (csrc/testing/simt_faults.cu) that gets `short` elements less than it reads or writes.
PROGRAM = """
import ctypes, sys
import torch
from convkit.testing.simt import Simt
fault, x_short, y_short = map(int, sys.argv[1:])
run = ctypes.CDLL(str(Simt().binary)).convkit_simt_fault
run.restype, run.argtypes = ctypes.c_char_p, [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
x, y = torch.ones(3 * 256 - x_short), torch.ones(3 * 256 + 3 - y_short)
print(run(fault, x.data_ptr(), y.data_ptr(), 3))
"""
KINDS = {
    "none": ("none", 0, 0, ""),
    "read": ("none", 1, 0, "AddressSanitizer: heap-buffer-overflow"),
    "write": ("none", 0, 1, "AddressSanitizer: heap-buffer-overflow"),
    "shared": ("a write behind shared memory", 0, 0, "AddressSanitizer: use-after-poison"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_simt_out_of_bounds_ends_the_process(kind: str) -> None:
    fault, x_short, y_short, found = KINDS[kind]
    arguments = [str(list(FAULTS).index(fault)), str(x_short), str(y_short)]
    done = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True)
    assert (done.returncode == 0) == (found == "") and found in done.stderr, done.stderr
    assert (done.stdout == "None\n") == (found == ""), done.stdout
