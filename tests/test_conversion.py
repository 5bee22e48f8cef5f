"""convert and revert: layers keep what they are, and only their class changes."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

import convkit


class Wider(nn.Conv2d):
    """A subclass: what it computes is its own business."""


class MedianPool2d(nn.Module):
    """A pooling that convkit does not have."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(2).median(2).values


def model() -> nn.Sequential:
    torch.manual_seed(0)
    shared = nn.Conv2d(4, 4, 3, padding=1)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding="same", padding_mode="reflect"),
        nn.BatchNorm2d(4),
        nn.Sequential(shared, nn.ReLU(), shared),
        nn.MaxPool2d(3, 2, 1),
        nn.ConvTranspose2d(4, 4, 3, 2),
        nn.AvgPool2d(2, ceil_mode=True),
        parametrizations.weight_norm(nn.Conv2d(4, 4, 1)),
        Wider(4, 4, 1),
        nn.AdaptiveAvgPool2d(2),
        MedianPool2d(),
    )


IMAGE = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(2))


def facts(m: nn.Module) -> dict[str, Any]:
    """Everything that must survive."""
    return {
        "modules": [(name, id(child)) for name, child in m.named_modules()],
        "parameters": [(name, id(p)) for name, p in m.named_parameters()],
        "keys": list(m.state_dict()),
        "training": [child.training for child in m.modules()],
        "hooks": [list(child._forward_hooks) + list(child._forward_pre_hooks) for child in m.modules()],
        "repr": repr(m),
    }


def test_round_trip() -> None:
    m = model().eval()
    m[3].train()
    m[0].register_forward_hook(lambda module, args, out: out * 2)
    classes, before, state = [type(c) for c in m.modules()], facts(m), [dict(vars(c)) for c in m.modules()]
    expected = m(IMAGE)
    report = convkit.convert(m)
    assert facts(m) == before
    assert len(report.replaced) == 7  # the shared layer once
    torch.testing.assert_close(m(IMAGE), expected)
    assert type(m[0]) is convkit.nn.Conv2d
    assert isinstance(m[6], convkit.nn.Conv2d)
    assert type(m[7]) is Wider
    back = convkit.revert(m)
    assert len(back.replaced) == 7
    assert facts(m) == before
    assert torch.equal(m(IMAGE), expected)
    plain = [
        (a, b) for a, b in zip([type(c) for c in m.modules()], classes) if not a.__name__.startswith("Parametrized")
    ]
    assert all(a is b for a, b in plain)
    assert type(m[6]).__bases__ == (nn.Conv2d,)
    assert [vars(c).keys() for c in m.modules()] == [s.keys() for s in state]


def test_report() -> None:
    report = convkit.convert(model())
    reasons = {layer.name: (layer.replaced, layer.reason) for layer in report}
    assert reasons["0"] == (True, "torch.nn layer")
    assert reasons["6"] == (True, "parametrized torch.nn layer")
    assert reasons["7"] == (False, "a subclass of torch.nn.Conv2d")
    assert reasons["8"] == (True, "torch.nn layer")
    assert reasons["9"] == (False, "convkit has no such layer")
    text = str(report)
    assert "7 replaced" in text
    assert "2.0" in text
    assert "BatchNorm2d" in text.splitlines()[-1]


def test_idempotent_and_exact() -> None:
    m = model()
    convkit.convert(m)
    again = convkit.convert(m)
    assert not again.replaced
    own = convkit.nn.Conv2d(3, 3, 1)
    mixed = nn.Sequential(own, nn.Conv2d(3, 3, 1))
    convkit.convert(mixed)
    convkit.revert(mixed)
    assert [type(c) for c in mixed] == [convkit.nn.Conv2d, nn.Conv2d]


def test_a_layer_is_a_model() -> None:
    layer = nn.MaxPool2d(2)
    assert convkit.convert(layer, backend="reference").replaced
    assert (type(layer), layer.backend) == (convkit.nn.MaxPool2d, "reference")
    assert "(the model)" in str(convkit.revert(layer))
    assert type(layer) is nn.MaxPool2d
    assert "backend" not in vars(layer)


@pytest.mark.parametrize("how", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_converted_models_copy(how: Any) -> None:
    m = model().eval()
    del m[6]  # parametrized modules refuse to be pickled, in torch too
    convkit.convert(m)
    other = how(m)
    assert torch.equal(other(IMAGE), m(IMAGE))
    assert len(convkit.revert(other).replaced) == 6


def test_parametrizations_can_be_removed_after_conversion() -> None:
    m = model()
    convkit.convert(m)
    parametrize.remove_parametrizations(m[6], "weight")
    assert type(m[6]) is convkit.nn.Conv2d
    convkit.revert(m)
    assert type(m[6]) is nn.Conv2d


def test_what_is_closed_is_kept() -> None:
    scripted = torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 3)))
    compiled = torch.compile(nn.Sequential(nn.Conv2d(3, 4, 3)))
    patched = nn.Conv2d(3, 4, 3)
    patched.forward = lambda x: x
    lazy = nn.LazyConv2d(4, 3)
    for module, word in ((scripted, "TorchScript"), (compiled, "compiled"), (patched, "replaced"), (lazy, "lazy")):
        report = convkit.convert(module)
        assert not report.replaced
        assert any(word in layer.reason for layer in report)
    assert type(lazy) is nn.LazyConv2d


def test_a_converted_model_is_traced_without_gradients() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)).eval()
    expected = model(IMAGE + 1)
    for change in (convkit.convert, convkit.fuse):
        change(model)
        with torch.no_grad():
            traced = torch.jit.trace(model, IMAGE)
        torch.testing.assert_close(traced(IMAGE + 1), expected)


def test_conversion_under_compile_takes_effect() -> None:
    layer = nn.Conv2d(3, 4, 3)
    compiled = torch.compile(lambda x: layer(x), backend="aot_eager", fullgraph=True)
    expected = compiled(IMAGE)
    convkit.convert(layer)
    torch.testing.assert_close(compiled(IMAGE), expected)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="backend"):
        convkit.convert(model(), backend="cudnn")
    with pytest.raises(TypeError, match="model must be"):
        convkit.convert(lambda x: x)


def test_training_goes_on() -> None:
    m, twin = model().double(), model().double()
    optimizer = torch.optim.SGD(m.parameters(), lr=0.1)
    convkit.convert(m)
    for net in (m, twin):
        net(IMAGE.double()).square().sum().backward()
    optimizer.step()
    for p, q in zip(m.parameters(), twin.parameters()):
        torch.testing.assert_close(p.grad, q.grad)
