"""Stochastic pooling, its expectation, and the generator it draws from, in integer arithmetic of tensors."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from convkit.backends.base import Backend, accumulate_dtype
from convkit.backends.layout import OFFSET_DTYPES
from convkit.backends.reference.pooling import Windows
from convkit.backends.reference.windows import finish
from convkit.problem import PoolSpec, offset_bytes, pool_output_size

_WORD = 0xFFFFFFFF  # 32 bits, held in int64


def philox4x32_10(counter: tuple[Tensor, ...], key: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    """Philox4x32-10 (Salmon et al., SC 2011): four words of random bits from four words of counter and two of key.

    Products are taken modulo 2^64, where signed and unsigned numbers agree.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        p0, p1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1 = (p1 >> 32 & _WORD) ^ c1 ^ k0, p1 & _WORD
        c2, c3 = (p0 >> 32 & _WORD) ^ c3 ^ k1, p0 & _WORD
        k0, k1 = k0 + 0x9E3779B9 & _WORD, k1 + 0xBB67AE85 & _WORD
    return c0, c1, c2, c3


def uniform(index: Tensor, seed: Tensor, dtype: torch.dtype) -> Tensor:
    """The draws in [0, 1) at positions ``index``: the first word's upper 24 bits, exact in float32 and float64."""
    none = torch.zeros_like(index)
    words = philox4x32_10((index & _WORD, index >> 32 & _WORD, none, none), (seed & _WORD, seed >> 32 & _WORD))
    return (words[0] >> 8).to(dtype) * 2.0**-24


def _weights(x: Tensor) -> Tensor:
    """Elements that are not positive count as 0; NaN stays."""
    return torch.where(x <= 0, 0, x)


class StochasticReference(Backend):
    def stochastic_pool(self, x: Tensor, seed: Tensor, spec: PoolSpec, channels_last: bool) -> tuple[Tensor, Tensor]:
        windows = _windows(x, spec)
        accumulate = accumulate_dtype(x.dtype)
        largest = torch.finfo(accumulate).max

        def draw(x: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
            weights = windows.read(_weights(x.to(accumulate)))
            sums = [torch.zeros_like(weights[:, :, 0])]  # before each tap, in the order that all backends add in
            for weight in weights.unbind(2):
                sums.append(sums[-1] + weight)
            total, before = sums[-1], torch.stack(sums[:-1], 2)
            # An infinite sum: the element with which it becomes infinite.
            threshold = torch.where(total > largest, largest, uniform(index, seed, accumulate) * total)
            take = (before <= threshold.unsqueeze(2)) & (weights > 0) | (weights != weights)  # the last NaN wins
            chosen = torch.where(take, windows.number, -1).amax(2)
            return windows.pick(weights, chosen, 0), chosen

        size = (*x.shape[:2], *windows.index.shape[1:])
        y, chosen = windows.in_blocks(draw, x, torch.arange(prod(size), device=x.device).view(size))
        offset_dtype = OFFSET_DTYPES[offset_bytes(spec.kernel_size)]
        return finish(y, x.dtype, channels_last), finish(chosen, offset_dtype, channels_last)

    def stochastic_mean(self, x: Tensor, spec: PoolSpec, channels_last: bool) -> Tensor:
        windows = _windows(x, spec)

        def mean(x: Tensor) -> Tensor:
            weights = windows.read(_weights(x.double()))  # no square of a float32 number overflows
            total, squares = weights.sum(2), (weights * weights).sum(2)
            infinite = squares == float("inf")
            return torch.where(total <= 0, 0, torch.where(infinite, squares, squares / total))

        return finish(windows.in_blocks(mean, x), x.dtype, channels_last)

    def stochastic_mean_bwd(self, dy: Tensor, x: Tensor, y: Tensor, spec: PoolSpec, channels_last: bool) -> Tensor:
        windows = _windows(x, spec)

        def gradient(dy: Tensor, x: Tensor, y: Tensor) -> Tensor:
            elements = windows.read(x.double())
            total = _weights(elements).sum(2, keepdim=True)
            share = dy.double().unsqueeze(2) * ((2 * elements - y.double().unsqueeze(2)) / total)
            return windows.add(torch.where(elements <= 0, 0, share))

        return finish(windows.in_blocks(gradient, dy, x, y), x.dtype, channels_last)


def _windows(x: Tensor, spec: PoolSpec) -> Windows:
    size = tuple(x.shape[2:])
    return Windows(size, pool_output_size(size, spec), spec, x.device)
