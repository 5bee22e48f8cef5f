"""How exact the CPU kernels' activations are: errors in units of the last place, over the whole range of floats.

Each instruction set runs in a process of its own, as it is chosen once.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from convkit import backends
from convkit.backends.base import Norm
from convkit.problem import ACTIVATIONS

ROOT = Path(__file__).parent.parent
EXACT: dict[str, Callable[[Tensor], Tensor]] = {
    "elu": lambda v: torch.where(v > 0, v, torch.expm1(v)),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "silu": lambda v: v * torch.sigmoid(v),
    "gelu": lambda v: v * 0.5 * torch.special.erfc(-v * 0.5**0.5),
}
#: Units in the last place; of gelu below -0.8 v^2 more, as a rounding of v^2 / 2 counts so often.
BOUND = 4.0


def samples() -> Tensor:
    """Floats of every magnitude, both signs, and many of the sizes that activations bend at."""
    bits = torch.arange(0x3000_0000, 0x4340_0000, 0x281, dtype=torch.int32).view(torch.float32)
    near = torch.linspace(0, 20, 200_003)
    v = torch.cat([bits, near, torch.tensor([0.0, 1e-40, 2e-38, 1e30])])
    return torch.cat([v, -v])


def errors(v: Tensor) -> dict[str, float]:
    """The largest error of each activation, as a multiple of what it may be."""
    native, one, zero = backends.get("native"), torch.ones(1), torch.zeros(1)
    found = {}
    for name, function in EXACT.items():
        number = ACTIVATIONS.index(name)
        got = native.bn_act(v.view(1, 1, -1), Norm(zero, one, activation=number, alpha=1.0), False).view(-1)
        exact = function(v.double())
        size = exact.abs().float()
        unit = torch.nextafter(size, torch.tensor(float("inf"))).double() - size.double()  # at least 2^-149
        allowed = unit * (BOUND + torch.where(v < -0.8, v.double() ** 2, 0) * (name == "gelu"))
        if name == "silu":  # v times a number that may be as small as a unit
            allowed = allowed + v.double().abs() * 2.0**-149
        found[name] = float(((got.double() - exact).abs() / allowed).max())
    return found


@pytest.mark.parametrize("isa", ["portable", "avx2", "avx512"])
def test_activations_are_exact_to_some_units_in_the_last_place(isa: str) -> None:
    program = "import json, test_elementary as t; from convkit.build_info import build_info as b; "
    program += "print(json.dumps([b()['instruction_set'], t.errors(t.samples())]))"
    environment = {**os.environ, "CONVKIT_CPU_ISA": isa, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}:{ROOT}/tests"}
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    ran, found = json.loads(done.stdout)
    if ran != isa:
        pytest.skip(f"this processor does not run {isa}")
    assert max(found.values()) <= 1, found
    assert min(found.values()) > 0.02, found  # a bound that means something
