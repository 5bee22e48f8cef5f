"""``make gpu``: builds, tests, checks and times the GPU kernels on the machine at hand.

    python tools/gpu.py                    # all stages
    python tools/gpu.py test sanitizer     # some

Every stage runs even if one before it failed, within --seconds (default 460); the last line sums them up. Uses the
interpreter as it is, and no network. CONVKIT_LIBRARY names a library that was built elsewhere. A stage that cannot
run here is "not run", with the reason, and no failure.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import date
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "build" / "gpu"
BUILT = ROOT / "build" / "release" / "convkit_ops.so"
LIBRARY = Path(os.environ.get("CONVKIT_LIBRARY") or BUILT).absolute()  # stages run in the repository's folder
SANITIZER = "cuda*/bin/compute-sanitizer"
# What the checking tools run, some hundred times slower than the kernels: one case in so many, of every kind.
SHARE = 60
# How the checking tools refuse the device, the driver or the system, in lines of their own: those begin with nine
# equality signs, and what else stands in the output the tests said.
REFUSED = (
    r"(?:[Dd]evice not supported|not supported on|[Uu]nsupported|LibraryNotLoaded|Failed to initialize"
    r"|terminated before first instrumented API call)"
)
REFUSALS = re.compile(rf"^={{9}} .*{REFUSED}", re.MULTILINE)
# What they write when they find something, or a test when it fails.
FINDINGS = re.compile(
    rf"^={{9}} +(?:Invalid|Race|Potential|Program hit|Uninitialized|Error(?!.*{REFUSED}))|FAILED|^E  ", re.MULTILINE
)
# Every tensor is an allocation of its own: what follows one within a block of torch's allocator is not out of bounds.
UNCACHED = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}


class Outcome(NamedTuple):
    """What became of a stage: passed, FAILED, not run or cut short, and a word on it."""

    verdict: str
    note: str = ""


def environment() -> dict[str, str]:
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"CONVKIT_LIBRARY": str(LIBRARY), "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def end(process: subprocess.Popen[str]) -> None:
    """Ends a process with its children, if any of them is left."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def run(command: list[str], seconds: float, more: Mapping[str, str] | None = None) -> tuple[int | None, str]:
    """Runs a command, shows and returns its output; status None: it took longer, and was ended with its children.

    ``more``: variables of its environment.
    """
    print("$ " + " ".join(command), flush=True)
    lines: list[str] = []
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment() | dict(more or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    signal.signal(signal.SIGALRM, lambda *_: end(process))
    begin = time.monotonic()
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
        status: int | None = process.wait()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    if time.monotonic() - begin >= seconds:
        status = None
    return status, "".join(lines)


def judged(status: int | None, output: str) -> Outcome:
    last = (output.strip().splitlines() or [""])[-1].strip("= ")
    if status is None:
        return Outcome("FAILED", "out of time")
    return Outcome("passed" if status == 0 else "FAILED", last)


def missing_gpu() -> str | None:
    """None, or why nothing can run: asked of the library as users' calls ask it."""
    question = (
        "import torch\nfrom convkit import backends\n"
        "reason = 'no CUDA device' if not torch.cuda.is_available() else backends.get('native').supports("
        "'conv_fprop', torch.float32, torch.device('cuda', 0), None)\nprint('reason:', reason or '')"
    )
    done = subprocess.run([sys.executable, "-c", question], cwd=ROOT, env=environment(), capture_output=True, text=True)
    if done.returncode != 0:
        return (done.stderr.strip().splitlines() or ["the package does not import"])[-1]
    return done.stdout.rpartition("reason:")[2].strip() or None


def build(seconds: float) -> Outcome:
    """The library with machine code for this GPU alone, unless CONVKIT_CUDA_ARCHS says otherwise."""
    if LIBRARY != BUILT:
        return Outcome("not run", f"CONVKIT_LIBRARY is {LIBRARY.name}, built elsewhere")
    if lacking := missing_tools():
        return Outcome("not run", f"there is no {' and no '.join(lacking)}")
    archs = os.environ.get("CONVKIT_CUDA_ARCHS") or own_arch()
    command = ["env", "CONVKIT_CUDA=1", f"CONVKIT_CUDA_ARCHS={archs}", sys.executable, "tools/native_build.py"]
    return judged(*run(command, seconds))


def missing_tools() -> list[str]:
    """What the build needs and this machine lacks."""
    tools = native_build()
    found = {"cmake": tools.find_cmake(), "ninja": tools.find_tool("ninja"), "nvcc": tools.find_nvcc()}
    return [name for name, path in found.items() if path is None]


def native_build() -> ModuleType:
    """tools/native_build.py, which is in no package."""
    spec = importlib.util.spec_from_file_location("native_build", ROOT / "tools" / "native_build.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def own_arch() -> str:
    """``90a-real`` for a GPU of compute capability 9.0; machine code and PTX for 8.0 where there is none."""
    question = "import torch; print(*torch.cuda.get_device_capability() if torch.cuda.is_available() else ())"
    shown = subprocess.run([sys.executable, "-c", question], capture_output=True, text=True).stdout.split()
    if len(shown) != 2:
        return "80"
    return "".join(shown) + ("a-real" if int(shown[0]) >= 9 else "-real")


def pytest(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests/test_gpu.py", *arguments]


def workers() -> list[str]:
    """Processes that share the GPU, where the interpreter has what starts them: most of a test's time is the host's."""
    parallel = subprocess.run([sys.executable, "-c", "import xdist"], capture_output=True).returncode == 0
    return ["-n", str(min(8, os.cpu_count() or 1)), "--dist", "worksteal"] if parallel else []


def test(seconds: float) -> Outcome:
    """All tests that need a GPU, in a few processes that share it. Their file needs no package but pytest."""
    return judged(*run(pytest(*workers()), seconds))


def sanitizer(seconds: float) -> Outcome:
    """compute-sanitizer's memcheck and racecheck, each over a few cases of every kind and both halves of the time."""
    tool = shutil.which("compute-sanitizer") or next(iter(sorted(map(str, Path("/usr/local").glob(SANITIZER)))), None)
    if tool is None:
        return Outcome("not run", "there is no compute-sanitizer")
    outcomes = []
    for check in ("memcheck", "racecheck"):
        options = ["--tool", check, "--error-exitcode", "86", "--target-processes", "all"]
        if check == "memcheck":  # torch asks drivers for what they may lack; the tests look at their own calls
            options += ["--report-api-errors", "no"]
        # Neither graphs nor the allocator's statistics are to be had without a cache.
        kept = "not 32_bits and not second_gpu and not capture and not memory_comes"
        reduced = pytest("--share", str(SHARE), "-k", kept)
        status, output = run([tool, *options, *reduced], seconds / 2, UNCACHED)
        found_some = FINDINGS.search(output) is not None
        if status not in (0, None) and not found_some and REFUSALS.search(output):
            outcomes.append(Outcome("not run", f"{check}: the tool refuses this machine"))
        elif status is None and not found_some:
            outcomes.append(Outcome("cut short", f"{check}: nothing found until time ran out"))
        else:
            found = judged(status, output)
            outcomes.append(Outcome(found.verdict, f"{check}: {found.note}"))
    for verdict in ("FAILED", "not run", "cut short"):
        if any(o.verdict == verdict for o in outcomes):
            return Outcome(verdict, "; ".join(o.note for o in outcomes))
    return Outcome("passed", "; ".join(o.note for o in outcomes))


def triton(seconds: float) -> Outcome:
    """The Triton kernels, compiled for this GPU, through the tests that run them in the interpreter elsewhere."""
    if subprocess.run([sys.executable, "-c", "import triton"], capture_output=True).returncode != 0:
        return Outcome("not run", "triton is not installed")
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return Outcome("not run", "there is no C compiler, by which triton builds what launches its kernels")
    files = ("tests/test_triton.py", "tests/test_triton_tuning.py")
    return judged(*run([sys.executable, "-m", "pytest", "-q", *workers(), *files], seconds))


# Title, and what bench.run is told; each gets its share of the stage's time.
RUNS = (
    ("bfloat16", ("--dtype", "bfloat16", "--backward", "--relu")),
    ("float32", ("--dtype", "float32", "--backward")),
    ("float32 with TF32", ("convs", "--dtype", "float32", "--tf32", "--backward")),
    ("bfloat16 beside Triton and compiled code", ("--dtype", "bfloat16", "--compile", "--backends", "triton")),
)


def bench(seconds: float) -> Outcome:
    """The suite beside PyTorch; writes bench/results/<gpu>-<date>.json and a page of tables beside it."""
    runs, failed = {}, []
    FOLDER.mkdir(parents=True, exist_ok=True)
    share = (seconds - 30) / len(RUNS)
    for title, options in RUNS:
        out = FOLDER / "run.json"
        out.unlink(missing_ok=True)
        # No row is begun in the last third: one may take long to set up.
        limits = ["--minutes", f"{share / 60 * 2 / 3:.2f}", "--seconds", "0.1", "--json", str(out)]
        status, _ = run([sys.executable, "-m", "bench.run", "--device", "cuda", *options, *limits], share)
        if status != 0:
            failed.append(f"{title}: " + ("out of time" if status is None else "a wrong result or an error"))
        if out.exists():
            runs[title] = json.loads(out.read_text())
    if not runs:
        return Outcome("FAILED", "; ".join(failed))
    about = next(iter(runs.values()))["about"]
    name = re.sub(r"\W+", "-", about["gpu"].lower()).strip("-")
    results = ROOT / "bench" / "results" / f"{name}-{date.today().isoformat()}.json"
    results.write_text(json.dumps({"runs": runs}, indent=1) + "\n")
    page = results.with_suffix(".md")
    run([sys.executable, "-m", "bench.report", str(results), "--markdown", str(page)], 30)
    return Outcome("FAILED" if failed else "passed", "; ".join([*failed, f"{results.relative_to(ROOT)} and .md"]))


STAGES: dict[str, Callable[[float], Outcome]] = {
    "build": build,
    "test": test,
    "sanitizer": sanitizer,
    "triton": triton,
    "bench": bench,
}


def stage(name: str, seconds: float) -> Outcome:
    if name != "build" and (reason := missing_gpu()) is not None:
        return Outcome("not run", reason)
    try:
        return STAGES[name](seconds)
    except (OSError, subprocess.SubprocessError) as error:
        return Outcome("FAILED", str(error))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stages", nargs="*", metavar="stage", help=", ".join(STAGES) + "; nothing: all of them")
    parser.add_argument("--seconds", type=float, default=460, help="the most that a stage takes")
    options = parser.parse_args(arguments)
    if unknown := set(options.stages) - set(STAGES):
        parser.error(f"unknown stage {', '.join(sorted(unknown))}: must be one of {', '.join(STAGES)}")
    outcomes = {}
    for name in options.stages or STAGES:
        print(f"\n=== {name}", flush=True)
        begin = time.monotonic()
        outcomes[name] = stage(name, options.seconds)
        verdict, note = outcomes[name]
        print(f"=== {name}: {verdict} ({note}) {time.monotonic() - begin:.0f} s", flush=True)
    said = (f"{name} {o.verdict}" + (f" ({o.note})" if o.verdict != "passed" else "") for name, o in outcomes.items())
    print("\ngpu: " + ", ".join(said))
    return 1 if any(o.verdict == "FAILED" for o in outcomes.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
