"""max_unpool1d, max_unpool2d and max_unpool3d."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from convkit.autograd.unpool import unpooling
from convkit.functional.dimensions import public
from convkit.functional.dtypes import check_flat_dtype, check_pool_input, full_precision
from convkit.functional.plans import plans
from convkit.problem.arguments import dtype_name, wrong_type
from convkit.problem.unpool import plan_max_unpool


def _max_unpool(
    ndim: int,
    input: Tensor,
    indices: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    output_size: Any = None,
    *,
    backend: str | None = None,
) -> Tensor:
    """The partial inverse of max_pool{n}d, torch.nn.functional.max_unpool{n}d: maxima at their places among zeros.

    Shapes: input and indices (N, C, {dims}) or (C, {dims}); the result has (L - 1) stride - 2 padding + kernel_size
    elements per dimension, or output_size: {n} sizes, or the sizes of all N, C, {dims}; each must differ from that
    formula by less than the stride. A pooling that left a rest needs output_size: several sizes pool to one.
    indices: int64, flat within the plane of the result, as max_pool{n}d returns them; also those of any other pooling.
    Of equal indices the value that is last in row-major order stays, on every device and for any number of threads.
    stride: None stands for kernel_size. dtypes: floating point; float32 in an autocast region on the CPU.

    The gradient of input is read at indices, as in PyTorch: values that another one overwrote receive it too.

    Raises PyTorch's TypeError, ValueError, IndexError, RuntimeError and NotImplementedError, in its words. An index
    outside of its plane (-1 among them) is found while the result is made, and written nowhere: RuntimeError.
    """
    op = f"max_unpool{ndim}d"
    check_pool_input(op, input)
    if not isinstance(indices, Tensor):
        raise wrong_type(op, "indices", indices, "Tensor", "a Tensor")
    plan = plans.get(
        plan_max_unpool,
        ndim,
        input.shape,
        indices.shape,
        dtype_name(indices.dtype),
        kernel_size,
        stride,
        padding,
        output_size,
    )
    if indices.device != input.device:
        raise RuntimeError(
            f"Tensor on device {input.device} is not on the expected device {indices.device}! "
            "input and indices must be on one device"
        )
    check_flat_dtype("max_unpool3d" if ndim == 3 else "max_unpool2d", input)
    x = full_precision(input)
    if plan.batched:
        return unpooling(x, indices, plan.output_size, backend)
    return unpooling(x.unsqueeze(0), indices.unsqueeze(0), plan.output_size, backend).squeeze(0)


max_unpool1d, max_unpool2d, max_unpool3d = (
    public(_max_unpool, n, "max_unpool{n}d", ("input", "indices")) for n in (1, 2, 3)
)
