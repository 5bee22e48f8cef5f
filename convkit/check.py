"""``python -m convkit check``: every raw operation, on every backend, in every dtype, against the float64 oracle.

Runs the catalogue of the tests (:mod:`convkit.testing`) with contiguous and with channels-last tensors, on a machine
of the user's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch

from convkit import backends
from convkit.backends import RAW_OPS, Backend
from convkit.terminal import table
from convkit.testing.catalogue import CONVOLUTIONS, POOLS, TRANSPOSED
from convkit.testing.flat import flat_calls
from convkit.testing.norms import fused_calls
from convkit.testing.oracle import Call, conv_calls, error, mismatch, pool_calls, transposed_calls, verify

DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "int8": torch.int8,
    "int64": torch.int64,
    "complex64": torch.complex64,
}
LAYOUTS = ("contiguous", "channels_last")
PYTORCH = "aten"  # the one backend whose limits are not ours to list
Named = tuple[str, Call]


class Verdict(NamedTuple):
    """One operation on one backend in one dtype. ``worst``: error in units of the admissible one; None: not offered."""

    op: str
    backend: str
    dtype: str
    cases: int
    worst: float | None
    note: str  # the first failing case, or why the combination is not offered

    @property
    def over(self) -> bool:
        return self.worst is not None and not self.worst <= 1

    @property
    def failed(self) -> bool:
        """Whether one of convkit's own backends is wrong; PyTorch's errors are shown, and are its own."""
        return self.over and self.backend != PYTORCH


def check(
    ops: Sequence[str],
    names: Sequence[str],
    dtypes: Sequence[str],
    step: Callable[[str], None] = lambda label: None,
    every: int = 1,
) -> Iterator[Verdict]:
    """Yields a verdict per operation, backend and dtype, and tells ``step``; takes every ``every``-th case."""
    for dtype in dtypes:
        named = [pair for layout in LAYOUTS for pair in calls(DTYPES[dtype], layout)]
        for op in ops:
            chosen = [pair for pair in named if pair[1].op == op][::every]
            for name in names:
                yield check_one(op, backends.get(name), dtype, chosen)
                step(f"{op} {name} {dtype}")


def calls(dtype: torch.dtype, layout: str) -> list[Named]:
    """Every call of the catalogue in a dtype and layout, with its case's name."""
    reference = backends.get("reference")
    # PyTorch has no channels-last format for one spatial dimension, and does not pool complex numbers.
    fits = [c for c in CONVOLUTIONS if layout == "contiguous" or c.dims > 1]
    transposed = [c for c in TRANSPOSED if layout == "contiguous" or c.dims > 1]
    pools = [c for c in POOLS if (layout == "contiguous" or c.dims > 1) and not dtype.is_complex]
    found = [(c.name, call) for c in fits for call in conv_calls(c, dtype, layout)]
    found += [(c.name, call) for c in transposed for call in transposed_calls(c, dtype, layout)]
    found += [(c.name, call) for c in pools for call in pool_calls(c, dtype, reference, layout)]
    if dtype.is_floating_point:
        more = flat_calls(dtype, layout) + fused_calls(dtype, layout)
        found += [(name, call) for name, call in more if layout == "contiguous" or _dims(call) > 1]
    return [(f"{name}, {layout}", call) for name, call in found]


def _dims(call: Call) -> int:
    return next(a for a in call.arguments.values() if isinstance(a, torch.Tensor)).dim() - 2


def check_one(op: str, backend: Backend, dtype: str, named: Sequence[Named]) -> Verdict:
    """Runs calls of one operation on one backend."""
    reference = backends.get("reference")
    count, worst, note = 0, 0.0, ""
    refusal = backend.available() or backend.supports(op, DTYPES[dtype], torch.device("cpu"), None)
    if refusal is None and not named:
        refusal = f"no case in {dtype}"
    for name, call in named if refusal is None else ():
        if backend.supports(op, DTYPES[dtype], torch.device("cpu"), call.spec) is not None:
            continue
        try:
            results = list(verify(call, backend, reference))
        except RuntimeError as raised:
            if backend.name == PYTORCH:  # it lacks this, and says so
                continue
            return Verdict(op, backend.name, dtype, count, float("inf"), f"{name}: {raised}")
        count += 1
        for expected, result in results:
            here = error(result, expected)
            worst = max(worst, here)
            if here > 1 and not note:
                note = f"{name}: {mismatch(result, expected)}"
    if count == 0:
        return Verdict(op, backend.name, dtype, 0, None, refusal or "refused every case")
    return Verdict(op, backend.name, dtype, count, worst, note)


LEGEND = """\
Largest error in units of the admissible one, which is computed from the sum and the number format; = exact,
- not offered. The oracle is the reference backend in float64 (integers in int64). The aten backend is PyTorch itself,
to compare with: where it is over the bound, it rounds between the terms of a sum."""


def text(verdicts: Sequence[Verdict]) -> str:
    """A table of operation and backend by dtype, and what failed, and why."""
    dtypes = list(dict.fromkeys(v.dtype for v in verdicts))
    rows: list[list[str]] = []
    for op in (op for op in RAW_OPS if any(v.op == op for v in verdicts)):
        for name in dict.fromkeys(v.backend for v in verdicts):
            members = {v.dtype: v for v in verdicts if (v.op, v.backend) == (op, name)}
            ran = [v for v in members.values() if v.worst is not None]
            over = "over" if name == PYTORCH else "FAIL"
            verdict = over if any(v.over for v in ran) else "ok" if ran else "-"
            rows.append([op, name, *(_cell(members[d]) for d in dtypes), str(sum(v.cases for v in ran)), verdict])
    parts = [table(("operation", "backend", *dtypes, "cases", "verdict"), rows, left=(0, 1)), LEGEND]
    failures = [f"{'FAIL' if v.failed else 'over'}  {v.op} {v.backend} {v.dtype}: {v.note}" for v in verdicts if v.over]
    return "\n\n".join(parts + ["\n".join(failures)] * bool(failures))


def _cell(v: Verdict) -> str:
    if v.worst is None:
        return "-"
    return f"{v.worst:.2f}!" if v.over else "=" if v.worst == 0 else f"{v.worst:.2f}"
