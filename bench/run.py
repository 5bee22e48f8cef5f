"""``python -m bench.run [groups]``: verifies convkit against the reference, then times it beside PyTorch.

    python -m bench.run                        # the whole suite, float32, two threads
    python -m bench.run pools                  # every pooling, forward and forward with backward
    python -m bench.run depthwise --backward   # one family of convolutions, and its gradients
    python -m bench.run D06 --algorithms       # one row, and every algorithm that runs it
    python -m bench.run convs --json out.json --plot out.png

Groups: convs, pools, a family (dense, dilated, grouped, depthwise, transposed, 3d, 1d, batch1; max_pool, avg_pool,
...) or a row's id. Exit status 1 if a result is wrong or a speed falls below its floor.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bench import draw, machine, pool_providers, providers, report
from bench.pools import PoolRow
from bench.problems import Problem, Row, select
from convkit import backends
from convkit.terminal import Progress
from convkit.testing.oracle import Call, error, expect
from convkit.timing import interleaved

Calls = dict[str, list[Callable[[], Any]]]
# Inputs rotate through copies, so that no one finds them in its cache. Every candidate has copies of its own: of two
# that read the same one in turn, the second would find what the first has brought into the cache.
ROTATED_BYTES, MOST_COPIES = 64e6, 8


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    dtype = getattr(torch, options.dtype)
    problems = list(select(options.groups, options.scale))
    if not problems:
        print(f"bench: no row belongs to {options.groups}", file=sys.stderr)
        return 2
    rows: list[dict[str, Any]] = []
    progress = Progress(len(problems))
    with torch.no_grad():
        for problem in problems:
            rows += measure(problem, dtype, options)
            progress.step(f"{problem.id} {problem.family}")
    progress.close()
    about = machine.describe() | {"threads": options.threads, "dtype": options.dtype, "scale": options.scale}
    results = {"about": about, "rows": rows}
    print(report.text(results))
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=1) + "\n")
    if options.plot:
        draw.plot(results, Path(options.plot))
    return 0 if report.passes(results) else 1


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.run", description=__doc__.split("\n\n")[0])
    parser.add_argument("groups", nargs="*", help="convs, pools, families or row ids; nothing: the whole suite")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the default size budget of a row")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=0.4, help="time per candidate and row")
    parser.add_argument("--dtype", choices=("float32", "float64", "bfloat16", "float16"), default="float32")
    parser.add_argument("--backward", action="store_true", help="gradients of convolutions too")
    parser.add_argument("--algorithms", action="store_true", help="also every algorithm of the native backend by name")
    parser.add_argument("--compile", action="store_true", help="also torch.compile of PyTorch's forward")
    parser.add_argument("--json", help="file to write the measurements to")
    parser.add_argument("--plot", help="PNG file to write")
    return parser.parse_args(arguments)


def measure(problem: Row, dtype: torch.dtype, options: argparse.Namespace) -> list[dict[str, Any]]:
    """One row per pass and layout of a problem; both layouts of a pass are timed in one interleaved run."""
    copies = int(min(MOST_COPIES, max(2, ROTATED_BYTES // problem.bytes)))
    rows = []
    for pass_ in providers.passes(problem, options.backward):
        candidates: dict[tuple[str, str], Callable[[int], object]] = {}
        checked = {}
        for layout in providers.layouts(problem):
            where = (pass_, layout, dtype, copies, options)
            if isinstance(problem, PoolRow):
                calls, checked[layout] = prepare_pool(problem, *where)
            else:
                calls, checked[layout] = prepare_conv(problem, *where)
            for name, made in calls.items():
                candidates[layout, name] = rotate(made)
        times = interleaved(candidates, options.seconds)
        for layout in providers.layouts(problem):
            found = {name: t._asdict() for (at, name), t in times.items() if at == layout}
            nchw = times["nchw", "eager"].median
            rows.append(report.row(problem, pass_, layout, found, checked[layout], eager_nchw=nchw))
    return rows


def prepare_pool(
    row: PoolRow, pass_: str, layout: str, dtype: torch.dtype, copies: int, options: argparse.Namespace
) -> tuple[Calls, dict[str, float]]:
    """The candidates of one pass of a pooling in one layout, one call per copy of the input, and convkit's error."""
    made = [pool_providers.calls(row, pass_, layout, dtype, seed, options.compile) for seed in range(copies)]
    calls = {name: [call[name] for call in made] for name in made[0]}
    return calls, {"convkit": pool_providers.verify(row, pass_, layout, dtype, calls["convkit"][0])}


def prepare_conv(
    problem: Problem, pass_: str, layout: str, dtype: torch.dtype, copies: int, options: argparse.Namespace
) -> tuple[Calls, dict[str, float]]:
    """The same for a convolution, with the errors of all candidates."""
    inputs = [providers.make_inputs(problem, layout, dtype, pass_ != "forward", seed) for seed in range(copies)]
    calls = {
        "convkit": [providers.convkit_call(problem, pass_, i, layout) for i in inputs],
        "eager": [providers.eager_call(problem, pass_, i.copy()) for i in inputs],
    }
    if options.compile and pass_ == "forward":
        calls["compile"] = [providers.compiled_call(problem, i.copy()) for i in inputs]
    if options.algorithms:
        for name in providers.supported_algorithms(problem, pass_, layout, inputs[0]):
            calls[name] = [providers.convkit_call(problem, pass_, i.copy(), layout, name) for i in inputs]
    return calls, {name: verify(problem, pass_, inputs[0], calls[name][0]) for name in calls}


def verify(problem: Problem, pass_: str, inputs: providers.Inputs, call: providers.Call) -> float:
    """The result's largest error in units of the admissible one; above 1 means wrong.

    Where images do not meet in a sum, two of them are compared; the oracle is slow.
    """
    result = call()
    if isinstance(result, tuple):
        result = next(r for r in result if r is not None)
    op, arguments = providers.raw(problem, pass_, inputs)
    if op != "conv_wgrad":
        few = slice(0, 2)
        arguments = {k: v[few] if k in ("x", "dy") else v for k, v in arguments.items()}
        result = result[few]
    expected = expect(Call(op, arguments | {"channels_last": False}), backends.get("reference"))[0]
    return error(result, expected)


def rotate(calls: list[Callable[[], object]]) -> Callable[[int], object]:
    return lambda i: calls[i % len(calls)]()


if __name__ == "__main__":
    sys.exit(main())
