"""Lp pooling and its gradient, by their definition in :meth:`convkit.backends.base.Backend.lp_pool`."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from convkit.backends.base import Backend, accumulate_dtype
from convkit.backends.reference.pooling import Windows, divisors
from convkit.backends.reference.windows import Sizes, finish
from convkit.problem import PoolSpec, pool_output_size

INFINITY = float("inf")


def _power(exponent: Tensor | None, p: float, x: Tensor) -> Tensor:
    """The exponent as one number of the type of the sums."""
    dtype = accumulate_dtype(x.dtype)
    return x.new_full((), p, dtype=dtype) if exponent is None else exponent.detach().reshape(()).to(dtype)


def _scale(size: Sizes, out: Sizes, spec: PoolSpec, x: Tensor) -> Tensor:
    """What makes of a window's sum the sum of a full window with the same mean, as PyTorch counts elements."""
    counted = spec._replace(count_include_pad=True, divisor_override=0)
    return prod(spec.kernel_size) / torch.as_tensor(divisors(size, out, counted, x.device)).to(x.dtype)


class LpPoolingReference(Backend):
    def lp_pool(
        self, x: Tensor, exponent: Tensor | None, spec: PoolSpec, p: float, norm: bool, channels_last: bool
    ) -> Tensor:
        size = tuple(x.shape[2:])
        out = pool_output_size(size, spec)
        power, wide = _power(exponent, p, x), x.to(accumulate_dtype(x.dtype))
        y = self._norm(wide, power, out, spec) if norm else self._as_pytorch(wide, power, out, spec, x.dtype)
        return finish(y, x.dtype, channels_last)

    def _as_pytorch(self, x: Tensor, power: Tensor, out: Sizes, spec: PoolSpec, dtype: torch.dtype) -> Tensor:
        size = tuple(x.shape[2:])
        windows = Windows(size, out, spec, x.device)
        total = windows.in_blocks(lambda powers: windows.read(powers).sum(2), x.pow(power))
        total = total * _scale(size, out, spec, x)
        total = torch.where(total.to(dtype).isinf(), total.sign() * INFINITY, total)  # PyTorch stores the sum
        return (total + 0.0).pow(1.0 / power)  # of 0, never of minus 0

    def _norm(self, x: Tensor, power: Tensor, out: Sizes, spec: PoolSpec) -> Tensor:
        windows = Windows(tuple(x.shape[2:]), out, spec, x.device)
        neutral = torch.where(power > 0, 0.0, INFINITY)  # what adds nothing to the sum

        def norm(x: Tensor) -> Tensor:
            elements = torch.where(windows.inside, windows.read(x.abs()), neutral)
            extreme = torch.where(power > 0, elements.amax(2), elements.amin(2))
            ordinary = (extreme > 0) & (extreme < INFINITY)
            unit = torch.where(ordinary, extreme, 1)
            total = (elements / unit.unsqueeze(2)).pow(power).sum(2)
            return torch.where(ordinary, extreme * total.pow(1.0 / power), extreme)

        result: Tensor = windows.in_blocks(norm, x)
        return result

    def lp_pool_bwd(
        self,
        dy: Tensor,
        x: Tensor,
        y: Tensor,
        exponent: Tensor | None,
        spec: PoolSpec,
        p: float,
        norm: bool,
        channels_last: bool,
    ) -> Tensor:
        size, out, power = tuple(x.shape[2:]), tuple(dy.shape[2:]), _power(exponent, p, x)
        windows = Windows(size, out, spec, x.device)
        wide = x.to(accumulate_dtype(x.dtype))
        gradient, root = dy.to(wide.dtype), y.to(wide.dtype)
        if norm:

            def slopes(x: Tensor, gradient: Tensor, root: Tensor) -> Tensor:
                element, whole = windows.read(x), root.unsqueeze(2)
                ratio = torch.where(element.abs() == whole, 1, element.abs() / whole)
                slope = ratio.pow(power - 1).clamp(max=torch.finfo(x.dtype).max) * element.sign()
                return windows.add(gradient.unsqueeze(2) * torch.where((element == 0) | (whole == 0), 0, slope))

            return finish(windows.in_blocks(slopes, wide, gradient, root), dy.dtype, channels_last)
        share = gradient * root.pow(1 - power) * _scale(size, out, spec, wide)
        # a sum of 0 has the root 0, or infinity for a negative power
        share = torch.where((root == 0) | ((power < 0) & (root == INFINITY)), 0, share)
        dx = windows.in_blocks(lambda share: windows.add(share.unsqueeze(2)), share)
        return finish(dx * wide.pow(power - 1), dy.dtype, channels_last)
