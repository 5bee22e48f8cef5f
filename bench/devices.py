"""The device that a benchmark runs on: how many copies of its inputs rotate, and what measures a call.

On a processor calls are timed by its clock, one by one. On a GPU a sample is the replay of a graph that holds one call
per copy of the inputs, between two events: it is free of Python's time, which would hide that of short kernels. Where
one candidate of a row cannot be captured, none is, and all are launched as usual.
"""

from __future__ import annotations

import gc
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch

from bench import machine
from convkit.timing import Timing, interleaved, summary

Name = TypeVar("Name")
Calls = Sequence[Callable[[], object]]


class Processor:
    """The CPU."""

    torch = torch.device("cpu")
    default_scale = 1.0
    # Inputs rotate through copies, so that no one finds them in its cache. Every candidate has copies of its own: of
    # two that read the same one in turn, the second would find what the first has brought into the cache.
    rotated_bytes, most_copies = 64e6, 8

    def copies(self, size: float) -> int:
        """How many copies of inputs and outputs of ``size`` bytes leave nothing of each other in the cache."""
        return int(min(self.most_copies, max(2, -(-self.rotated_bytes // size))))

    def times(self, candidates: Mapping[Name, Calls], seconds: float) -> dict[Name, Timing]:
        """Times candidates in turn; each is one call per copy of its inputs."""
        return interleaved({name: rotate(calls) for name, calls in candidates.items()}, seconds)

    def describe(self) -> dict[str, Any]:
        return dict(machine.describe())

    def describe_end(self) -> dict[str, Any]:
        """What has changed since ``describe``."""
        return {}

    def ceilings(self, dtype: torch.dtype) -> dict[str, float]:
        """The rates that bound every kernel, measured; {}: not measured."""
        return {}

    def tidy(self) -> None:
        """Between two rows: nothing of one is left to the next."""


class Gpu(Processor):
    """The current CUDA device."""

    torch = torch.device("cuda")
    default_scale = float("inf")  # the suite's own sizes
    most_copies = 64

    def __init__(self, tf32: bool) -> None:
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
        self.tf32 = tf32
        self.rotated_bytes = 3.0 * torch.cuda.get_device_properties(self.torch).L2_cache_size

    def times(self, candidates: Mapping[Name, Calls], seconds: float) -> dict[Name, Timing]:
        runs = {name: captured(calls) for name, calls in candidates.items()}
        if any(run is None for run in runs.values()):
            runs = {name: in_order(calls) for name, calls in candidates.items()}
        counts = {name: len(calls) for name, calls in candidates.items()}
        return sampled({name: (run, counts[name]) for name, run in runs.items() if run is not None}, seconds)

    def describe(self) -> dict[str, Any]:
        return super().describe() | {
            "gpu": torch.cuda.get_device_name(self.torch),
            "cuda": torch.version.cuda or "",
            "cudnn": torch.backends.cudnn.version() or 0,
            "tf32": "on" if self.tf32 else "off",
            "clock before": clocks(),
        }

    def describe_end(self) -> dict[str, Any]:
        return {"clock after": clocks()}

    def tidy(self) -> None:
        gc.collect()  # graphs, whose memory is their own
        torch.cuda.empty_cache()

    def ceilings(self, dtype: torch.dtype) -> dict[str, float]:
        """Bytes per second of a copy (read and written) and operations per second of a matrix product, random data."""
        words = torch.randn(2**28, device=self.torch)
        target = torch.empty_like(words)
        a, b = (torch.randn(8192, 8192, device=self.torch).to(dtype) for _ in range(2))
        found = self.times({"copy": [lambda: target.copy_(words)], "product": [lambda: a @ b]}, 0.3)
        return {
            "bytes_per_second": 2 * words.numel() * words.element_size() / found["copy"].median,
            "flops_per_second": 2 * 8192.0**3 / found["product"].median,
        }


def rotate(calls: Calls) -> Callable[[int], object]:
    return lambda i: calls[i % len(calls)]()


def in_order(calls: Calls) -> Callable[[], object]:
    def run() -> None:
        for call in calls:
            call()

    return run


def captured(calls: Calls) -> Callable[[], object] | None:
    """What replays the calls as one graph; None where they cannot be captured (because they wait for the GPU)."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(2):  # loads kernels, and lets cuDNN choose its algorithms
            in_order(calls)()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            in_order(calls)()
    except RuntimeError:
        torch.cuda.synchronize()
        return None
    return graph.replay


def sampled(
    runs: Mapping[Name, tuple[Callable[[], object], int]],
    seconds: float,
    min_rounds: int = 7,
    max_rounds: int = 60,
    sample: float = 1e-3,
) -> dict[Name, Timing]:
    """Seconds per call of functions that make so many calls each, in turn, by a GPU's events.

    A sample repeats its function until it takes ``sample`` seconds: events are exact to half a microsecond.
    """
    repeats = {name: max(1, int(sample / max(elapsed(run, 1), 1e-6))) for name, (run, _) in runs.items()}
    spent = sum(elapsed(run, repeats[name]) for name, (run, _) in runs.items())
    rounds = max(min_rounds, min(max_rounds, int(seconds * len(runs) / max(spent, 1e-9))))
    samples: dict[Name, list[float]] = {name: [] for name in runs}
    names = list(runs)
    for i in range(rounds):
        first = i % len(names)
        for name in names[first:] + names[:first]:
            run, calls = runs[name]
            samples[name].append(elapsed(run, repeats[name]) / (repeats[name] * calls))
    return {name: summary(values) for name, values in samples.items()}


def elapsed(run: Callable[[], object], repeats: int) -> float:
    """Seconds that a GPU takes for what a function launches, so many times."""
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    for _ in range(repeats):
        run()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) * 1e-3


def clocks() -> str:
    """The clock of the multiprocessors now and at most, as the driver reports it; "" where it does not."""
    query = ["nvidia-smi", "--query-gpu=clocks.sm,clocks.max.sm", "--format=csv,noheader"]
    try:
        shown = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
    return " of at most ".join(part.strip() for part in shown.splitlines()[0].split(","))


def choose(name: str, tf32: bool) -> Processor:
    return Gpu(tf32) if name == "cuda" else Processor()
