"""What follows a pooling may write into its result, as behind PyTorch's compositions, though backward reads that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.checkpoint import checkpoint

import convkit
import convkit.functional as CF
from convkit.backends.base import Backend
from convkit.testing.memory import kept_bytes

Function = Callable[[Tensor], Tensor]


def expectation(x: Tensor) -> Tensor:
    """Of a draw from each window, by operations of PyTorch's; x is positive."""
    return F.avg_pool2d(x * x, 2) / F.avg_pool2d(x, 2)


POOLS: dict[str, tuple[Function, Function]] = {
    "lp": (lambda x: CF.lp_pool2d(x, 2.5, 2), lambda x: F.lp_pool2d(x, 2.5, 2)),
    "norm": (lambda x: CF.lp_pool2d(x, 3.0, 2, semantics="norm"), lambda x: F.lp_pool2d(x, 3.0, 2)),
    "expectation": (lambda x: CF.stochastic_pool2d(x, 2, training=False), expectation),
}


def into_a_view(y: Tensor) -> Tensor:
    y.flatten(1)[:, ::2].mul_(3)
    return y


WRITES: dict[str, Function] = {
    "nowhere": lambda y: y,
    "into it": lambda y: y.mul_(3),
    "into a view": into_a_view,
}


def image() -> Tensor:
    return (torch.rand(2, 3, 6, 4, dtype=torch.float64) + 0.1).requires_grad_()


def gradient(f: Function, x: Tensor, **how: Any) -> Tensor:
    return torch.autograd.grad(f(x).square().sum(), x, **how)[0]


def offloaded(f: Function, x: Tensor) -> Tensor:
    with torch.autograd.graph.save_on_cpu():
        y = f(x)
    return torch.autograd.grad(y.square().sum(), x)[0]


def compiled_gradient(f: Function, x: Tensor) -> Tensor:
    torch._dynamo.reset()  # which counts the graphs of one line
    return gradient(torch.compile(f, backend="aot_eager", fullgraph=True), x)


WAYS: dict[str, Callable[[Function, Tensor], Tensor]] = {
    "eager": gradient,
    "second order": lambda f, x: torch.autograd.grad(gradient(f, x, create_graph=True).sin().sum(), x)[0],
    "checkpoint": lambda f, x: gradient(lambda t: checkpoint(f, t, use_reentrant=False), x),
    "hooks": offloaded,
    "torch.func": lambda f, x: torch.func.grad(lambda t: f(t).square().sum())(x.detach()),
    "vmap": lambda f, x: torch.func.vmap(torch.func.grad(lambda t: f(t[None]).square().sum()))(x.detach()),
    "forward over reverse": lambda f, x: torch.func.hessian(lambda t: f(t).square().sum())(x.detach()[:1, :1]),
    "compiled": compiled_gradient,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("pool", POOLS)
def test_gradients_are_those_of_the_composition(pool: str, write: str, way: str) -> None:
    x = image()
    ours, theirs = (WAYS[way](lambda t, f=f: WRITES[write](f(t)), x) for f in POOLS[pool])
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_an_alias_may_write_when_the_result_is_gone() -> None:
    x = image()
    y = CF.lp_pool2d(x, 2.5, 2)
    total, alias = y.sum(), y.detach()
    del y
    alias.zero_()
    wanted = torch.autograd.grad(F.lp_pool2d(x, 2.5, 2).sum(), x)[0]
    torch.testing.assert_close(torch.autograd.grad(total, x)[0], wanted)


def test_a_learned_exponent() -> None:
    """PyTorch's own power refuses this."""
    x, p = image(), torch.tensor(2.3, dtype=torch.float64, requires_grad=True)
    got = torch.autograd.grad(CF.lp_pool2d(x, p, 2).mul_(3).square().sum(), (x, p))
    wanted = torch.autograd.grad((F.lp_pool2d(x, p, 2) * 3).square().sum(), (x, p))
    torch.testing.assert_close(got, wanted)


def test_a_converted_model_trains() -> None:
    model = nn.Sequential(nn.LPPool2d(2, 2), nn.Hardtanh(0.2, 0.6, inplace=True), nn.AvgPool2d(2))
    x = image().detach().float().requires_grad_()
    wanted = gradient(model, x)
    assert convkit.convert(model).replaced
    torch.testing.assert_close(gradient(model, x), wanted)


def test_an_input_that_was_changed_is_refused() -> None:
    """As by PyTorch: nothing to compute it again from is left."""
    for pool, _ in POOLS.values():
        x = image() * 1
        y = pool(x)
        x.mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.sum().backward()


def test_nothing_is_computed_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    native, calls = convkit.backends.get("native"), []
    for op in ("lp_pool", "stochastic_mean"):
        run = getattr(native, op)
        monkeypatch.setattr(native, op, lambda *a, run=run: (calls.append(1), run(*a))[1])
    x = image()
    for pool, _ in POOLS.values():
        for write, expected in (WRITES["nowhere"], 1), (WRITES["into it"], 2):  # the price of a change
            calls.clear()
            write(pool(x)).sum().backward()
            assert len(calls) == expected


def test_backward_frees_the_result() -> None:
    """A loss that is still at hand in the next step keeps none of it."""
    x = image()
    for pool, _ in POOLS.values():
        y = pool(x)
        memory, total = StorageWeakRef(y.untyped_storage()), y.sum()
        del y
        assert not memory.expired()
        total.backward()
        assert memory.expired()


def test_what_is_kept_is_input_and_result(backend: Backend) -> None:
    x = image()
    with convkit.backend(backend.name):
        for pool, _ in POOLS.values():
            assert kept_bytes(pool, x) == (x.numel() + x.numel() // 4) * 8
