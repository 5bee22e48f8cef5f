"""The core headers' functions, each instruction set's copy: against their Python twins, brute force and torch."""

from __future__ import annotations

import importlib.util
import os
import random
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import Any

import loops
import numpy as np
import pytest
import torch

from convkit import problem

BUILD_DIR = Path(os.environ.get("CONVKIT_BUILD_DIR", Path(__file__).parent.parent / "build" / "release"))


def load_testing_module() -> ModuleType:
    path = BUILD_DIR / "convkit_testing.so"
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        pytest.skip("the test module needs Python.h (Debian: python3-dev)", allow_module_level=True)
    spec = importlib.util.spec_from_file_location("convkit_testing", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


testing = load_testing_module()


@pytest.fixture(params=testing.instruction_sets())
def core(request: pytest.FixtureRequest) -> Any:
    return testing.core(request.param)


def windows(count: int, seed: int = 0) -> list[tuple[int, int, int, int, int, int]]:
    """Random (length, kernel, stride, before, after, dilation) with at least one window that fits."""
    draw = random.Random(seed)
    found: list[tuple[int, int, int, int, int, int]] = []
    while len(found) < count:
        length, kernel, stride, dilation = (draw.randint(1, most) for most in (20, 6, 5, 4))
        before, after = draw.randint(0, 5), draw.randint(0, 5)
        if length + before + after >= dilation * (kernel - 1) + 1:
            found.append((length, kernel, stride, before, after, dilation))
    return found


def test_each_copy_was_compiled_for_its_instruction_set() -> None:
    facts = {name: testing.core(name) for name in testing.instruction_sets()}
    compiled = {name: (copy.avx2, copy.avx512) for name, copy in facts.items()}
    assert compiled.pop("avx512", (True, True)) == (True, True)
    assert compiled.pop("avx2", (True, False)) == (True, False)
    assert compiled == {"portable": (False, False)}


def test_an_unknown_instruction_set_is_refused() -> None:
    with pytest.raises(ValueError, match="instruction set mmx is not compiled in or does not run here"):
        testing.core("mmx")


def test_the_language_is_cxx17() -> None:
    assert testing.cxx_standard == 201703


def test_conv_output_size_agrees_with_its_python_twin(core: Any) -> None:
    for length, kernel, stride, before, after, dilation in windows(2000):
        spec = problem.ConvSpec((stride,), (before,), (after,), (dilation,))
        expected = problem.conv_output_size((length,), (kernel,), spec)[0]
        assert core.conv_output_size(length, kernel, stride, before, after, dilation) == expected


def test_conv_output_size_is_zero_where_nothing_fits(core: Any) -> None:
    assert core.conv_output_size(2, 3, 1, 0, 0, 1) == 0
    assert core.conv_output_size(4, 3, 7, 0, 0, 2) == 0


@pytest.mark.parametrize("ceil_mode", [False, True])
def test_pool_output_size_agrees_with_its_python_twin(core: Any, ceil_mode: bool) -> None:
    for length, kernel, stride, before, after, dilation in windows(2000):
        spec = problem.PoolSpec((kernel,), (stride,), (before,), (after,), (dilation,), ceil_mode)
        expected = problem.pool_output_size((length,), spec)[0]
        assert core.pool_output_size(length, kernel, stride, before, after, dilation, ceil_mode) == expected


def test_sizes_are_64_bit(core: Any) -> None:
    big = 2**40
    assert core.conv_output_size(big, 3, 1, 1, 1, 1) == big
    assert core.pool_output_size(big, 2, 2, 0, 0, 1, True) == big // 2
    assert core.tap_range(big, 3, 2, 1, 1, big // 2 - 1) == (big - 3, 0, 3)


def test_tap_range_names_the_taps_inside_the_input(core: Any) -> None:
    for length, kernel, stride, before, after, dilation in windows(300):
        for o in range(core.pool_output_size(length, kernel, stride, before, after, dilation, True)):
            start, begin, end = core.tap_range(length, kernel, stride, before, dilation, o)
            inside = [t for t in range(kernel) if 0 <= o * stride - before + t * dilation < length]
            assert start == o * stride - before
            assert list(range(begin, end)) == inside


def test_padded_taps_counts_the_taps_inside_the_padded_input(core: Any) -> None:
    for length, kernel, stride, before, after, dilation in windows(300):
        for o in range(core.pool_output_size(length, kernel, stride, before, after, dilation, True)):
            inside = [t for t in range(kernel) if o * stride - before + t * dilation < length + after]
            assert core.padded_taps(length, kernel, stride, before, after, dilation, o) == len(inside)


def test_covering_windows_spans_every_window_that_reads_an_element(core: Any) -> None:
    for length, kernel, stride, before, after, dilation in windows(300):
        out = core.pool_output_size(length, kernel, stride, before, after, dilation, True)
        for i in range(length):
            begin, end = core.covering_windows(length, kernel, stride, before, dilation, out, i)
            spans = [o for o in range(out) if 0 <= i - (o * stride - before) <= dilation * (kernel - 1)]
            assert list(range(begin, end)) == spans


@pytest.mark.parametrize(
    "kernel",
    [(1, 1, 1), (1, 15, 17), (1, 16, 16), (1, 1, 257), (1, 128, 256), (1, 181, 182), (32, 32, 32), (33, 32, 32)],
)
def test_offset_bytes_agrees_with_its_python_twin(core: Any, kernel: tuple[int, int, int]) -> None:
    assert core.offset_bytes(*kernel) == problem.offset_bytes(kernel)


@pytest.mark.parametrize(("counter", "key", "words"), loops.PHILOX_KNOWN_ANSWERS)
def test_philox_gives_its_known_answers(core: Any, counter: Any, key: Any, words: Any) -> None:
    assert core.philox(counter, key) == words


# --- 16-bit floating types -------------------------------------------------------------------------------------

ALL_16_BIT = np.arange(2**16, dtype=np.uint16)
SIXTEEN = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])


def to_float(core: Any, dtype: torch.dtype, bits: np.ndarray) -> np.ndarray:
    function = core.bfloat16_to_float if dtype == torch.bfloat16 else core.float16_to_float
    return np.frombuffer(function(bits.tobytes()), np.float32)


def from_float(core: Any, dtype: torch.dtype, values: np.ndarray) -> np.ndarray:
    function = core.float_to_bfloat16 if dtype == torch.bfloat16 else core.float_to_float16
    return np.frombuffer(function(values.astype(np.float32).tobytes()), np.uint16)


def rounding_cases(dtype: torch.dtype) -> np.ndarray:
    """Every 16-bit value as a float, the midpoint to its neighbour, one float either side of both; random bits."""
    values = torch.from_numpy(ALL_16_BIT).view(dtype).float().numpy()
    bits = values.view(np.uint32)
    step = np.uint32(2**16 if dtype == torch.bfloat16 else 2**13)
    midpoints = bits + step // 2
    drawn = np.random.default_rng(0).integers(0, 2**32, 10**6, dtype=np.uint32)
    near_subnormal = np.random.default_rng(1).uniform(-(2.0**-13), 2.0**-13, 10**6).astype(np.float32).view(np.uint32)
    sets = [bits, bits + 1, bits - 1, midpoints, midpoints + 1, midpoints - 1, drawn, near_subnormal]
    return np.concatenate([s.astype(np.uint32) for s in sets]).view(np.float32)


@SIXTEEN
def test_widening_is_exact_for_all_bit_patterns(core: Any, dtype: torch.dtype) -> None:
    expected = torch.from_numpy(ALL_16_BIT).view(dtype).float().numpy()
    got = to_float(core, dtype, ALL_16_BIT)
    nan = np.isnan(expected)
    assert np.array_equal(np.isnan(got), nan)
    assert np.array_equal(got.view(np.uint32)[~nan], expected.view(np.uint32)[~nan])


@SIXTEEN
def test_narrowing_rounds_as_torch_does(core: Any, dtype: torch.dtype) -> None:
    values = rounding_cases(dtype)
    expected = torch.from_numpy(values).to(dtype)
    got = from_float(core, dtype, values)
    nan = np.isnan(values)
    assert np.array_equal(got[~nan], expected.view(torch.uint16).numpy()[~nan])
    assert np.isnan(to_float(core, dtype, got[nan])).all()


@SIXTEEN
def test_narrowing_undoes_widening(core: Any, dtype: torch.dtype) -> None:
    wide = to_float(core, dtype, ALL_16_BIT)
    number = ~np.isnan(wide)
    assert np.array_equal(from_float(core, dtype, wide)[number], ALL_16_BIT[number])


@SIXTEEN
def test_all_instruction_sets_convert_to_the_same_bits_nan_included(dtype: torch.dtype) -> None:
    portable = testing.core("portable")
    values = rounding_cases(dtype)
    for name in testing.instruction_sets():
        other = testing.core(name)
        assert to_float(other, dtype, ALL_16_BIT).tobytes() == to_float(portable, dtype, ALL_16_BIT).tobytes()
        assert from_float(other, dtype, values).tobytes() == from_float(portable, dtype, values).tobytes()
