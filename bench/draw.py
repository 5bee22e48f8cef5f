"""Plots of a set of measurements, speeds as multiples of PyTorch's: bars of text, and a dot per row and layout."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

COLOURS = {"nchw": "#1f5fa8", "nhwc": "#d8702a"}


def text(results: Mapping[str, Any]) -> str:
    """A bar for each family, pass and layout: from its worst row to its best one, # at the geometric mean."""
    groups: dict[tuple[str, str, str], list[float]] = {}
    for r in results["rows"]:
        groups.setdefault((r["family"], r["pass"], r["layout"]), []).append(math.log2(r["vs_best"]))
    lines = [
        "Speed as a multiple of PyTorch's best in the same layout: from the worst row to the best, # the geometric mean"
    ]
    scale = "".join(f"{2.0**e:<8g}" for e in range(LOWEST, -LOWEST + 1))
    width = max((len(" ".join(key)) for key in groups), default=0)
    lines.append(" " * (width + 2) + scale)
    for key, logs in groups.items():
        worst, mean, best = (_column(v) for v in (min(logs), sum(logs) / len(logs), max(logs)))
        bar = [" "] * (8 * -2 * LOWEST + 1)
        bar[_column(0.0)] = "|"
        bar[worst : best + 1] = "-" * (best + 1 - worst)
        bar[mean] = "#"
        lines.append(f"{' '.join(key):<{width}}  {''.join(bar).rstrip()}")
    return "\n".join(lines)


LOWEST = -4  # the powers of 2 from this to its opposite are shown


def _column(log: float) -> int:
    return round(8 * (min(max(log, LOWEST), -LOWEST) - LOWEST))


def plot(results: Mapping[str, Any], path: Path) -> str:
    """Writes a PNG of the forward passes and says where, or that matplotlib is not there."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return "no plot in a file: matplotlib is not installed"

    rows = [r for r in results["rows"] if r["pass"] in ("forward", "inference")] or list(results["rows"])
    labels = list(dict.fromkeys((r["family"], r["id"], r["problem"]) for r in rows))
    figure = Figure(figsize=(10, 1.5 + 0.2 * len(labels)), layout="constrained")
    axes = figure.subplots()
    at = {label: i for i, label in enumerate(labels)}
    for layout, colour in COLOURS.items():
        chosen = [r for r in rows if r["layout"] == layout]
        heights = [at[r["family"], r["id"], r["problem"]] for r in chosen]
        axes.scatter([r["vs_best"] for r in chosen], heights, color=colour, s=22, label=layout, zorder=3)
    for r in rows:
        if r["floor"] is not None and r["layout"] == "nchw":
            y = at[r["family"], r["id"], r["problem"]]
            axes.plot([r["floor"]] * 2, [y - 0.4, y + 0.4], color="0.35", linewidth=1.5)
    axes.axvline(1.0, color="0.5", linewidth=1)
    axes.set_xscale("log", base=2)
    ticks = [t for t in (0.125, 0.25, 0.5, 1, 2, 4, 8, 16, 32) if _within(rows, t)]
    axes.set_xticks(ticks, [f"{t:g}x" for t in ticks])
    axes.set_yticks(range(len(labels)), [f"{name}   {problem}" for _, name, problem in labels], fontsize=7.5)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    previous = None
    for i, (family, _, _) in enumerate(labels):
        if family != previous:
            if previous is not None:
                axes.axhline(i - 0.5, color="0.85", linewidth=0.8)
            axes.annotate(family, (1.005, i), xycoords=("axes fraction", "data"), fontsize=8, va="center")
        previous = family
    axes.grid(axis="x", color="0.9")
    axes.set_xlabel("speed as a multiple of PyTorch's best in the same layout (bars: promised floors, NCHW)")
    about = results["about"]
    axes.set_title(
        f"Forward, {about['dtype']}, {about['threads']} threads, {about['processor']}, torch {about['torch']}",
        fontsize=9,
    )
    axes.legend(loc="lower right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    return f"Plot: {path}"


def _within(rows: list[dict[str, Any]], tick: float) -> bool:
    ratios = [r["vs_best"] for r in rows]
    return min(ratios) / 2 <= tick <= max(ratios) * 2
