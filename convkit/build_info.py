"""What the compiled library was built from and for, as it says itself."""

from __future__ import annotations

import ctypes
import functools
import json
import os
from pathlib import Path
from typing import Any

import torch  # noqa: F401 - the library needs libtorch_cpu in the process

# CONVKIT_LIBRARY names another build of it, such as the one with sanitizers.
LIBRARY = Path(os.environ.get("CONVKIT_LIBRARY") or Path(__file__).resolve().parent / "convkit_ops.so")


@functools.cache
def build_info() -> dict[str, Any]:
    """The library's own account of itself.

    Keys: version, compiler, flags, minimum_torch, compiled_instruction_sets, runnable_instruction_sets (on this
    processor), instruction_set (the one in use), cuda (the version of CUDA
    that compiled the GPU kernels; empty: there are none), cuda_archs (sm_*: machine code, compute_*: PTX).

    Raises:
        OSError: the library is missing or does not load.
    """
    describe = ctypes.CDLL(str(LIBRARY)).convkit_build_info
    describe.restype = ctypes.c_char_p
    text: bytes = describe()
    info: dict[str, Any] = json.loads(text)
    return info
