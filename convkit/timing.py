"""Comparing the speed of several implementations in one process.

All candidates run in turn, round after round, so that a change of clock speed or a busy neighbour meets them
all; each round starts with another candidate. A candidate is called with the round's number, by which it
can choose among several copies of its input (inputs that stay in cache would flatter everyone).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar

Name = TypeVar("Name")


class Timing(NamedTuple):
    """Seconds per call: median and the 20th and 80th percentile of ``runs`` calls."""

    median: float
    p20: float
    p80: float
    runs: int


def interleaved(
    candidates: Mapping[Name, Callable[[int], object]],
    seconds: float = 0.5,
    min_rounds: int = 7,
    max_rounds: int = 60,
    warm_up: int = 2,
) -> dict[Name, Timing]:
    """Times each candidate, in at most about ``seconds`` per candidate once ``min_rounds`` are done."""
    names = list(candidates)
    for i in range(warm_up):
        started = time.perf_counter()
        for name in names:
            candidates[name](i)
        round_time = time.perf_counter() - started
    budget = seconds * len(names)
    rounds = max(min_rounds, min(max_rounds, int(budget / max(round_time, 1e-9))))
    samples: dict[Name, list[float]] = {name: [] for name in names}
    for i in range(rounds):
        first = i % len(names)
        for name in names[first:] + names[:first]:
            started = time.perf_counter()
            candidates[name](i)
            samples[name].append(time.perf_counter() - started)
    return {name: summary(values) for name, values in samples.items()}


def summary(values: list[float]) -> Timing:
    """The timing that samples of seconds per call amount to."""
    ordered = sorted(values)

    def at(fraction: float) -> float:
        return ordered[round(fraction * (len(ordered) - 1))]

    return Timing(at(0.5), at(0.2), at(0.8), len(ordered))
