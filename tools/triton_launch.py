"""Measures what a call of the Triton backend costs in Python, up to the call of the launcher that Triton makes in C.

No GPU is needed: kernels are compiled for one that is not there, and what would launch them does nothing. So the C
launcher, the driver and torch's allocator for GPUs are not in the numbers; tensors are the CPU's, and small.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))

from triton_aot import AbsentGpu

from convkit.problem import ConvSpec, PoolSpec
from convkit.terminal import table


class StubGpu(AbsentGpu):
    """A driver that loads kernels and launches them without effect."""

    launches = 0

    class launcher_cls:
        def __init__(self, src: Any, metadata: Any) -> None:
            pass

        def __call__(self, *args: Any) -> None:
            StubGpu.launches += 1

    utils = SimpleNamespace(
        load_binary=lambda *args: (None, 0, 32, 0, 1024),
        unload_module=lambda module: None,
        get_device_properties=lambda device: {"max_shared_mem": 227 * 1024},
    )


def calls() -> dict[str, Callable[[], Any]]:
    """Calls of the backend whose kernels a GPU would finish in microseconds."""
    from convkit.backends.triton import operations

    x, w = torch.randn(1, 64, 8, 8), torch.randn(64, 64, 3, 3)
    same, half = ConvSpec((1, 1), (1, 1), (1, 1), (1, 1)), PoolSpec((3, 3), (2, 2), (1, 1), (1, 1), (1, 1))
    depthwise = same._replace(groups=64)
    _, offsets = operations.max_pool(x, half, True, False)
    dy = operations.avg_pool(x, half, False)
    return {
        "conv_fprop": lambda: operations.conv_fprop(x, w, None, None, None, same, False),
        "conv_dgrad": lambda: operations.conv_dgrad(x, w, None, None, None, (8, 8), same, False),
        "conv_wgrad (two kernels)": lambda: operations.conv_wgrad(x, x, (3, 3), same, False),
        "conv_fprop, depthwise": lambda: operations.conv_fprop(x, w[:, :1], None, None, None, depthwise, False),
        "max_pool": lambda: operations.max_pool(x, half, True, False),
        "pool_select_bwd": lambda: operations.pool_select_bwd(dy, offsets, (8, 8), half, False),
        "avg_pool": lambda: operations.avg_pool(x, half, False),
    }


def microseconds(call: Callable[[], Any], rounds: int) -> float:
    """The median over rounds of 100 calls, per call, of this process's own time."""
    call()
    samples = []
    for _ in range(rounds):
        started = time.process_time()
        for _ in range(100):
            call()
        samples.append((time.process_time() - started) * 1e4)
    return statistics.median(samples)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30, help="of 100 calls each, of which the median counts")
    options = parser.parse_args()
    try:
        from triton.runtime import driver
    except ImportError:
        print("triton is not installed: nothing to measure")
        return 0
    from convkit.backends.triton import launch

    torch.set_num_threads(1)
    driver.set_active(StubGpu(90))
    rows = []
    for name, call in calls().items():
        call()
        before = StubGpu.launches
        cached = microseconds(call, options.rounds)
        launch.runner = launch.anew
        anew = microseconds(call, options.rounds)
        launch.runner = launch.again
        if StubGpu.launches - before < 200 * options.rounds:
            raise RuntimeError(f"{name} did not reach the launcher")
        rows.append([name, f"{cached:.1f}", f"{anew:.1f}"])
    print(table(("operation", "cached launcher", "triton's own"), rows, left=(0,)))
    print("microseconds of Python per call, up to the launcher in C")
    return 0


if __name__ == "__main__":
    sys.exit(main())
