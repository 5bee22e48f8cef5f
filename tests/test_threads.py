"""The same bits for any number of threads, calls from several threads at once, and calls in a forked child."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from convkit import backends
from convkit.backends.base import Backend
from convkit.testing.cases import ConvCase, PoolCase
from convkit.testing.catalogue import CONVOLUTIONS, POOLS, TRANSPOSED
from convkit.testing.flat import INDICES, FractionalCase, IndexCase, flat_calls, fractional_calls, index_calls
from convkit.testing.norms import NormCase, fused_calls, norm_calls, stats_calls
from convkit.testing.oracle import Call, conv_calls, mismatch, pool_calls, transposed_calls, verify

ROOT = Path(__file__).parent.parent
LARGE = (
    ConvCase("dense", "several blocks of rows, channels and positions", (3, 40, 30, 31), (70, 40, 3, 3), 1, 1),
    ConvCase("dense_strided", "the same with stride", (3, 24, 31, 30), (40, 24, 5, 5), 2, 2),
    ConvCase("pointwise", "a plain matrix product", (2, 96, 20, 21), (130, 96, 1, 1)),
    ConvCase("depthwise", "many planes", (2, 65, 28, 29), (65, 1, 3, 3), 1, 1, groups=65),
    ConvCase("one_image_1d", "one long row: bands of one plane", (1, 8, 20000), (8, 8, 5), 1, 2),
)

NORM = NormCase("large_norm", "several tasks and shares in each layout", (5, 70, 33, 37), "relu", True)


@pytest.fixture(autouse=True)
def keep_thread_count() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def small_calls(reference: Backend) -> list[Call]:
    calls = [c for case in CONVOLUTIONS for c in conv_calls(case, torch.float32)]
    calls += [c for case in TRANSPOSED for c in transposed_calls(case, torch.float32)]
    calls += [c for case in POOLS for c in pool_calls(case, torch.float32, reference)]
    return calls + [c for _, c in flat_calls(torch.float32) + fused_calls(torch.float32)]


def large_calls(reference: Backend) -> list[Call]:
    calls = [c for case in LARGE for c in conv_calls(case, torch.float32)]
    calls += [c for case in LARGE for c in conv_calls(case, torch.bfloat16, "channels_last")]
    big = PoolCase("large", "many planes and rows", (4, 33, 40, 41), 3, 2, 1)
    calls += pool_calls(big, torch.float32, reference) + pool_calls(big, torch.bfloat16, reference, "channels_last")
    repeated = IndexCase("repeated", "many planes, every place named about twice", (3, 40, 60, 50), (40, 41), "random")
    one_image = IndexCase("one_image", "one image, in pieces", (1, 33, 90, 80), (120, 100), "random")
    windows = FractionalCase("windows", "many planes and rows", (3, 40, 50, 51), (2, 3), (35, 30))
    for dtype, layout in (
        (torch.float32, "contiguous"),
        (torch.bfloat16, "contiguous"),
        (torch.float32, "channels_last"),
    ):
        calls += [c for case in (repeated, one_image) for c in index_calls(case, dtype, layout)]
        calls += fractional_calls(windows, dtype, layout)
        calls += norm_calls(NORM, dtype, layout) + [c for case in LARGE for c in stats_calls(case, dtype, layout)]
    return calls


def bits(result: Tensor) -> bytes:
    return result.flatten().contiguous().view(torch.uint8).numpy().tobytes() if result.numel() else b""


@pytest.mark.parametrize(("calls", "counts"), [(small_calls, (3,)), (large_calls, (2, 3, 5))])
def test_same_bits_for_any_number_of_threads(calls: Any, counts: tuple[int, ...], reference: Backend) -> None:
    native = backends.get("native")
    for call in calls(reference):
        torch.set_num_threads(1)
        once = [bits(r) for r in call.run(native)]
        assert [bits(r) for r in call.run(native)] == once, f"{call.op} twice: {call.spec}"
        for threads in counts:
            torch.set_num_threads(threads)
            assert [bits(r) for r in call.run(native)] == once, f"{call.op} with {threads} threads: {call.spec}"


def test_deterministic_mode_changes_nothing(reference: Backend) -> None:
    native = backends.get("native")
    calls = [c for case in LARGE for c in conv_calls(case, torch.float32)]
    calls += [c for case in POOLS if "global" in case.name for c in pool_calls(case, torch.float32, reference)]
    calls += [c for case in INDICES for c in index_calls(case, torch.float32)]
    for call in calls:
        once = [bits(r) for r in call.run(native)]
        torch.use_deterministic_algorithms(True)
        try:
            assert [bits(r) for r in call.run(native)] == once
        finally:
            torch.use_deterministic_algorithms(False)


def test_calls_from_several_threads_at_once(reference: Backend) -> None:
    """Scratch memory belongs to a thread: results do not mix."""
    native = backends.get("native")
    torch.set_num_threads(2)
    calls = [c for case in LARGE for c in conv_calls(case, torch.float32)]
    expected = [[bits(r) for r in call.run(native)] for call in calls]
    wrong: list[str] = []

    def work(first: int) -> None:
        for i in range(len(calls)):
            call = calls[(first + i) % len(calls)]
            if [bits(r) for r in call.run(native)] != expected[(first + i) % len(calls)]:
                wrong.append(call.op)

    workers = [threading.Thread(target=work, args=(5 * i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []


def compute_in_child(call: Call, results: Any) -> None:
    results.put([bits(r) for r in call.run(backends.get("native"))])


def run_after_fork() -> None:
    """Uses threads, forks, and computes the same in the child; run in a process of its own."""
    native = backends.get("native")
    torch.set_num_threads(3)
    call = conv_calls(LARGE[0], torch.float32)[0]
    expected = [bits(r) for r in call.run(native)]
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    child = context.Process(target=compute_in_child, args=(call, results))
    child.start()
    assert results.get(timeout=60) == expected
    child.join(60)
    assert child.exitcode == 0
    pid = os.fork()
    if pid == 0:
        os._exit(0 if [bits(r) for r in call.run(native)] == expected else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert [bits(r) for r in call.run(native)] == expected  # the parent goes on with its threads


def count_threads() -> None:
    """More threads appear when torch allows more, and none where it allows one; run in a process of its own."""
    native = backends.get("native")
    call = conv_calls(LARGE[0], torch.float32)[0]

    def tasks() -> int:
        return len(os.listdir("/proc/self/task"))

    torch.set_num_threads(1)
    before = tasks()
    call.run(native)
    assert tasks() == before
    torch.set_num_threads(4)
    call.run(native)
    assert tasks() == before + 3


@pytest.mark.parametrize("function", ["run_after_fork", "count_threads"])
def test_in_a_process_of_its_own(function: str) -> None:
    program = f"import sys; sys.path[:0] = ['tests']; import test_threads; test_threads.{function}()"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # so that importing starts no threads
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("case", LARGE, ids=lambda c: c.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_large_cases_are_right_with_threads(case: ConvCase, dtype: torch.dtype, reference: Backend) -> None:
    torch.set_num_threads(3)
    for call in conv_calls(case, dtype):
        for expected, result in verify(call, backends.get("native"), reference):
            assert mismatch(result, expected) is None, f"{call.op}: {mismatch(result, expected)}"
