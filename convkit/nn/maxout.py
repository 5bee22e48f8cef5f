"""Maxout."""

from __future__ import annotations

import torch
from torch import Tensor

from convkit import functional
from convkit.functional.maxout import check_pieces


class Maxout(torch.nn.Module):
    """The largest of each ``pieces`` neighbours along ``dim``; see :func:`convkit.functional.maxout`."""

    def __init__(self, pieces: int, dim: int = 1, *, backend: str | None = None) -> None:
        super().__init__()
        check_pieces("Maxout", pieces)
        self.pieces, self.dim, self.backend = pieces, dim, backend

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, ...) to (N, C / pieces, ...)."""
        return functional.maxout(input, self.pieces, self.dim, backend=self.backend)

    def extra_repr(self) -> str:
        return f"pieces={self.pieces}" + ("" if self.dim == 1 else f", dim={self.dim}")
