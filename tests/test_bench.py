"""The benchmark: its suite, its scaling, its verdicts, and one tiny run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from bench import report
from bench.floors import floor
from bench.problems import BYTES, FLOPS, Problem, scaled, select, suite
from bench.run import main
from convkit.timing import interleaved

BY_ID = {problem.id: problem for problem in suite()}


def test_the_suite_holds_every_row_once() -> None:
    assert len(BY_ID) == len(suite())
    assert sum(not p.pools for p in BY_ID.values()) == 46
    assert {"max_pool", "avg_pool", "dense", "depthwise", "transposed"} <= {p.family for p in BY_ID.values()}


@pytest.mark.parametrize("name", ["D01", "D16", "A02", "W01", "W07", "T02", "T04", "V03", "O02"])
def test_output_sizes_are_pytorchs(name: str) -> None:
    problem = BY_ID[name]
    kind = "ConvTranspose" if problem.op == "conv_transpose" else "Conv"
    layer = getattr(nn, f"{kind}{problem.dims}d")(
        problem.c,
        problem.k,
        problem.kernel,
        problem.stride,
        problem.padding,
        groups=problem.groups,
        dilation=problem.dilation,
        device="meta",
    )
    assert tuple(layer.weight.shape) == problem.weight_shape
    x = torch.empty(1, problem.c, *problem.spatial, device="meta")
    assert tuple(layer(x).shape) == (1, problem.k, *problem.out)


@pytest.mark.parametrize("problem", suite(), ids=lambda p: p.id)
@pytest.mark.parametrize("scale", [1.0, 0.01])
def test_scaling_meets_its_budget_or_stops_at_its_limits(problem: Problem, scale: float) -> None:
    small = scaled(problem, scale)
    assert small.kernel == problem.kernel
    assert small.n >= 1 and small.n <= problem.n
    assert all(o > 0 for o in small.out)
    assert small.c % small.groups == 0 and small.k % small.groups == 0
    if small.flops > scale * FLOPS or small.bytes > scale * BYTES:
        assert small.n == 1
        assert scaled(small, scale) == small


def test_groups_are_selected_and_equal_rows_run_once() -> None:
    assert {p.family for p in select(["depthwise"], 1.0)} == {"depthwise"}
    assert {p.pools for p in select(["pools"], 1.0)} == {True}
    assert [p.id for p in select(["D06"], 1.0)] == ["D06"]
    assert [p.id for p in select(["P01-max", "P02-max"], 0.1)] == ["P01-max"]  # scaled, they are the same


def test_floors_stand_where_they_are_promised() -> None:
    assert floor(BY_ID["P01-max"], "forward", "nchw") == 4.0
    assert floor(BY_ID["P01-max"], "forward", "nhwc") is None
    assert floor(BY_ID["P03-avg"], "forward", "nchw") == 2.0
    assert floor(BY_ID["D06"], "forward", "nchw") == 0.6
    assert floor(BY_ID["W03"], "forward", "nhwc") == 1.0
    assert floor(BY_ID["W03"], "grad_input", "nchw") is None


def test_a_slow_or_wrong_row_fails() -> None:
    def verdict(ours: float, error: float) -> str:
        times = {"convkit": {"median": ours}, "eager": {"median": 1.0}}
        row = report.row(BY_ID["D06"], "forward", "nchw", times, {"convkit": error, "eager": 0.0}, 1.0)
        assert report.passes({"rows": [row]}) == (row["verdict"] in ("", "PASS"))
        return str(row["verdict"])

    assert verdict(1.0, 0.5) == "PASS"
    assert verdict(2.0, 0.5) == "FAIL"
    assert verdict(1.0, 1.5) == "WRONG"
    assert verdict(1.0, float("nan")) == "WRONG"


def test_candidates_take_turns() -> None:
    order: list[str] = []
    times = interleaved(
        {name: lambda i, name=name: order.append(name) for name in "abc"}, seconds=0, min_rounds=3, warm_up=1
    )
    assert order == list("abc" + "abc" + "bca" + "cab")
    assert all(t.runs == 3 and t.p20 <= t.median <= t.p80 for t in times.values())


def test_a_tiny_run_verifies_measures_and_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "results.json"
    arguments = ["S02", "W02", "T03", "P09", "P07-avg", "P08-max", "P09-max", "P09-avg", "--scale", "0.0001"]
    main([*arguments, "--backward", "--algorithms", "--threads", "1", "--seconds", "0", "--json", str(out)])
    results = json.loads(out.read_text())
    assert {r["pass"] for r in results["rows"]} == {"forward", "grad_input", "grad_weight"}
    assert not any(r["verdict"] == "WRONG" for r in results["rows"])
    assert {r["layout"] for r in results["rows"] if r["id"] == "S02"} == {"nchw", "nhwc"}
    assert any("conv_direct" in r["times"] for r in results["rows"])
    shown = capsys.readouterr().out
    assert "Geometric means" in shown and "floors hold" in shown
    assert report.markdown(results).startswith("# Performance")
    assert report.main([str(out), "--markdown", str(tmp_path / "page.md")]) == 0
