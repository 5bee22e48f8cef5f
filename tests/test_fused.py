"""Fused convolution: one kernel gives what the chain gives; ConvBNReLU behaves as torch.nn's three modules do."""

from __future__ import annotations

import copy
import itertools
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck

import convkit
import convkit.functional as CF
from convkit import backends
from convkit.backends.base import RAW_OPS
from convkit.testing.catalogue import CONVOLUTIONS, TRANSPOSED

ACTIVATIONS: dict[str | None, Callable[[Tensor], Tensor]] = {
    None: lambda v: v,
    "relu": F.relu,
    "leaky_relu": lambda v: F.leaky_relu(v, 0.1),
    "elu": lambda v: F.elu(v, 0.1),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "silu": F.silu,
    "gelu": F.gelu,
}
ALPHA = 0.1
LAYERS = {1: convkit.nn.ConvBNReLU1d, 2: convkit.nn.ConvBNReLU2d, 3: convkit.nn.ConvBNReLU3d}
TORCH = {1: (nn.Conv1d, nn.BatchNorm1d), 2: (nn.Conv2d, nn.BatchNorm2d), 3: (nn.Conv3d, nn.BatchNorm3d)}
CHAINS = [c for c in CONVOLUTIONS if c.symmetric and c.input[0] > 0]


def leaf(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape) + seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()


class Unfused(nn.Module):
    """PyTorch's modules, with the names that ConvBNReLU gives them."""

    def __init__(self, conv: nn.Module, bn: nn.Module, activation: str | None = "relu") -> None:
        super().__init__()
        self.conv, self.bn, self.activation = conv, bn, ACTIVATIONS[activation]

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        y = self.bn(self.conv(x))
        return self.activation(y if residual is None else y + residual)


def pair(ndim: int = 2, activation: str | None = "relu", channels: int = 4, **norm: Any) -> tuple[nn.Module, Unfused]:
    """A fused layer and PyTorch's, of the same weights, in float64."""
    torch.manual_seed(0)
    conv, bn = TORCH[ndim]
    theirs = Unfused(conv(3, channels, 3, padding=1, bias=False), bn(channels, **norm), activation).double()
    ours = LAYERS[ndim](3, channels, 3, padding=1, activation=activation, alpha=ALPHA, **norm).double()
    if norm.get("affine", True):
        nn.init.uniform_(theirs.bn.weight, 0.5, 1.5)
        nn.init.normal_(theirs.bn.bias)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_one_kernel_gives_what_the_chain_gives(activation: str | None) -> None:
    """All convolutions of the catalogue, with and without derivatives, with and without scale, bias and residual."""
    for i, case in enumerate(CONVOLUTIONS):
        x, w, b, s = leaf(*case.input), leaf(*case.weight), leaf(case.weight[0]), leaf(case.weight[0], seed=1)
        residual = leaf(*case.output) if i % 2 else None
        bias, scale = (b if i % 3 else None), (s if i % 4 else None)
        padding = tuple(zip(case.spec.pad_before, case.spec.pad_after))
        ndim, settings = case.dims, (case.spec.stride, padding, case.spec.dilation, case.groups)
        u = getattr(CF, f"conv{ndim}d")(x, w, None, *settings)
        v = u if scale is None else u * scale.view(-1, *(1,) * ndim)
        v = v if bias is None else v + bias.view(-1, *(1,) * ndim)
        expected = ACTIVATIONS[activation](v if residual is None else v + residual)
        epilogue = {"scale": scale, "residual": residual, "activation": activation, "alpha": ALPHA}
        fused = getattr(CF, f"fused_conv{ndim}d")
        with torch.no_grad():
            torch.testing.assert_close(fused(x, w, bias, *settings, **epilogue), expected.detach())
        got = fused(x, w, bias, *settings, **epilogue)
        torch.testing.assert_close(got, expected)
        if got.numel():
            leaves = [t for t in (x, w, bias, scale, residual) if t is not None]
            gradients = (torch.autograd.grad(y.sin().sum(), leaves) for y in (got, expected))
            for g, want in zip(*gradients):
                torch.testing.assert_close(g, want)


def test_transposed_convolutions_too() -> None:
    for i, case in enumerate(TRANSPOSED):
        activation = list(ACTIVATIONS)[i % len(ACTIVATIONS)]
        x, w, ndim = leaf(*case.input), leaf(*case.weight), case.dims
        b, s, residual = leaf(case.output[1]), leaf(case.output[1], seed=1), leaf(*case.output)
        settings = (case.spec.stride, case.spec.pad_before, case.output_padding, case.groups, case.spec.dilation)
        u = getattr(F, f"conv_transpose{ndim}d")(x, w, None, *settings)
        shape = (-1, *(1,) * ndim)
        expected = ACTIVATIONS[activation](u * s.view(shape) + b.view(shape) + residual)
        fused = getattr(CF, f"fused_conv_transpose{ndim}d")
        with torch.no_grad():
            got = fused(x, w, b, *settings, scale=s, residual=residual, activation=activation, alpha=ALPHA)
            torch.testing.assert_close(got, expected.detach())
        got = fused(x, w, b, *settings, scale=s, residual=residual, activation=activation, alpha=ALPHA)
        torch.testing.assert_close(got, expected)
        leaves = [x, w, b, s, residual]
        if got.numel():
            for g, want in zip(*(torch.autograd.grad(y.sin().sum(), leaves) for y in (got, expected))):
                torch.testing.assert_close(g, want)


def test_unbatched_and_half_precision_inputs() -> None:
    x, w, residual = leaf(3, 6, 5), leaf(4, 3, 3, 3), leaf(4, 4, 3)
    with torch.no_grad():
        got = CF.fused_conv2d(x, w, residual=residual, activation="relu")
        torch.testing.assert_close(got, F.relu(F.conv2d(x, w) + residual))
        half = [t.bfloat16() for t in (x, w, residual)]
        low = CF.fused_conv2d(half[0], half[1], residual=half[2], activation="silu")
        exact = F.silu(F.conv2d(half[0].double(), half[1].double()) + half[2].double())
        assert low.dtype is torch.bfloat16
        # Sums in float32, rounded once: half a unit in the last place of bfloat16, and what 27 products add to it.
        torch.testing.assert_close(low.double(), exact, rtol=2**-8, atol=1e-5)
        with torch.autocast("cpu", torch.bfloat16):
            mixed = CF.fused_conv2d(x.float(), w.float(), residual=residual.float(), activation="silu")
    assert mixed.dtype is torch.bfloat16


def test_bad_arguments() -> None:
    x, w = torch.randn(1, 3, 5, 5), torch.randn(4, 3, 3, 3)
    with pytest.raises(ValueError, match="unknown activation 'swish': must be one of 'identity', 'relu'"):
        CF.fused_conv2d(x, w, activation="swish")
    with pytest.raises(RuntimeError, match=r"scale has shape \[3\], but must have the shape \[4\]"):
        CF.fused_conv2d(x, w, scale=torch.ones(3))
    with pytest.raises(RuntimeError, match=r"residual has shape \[1, 4, 1, 1\], but must have the shape"):
        CF.fused_conv2d(x, w, residual=torch.ones(1, 4, 1, 1))
    with pytest.raises(RuntimeError, match=r"residual is of torch\.float64"):
        CF.fused_conv2d(x, w, residual=torch.ones(1, 4, 3, 3).double())


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_derivatives_of_the_layer(activation: str | None) -> None:
    layer = pair(2, activation, 2, track_running_stats=False)[0]

    def run(x: Tensor, w: Tensor, weight: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
        parameters = {"conv.weight": w, "bn.weight": weight, "bn.bias": bias}
        return torch.func.functional_call(layer, parameters, (x, residual))

    arguments = leaf(2, 3, 3, 2), leaf(2, 3, 3, 3), leaf(2, seed=1), leaf(2, seed=2), leaf(2, 2, 3, 2)
    assert gradcheck(run, arguments, check_forward_ad=True, fast_mode=True)
    assert gradgradcheck(run, arguments, fast_mode=True, check_fwd_over_rev=True)
    assert gradcheck(lambda *t: run(*t, None), arguments[:4], fast_mode=True)


def test_derivatives_with_running_statistics() -> None:
    layer, theirs = pair()
    x = leaf(2, 3, 4, 4)
    layer(x), theirs(x)
    layer.eval(), theirs.eval()
    assert gradcheck(layer, (x,), fast_mode=True) and gradgradcheck(layer, (x,), fast_mode=True)
    gradients = (torch.autograd.grad(m(x).sin().sum(), [x, *m.parameters()]) for m in (layer, theirs))
    for g, want in zip(*gradients):
        torch.testing.assert_close(g, want)


def test_large_values_have_finite_second_derivatives() -> None:
    """Where an activation is an identity, the exponential of the branch not taken overflows."""
    for activation in ("elu", "silu", "gelu", "sigmoid", "tanh"):
        x, w = torch.full((1, 1, 2, 2), 200.0, requires_grad=True), torch.ones(1, 1, 1, 1, requires_grad=True)
        y = CF.fused_conv2d(x, w, activation=activation)
        (g,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(g.sum(), x)
        assert bool(second.isfinite().all()), activation


SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "cumulative": {"momentum": None},
    "not affine": {"affine": False},
    "no running statistics": {"track_running_stats": False},
    "momentum and eps": {"momentum": 0.3, "eps": 0.1},
}


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("setting", SETTINGS)
def test_training_is_pytorchs(ndim: int, setting: str) -> None:
    """Losses, gradients, running statistics and evaluation over several steps; state_dicts are exchangeable."""
    ours, theirs = pair(ndim, **SETTINGS[setting])
    optimizers = [torch.optim.SGD(m.parameters(), 0.1, momentum=0.9) for m in (ours, theirs)]
    for step in range(5):
        x, residual = leaf(4, 3, *(5,) * ndim, seed=step), leaf(4, 4, *(5,) * ndim) if step % 2 else None
        losses = [m.train()(x, residual).square().mean() for m in (ours, theirs)]
        torch.testing.assert_close(*losses)
        for loss, optimizer in zip(losses, optimizers):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        for key, value in ours.state_dict().items():
            torch.testing.assert_close(value, theirs.state_dict()[key])
        with torch.no_grad():
            torch.testing.assert_close(ours.eval()(x, residual), theirs.eval()(x, residual))
    assert list(ours.state_dict()) == list(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())


def test_layers_over_the_catalogue() -> None:
    for case in CHAINS:
        out, per_group = case.weight[:2]
        settings = (case.weight[2:], case.spec.stride, case.spec.pad_before, case.spec.dilation, case.groups)
        conv, bn = TORCH[case.dims]
        theirs = Unfused(conv(per_group * case.groups, out, *settings), bn(out)).double()
        ours = LAYERS[case.dims](per_group * case.groups, out, *settings, bias=True).double()
        ours.load_state_dict(theirs.state_dict())
        x, residual = leaf(*case.input), leaf(*case.output)
        if case.output[0] * torch.Size(case.output[2:]).numel() == 1:
            with pytest.raises(ValueError, match="Expected more than 1 value per channel when training"):
                ours(x)
            continue
        results = []
        for layer in (ours, theirs):
            z = layer(x, residual)
            results.append([z, *torch.autograd.grad(z.square().sum(), [x, residual, *layer.parameters()])])
        # The bias before a batch norm has no gradient: what is left is rounding, of sums as large as the others.
        scale = max(float(t.detach().abs().max()) for t in results[1])
        for got, want in zip(*results):
            torch.testing.assert_close(got, want, rtol=1e-7, atol=1e-9 * scale, msg=lambda m, c=case: f"{c.name}: {m}")


def test_one_value_per_channel() -> None:
    ours, theirs = pair()
    x = torch.randn(1, 3, 1, 1).double()
    for layer in (ours, theirs):
        with pytest.raises(ValueError, match="Expected more than 1 value per channel when training, got input size"):
            layer(x)
    assert ours.bn.num_batches_tracked == theirs.bn.num_batches_tracked
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


def test_a_call_that_the_convolution_refuses_counts_no_batch() -> None:
    for layer in pair():
        with pytest.raises(RuntimeError, match="to have 3 channels"):
            layer(torch.randn(2, 5, 6, 6).double())
        assert layer.bn.num_batches_tracked == 0


def test_mixed_dtypes() -> None:
    torch.manual_seed(0)
    layer, theirs = (m.float() for m in pair())
    x = torch.randn(4, 3, 6, 6)
    for m in (layer, theirs):
        m.conv.bfloat16()
    results = [m(x.bfloat16()) for m in (layer, theirs)]
    assert results[0].dtype is torch.bfloat16 and layer.bn.running_mean.dtype is torch.float32
    # PyTorch rounds before the relu, and the batch norm of a rounded result: two units in the last place.
    torch.testing.assert_close(*results, rtol=2**-6, atol=2**-6)
    with pytest.raises(RuntimeError, match="mixed dtype"):
        layer.conv.double()(x.double())
        layer(x.double())
    layer, theirs = (m.float() for m in pair())
    with torch.autocast("cpu", torch.bfloat16):
        results = [m(x, x[:, :1].expand(-1, 4, -1, -1)) for m in (layer, theirs)]
    assert results[0].dtype is results[1].dtype
    torch.testing.assert_close(*results, rtol=2**-6, atol=2**-6)


@pytest.mark.parametrize(("channels", "size"), [(4, 1), (1, 5), (4, 5)])
def test_strides_of_sizes_of_one_are_those_that_pytorchs_give(channels: int, size: int) -> None:
    """What follows reads the layout out of them: torch.cat, interpolation, a dropout's draws."""
    ours, theirs = pair(channels=channels)
    x = leaf(2, 3, size, size).to(memory_format=torch.channels_last)
    conv = theirs.conv
    for training, gradients in itertools.product((True, False), repeat=2):
        with torch.set_grad_enabled(gradients):
            assert ours.train(training)(x).stride() == theirs.train(training)(x).stride()
            activated = CF.fused_conv2d(x, conv.weight, padding=1, activation="relu")
            assert activated.stride() == conv(x).relu().stride()
            assert CF.fused_conv2d(x, conv.weight, padding=1).stride() == conv(x).stride()


def test_an_explicit_backend_computes_or_refuses() -> None:
    layer, theirs = pair()
    x = leaf(2, 3, 5, 5)
    with convkit.backend("reference"):
        torch.testing.assert_close(layer(x), theirs(x))
    with convkit.backend("aten"), pytest.raises(RuntimeError, match=r"'aten'.*cannot run bn_act_bwd"):
        layer(x)
    with torch.no_grad(), convkit.backend("aten"):
        torch.testing.assert_close(layer.eval()(x), theirs.eval()(x))


def test_inputs_that_one_operation_does_not_take() -> None:
    """Unbatched and empty inputs, and a residual that broadcasts, are PyTorch's to judge."""
    ours, theirs = pair()
    with pytest.raises(ValueError, match="expected 4D input"):
        ours(torch.randn(3, 5, 5).double())
    empty = torch.randn(0, 3, 5, 5).double()
    assert ours(empty).shape == theirs(empty).shape
    residual = leaf(1, 4, 1, 5)
    x = leaf(2, 3, 5, 5)
    torch.testing.assert_close(ours(x, residual), theirs(x, residual))
    ours.bn = nn.BatchNorm2d(5).double()
    with pytest.raises(RuntimeError, match="running_mean should contain 4 elements not 5"):
        ours(x)


def test_hooks_of_the_submodules_are_called() -> None:
    ours, theirs = pair()
    seen: list[Tensor] = []
    x = leaf(2, 3, 5, 5)
    ours.conv.register_forward_hook(lambda module, args, out: seen.append(out))
    torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(seen[0], theirs.conv(x))


def test_submodules_that_were_exchanged_are_called(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = pair()

    class Doubled(nn.BatchNorm2d):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    x = leaf(2, 3, 5, 5)
    for layer in (ours, theirs):
        layer.bn = Doubled(4).double()
    torch.testing.assert_close(ours(x), theirs(x))
    for layer in (ours, theirs):
        layer.bn = nn.BatchNorm2d(4).double()
        layer.conv = nn.Sequential(theirs.conv, nn.Tanh())
    torch.testing.assert_close(ours(x), theirs(x))
    for layer in (both := pair()):
        nn.utils.parametrizations.weight_norm(layer.conv)
    torch.testing.assert_close(both[0](x), both[1](x))
    called: list[nn.Module] = []
    monkeypatch.setattr(nn.SyncBatchNorm, "forward", lambda self, t: (called.append(self), t)[1])
    synchronised = nn.SyncBatchNorm.convert_sync_batchnorm(pair()[0])
    synchronised(x)
    assert called == [synchronised.bn]
    ours, _ = pair()
    ours.process_group = "any"
    ours.bn.register_forward_hook(lambda *_: None)
    with pytest.raises(RuntimeError, match="process_group: statistics over several processes"):
        ours(x)


@pytest.mark.parametrize("wanted", list(itertools.product([True, False], repeat=3)))
def test_only_the_gradients_asked_for_are_computed(wanted: tuple[bool, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of input, filters and batch norm."""
    layer, calls = pair()[0], []
    native = type(backends.get("native"))
    for op in (*RAW_OPS, "bn_act_grad"):
        plain = getattr(native, op)
        monkeypatch.setattr(native, op, lambda *a, _op=op, _plain=plain: (calls.append(_op), _plain(*a))[1])
    x = leaf(2, 3, 5, 5).requires_grad_(wanted[0])
    layer.conv.weight.requires_grad_(wanted[1])
    for p in (layer.bn.weight, layer.bn.bias):
        p.requires_grad_(wanted[2])
    z = layer(x)
    assert calls == ["conv_fprop_stats", "bn_act"]
    if any(wanted):
        z.sum().backward()
    expected = {"bn_act_grad" if any(wanted[:2]) else "bn_act_bwd_reduce"} if any(wanted) else set()
    expected |= {op for op, needs in zip(("conv_dgrad", "conv_wgrad"), wanted) if needs}
    assert set(calls[2:]) == expected and len(calls) == 2 + len(expected)


# --- compiled, transformed, copied ---


def test_the_layer_compiles_whole() -> None:
    torch._dynamo.reset()
    ours = nn.Sequential(pair()[0], convkit.nn.ConvBNReLU2d(4, 4, 3).double())
    eager = copy.deepcopy(ours)
    compiled = torch.compile(ours, backend="aot_eager", fullgraph=True)
    x = leaf(2, 3, 6, 6)
    for mode in (True, False):
        ours.train(mode), eager.train(mode)
        results = [
            [z := m(x), *torch.autograd.grad(z.sin().sum(), [x, *p.parameters()])]
            for m, p in ((compiled, ours), (eager, eager))
        ]
        for got, want in zip(*results):
            torch.testing.assert_close(got, want)
        for key, value in ours.state_dict().items():
            torch.testing.assert_close(value, eager.state_dict()[key])
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), eager(x))
    torch._dynamo.reset()


def test_transforms() -> None:
    layer = pair(2, "gelu", 2)[0].eval()
    x, w = leaf(2, 3, 3, 3).detach(), layer.conv.weight.detach()

    def loss(w: Tensor) -> Tensor:
        return torch.func.functional_call(layer, {"conv.weight": w}, (x,)).sin().sum()

    torch.testing.assert_close(torch.func.hessian(loss)(w), torch.autograd.functional.hessian(loss, w))
    per_sample = torch.func.vmap(torch.func.grad(lambda t: layer(t[None]).sin().sum()))(x)
    torch.testing.assert_close(per_sample[1], torch.func.grad(lambda t: layer(t[None]).sin().sum())(x[1]))


def test_layers_copy_and_show_themselves() -> None:
    layer = convkit.nn.ConvBNReLU2d(3, 4, 3, activation="leaky_relu", alpha=0.1)
    x = torch.randn(2, 3, 5, 5)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        torch.testing.assert_close(other.eval()(x), copy.deepcopy(layer).eval()(x))
    assert "activation=leaky_relu, alpha=0.1" in repr(layer)
    with pytest.raises(ValueError, match="unknown activation"):
        convkit.nn.ConvBNReLU2d(3, 4, 3, activation="mish")
