"""Unpooling, selection by flat index and its adjoint, and fractional pooling.

A flat index is a row-major position in the plane of one sample and channel; planes are flattened to one dimension.
"""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from convkit.backends.base import Backend, accumulate_dtype
from convkit.backends.reference.windows import Sizes, finish, taps


def _named(indices: Tensor, volume: int) -> tuple[Tensor, Tensor]:
    """Which indices name an element, and indices that all do (0 for the others)."""
    valid = (indices >= 0) & (indices < volume)
    return valid, torch.where(valid, indices, 0)


def gathered(x: Tensor, indices: Tensor) -> Tensor:
    """The elements (N, C, *out) that the indices name in their planes; 0 for one that names none."""
    volume = prod(x.shape[2:])
    if volume == 0:
        return x.new_zeros(indices.shape)
    valid, at = _named(indices.flatten(2), volume)
    return torch.where(valid, x.flatten(2).gather(2, at), 0).reshape(indices.shape)


def scattered(dy: Tensor, indices: Tensor, input_size: Sizes) -> Tensor:
    """The adjoint of :func:`gathered`, in the type of sums."""
    volume = prod(input_size)
    dx = dy.new_zeros(*dy.shape[:2], volume, dtype=accumulate_dtype(dy.dtype))
    if volume > 0:
        valid, at = _named(indices.flatten(2), volume)
        dx = dx.scatter_add(2, at, torch.where(valid, dy.flatten(2).to(dx.dtype), 0))
    return dx.reshape(*dy.shape[:2], *input_size)


def fractional_starts(samples: Tensor, length: int, kernel: int, out: int) -> Tensor:
    """Where the ``out`` windows of a dimension start (N, C, out), given a sample per plane (N, C).

    alpha = (length - kernel) / (out - 1); start(i) = trunc((i + u) alpha) - trunc(u alpha), each step rounded to
    the samples' dtype; the last window ends with the input (Graham, "Fractional Max-Pooling", arXiv:1412.6071).
    """
    last = length - kernel

    def truncated(v: Tensor) -> Tensor:  # one value for what no 32-bit integer holds, NaN included
        v = v.double()
        return torch.where(v.abs() < 2**31, v, -(2.0**31)).to(torch.int64)

    at_end = samples.new_full((*samples.shape, min(out, 1)), last, dtype=torch.int64)
    if out < 2:
        return at_end
    alpha = samples.new_tensor(last) / samples.new_tensor(out - 1)
    u = samples.unsqueeze(-1)
    window = torch.arange(out - 1, device=samples.device).to(samples.dtype)
    starts = truncated((window + u) * alpha) - truncated(u * alpha)
    return torch.cat([starts.clamp(0, last), at_end], -1)


class FlatReference(Backend):
    def max_unpool(self, x: Tensor, indices: Tensor, output_size: Sizes, channels_last: bool) -> Tensor:
        size, flat, values = (*x.shape[:2], *output_size), indices.flatten(2), x.flatten(2)
        count, volume = flat.shape[2], prod(output_size)
        if count == 0:
            return finish(x.new_zeros(size), x.dtype, channels_last)
        # The last of equal indices wins: every position finds the largest number, from 1, of those that name it.
        number = torch.arange(1, count + 1, device=x.device).expand_as(flat)
        try:
            winner = flat.new_zeros(*x.shape[:2], volume).scatter_reduce(2, flat, number, "amax")
        except RuntimeError:
            invalid = flat[(flat < 0) | (flat >= volume)]
            if invalid.numel() == 0:
                raise
            sizes = "x".join(map(str, output_size)) + ("x1" if len(output_size) == 1 else "")
            raise RuntimeError(
                f"Found an invalid max index: {int(invalid[-1])} (output volumes are of size {sizes}): "
                "an index must lie in its volume"
            ) from None
        y = torch.where(winner > 0, values.gather(2, (winner - 1).clamp(min=0)), 0)
        return finish(y.reshape(size), x.dtype, channels_last)

    def plane_gather(self, x: Tensor, indices: Tensor, channels_last: bool) -> Tensor:
        return finish(gathered(x, indices), x.dtype, channels_last)

    def plane_scatter(self, dy: Tensor, indices: Tensor, input_size: Sizes, channels_last: bool) -> Tensor:
        return finish(scattered(dy, indices, input_size), dy.dtype, channels_last)

    def fractional_max_pool(
        self,
        x: Tensor,
        samples: Tensor,
        kernel_size: Sizes,
        output_size: Sizes,
        with_indices: bool,
        channels_last: bool,
    ) -> tuple[Tensor, Tensor]:
        size, dims = tuple(x.shape[2:]), x.dim() - 2
        origin = torch.zeros((), dtype=torch.int64, device=x.device)
        for d in range(dims):
            # PyTorch takes the samples of an image in the order W, H, those of a volume in the order D, H, W.
            sample = samples[: x.shape[0], :, dims - 1 - d if dims == 2 else d]
            starts = fractional_starts(sample, size[d], kernel_size[d], output_size[d])
            others = [1] * dims
            others[d] = output_size[d]
            origin = origin * size[d] + starts.reshape(*x.shape[:2], *others)
        planes = x.flatten(2)
        top = x.new_full((*x.shape[:2], *output_size), float("-inf"))
        chosen = origin
        for tap in taps(kernel_size):
            step = 0
            for t, n in zip(tap, size):
                step = step * n + t
            value = planes.gather(2, (origin + step).flatten(2)).reshape(top.shape)
            take = (value > top) | (value != value)  # first of ties, last NaN
            top = torch.where(take, value, top)
            chosen = torch.where(take, origin + step, chosen)
        kept = chosen if with_indices else chosen[:0]
        return finish(top, x.dtype, channels_last), finish(kept, torch.int64, channels_last)
