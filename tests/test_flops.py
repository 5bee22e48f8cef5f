"""FlopCounterMode counts a converted model as it counts PyTorch's, whoever computes it."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

import convkit
from convkit.backends.base import Backend
from tests.networks import UNet, Video, images, residual_network
from tests.on_device import DEVICE

ROOT = Path(__file__).parent.parent


def grouped() -> nn.Module:
    """Strided, depthwise, dilated, grouped and transposed, in which no two sizes are equal."""
    return nn.Sequential(
        nn.Conv2d(4, 8, (3, 2), stride=(2, 1), padding=1),
        nn.Conv2d(8, 16, 3, groups=8, dilation=2, padding="same"),
        nn.Conv2d(16, 12, 3, groups=4, padding=(2, 0)),
        nn.ConvTranspose2d(12, 6, 3, stride=2, groups=3, output_padding=1),
    )


def line() -> nn.Module:
    return nn.Sequential(nn.Conv1d(3, 6, 5, 2, 2), nn.ReLU(), nn.ConvTranspose1d(6, 4, 4, 3), nn.Linear(25, 2))


def volume() -> nn.Module:
    return nn.Sequential(nn.Conv3d(2, 4, 3, (1, 2, 1), 1), nn.MaxPool3d(2), nn.ConvTranspose3d(4, 2, 2, groups=2))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "residual": (residual_network, images(2, 3, 12, 12)),
    "u-net": (UNet, images(2, 3, 8, 8)),
    "video": (Video, images(2, 3, 4, 5, 6)),
    "grouped": (grouped, images(2, 4, 9, 11)),
    "line": (line, images(2, 3, 15)),
    "volume": (volume, images(1, 2, 4, 6, 5)),
}


def count(model: nn.Module, x: Tensor, backwards: bool = True) -> int:
    """How many in forward, or in forward and backward."""
    with FlopCounterMode(display=False) as counter:
        y = model(x)
        if backwards:
            y.sum().backward()
    return counter.get_total_flops()


def converted(model: nn.Module) -> nn.Module:
    twin = copy.deepcopy(model)
    assert convkit.convert(twin).replaced
    return twin


@pytest.mark.parametrize("backwards", [False, True], ids=["forward", "both"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_converted_model_counts_as_pytorchs(name: str, backwards: bool) -> None:
    make, x = NETWORKS[name]
    model = make()
    twin = converted(model)
    wanted = count(model, x, backwards)
    assert wanted > 0 and count(twin, x, backwards) == wanted
    x = x.clone().requires_grad_()
    assert count(twin, x, backwards) == count(model, x, backwards)


@pytest.mark.parametrize("name", ["residual", "u-net", "video"])
def test_a_fused_model_counts_as_pytorchs(name: str) -> None:
    make, x = NETWORKS[name]
    model = make()
    twin = copy.deepcopy(model)
    assert convkit.fuse(twin).fused
    assert count(twin, x) == count(model, x)  # where the convolution gives its statistics along
    with torch.no_grad():
        assert count(twin.eval(), x, False) == count(model.eval(), x, False)


def test_the_parts_of_a_model_are_counted() -> None:
    model = residual_network()
    counts = []
    for m in (model, converted(model)):
        with FlopCounterMode(display=False) as counter:
            m(images(2, 3, 12, 12)).sum().backward()
        counts.append({part: sum(by_op.values()) for part, by_op in counter.get_flop_counts().items()})
    assert counts[1] == counts[0] and len(counts[0]) > 10


def test_tensors_without_data_are_counted() -> None:
    model, x = grouped(), images(2, 4, 9, 11)
    wanted = count(model, x)
    assert count(converted(model).to("meta"), x.to("meta")) == wanted
    twin = converted(model)
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        assert count(twin, fake.from_tensor(x)) == wanted


def test_pytorchs_own_operators_are_counted() -> None:
    model, x = grouped(), images(2, 4, 9, 11)
    with convkit.backend("aten"):
        assert count(converted(model), x) == count(model, x)


def test_triton_is_counted(triton: Backend) -> None:
    """Its kernels are launched from Python, where no mode sees them."""
    for name, (make, x) in NETWORKS.items():
        model = make()
        wanted, twin, x = count(model, x), converted(model).to(DEVICE), x.to(DEVICE)
        with convkit.backend("triton"):
            if name == "line":  # one with data: the interpreter is slow
                assert count(twin, x) == wanted
            with FakeTensorMode(allow_non_fake_inputs=True) as fake:
                assert count(twin, fake.from_tensor(x)) == wanted


COUNTED = """
model = convkit.nn.Conv2d(2, 4, 3)
with FlopCounterMode(display=False) as counter:
    model(torch.ones(1, 2, 5, 6)).sum().backward()
assert counter.get_total_flops() == 2 * 2 * (2 * 4 * 9 * 12), counter.get_total_flops()
"""


@pytest.mark.parametrize("first", ["convkit", "counter"])
@pytest.mark.parametrize("choice", ["native", "triton"])
def test_the_counter_may_be_imported_before_or_after(first: str, choice: str, triton: Backend) -> None:
    imports = ["import convkit", "from torch.utils.flop_counter import FlopCounterMode"]
    ordered = imports if first == "convkit" else imports[::-1]
    device = "torch.set_default_device('cuda' if torch.cuda.is_available() else 'cpu')"
    environment = f"import os; os.environ.update(TRITON_INTERPRET='1', CONVKIT_BACKEND='{choice}')"
    unasked = "import sys; assert 'torch.utils.flop_counter' not in sys.modules" if first == "convkit" else ""
    code = "\n".join([environment, "import torch", device, ordered[0], unasked, ordered[1], COUNTED])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.returncode == 0, done.stderr
