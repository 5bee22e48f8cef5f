"""A quick look at an installed convkit: every compiled operator, forward and backward, against torch's own.

Needs convkit and torch only, any version from 2.10 on; it checks one build, the test suite checks the kernels.
"""

from __future__ import annotations

import itertools
import math
import sys

import torch
import torch.nn.functional as F
from torch import Tensor

from convkit.backends.base import RAW_OPS, Norm, NormSums
from convkit.backends.native import Native
from convkit.build_info import build_info
from convkit.problem import ACTIVATIONS, ConvSpec, PoolSpec

native = Native()
used: set[str] = set()


def raw(name: str, *arguments: object) -> Tensor:
    used.add(name)
    result: Tensor = getattr(native, name)(*arguments)
    return result


def close(what: str, got: Tensor, expected: Tensor, terms: int) -> None:
    """``expected`` is exact to float64; rounding grows at most with the number of terms, all between 0 and 1."""
    tolerance = 4 * terms * torch.finfo(got.dtype).eps if got.dtype.is_floating_point else 0.0
    torch.testing.assert_close(
        got.to(expected.dtype), expected, atol=tolerance, rtol=tolerance, msg=lambda text: f"{what}: {text}"
    )


def draw(dtype: torch.dtype, *size: int) -> tuple[Tensor, Tensor]:
    """A tensor of numbers above 0 and up to 1, and its float64 copy, which records gradients."""
    x = 1 - torch.rand(size).mul(0.9).to(dtype)
    return x, x.double().requires_grad_()


def check_convolution(dims: int, dtype: torch.dtype, channels_last: bool) -> None:
    conv = (F.conv1d, F.conv2d, F.conv3d)[dims - 1]
    size, kernel, ones = (9, 8, 7)[:dims], (3, 2, 3)[:dims], (1,) * dims
    spec = ConvSpec(stride=(2, 1, 1)[:dims], pad_before=ones, pad_after=ones, dilation=ones, groups=2)
    (x, x64), (w, w64), (bias, bias64) = draw(dtype, 2, 4, *size), draw(dtype, 6, 2, *kernel), draw(dtype, 6)
    y = conv(x64, w64, bias64, spec.stride, spec.pad_before, spec.dilation, spec.groups)
    dy, dy64 = draw(dtype, *y.shape)
    dx, dw, db = torch.autograd.grad(y, (x64, w64, bias64), dy64)
    terms = max(w[0].numel() + 1, dy[:, 0].numel(), w[:, 0].numel())
    what = f"{dims}d {dtype} channels_last={channels_last}"
    close(f"conv_fprop {what}", raw("conv_fprop", x, w, bias, None, None, spec, channels_last), y, terms)
    close(f"conv_dgrad {what}", raw("conv_dgrad", dy, w, None, None, None, size, spec, channels_last), dx, terms)
    close(f"conv_wgrad {what}", raw("conv_wgrad", dy, x, kernel, spec, channels_last), dw, terms)
    close(f"conv_bgrad {what}", raw("conv_bgrad", dy), db, terms)


def check_pooling(dims: int, dtype: torch.dtype, channels_last: bool) -> None:
    max_pool = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[dims - 1]
    avg_pool = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[dims - 1]
    size, ones, window = (9, 8, 7)[:dims], (1,) * dims, 3**dims
    spec = PoolSpec((3,) * dims, (2,) * dims, ones, ones, ones)
    x, x64 = draw(dtype, 2, 4, *size)
    y, indices = max_pool(x64, 3, 2, 1, return_indices=True)
    dy, dy64 = draw(dtype, *y.shape)
    (dx,) = torch.autograd.grad(y, x64, dy64)
    mean = avg_pool(x64, 3, 2, 1)
    (dx_mean,) = torch.autograd.grad(mean, x64, dy64)
    what = f"{dims}d {dtype} channels_last={channels_last}"
    used.add("max_pool")
    got, offsets = native.max_pool(x, spec, True, channels_last)
    close(f"max_pool {what}", got, y, 0)
    close(f"pool_indices {what}", raw("pool_indices", offsets, size, spec, channels_last), indices, 0)
    close(f"pool_select {what}", raw("pool_select", x, offsets, spec, channels_last), y, 0)
    close(f"pool_select_bwd {what}", raw("pool_select_bwd", dy, offsets, size, spec, channels_last), dx, window)
    close(f"avg_pool {what}", raw("avg_pool", x, spec, channels_last), mean, window)
    close(f"avg_pool_bwd {what}", raw("avg_pool_bwd", dy, size, spec, channels_last), dx_mean, window)


def check_lp(dims: int, dtype: torch.dtype, channels_last: bool) -> None:
    lp_pool = (F.lp_pool1d, F.lp_pool2d, F.lp_pool3d)[dims - 1]
    none, window = (0,) * dims, 3**dims
    spec = PoolSpec((3,) * dims, (2,) * dims, none, none, (1,) * dims)
    x, x64 = draw(dtype, 2, 4, *(9, 8, 7)[:dims])
    for p in (2.0, 3.0):
        y = lp_pool(x64, p, 3, 2)
        dy, dy64 = draw(dtype, *y.shape)
        (dx,) = torch.autograd.grad(y, x64, dy64)
        what = f"p={p} {dims}d {dtype} channels_last={channels_last}"
        got = raw("lp_pool", x, None, spec, p, False, channels_last)
        close(f"lp_pool {what}", got, y, window)
        got = raw("lp_pool_bwd", dy, x, y.to(dtype), None, spec, p, False, channels_last)
        close(f"lp_pool_bwd {what}", got, dx, 2 * window)


def check_stochastic(dims: int, dtype: torch.dtype, channels_last: bool) -> None:
    """A draw from windows that have one positive element each, which leaves no choice; and the expectation."""
    max_pool = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[dims - 1]
    avg_pool = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[dims - 1]
    none, twos, window = (0,) * dims, (2,) * dims, 2**dims
    spec = PoolSpec(twos, twos, none, none, (1,) * dims)
    x, x64 = draw(dtype, 2, 4, *(8, 6, 4)[:dims])
    what = f"{dims}d {dtype} channels_last={channels_last}"
    _, kept = max_pool(x64, 2, return_indices=True)
    single = torch.zeros_like(x).flatten(2)
    single.scatter_(2, kept.flatten(2), x.flatten(2).gather(2, kept.flatten(2)))
    single = single.view_as(x)
    used.add("stochastic_pool")
    got, _ = native.stochastic_pool(single, torch.tensor(7), spec, channels_last)
    close(f"stochastic_pool {what}", got, max_pool(single.double(), 2), 0)
    y = avg_pool(x64 * x64, 2) / avg_pool(x64, 2)
    dy, dy64 = draw(dtype, *y.shape)
    (dx,) = torch.autograd.grad(y, x64, dy64)
    close(f"stochastic_mean {what}", raw("stochastic_mean", x, spec, channels_last), y, window)
    got = raw("stochastic_mean_bwd", dy, x, y.to(dtype), spec, channels_last)
    terms = window / avg_pool(x64.detach(), 2).min().item()  # the gradient's terms are divided by the mean
    close(f"stochastic_mean_bwd {what}", got, dx, math.ceil(terms))


def check_flat(dims: int, dtype: torch.dtype, channels_last: bool) -> None:
    max_pool = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[dims - 1]
    max_unpool = (F.max_unpool1d, F.max_unpool2d, F.max_unpool3d)[dims - 1]
    size, twos, what = (8, 6, 4)[:dims], (2,) * dims, f"{dims}d {dtype} channels_last={channels_last}"
    x, x64 = draw(dtype, 2, 4, *size)
    y, indices = max_pool(x64, 2, return_indices=True)
    placed = max_unpool(y, indices, 2)
    close(f"max_unpool {what}", raw("max_unpool", y.to(dtype), indices, size, channels_last), placed, 0)
    close(f"plane_gather {what}", raw("plane_gather", x, indices, channels_last), y, 0)
    close(f"plane_scatter {what}", raw("plane_scatter", y.to(dtype), indices, size, channels_last), placed, 0)
    if dims == 1:
        return  # torch has no fractional pooling of one dimension
    # Start positions are multiples of the step (size - 2) / 2, exact in every dtype.
    fractional = (F.fractional_max_pool2d, F.fractional_max_pool3d)[dims - 2]
    samples = torch.full((2, 4, dims), 0.5, dtype=dtype)
    y, indices = fractional(x64, 2, twos, return_indices=True, _random_samples=samples.double())
    used.add("fractional_max_pool")
    got, places = native.fractional_max_pool(x, samples, twos, twos, True, channels_last)
    close(f"fractional_max_pool {what}", got, y, 0)
    close(f"fractional_max_pool's indices {what}", places, indices, 0)


def check_batch_norm(dims: int, dtype: torch.dtype, channels_last: bool) -> None:
    """A training step of convolution, batch norm, residual and relu, whose result is the batch norm's input."""
    conv, relu = (F.conv1d, F.conv2d, F.conv3d)[dims - 1], ACTIVATIONS.index("relu")
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    ones = (1,) * dims
    spec = ConvSpec(ones, ones, ones, ones)
    (x, x64), (w, w64) = draw(dtype, 2, 4, *(9, 8, 7)[:dims]), draw(dtype, 6, 4, *(3, 2, 3)[:dims])
    what = f"{dims}d {dtype} channels_last={channels_last}"
    used.add("conv_fprop_stats")
    y, mean, var = native.conv_fprop_stats(x, w, None, spec, channels_last)
    close(f"conv_fprop_stats {what}", y, conv(x64, w64, None, 1, 1), w[0].numel())
    elements, (residual, residual64), (dz, dz64) = y[:, 0].numel(), draw(dtype, *y.shape), draw(dtype, *y.shape)
    # Statistics and sums relative to what is added up.
    y64, over = y.double().requires_grad_(), (0, *range(2, y.dim()))
    size = float(y.double().abs().max())
    close(f"the mean {what}", mean / size, y64.mean(over) / size, elements)
    close(f"the variance {what}", var / size**2, y64.var(over, correction=0) / size**2, elements)
    used.add("bn_stats")
    for again, first in zip(native.bn_stats(y), (mean, var)):
        close(f"bn_stats {what}", again / size**2, first / size**2, elements)
    (weight, weight64), (bias, bias64) = draw(wide, 6), draw(wide, 6)
    z64 = F.relu(F.batch_norm(y64, None, None, weight64, bias64, training=True, eps=1e-5) + residual64)
    dx, dresidual, dweight, dbias = torch.autograd.grad(z64, (y64, residual64, weight64, bias64), dz64)
    norm = Norm(mean, (var + 1e-5).rsqrt(), weight, bias, residual, relu)
    close(f"bn_act {what}", raw("bn_act", y, norm, channels_last), z64, elements)
    used.add("bn_act_bwd_reduce")
    sums = native.bn_act_bwd_reduce(dz, y, norm)
    for name, got, expected in zip(("dbias", "dweight"), sums, (dbias, dweight)):
        close(f"{name} {what}", got / elements, expected / elements, elements)
    used.add("bn_act_bwd")
    got = native.bn_act_bwd(dz, y, norm, NormSums(*sums, elements), True, channels_last)
    together = native.bn_act_grad(dz, y, norm, elements, True, channels_last)
    for name, result, again, expected in zip(("dx", "dresidual"), got, together, (dx, dresidual)):
        close(f"{name} {what}", result, expected, elements)
        close(f"{name} of bn_act_grad {what}", again, expected, elements)


def main() -> None:
    reason = native.available()
    if reason is not None:
        sys.exit(f"the compiled library is not usable: {reason}")
    torch.manual_seed(0)
    dtypes = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
    cases = list(itertools.product((1, 2, 3), dtypes, (False, True)))
    for case in cases:
        check_convolution(*case)
        check_pooling(*case)
        check_lp(*case)
        check_stochastic(*case)
        check_flat(*case)
        check_batch_norm(*case)
    missing = set(RAW_OPS) - used
    assert not missing, f"no check of {sorted(missing)}"
    info = build_info()
    print(
        f"convkit {info['version']} in torch {torch.__version__}, Python {sys.version.split()[0]}: "
        f"{len(used)} raw operations agree with torch in {len(cases)} settings ({info['instruction_set']})"
    )


if __name__ == "__main__":
    main()
