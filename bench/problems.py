"""What is measured: the layers of suite.json, brought to a size that suits the machine.

The suite holds layers of named networks at the sizes that a large GPU is given. On a CPU most would take seconds, so
a row is scaled to a budget of operations and bytes: first its batch shrinks, then its longest spatial
dimension (not below 28, nor below the dilated kernel), then its channels (not below 64, or a group's). The
table shows the sizes that were run. Convolutions are described here, pools in ``bench/pools.py``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from bench import pools
from bench.pools import SMALLEST_CHANNELS, SMALLEST_SPATIAL, PoolRow
from convkit.problem import ConvSpec, conv_output_size, conv_transpose_output_size

SUITE = Path(__file__).with_name("suite.json")
FLOPS, BYTES = 2e9, 64e6  # one forward pass at scale 1


@dataclass(frozen=True)
class Problem:
    """One convolution: ``op`` is conv or conv_transpose; ``k`` counts output channels."""

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
    def functional(self) -> str:
        """Its name in convkit.functional and torch.nn.functional."""
        return f"{self.op}{self.dims}d"

    @cached_property
    def spec(self) -> ConvSpec:
        return ConvSpec(self.stride, self.padding, self.padding, self.dilation, self.groups)

    @cached_property
    def out(self) -> tuple[int, ...]:
        if self.op == "conv_transpose":
            return conv_transpose_output_size(self.spatial, self.kernel, self.spec, (0,) * self.dims)
        return conv_output_size(self.spatial, self.kernel, self.spec)

    @property
    def weight_shape(self) -> tuple[int, ...]:
        first, second = (self.c, self.k) if self.op == "conv_transpose" else (self.k, self.c)
        return (first, second // self.groups, *self.kernel)

    @property
    def flops(self) -> float:
        """Operations of one forward pass: two per multiply-add."""
        positions = math.prod(self.spatial if self.op == "conv_transpose" else self.out)
        return 2.0 * self.n * positions * self.c * self.k / self.groups * math.prod(self.kernel)

    @property
    def bytes(self) -> float:
        """Bytes of input and output in float32."""
        return 4.0 * self.n * (self.c * math.prod(self.spatial) + self.k * math.prod(self.out))

    def of_batch(self, share: float) -> Problem:
        return replace(self, n=max(1, int(self.n * share)))

    def less_space(self) -> Problem:
        longest = max(range(self.dims), key=lambda i: self.spatial[i])
        reach = self.dilation[longest] * (self.kernel[longest] - 1) + 1
        half = self.spatial[longest] // 2
        if half < max(SMALLEST_SPATIAL, reach):
            return self
        return replace(self, spatial=tuple(half if i == longest else v for i, v in enumerate(self.spatial)))

    def fewer_channels(self) -> Problem:
        if self.groups > 1 and self.c == self.groups:  # depthwise: fewer groups
            if self.c // 2 < SMALLEST_CHANNELS:
                return self
            return replace(self, c=self.c // 2, k=self.k // 2, groups=self.groups // 2)
        smallest = max(SMALLEST_CHANNELS, self.groups)

        def fewer(channels: int) -> int:
            return channels // 2 if channels // 2 >= smallest and channels // 2 % self.groups == 0 else channels

        return replace(self, c=fewer(self.c), k=fewer(self.k))

    def __str__(self) -> str:
        def short(values: tuple[int, ...]) -> str:
            return str(values[0]) if len(set(values)) == 1 else "x".join(map(str, values))

        parts = [f"{self.n}x{self.c}x" + "x".join(map(str, self.spatial))]
        parts += [f"k{self.k}", "x".join(map(str, self.kernel))]
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


Row = Problem | PoolRow


def suite() -> list[Row]:
    """Every row of suite.json whose operation convkit has, and those of ``bench/pools.py``."""
    data = json.loads(SUITE.read_text())
    rows: list[Row] = [_convolution(row) for row in data["conv"]]
    for row in data["pool"]:
        rows += [pools.suite_row(row, kind) for kind in row["ops"] if kind in pools.KINDS]
    rows += pools.ROWS
    families = list(dict.fromkeys(row.family for row in rows))
    return sorted(rows, key=lambda row: families.index(row.family))


def scaled(problem: Row, scale: float) -> Row:
    """The problem within ``scale`` times the budget (see the module's head); at most its own size."""
    flops, size = FLOPS * scale, BYTES * scale
    problem = problem.of_batch(min(flops / problem.flops, size / problem.bytes, 1.0))
    for step in ("less_space", "fewer_channels"):
        while problem.flops > flops or problem.bytes > size:
            smaller = getattr(problem, step)()
            if smaller == problem:
                break
            problem = smaller
    return problem


def select(names: list[str], scale: float) -> Iterator[Row]:
    """The suite's rows in the named groups (a family, "conv", "pool", or an id), scaled, each once."""
    seen = set()
    for problem in suite():
        group = "pool" if isinstance(problem, PoolRow) else "conv"
        if names and not {problem.family, problem.op, problem.id, f"{group}", f"{group}s"} & set(names):
            continue
        problem = scaled(problem, scale)
        key = (problem.op, problem.family, str(problem))
        if key not in seen:
            seen.add(key)
            yield problem


def _convolution(row: dict[str, Any]) -> Problem:
    sizes: dict[str, Any] = {n: tuple(row[n]) for n in ("spatial", "kernel", "stride", "padding", "dilation")}
    op = "conv_transpose" if row["transposed"] else "conv"
    names = {name: row[name] for name in ("id", "family", "source", "n", "c", "k", "groups")}
    return Problem(op=op, **names, **sizes)
