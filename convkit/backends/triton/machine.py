"""Whether Triton kernels can run here, found out once, when somebody asks."""

from __future__ import annotations

import importlib.util
import os
from functools import lru_cache

import torch

from convkit.backends.tracing import constant_while_traced
from convkit.backends.triton import operators


def _to_be_interpreted() -> bool:
    """Whether TRITON_INTERPRET is set, in one of the ways that triton understands."""
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "yes", "on", "y")


@lru_cache
def _look() -> tuple[str | None, str]:
    """(None or the reason why not, the type of device that kernels take)."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed: pip install triton", "cuda"
    if _to_be_interpreted() and importlib.util.find_spec("numpy") is None:
        # Found out before triton is imported: where that fails half-way, nobody can import it any more.
        return "Triton's interpreter needs numpy, which is not installed: pip install numpy", "cpu"
    from convkit.backends.triton import launch

    if launch.INTERPRETED:
        operators.register()
        return None, "cpu"
    if not torch.cuda.is_available():
        return "Triton kernels need a CUDA GPU; TRITON_INTERPRET=1 runs them on the CPU, slowly, as a test", "cuda"
    operators.register()
    return None, "cuda"


@constant_while_traced  # the import of triton cannot be traced
def obstacle() -> str | None:
    """None, or the reason why no kernel can run on this machine."""
    return _look()[0]


@constant_while_traced
def device_type() -> str:
    """Where tensors must be: ``cuda``, or ``cpu`` where kernels are interpreted."""
    return _look()[1]
