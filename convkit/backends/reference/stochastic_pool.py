"""Stochastic pooling, its expectation, and the generator it draws from, in integer arithmetic of tensors."""

from __future__ import annotations

from collections.abc import Iterator

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
        size = (*x.shape[:2], *pool_output_size(tuple(x.shape[2:]), spec))
        accumulate = accumulate_dtype(x.dtype)
        largest = torch.finfo(accumulate).max
        total = x.new_zeros(size, dtype=accumulate)
        for weight in _windows(x, spec, accumulate):
            total = total + weight
        index = torch.arange(total.numel(), device=x.device).view(size)
        # An infinite sum: the element with which it becomes infinite.
        threshold = torch.where(total > largest, largest, uniform(index, seed, accumulate) * total)
        y, cumulative = torch.zeros_like(total), torch.zeros_like(total)
        chosen = torch.full_like(total, -1, dtype=torch.int32)
        for offset, weight in enumerate(_windows(x, spec, accumulate)):
            take = (cumulative <= threshold) & (weight > 0) | (weight != weight)  # the last NaN wins
            y = torch.where(take, weight, y)
            chosen = torch.where(take, offset, chosen)
            cumulative = cumulative + weight
        offset_dtype = OFFSET_DTYPES[offset_bytes(spec.kernel_size)]
        return finish(y, x.dtype, channels_last), finish(chosen, offset_dtype, channels_last)

    def stochastic_mean(self, x: Tensor, spec: PoolSpec, channels_last: bool) -> Tensor:
        total, squares = _sums(x, spec)
        infinite = squares == float("inf")
        y = torch.where(total <= 0, 0, torch.where(infinite, squares, squares / total))
        return finish(y, x.dtype, channels_last)

    def stochastic_mean_bwd(self, dy: Tensor, x: Tensor, y: Tensor, spec: PoolSpec, channels_last: bool) -> Tensor:
        windows = Windows(tuple(x.shape[2:]), tuple(y.shape[2:]), spec, x.device)
        total, _ = _sums(x, spec)
        gradient = torch.zeros_like(x, dtype=torch.float64)
        for tap in windows.taps:
            element = windows.read(x.double(), tap)
            share = dy.double() * ((2 * element - y.double()) / total)
            gradient = windows.add(gradient, tap, torch.where(element <= 0, 0, share))
        return finish(gradient, x.dtype, channels_last)


def _windows(x: Tensor, spec: PoolSpec, dtype: torch.dtype) -> Iterator[Tensor]:
    """The weights at each tap of all windows, row-major; padding weighs 0."""
    size = tuple(x.shape[2:])
    windows = Windows(size, pool_output_size(size, spec), spec, x.device)
    weights = _weights(x.to(dtype))
    for tap in windows.taps:
        yield windows.read(weights, tap)


def _sums(x: Tensor, spec: PoolSpec) -> tuple[Tensor, Tensor]:
    """Sums of the weights and of their squares; in float64, where no square of a float32 number overflows."""
    out = pool_output_size(tuple(x.shape[2:]), spec)
    total = x.new_zeros((*x.shape[:2], *out), dtype=torch.float64)
    squares = torch.zeros_like(total)
    for weight in _windows(x, spec, torch.float64):
        total = total + weight
        squares = squares + weight * weight
    return total, squares
