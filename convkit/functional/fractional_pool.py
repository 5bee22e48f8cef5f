"""fractional_max_pool1d (convkit's own), fractional_max_pool2d and fractional_max_pool3d, with or without indices."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from convkit.autograd.fractional_pool import fractional_pooling
from convkit.functional.dimensions import public
from convkit.functional.dtypes import check_flat_dtype, check_pool_input, full_precision
from convkit.functional.plans import plans
from convkit.problem.arguments import wrong_type
from convkit.problem.fractional_pool import check_samples, plan_fractional_max_pool


def _fractional_max_pool(
    ndim: int,
    input: Tensor,
    kernel_size: Any,
    output_size: Any = None,
    output_ratio: Any = None,
    return_indices: bool = False,
    _random_samples: Tensor | None = None,
    *,
    backend: str | None = None,
) -> Any:
    """Maximum of windows at random places, torch.nn.functional.fractional_max_pool{n}d (1-d is convkit's own).

    Shapes: input (N, C, {dims}) or (C, {dims}); the result has output_size elements per dimension, or
    int(L * output_ratio); one of the two must be given. At most L - kernel_size + 1 outputs (one less in three
    dimensions, as in PyTorch).
    A plane's sample u in [0, 1) per dimension places its windows: with alpha = (L - kernel_size) / (outputs - 1),
    window i starts at floor((i + u) alpha) - floor(u alpha), the last one at L - kernel_size
    (Graham, "Fractional Max-Pooling", arXiv:1412.6071), computed in the input's dtype.
    The first of equal elements is chosen; a NaN wins, and the last NaN.

    return_indices: also returns int64 indices, flat within the plane. _random_samples: (N, C, {n}), of the input's
    dtype; by default torch.rand draws them, so torch.manual_seed gives PyTorch's windows. In two dimensions the
    first number is the width's, the second the height's; in three they are in the order D, H, W.
    dtypes: floating point; float32 in an autocast region on the CPU.

    Raises PyTorch's TypeError, ValueError, IndexError, RuntimeError and NotImplementedError, in its words, before
    anything is computed.
    """
    op = f"fractional_max_pool{ndim}d"
    check_pool_input(op, input)
    if _random_samples is not None and not isinstance(_random_samples, Tensor):
        raise wrong_type(op, "random_samples", _random_samples, "Tensor", "a Tensor of shape (N, C, dimensions)")
    plan = plans.get(
        plan_fractional_max_pool,
        ndim,
        input.shape,
        kernel_size,
        output_size,
        output_ratio,
        _random_samples is None,
    )
    samples = _random_samples
    if samples is None:
        n = input.shape[0] if plan.batched else 1
        samples = torch.rand(n, input.shape[-ndim - 1], ndim, dtype=input.dtype, device=input.device)
    elif samples.requires_grad and torch.is_grad_enabled():
        raise RuntimeError(
            f"The function '{op}' is not differentiable with respect to argument 'random_samples'. "
            "This input cannot have requires_grad True."
        )
    x, samples = full_precision(input), full_precision(samples)
    if samples.dtype != x.dtype:
        raise RuntimeError(
            f"Expect _random_samples to have the same dtype as input: they are {samples.dtype} and {x.dtype}"
        )
    check_samples(input.shape, samples.shape, ndim, plan.batched)
    if samples.device != x.device:
        raise RuntimeError(
            f"Tensor on device {x.device} is not on the expected device {samples.device}! "
            "input and _random_samples must be on one device"
        )
    check_flat_dtype(f"{op}_out_frame", x)
    if plan.batched:
        return fractional_pooling(x, samples, plan.kernel_size, plan.output_size, bool(return_indices), backend)
    out: Any = fractional_pooling(
        x.unsqueeze(0), samples, plan.kernel_size, plan.output_size, bool(return_indices), backend
    )
    return (out[0].squeeze(0), out[1].squeeze(0)) if return_indices else out.squeeze(0)


def _fractional_max_pool_with_indices(
    ndim: int,
    input: Tensor,
    kernel_size: Any,
    output_size: Any = None,
    output_ratio: Any = None,
    return_indices: bool = False,
    _random_samples: Tensor | None = None,
    *,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """:func:`fractional_max_pool{n}d` with indices; ``return_indices`` is ignored, as in torch.nn.functional."""
    out: tuple[Tensor, Tensor] = _fractional_max_pool(
        ndim, input, kernel_size, output_size, output_ratio, True, _random_samples, backend=backend
    )
    return out


fractional_max_pool1d, fractional_max_pool2d, fractional_max_pool3d = (
    public(_fractional_max_pool, n, "fractional_max_pool{n}d") for n in (1, 2, 3)
)
fractional_max_pool1d_with_indices, fractional_max_pool2d_with_indices, fractional_max_pool3d_with_indices = (
    public(_fractional_max_pool_with_indices, n, "fractional_max_pool{n}d_with_indices") for n in (1, 2, 3)
)
