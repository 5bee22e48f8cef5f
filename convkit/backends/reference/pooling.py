"""Maximum and average pooling, and what window offsets name."""

from __future__ import annotations

import torch
from torch import Tensor

from convkit.backends.base import Backend, accumulate_dtype
from convkit.backends.layout import OFFSET_DTYPES
from convkit.backends.reference.windows import Sizes, finish, taps
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


class Windows:
    """What the taps of all windows read; a tap of a window that reads nothing has the value 0."""

    def __init__(self, size: Sizes, out: Sizes, spec: PoolSpec, device: torch.device) -> None:
        self.size, self.taps = size, list(taps(spec.kernel_size))
        positions = read_positions(size, out, spec, device)
        self._inside = [(at >= 0) & (at < n) for at, n in zip(positions, size)]
        self._nearest = [at.clamp(0, n - 1) for at, n in zip(positions, size)]

    def valid(self, tap: Sizes) -> Tensor:
        """Which windows (*out) have an element at this position."""
        return outer([inside[:, t] for inside, t in zip(self._inside, tap)])

    def read(self, x: Tensor, tap: Sizes) -> Tensor:
        """x (N, C, *size) -> (N, C, *out): the elements at one position of every window."""
        for d, (at, t) in enumerate(zip(self._nearest, tap)):
            x = x.index_select(2 + d, at[:, t])
        return torch.where(self.valid(tap), x, 0)

    def add(self, dx: Tensor, tap: Sizes, y: Tensor) -> Tensor:
        """dx + the adjoint of :meth:`read` applied to y (N, C, *out)."""
        y = torch.where(self.valid(tap), y, 0)
        for d, (at, t, n) in enumerate(zip(self._nearest, tap, self.size)):
            into = y.new_zeros(*y.shape[: 2 + d], n, *y.shape[3 + d :])
            y = into.index_add_(2 + d, at[:, t], y)
        return dx + y

    def indices(self, offsets: Tensor) -> Tensor:
        """The flat input position that each offset (N, C, *out) names, -1 where none."""
        window = len(self.taps)
        position, inside = torch.zeros_like(offsets), (offsets >= 0) & (offsets < window)
        for d, (at, exists, n) in enumerate(zip(self._nearest, self._inside, self.size)):
            window //= at.shape[1]
            row = torch.arange(at.shape[0], device=at.device).view(-1, *(1,) * (len(self.size) - 1 - d))
            tap = offsets // window % at.shape[1]
            position = position * n + at[row, tap]
            inside = inside & exists[row, tap]
        return torch.where(inside, position, -1)


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
        out = pool_output_size(size, spec)
        windows = Windows(size, out, spec, x.device)
        lowest = float("-inf") if x.is_floating_point() else torch.iinfo(x.dtype).min
        top = x.new_full((*x.shape[:2], *out), lowest)  # what a window without any element keeps
        chosen = torch.full_like(top, -1, dtype=torch.int32)
        for offset, tap in enumerate(windows.taps):
            value = windows.read(x, tap)
            better = (chosen < 0) | (value > top) | (value != value)  # first of ties, last NaN
            take = windows.valid(tap) & better
            top = torch.where(take, value, top)
            chosen = torch.where(take, offset, chosen)
        offset_dtype = OFFSET_DTYPES[offset_bytes(spec.kernel_size)]
        kept = chosen.clamp(min=0) if offsets else chosen[:0]
        return finish(top, x.dtype, channels_last), finish(kept, offset_dtype, channels_last)

    def pool_select(self, x: Tensor, offsets: Tensor, spec: PoolSpec, channels_last: bool) -> Tensor:
        windows = Windows(tuple(x.shape[2:]), tuple(offsets.shape[2:]), spec, x.device)
        y = x.new_zeros(offsets.shape)
        for offset, tap in enumerate(windows.taps):
            y = torch.where(offsets == offset, windows.read(x, tap), y)
        return finish(y, x.dtype, channels_last)

    def pool_select_bwd(
        self, dy: Tensor, offsets: Tensor, input_size: Sizes, spec: PoolSpec, channels_last: bool
    ) -> Tensor:
        windows = Windows(tuple(input_size), tuple(dy.shape[2:]), spec, dy.device)
        gradient = dy.to(accumulate_dtype(dy.dtype))
        dx = gradient.new_zeros(*dy.shape[:2], *input_size)
        for offset, tap in enumerate(windows.taps):
            dx = windows.add(dx, tap, torch.where(offsets == offset, gradient, 0))
        return finish(dx, dy.dtype, channels_last)

    def pool_indices(self, offsets: Tensor, input_size: Sizes, spec: PoolSpec, channels_last: bool) -> Tensor:
        windows = Windows(tuple(input_size), tuple(offsets.shape[2:]), spec, offsets.device)
        return finish(windows.indices(offsets.to(torch.int64)), torch.int64, channels_last)

    def avg_pool(self, x: Tensor, spec: PoolSpec, channels_last: bool) -> Tensor:
        size = tuple(x.shape[2:])
        out = pool_output_size(size, spec)
        windows = Windows(size, out, spec, x.device)
        values = x.to(accumulate_dtype(x.dtype))
        total = values.new_zeros(*x.shape[:2], *out)
        for tap in windows.taps:
            total += windows.read(values, tap)
        return finish(divide(total, divisors(size, out, spec, x.device)), x.dtype, channels_last)

    def avg_pool_bwd(self, dy: Tensor, input_size: Sizes, spec: PoolSpec, channels_last: bool) -> Tensor:
        size, out = tuple(input_size), tuple(dy.shape[2:])
        windows = Windows(size, out, spec, dy.device)
        share = divide(dy.to(accumulate_dtype(dy.dtype)), divisors(size, out, spec, dy.device))
        dx = share.new_zeros(*dy.shape[:2], *size)
        for tap in windows.taps:
            dx = windows.add(dx, tap, share)
        return finish(dx, dy.dtype, channels_last)
