"""Memory that a graph keeps for backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def kept_bytes(run: Callable[..., Any], *arguments: Any) -> int:
    """The bytes of all distinct memory that tensors saved by ``run(*arguments)`` lie in, parameters left out."""
    sizes: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        if not isinstance(t, torch.nn.Parameter):
            storage = t.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        result = run(*arguments)
    del result
    return sum(sizes.values())
