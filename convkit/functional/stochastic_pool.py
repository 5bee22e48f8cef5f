"""stochastic_pool1d, stochastic_pool2d and stochastic_pool3d."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from convkit.autograd.stochastic_pool import stochastic_expectation, stochastic_pooling
from convkit.functional.dimensions import public
from convkit.functional.dtypes import check_floating, check_pool_input
from convkit.functional.plans import plans
from convkit.problem.pooling import plan_own_pool


def _stochastic_pool(
    ndim: int,
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    training: bool = True,
    generator: torch.Generator | None = None,
    return_indices: bool = False,
    *,
    dilation: Any = 1,
    strict: bool = False,
    backend: str | None = None,
) -> Any:
    """One element of each sliding window, drawn with probability p_j = x_j / sum x; else the expectation, sum p_j x_j.

    Stochastic pooling (Zeiler & Fergus, "Stochastic pooling for regularization of deep convolutional neural
    networks", ICLR 2013). Elements that are not positive, and padding, count as 0; a window whose sum is 0 gives 0
    and has no gradient. The gradient of a draw goes to the chosen element; that of the expectation to all.

    Shapes: input (N, C, {dims}) or (C, {dims}), the result as of :func:`max_pool{n}d`. padding: at most half of the
    (dilated) kernel, or in the forms that max_pool takes beyond PyTorch's. dtypes: floating point; sums in float32,
    in float64 for float64.

    training=True draws, by one number that torch.randint takes from ``generator`` (the device's default one if None):
    the same number gives the same choices for every backend, memory layout and number of threads. A window with a
    NaN gives NaN (the last one); one whose sum is infinite gives the element with which it becomes so.
    return_indices: also returns int64 indices, flat within the unpadded plane, for :func:`max_unpool{n}d`; -1 where
    nothing is positive. training=False gives sum x^2 / sum x, which chooses nothing: ValueError with return_indices.
    Under torch.vmap the draw follows ``randomness``: an error, the same number for each sample, or different ones.

    Raises TypeError, RuntimeError and NotImplementedError for wrong arguments in PyTorch's words for other pools.
    """
    op = f"stochastic_pool{ndim}d"
    check_pool_input(op, input)
    plan = plans.get(
        plan_own_pool, op, ndim, input.shape, kernel_size, stride, padding, dilation, ceil_mode, training, True, strict
    )
    check_floating(op, input)
    if return_indices and not training:
        raise ValueError(f"{op}: return_indices=True needs training=True: the expectation chooses no element")
    x = input if plan.batched else input.unsqueeze(0)
    if not training:
        y = stochastic_expectation(x, plan.spec, backend)
        return y if plan.batched else y.squeeze(0)
    seed = torch.randint(2**63 - 1, (), dtype=torch.int64, generator=generator, device=input.device)
    out: Any = stochastic_pooling(x, seed, plan.spec, bool(return_indices), backend)
    if plan.batched:
        return out
    return (out[0].squeeze(0), out[1].squeeze(0)) if return_indices else out.squeeze(0)


stochastic_pool1d, stochastic_pool2d, stochastic_pool3d = (
    public(_stochastic_pool, n, "stochastic_pool{n}d") for n in (1, 2, 3)
)
