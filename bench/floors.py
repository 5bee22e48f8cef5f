"""The speeds that convkit promises: how many times as fast as PyTorch eager in the same layout, at least.

In float32, on two threads of an x86 processor with AVX-512, and of convolutions for forward passes; docs/performance.md
and docs/performance-epyc.md say which held where. None is promised on a GPU.
"""

from __future__ import annotations

from bench import fused
from bench.pools import PoolRow
from bench.problems import Row

# Of convolutions, by family.
CONVS = {"dense": 0.6, "batch1": 0.6, "depthwise": 1.0}

# Of poolings, by family, pass and layout.
POOLS: dict[str, dict[tuple[str, str], float]] = {
    "max_pool": {("forward+backward", "nchw"): 3.0},
    "lp_pool": {(p, layout): 3.0 for p in ("forward", "forward+backward") for layout in ("nchw", "nhwc")},
    "adaptive_avg_pool": {("forward", "nchw"): 1.5},
    "adaptive_max_pool": {("forward", "nchw"): 1.5},
}


def floor(problem: Row, pass_: str, layout: str) -> float | None:
    """The least speed ratio promised for a row, or None."""
    if isinstance(problem, fused.FusedRow):
        return fused.floor(problem, pass_)
    if not isinstance(problem, PoolRow):
        return CONVS.get(problem.family) if pass_ == "forward" else None
    if (pass_, layout) == ("forward", "nchw"):
        if problem.op == "max_pool2d" and problem.arguments["stride"] in (2, (2, 2)) and problem.kernel == (3, 3):
            return 4.0
        if problem.op == "avg_pool2d":
            return 2.0
    if problem.family == "lp_pool" and problem.arguments["norm_type"] != 2:
        return None
    return POOLS.get(problem.family, {}).get((pass_, layout))
