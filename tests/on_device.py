"""Where Triton kernels run: on a GPU, or in Triton's interpreter on CPU tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from convkit.backends.base import RAW_OPS, Backend
from convkit.backends.triton import tiles
from tests import places

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class OnDevice(Backend):
    """The backend, given CPU tensors: on a GPU they travel there and back."""

    name = "triton on the device"

    def __init__(self, inner: Backend) -> None:
        self._inner = inner

    def __getattribute__(self, op: str) -> Any:
        if op not in RAW_OPS:
            return super().__getattribute__(op)
        run = getattr(self._inner, op)

        def there_and_back(**arguments: Any) -> Any:
            def move(t: Tensor) -> Tensor:
                return t if DEVICE == "cpu" else places.move(t, torch.device(DEVICE))

            # In the interpreter every operation of a block costs alike: few large blocks.
            with tiles.forced(block=tiles.Block(512, 4) if DEVICE == "cpu" else None):
                result = run(**{name: places.mapped(move, a) for name, a in arguments.items()})
            return tuple(r.cpu() for r in result) if isinstance(result, tuple) else result.cpu()

        return there_and_back
