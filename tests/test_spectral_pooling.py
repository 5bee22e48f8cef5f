"""Spectral pooling against sums over the definition."""

from __future__ import annotations

import cmath
from math import pi

import pytest
import torch
from torch import Tensor

import convkit.functional as CF
import convkit.nn as cn

EPS = torch.finfo(torch.float64).eps


def matrix(length: int, size: int) -> Tensor:
    """The pooling of one dimension: row m holds what y_m takes of each x_l, a sum over the kept frequencies."""

    def coefficient(m: int, position: int) -> float:
        def term(k: int) -> complex:
            return cmath.exp(2j * pi * k * (m / size - position / length))

        kept = sum(term(k) for k in range(-((size - 1) // 2), (size - 1) // 2 + 1))
        if size % 2 == 0:
            kept += term(size // 2) if size == length else (term(size // 2) + term(-size // 2)) / 2
        return (kept / length).real

    return torch.tensor([[coefficient(m, i) for i in range(length)] for m in range(size)], dtype=torch.float64)


def definition(x: Tensor, out: tuple[int, ...]) -> Tensor:
    for d, size in enumerate(out, 2):
        x = torch.movedim(torch.movedim(x, d, -1) @ matrix(x.shape[d], size).T, -1, d)
    return x


SIZES = [((8,), o) for o in [(8,), (7,), (6,), (1,)]] + [((7,), o) for o in [(7,), (6,), (3,), (2,)]]
SIZES += [((6, 7), o) for o in [(6, 7), (4, 4), (3, 7), (6, 2), (5, 1), (2, 2)]] + [((4, 5, 6), (2, 4, 4))]


@pytest.mark.parametrize(("size", "out"), SIZES)
def test_kept_frequencies(size: tuple[int, ...], out: tuple[int, ...]) -> None:
    pool = getattr(CF, f"spectral_pool{len(size)}d")
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y = pool(x, out)
    # A sum of at most 120 products of numbers below 5 by the definition; a transform has fewer roundings.
    assert (y - definition(x, out)).abs().max() <= 120 * 5 * 4 * EPS
    assert torch.equal(pool(x[0], out), y[0]) and y.is_contiguous()
    if len(size) == 2:
        last = pool(x.contiguous(memory_format=torch.channels_last), out)
        assert torch.equal(last, y) and last.is_contiguous(memory_format=torch.channels_last)
    constant = pool(torch.full((1, 1, *size), 3.0, dtype=torch.float64), out)
    assert (constant - 3).abs().max() <= 16 * EPS


def test_the_same_size_is_the_identity() -> None:
    x = torch.randn(2, 3, 6, 5)
    for size in ((6, 5), (None, None), None):
        y = CF.spectral_pool2d(x, size)
        assert torch.equal(y, x) and y.data_ptr() != x.data_ptr()
    torch.testing.assert_close(CF.spectral_pool2d(x, (None, 3)), CF.spectral_pool2d(x, (6, 3)))
    torch.testing.assert_close(CF.spectral_pool2d(x, 3), CF.spectral_pool2d(x, (3, 3)))


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_derivatives_and_dtypes(dims: int) -> None:
    pool, size = getattr(CF, f"spectral_pool{dims}d"), (6, 5, 4)[:dims]
    x = torch.randn(1, 2, *size, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: pool(x, 4), (x,))
    assert torch.autograd.gradgradcheck(lambda x: pool(x, 3), (x,))
    module = getattr(cn, f"SpectralPool{dims}d")(4)
    assert repr(module) == f"SpectralPool{dims}d(output_size=4)"
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        y = module(x.detach().to(dtype))
        assert y.dtype == dtype and y.shape == (1, 2, *(4,) * dims)
        # rounded once, from a transform in float32 of numbers below 8
        wanted = pool(x.detach().to(dtype).double(), 4)
        assert (y.double() - wanted).abs().max() <= 8 * (torch.finfo(dtype).eps + 120 * torch.finfo(torch.float32).eps)
    assert module(torch.empty(0, 2, *(8,) * dims)).shape == (0, 2, *(4,) * dims)


def test_wrong_arguments() -> None:
    x = torch.ones(1, 1, 5, 5)
    for size in (0, 6, (5, 6), (-1, 2)):
        with pytest.raises(RuntimeError, match=r"must be from 1 to the input's, which are \[5, 5\]"):
            CF.spectral_pool2d(x, size)
    with pytest.raises(RuntimeError, match="output_size must be 2, but got 3 values"):
        CF.spectral_pool2d(x, (1, 2, 3))
    with pytest.raises(RuntimeError, match="Expected 3D or 4D tensor"):
        CF.spectral_pool2d(x[0, 0], 2)
    with pytest.raises(TypeError, match="argument 'output_size'"):
        CF.spectral_pool2d(x, 1.5)
    with pytest.raises(NotImplementedError, match="not implemented for 'Long'"):
        CF.spectral_pool2d(x.long(), 2)
