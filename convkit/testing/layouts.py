"""Memory layouts of one tensor: functions that return the given shape with other strides.

Memory between and around the elements of a result is filled with NaN (integers: the largest value), so an
element read from a wrong place shows.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Layout = Callable[[Tensor], Tensor]


def _filler(dtype: torch.dtype) -> float | int:
    return float("nan") if dtype.is_floating_point or dtype.is_complex else torch.iinfo(dtype).max


def _stored(t: Tensor, order: list[int]) -> Tensor:
    """The same values, laid out in memory with dimensions ``order`` from the slowest to the fastest."""
    inverse = [order.index(i) for i in range(t.dim())]
    return t.permute(order).contiguous().clone().permute(inverse)


def contiguous(t: Tensor) -> Tensor:
    return t.contiguous().clone()


def channels_last(t: Tensor) -> Tensor:
    """Channels fastest, in any number of spatial dimensions."""
    return _stored(t, [0, *range(2, t.dim()), 1])


def reversed_dims(t: Tensor) -> Tensor:
    """Batch fastest, width slowest."""
    return _stored(t, list(reversed(range(t.dim()))))


def width_slowest(t: Tensor) -> Tensor:
    """The transpose of the last two dimensions of what is kept."""
    return _stored(t, [0, 1, t.dim() - 1, *range(2, t.dim() - 1)])


def sliced(t: Tensor) -> Tensor:
    """Every second column of the inside of a larger tensor."""
    sizes = [s + 2 for s in t.shape]
    sizes[-1] = 2 * t.shape[-1] + 2
    parent = t.new_full(sizes, _filler(t.dtype))
    view = parent[tuple(slice(1, 1 + s) for s in t.shape[:-1]) + (slice(1, 1 + 2 * t.shape[-1], 2),)]
    view.copy_(t)
    return view


def channels_last_sliced(t: Tensor) -> Tensor:
    """Some channels of a wider channels-last tensor, as a split along the channels leaves them."""
    parent = channels_last(t.new_full((t.shape[0], t.shape[1] + 3, *t.shape[2:]), _filler(t.dtype)))
    view = parent[:, 1 : 1 + t.shape[1]]
    view.copy_(t)
    return view


def misaligned(t: Tensor) -> Tensor:
    """Contiguous, but one element after an aligned address."""
    parent = t.new_full((t.numel() + 2,), _filler(t.dtype))
    view = parent[1 : 1 + t.numel()].view(t.shape)
    view.copy_(t)
    return view


def expanded_batch(t: Tensor) -> Tensor:
    """One image, repeated with stride 0 (values of the others are lost)."""
    return t[:1].clone().expand(t.shape) if t.shape[0] else t.clone()


def expanded_space(t: Tensor) -> Tensor:
    """One value per channel, repeated with stride 0, as the gradient of a mean is."""
    if t.numel() == 0:
        return t.clone()
    one = t[(slice(0, 1), slice(None)) + (slice(0, 1),) * (t.dim() - 2)]
    return one.clone().expand(t.shape)


LAYOUTS: dict[str, Layout] = {
    "contiguous": contiguous,
    "channels_last": channels_last,
    "channels_last_sliced": channels_last_sliced,
    "reversed": reversed_dims,
    "width_slowest": width_slowest,
    "sliced": sliced,
    "misaligned": misaligned,
    "expanded_batch": expanded_batch,
    "expanded_space": expanded_space,
}
