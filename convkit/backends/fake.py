"""Fake kernels: the exact sizes, strides and dtypes of the compiled operators' results, without data.

torch.compile, torch.export and meta tensors ask them; sizes may be symbolic. Registered beside the library.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, library

from convkit.backends.base import accumulate_dtype
from convkit.backends.layout import OFFSET_DTYPES, result_strides
from convkit.problem import ConvSpec, PoolSpec, conv_output_size, offset_bytes, pool_output_size


def unpack(packed: Sequence[int], lists: int) -> tuple[list[tuple[int, ...]], list[int]]:
    """The spatial lists and the scalars that follow them: the inverse of problem.pack_conv and pack_pool."""
    n = int(packed[0])
    return [tuple(packed[1 + i * n : 1 + (i + 1) * n]) for i in range(lists)], list(packed[1 + lists * n :])


def _conv(packed: Sequence[int]) -> tuple[ConvSpec, bool]:
    (stride, before, after, dilation), scalars = unpack(packed, 4)
    return ConvSpec(stride, before, after, dilation, scalars[0]), bool(scalars[-1])


def _pool(packed: Sequence[int]) -> tuple[PoolSpec, bool]:
    (kernel, stride, before, after, dilation, out), scalars = unpack(packed, 6)
    adaptive = out if out[0] >= 0 else ()
    spec = PoolSpec(kernel, stride, before, after, dilation, bool(scalars[0]), output_size=adaptive)
    return spec, bool(scalars[-1])


def _result(like: Tensor, size: Sequence[int], channels_last: bool, dtype: torch.dtype | None = None) -> Tensor:
    strides = result_strides(tuple(size), channels_last)
    return torch.empty_strided(size, strides, dtype=dtype or like.dtype, device=like.device)


def conv_fprop(
    x: Tensor,
    w: Tensor,
    bias: Tensor | None,
    scale: Tensor | None,
    residual: Tensor | None,
    packed: Sequence[int],
    alpha: float,
) -> Tensor:
    spec, channels_last = _conv(packed)
    out = conv_output_size(tuple(x.shape[2:]), tuple(w.shape[2:]), spec)
    return _result(x, (x.shape[0], w.shape[0], *out), channels_last)


def conv_dgrad(
    dy: Tensor,
    w: Tensor,
    bias: Tensor | None,
    scale: Tensor | None,
    residual: Tensor | None,
    input_size: Sequence[int],
    packed: Sequence[int],
    alpha: float,
) -> Tensor:
    spec, channels_last = _conv(packed)
    return _result(dy, (dy.shape[0], w.shape[1] * spec.groups, *input_size), channels_last)


def conv_wgrad(dy: Tensor, x: Tensor, kernel_size: Sequence[int], packed: Sequence[int]) -> Tensor:
    spec, channels_last = _conv(packed)
    return _result(dy, (dy.shape[1], x.shape[1] // spec.groups, *kernel_size), channels_last)


def conv_bgrad(dy: Tensor) -> Tensor:
    return dy.new_empty(dy.shape[1])


def max_pool(x: Tensor, packed: Sequence[int], offsets: bool) -> tuple[Tensor, Tensor]:
    spec, channels_last = _pool(packed)
    size = (*x.shape[:2], *pool_output_size(tuple(x.shape[2:]), spec))
    offset_size = size if offsets else (0, *size[1:])
    dtype = OFFSET_DTYPES[offset_bytes(spec.kernel_size)]
    return _result(x, size, channels_last), _result(x, offset_size, channels_last, dtype)


def pool_select(x: Tensor, offsets: Tensor, packed: Sequence[int]) -> Tensor:
    return _result(x, offsets.shape, _pool(packed)[1])


def pool_select_bwd(dy: Tensor, offsets: Tensor, input_size: Sequence[int], packed: Sequence[int]) -> Tensor:
    return _result(dy, (*dy.shape[:2], *input_size), _pool(packed)[1])


def pool_indices(offsets: Tensor, input_size: Sequence[int], packed: Sequence[int]) -> Tensor:
    return _result(offsets, offsets.shape, _pool(packed)[1], torch.int64)


def avg_pool(x: Tensor, packed: Sequence[int]) -> Tensor:
    spec, channels_last = _pool(packed)
    return _result(x, (*x.shape[:2], *pool_output_size(tuple(x.shape[2:]), spec)), channels_last)


def avg_pool_bwd(dy: Tensor, input_size: Sequence[int], packed: Sequence[int]) -> Tensor:
    return _result(dy, (*dy.shape[:2], *input_size), _pool(packed)[1])


def max_unpool(x: Tensor, indices: Tensor, output_size: Sequence[int], channels_last: bool) -> Tensor:
    return _result(x, (*x.shape[:2], *output_size), channels_last)


def plane_gather(x: Tensor, indices: Tensor, channels_last: bool) -> Tensor:
    return _result(x, indices.shape, channels_last)


def plane_scatter(dy: Tensor, indices: Tensor, input_size: Sequence[int], channels_last: bool) -> Tensor:
    return _result(dy, (*dy.shape[:2], *input_size), channels_last)


def fractional_max_pool(
    x: Tensor,
    samples: Tensor,
    kernel_size: Sequence[int],
    output_size: Sequence[int],
    with_indices: bool,
    channels_last: bool,
) -> tuple[Tensor, Tensor]:
    size = (*x.shape[:2], *output_size)
    index_size = size if with_indices else (0, *size[1:])
    return _result(x, size, channels_last), _result(x, index_size, channels_last, torch.int64)


def stochastic_pool(x: Tensor, seed: Tensor, packed: Sequence[int]) -> tuple[Tensor, Tensor]:
    return max_pool(x, packed, True)


def stochastic_mean(x: Tensor, packed: Sequence[int]) -> Tensor:
    return avg_pool(x, packed)


def stochastic_mean_bwd(dy: Tensor, x: Tensor, y: Tensor, packed: Sequence[int]) -> Tensor:
    return _result(x, x.shape, _pool(packed)[1])


def lp_pool(x: Tensor, exponent: Tensor | None, packed: Sequence[int], p: float, norm: bool) -> Tensor:
    return avg_pool(x, packed)


def lp_pool_bwd(
    dy: Tensor, x: Tensor, y: Tensor, exponent: Tensor | None, packed: Sequence[int], p: float, norm: bool
) -> Tensor:
    return _result(dy, x.shape, _pool(packed)[1])


def _per_channel(like: Tensor, channels: int) -> Tensor:
    return like.new_empty(channels, dtype=accumulate_dtype(like.dtype))


def conv_fprop_stats(x: Tensor, w: Tensor, bias: Tensor | None, packed: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    y = conv_fprop(x, w, bias, None, None, packed, 0.0)
    return y, _per_channel(y, w.shape[0]), _per_channel(y, w.shape[0])


def bn_stats(x: Tensor) -> tuple[Tensor, Tensor]:
    return _per_channel(x, x.shape[1]), _per_channel(x, x.shape[1])


# Whole signatures, though most arguments decide nothing here: the schemas of backends' operators are made of them.


def bn_act(
    x: Tensor,
    mean: Tensor,
    invstd: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: int,
    alpha: float,
    channels_last: bool,
) -> Tensor:
    return _result(x, x.shape, channels_last)


def bn_act_bwd_reduce(
    dz: Tensor,
    x: Tensor,
    mean: Tensor,
    invstd: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: int,
    alpha: float,
) -> tuple[Tensor, Tensor]:
    return bn_stats(x)


def bn_act_bwd(
    dz: Tensor,
    x: Tensor,
    mean: Tensor,
    invstd: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    dbias: Tensor | None,
    dweight: Tensor | None,
    count: int,
    activation: int,
    alpha: float,
    with_residual: bool,
    channels_last: bool,
) -> tuple[Tensor, Tensor]:
    other = x.shape if with_residual else (0, *x.shape[1:])
    return _result(x, x.shape, channels_last), _result(x, other, channels_last)


def bn_act_grad(
    dz: Tensor,
    x: Tensor,
    mean: Tensor,
    invstd: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    count: int,
    activation: int,
    alpha: float,
    with_residual: bool,
    channels_last: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    other = x.shape if with_residual else (0, *x.shape[1:])
    return _result(x, x.shape, channels_last), _result(x, other, channels_last), *bn_stats(x)


KERNELS = (
    conv_fprop,
    conv_dgrad,
    conv_wgrad,
    conv_bgrad,
    max_pool,
    pool_select,
    pool_select_bwd,
    pool_indices,
    avg_pool,
    avg_pool_bwd,
    max_unpool,
    plane_gather,
    plane_scatter,
    fractional_max_pool,
    stochastic_pool,
    stochastic_mean,
    stochastic_mean_bwd,
    lp_pool,
    lp_pool_bwd,
    conv_fprop_stats,
    bn_stats,
    bn_act,
    bn_act_bwd_reduce,
    bn_act_bwd,
    bn_act_grad,
)


def register(namespace: str) -> None:
    """Registers the fake kernels of the operators, which a library has defined."""
    for kernel in KERNELS:
        library.register_fake(f"{namespace}::{kernel.__name__}", kernel)
