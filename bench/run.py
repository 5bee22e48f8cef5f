"""``python -m bench.run [groups]``: verifies convkit against the reference, then times it beside PyTorch.

    python -m bench.run                        # the whole suite, float32, two threads
    python -m bench.run pools                  # every pooling, forward and forward with backward
    python -m bench.run depthwise --backward   # one family of convolutions, and its gradients
    python -m bench.run D06 --algorithms       # one row, and every algorithm that runs it
    python -m bench.run fused                  # convolution with batch norm and activation, inference and training
    python -m bench.run convs --relu --json out.json --plot out.png

    python -m bench.run --device cuda          # on a GPU, at the suite's own sizes; --tf32 allows TF32 to everyone

Groups: convs, pools, a family (dense, dilated, grouped, depthwise, transposed, 3d, 1d, batch1; max_pool, avg_pool,
...), a row's id, or fused, which runs where it is named only. Exit status 1 if a result is wrong or a speed falls below
its floor.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bench import devices, draw, fused, pool_providers, providers, report
from bench.pools import PoolRow
from bench.problems import Problem, Row, select
from convkit import backends
from convkit.terminal import Progress
from convkit.testing.oracle import Call, error, expect, product_error

PLOT = Path("build", "bench", "speed.png")
Calls = dict[str, list[Callable[[], Any]]]


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("bench: no CUDA device", file=sys.stderr)
        return 2
    dtype = getattr(torch, options.dtype)
    device = devices.choose(options.device, options.tf32)
    scale = device.default_scale if options.scale is None else options.scale
    problems = [*select(options.groups, scale), *fused.select(options.groups, scale)]
    if not problems:
        print(f"bench: no row belongs to {options.groups}", file=sys.stderr)
        return 2
    if math.isfinite(options.minutes):
        problems = in_turn(problems)
    rows: list[dict[str, Any]] = []
    failed: list[str] = []
    progress = Progress(len(problems))
    until = time.monotonic() + 60 * options.minutes
    with torch.no_grad():
        ceilings = device.ceilings(dtype)
        about = device.describe() | {"threads": options.threads, "dtype": options.dtype} | ceilings
        about["scale"] = scale if math.isfinite(scale) else "full"
        results = {"about": about, "rows": rows}
        for i, problem in enumerate(problems):
            if time.monotonic() >= until:
                about["not measured for lack of time"] = " ".join(p.id for p in problems[i:])
                break
            try:
                found = measure(problem, dtype, device, options)
            except RuntimeError:  # of memory, or a kernel's: the other rows are measured all the same
                traceback.print_exc()
                failed.append(problem.id)
                about["failed"] = " ".join(failed)
            else:
                rows += [r | report.share_of_roof(problem, r, dtype, ceilings) for r in found]
            device.tidy()
            progress.step(f"{problem.id} {problem.family}")
            save(results, options.json)
    progress.close()
    about |= device.describe_end()
    save(results, options.json)
    print(report.text(results))
    print("\n" + draw.text(results))
    plotted = draw.plot(results, Path(options.plot)) if rows else "no plot: nothing was measured"
    print(plotted)
    return 0 if report.passes(results) and not failed else 1


def in_turn(problems: list[Row]) -> list[Row]:
    """The first row of each family, then the second ones: what the time suffices for is of every family."""
    families: dict[str, list[Row]] = {}
    for problem in problems:
        families.setdefault(problem.family, []).append(problem)
    return [row for rank in itertools.zip_longest(*families.values()) for row in rank if row is not None]


def save(results: dict[str, Any], path: str | None) -> None:
    if path:
        Path(path).write_text(json.dumps(results, indent=1) + "\n")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.run", description=__doc__.split("\n\n")[0])
    parser.add_argument("groups", nargs="*", help="convs, pools, families or row ids; nothing: the whole suite")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--tf32", action="store_true", help="on a GPU: allow TF32 for float32, to everyone")
    parser.add_argument("--scale", type=float, help="share of a CPU's size budget of a row (default 1; GPU: no limit)")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no row later than that")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=0.4, help="time per candidate and row")
    parser.add_argument("--dtype", choices=("float32", "float64", "bfloat16", "float16"), default="float32")
    parser.add_argument("--backward", action="store_true", help="gradients of convolutions too")
    parser.add_argument("--algorithms", action="store_true", help="also every algorithm of the native backend by name")
    parser.add_argument("--compile", action="store_true", help="also torch.compile of PyTorch's forward")
    parser.add_argument("--json", help="file to write the measurements to")
    parser.add_argument(
        "--relu", action="store_true", help="also convolutions with a bias and relu, cuDNN's fused ones too"
    )
    parser.add_argument(
        "--backends", nargs="+", default=(), help="also these backends of convkit: triton, aten, reference"
    )
    parser.add_argument(
        "--plot", default=str(PLOT), help="PNG file to write, where matplotlib is there (default: %(default)s)"
    )
    return parser.parse_args(arguments)


def measure(
    problem: Row, dtype: torch.dtype, device: devices.Processor, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """One row per pass and layout of a problem; both layouts of a pass are timed in one interleaved run."""
    copies = device.copies(problem.bytes * dtype.itemsize / 4)
    if isinstance(problem, fused.FusedRow):
        return measure_fused(problem, dtype, device, copies, options)
    rows = []
    for pass_ in providers.passes(problem, options.backward, options.relu):
        candidates: dict[tuple[str, str], list[Callable[[], object]]] = {}
        checked = {}
        for layout in providers.layouts(problem):
            where = (pass_, layout, dtype, copies, options)
            if isinstance(problem, PoolRow):
                calls, checked[layout] = prepare_pool(problem, *where)
            else:
                calls, checked[layout] = prepare_conv(problem, *where)
            for name, made in calls.items():
                candidates[layout, name] = made
        times = device.times(candidates, options.seconds)
        for layout in providers.layouts(problem):
            found = {name: t._asdict() for (at, name), t in times.items() if at == layout}
            nchw = times["nchw", "eager"].median
            rows.append(report.row(problem, pass_, layout, found, checked[layout], nchw, options.device == "cpu"))
    return rows


def measure_fused(
    row: fused.FusedRow, dtype: torch.dtype, device: devices.Processor, copies: int, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Inference, a training step, and what it takes beyond its convolution, in each layout."""
    rows = []
    for pass_ in fused.PASSES:
        made = {
            layout: fused.prepare(row, pass_, layout, dtype, copies, options.compile, options.device)
            for layout in providers.LAYOUTS
        }
        candidates = {(layout, name): calls for layout in made for name, calls in made[layout][0].items()}
        times = device.times(candidates, options.seconds)
        for layout, (calls, checked) in made.items():
            here = {name: times[layout, name] for name in calls}
            nchw = {name: times["nchw", name] for name in calls}
            passes = {pass_: (here, nchw)}
            if pass_ == "training":
                rest = fused.of_norm(here), fused.of_norm(nchw)
                if all(rest):
                    passes["training, norm"] = rest
                else:
                    print(f"{row.id} {layout}: noise hides what a step takes beyond its convolution", file=sys.stderr)
            for of, (ours, default) in passes.items():
                found = {name: t._asdict() for name, t in ours.items()}
                eager = default["eager"].median
                rows.append(report.row(row, of, layout, found, checked, eager, options.device == "cpu"))
    return rows


def prepare_pool(
    row: PoolRow, pass_: str, layout: str, dtype: torch.dtype, copies: int, options: argparse.Namespace
) -> tuple[Calls, dict[str, float]]:
    """The candidates of one pass of a pooling in one layout, one call per copy of the input, and convkit's error."""
    where = (row, pass_, layout, dtype)
    made = [pool_providers.calls(*where, seed, options.compile, options.device) for seed in range(copies)]
    calls = {name: [call[name] for call in made] for name in made[0]}
    errors = {}
    for name in options.backends:
        if (others := pool_providers.backend_calls(name, *where, copies, options.device)) is not None:
            calls[name] = others
            errors[name] = pool_providers.verify(*where, others[0], options.device)
    return calls, errors | {"convkit": pool_providers.verify(*where, calls["convkit"][0], options.device)}


def prepare_conv(
    problem: Problem, pass_: str, layout: str, dtype: torch.dtype, copies: int, options: argparse.Namespace
) -> tuple[Calls, dict[str, float]]:
    """The same for a convolution, with the errors of all candidates."""
    inputs = [providers.make_inputs(problem, layout, dtype, pass_, seed, options.device) for seed in range(copies)]
    calls = {
        "convkit": [providers.convkit_call(problem, pass_, i, layout) for i in inputs],
        "eager": [providers.eager_call(problem, pass_, i.copy()) for i in inputs],
    }
    if pass_ == providers.RELU and options.device == "cuda":
        calls["cudnn"] = [providers.cudnn_call(problem, i.copy()) for i in inputs]
    for name in options.backends:
        made = [providers.backend_call(name, problem, pass_, i.copy(), layout) for i in inputs]
        calls |= {name: [call for call in made if call is not None]} if None not in made else {}
    if options.compile and pass_ in ("forward", providers.RELU):
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
    asked = Call(op, arguments | {"channels_last": False})
    expected = expect(asked, backends.get("reference"), product_error(asked, backends.get("native")))[0]
    return error(result, expected)


if __name__ == "__main__":
    sys.exit(main())
