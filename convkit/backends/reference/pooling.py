"""Maximum and average pooling, and what window offsets name."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from convkit.backends.base import Backend
from convkit.backends.layout import OFFSET_DTYPES
from convkit.backends.reference.windows import Sizes, accumulate_dtype, finish, pad, tap_slice, taps, unpad
from convkit.problem import PoolSpec, offset_bytes, pool_output_size


def pool_padding(size: Sizes, out: Sizes, spec: PoolSpec) -> Sizes:
    """Padding after each dimension so that every window, ceil_mode's overhang included, lies inside."""
    return tuple(
        max((o - 1) * s + d * (k - 1) + 1 - before - n, 0)
        for n, o, k, s, before, d in zip(size, out, spec.kernel_size, spec.stride, spec.pad_before, spec.dilation)
    )


def read_positions(size: Sizes, out: Sizes, spec: PoolSpec, device: torch.device) -> list[Tensor]:
    """Per dimension (out, kernel): the input position that each tap of each window reads (maybe outside)."""
    return [
        (torch.arange(o, device=device) * s - before)[:, None] + torch.arange(k, device=device) * d
        for o, k, s, before, d in zip(out, spec.kernel_size, spec.stride, spec.pad_before, spec.dilation)
    ]


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
        if spec.count_include_pad:  # explicit padding counts, ceil_mode's overhang does not
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
        padded = pad(x, spec.pad_before, pool_padding(size, out, spec))
        inside = [(reach >= 0) & (reach < n) for reach, n in zip(read_positions(size, out, spec, x.device), size)]
        lowest = float("-inf") if x.is_floating_point() else torch.iinfo(x.dtype).min
        top = x.new_full((*x.shape[:2], *out), lowest)  # what a window without any element keeps
        chosen = torch.full_like(top, -1, dtype=torch.int32)
        for offset, tap in enumerate(taps(spec.kernel_size)):
            value = tap_slice(padded, tap, out, spec.stride, spec.dilation)
            valid = outer([dimension[:, t] for dimension, t in zip(inside, tap)])
            take = valid & ((chosen < 0) | (value > top) | (value != value))  # first of ties, last NaN
            top = torch.where(take, value, top)
            chosen = torch.where(take, offset, chosen)
        offset_dtype = OFFSET_DTYPES[offset_bytes(spec.kernel_size)]
        kept = chosen.clamp(min=0) if offsets else chosen[:0]
        return finish(top, x.dtype, channels_last), finish(kept, offset_dtype, channels_last)

    def pool_select(self, x: Tensor, offsets: Tensor, spec: PoolSpec, channels_last: bool) -> Tensor:
        size, out = tuple(x.shape[2:]), tuple(offsets.shape[2:])
        padded = pad(x, spec.pad_before, pool_padding(size, out, spec))
        y = x.new_zeros(offsets.shape)
        for offset, tap in enumerate(taps(spec.kernel_size)):
            y = torch.where(offsets == offset, tap_slice(padded, tap, out, spec.stride, spec.dilation), y)
        return finish(y, x.dtype, channels_last)

    def pool_select_bwd(
        self, dy: Tensor, offsets: Tensor, input_size: Sizes, spec: PoolSpec, channels_last: bool
    ) -> Tensor:
        size, out = tuple(input_size), tuple(dy.shape[2:])
        after = pool_padding(size, out, spec)
        gradient = dy.to(accumulate_dtype(dy.dtype))
        padded = gradient.new_zeros(*dy.shape[:2], *(a + n + b for a, n, b in zip(spec.pad_before, size, after)))
        for offset, tap in enumerate(taps(spec.kernel_size)):
            target = tap_slice(padded, tap, out, spec.stride, spec.dilation)
            target += torch.where(offsets == offset, gradient, 0)
        return finish(unpad(padded, spec.pad_before, after, size), dy.dtype, channels_last)

    def pool_indices(self, offsets: Tensor, input_size: Sizes, spec: PoolSpec, channels_last: bool) -> Tensor:
        size, out = tuple(input_size), tuple(offsets.shape[2:])
        tap = offsets.to(torch.int64)
        index, inside = torch.zeros_like(tap), torch.ones_like(tap, dtype=torch.bool)
        window = prod(spec.kernel_size)
        for d, k in enumerate(spec.kernel_size):
            window //= k
            start = torch.arange(out[d], device=offsets.device) * spec.stride[d] - spec.pad_before[d]
            at = start.view(-1, *(1,) * (len(out) - 1 - d)) + tap // window % k * spec.dilation[d]
            index = index * size[d] + at
            inside = inside & (at >= 0) & (at < size[d])
        return finish(torch.where(inside, index, -1), torch.int64, channels_last)

    def avg_pool(self, x: Tensor, spec: PoolSpec, channels_last: bool) -> Tensor:
        size = tuple(x.shape[2:])
        out = pool_output_size(size, spec)
        padded = pad(x.to(accumulate_dtype(x.dtype)), spec.pad_before, pool_padding(size, out, spec))
        total = padded.new_zeros(*x.shape[:2], *out)
        for tap in taps(spec.kernel_size):
            total += tap_slice(padded, tap, out, spec.stride, spec.dilation)
        return finish(divide(total, divisors(size, out, spec, x.device)), x.dtype, channels_last)

    def avg_pool_bwd(self, dy: Tensor, input_size: Sizes, spec: PoolSpec, channels_last: bool) -> Tensor:
        size, out = tuple(input_size), tuple(dy.shape[2:])
        after = pool_padding(size, out, spec)
        share = divide(dy.to(accumulate_dtype(dy.dtype)), divisors(size, out, spec, dy.device))
        padded = share.new_zeros(*dy.shape[:2], *(a + n + b for a, n, b in zip(spec.pad_before, size, after)))
        for tap in taps(spec.kernel_size):
            tap_slice(padded, tap, out, spec.stride, spec.dilation).add_(share)
        return finish(unpad(padded, spec.pad_before, after, size), dy.dtype, channels_last)
