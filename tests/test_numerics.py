"""Special values, long sums, accumulation in 16-bit types, and sizes beyond 32 bits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from convkit.backends.base import Backend
from convkit.problem import ConvSpec, PoolSpec
from convkit.testing.oracle import Call, error, expect, mismatch, verify
from convkit.testing.tolerances import gamma, unit_roundoff

FLOATING = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
HALF = (torch.bfloat16, torch.float16)
NAN, INF = float("nan"), float("inf")


def conv_spec(dims: int, padding: int = 0, stride: int = 1, groups: int = 1) -> ConvSpec:
    return ConvSpec((stride,) * dims, (padding,) * dims, (padding,) * dims, (1,) * dims, groups)


def pool_spec(dims: int, kernel: int, stride: int, padding: int = 0) -> PoolSpec:
    return PoolSpec((kernel,) * dims, (stride,) * dims, (padding,) * dims, (padding,) * dims, (1,) * dims)


def fprop(backend: Backend, x: Tensor, w: Tensor, spec: ConvSpec, last: bool = False) -> Tensor:
    return backend.conv_fprop(x, w, None, None, None, spec, last)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_infinite_weights(dtype: torch.dtype, groups: int, channels_last: bool, backend: Backend) -> None:
    """Infinite where the weight meets an element; over padding, a zero, NaN or nothing (PyTorch has both)."""
    x = torch.ones(1, 4, 5, 6, dtype=dtype)
    w = torch.ones(4, 4 // groups, 3, 3, dtype=dtype)
    w[:, :, 0, 0] = INF
    spec = conv_spec(2, 1, groups=groups)
    y = fprop(backend, x, w, spec, channels_last)
    assert bool((y[:, :, 1:, 1:] == INF).all())
    assert not y[:, :, 0].isinf().any() and not y[:, :, :, 0].isinf().any()
    dx = backend.conv_dgrad(x, w, None, None, None, (5, 6), spec, channels_last)
    assert bool((dx[:, :, :-1, :-1] == INF).all())
    assert not dx[:, :, -1].isinf().any() and not dx[:, :, :, -1].isinf().any()


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_special_values_stay_in_their_windows(dtype: torch.dtype, groups: int, backend: Backend) -> None:
    """One NaN reaches exactly the outputs that read it; vector lanes and blocks do not leak."""
    for value in (NAN, INF):
        for place in ((0, 0), (3, 7), (8, 18)):
            x = torch.ones(1, 4, 9, 19, dtype=dtype)
            x[0, 1, place[0], place[1]] = value
            w = torch.ones(4, 4 // groups, 3, 3, dtype=dtype)
            y = fprop(backend, x, w, conv_spec(2, 1, groups=groups))
            reads = torch.zeros(9, 19, dtype=torch.bool)
            reads[max(place[0] - 1, 0) : place[0] + 2, max(place[1] - 1, 0) : place[1] + 2] = True
            for channel in range(4):
                expected = reads if groups == 1 or channel == 1 else torch.zeros_like(reads)
                assert torch.equal(~y[0, channel].isfinite(), expected)


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_special_values_reach_their_filter_gradients(dtype: torch.dtype, groups: int, backend: Backend) -> None:
    x = torch.ones(2, 4, 6, 7, dtype=dtype)
    x[1, 2, 0, 0] = NAN  # read by no tap but the filter's first ones
    dy = torch.ones(2, 4, 4, 5, dtype=dtype)
    dw = backend.conv_wgrad(dy, x, (3, 3), conv_spec(2, groups=groups), False)
    expected = torch.zeros(dw.shape, dtype=torch.bool)
    if groups == 1:
        expected[:, 2, 0, 0] = True
    else:
        expected[2, 0, 0, 0] = True
    assert torch.equal(dw.isnan(), expected)


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_averages_of_special_values(dtype: torch.dtype, backend: Backend) -> None:
    x = torch.tensor([1, 1, INF, 1, 1, 1, NAN, 1, -INF, 1], dtype=dtype).view(1, 1, -1)
    y = backend.avg_pool(x, pool_spec(1, 2, 2), False).flatten().tolist()
    assert y[0] == 1 and y[1] == INF and y[2] == 1 and y[3] != y[3] and y[4] == -INF
    dx = backend.avg_pool_bwd(torch.tensor([NAN, 1, INF], dtype=dtype).view(1, 1, 3), (6,), pool_spec(1, 2, 2), False)
    assert dx.isnan().flatten().tolist() == [True, True, False, False, False, False]
    assert dx.isinf().flatten().tolist() == [False] * 4 + [True] * 2


MAXIMA = {
    "first of ties": ([1, 2, 2, 0], 2, 1),
    "last NaN": ([NAN, 1, NAN, 4], NAN, 2),
    "NaN beats infinity": ([INF, NAN, INF, 1], NAN, 1),
    "all minus infinity: the first": ([-INF, -INF, -INF, -INF], -INF, 0),
    "infinity": ([1, INF, INF, 3], INF, 1),
    "signed zeros are equal: the first": ([-0.0, 0.0, -0.0, 0.0], 0, 0),
    "negative values above the padding": ([-4, -3, -2, -1], -1, 3),
}


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("name", MAXIMA)
def test_maximum(name: str, dtype: torch.dtype, channels_last: bool, backend: Backend) -> None:
    """In every lane of a vector: the window repeats along channels and width."""
    values, top, offset = MAXIMA[name]
    window = torch.tensor(values, dtype=dtype).view(2, 2)
    x = window.repeat(1, 19, 3, 18)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    y, offsets = backend.max_pool(x, pool_spec(2, 2, 2), True, channels_last)
    assert bool((y.isnan() if top != top else y == top).all())
    assert bool((offsets == offset).all())
    without, _ = backend.max_pool(x, pool_spec(2, 2, 2), False, channels_last)
    assert torch.equal(without.isnan(), y.isnan()) and torch.equal(without.nan_to_num(), y.nan_to_num())


def test_denormal_numbers_are_not_flushed(backend: Backend) -> None:
    tiny = torch.finfo(torch.float32).smallest_normal * 2.0**-10
    x, w = torch.full((1, 2, 4, 20), tiny), torch.ones(3, 2, 1, 1)
    assert bool((fprop(backend, x, w, conv_spec(2)) == 2 * tiny).all())
    assert bool((backend.avg_pool(x, pool_spec(2, 2, 2), False) == tiny).all())
    assert bool((backend.max_pool(x, pool_spec(2, 2, 2), False, False)[0] == tiny).all())
    small = torch.finfo(torch.float16).smallest_normal * 2.0**-9
    x16, w16 = torch.full((1, 2, 4, 20), small, dtype=torch.float16), torch.ones(3, 2, 1, 1, dtype=torch.float16)
    assert bool((fprop(backend, x16, w16, conv_spec(2)) == 2 * small).all())


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_sums_of_16_bit_values_are_kept_in_float32(dtype: torch.dtype, backend: Backend) -> None:
    """4096 ones: a 16-bit sum would stop at 256 (bfloat16) or 2048 (float16)."""
    n = 4096
    ones = torch.ones(1, n, 1, 1, dtype=dtype)
    assert fprop(backend, ones, ones, conv_spec(2)).item() == n
    assert backend.conv_dgrad(ones, ones.view(n, 1, 1, 1), None, None, None, (1, 1), conv_spec(2), False).item() == n
    row = ones.view(1, 1, n)
    assert backend.conv_wgrad(row, row, (1,), conv_spec(1), False).item() == n
    assert backend.conv_bgrad(row).item() == n
    assert fprop(backend, row, row, conv_spec(1)).item() == n  # a depthwise filter
    assert backend.avg_pool(row, pool_spec(1, n, 1), False).item() == 1
    # 511 windows of stride 1 share the middle element; each gives it 1/512 of 1.
    dx = backend.avg_pool_bwd(torch.ones(1, 1, 513, dtype=dtype), (1024,), pool_spec(1, 512, 1), False)
    assert dx[0, 0, 511].item() == 1
    offsets = torch.full((1, 1, 300), 0, dtype=torch.int16)
    offsets[0, 0] = torch.arange(299, -1, -1)
    dx = backend.pool_select_bwd(torch.ones(1, 1, 300, dtype=dtype), offsets, (599,), pool_spec(1, 300, 1), False)
    assert dx[0, 0, 299].item() == 300


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_long_sums_stay_within_the_bound(dtype: torch.dtype, backend: Backend, reference: Backend) -> None:
    """Sums of 50 000 positive products, whose relative error must stay below gamma."""
    x = torch.rand(2, 3, 160, 160, generator=torch.Generator().manual_seed(1)).to(dtype)
    dy = torch.rand(2, 4, 158, 158, generator=torch.Generator().manual_seed(2)).to(dtype)
    wgrad = Call("conv_wgrad", {"dy": dy, "x": x, "kernel_size": (3, 3), "spec": conv_spec(2), "channels_last": False})
    for call in (wgrad, Call("conv_bgrad", {"dy": dy})):
        for expected, result in verify(call, backend, reference):
            assert mismatch(result, expected) is None, mismatch(result, expected)
            relative = ((result.double() - expected.value) / expected.value).abs().max().item()
            assert relative <= gamma(2 * 158 * 158, unit_roundoff(torch.float32)) + unit_roundoff(dtype)


def test_overflow_gives_infinity(backend: Backend) -> None:
    x = torch.full((1, 1, 4, 20), 300.0, dtype=torch.float16)
    w = torch.full((1, 1, 1, 1), 300.0, dtype=torch.float16)
    assert bool((fprop(backend, x, w, conv_spec(2)) == INF).all())
    # The sum of four passes through 120000 in float32 before it is divided.
    y = backend.avg_pool(torch.full((1, 1, 4, 4), 30000.0, dtype=torch.float16), pool_spec(2, 2, 2), False)
    assert bool((y == 30000).all())


def test_window_offsets_of_four_bytes(backend: Backend) -> None:
    n, k = 32790, 32780
    x = torch.zeros(1, 1, n)
    x[0, 0, 32775] = 1
    if backend.name == "reference":  # a loop over 32780 taps: one window shows it
        x, n = x[..., :k], k
    spec = pool_spec(1, k, 5)
    y, offsets = backend.max_pool(x, spec, True, False)
    assert offsets.dtype == torch.int32
    starts = torch.arange(0, n - k + 1, 5)
    assert torch.equal(offsets[0, 0].long(), 32775 - starts)
    assert bool((y == 1).all())
    if backend.name != "reference":
        assert torch.equal(backend.pool_select(x, offsets, spec, False), y)
        assert backend.pool_select_bwd(y, offsets, (n,), spec, False)[0, 0, 32775].item() == len(starts)
        assert bool((backend.pool_indices(offsets, (n,), spec, False) == 32775).all())


def test_positions_beyond_32_bits(backend: Backend) -> None:
    """A row of 2^32 + 8 elements of one byte, all stored in one, and windows far apart."""
    length, step = 2**32 + 8, 2**30
    x = torch.ones(1, dtype=torch.int8).expand(1, 1, length)
    w = torch.full((1, 1, 3), 2, dtype=torch.int8)
    y = fprop(backend, x, w, conv_spec(1, 1, stride=step)) if backend.name == "native" else None
    if y is not None:
        assert y.flatten().tolist() == [4, 6, 6, 6, 6]
        top, offsets = backend.max_pool(x, pool_spec(1, 2, step), True, False)
        assert top.flatten().tolist() == [1] * 5 and offsets.flatten().tolist() == [0] * 5
        indices = backend.pool_indices(offsets, (length,), pool_spec(1, 2, step), False)
        assert indices.flatten().tolist() == [i * step for i in range(5)]


def test_the_bound_is_not_loose(reference: Backend) -> None:
    """A correct float32 sum uses a visible part of its bound; the float64 oracle none of it."""
    x = torch.rand(1, 8, 6, 6, generator=torch.Generator().manual_seed(3))
    arguments = {"bias": None, "scale": None, "residual": None, "spec": conv_spec(2), "channels_last": False}
    call = Call("conv_fprop", {"x": x, "w": x[:, :, :3, :3].contiguous(), **arguments})
    (expected,) = expect(call, reference)
    (result,) = call.run(reference)
    assert 1e-3 < error(result, expected) <= 1
