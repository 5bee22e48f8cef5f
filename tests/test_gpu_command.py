"""``make gpu`` where there is no GPU, and its stages with other programs in the place of those that need one."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.test_build import load_tool

ROOT = Path(__file__).parent.parent


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The tool on a machine with a GPU, as far as it asks."""
    tool = load_tool("gpu")
    monkeypatch.setattr(tool, "missing_gpu", lambda: None)
    return tool


def program(tmp_path: Path, text: str) -> str:
    path = tmp_path / "program"
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)
    return str(path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="shows what a machine without a GPU answers")
def test_without_a_gpu_nothing_fails(capfd: pytest.CaptureFixture[str]) -> None:
    assert load_tool("gpu").main(["test", "bench"]) == 0
    last = capfd.readouterr().out.splitlines()[-1]
    assert last == "gpu: test not run (no CUDA device), bench not run (no CUDA device)"


def test_a_failure_hides_no_other_stage(gpu: Any, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    planned = {"build": None, "test": gpu.Outcome("FAILED", "2 failed"), "triton": None, "bench": None}
    for name, outcome in planned.items():
        monkeypatch.setitem(gpu.STAGES, name, lambda seconds, outcome=outcome: outcome or gpu.Outcome("passed", "well"))

    def broken(seconds: float) -> None:
        raise OSError("no such program")

    monkeypatch.setitem(gpu.STAGES, "sanitizer", broken)
    assert gpu.main([]) == 1
    last = capfd.readouterr().out.splitlines()[-1]
    assert (
        last
        == "gpu: build passed, test FAILED (2 failed), sanitizer FAILED (no such program), triton passed, bench passed"
    )


def test_a_command_is_ended_with_its_children(gpu: Any, tmp_path: Path) -> None:
    status, output = gpu.run([program(tmp_path, "echo begun\nsleep 60 &\nsleep 60\n")], 1.0)
    assert (status, output) == (None, "begun\n")
    assert gpu.judged(status, output) == ("FAILED", "out of time")
    status, output = gpu.run([program(tmp_path, "echo $CONVKIT_LIBRARY\nexit 3\n")], 60)
    assert status == 3 and output == f"{gpu.LIBRARY}\n"


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("echo '3 passed'", "passed"),
        ("echo '========= Error: Device not supported'; exit 1", "not run"),
        ("echo '========= Error: Target application terminated before first instrumented API call'; exit 1", "not run"),
        ("echo '========= ERROR SUMMARY: 4 errors'; exit 86", "FAILED"),
        # What a test says of something unsupported is no refusal, and a finding beside a refusal is one still.
        ("echo 'complex64 is not supported on a GPU'; exit 86", "FAILED"),
        (
            "echo '========= Error: Unsupported'; echo '========= Invalid __global__ read of size 4 bytes'; exit 86",
            "FAILED",
        ),
        ("echo '========= Unsupported'; echo '========= Error: Race reported between Write access'; exit 86", "FAILED"),
    ],
)
def test_a_tool_that_refuses_is_no_failure_of_ours(
    gpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, verdict: str
) -> None:
    monkeypatch.setattr(gpu.shutil, "which", lambda name: program(tmp_path, text + "\n"))
    outcome = gpu.sanitizer(60)
    assert outcome.verdict == verdict and "memcheck" in outcome.note and "racecheck" in outcome.note


def test_the_checks_run_without_a_cache_of_memory(gpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or what lies behind a tensor in the cache's block is memory like any other; what needs the cache is left out."""
    tool = program(tmp_path, f'echo "$PYTORCH_NO_CUDA_MEMORY_CACHING $*" >> {tmp_path}/said\n')
    monkeypatch.setattr(gpu.shutil, "which", lambda name: tool)
    assert gpu.sanitizer(60).verdict == "passed"
    memcheck, racecheck = (tmp_path / "said").read_text().splitlines()
    assert memcheck.startswith("1 --tool memcheck") and "--report-api-errors no" in memcheck
    assert racecheck.startswith("1 --tool racecheck") and "report-api" not in racecheck
    assert all(line.endswith("and not capture and not memory_comes") for line in (memcheck, racecheck))
    names = re.findall(r"def (test_\w+)", (ROOT / "tests" / "test_gpu.py").read_text())
    for word in ("32_bits", "second_gpu", "capture", "memory_comes"):
        assert any(word in name for name in names), word


@pytest.mark.parametrize("lacking", ["cmake", "ninja", "nvcc"])
def test_a_build_without_its_tools_is_not_run(gpu: Any, monkeypatch: pytest.MonkeyPatch, lacking: str) -> None:
    tools = {name: None if name == lacking else f"/bin/{name}" for name in ("cmake", "ninja", "nvcc")}
    found = SimpleNamespace(
        find_cmake=lambda: tools["cmake"], find_nvcc=lambda: tools["nvcc"], find_tool=lambda name: tools[name]
    )
    monkeypatch.setattr(gpu, "native_build", lambda: found)
    monkeypatch.setattr(gpu, "LIBRARY", gpu.BUILT)
    assert gpu.build(60) == ("not run", f"there is no {lacking}")


def test_triton_without_a_c_compiler_is_not_run(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton", reason="an optional dependency (convkit[triton])")
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(gpu.shutil, "which", lambda name: None)
    outcome = gpu.triton(60)
    assert outcome.verdict == "not run" and "C compiler" in outcome.note


def test_output_that_is_no_text_and_a_process_that_is_gone(gpu: Any, tmp_path: Path) -> None:
    assert gpu.run([program(tmp_path, "printf 'a\\377b\\n'\n")], 60) == (0, "a\ufffdb\n")
    gone = subprocess.Popen(["true"], start_new_session=True, text=True)
    gone.wait()
    gpu.end(gone)


def test_a_library_by_a_relative_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of the folder that the command was started in; its stages run in the repository's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CONVKIT_LIBRARY", "elsewhere/ops.so")
    library = load_tool("gpu").LIBRARY
    assert library == tmp_path / "elsewhere" / "ops.so"


@pytest.mark.parametrize(
    ("text", "verdict"), [("", "cut short"), ("echo '========= Invalid __global__ write of size 4 bytes'\n", "FAILED")]
)
def test_a_check_out_of_time_found_nothing_or_failed(
    gpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, verdict: str
) -> None:
    monkeypatch.setattr(gpu.shutil, "which", lambda name: program(tmp_path, text + "sleep 60\n"))
    assert gpu.sanitizer(1.0).verdict == verdict


def test_results_are_kept_by_gpu_and_day(gpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "ROOT", tmp_path)
    monkeypatch.setattr(gpu, "FOLDER", tmp_path / "build")
    (tmp_path / "bench" / "results").mkdir(parents=True)
    commands: list[list[str]] = []

    def run(command: list[str], seconds: float) -> tuple[int, str]:
        commands.append(command)
        if "--json" in command:
            Path(command[command.index("--json") + 1]).write_text(json.dumps({"about": {"gpu": "NVIDIA H200"}}))
        return ("float32" in command and "--tf32" not in command), ""

    monkeypatch.setattr(gpu, "run", run)
    outcome = gpu.bench(300)
    assert outcome.verdict == "FAILED" and "float32: a wrong result or an error; bench/results/nvidia" in outcome.note
    (kept,) = (tmp_path / "bench" / "results").iterdir()
    assert re.fullmatch(r"nvidia-h200-\d{4}-\d\d-\d\d\.json", kept.name)
    assert list(json.loads(kept.read_text())["runs"]) == [title for title, _ in gpu.RUNS]
    from bench.run import parse

    for command in commands[:-1]:
        parse(command[command.index("bench.run") + 1 :])


def test_the_stages_of_make_are_the_tools(gpu: Any) -> None:
    text = (ROOT / "Makefile").read_text()
    assert re.search(r"^GPU_STAGES = (.*)$", text, re.MULTILINE)[1].split() == [f"gpu-{name}" for name in gpu.STAGES]
