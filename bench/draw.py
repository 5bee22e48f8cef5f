"""The plot of a set of measurements: one dot per row and layout, its speed as a multiple of PyTorch's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

COLOURS = {"nchw": "#1f5fa8", "nhwc": "#d8702a"}


def plot(results: Mapping[str, Any], path: Path) -> None:
    """Writes a PNG; needs matplotlib."""
    from matplotlib.figure import Figure

    rows = [r for r in results["rows"] if r["pass"] == "forward"]
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
    figure.savefig(path, dpi=130)


def _within(rows: list[dict[str, Any]], tick: float) -> bool:
    ratios = [r["vs_best"] for r in rows]
    return min(ratios) / 2 <= tick <= max(ratios) * 2
