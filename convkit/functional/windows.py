"""The elements of every window as a view, for poolings that have no kernel of their own."""

from __future__ import annotations

from math import inf

import torch
from torch import Tensor

from convkit.problem import PoolSpec, pool_output_size
from convkit.problem.arguments import Ints


def windows(x: Tensor, spec: PoolSpec) -> Tensor:
    """The elements of every window (N, C, *out, *kernel_size), minus infinity in the padding."""
    size = tuple(x.shape[2:])
    out = pool_output_size(size, spec)
    before, after = enclosing(size, out, spec)
    order = [p for pair in reversed(list(zip(before, after))) for p in pair]
    found = torch.nn.functional.pad(x, order, value=-inf)
    for d, (o, k, s, step) in enumerate(zip(out, spec.kernel_size, spec.stride, spec.dilation)):
        found = found.unfold(2 + d, step * (k - 1) + 1, s).narrow(2 + d, 0, o)[..., ::step]
    return found


def steps(spec: PoolSpec) -> tuple[Ints, Ints, Ints]:
    """Stride, dilation and kernel size."""
    return spec.stride, spec.dilation, spec.kernel_size


def enclosing(size: Ints, out: Ints, spec: PoolSpec) -> tuple[Ints, Ints]:
    """Padding before and after each dimension such that every window lies inside."""
    reach = tuple((o - 1) * s + d * (k - 1) + 1 for o, s, d, k in zip(out, *steps(spec)))
    after = tuple(max(r - before - n, a) for r, before, n, a in zip(reach, spec.pad_before, size, spec.pad_after))
    return spec.pad_before, after
