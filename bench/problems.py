"""What is measured: the layers of suite.json, brought to a size that suits the machine.

The suite holds layers of named networks at the sizes that a large GPU is given. On a CPU most would take seconds, so
a row is scaled to a budget of operations and bytes: first its batch shrinks, then its longest spatial
dimension (not below 28, nor below the dilated kernel), then its channels (not below 64, or a group's). The
table shows the sizes that were run.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from convkit.problem import (
    ConvSpec,
    PoolSpec,
    conv_output_size,
    conv_transpose_output_size,
    pool_output_size,
)

SUITE = Path(__file__).with_name("suite.json")
POOLS = ("max", "avg")  # of the suite's pools, those that convkit has
FLOPS, BYTES = 2e9, 64e6  # one forward pass at scale 1
SMALLEST_SPATIAL, SMALLEST_CHANNELS = 28, 64


@dataclass(frozen=True)
class Problem:
    """One layer: ``op`` is conv, conv_transpose, max_pool or avg_pool; ``k`` counts output channels."""

    id: str
    family: str
    source: str
    op: str
    n: int
    c: int
    k: int
    spatial: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int = 1

    @property
    def dims(self) -> int:
        return len(self.spatial)

    @property
    def pools(self) -> bool:
        return self.op.endswith("pool")

    @property
    def functional(self) -> str:
        """Its name in convkit.functional and torch.nn.functional."""
        return f"{self.op}{self.dims}d"

    @cached_property
    def spec(self) -> ConvSpec | PoolSpec:
        if self.pools:
            return PoolSpec(self.kernel, self.stride, self.padding, self.padding, self.dilation)
        return ConvSpec(self.stride, self.padding, self.padding, self.dilation, self.groups)

    @cached_property
    def out(self) -> tuple[int, ...]:
        spec = self.spec
        if isinstance(spec, PoolSpec):
            return pool_output_size(self.spatial, spec)
        if self.op == "conv_transpose":
            return conv_transpose_output_size(self.spatial, self.kernel, spec, (0,) * self.dims)
        return conv_output_size(self.spatial, self.kernel, spec)

    @property
    def weight_shape(self) -> tuple[int, ...]:
        first, second = (self.c, self.k) if self.op == "conv_transpose" else (self.k, self.c)
        return (first, second // self.groups, *self.kernel)

    @property
    def flops(self) -> float:
        """Operations of one forward pass: two per multiply-add, one per pooled element."""
        if self.pools:
            return float(self.n * self.c * math.prod(self.out) * math.prod(self.kernel))
        positions = math.prod(self.spatial if self.op == "conv_transpose" else self.out)
        return 2.0 * self.n * positions * self.c * self.k / self.groups * math.prod(self.kernel)

    @property
    def bytes(self) -> float:
        """Bytes of input and output in float32."""
        return 4.0 * self.n * (self.c * math.prod(self.spatial) + self.k * math.prod(self.out))

    def __str__(self) -> str:
        def short(values: tuple[int, ...]) -> str:
            return str(values[0]) if len(set(values)) == 1 else "x".join(map(str, values))

        parts = [f"{self.n}x{self.c}x" + "x".join(map(str, self.spatial))]
        if not self.pools:
            parts.append(f"k{self.k}")
        parts.append("x".join(map(str, self.kernel)))
        parts += [
            letter + short(values)
            for letter, values, default in (
                ("s", self.stride, 1),
                ("p", self.padding, 0),
                ("d", self.dilation, 1),
                ("g", (self.groups,), 1),
            )
            if set(values) != {default}
        ]
        return " ".join(parts)


def suite() -> list[Problem]:
    """Every row of suite.json whose operation convkit has."""
    data = json.loads(SUITE.read_text())
    rows = [_convolution(row) for row in data["conv"]]
    for row in data["pool"]:
        rows += [_pooling(row, f"{kind}_pool") for kind in row["ops"] if kind in POOLS]
    return rows


def scaled(problem: Problem, scale: float) -> Problem:
    """The problem within ``scale`` times the budget (see the module's head); at most its own size."""
    flops, size = FLOPS * scale, BYTES * scale
    share = min(flops / problem.flops, size / problem.bytes, 1.0)
    problem = replace(problem, n=max(1, int(problem.n * share)))
    for step in (_less_space, _fewer_channels):
        while problem.flops > flops or problem.bytes > size:
            smaller = step(problem)
            if smaller == problem:
                break
            problem = smaller
    return problem


def select(names: list[str], scale: float) -> Iterator[Problem]:
    """The suite's rows in the named groups (a family, an operation, "conv", "pool", or an id), scaled, each once."""
    seen = set()
    for problem in suite():
        group = "pool" if problem.pools else "conv"
        if names and not {problem.family, problem.op, problem.id, f"{group}", f"{group}s"} & set(names):
            continue
        problem = scaled(problem, scale)
        key = replace(problem, id="", source="")
        if key not in seen:
            seen.add(key)
            yield problem


def _convolution(row: dict[str, Any]) -> Problem:
    sizes: dict[str, Any] = {n: tuple(row[n]) for n in ("spatial", "kernel", "stride", "padding", "dilation")}
    op = "conv_transpose" if row["transposed"] else "conv"
    names = {name: row[name] for name in ("id", "family", "source", "n", "c", "k", "groups")}
    return Problem(op=op, **names, **sizes)


def _pooling(row: dict[str, Any], op: str) -> Problem:
    sizes: dict[str, Any] = {name: tuple(row[name]) for name in ("spatial", "kernel", "stride", "padding")}
    names = {"id": f"{row['id']}-{op[:3]}", "family": op, "source": row["source"], "op": op}
    counts = {"n": row["n"], "c": row["c"], "k": row["c"]}
    return Problem(**names, **counts, **sizes, dilation=(1,) * len(row["spatial"]))


def _less_space(problem: Problem) -> Problem:
    longest = max(range(problem.dims), key=lambda i: problem.spatial[i])
    reach = problem.dilation[longest] * (problem.kernel[longest] - 1) + 1
    half = problem.spatial[longest] // 2
    if half < max(SMALLEST_SPATIAL, reach):
        return problem
    return replace(problem, spatial=tuple(half if i == longest else v for i, v in enumerate(problem.spatial)))


def _fewer_channels(problem: Problem) -> Problem:
    if problem.groups > 1 and problem.c == problem.groups:  # depthwise: fewer groups
        if problem.c // 2 < SMALLEST_CHANNELS:
            return problem
        return replace(problem, c=problem.c // 2, k=problem.k // 2, groups=problem.groups // 2)
    smallest = max(SMALLEST_CHANNELS, problem.groups)

    def fewer(channels: int) -> int:
        return channels // 2 if channels // 2 >= smallest and channels // 2 % problem.groups == 0 else channels

    return replace(problem, c=fewer(problem.c), k=fewer(problem.k))
