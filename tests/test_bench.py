"""The benchmark: its suite, its scaling, its verdicts, and one tiny run."""

from __future__ import annotations

import functools
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import convkit
from bench import devices, fused, pool_providers, report, run
from bench.floors import floor
from bench.pools import PoolRow
from bench.problems import BYTES, FLOPS, Problem, Row, scaled, select, suite
from bench.providers import Inputs
from bench.run import main, parse, prepare_conv
from convkit import backends
from convkit.timing import Timing, interleaved

BY_ID: dict[str, Any] = {problem.id: problem for problem in suite()}
POOLS = [row for row in suite() if isinstance(row, PoolRow)]


def test_the_suite_holds_every_row_once() -> None:
    assert len(BY_ID) == len(suite())
    assert sum(isinstance(p, Problem) for p in BY_ID.values()) == 46
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
def test_scaling_meets_its_budget_or_stops_at_its_limits(problem: Row, scale: float) -> None:
    small: Any = scaled(problem, scale)
    assert small.kernel == problem.kernel
    if isinstance(small, Problem):
        assert all(o > 0 for o in small.out)
        assert small.c % small.groups == 0 and small.k % small.groups == 0
        n, most = small.n, BY_ID[small.id].n
    else:
        assert all(k <= length for k, length in zip(small.kernel, small.shape[2:]))
        n, most = small.shape[0], BY_ID[small.id].shape[0]
    assert 1 <= n <= most
    if small.flops > scale * FLOPS or small.bytes > scale * BYTES:
        assert n == 1
        assert scaled(small, scale) == small


def test_groups_are_selected_and_equal_rows_run_once() -> None:
    assert {p.family for p in select(["depthwise"], 1.0)} == {"depthwise"}
    assert {type(p) for p in select(["pools"], 1.0)} == {PoolRow}
    assert [p.id for p in select(["D06"], 1.0)] == ["D06"]
    assert [p.id for p in select(["P01-max", "P02-max"], 0.1)] == ["P01-max"]  # scaled, they are the same


def test_floors_stand_where_they_are_promised() -> None:
    assert floor(BY_ID["P01-max"], "forward", "nchw") == 4.0
    assert floor(BY_ID["P01-max"], "forward", "nhwc") is None
    assert floor(BY_ID["P01-max"], "forward+backward", "nchw") == 3.0
    assert floor(BY_ID["P03-avg"], "forward", "nchw") == 2.0
    assert floor(BY_ID["D06"], "forward", "nchw") == 0.6
    assert floor(BY_ID["W03"], "forward", "nhwc") == 1.0
    assert floor(BY_ID["W03"], "grad_input", "nchw") is None


@pytest.mark.parametrize("row", POOLS, ids=lambda row: row.id)
def test_a_pooling_row_and_its_rival_compute_the_same_kind_of_result(row: PoolRow) -> None:
    assert row.op in convkit.functional.__all__
    row = scaled(row, 0.001)
    for pass_ in pool_providers.PASSES:
        for layout in ("nchw", "nhwc")[: row.dims]:
            calls = pool_providers.calls(row, pass_, layout, torch.float32, 0, compiled=False)
            ours, theirs = calls["convkit"](), calls["eager"]()
            assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
            assert pool_providers.verify(row, pass_, layout, torch.float32, calls["convkit"]) <= 1


def test_a_wrong_pooling_is_seen() -> None:
    row = BY_ID["P07-avg"].of_batch(0)
    ours = pool_providers.calls(row, "forward", "nchw", torch.float32, 0, compiled=False)["convkit"]
    for factor in (1.001, float("nan")):
        assert pool_providers.verify(row, "forward", "nchw", torch.float32, partial(torch.mul, ours(), factor)) > 1


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


def test_no_two_candidates_read_the_same_input() -> None:
    problem = scaled(BY_ID["W02"], 0.0001)
    calls, _ = prepare_conv(problem, "forward", "nhwc", torch.float32, 2, parse(["--algorithms"]))
    inputs = [call.args[-1] if call.args else call.keywords for made in calls.values() for call in made]
    places = [i.x.data_ptr() if isinstance(i, Inputs) else i["x"].data_ptr() for i in inputs]
    assert len(calls) > 2 and len(set(places)) == len(places) == 2 * len(calls)


def test_a_tiny_run_verifies_measures_and_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "results.json"
    arguments = ["S02", "W02", "T03", "M01", "P07-avg", "P08-max", "P09-max", "P09-avg", "--scale", "0.0001"]
    options = ["--threads", "1", "--seconds", "0", "--plot", str(tmp_path / "plots" / "speed.png")]
    main([*arguments, *options, "--backward", "--algorithms", "--json", str(out)])
    results = json.loads(out.read_text())
    assert {r["pass"] for r in results["rows"]} == {"forward", "grad_input", "grad_weight", "forward+backward"}
    assert not any(r["verdict"] == "WRONG" for r in results["rows"])
    assert {r["layout"] for r in results["rows"] if r["id"] == "S02"} == {"nchw", "nhwc"}
    assert any("conv_direct" in r["times"] for r in results["rows"])
    shown = capsys.readouterr().out
    assert "Geometric means" in shown and "floors hold" in shown
    bars = shown.split("from the worst row to the best")[1].splitlines()
    assert any(line.startswith("depthwise forward nchw") and "#" in line for line in bars)
    assert (tmp_path / "plots" / "speed.png").read_bytes().startswith(b"\x89PNG")
    assert report.main([str(out), str(out), "--markdown", str(tmp_path / "page.md")]) == 0
    assert (tmp_path / "page.md").read_text().count("\n## Results\n") == 1


@pytest.mark.parametrize("row", fused.ROWS, ids=lambda row: row.id)
def test_a_fused_row_computes_what_its_rivals_do(row: fused.FusedRow) -> None:
    small = scaled(row, 0.002)
    assert isinstance(small, fused.FusedRow) and (small.residual, small.activation) == (row.residual, row.activation)
    for layout in ("nchw", "nhwc"):
        calls, checked = fused.prepare(small, "inference", layout, torch.float32, 1, False, "cpu")
        assert checked["convkit"] <= 1
        _, checked = fused.prepare(small, "training", layout, torch.float32, 1, False, "cpu")
        assert checked["convkit"] <= 1
        # In float64 the default tolerance of 10^-7 is far beyond any rounding and far below any mistake.
        calls, _ = fused.prepare(small, "inference", layout, torch.float64, 1, False, "cpu")
        for name in ("eager", "unfused"):
            torch.testing.assert_close(calls["convkit"][0](), calls[name][0]())
        calls, _ = fused.prepare(small, "training", layout, torch.float64, 1, False, "cpu")
        torch.testing.assert_close(calls["convkit"][0](), calls["eager"][0]())


def test_a_wrong_fused_layer_is_seen() -> None:
    layer = fused.Layer(scaled(fused.ROWS[7], 0.001), "nchw", torch.float32, 0, "cpu")
    right = layer.fused()()
    assert layer.error(lambda: right) <= 1 < layer.error(lambda: right * 1.001)


@pytest.mark.parametrize(
    ("op", "place"),
    [("conv_fprop_stats", 2), ("bn_act", 0), ("bn_act_grad", 0), ("bn_act_grad", 3), ("conv_wgrad", 0)],
)
def test_a_wrong_operation_of_a_step_is_seen(op: str, place: int, monkeypatch: pytest.MonkeyPatch) -> None:
    step = fused.Layer(scaled(fused.ROWS[7], 0.001), "nhwc", torch.float32, 0, "cpu").steps()["convkit"]
    assert fused.error_of_step(step) <= 1
    native = backends.get("native")
    plain = getattr(native, op)

    @functools.wraps(plain)
    def wrong(*values: Any, **named: Any) -> Any:
        result = plain(*values, **named)
        if isinstance(result, torch.Tensor):
            return result * 1.001
        return tuple(r * 1.001 if i == place else r for i, r in enumerate(result))

    monkeypatch.setattr(native, op, wrong)
    assert fused.error_of_step(step) > 1


def test_fused_floors_are_relative_to_the_chain_and_to_the_norm() -> None:
    times = {"convkit": {"median": 1.0}, "eager": {"median": 1.9}, "unfused": {"median": 1.1}}
    for row, verdict in ((fused.ROWS[4], "PASS"), (fused.ROWS[8], "FAIL")):  # 3x3 of 128 channels; 1x1
        assert report.row(row, "inference", "nchw", times, {"convkit": 0.5}, 1.0)["verdict"] == verdict
    del times["unfused"]
    for eager, verdict in ((1.9, "FAIL"), (2.1, "PASS")):
        times["eager"]["median"] = eager
        row = report.row(fused.ROWS[4], "training, norm", "nchw", times, {"convkit": 0.5}, 1.0)
        assert row["verdict"] == verdict
    assert fused.floor(fused.ROWS[4], "training") is None


def test_what_noise_hides_is_no_measurement() -> None:
    def step(median: float, spread: float = 0.1) -> Timing:
        return Timing(median, median - spread, median + spread, 7)

    times = {"convkit": step(5.0), "eager": step(9.0)}
    times |= {"convkit's convolution": step(4.0), "PyTorch's convolution": step(3.0)}
    rest = fused.of_norm(times)
    assert rest["eager"].median / rest["convkit"].median == pytest.approx(6)
    for hidden in (step(4.9), step(4.0, spread=0.6), step(6.0)):
        assert not fused.of_norm(times | {"convkit's convolution": hidden})


def test_a_tiny_run_of_fused_layers(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "fused.json"
    options = ["--scale", "0.0005", "--threads", "1", "--seconds", "0", "--plot", str(tmp_path / "speed.png")]
    main(["B09", "B12", *options, "--json", str(out)])
    rows = json.loads(out.read_text())["rows"]
    measured = [r["pass"] for r in rows]
    assert measured.count("inference") == measured.count("training") == 4
    assert set(measured) <= {"inference", "training", "training, norm"}  # the last only where noise leaves something
    assert "x unfused" in capsys.readouterr().out
    assert report.main([str(out), "--markdown", str(tmp_path / "page.md")]) == 0


def test_other_backends_and_fused_calls_run_beside() -> None:
    options = parse(["--relu", "--backends", "aten", "--seconds", "0"])
    problems = [scaled(BY_ID[name], 1e-4) for name in ("W02", "P07-avg")]
    rows = [r for p in problems for r in run.measure(p, torch.float32, devices.Processor(), options)]
    assert {r["pass"] for r in rows} == {"forward", "bias+relu", "forward+backward"}
    assert all("aten" in r["times"] and r["verdict"] != "WRONG" for r in rows)


def test_a_row_that_fails_hides_no_other(monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path) -> None:
    measure = run.measure

    def fail(problem: Row, *rest: Any) -> Any:
        if problem.id == "W02":
            raise torch.OutOfMemoryError("no memory")
        return measure(problem, *rest)

    monkeypatch.setattr(run, "measure", fail)
    out = tmp_path / "out.json"
    options = ["--scale", "0.0001", "--seconds", "0", "--threads", "1", "--plot", str(tmp_path / "speed.png")]
    assert main(["W02", "P07-avg", *options, "--json", str(out)]) == 1
    results = json.loads(out.read_text())
    assert results["about"]["failed"] == "W02" and {r["id"] for r in results["rows"]} == {"P07-avg"}
    assert "no memory" in capsys.readouterr().err


def test_families_take_turns_where_time_is_short() -> None:
    rows = run.in_turn(list(select(["dense", "depthwise", "avg_pool"], 1.0)))
    assert [r.family for r in rows[:6]] == ["dense", "depthwise", "avg_pool"] * 2
    assert sorted(r.id for r in rows) == sorted(r.id for r in select(["dense", "depthwise", "avg_pool"], 1.0))


# --- a GPU's way of measuring, on a clock of its own ------------------------------------------------------------------


class Event:
    """A GPU's event, of a GPU on which each call of ``work`` takes a millisecond."""

    now = 0.0

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        self.at = Event.now

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: Event) -> float:
        return end.at - self.at


class Gpu(devices.Gpu):
    """The host's part of it, with tensors of the CPU."""

    torch = torch.device("cpu")
    rotated_bytes = 192e6

    def __init__(self) -> None:
        self.tf32 = False


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(devices, "captured", devices.in_order)
    return Gpu()


def test_a_gpu_is_timed_per_call(gpu: Gpu) -> None:
    def work(milliseconds: float) -> None:
        Event.now += milliseconds

    order: list[str] = []
    candidates = {
        "short": [lambda: (order.append("short"), work(0.01))] * 3,
        "long": [lambda: (order.append("long"), work(2.0))],
    }
    times = gpu.times(candidates, seconds=0.015)
    assert times["short"].median == pytest.approx(1e-5) and times["long"].median == pytest.approx(2e-3)
    assert times["long"].runs == times["short"].runs == 10  # of 1 ms and 2 ms each, in 0.03 s
    assert order.count("long") < order.count("short")


def test_where_one_candidate_cannot_be_captured_none_is(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    plain: list[Any] = []
    monkeypatch.setattr(devices, "captured", lambda calls: None if calls[0] is print else devices.in_order(calls))
    monkeypatch.setattr(devices, "sampled", lambda runs, seconds: plain.extend(runs) or {})
    made: list[Any] = []
    monkeypatch.setattr(devices, "in_order", lambda calls: made.append(calls) or (lambda: None))
    assert gpu.times({"ours": [max], "theirs": [print]}, 0.1) == {}
    assert plain == ["ours", "theirs"] and [print] in made and [max] in made


def test_copies_go_beyond_the_cache(gpu: Gpu) -> None:
    assert gpu.copies(1e9) == 2 and gpu.copies(64e6) == 3 and gpu.copies(1e3) == 64
    assert devices.Processor().copies(1e3) == 8


def test_the_share_of_what_is_possible() -> None:
    ceilings = {"bytes_per_second": 1e12, "flops_per_second": 1e14}
    conv, pool = BY_ID["D06"], BY_ID["P01-max"]

    def share(problem: Row, pass_: str, seconds: float, dtype: torch.dtype) -> float:
        measured = {"pass": pass_, "times": {"convkit": {"median": seconds}}}
        return report.share_of_roof(problem, measured, dtype, ceilings)["of_roof"]

    assert share(conv, "forward", conv.flops / 1e14, torch.bfloat16) == pytest.approx(1.0)
    assert share(pool, "forward", pool.bytes / 1e12, torch.float32) == pytest.approx(1.0)
    assert share(pool, "forward+backward", pool.bytes / 1e12, torch.bfloat16) == pytest.approx(1.0)
    assert report.share_of_roof(conv, {}, torch.float32, {}) == {}


def test_a_page_of_a_gpu(tmp_path: Path, gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that a run on a GPU does but for the GPU."""
    about = {"gpu": "a GPU", "cuda": "13.0", "cudnn": 1, "tf32": "off"}
    monkeypatch.setattr(Gpu, "describe", lambda self: devices.Processor.describe(self) | about)
    monkeypatch.setattr(Gpu, "tidy", lambda self: None)
    monkeypatch.setattr(Gpu, "ceilings", lambda self, dtype: {"bytes_per_second": 1e9, "flops_per_second": 1e9})
    monkeypatch.setattr(Gpu, "most_copies", 2)
    monkeypatch.setattr(devices, "choose", lambda name, tf32: gpu)
    out, page = tmp_path / "a.json", tmp_path / "page.md"
    # The device's tensors are the CPU's here; what the option does besides is decided by it alone.
    arguments = ["P07-avg", "W02", "--scale", "0.0001", "--seconds", "0", "--threads", "1"]
    arguments += ["--json", str(out), "--plot", str(tmp_path / "speed.png")]
    monkeypatch.setattr(Event, "elapsed_time", lambda self, end: 1.0)
    main([*arguments, "--minutes", "1"])
    results = json.loads(out.read_text())
    assert all("of_roof" in r for r in results["rows"])
    several = tmp_path / "several.json"
    several.write_text(json.dumps({"runs": {"float32": results, "float32, tf32": results}}))
    assert report.main([str(several), "--markdown", str(page)]) == 0
    assert "# Performance on a GPU\n" in page.read_text() and "\n## Float32, tf32\n" in page.read_text()
    main([*arguments, "--minutes", "0"])
    assert json.loads(out.read_text())["about"]["not measured for lack of time"] == "W02 P07-avg"


def test_without_a_gpu_its_benchmark_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    if not torch.cuda.is_available():
        assert main(["--device", "cuda"]) == 2
        assert "no CUDA device" in capsys.readouterr().err
