"""``convkit.tune``: measures what a call runs on this device, and keeps the winners for the automatic choice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from convkit.backends import preference, selection, tuned
from convkit.backends.base import RAW_OPS, Backend
from convkit.backends.triton import machine
from convkit.problem import ConvSpec, PoolSpec

CANDIDATES = ("native", "triton")
Timer = Callable[[Callable[[], Any]], float]


@dataclass(frozen=True)
class Tuning:
    """What :func:`tune` found; print it."""

    seconds: dict[str, dict[str, float]]  # class of problem -> backend -> seconds of one call and its derivatives
    tiles: dict[str, tuple[int, ...]]  # shape class of a Triton kernel -> the winner's fields
    files: tuple[Path, ...]
    refusals: dict[str, str] = field(default_factory=dict)  # class of problem -> why a backend was not measured

    def __str__(self) -> str:
        lines = []
        for problem, times in self.seconds.items():
            shown = ", ".join(f"{name} {s * 1e6:.1f} us" for name, s in sorted(times.items(), key=lambda t: t[1]))
            lines.append(f"{problem}: {shown}")
        lines += [f"{problem}: {' '.join(map(str, fields))}" for problem, fields in self.tiles.items()]
        lines += [f"{problem}: {reason}" for problem, reason in self.refusals.items()]
        lines += [f"kept in {path}" for path in self.files]
        return "\n".join(lines) or "nothing to measure: no operation of convkit was called with tensors of a GPU"


class Measured(Backend):
    """A choice that is being made: runs each raw operation on every candidate and adds up their times."""

    name = "measured"

    def __init__(self, timer: Timer) -> None:
        self.seconds = dict.fromkeys(CANDIDATES, 0.0)
        self.refusals: dict[str, str] = {}
        self._timer = timer

    def supports(self, op: str, dtype: torch.dtype, device: torch.device, spec: ConvSpec | PoolSpec | None) -> None:
        return None

    def __getattribute__(self, name: str) -> Any:
        if name not in RAW_OPS:
            return super().__getattribute__(name)
        return partial(self._run, name)

    def _run(self, op: str, *args: Any, **kwargs: Any) -> Any:
        values = (*args, *kwargs.values())
        first = next(a for a in values if isinstance(a, Tensor))
        spec = next((a for a in values if isinstance(a, (ConvSpec, PoolSpec))), None)
        result = None
        for name in CANDIDATES:
            implementation = selection.get(name)
            reason = selection.refusal(implementation, op, first.dtype, first.device, spec)
            if reason is not None:
                self.refusals[name] = f"{name} is not measured: {op}: {reason}"
                self.seconds.pop(name, None)
                continue
            run = partial(getattr(implementation, op), *args, **kwargs)
            result = run() if result is None else result
            if name in self.seconds:
                self.seconds[name] += self._timer(run)
        if result is None:  # nobody computes it: the reasons
            run = partial(selection.resolve, op, first.dtype, first.device, spec)
            result = getattr(run(), op)(*args, **kwargs)
        return result


def tune(function: Callable[..., Any], *args: Any, timer: Timer | None = None, **kwargs: Any) -> Tuning:
    """Runs ``function(*args, **kwargs)`` once and measures all that it runs on a GPU, forwards and backwards.

    Every operation of convkit whose backend is chosen automatically is timed in ``native`` and ``triton``, and every
    Triton kernel in the tiles that its shape class can have. The winners are kept in a file of the device
    (``CONVKIT_TUNING`` names its folder), which later calls and processes read: they do not search again. Problems
    belong to one class whose sizes are equal up to powers of two. Give it a training step, or a layer and an input;
    a step takes seconds to minutes this way. What the function returns is dropped.

    Args:
        timer: seconds that a call takes, given as a function of no arguments; by default the median of CUDA events
            with cold caches.

    Raises:
        RuntimeError: there is no GPU that Triton kernels run on, or a search is going on already.

    Example::

        def step():
            model(x).sum().backward()

        print(convkit.tune(step))
    """
    reason = machine.obstacle()
    if reason is not None:
        raise RuntimeError(f"convkit.tune has nothing to measure: {reason}")
    from convkit.backends.triton import search

    timer = timer or search.gpu_seconds
    choices: list[tuple[str, torch.device, Measured]] = []

    def measure(op: str, x: Tensor, w: Tensor | None, spec: Any) -> Backend | None:
        problem = preference.problem_of(op, x, w, spec)
        known = any(problem == p and x.device == d for p, d, _ in choices)
        if x.device.type != machine.device_type() or known or problem in tuned.winners(x.device).seconds:
            return None
        measured = Measured(timer)
        choices.append((problem, x.device, measured))
        return measured

    with search.searching(timer) as found, selection.substituted(measure):
        function(*args, **kwargs)
    everything: dict[torch.device, tuned.Winners] = dict(found)
    refusals = {}
    for problem, device, measured in choices:
        if len(measured.seconds) > 1:
            everything.setdefault(device, tuned.Winners()).seconds[problem] = measured.seconds
        if measured.refusals:
            refusals[problem] = "; ".join(measured.refusals.values())
    files = [tuned.keep(device, winners) for device, winners in everything.items()]
    return Tuning(
        {p: s for winners in everything.values() for p, s in winners.seconds.items()},
        {p: t for winners in everything.values() for p, t in winners.tiles.items()},
        tuple(path for path in files if path is not None),
        refusals,
    )
