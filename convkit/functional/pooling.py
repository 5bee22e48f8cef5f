"""max_pool1d, max_pool2d, max_pool3d (with or without indices) and avg_pool1d, avg_pool2d, avg_pool3d."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from convkit.autograd.pool import average_pooling, max_pooling
from convkit.functional.dimensions import public
from convkit.functional.dtypes import check_pool_dtype, check_pool_input, full_precision
from convkit.functional.plans import plans
from convkit.problem.pooling import plan_avg_pool, plan_max_pool


def _max_pool(
    ndim: int,
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    strict: bool = False,
    backend: str | None = None,
) -> Any:
    """Maximum of sliding windows, torch.nn.functional.max_pool{n}d.

    Shapes: input (N, C, {dims}) or (C, {dims}); the result has floor (ceil in ceil_mode) of
    (L + before + after - dilation (kernel - 1) - 1) / stride, plus 1, elements per dimension, and in
    ceil_mode one less where the last window would start beyond the input and its left padding.
    Padding is minus infinity; the first of equal elements is chosen; a NaN wins, and the last NaN.

    return_indices: also returns int64 indices, flat within the unpadded plane. stride: None stands for
    kernel_size. padding: at most half of the kernel. Beyond PyTorch, each below the (dilated) kernel's extent:
    (before, after) pairs per dimension; 'same' or 'same_upper' and 'same_lower' (ceil(L / stride) outputs, an odd
    element behind or before), 'causal' (dilation (kernel - 1) before), 'valid' (none).
    dtypes: floating point; 8 to 64 bit integers on the CPU (in one dimension with indices only).

    Raises PyTorch's TypeError, RuntimeError and NotImplementedError, in its words, before anything is computed.
    """
    return_indices = bool(return_indices)
    check_pool_input(f"max_pool{ndim}d_with_indices" if return_indices else f"max_pool{ndim}d", input)
    plan = plans.get(
        plan_max_pool,
        ndim,
        input.shape,
        kernel_size,
        stride,
        padding,
        dilation,
        ceil_mode,
        return_indices,
        strict,
    )
    check_pool_dtype("max", ndim, input, return_indices)
    if ndim == 3:
        input = full_precision(input)
    if plan.batched:
        return max_pooling(input, plan.spec, return_indices, backend)
    out: Any = max_pooling(input.unsqueeze(0), plan.spec, return_indices, backend)
    return (out[0].squeeze(0), out[1].squeeze(0)) if return_indices else out.squeeze(0)


def _max_pool_with_indices(
    ndim: int,
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    strict: bool = False,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """:func:`max_pool{n}d` with indices; ``return_indices`` is ignored, as in torch.nn.functional."""
    out: tuple[Tensor, Tensor] = _max_pool(
        ndim, input, kernel_size, stride, padding, dilation, ceil_mode, True, strict=strict, backend=backend
    )
    return out


def _avg_pool(
    ndim: int,
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    dilation: Any = 1,
    strict: bool = False,
    backend: str | None = None,
) -> Tensor:
    """Mean of sliding windows, torch.nn.functional.avg_pool{n}d.

    Shapes as in :func:`max_pool{n}d`. The divisor is divisor_override if given; else the elements of the
    window, clipped to the padded input; with count_include_pad=False its elements in the input alone.
    dilation is convkit's own; so are the paddings that :func:`max_pool{n}d` takes beyond PyTorch's.
    dtypes: floating point; int64 on the CPU.

    Raises PyTorch's TypeError, RuntimeError and NotImplementedError, in its words, before anything is computed.
    """
    check_pool_input(f"avg_pool{ndim}d", input)
    plan = plans.get(
        plan_avg_pool,
        ndim,
        input.shape,
        kernel_size,
        stride,
        padding,
        ceil_mode,
        count_include_pad,
        divisor_override,
        dilation,
        strict,
    )
    check_pool_dtype("avg", ndim, input, False)
    if ndim == 3:
        input = full_precision(input)
    if plan.batched:
        return average_pooling(input, plan.spec, backend)
    return average_pooling(input.unsqueeze(0), plan.spec, backend).squeeze(0)


def _avg_pool_undivided(
    ndim: int,
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    *,
    dilation: Any = 1,
    strict: bool = False,
    backend: str | None = None,
) -> Tensor:
    """Mean of sliding windows, torch.nn.functional.avg_pool{n}d: :func:`avg_pool2d` without divisor_override."""
    return _avg_pool(
        ndim,
        input,
        kernel_size,
        stride,
        padding,
        ceil_mode,
        count_include_pad,
        dilation=dilation,
        strict=strict,
        backend=backend,
    )


max_pool1d, max_pool2d, max_pool3d = (public(_max_pool, n, "max_pool{n}d") for n in (1, 2, 3))
max_pool1d_with_indices, max_pool2d_with_indices, max_pool3d_with_indices = (
    public(_max_pool_with_indices, n, "max_pool{n}d_with_indices") for n in (1, 2, 3)
)
avg_pool1d = public(_avg_pool_undivided, 1, "avg_pool1d")
avg_pool2d, avg_pool3d = (public(_avg_pool, n, "avg_pool{n}d") for n in (2, 3))
