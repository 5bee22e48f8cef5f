"""The speeds that convkit promises: how many times as fast as PyTorch eager in the same layout, at least.

They hold for forward passes in float32 on two threads of an x86 processor.
"""

from __future__ import annotations

from bench.problems import Problem


def floor(problem: Problem, pass_: str, layout: str) -> float | None:
    """The least speed ratio promised for a row, or None."""
    if pass_ != "forward":
        return None
    if problem.op == "max_pool" and problem.kernel == (3, 3) and problem.stride == (2, 2) and layout == "nchw":
        return 4.0
    if problem.op == "avg_pool" and problem.dims == 2 and layout == "nchw":
        return 2.0
    return {"dense": 0.6, "batch1": 0.6, "depthwise": 1.0}.get(problem.family)
