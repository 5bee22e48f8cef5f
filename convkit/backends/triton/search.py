"""Running a kernel in the tile or block that won on this device, and looking for it where that is asked for.

Nobody is made to wait: kernels run in the winner of their shape class where one is known, else in what the tables of
``tiles`` say. Only inside :func:`searching` are candidates measured, one class at a time, when it is first met.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from statistics import median
from typing import Any

import torch
from triton.runtime.errors import OutOfResources, PTXASError

from convkit.backends import tuned
from convkit.backends.triton import tiles
from convkit.backends.triton.tiles import Shape

Run = Callable[[], Any]
#: Seconds that a call takes.
Timer = Callable[[Run], float]

# Of the process: a backward pass calls from a thread of its own.
_timer: Timer | None = None
_found: dict[torch.device, tuned.Winners] = {}


@contextmanager
def searching(timer: Timer) -> Iterator[dict[torch.device, tuned.Winners]]:
    """Within it every shape class without a winner gets one; gives what was found, by device."""
    global _timer
    if _timer is not None:
        raise RuntimeError("a search is going on already")
    _timer = timer
    _found.clear()
    try:
        yield _found
    finally:
        _timer = None


def gpu_seconds(run: Run) -> float:
    """The median time of a call on the current GPU, whose caches are filled with something else before each."""
    other = torch.empty(256 << 20, dtype=torch.int8, device="cuda")
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    samples: list[float] = []
    run()
    while len(samples) < 5 or (len(samples) < 40 and sum(samples) < 0.02):
        other.zero_()
        start.record()
        run()
        end.record()
        end.synchronize()
        samples.append(start.elapsed_time(end) / 1e3)
    return median(samples)


def _search(run: Callable[[Shape], None], default: Shape, candidates: Iterable[Shape], timer: Timer) -> Shape:
    """The fastest of the candidates; one that does not fit the GPU is none."""
    best, least = default, float("inf")
    several: list[Shape] = [default]
    several += [c for c in candidates if c != default]
    for candidate in several:
        try:
            seconds = timer(partial(run, candidate))
        except (OutOfResources, PTXASError):
            continue
        if seconds < least:
            best, least = candidate, seconds
    return best


def in_best(
    run: Callable[[Shape], None],
    device: torch.device,
    problem: Callable[[], str],
    default: Shape,
    candidates: Callable[[], Iterable[Shape]],
) -> None:
    """Runs ``run`` in the winner of the class that ``problem`` names, else in ``default``."""
    forced = tiles.fixed(default)
    if forced is not None:
        run(forced)
        return
    known = tuned.winners(device).tiles
    if not known and _timer is None:
        run(default)
        return
    key = problem()
    found = known.get(key) or (_found[device].tiles.get(key) if device in _found else None)
    if found is not None:
        run(type(default)(*found))
    elif _timer is None:
        run(default)
    else:
        best = _search(run, default, candidates(), _timer)
        _found.setdefault(device, tuned.Winners()).tiles[key] = tuple(best)
        run(best)
