"""The choice of a backend: precedence, explicit choices that refuse, explain, and what an import does."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, library

import convkit
from convkit import backends
from convkit.autograd.conv import convolution, transposed_convolution
from convkit.autograd.pool import average_pooling, max_pooling
from convkit.backends import native
from convkit.backends.base import RAW_OPS, Backend
from convkit.problem import PADDING_MODES, ConvSpec, PoolSpec
from convkit.testing.catalogue import CONVOLUTIONS, POOLS, TRANSPOSED
from convkit.testing.flat import flat_calls
from convkit.testing.oracle import conv_calls, mismatch, pool_calls, transposed_calls, verify

ROOT = Path(__file__).parent.parent
CPU = torch.device("cpu")
SPEC = ConvSpec((1, 1), (1, 1), (1, 1), (1, 1))
REPLICATED = SPEC._replace(padding_mode=PADDING_MODES.index("replicate"))


def chosen(spec: Any = SPEC, backend: str | None = None) -> str:
    return backends.resolve("conv_fprop", torch.float32, CPU, spec, backend).name


def test_argument_over_context_over_environment_over_automatic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CONVKIT_BACKEND", raising=False)
    assert chosen() == "native"
    monkeypatch.setenv("CONVKIT_BACKEND", "reference")
    assert chosen() == "reference"
    with convkit.backend("aten"):
        assert chosen() == "aten"
        with convkit.backend("native"):
            assert chosen() == "native"
            assert chosen(backend="reference") == "reference"
        assert chosen() == "aten"
    assert chosen() == "reference"
    monkeypatch.setenv("CONVKIT_BACKEND", "")
    assert chosen() == "native"


def test_none_returns_to_the_automatic_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVKIT_BACKEND", "aten")
    with convkit.backend("reference"), convkit.backend(None):
        assert chosen() == "native"


def test_the_context_ends_with_an_exception_and_decorates() -> None:
    with pytest.raises(KeyError), convkit.backend("reference"):
        raise KeyError
    assert chosen() == "native"

    @convkit.backend("reference")
    def inside(depth: int) -> tuple[str, ...]:
        return (chosen(), *(inside(depth - 1) if depth else ()))

    assert inside(2) == ("reference",) * 3 and chosen() == "native"


def test_the_context_is_the_threads_own() -> None:
    seen: list[str] = []
    with convkit.backend("reference"):
        thread = threading.Thread(target=lambda: seen.append(chosen()))
        thread.start()
        thread.join()
    assert seen == ["native"]


def test_an_explicit_choice_never_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CONVKIT_BACKEND", raising=False)
    assert chosen(REPLICATED) == "reference"  # automatic: native reads zero padding only
    with pytest.raises(RuntimeError, match=r"backend 'native', chosen by backend='native', .*zero padding only"):
        chosen(REPLICATED, "native")
    with convkit.backend("native"), pytest.raises(RuntimeError, match=r"with convkit.backend\('native'\)"):
        chosen(REPLICATED)
    monkeypatch.setenv("CONVKIT_BACKEND", "native")
    with pytest.raises(RuntimeError, match="CONVKIT_BACKEND=native"):
        chosen(REPLICATED)


def test_nothing_can_run_it() -> None:
    with pytest.raises(RuntimeError, match=r"no backend can run conv_fprop for torch.bool .*native: .*reference: "):
        backends.resolve("conv_fprop", torch.bool, CPU, SPEC)


def test_unknown_names() -> None:
    with pytest.raises(
        ValueError, match="unknown backend 'cudnn': must be one of 'native', 'triton', 'reference', 'aten'"
    ):
        convkit.backend("cudnn")
    with pytest.raises(ValueError, match="unknown backend"):
        chosen(backend="cudnn")
    with pytest.raises(ValueError, match=r"backend 'native' has no algorithm 'magic': it has .*conv_direct"):
        convkit.backend("native", algorithm="magic")
    with pytest.raises(ValueError, match="needs the name of its backend"):
        convkit.backend(None, algorithm="conv_direct")


def test_registered_backends_are_chosen_by_name_only(monkeypatch: pytest.MonkeyPatch) -> None:
    from convkit.backends import selection

    class Absent(Backend):
        name = "absent"

        def available(self) -> str:
            return "this machine has none"

    monkeypatch.setattr(selection, "_backends", dict(selection._backends))
    backends.register(Absent())
    assert backends.names()[-1] == "absent" and chosen() == "native"
    with pytest.raises(RuntimeError, match="this machine has none"):
        chosen(backend="absent")


def test_an_algorithm_can_be_named() -> None:
    x, w = torch.randn(1, 2, 5, 5), torch.randn(3, 2, 3, 3)
    names = backends.get("native").algorithms()
    assert "conv_direct" in names
    with convkit.backend("native", algorithm="conv_direct"):
        explanation = convkit.explain(convolution, x, w, None, SPEC)
        y = convolution(x, w.requires_grad_(), None, SPEC)
    y.sum().backward()
    assert set(explanation.choices[0].algorithms.values()) == {"conv_direct"}
    torch.testing.assert_close(y, convolution(x, w, None, SPEC, "reference"))


def test_explain_says_who_runs_and_why_not() -> None:
    x, w = torch.randn(1, 2, 5, 5), torch.randn(3, 2, 3, 3)
    (choice,) = convkit.explain(convolution, x, w, None, SPEC).choices
    assert choice.backend == "native" and set(choice.algorithms) == {"conv_fprop", "conv_dgrad", "conv_wgrad"}
    (choice,) = convkit.explain(convolution, x, w, None, REPLICATED).choices
    assert choice.backend == "reference" and "zero padding only" in choice.verdicts["native"]
    with convkit.backend("native"):
        refused = convkit.explain(convolution, x, w, None, REPLICATED)
    assert refused.choices[0].backend is None and "with convkit.backend('native')" in str(refused)

    def network(x: Tensor) -> Tensor:
        y = max_pooling(convolution(x, w, None, SPEC), PoolSpec((2, 2), (1, 1), (0, 0), (0, 0), (1, 1)))
        return transposed_convolution(y, w, None, (4, 4), SPEC)

    explanation = convkit.explain(network, x)
    assert [c.op for c in explanation.choices] == ["conv_fprop", "max_pool", "conv_dgrad"]
    assert str(explanation).count("runs") == 3
    assert convkit.explain("avg_pool", dtype=torch.int32).choices[0].backend == "reference"
    with pytest.raises(ValueError, match="unknown operation 'conv'"):
        convkit.explain("conv")
    with pytest.raises(RuntimeError, match="boom"):
        convkit.explain(lambda: (_ for _ in ()).throw(RuntimeError("boom")))


def test_explain_names_an_algorithm_that_refuses() -> None:
    x, w = torch.randn(1, 4, 5, 5), torch.randn(4, 4, 3, 3)
    with convkit.backend("native", algorithm="conv_depthwise"):
        (choice,) = convkit.explain(convolution, x, w, None, SPEC).choices
        with pytest.raises(RuntimeError):
            convolution(x, w, None, SPEC)
    assert choice.backend is None and "'conv_depthwise' refuses" in choice.verdicts["native"]


def test_the_reference_keeps_its_precision_under_autocast() -> None:
    x, w = torch.randn(1, 4, 5, 5), torch.randn(4, 4, 3, 3)
    expected = convolution(x, w, None, SPEC, "reference")
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(convolution(x, w, None, SPEC, "reference"), expected)


@pytest.mark.parametrize("lacking", ["conv_fprop", "bn_act_grad", "conv_plan"])
def test_a_library_of_another_version_is_refused(lacking: str) -> None:
    """It has to say so: the package is imported without it."""
    stale = library.Library("stale_" + lacking, "DEF")
    for name in native.OPERATORS:
        if name != lacking:
            stale.define(f"{name}() -> ()")

    class Stale(native.Native):
        namespace = stale.ns

    assert Stale().available() == f"the compiled library is of another version, without {lacking}: build it again"


def test_every_backend_has_every_raw_operation() -> None:
    for name in backends.names():
        implementation = type(backends.get(name))
        lacking = [op for op in RAW_OPS if getattr(implementation, op) is getattr(Backend, op)]
        missing = [op for op in lacking if backends.get(name).supports(op, torch.float32, CPU, None) is None]
        assert missing == [], f"{name} lacks {missing} without giving a reason"


@pytest.mark.parametrize("case", [*CONVOLUTIONS, *TRANSPOSED, *POOLS], ids=lambda c: c.name)
def test_aten_agrees_where_it_runs(case: Any, reference: Backend) -> None:
    aten = backends.get("aten")
    calls = (
        conv_calls(case, torch.float64)
        if case in CONVOLUTIONS
        else transposed_calls(case, torch.float64)
        if case in TRANSPOSED
        else pool_calls(case, torch.float64, reference)
    )
    for call in calls:
        if call.arguments.get("norm"):
            with pytest.raises(RuntimeError, match="semantics 'torch' only"):
                call.run(aten)
        elif aten.supports(call.op, torch.float64, CPU, call.spec) is None:
            for expected, result in verify(call, aten, reference):
                assert mismatch(result, expected) is None, f"{call.op}: {mismatch(result, expected)}"


def test_aten_agrees_on_flat_indices(reference: Backend) -> None:
    aten = backends.get("aten")
    for name, call in flat_calls(torch.float64):
        for expected, result in verify(call, aten, reference):
            assert mismatch(result, expected) is None, f"{name} {call.op}: {mismatch(result, expected)}"


def test_meta_tensors_have_the_results_sizes_and_strides() -> None:
    for name in ("native", "reference"):
        with convkit.backend(name):
            for memory_format in (torch.contiguous_format, torch.channels_last):
                x = torch.randn(2, 3, 6, 5).contiguous(memory_format=memory_format)
                w = torch.randn(4, 3, 3, 2)

                def run(x: Tensor, w: Tensor) -> list[Tensor]:
                    pool = PoolSpec((3, 2), (2, 1), (1, 1), (0, 1), (1, 1), True)
                    y, indices = max_pooling(x, pool, return_indices=True)
                    return [convolution(x, w, None, SPEC), y, indices, average_pooling(x, pool)]

                for real, meta in zip(run(x, w), run(x.to("meta"), w.to("meta"))):
                    assert meta.is_meta and (meta.shape, meta.stride()) == (real.shape, real.stride())


def python(code: str, **kwargs: Any) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, **kwargs)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_is_cheap_and_decides_nothing() -> None:
    code = """
import torch, sys, time, os
start = time.process_time()
import convkit
elapsed = time.process_time() - start
assert not {"triton", "torch._dynamo", "torch._inductor"} & set(sys.modules)
os.environ["CONVKIT_BACKEND"] = "reference"
from convkit.backends import resolve
assert resolve("conv_bgrad", torch.float32, torch.device("cpu")).name == "reference"
print(elapsed)
"""
    # "Well under a second" of the processor's time: other tests may keep the machine busy.
    assert float(python(code, cwd=ROOT)) < 1.0


def test_without_the_compiled_library_the_reference_remains(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "convkit", tmp_path / "convkit", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    code = """
import torch, convkit
y = convkit.functional.conv2d(torch.ones(1, 1, 3, 3), torch.ones(1, 1, 2, 2))
assert y.flatten().tolist() == [4, 4, 4, 4]
explanation = str(convkit.explain(convkit.functional.max_pool2d, torch.ones(1, 1, 4, 4), 2))
assert "reference  runs" in explanation and "not installed" in explanation, explanation
try:
    convkit.functional.max_pool2d(torch.ones(1, 1, 4, 4), 2, backend="native")
except RuntimeError as error:
    assert "not installed" in str(error)
else:
    raise AssertionError("an explicit choice fell back")
"""
    python(code, cwd=tmp_path)
