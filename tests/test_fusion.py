"""fuse and unfuse: what is fused gives the model's results, what must not be is left, and nothing else changes."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import convkit
from convkit import backends
from convkit.fusion import FusionReport
from tests.networks import BasicBlock, compare, images, residual_network
from tests.zoo import ZOO


def facts(model: nn.Module) -> list[Any]:
    """All that fuse must keep."""
    modules = [(name, id(m), type(m)) for name, m in model.named_modules()]
    return [modules, [(n, id(p)) for n, p in model.named_parameters()], list(model.state_dict())]


@pytest.mark.parametrize("name", ZOO)
def test_a_fused_model_gives_the_same(name: str) -> None:
    make, x, fused, left = ZOO[name]
    torch.manual_seed(0)
    model = make().double()
    twin, before = copy.deepcopy(model), facts(model)
    report = convkit.fuse(model)
    assert (len(report.fused), len(report.left)) == (fused, left), report
    compare(model, twin, x)
    assert facts(model) == before
    convkit.unfuse(model)
    assert facts(model) == before
    assert [set(vars(m)) for m in model.modules()] == [set(vars(m)) for m in twin.modules()]
    compare(model, twin, x, (True,))


def test_losses_over_several_steps_and_checkpoints() -> None:
    torch.manual_seed(0)
    model = residual_network().double()
    twin = copy.deepcopy(model)
    optimizers = [torch.optim.SGD(m.parameters(), 0.05, momentum=0.9) for m in (model, twin)]
    convkit.fuse(model)
    losses: list[list[float]] = [[], []]
    for step in range(5):
        for m, optimizer, record in zip((model, twin), optimizers, losses):
            loss = m(images(4, 3, 12, 12).double() + step).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            record.append(float(loss))
    torch.testing.assert_close(*(torch.tensor(r, dtype=torch.float64) for r in losses))
    fresh = residual_network().double()
    fresh.load_state_dict(model.state_dict())
    model.load_state_dict(twin.state_dict())
    compare(fresh, twin, images(2, 3, 12, 12), (False,))


def test_the_report_shows_each_pattern() -> None:
    report = convkit.fuse(residual_network())
    assert isinstance(report, FusionReport)
    text = str(report)
    assert "2.conv1, bn1" in text and "Conv2d, BatchNorm2d, add, relu" in text and "8 fused, 0 left" in text
    assert {r.reason for r in convkit.fuse(nn.Sequential(nn.BatchNorm2d(3))).left} == {"no convolution before it"}


class Two(nn.Module):
    """conv, bn and relu, in a forward that the test gives."""

    def __init__(self, body: Callable[..., Tensor]) -> None:
        super().__init__()
        self.conv, self.bn, self.relu = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self, x)


def chained(m: Two, x: Tensor) -> Tensor:
    return m.relu(m.bn(m.conv(x)))


BODIES: dict[str, tuple[Callable[..., Tensor], str]] = {
    "used twice": (lambda m, x: (y := m.conv(x)) + m.bn(y), "used elsewhere too"),
    "reused": (lambda m, x: m.relu(m.bn(m.conv(m.bn(m.conv(x))))), "shared, or used more than once"),
    "something between": (lambda m, x: m.bn(m.conv(x) * 2), "no convolution before it"),
    "sizes that are drawn": (lambda m, x: m.bn(m.conv(x) + torch.rand(x.shape[0], 1, 1, 1) * 0), "does not trace"),
    "mode of autocast": (lambda m, x: m.bn(m.conv(x)) if not torch.is_autocast_enabled() else x, "does not trace"),
    "in place between": (lambda m, x: (y := m.conv(x), x.mul_(2), m.bn(y))[2], "computed in place between"),
    "norm first": (lambda m, x: m.conv(m.bn(x)), "no convolution before it"),
    "never called": (lambda m, x: m.conv(x), "nothing calls it"),
}


@pytest.mark.parametrize("case", BODIES)
def test_what_must_stay_apart_is_left(case: str) -> None:
    body, reason = BODIES[case]
    model = Two(body).double()
    twin = copy.deepcopy(model)
    report = convkit.fuse(model)
    assert not report.fused and reason in report.left[0].reason, report
    results = [m(images(2, 3, 5, 5).double()) for m in (model, twin)]
    torch.testing.assert_close(*results)


def scripted(m: Two) -> None:
    m.conv = torch.jit.script(m.conv)


class Subclass(nn.Conv2d):
    def _conv_forward(self, *args: Any) -> Tensor:
        return super()._conv_forward(*args) * 2


MODULES: dict[str, tuple[Callable[[Two], Any], str]] = {
    "hook of the convolution": (lambda m: m.conv.register_forward_hook(lambda *a: None), "the Conv2d has hooks"),
    "hook of the norm": (lambda m: m.bn.register_full_backward_hook(lambda *a: None), "the BatchNorm2d has hooks"),
    "parametrized": (lambda m: parametrizations.weight_norm(m.conv), "is parametrized"),
    "frozen": (lambda m: m.bn.eval(), "the batch norm is in evaluation mode, what is around it in training mode"),
    "subclass": (lambda m: setattr(m, "conv", Subclass(3, 3, 1)), "a subclass"),
    "synchronised": (lambda m: setattr(m, "bn", nn.SyncBatchNorm(3)), "SyncBatchNorm is not torch.nn's own"),
    "lazy": (lambda m: setattr(m, "bn", nn.LazyBatchNorm2d()), "LazyBatchNorm2d is not torch.nn's own"),
    "other dimensions": (lambda m: setattr(m, "bn", nn.BatchNorm3d(3)), "of different numbers of dimensions"),
    "replaced forward": (lambda m: setattr(m.conv, "forward", m.conv.forward), "was replaced on the object"),
    "scripted": (scripted, "no convolution before it"),
}


@pytest.mark.parametrize("case", MODULES)
def test_modules_that_do_more_are_left(case: str) -> None:
    change, reason = MODULES[case]
    model = Two(lambda m, x: m.relu(m.bn(m.conv(x))))
    change(model)
    report = convkit.fuse(model)
    assert not report.fused and reason in report.left[0].reason, report
    assert not any("_convkit_chains" in vars(m) for m in model.modules())


def test_shared_layers_are_left() -> None:
    conv = nn.Conv2d(3, 3, 1)
    model = nn.Sequential(nn.Sequential(conv, nn.BatchNorm2d(3)), nn.Sequential(conv, nn.BatchNorm2d(3)))
    report = convkit.fuse(model)
    assert [r.reason for r in report.left] == ["the Conv2d is shared, or used more than once"] * 2


def test_an_activation_with_a_hook_stays_on_its_own() -> None:
    model = Two(lambda m, x: m.relu(m.bn(m.conv(x))))
    seen: list[Tensor] = []
    model.relu.register_forward_hook(lambda m, a, out: seen.append(out))
    assert [r.layer for r in convkit.fuse(model).fused] == ["Conv2d, BatchNorm2d"]
    model(images(2, 3, 5, 5))
    assert len(seen) == 1


class Drawn(nn.Module):
    """What is drawn, or asked of the mode, is not fixed by a trace."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor, scale: float = 1.0, mask: Tensor | None = None) -> Tensor:
        y = self.bn(self.conv(x))
        if mask is not None:
            y = y * mask
        if self.training:
            y = y + 1
        return y * scale


def test_arguments_and_modes_that_the_graph_does_not_know() -> None:
    torch.manual_seed(0)
    model = Drawn().double()
    twin = copy.deepcopy(model)
    assert convkit.fuse(model).fused
    x, mask = images(2, 3, 4, 4).double(), images(2, 3, 4, 4).double()
    for mode in (True, False, True):
        model.train(mode), twin.train(mode)
        for args, kwargs in (((x,), {}), ((x, 2.0), {}), ((x,), {"mask": mask}), ((), {"x": x})):
            torch.testing.assert_close(model(*args, **kwargs), twin(*args, **kwargs))


class Stores(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
        self.last: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.last = self.inner(x)
        return self.last


class WithoutGradient(Stores):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self.inner(x) + 0


class Constant(Stores):
    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + torch.ones(3, 1, 1, dtype=torch.float64)


@pytest.mark.parametrize("cls", [Stores, WithoutGradient, Constant])
def test_what_a_graph_cannot_hold_runs_as_written(cls: type[Stores]) -> None:
    """The module itself keeps its forward; the Sequential in it is fused."""
    model = cls().double()
    twin = copy.deepcopy(model)
    assert len(convkit.fuse(model).fused) == 1
    assert "forward" not in vars(model) and "forward" in vars(model.inner)
    x = images(2, 3, 4, 4).double().requires_grad_()
    results = [m(x) for m in (model, twin)]
    torch.testing.assert_close(*results)
    assert results[0].requires_grad == results[1].requires_grad
    assert (model.last is None) == (twin.last is None) and (model.last is None or model.last is results[0])


def test_changes_after_fusion_take_effect() -> None:
    torch.manual_seed(0)
    x = images(2, 3, 12, 12).double()
    seen: list[str] = []
    changes: list[Callable[[nn.Module], Any]] = [
        lambda m: m[0][0].register_forward_hook(lambda *a: seen.append("layer")),
        lambda m: m[2].register_forward_hook(lambda *a: seen.append("block")),
        lambda m: m[3].downsample.register_forward_hook(lambda *a: seen.append("looked into")),
        lambda m: m[2].relu.register_forward_hook(lambda *a: seen.append("activation")),
        lambda m: setattr(m[2], "bn1", nn.Identity()),
        lambda m: m[0].append(nn.Tanh()),
        lambda m: parametrizations.weight_norm(m[2].conv1),
        lambda m: m[2].bn1.eval(),
        lambda m: convkit.convert(m),
    ]
    for change in changes:
        model = residual_network().double()
        convkit.fuse(model)
        twin = copy.deepcopy(model)
        convkit.unfuse(twin)
        for m in (model, twin):
            torch.manual_seed(1)
            change(m)
        count = len(seen)
        got, want = model(x), (first := len(seen), twin(x))[1]
        torch.testing.assert_close(got, want)
        assert first - count == len(seen) - first  # as many calls of the hook


def test_hooks_of_all_modules_are_called() -> None:
    model = residual_network()
    twin = copy.deepcopy(model)
    convkit.fuse(model)
    seen: list[nn.Module] = []
    handle = torch.nn.modules.module.register_module_forward_hook(lambda m, *_: seen.append(m))
    try:
        counts = []
        for m in (model, twin):
            m(images(2, 3, 12, 12))
            counts.append(len(seen))
    finally:
        handle.remove()
    assert counts[1] == 2 * counts[0] > 40


def test_copies_are_fused_on_their_own_and_pickles_are_not() -> None:
    model = residual_network().double()
    convkit.fuse(model)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other[0][0].weight.mul_(-2)
    plain = copy.deepcopy(other)
    assert len(convkit.unfuse(plain)) == 8
    compare(other, plain, images(2, 3, 12, 12))
    loaded = pickle.loads(pickle.dumps(model))
    compare(loaded, model, images(2, 3, 12, 12))
    assert len(convkit.unfuse(loaded)) == 8 and len(convkit.fuse(loaded).fused) == 8
    again = convkit.fuse(model)
    assert not again.fused and {r.reason for r in again.left} == {"already fused"}


def test_a_fused_model_compiles_whole() -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = BasicBlock(3, 4, 2).double()
    convkit.fuse(model)
    twin = copy.deepcopy(model)
    compare(torch.compile(model, backend="aot_eager", fullgraph=True), twin, images(2, 3, 8, 8), (True,))
    torch._dynamo.reset()


def test_a_fused_model_exports_and_shows_its_signature() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
    signature = inspect.signature(model.forward)
    convkit.fuse(model)
    assert inspect.signature(model.forward) == signature
    x = images(2, 3, 6, 6)
    torch.testing.assert_close(torch.export.export(model, (x,)).module()(x), model(x))


def test_layers_made_fused_are_left_as_they_are() -> None:
    report = convkit.fuse(nn.Sequential(convkit.nn.ConvBNReLU2d(3, 4, 3)))
    assert [r.reason for r in report.left] == ["part of ConvBNReLU2d"]
    with pytest.raises(TypeError, match="model must be"):
        convkit.fuse(lambda x: x)
    with pytest.raises(TypeError, match="model must be"):
        convkit.unfuse(None)


def recorded(op: str, plain: Callable[..., Any], calls: list[str]) -> Callable[..., Any]:
    """``plain``, which writes its name down when it is called."""

    def call(*args: Any) -> Any:
        calls.append(op)
        return plain(*args)

    return call


def test_fused_code_runs_where_the_report_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every pattern of every model of ours is one operation in training, and one kernel in evaluation."""
    native = type(backends.get("native"))
    for name in ("residual", "u-net", "dense", "dense, lists", "video"):
        make, x, fused, _ = ZOO[name]
        model = make().double()
        calls: list[str] = []
        report = convkit.fuse(model)
        with monkeypatch.context() as patch:
            for op in ("conv_fprop", "conv_dgrad", "conv_fprop_stats", "bn_act"):
                patch.setattr(native, op, recorded(op, getattr(native, op), calls))
            model(x.double())
            assert calls.count("bn_act") == fused == len(report.fused), name
            calls.clear()
            with torch.no_grad():
                model.eval()(x.double())
            assert len(calls) == fused and "bn_act" not in calls, name


def test_replicas_run_their_own_layers() -> None:
    """As DataParallel makes them: on each device, of the model that was fused on one."""
    model = Two(lambda m, x: m.relu(m.bn(m.conv(x))))
    convkit.fuse(model)
    for original in (model, copy.deepcopy(model)):
        replica: Any = original._replicate_for_data_parallel()
        replica.conv, replica.bn = nn.Conv2d(3, 3, 1), nn.Identity()
        x = images(2, 3, 5, 5)
        torch.testing.assert_close(replica(x), replica.conv(x).relu())
        assert replica._replicate_for_data_parallel() is not replica and "forward" in vars(original)


def test_a_pickled_model_is_fused_again() -> None:
    model = Two(chained)  # no lambda, which cannot be pickled
    convkit.fuse(model)
    loaded = pickle.loads(pickle.dumps(model))
    assert len(convkit.fuse(loaded).fused) == 1
    x = images(2, 3, 5, 5)
    assert vars(loaded)["forward"].program((x,), {}) is not None
    torch.testing.assert_close(loaded(x), model(x))


def test_a_forward_of_the_users_own_is_kept_by_unfuse() -> None:
    model = Two(chained)
    convkit.fuse(model)
    vars(model)["forward"] = lambda x: x
    convkit.unfuse(model)
    x = images(2, 3, 5, 5)
    assert model(x) is x and set(vars(model)) == set(vars(Two(chained))) | {"forward"}


class Prints(Two):
    """A graph would not print: its text is what shows the pattern."""

    def forward(self, x: Tensor) -> Tensor:
        print(end="")
        x = self.conv(x)
        x = self.bn(x)
        return self.relu(x)


@pytest.mark.parametrize("cls", [Two, Prints], ids=["traced", "text"])
def test_a_fused_model_is_traced_as_its_class(cls: type[Two]) -> None:
    """torch.fx's stand-ins have no sizes that a kernel could ask for."""
    model = nn.Sequential(cls(chained), nn.AvgPool2d(2), cls(chained)).double()
    twin, x = copy.deepcopy(model), images(2, 3, 6, 6).double()
    assert len(convkit.fuse(model).fused) == 2
    torch.testing.assert_close(torch.fx.symbolic_trace(model)(x), twin(x))
