"""mixed_pool1d, mixed_pool2d, mixed_pool3d: between maximum and mean."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from convkit.autograd.pool import average_pooling, max_pooling
from convkit.functional.dimensions import public
from convkit.functional.dtypes import check_floating, check_pool_input
from convkit.functional.plans import plans
from convkit.problem import PoolSpec, pool_output_size
from convkit.problem.pooling import plan_own_pool

#: What one draw of a mixed pooling holds for.
DRAWS = ("layer", "channel", "region", "window")


def _mixed_pool(
    ndim: int,
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    *,
    a: float | Tensor = 0.5,
    drawn: str | None = None,
    training: bool = True,
    generator: torch.Generator | None = None,
    strict: bool = False,
    backend: str | None = None,
) -> Tensor:
    """y = a max + (1 - a) mean of sliding windows, as :func:`max_pool{n}d` and :func:`avg_pool{n}d` compute them.

    Mixed pooling: with a learned share a, Lee, Gallagher & Tu, "Generalizing Pooling Functions in Convolutional Neural
    Networks: Mixed, Gated, and Tree", AISTATS 2016; with a drawn one, Yu, Wang, Chen & Wei, "Mixed Pooling for
    Convolutional Neural Networks", RSKT 2014.

    a: a number from 0 to 1; or a tensor of one element, or of C elements, one per channel, or any that broadcasts with
    the result (N, C, ...). A gradient flows to it. Tensors are not looked at: their values may lie anywhere.
    drawn: None mixes with a. "layer", "channel", "region" (a place of the result, for all channels) or "window" draw,
    for each of these and each sample, the maximum with probability a, else the mean, by ``generator`` (the device's
    default one if None); with training=False the mixture with a, the expectation, takes its place. a is then a number.

    Shapes, padding and stride as of :func:`max_pool{n}d`; count_include_pad as of :func:`avg_pool{n}d`, for the mean.
    dtypes: floating point. Composed of one max_pool and one avg_pool; for a = 0 and a = 1 of one of them.

    Raises PyTorch's TypeError and RuntimeError for wrong arguments of a pooling; ValueError for a number a outside of
    [0, 1], an unknown ``drawn``, or a tensor a that is drawn by; RuntimeError for one that does not fit the result.
    """
    op = f"mixed_pool{ndim}d"
    check_pool_input(op, input)
    _check_share(op, a, drawn)
    plan = plans.get(
        plan_own_pool,
        op,
        ndim,
        input.shape,
        kernel_size,
        stride,
        padding,
        1,
        ceil_mode,
        training,
        count_include_pad,
        strict,
    )
    check_floating(op, input)
    x = input if plan.batched else input.unsqueeze(0)
    share: Any = a
    if isinstance(a, Tensor):
        if a.dim() == 1 and len(a) == x.shape[1]:
            share = a.reshape(-1, *(1,) * ndim)
    elif drawn is not None and training:
        size = _draw_size(drawn, x, plan.spec)
        # A graph of any size cannot hold the operator that takes a generator, not even with None.
        source: dict[str, Any] = {} if generator is None else {"generator": generator}
        chance = torch.rand(size, device=x.device, **source) if 0 < a < 1 else None
        share = a if chance is None else chance < a
    y = _mixture(x, share, plan.spec, backend)
    return y if plan.batched else y.squeeze(0)


def _check_share(op: str, a: Any, drawn: Any) -> None:
    if drawn is not None and drawn not in DRAWS:
        raise ValueError(f"{op}: drawn must be None or one of {', '.join(DRAWS)}, but got drawn={drawn!r}")
    if isinstance(a, Tensor):
        if drawn is not None:
            raise ValueError(f"{op}: drawn={drawn!r} needs a number a, but got a Tensor of shape {list(a.shape)}")
    elif isinstance(a, bool) or not isinstance(a, (int, float, torch.SymFloat)):
        raise TypeError(f"{op}(): argument 'a' must be float or Tensor, not {type(a).__name__}")
    elif not 0 <= a <= 1:
        raise ValueError(f"{op}: a must be from 0 to 1, but got a={a}")


def _draw_size(drawn: str, x: Tensor, spec: PoolSpec) -> tuple[int, ...]:
    """Of the draws beside a result (N, C, *out)."""
    n, c = x.shape[:2]
    out = pool_output_size(tuple(x.shape[2:]), spec)
    ones = (1,) * len(out)
    sizes = {"layer": (n, 1, *ones), "channel": (n, c, *ones), "region": (n, 1, *out), "window": (n, c, *out)}
    return sizes[drawn]


def _mixture(x: Tensor, share: Any, spec: PoolSpec, backend: str | None) -> Tensor:
    """share max + (1 - share) mean; ``share`` may also hold choices."""
    if not isinstance(share, Tensor) and share in (0, 1):
        only: Any = max_pooling(x, spec, False, backend) if share else average_pooling(x, spec, backend)
        return only
    top: Any = max_pooling(x, spec, False, backend)
    mean = average_pooling(x, spec, backend)
    if isinstance(share, Tensor) and share.dtype == torch.bool:
        chosen = torch.empty_like(top, dtype=torch.bool).copy_(share.expand_as(top))  # in the result's layout
        return torch.where(chosen, top, mean)
    mixed = share * top + (1 - share) * mean
    if mixed.shape != mean.shape:
        raise RuntimeError(f"a of shape {list(share.shape)} does not fit the result of shape {list(mean.shape)}")
    return mixed.to(x.dtype)


mixed_pool1d, mixed_pool2d, mixed_pool3d = (public(_mixed_pool, n, "mixed_pool{n}d") for n in (1, 2, 3))
