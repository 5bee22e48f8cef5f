"""Launching Triton kernels again, searching for tiles, keeping what won, and choosing by it. Timers are made up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import convkit
import convkit.functional as CF
from convkit import backends
from convkit.backends import preference, selection, tuned
from convkit.backends.triton import tiles

ROOT = Path(__file__).parent.parent
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exact_float32: None) -> Iterator[Path]:
    """Where winners are kept in this test, on CPU tensors too."""
    if (reason := backends.get("triton").available()) is not None:
        pytest.skip(reason)
    monkeypatch.setenv(tuned.VARIABLE, str(tmp_path))
    monkeypatch.setattr(preference, "DEVICES", ("cuda", "cpu"))
    tuned.forget()
    yield tmp_path
    tuned.forget()


class Kernel:
    """What launching needs of a Triton kernel: it counts how often it was compiled and what it was run with."""

    arg_names = ("x", "n", "strides", "M", "K")

    def __init__(self) -> None:
        self.compiled: list[dict[str, Any]] = []
        self.runs: list[tuple[Any, ...]] = []

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., Any]:
        def compile_and_run(*args: Any, **meta: Any) -> Any:
            self.compiled.append(meta)
            return Again(self)

        return compile_and_run


class Again:
    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return lambda *args: self._kernel.runs.append((grid, *args))


def test_triton_kernels_are_launched_again_without_a_look_at_their_arguments(folder: Path) -> None:
    from convkit.backends.triton import launch

    kernel, x = Kernel(), torch.zeros(64)
    meta = {"K": 3, "M": 2, "num_warps": 4}

    def run(x: torch.Tensor, n: int = 5, programs: int = 7, device: int = 0, **changed: Any) -> int:
        launch.again(kernel, programs, device, (x, n, (1, 16)), {**meta, **changed})
        return len(kernel.compiled)

    assert run(x) == 1 and kernel.runs == []
    assert run(torch.ones(64)) == 1
    ((grid, tensor, *others),) = kernel.runs
    assert grid == (7, 1, 1) and bool((tensor == 1).all())
    assert others == [5, (1, 16), 2, 3]  # in the order of the parameters, without what is no parameter
    assert [run(x.double()), run(x[1:]), run(x, n=6), run(x, M=4), run(x, num_warps=8), run(x, programs=8)] == [
        *(2, 3, 4, 5, 6, 7)
    ]
    assert run(x, device=1) == 8 and run(x) == 8


def test_triton_search_tries_what_fits(folder: Path) -> None:
    found = tiles.candidates("half", 1 << 20, 256, 576, 227 << 10)
    assert len(found) == tiles.MOST_CANDIDATES == len(set(found))
    assert tiles.Tile(128, 256, 64, 8, 4) in found and found[0].m * found[0].n == 256 * 128
    for t in found:
        assert t.stages * (t.m + t.n) * t.k * 2 <= 227 << 10 and t.m * t.n <= 128 * 32 * t.warps
    small = tiles.candidates("ieee", 20, 9, 9, 99 << 10)
    assert small and all((t.m, t.n) == (32, 32) and t.k <= 32 for t in small)
    for kind, table in tiles.TILES.items():  # and the tables hold nothing that a search could not find
        open_space = tiles.candidates(kind, 1 << 20, 1 << 10, 1 << 10, 227 << 10)
        assert open_space and {t.k for t in table} <= {t.k for t in open_space}


class Clock:
    """A timer by which the call that it is asked for last is the fastest."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, run: Callable[[], Any]) -> float:
        run()
        self.asked += 1
        return 1.0 / self.asked


def test_triton_searches_once_and_runs_the_winner(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from convkit.backends.triton import launch, search

    used: list[dict[str, Any]] = []
    runner = launch.runner

    def watch(kernel: Any, programs: int, device: int, args: tuple[Any, ...], meta: dict[str, Any]) -> Any:
        used.append(meta)
        return runner(kernel, programs, device, args, meta)

    monkeypatch.setattr(launch, "runner", watch)
    x, w = torch.randn(1, 8, 5, 4, device=DEVICE), torch.randn(3, 8, 1, 1, device=DEVICE)
    expected = CF.conv2d(x, w, backend="reference")

    def convolve() -> dict[str, Any]:
        torch.testing.assert_close(CF.conv2d(x, w, backend="triton"), expected)
        return used[-1]

    default, clock = convolve(), Clock()
    with search.searching(clock) as found:
        best = convolve()
        tried = clock.asked
        assert tried > 2 and convolve() == best and clock.asked == tried
        with pytest.raises(RuntimeError, match="a search is going on already"):
            convkit.tune(convolve)
    assert best != default
    assert convolve() == default  # a search alone keeps nothing
    tuned.keep(x.device, found[x.device])
    assert convolve() == best
    tuned.forget()
    assert convolve() == best  # from the file
    code = f"""
import torch, convkit
from convkit.backends import get
assert get("triton").available() is None
from convkit.backends.triton import launch, search
runner = launch.runner
def watch(kernel, programs, device, args, meta):
    print({{name: meta[name] for name in ("M", "COLUMNS", "K", "num_warps", "num_stages")}})
    runner(kernel, programs, device, args, meta)
launch.runner = watch
torch.backends.cudnn.allow_tf32 = False
x, w = torch.randn(1, 8, 5, 4, device="{DEVICE}"), torch.randn(3, 8, 1, 1, device="{DEVICE}")
convkit.functional.conv2d(x, w, backend="triton")
"""
    environment = {**os.environ, **({"TRITON_INTERPRET": "1"} if DEVICE == "cpu" else {})}
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment)
    wanted = {name: best[name] for name in ("M", "COLUMNS", "K", "num_warps", "num_stages")}
    assert shown.stdout.strip() == str(wanted), shown.stderr


def favouring(name: str) -> Callable[[Callable[[], Any]], float]:
    """A timer by which one backend takes a millisecond per operation and everything else two."""

    def seconds(run: Any) -> float:
        run()
        owner = getattr(run.func, "__self__", None)
        return 1e-3 if isinstance(owner, backends.Backend) and owner.name == name else 2e-3

    return seconds


def test_triton_tune_keeps_the_faster_backend(folder: Path) -> None:
    """Forwards and backwards are measured together, for what is chosen automatically; and explain tells."""
    x = torch.randn(1, 8, 5, 5, device=DEVICE)
    leaf = torch.randn(4, 8, 3, 3, device=DEVICE, requires_grad=True)

    def step() -> None:
        y = CF.conv2d(x.clone().requires_grad_(), leaf)
        CF.max_pool2d(y, 2, backend="native").sum().backward()

    before = str(convkit.explain(CF.conv2d, x, leaf))
    assert "measured" not in before and "triton     could run, only when named" in before
    tuning = convkit.tune(step, timer=favouring("triton"))
    ((problem, times),) = tuning.seconds.items()
    assert problem.startswith("conv_fprop float32 1x8x8x8 rows filter 4x8 by 3x3"), problem
    assert times == {"native": pytest.approx(6e-3), "triton": pytest.approx(3e-3)}  # fprop, dgrad and wgrad
    assert {key.split()[0] for key in tuning.tiles} >= {"conv_igemm", "conv_wgrad"} and len(tuning.files) == 1
    assert "triton 3000.0 us, native 6000.0 us" in str(tuning) and str(tuning.files[0]) in str(tuning)

    explained = str(convkit.explain(CF.conv2d, x, leaf))
    assert "triton     runs" in explained and "measured here: 3000.0 us" in explained, explained
    assert "native     could run; measured here: 6000.0 us" in explained, explained
    spec = convkit.explain(CF.conv2d, x, leaf).choices[0]
    assert spec.backend == "triton" and spec.request == "automatic"
    with convkit.backend("native"):  # a named backend is what runs
        assert convkit.explain(CF.conv2d, x, leaf).choices[0].backend == "native"
    # What Triton refuses, and classes that were not measured, are chosen as ever.
    assert convkit.explain(CF.conv2d, x.long(), leaf.detach().long()).choices[0].backend != "triton"
    assert convkit.explain(CF.conv2d, x[..., :3], leaf).choices[0].backend != "triton"
    again = convkit.tune(step, timer=favouring("native"))  # nothing is left to measure
    assert again.seconds == {} and again.tiles == {} and "nothing to measure" in str(again)


def test_triton_tune_adds_to_the_file_of_other_processes(folder: Path) -> None:
    device = torch.device(DEVICE)
    tuned.keep(device, tuned.Winners({"a": (1, 2)}, {}))
    path = tuned.path_of(device)
    assert path is not None
    kept = json.loads(path.read_text())
    kept["tiles"]["another process's"] = [3, 4]
    path.write_text(json.dumps(kept))
    tuned.keep(device, tuned.Winners({"b": (5, 6)}, {"p": {"native": 1.0}}))
    tuned.forget()
    assert tuned.winners(device).tiles == {"a": (1, 2), "b": (5, 6), "another process's": (3, 4)}
    assert tuned.winners(device).fastest("p") == "native" and tuned.winners(device).fastest("q") is None
    assert [p.name for p in folder.iterdir()] == [path.name]


@pytest.mark.parametrize("text", ["{", "[]", '{"generation": 1, "tiles": {"a": ["x"]}, "seconds": {}}'])
def test_triton_tune_survives_a_broken_file(folder: Path, text: str) -> None:
    device = torch.device(DEVICE)
    path = tuned.path_of(device)
    assert path is not None
    path.write_text(text)
    with pytest.warns(UserWarning, match="is not read"):
        assert tuned.winners(device) == tuned.Winners()
    path.write_text(json.dumps({"generation": 0, "tiles": {"a": [1]}, "seconds": {}}))
    tuned.forget()
    assert tuned.winners(device) == tuned.Winners()  # of kernels that are no more


def test_triton_tune_drops_a_tile_that_does_not_fit(folder: Path) -> None:
    from triton.runtime.errors import OutOfResources

    from convkit.backends.triton import search

    runs: list[tiles.Block] = []

    def run(block: tiles.Block) -> None:
        if block.size > 256:
            raise OutOfResources(block.size, 256, "shared memory")
        runs.append(block)

    with search.searching(Clock()):
        search.in_best(run, torch.device("cpu"), lambda: "p", tiles.BLOCKS[0], lambda: reversed(tiles.BLOCKS))
    assert runs[-1] == next(b for b in reversed(tiles.BLOCKS[-2:]) if b.size == 256)


def test_tune_needs_a_gpu() -> None:
    if DEVICE == "cuda":
        pytest.skip("says what happens without a GPU, and there is one")
    code = """
import convkit
try:
    convkit.tune(print)
except RuntimeError as error:
    print(error)
"""
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT).stdout
    assert shown.startswith("convkit.tune has nothing to measure: "), shown
    assert selection._substitute is None


@pytest.mark.parametrize("dynamic", (False, True), ids=("sizes", "symbols"))
def test_triton_is_chosen_in_graphs_where_it_was_faster(folder: Path, dynamic: bool) -> None:
    """One graph without breaks asks the winners while it is traced; sizes that are symbols match every class."""
    w = torch.randn(4, 8, 3, 3, device=DEVICE)
    x = torch.randn(3, 8, 5, 6, device=DEVICE)

    def network(x: torch.Tensor) -> torch.Tensor:
        return CF.max_pool2d(CF.conv2d(x, w), 2)

    def called() -> set[str]:
        torch._dynamo.reset()
        graphs: list[torch.fx.GraphModule] = []

        def keep(graph: torch.fx.GraphModule, inputs: Any) -> Any:
            graphs.append(graph)
            return graph.forward

        result = torch.compile(network, backend=keep, fullgraph=True, dynamic=dynamic)(x)
        torch.testing.assert_close(result, network(x))
        targets = [str(node.target) for graph in graphs for node in graph.graph.nodes]
        return {t.split(".")[0] for t in targets if t.startswith("convkit")}

    assert called() == {"convkit"}
    convkit.tune(network, x, timer=favouring("triton"))
    assert called() == {"convkit_triton"}
    if not dynamic:
        with convkit.backend("native"):  # a named backend is what runs
            assert called() == {"convkit"}


def test_triton_winners_of_several_classes() -> None:
    known = tuned.Winners(
        {},
        {
            "conv 1x8 (1, 1)": {"native": 1.0, "triton": 9.0},
            "conv 64x8 (1, 1)": {"native": 30.0, "triton": 20.0, "else": 1.0},
            "conv 64x16 (1, 1)": {"native": 1.0, "triton": 90.0},
        },
    )
    assert [known.fastest(f"conv {n}x8 (1, 1)") for n in (1, 64, tuned.ANY, 3)] == ["native", "else", "triton", None]
    assert known.fastest("conv *x* (1, 1)") == "native" and known.fastest("conv *x4 (1, 1)") is None
