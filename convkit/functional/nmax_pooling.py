"""nmax_pool1d, nmax_pool2d and nmax_pool3d: the mean of the n largest elements of a window."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor

from convkit.autograd.pool import average_pooling, max_pooling
from convkit.backends.layout import in_layout, is_channels_last
from convkit.functional.dimensions import public
from convkit.functional.dtypes import check_floating, check_pool_input
from convkit.functional.plans import plans
from convkit.functional.windows import windows
from convkit.problem import PoolSpec
from convkit.problem.pooling import plan_own_pool


def _nmax_pool(
    ndim: int,
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    *,
    n: int,
    strict: bool = False,
    backend: str | None = None,
) -> Tensor:
    """Mean of the n largest elements of sliding windows: n = 1 is their maximum, all of them their mean.

    With the elements of a window sorted, x_1 >= x_2 >= ..., y = (x_1 + ... + x_n) / n: N-max pooling's sum of the n
    largest activations as a mean, so that results stay comparable when n changes.
    Padding is never chosen: a window that has fewer than n elements of the input gives the mean of those, and one that
    has none (a dilated window around a small input) 0, for every n. Of equal elements the first are chosen; NaN counts
    as larger than every number. The gradient goes to the chosen ones, 1 / n each.

    Shapes, stride, padding, dilation and ceil_mode as of :func:`max_pool{n}d`. n: from 1 to the window's elements.
    dtypes: floating point; 16-bit types are summed in float32.
    Composed of max_pool for n = 1, of avg_pool (without the padding in its divisor) for all elements, and of a stable
    sort of every window else, which keeps a copy of each window: memory of the result times the window's elements.

    Raises PyTorch's TypeError and RuntimeError for wrong arguments of a pooling; ValueError for n.
    """
    op = f"nmax_pool{ndim}d"
    check_pool_input(op, input)
    if isinstance(n, bool) or not isinstance(n, int):
        raise TypeError(f"{op}(): argument 'n' must be int, not {type(n).__name__}")
    plan = plans.get(
        plan_own_pool, op, ndim, input.shape, kernel_size, stride, padding, dilation, ceil_mode, True, False, strict
    )
    taps = prod(plan.spec.kernel_size)
    if not 1 <= n <= taps:
        raise ValueError(f"{op}: n must be from 1 to the {taps} elements of the window, but got n={n}")
    check_floating(op, input)
    x = input if plan.batched else input.unsqueeze(0)
    y: Any
    if n == 1:
        y = max_pooling(x, plan.spec, False, backend)
        if any(d > 1 and before for d, before in zip(plan.spec.dilation, plan.spec.pad_before)):
            # Others begin in the input, or reach it. The maximum of nothing is minus infinity, a mean is 0.
            y = in_layout(y.masked_fill(_elements(x, plan.spec, ndim) == 0, 0), is_channels_last(x))
    elif n == taps:
        y = average_pooling(x, plan.spec, backend)
    else:
        y = _largest(x, plan.spec, n, ndim)
    return y if plan.batched else y.squeeze(0)


def _elements(x: Tensor, spec: PoolSpec, ndim: int) -> Tensor:
    """How many elements of the input each window has: (1, 1, *out)."""
    return (windows(x.new_zeros(1, 1, *x.shape[2:]), spec) == 0).flatten(-ndim).sum(-1)


def _largest(x: Tensor, spec: PoolSpec, n: int, ndim: int) -> Tensor:
    found = windows(x, spec).flatten(-ndim).sort(dim=-1, descending=True, stable=True).values[..., :n]
    wide = torch.promote_types(x.dtype, torch.float32)
    real = _elements(x, spec, ndim).clamp(max=n)
    # Padding is behind all elements of its window, but infinite.
    chosen = torch.arange(n, device=x.device) < real[..., None]
    total = torch.where(chosen, found, 0).sum(-1, dtype=wide)
    return in_layout((total / real.clamp(min=1)).to(x.dtype), is_channels_last(x))


nmax_pool1d, nmax_pool2d, nmax_pool3d = (public(_nmax_pool, n, "nmax_pool{n}d") for n in (1, 2, 3))
