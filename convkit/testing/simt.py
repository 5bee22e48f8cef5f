"""Backend ``simt``: the GPU kernels on the CPU, through the bindings that GPU tensors take. For tests.

The library is compiled from the same CUDA sources by a C++ compiler (``csrc/simt_emulator``); it belongs to the build
folder and is in no wheel. CPU tensors stand for GPU memory.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

from convkit.backends import gpu
from convkit.backends.native import Native
from convkit.problem import ConvSpec, PoolSpec

BUILD_DIR = Path(os.environ.get("CONVKIT_BUILD_DIR", Path(__file__).parents[2] / "build" / "release"))


class Simt(Native):
    name = "simt"
    namespace = "convkit_simt"
    binary = BUILD_DIR / "convkit_simt.so"
    tables: Mapping[str, str] = {"cpu": "convkit_gpu_algorithms"}  # CPU tensors stand for a GPU's

    def supports(
        self, op: str, dtype: torch.dtype, device: torch.device, spec: ConvSpec | PoolSpec | None
    ) -> str | None:
        if (reason := gpu.lacks_kernel(self.binary, op, dtype)) is not None:
            return reason
        return super().supports(op, dtype, device, spec)

    @contextmanager
    def machine(self, seed: int = 0, late_copies: bool = True) -> Iterator[None]:
        """Within it, threads run in an order permuted under ``seed`` (0: ascending), and asynchronous copies arrive
        when they are waited for, or as soon as they are issued."""
        options = ctypes.CDLL(str(self.binary)).convkit_simt_options
        options.argtypes = (ctypes.c_uint64, ctypes.c_int)
        options.restype = None
        options(seed, late_copies)
        try:
            yield
        finally:
            options(0, True)
