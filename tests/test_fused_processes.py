"""Batch norm's statistics over two processes, as one process computes them of the whole batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

import convkit

ROOT = Path(__file__).parent.parent
PARTS = ((0, 1), (1, 4))  # the images of each process: unequal numbers, and one image of one pixel in the first


def case(size: int) -> tuple[convkit.nn.ConvBNReLU2d, Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    layer = convkit.nn.ConvBNReLU2d(2, 3, 1, activation="elu").double()
    torch.nn.init.uniform_(layer.bn.weight, 0.5, 1.5)
    x, residual, dz = (torch.randn(4, c, size, size, dtype=torch.float64) for c in (2, 3, 3))
    return layer, x, residual, dz


def step(layer: torch.nn.Module, x: Tensor, residual: Tensor, dz: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """What each process has of its own, and what adds up over processes."""
    x, residual = x.clone().requires_grad_(), residual.clone().requires_grad_()
    z = layer(x, residual)
    dx, dresidual, *parameters = torch.autograd.grad(z, [x, residual, *layer.parameters()], dz)
    return [z.detach(), dx, dresidual], parameters


def process(rank: int, store: str) -> None:
    dist.init_process_group("gloo", f"file://{store}", rank=rank, world_size=2)
    begin, end = PARTS[rank]
    for size in (3, 1):
        layer, x, residual, dz = case(size)
        wanted, sums = step(layer, x, residual, dz)
        shared = case(size)[0]
        shared.process_group = dist.group.WORLD
        own, parameters = step(shared, *(t[begin:end] for t in (x, residual, dz)))
        for got, want in zip(own, wanted):
            torch.testing.assert_close(got, want[begin:end])
        for got, want in zip(parameters, sums):
            dist.all_reduce(got)
            torch.testing.assert_close(got, want)
        for key, value in shared.state_dict().items():
            torch.testing.assert_close(value, layer.state_dict()[key])
        # In evaluation each process is on its own.
        with torch.no_grad():
            torch.testing.assert_close(shared.eval()(x[begin:end]), layer.eval()(x)[begin:end])
    shared.train()
    z = shared(x[begin:end].clone().requires_grad_())
    with pytest.raises(RuntimeError, match="second derivative of batch normalisation over several processes"):
        torch.autograd.grad(z.sum(), list(shared.parameters()), create_graph=True)
    dist.destroy_process_group()


def test_statistics_over_two_processes(tmp_path: Path) -> None:
    program = "import sys; sys.path[:0] = ['tests']; import test_fused_processes as t; t.process({}, {!r})"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", program.format(rank, str(tmp_path / "store"))],
            cwd=ROOT,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    errors = [p.communicate(timeout=120)[1] for p in running]
    assert [p.returncode for p in running] == [0, 0], "\n".join(e[-1500:] for e in errors)
