"""What fused layers keep for backward, and that what they compute again is what it was."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import convkit
from convkit.autograd.recipe import recipe_of
from convkit.testing.memory import kept_bytes
from tests.test_fused import Unfused, leaf


def chain(n: int) -> tuple[nn.Sequential, nn.Sequential]:
    torch.manual_seed(0)
    theirs = [Unfused(nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)) for _ in range(n)]
    ours = nn.Sequential(*(convkit.nn.ConvBNReLU2d(4, 4, 3, padding=1) for _ in range(n))).double()
    ours.load_state_dict(nn.Sequential(*theirs).state_dict())
    return ours, nn.Sequential(*theirs).double()


def test_a_chain_keeps_half() -> None:
    ours, theirs = chain(6)
    x = leaf(2, 4, 32, 32)
    input_bytes = x.numel() * x.element_size()
    kept = [kept_bytes(m, x) - input_bytes for m in (ours, theirs)]
    vectors = 6 * 5 * 4 * 4 * 8  # a few numbers per channel and layer
    assert kept[0] <= kept[1] / 2 + vectors
    assert kept[0] >= 6 * input_bytes  # the convolutions' results


class Block(nn.Module):
    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x), x)


def test_a_residual_block_keeps_three_quarters() -> None:
    ours, theirs = (nn.Sequential(*(Block(*pair_) for pair_ in zip(m[::2], m[1::2]))) for m in chain(6))
    x = leaf(2, 4, 32, 32)
    input_bytes = x.numel() * x.element_size()
    kept = [kept_bytes(m, x) - input_bytes for m in (ours, theirs)]
    assert kept[0] <= 0.75 * kept[1]
    results = [[z := m(x), *torch.autograd.grad(z.sin().sum(), [x, *m.parameters()])] for m in (ours, theirs)]
    for got, want in zip(*results):
        torch.testing.assert_close(got, want)


def gradients(run: Callable[[Tensor], Tensor], *modules: nn.Module, order: int = 1) -> list[Tensor]:
    x = leaf(2, 4, 6, 6)
    leaves = [x, *(p for m in modules for p in m.parameters())]
    value = run(x).sin().sum()
    for _ in range(order):
        found = torch.autograd.grad(value, leaves, create_graph=True, allow_unused=True)
        value = sum(g.sin().sum() for g in found if g is not None)
    return [torch.zeros(1) if g is None else g.detach() for g in found]


USES: dict[str, Callable[[nn.Sequential], Callable[[Tensor], Tensor]]] = {
    "several readers": lambda m: lambda x: m[1](z := m[0](x)) + m[2](z) * z,
    "changed in place before it is read": lambda m: lambda x: m[1](m[0](x).mul_(2)),
    "changed in place afterwards": lambda m: lambda x: (m[1](z := m[0](x)), z.detach().mul_(2))[0],
    "a view is read": lambda m: lambda x: m[1](m[0](x)[:, :, 1:]),
    "detached": lambda m: lambda x: m[1](m[0](x).detach()),
    "checkpointed": lambda m: lambda x: m[2](checkpoint(lambda t: m[1](m[0](t)), x, use_reentrant=False)),
    "kept elsewhere": lambda m: lambda x: saved_elsewhere(m, x),
    "retained": lambda m: lambda x: retained(m[1](m[0](x)), x),
}


def saved_elsewhere(m: nn.Module, x: Tensor) -> Tensor:
    with torch.autograd.graph.save_on_cpu():
        return m(x)


def retained(z: Tensor, x: Tensor) -> Tensor:
    torch.autograd.grad(z.sum(), x, retain_graph=True)
    return z


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("use", USES)
def test_what_is_computed_again_is_what_was(use: str, order: int) -> None:
    ours, theirs = chain(3)
    if use == "changed in place afterwards":  # PyTorch has kept it, and refuses
        expected = gradients(lambda x: theirs[1](theirs[0](x)), theirs, order=order)
    elif use == "changed in place before it is read":  # PyTorch's relu has kept it, and refuses
        expected = gradients(lambda x: theirs[1](theirs[0](x) * 2), theirs, order=order)
    else:
        expected = gradients(USES[use](theirs), theirs, order=order)
    for got, want in zip(gradients(USES[use](ours), ours, order=order), expected):
        torch.testing.assert_close(got, want)


def test_a_checkpoint_counts_the_batch_as_often_as_pytorchs() -> None:
    """It runs the layer again until the last tensor is kept: the statistics are to be moved before that."""
    ours, theirs = chain(1)
    for m in (ours, theirs):
        checkpoint(m, leaf(2, 4, 6, 6), use_reentrant=False).sum().backward()
    torch.testing.assert_close([*ours.buffers()], [*theirs.buffers()])


def test_a_step_before_backward_changes_nothing() -> None:
    """The filter gradient of the second layer needs the first layer's result, not what its weights are by then."""
    ours, theirs = chain(2)
    x, results = leaf(2, 4, 6, 6), []
    for m in (ours, theirs):
        z = m(x)
        with torch.no_grad():
            m[0].bn.weight.mul_(3)
        results.append(torch.autograd.grad(z.sin().sum(), m[1].conv.weight)[0])
    torch.testing.assert_close(*results)
    z = ours(x)
    with torch.no_grad():
        ours[1].conv.weight.mul_(3)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        z.sum().backward()


def test_recipes_are_not_copied() -> None:
    ours = chain(1)[0]
    z = ours(leaf(2, 4, 6, 6))
    assert recipe_of(z) is not None
    for copied in (pickle.loads(pickle.dumps(z.detach())), z.clone(), z.detach(), copy.deepcopy(z.detach())):
        assert recipe_of(copied) is None
    buffer = io.BytesIO()
    torch.save(z, buffer)
    buffer.seek(0)
    assert recipe_of(torch.load(buffer, weights_only=False)) is None
    with torch.no_grad():
        assert recipe_of(ours(leaf(2, 4, 6, 6))) is None
    z.data.zero_()
    z.add_(1)
    assert recipe_of(z) is None


def test_plain_layers_keep_recipes_too() -> None:
    ours, theirs = chain(1)
    ours.append(convkit.nn.Conv2d(4, 4, 1)), theirs.append(nn.Conv2d(4, 4, 1))
    theirs[1].load_state_dict(ours.double()[1].state_dict())
    x = leaf(2, 4, 8, 8)
    assert kept_bytes(ours, x) < 0.75 * kept_bytes(theirs.double(), x)
    for got, want in zip(gradients(ours, ours, order=2), gradients(theirs, theirs, order=2)):
        torch.testing.assert_close(got, want)


def test_forbidden_hooks_are_not_used() -> None:
    ours, theirs = chain(2)
    x, results = leaf(2, 4, 6, 6), []
    for m in (ours, theirs):
        with torch.autograd.graph.disable_saved_tensors_hooks("no hooks here"):
            results.append(torch.autograd.grad(m(x).sin().sum(), [x, *m.parameters()]))
    for got, want in zip(*results):
        torch.testing.assert_close(got, want)
