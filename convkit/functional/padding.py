"""Padding of the input for the padding modes that a convolution's kernels do not read themselves."""

from __future__ import annotations

import torch
from torch import Tensor

from convkit.problem.arguments import Ints


def pad_input(x: Tensor, pad: Ints, mode: str) -> Tensor:
    """A padded copy of ``x`` (N, C, *spatial); ``pad`` is in torch.nn.functional.pad's order, last dimension first.

    Mode ``mean`` continues each sample's channel by its mean.
    """
    if mode != "mean":
        return torch.nn.functional.pad(x, pad, mode=mode)
    mean = x.mean(dim=tuple(range(2, x.dim())), keepdim=True)
    inside = torch.nn.functional.pad(torch.ones_like(x[:1, :1], dtype=torch.bool), pad, value=False)
    return torch.where(inside, torch.nn.functional.pad(x, pad), mean)
