"""What launchers ask of a device: its size, and what its instructions can do."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import triton

from convkit.backends.triton import tiles
from convkit.backends.triton.launch import INTERPRETED

#: Of a device that is not there: a block's shared memory, and few multiprocessors, so that programs take several tiles.
_SHARED_MEMORY, _MULTIPROCESSORS = 96 << 10, 4


@lru_cache
def shared_memory(device: torch.device) -> int:
    """Bytes of shared memory that a block can have."""
    if device.type != "cuda":
        return _SHARED_MEMORY
    properties: Any = torch.cuda.get_device_properties(device)
    return int(properties.shared_memory_per_block_optin)


@lru_cache
def multiprocessors(device: torch.device) -> int:
    if device.type != "cuda":
        return _MULTIPROCESSORS
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


@lru_cache
def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)


def copies_boxes(device: torch.device) -> bool:
    """Whether a device copies boxes of a tensor by descriptor. The interpreter does as one that can."""
    if INTERPRETED:
        return True
    if device.type == "cuda":
        return _capability(device) >= tiles.BOXES_FROM
    arch: int = triton.runtime.driver.active.get_current_target().arch  # kernels are only compiled
    return divmod(arch, 10) >= tiles.BOXES_FROM
