"""The command line: what it prints, and the exit status that scripts rely on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from convkit import backends
from convkit.__main__ import main
from convkit.backends.reference import Reference
from convkit.problem import PoolSpec

ROOT = Path(__file__).parent.parent


def test_info_names_versions_instruction_sets_and_every_backend(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    shown = capsys.readouterr().out
    for word in ("convkit", torch.__version__, "instruction set in use", "CUDA", *backends.names()):
        assert word in shown


def test_check_agrees_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--op", "avg_pool", "--op", "max_pool", "--dtype", "float32", "--backend", "native"]) == 0
    shown = capsys.readouterr().out
    assert "2 of 2 combinations agree" in shown


class _OffByOne(Reference):
    """The reference, but avg_pool counts one element too many."""

    name = "off_by_one"

    def avg_pool(self, x: Tensor, spec: PoolSpec, channels_last: bool) -> Tensor:
        window = torch.tensor(spec.kernel_size).prod()
        return super().avg_pool(x, spec, channels_last) * (window / (window + 1))


def test_check_fails_on_a_wrong_backend(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    known = dict(backends.selection._backends)
    monkeypatch.setattr(backends.selection, "_backends", known)
    backends.register(_OffByOne())
    assert main(["check", "--op", "avg_pool", "--dtype", "float32", "--backend", "off_by_one"]) == 1
    assert "FAIL  avg_pool off_by_one float32" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["nothing"], ["info", "--what"], ["check", "--op", "conv_nothing"]])
def test_wrong_usage_exits_with_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main(arguments)
    assert raised.value.code == 2


def test_runs_as_a_module() -> None:
    shown = subprocess.run([sys.executable, "-m", "convkit", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert shown.returncode == 0
    assert all(command in shown.stdout for command in ("info", "check", "demo", "bench"))
