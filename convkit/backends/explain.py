"""What was chosen and why: a call run once, with every choice of a backend written down."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from convkit.backends import preference, selection
from convkit.backends.base import RAW_OPS, Backend
from convkit.backends.layout import is_channels_last, result_strides
from convkit.backends.selection import AUTOMATIC, Request, Spec, get, names, refusal, request
from convkit.problem import ConvSpec, conv_output_size, conv_transpose_output_size


@dataclass(frozen=True)
class Choice:
    """One operation: which backend runs it with which algorithms, and what every other backend says."""

    op: str
    tensors: str
    request: str  # how an explicit choice was made, or "automatic"
    backend: str | None  # None: nothing can run it
    algorithms: dict[str, str]  # raw operation -> algorithm, where the backend has several
    verdicts: dict[str, str]  # every backend's answer

    def __str__(self) -> str:
        lines = [f"{self.op} {self.tensors} ({self.request})"]
        lines += [f"  {name:<10} {verdict}" for name, verdict in self.verdicts.items()]
        return "\n".join(lines)


@dataclass(frozen=True)
class Explanation:
    """The choices of a call, in order; print it."""

    choices: tuple[Choice, ...]

    def __str__(self) -> str:
        return "\n".join(map(str, self.choices)) or "no operation of convkit was called"


def _describe(x: Tensor, w: Tensor | None) -> str:
    sizes = " * ".join(str(tuple(t.shape)) for t in (x, w) if t is not None)
    layout = " channels_last" if is_channels_last(x) or (w is not None and is_channels_last(w)) else ""
    return f"{str(x.dtype).removeprefix('torch.')} {x.device} {sizes}{layout}"


def _empty(like: Tensor, size: tuple[int, ...], channels_last: bool) -> Tensor:
    return like.new_empty_strided(size, result_strides(size, channels_last))


def _algorithms(backend: Backend, op: str, x: Tensor, w: Tensor, spec: ConvSpec) -> dict[str, str]:
    """The algorithms of a (transposed) convolution and of both its gradients; x is the operation's input."""
    kernel = tuple(w.shape[2:])
    x_last, w_last = is_channels_last(x), is_channels_last(w)
    result_last = x_last or w_last
    forward = op != "conv_dgrad"
    if forward:
        source, size = x, tuple(x.shape[2:])
        out = conv_output_size(size, kernel, spec)
        target = _empty(x, (x.shape[0], w.shape[0], *out), result_last)
    else:  # the least output size stands for all that lead to x's size
        least = conv_transpose_output_size(tuple(x.shape[2:]), kernel, spec, (0,) * len(kernel))
        size = tuple(max(n, 1) for n in least)
        source, target = _empty(x, (x.shape[0], w.shape[1] * spec.groups, *size), result_last), x
    calls = {
        "conv_fprop": (source, w, (), result_last if forward else x_last),
        "conv_dgrad": (target, w, size, x_last if forward else result_last),
        "conv_wgrad": (target, source, kernel, w_last),
    }
    planned = {name: backend.plan(name, a, b, sizes, spec, last) for name, (a, b, sizes, last) in calls.items()}
    return {name: algorithm for name, algorithm in planned.items() if algorithm is not None}


def _explain_one(
    op: str,
    dtype: torch.dtype,
    device: torch.device,
    spec: Any,
    chosen: Request | None,
    x: Tensor | None = None,
    w: Tensor | None = None,
) -> Choice:
    reasons = {name: refusal(get(name), op, dtype, device, spec) for name in names()}
    if chosen is not None:
        get(chosen.name)  # an unknown name is an error here too
        winner = chosen.name if reasons[chosen.name] is None else None
    else:
        winner = next((name for name in AUTOMATIC if reasons[name] is None), None)
        if x is not None:
            better = preference.fastest(op, x, w, spec)
            winner = better if better is not None and reasons[better] is None else winner
    measured = {} if x is None else preference.measured(op, x, w, spec)
    algorithms: dict[str, str] = {}
    if winner is not None and x is not None and w is not None and device.type in ("cpu", "cuda"):
        named = selection.with_algorithm(get(winner), spec, chosen)
        algorithms = _algorithms(get(winner), op, x, w, named)
        if named.algorithm and op.removesuffix("_stats") not in algorithms:
            reasons[winner] = f"algorithm {get(winner).algorithms()[named.algorithm - 1]!r} refuses"
            winner = None
    verdicts = {}
    for name, reason in reasons.items():
        if name == winner:
            listed = ", ".join(f"{raw} by {algorithm}" for raw, algorithm in algorithms.items())
            verdicts[name] = f"runs: {listed}" if listed else "runs"
        elif reason is not None:
            verdicts[name] = f"cannot run: {reason}"
        else:
            verdicts[name] = "could run" if name in AUTOMATIC or name in measured else "could run, only when named"
        if name in measured:
            verdicts[name] += f"; measured here: {measured[name] * 1e6:.1f} us, forwards and backwards"
    described = f"{str(dtype).removeprefix('torch.')} {device}" if x is None else _describe(x, w)
    source = "automatic" if chosen is None else chosen.source
    return Choice(op, described, source, winner, algorithms, verdicts)


def explain(
    what: str | Callable[..., Any],
    *args: Any,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    spec: Spec | None = None,
    **kwargs: Any,
) -> Explanation:
    """Says which backend runs an operation, with which algorithm, and why each other backend does not.

    ``explain(module_or_function, *args, **kwargs)`` calls it once without gradients and lists all operations of
    convkit that it reaches, a whole model's too. ``explain("conv_fprop", dtype=..., device=..., spec=...)``
    answers for one raw operation without running anything. The choice by context or environment is respected.

    Raises:
        ValueError: ``what`` is a string that names no raw operation.
    """
    if isinstance(what, str):
        if what not in RAW_OPS:
            raise ValueError(f"unknown operation {what!r}: must be one of {', '.join(RAW_OPS)}")
        return Explanation((_explain_one(what, dtype, torch.device(device), spec, request()),))
    choices: list[Choice] = []

    def listen(op: str, x: Tensor, w: Tensor | None, spec: Any, chosen: Request | None) -> None:
        choices.append(_explain_one(op, x.dtype, x.device, spec, chosen, x, w))

    token = selection.listen(listen)
    try:
        with torch.no_grad():
            what(*args, **kwargs)
    except RuntimeError:
        if not choices or choices[-1].backend is not None:  # not the refusal that is being explained
            raise
    finally:
        selection.unlisten(token)
    return Explanation(tuple(choices))
