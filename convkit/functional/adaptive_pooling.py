"""adaptive_avg_pool1d, 2d, 3d and adaptive_max_pool1d, 2d, 3d (with or without indices)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from convkit.autograd.pool import average_pooling, max_pooling
from convkit.functional.dimensions import public
from convkit.functional.dtypes import check_adaptive_pool_dtype, check_pool_input, full_precision
from convkit.functional.plans import plans
from convkit.problem.adaptive import plan_adaptive_avg_pool, plan_adaptive_max_pool


def _adaptive_avg_pool(ndim: int, input: Tensor, output_size: Any, *, backend: str | None = None) -> Tensor:
    """Mean of adaptive windows, torch.nn.functional.adaptive_avg_pool{n}d.

    Shapes: input (N, C, {dims}) or (C, {dims}); the result has output_size elements per dimension. Window o of O over
    a length L holds the elements from floor(o L / O) on, up to but without ceil((o + 1) L / O); windows may overlap,
    and there may be more of them than elements.

    output_size: an int, or one per dimension; 0 is allowed, and in two and three dimensions None, which keeps the
    dimension's size. dtypes: floating point; complex where one window covers everything.

    Raises PyTorch's TypeError, ValueError, RuntimeError and NotImplementedError before anything is computed.
    """
    check_pool_input(f"adaptive_avg_pool{ndim}d", input)
    plan = plans.get(plan_adaptive_avg_pool, ndim, input.shape, output_size)
    if plan is None:
        return input.mean(tuple(range(-ndim, 0)), keepdim=True)
    check_adaptive_pool_dtype("avg", input, plan.spec.output_size)
    if input.is_complex():
        parts = [_adaptive_avg_pool(ndim, part, output_size, backend=backend) for part in (input.real, input.imag)]
        return torch.complex(*parts)
    if ndim == 3:
        input = full_precision(input)
    if plan.batched:
        return average_pooling(input, plan.spec, backend)
    return average_pooling(input.unsqueeze(0), plan.spec, backend).squeeze(0)


def _adaptive_max_pool(
    ndim: int, input: Tensor, output_size: Any, return_indices: bool = False, *, backend: str | None = None
) -> Any:
    """Maximum of adaptive windows, torch.nn.functional.adaptive_max_pool{n}d.

    Shapes, windows and output_size as in :func:`adaptive_avg_pool{n}d`. The first of equal elements is chosen; a NaN
    wins, and the last NaN. return_indices: also returns int64 indices, flat within the plane. dtypes: floating point.

    Raises PyTorch's TypeError, ValueError, RuntimeError and NotImplementedError before anything is computed.
    """
    check_pool_input(f"adaptive_max_pool{ndim}d", input)
    plan = plans.get(plan_adaptive_max_pool, ndim, input.shape, output_size)
    check_adaptive_pool_dtype("max", input, plan.spec.output_size)
    return_indices = bool(return_indices)
    if ndim == 3:
        input = full_precision(input)
    if plan.batched:
        return max_pooling(input, plan.spec, return_indices, backend)
    out: Any = max_pooling(input.unsqueeze(0), plan.spec, return_indices, backend)
    return (out[0].squeeze(0), out[1].squeeze(0)) if return_indices else out.squeeze(0)


def _adaptive_max_pool_with_indices(
    ndim: int, input: Tensor, output_size: Any, return_indices: bool = False, *, backend: str | None = None
) -> tuple[Tensor, Tensor]:
    """:func:`adaptive_max_pool{n}d` with indices; ``return_indices`` is ignored, as in torch.nn.functional."""
    out: tuple[Tensor, Tensor] = _adaptive_max_pool(ndim, input, output_size, True, backend=backend)
    return out


adaptive_avg_pool1d, adaptive_avg_pool2d, adaptive_avg_pool3d = (
    public(_adaptive_avg_pool, n, "adaptive_avg_pool{n}d") for n in (1, 2, 3)
)
adaptive_max_pool1d, adaptive_max_pool2d, adaptive_max_pool3d = (
    public(_adaptive_max_pool, n, "adaptive_max_pool{n}d") for n in (1, 2, 3)
)
adaptive_max_pool1d_with_indices, adaptive_max_pool2d_with_indices, adaptive_max_pool3d_with_indices = (
    public(_adaptive_max_pool_with_indices, n, "adaptive_max_pool{n}d_with_indices") for n in (1, 2, 3)
)
