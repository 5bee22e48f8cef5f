"""max_pool1d, max_pool2d, max_pool3d (with or without indices) and avg_pool1d, avg_pool2d, avg_pool3d."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_unary

from convkit.autograd.pool import average_pooling, max_pooling
from convkit.functional.dtypes import check_pool_dtype, check_pool_input
from convkit.functional.plans import plans
from convkit.problem.pooling import plan_avg_pool, plan_max_pool


def _max_pool(
    ndim: int,
    input: Tensor,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    ceil_mode: Any,
    return_indices: bool,
    strict: bool,
    backend: str | None,
) -> Any:
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
    if plan.batched:
        return max_pooling(input, plan.spec, return_indices, backend)
    out: Any = max_pooling(input.unsqueeze(0), plan.spec, return_indices, backend)
    return (out[0].squeeze(0), out[1].squeeze(0)) if return_indices else out.squeeze(0)


def _avg_pool(
    ndim: int,
    input: Tensor,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    ceil_mode: Any,
    count_include_pad: Any,
    divisor_override: Any,
    dilation: Any,
    strict: bool,
    backend: str | None,
) -> Tensor:
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
    if plan.batched:
        return average_pooling(input, plan.spec, backend)
    return average_pooling(input.unsqueeze(0), plan.spec, backend).squeeze(0)


_MAX_POOL = """Maximum of sliding windows, torch.nn.functional.max_pool{n}d.

    Shapes: input (N, C, {dims}) or (C, {dims}); the result has floor (ceil in ceil_mode) of
    (L + before + after - dilation (kernel - 1) - 1) / stride, plus 1, elements per dimension, and in
    ceil_mode one less where the last window would start beyond the input and its left padding.
    Padding is minus infinity; the first of equal elements is chosen; a NaN wins, and the last NaN.

    return_indices: also returns int64 indices, flat within the unpadded plane. stride: None stands for
    kernel_size. padding: at most half of the kernel; also (before, after) pairs per dimension.
    dtypes: floating point; 8 to 64 bit integers on the CPU{integers}.

    Raises PyTorch's TypeError, RuntimeError and NotImplementedError, in its words, before anything is computed.
    """

_AVG_POOL = """Mean of sliding windows, torch.nn.functional.avg_pool{n}d.

    Shapes as in :func:`max_pool{n}d`. The divisor is divisor_override if given; else the elements of the
    window, clipped to the padded input; with count_include_pad=False its elements in the input alone.
    dilation is convkit's own; padding may also be (before, after) pairs per dimension.
    dtypes: floating point; int64 on the CPU.

    Raises PyTorch's TypeError, RuntimeError and NotImplementedError, in its words, before anything is computed.
    """


def max_pool1d(
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
    if has_torch_function_unary(input):
        return handle_torch_function(
            max_pool1d,
            (input,),
            input,
            kernel_size,
            stride,
            padding,
            dilation,
            ceil_mode,
            return_indices,
            strict=strict,
            backend=backend,
        )
    return _max_pool(1, input, kernel_size, stride, padding, dilation, ceil_mode, bool(return_indices), strict, backend)


def max_pool1d_with_indices(
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
    """:func:`max_pool1d` with indices; ``return_indices`` is ignored, as in torch.nn.functional."""
    return max_pool1d(input, kernel_size, stride, padding, dilation, ceil_mode, True, strict=strict, backend=backend)


def max_pool2d(
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
    if has_torch_function_unary(input):
        return handle_torch_function(
            max_pool2d,
            (input,),
            input,
            kernel_size,
            stride,
            padding,
            dilation,
            ceil_mode,
            return_indices,
            strict=strict,
            backend=backend,
        )
    return _max_pool(2, input, kernel_size, stride, padding, dilation, ceil_mode, bool(return_indices), strict, backend)


def max_pool2d_with_indices(
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
    """:func:`max_pool2d` with indices; ``return_indices`` is ignored, as in torch.nn.functional."""
    return max_pool2d(input, kernel_size, stride, padding, dilation, ceil_mode, True, strict=strict, backend=backend)


def max_pool3d(
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
    if has_torch_function_unary(input):
        return handle_torch_function(
            max_pool3d,
            (input,),
            input,
            kernel_size,
            stride,
            padding,
            dilation,
            ceil_mode,
            return_indices,
            strict=strict,
            backend=backend,
        )
    return _max_pool(3, input, kernel_size, stride, padding, dilation, ceil_mode, bool(return_indices), strict, backend)


def max_pool3d_with_indices(
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
    """:func:`max_pool3d` with indices; ``return_indices`` is ignored, as in torch.nn.functional."""
    return max_pool3d(input, kernel_size, stride, padding, dilation, ceil_mode, True, strict=strict, backend=backend)


def avg_pool1d(
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
    if has_torch_function_unary(input):
        return handle_torch_function(
            avg_pool1d,
            (input,),
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
    return _avg_pool(
        1, input, kernel_size, stride, padding, ceil_mode, count_include_pad, None, dilation, strict, backend
    )


def avg_pool2d(
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
    if has_torch_function_unary(input):
        return handle_torch_function(
            avg_pool2d,
            (input,),
            input,
            kernel_size,
            stride,
            padding,
            ceil_mode,
            count_include_pad,
            divisor_override,
            dilation=dilation,
            strict=strict,
            backend=backend,
        )
    return _avg_pool(
        2,
        input,
        kernel_size,
        stride,
        padding,
        ceil_mode,
        count_include_pad,
        divisor_override,
        dilation,
        strict,
        backend,
    )


def avg_pool3d(
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
    if has_torch_function_unary(input):
        return handle_torch_function(
            avg_pool3d,
            (input,),
            input,
            kernel_size,
            stride,
            padding,
            ceil_mode,
            count_include_pad,
            divisor_override,
            dilation=dilation,
            strict=strict,
            backend=backend,
        )
    return _avg_pool(
        3,
        input,
        kernel_size,
        stride,
        padding,
        ceil_mode,
        count_include_pad,
        divisor_override,
        dilation,
        strict,
        backend,
    )


for _n, _dims in ((1, "L"), (2, "H, W"), (3, "D, H, W")):
    _integers = ", with indices only" if _n == 1 else ""
    globals()[f"max_pool{_n}d"].__doc__ = _MAX_POOL.format(n=_n, dims=_dims, integers=_integers)
    globals()[f"avg_pool{_n}d"].__doc__ = _AVG_POOL.format(n=_n)
