"""From measurements to a table, a plot and the page docs/performance.md.

python -m bench.report results.json                        # the table
python -m bench.report results.json --plot speed.png
python -m bench.report bench/results/*-xeon-*.json --markdown docs/performance.md   # one part per file, or per run
python -m bench.report bench/results/*-epyc-*.json --markdown docs/performance-epyc.md
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from bench import draw
from bench.floors import floor
from bench.pools import PoolRow
from bench.problems import Row as Problem
from convkit.terminal import table

Row = dict[str, Any]
BASELINES = ("eager", "compile", "cudnn")
HEADERS = ("row", "problem", "pass", "layout", "convkit ms", "p20-p80", "torch ms", "x best", "x nchw", "floor", "")
LEGEND = """\
x best   how many times as fast as the best of PyTorch (eager; compiled, cuDNN's fused call) in the same layout
x nchw   how many times as fast as PyTorch eager in its default layout
floor    the least ratio promised to eager in the same layout (of fused inference, to convkit's own unfused chain);
         * marks rows that are slower than PyTorch's best
roof     on a GPU, the speed as a share of what a copy and a matrix product, measured in the same run, allow"""


def row(
    problem: Problem,
    pass_: str,
    layout: str,
    times: Mapping[str, Mapping[str, float]],
    of_bound: Mapping[str, float],
    eager_nchw: float,
    promised: bool = True,
) -> Row:
    """One measured row: a problem, a pass and a layout, with the times of all candidates; ``promised``: floors hold.

    They are relative to PyTorch eager or, where it was measured, to the unfused chain.
    """
    ours = times["convkit"]["median"]
    baselines = {name: times[name]["median"] for name in BASELINES if name in times}
    least = floor(problem, pass_, layout) if promised else None
    rival = times.get("unfused", times["eager"])["median"]
    right = all(not (value > 1 or math.isnan(value)) for name, value in of_bound.items() if name not in baselines)
    return {
        "id": problem.id,
        "family": problem.family,
        "source": problem.source,
        "problem": str(problem),
        "pass": pass_,
        "layout": layout,
        "times": {name: dict(t) for name, t in times.items()},
        "error_of_bound": dict(of_bound),
        "vs_best": min(baselines.values()) / ours,
        "vs_eager": baselines["eager"] / ours,
        "vs_nchw": eager_nchw / ours,
        "floor": least,
        "verdict": _verdict(right, least, rival / ours),
    }


def share_of_roof(
    problem: Problem, measured: Row, dtype: torch.dtype, ceilings: Mapping[str, float]
) -> dict[str, float]:
    """How much of the possible speed a row reaches: every operand moved once, and no operation but the products."""
    if not ceilings:
        return {}
    bytes_, flops = problem.bytes, 0.0
    if isinstance(problem, PoolRow):
        bytes_ *= 2 if measured["pass"] == "forward+backward" else 1
    else:
        bytes_, flops = bytes_ + 4.0 * math.prod(problem.weight_shape), problem.flops
    least = max(bytes_ * dtype.itemsize / 4 / ceilings["bytes_per_second"], flops / ceilings["flops_per_second"])
    return {"of_roof": least / measured["times"]["convkit"]["median"]}


def _verdict(right: bool, least: float | None, ratio: float) -> str:
    if not right:
        return "WRONG"
    return "" if least is None else "PASS" if ratio >= least else "FAIL"


def passes(results: Mapping[str, Any]) -> bool:
    """Whether every result is right and every floor holds."""
    return all(r["verdict"] in ("", "PASS") for r in results["rows"])


def text(results: Mapping[str, Any]) -> str:
    """The table, family by family, with geometric means and worst rows."""
    lines: list[list[str]] = []
    for family, rows in _families(results["rows"]).items():
        lines.append([f"-- {family}"])
        for r in rows:
            lines.append(_cells(r, _with_chain(results["rows"])))
            lines += [_algorithm_cells(r, name) for name in r["times"] if name not in ("convkit", "eager")]
    lines = [
        cells + [""] * (len(_headers(results["rows"])) - len(cells)) if len(cells) > 1 else cells for cells in lines
    ]
    about = ", ".join(f"{name} {value}" for name, value in results["about"].items())
    parts = [table(_headers(results["rows"]), lines, left=(0, 1, 2, 3)), LEGEND, _summary(results["rows"]), about]
    failed = [r for r in results["rows"] if r["verdict"] in ("FAIL", "WRONG")]
    promised = sum(r["floor"] is not None for r in results["rows"])
    parts.append(f"{promised - sum(r['verdict'] == 'FAIL' for r in failed)} of {promised} floors hold.")
    return "\n\n".join(parts)


def _headers(rows: list[Row]) -> tuple[str, ...]:
    of_roof = any("of_roof" in r for r in rows)
    return (*HEADERS, *["roof"] * of_roof, *["x unfused"] * _with_chain(rows))


def _with_chain(rows: list[Row]) -> bool:
    """Whether fused layers were measured beside convkit's chain of single ones."""
    return any("unfused" in r["times"] for r in rows)


def _cells(r: Row, unfused: bool = False) -> list[str]:
    ours, eager = r["times"]["convkit"], r["times"]["eager"]
    return [
        r["id"],
        r["problem"],
        r["pass"],
        r["layout"],
        _ms(ours["median"]),
        f"{_ms(ours['p20'])}-{_ms(ours['p80'])}",
        _ms(eager["median"]),
        f"{'*' if r['vs_best'] < 1 else ''}{r['vs_best']:.2f}",
        f"{r['vs_nchw']:.2f}",
        "" if r["floor"] is None else f"{r['floor']:.1f}",
        r["verdict"],
        *([f"{100 * r['of_roof']:.0f}%"] if "of_roof" in r else []),
        *([f"{r['times']['unfused']['median'] / ours['median']:.2f}" if "unfused" in r["times"] else ""] * unfused),
    ]


def _algorithm_cells(r: Row, name: str) -> list[str]:
    t = r["times"][name]
    ratio = r["times"]["eager"]["median"] / t["median"]
    wrong = "WRONG" if not r["error_of_bound"].get(name, 0.0) <= 1 else ""
    spread = f"{_ms(t['p20'])}-{_ms(t['p80'])}"
    return ["", f"  {name}", "", "", _ms(t["median"]), spread, "", f"{ratio:.2f}", "", "", wrong]


def page(results: Mapping[str, Mapping[str, Any]]) -> str:
    """A page of measurements on a GPU, beside docs/performance.md's of a processor."""
    about = next(iter(results.values()))["about"]
    lines = [
        f"# Performance on {about['gpu']}",
        "",
        "Generated by `make gpu-bench`; do not edit.",
        "",
        f"torch {about['torch']} (CUDA {about['cuda']}, cuDNN {about['cudnn']}, cudnn.benchmark on), convkit "
        f"{about['convkit']}. Sizes are the suite's own. convkit and PyTorch took turns on rotating copies of the",
        "inputs, at least three times the second-level cache in all; a sample is a replayed graph between two events,",
        "or, where a candidate of a row cannot be captured, plain launches. Times are medians.",
        "",
        *LEGEND.splitlines(),
        "",
    ]
    return "\n".join(lines) + "\n" + "\n".join(_parts(results))


SUMMARY_HEADERS = ("family", "pass", "layout", "rows", "x best", "x nchw", "worst row", "slower than PyTorch's best")


def _summary(rows: list[Row]) -> str:
    return "Geometric means\n" + table(SUMMARY_HEADERS, _summary_rows(rows), left=(0, 1, 2, 7))


def _summary_rows(rows: list[Row]) -> list[list[str]]:
    lines = []
    for family, members in _families(rows).items():
        for key in dict.fromkeys((r["pass"], r["layout"]) for r in members):
            group = [r for r in members if (r["pass"], r["layout"]) == key]
            worst = min(group, key=lambda r: r["vs_best"])
            lines.append(
                [
                    family,
                    *key,
                    str(len(group)),
                    f"{geometric_mean(r['vs_best'] for r in group):.2f}",
                    f"{geometric_mean(r['vs_nchw'] for r in group):.2f}",
                    f"{worst['vs_best']:.2f} ({worst['id']})",
                    " ".join(r["id"] for r in group if r["vs_best"] < 1) or "none",
                ]
            )
    return lines


def geometric_mean(values: Iterable[float]) -> float:
    logs = [math.log(v) for v in values]
    return math.exp(sum(logs) / len(logs))


def markdown(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The page docs/performance.md: one part for each measurement, by its title."""
    lines = [
        "# Performance",
        "",
        "Generated by `python -m bench.report` from `bench/results/`; do not edit.",
        "",
        "convkit and PyTorch ran in turn in one process, on rotating copies of the inputs; times are medians. Sizes",
        "are the suite's (`bench/suite.json`, `bench/pools.py`), scaled to a CPU as `bench/problems.py` says. Where",
        "PyTorch lacks a pooling, its rival is the composition in `bench/rivals.py`. No GPU was involved.",
        "",
        "x best: how many times as fast as PyTorch's best in the same layout; x nchw: than PyTorch in its default",
        "layout. Below 1, convkit is slower.",
        "",
    ]
    return "\n".join(lines + _parts(results))


def _parts(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    lines: list[str] = []
    for title, measured in results.items():
        about = measured["about"]
        lines += [
            f"## {title.capitalize()}",
            "",
            _measured_on(about),
            "",
        ]
        for part, headers, rows in (
            ("families", SUMMARY_HEADERS, _summary_rows(measured["rows"])),
            ("rows", _headers(measured["rows"]), [_cells(r, _with_chain(measured["rows"])) for r in measured["rows"]]),
        ):
            lines += [f"### {title.capitalize()}: {part}", ""]
            lines += ["| " + " | ".join(headers) + " |", "|" + "---|" * len(headers)]
            lines += ["| " + " | ".join(cells).replace("*", "") + " |" for cells in rows] + [""]
    return lines


def _measured_on(about: Mapping[str, Any]) -> str:
    if "gpu" in about:
        copy, product = about["bytes_per_second"] / 1e12, about["flops_per_second"] / 1e12
        rates = f"a copy reaches {copy:.2f} TB/s, a matrix product {product:.0f} TFLOP/s"
        return f"{about['dtype']}, TF32 {about['tf32']}; {rates}."
    return (
        f"Measured on {about['processor']} ({about['cores']} cores), {about['threads']} threads, {about['dtype']}, "
        f"torch {about['torch']}, convkit {about['convkit']}, instruction set {about['instruction_set']}."
    )


def load(path: Path) -> dict[str, Any]:
    """The measurements of a file by title: the file's name, or of a file of several runs their own names."""
    found = json.loads(path.read_text())
    return dict(found["runs"]) if "runs" in found else {path.stem.split("-")[0]: found}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.report", description="Draws up measured results.")
    parser.add_argument("results", type=Path, nargs="+", help="JSON files that bench.run wrote")
    parser.add_argument("--markdown", type=Path, help="page to write")
    parser.add_argument("--plot", type=Path, help="PNG file to write, of the first results")
    options = parser.parse_args(arguments)
    results = {title: measured for path in options.results for title, measured in load(path).items()}
    for measured in results.values():
        print(text(measured))
    if options.markdown:
        on_gpu = all("gpu" in measured["about"] for measured in results.values())
        options.markdown.write_text(page(results) if on_gpu else markdown(results))
    if options.plot:
        draw.plot(next(iter(results.values())), options.plot)
    return 0


def _families(rows: list[Row]) -> dict[str, list[Row]]:
    families: dict[str, list[Row]] = {}
    for r in rows:
        families.setdefault(r["family"], []).append(r)
    return families


def _ms(seconds: float) -> str:
    milliseconds = seconds * 1e3
    return f"{milliseconds:.3f}" if milliseconds < 1 else f"{milliseconds:.2f}"


if __name__ == "__main__":
    sys.exit(main())
