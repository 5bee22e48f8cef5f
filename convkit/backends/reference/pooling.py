"""Maximum and average pooling, and what window offsets name."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor

from convkit.backends.base import Backend, accumulate_dtype
from convkit.backends.layout import OFFSET_DTYPES
from convkit.backends.reference.flat import gathered, scattered
from convkit.backends.reference.windows import Sizes, finish
from convkit.problem import PoolSpec, offset_bytes, pool_output_size


def read_positions(size: Sizes, out: Sizes, spec: PoolSpec, device: torch.device) -> list[Tensor]:
    """Per dimension (out, kernel): the input position that each tap of each window reads, outside the input if none."""
    if spec.output_size:
        return [_adaptive_positions(*sizes, device) for sizes in zip(size, out, spec.kernel_size)]
    return [
        (torch.arange(o, device=device) * s - before)[:, None] + torch.arange(k, device=device) * d
        for o, k, s, before, d in zip(out, spec.kernel_size, spec.stride, spec.pad_before, spec.dilation)
    ]


def _adaptive_positions(length: int, out: int, kernel: int, device: torch.device) -> Tensor:
    window = torch.arange(out, device=device)[:, None]
    start, end = window * length // max(out, 1), ((window + 1) * length + out - 1) // max(out, 1)
    at = start + torch.arange(kernel, device=device)
    return torch.where(at < end, at, -1)


#: The elements of windows that are held at once, but for those of a single plane.
_MOST_ELEMENTS = 1 << 22


class Windows:
    """What the taps of all windows read; a tap of a window that reads nothing has the value 0."""

    def __init__(self, size: Sizes, out: Sizes, spec: PoolSpec, device: torch.device) -> None:
        self.size, dims = size, len(size)
        flat = torch.zeros((), dtype=torch.int64, device=device)
        inside = torch.ones((), dtype=torch.bool, device=device)
        for d, (at, n) in enumerate(zip(read_positions(size, out, spec, device), size)):
            shape = [1] * (2 * dims)  # (*kernel, *out)
            shape[d], shape[dims + d] = at.shape[1], at.shape[0]
            at = at.t().reshape(shape)
            flat, inside = flat * n + at, inside & (at >= 0) & (at < n)
        taps = (prod(spec.kernel_size), *out)
        #: (taps, *out): which taps of which windows read an element.
        self.inside = inside.reshape(taps)
        #: The same shape: the number of that element in its plane, and one more than the last where there is none.
        self.index = torch.where(inside, flat, prod(size)).reshape(taps)
        #: The numbers of the taps, beside those of the windows.
        self.number = torch.arange(taps[0], dtype=torch.int32, device=device).view(-1, *(1,) * dims)

    def read(self, x: Tensor) -> Tensor:
        """x (N, C, *size) -> (N, C, taps, *out): the elements of every window."""
        planes = torch.cat([x.flatten(2), x.new_zeros(*x.shape[:2], 1)], 2)
        return planes.gather(2, self.index.flatten().expand(*x.shape[:2], -1)).reshape(*x.shape[:2], *self.index.shape)

    def add(self, y: Tensor) -> Tensor:
        """The adjoint of :meth:`read`, of y (N, C, taps, *out) or, where all taps have the same, (N, C, 1, *out)."""
        planes = y.new_zeros(*y.shape[:2], prod(self.size) + 1)
        planes.index_add_(2, self.index.flatten(), y.expand(*y.shape[:2], *self.index.shape).flatten(2))
        return planes[:, :, :-1].reshape(*y.shape[:2], *self.size)

    def pick(self, elements: Tensor, chosen: Tensor, otherwise: float) -> Tensor:
        """Of the elements of every window the one at tap ``chosen`` (N, C, *out); ``otherwise`` where that is -1."""
        at = chosen.clamp(min=0).to(torch.int64).unsqueeze(2)
        return torch.where(chosen < 0, otherwise, elements.gather(2, at).squeeze(2))

    def indices(self, offsets: Tensor) -> Tensor:
        """The flat input position that each offset (N, C, *out) names, -1 where none."""
        named = (offsets >= 0) & (offsets < self.index.shape[0])
        at = torch.where(named, offsets, 0).to(torch.int64)
        window = torch.arange(prod(offsets.shape[2:]), device=offsets.device).view(offsets.shape[2:])
        position = self.index.flatten()[at * window.numel() + window]
        return torch.where(named & (position < prod(self.size)), position, -1)

    def in_blocks(self, compute: Callable[..., Any], *tensors: Tensor) -> Any:
        """compute(*tensors), for so many planes at once that their windows' elements fit into memory.

        ``compute`` takes and returns tensors (N, C, ...), and treats every plane alike.
        """
        n, c = tensors[0].shape[:2]
        if n * c * self.index.numel() <= _MOST_ELEMENTS:
            return compute(*tensors)
        step = max(1, _MOST_ELEMENTS // self.index.numel())
        blocks = zip(*(t.reshape(n * c, 1, *t.shape[2:]).split(step) for t in tensors))
        results = [compute(*block) for block in blocks]
        if isinstance(results[0], tuple):
            return tuple(torch.cat(parts).reshape(n, c, *parts[0].shape[2:]) for parts in zip(*results))
        return torch.cat(results).reshape(n, c, *results[0].shape[2:])


def outer(per_dimension: list[Tensor]) -> Tensor:
    """The product of one vector per dimension, as a tensor of all of them."""
    result = per_dimension[0]
    for v in per_dimension[1:]:
        result = result[..., None] * v
    return result


def divisors(size: Sizes, out: Sizes, spec: PoolSpec, device: torch.device) -> Tensor | int:
    """What avg_pool divides each window's sum by."""
    if spec.divisor_override:
        return spec.divisor_override
    counts = []
    for d, reach in enumerate(read_positions(size, out, spec, device)):
        if spec.count_include_pad and not spec.output_size:  # explicit padding counts, ceil_mode's overhang does not
            counts.append((reach < size[d] + spec.pad_after[d]).sum(1))
        else:
            counts.append(((reach >= 0) & (reach < size[d])).sum(1))
    return outer(counts).clamp(min=1)  # an empty window has sum 0


def divide(total: Tensor, divisor: Tensor | int) -> Tensor:
    if total.is_floating_point():
        return total / divisor
    return torch.div(total, divisor, rounding_mode="trunc")


class PoolingReference(Backend):
    def max_pool(self, x: Tensor, spec: PoolSpec, offsets: bool, channels_last: bool) -> tuple[Tensor, Tensor]:
        size = tuple(x.shape[2:])
        windows = Windows(size, pool_output_size(size, spec), spec, x.device)
        lowest = float("-inf") if x.is_floating_point() else torch.iinfo(x.dtype).min  # of a window without any element

        def choose(x: Tensor) -> tuple[Tensor, Tensor]:
            elements = windows.read(x)
            top = torch.where(windows.inside, elements, lowest).amax(2, keepdim=True)  # NaN if any is
            lost = top != top
            highest = windows.inside & torch.where(lost, elements != elements, elements == top)
            last = torch.where(highest, windows.number, -1).amax(2)
            first = -torch.where(highest, -windows.number, -windows.index.shape[0]).amax(2)
            chosen = torch.where(lost.squeeze(2) | (last < 0), last, first)  # first of ties, last NaN
            return windows.pick(elements, chosen, lowest), chosen

        top, chosen = windows.in_blocks(choose, x)
        offset_dtype = OFFSET_DTYPES[offset_bytes(spec.kernel_size)]
        kept = chosen.clamp(min=0) if offsets else chosen[:0]
        return finish(top, x.dtype, channels_last), finish(kept, offset_dtype, channels_last)

    def pool_select(self, x: Tensor, offsets: Tensor, spec: PoolSpec, channels_last: bool) -> Tensor:
        windows = Windows(tuple(x.shape[2:]), tuple(offsets.shape[2:]), spec, x.device)
        return finish(gathered(x, windows.indices(offsets)), x.dtype, channels_last)

    def pool_select_bwd(
        self, dy: Tensor, offsets: Tensor, input_size: Sizes, spec: PoolSpec, channels_last: bool
    ) -> Tensor:
        windows = Windows(tuple(input_size), tuple(dy.shape[2:]), spec, dy.device)
        return finish(scattered(dy, windows.indices(offsets), input_size), dy.dtype, channels_last)

    def pool_indices(self, offsets: Tensor, input_size: Sizes, spec: PoolSpec, channels_last: bool) -> Tensor:
        windows = Windows(tuple(input_size), tuple(offsets.shape[2:]), spec, offsets.device)
        return finish(windows.indices(offsets), torch.int64, channels_last)

    def avg_pool(self, x: Tensor, spec: PoolSpec, channels_last: bool) -> Tensor:
        size = tuple(x.shape[2:])
        out = pool_output_size(size, spec)
        windows = Windows(size, out, spec, x.device)
        values = x.to(accumulate_dtype(x.dtype))
        total = windows.in_blocks(lambda x: windows.read(x).sum(2, dtype=x.dtype), values)
        return finish(divide(total, divisors(size, out, spec, x.device)), x.dtype, channels_last)

    def avg_pool_bwd(self, dy: Tensor, input_size: Sizes, spec: PoolSpec, channels_last: bool) -> Tensor:
        size, out = tuple(input_size), tuple(dy.shape[2:])
        windows = Windows(size, out, spec, dy.device)
        share = divide(dy.to(accumulate_dtype(dy.dtype)), divisors(size, out, spec, dy.device))
        dx = windows.in_blocks(lambda share: windows.add(share.unsqueeze(2)), share)
        return finish(dx, dy.dtype, channels_last)
