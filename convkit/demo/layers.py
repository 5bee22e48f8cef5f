"""The layers of a network one by one, in PyTorch and in convkit: do they agree, and how long do they take."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from convkit import backends
from convkit.problem import ConvSpec, PoolSpec, adaptive_pool_spec
from convkit.testing import oracle
from convkit.timing import Timing, interleaved

Times = dict[str, Timing]  # by "PyTorch" and "convkit"


class LayerResult(NamedTuple):
    """One layer on the input that it gets in its network."""

    name: str
    what: str
    difference: float  # largest difference of convkit's and PyTorch's outputs and gradients, of their largest value
    error: float  # convkit's largest error against float64, in units of what rounding admits
    forward: Times
    training: Times  # forward and backward

    @property
    def ok(self) -> bool:
        return self.error <= 1


def each_layer(
    original: nn.Module,
    converted: nn.Module,
    images: Tensor,
    seconds: float,
    step: Callable[[str], None] = lambda label: None,
) -> Iterator[LayerResult]:
    """Compares and times every layer that is convkit's in ``converted`` with the same layer of ``original``."""
    theirs, ours = dict(original.named_modules()), replaced_layers(converted)
    inputs = _inputs(original.eval(), list(ours), images)
    for name, layer in ours.items():
        x = inputs[name]
        difference, error = compare_layers(theirs[name], layer, x)
        pair = {"PyTorch": theirs[name], "convkit": layer}
        with torch.no_grad():
            forward = interleaved({who: _forward(m, x) for who, m in pair.items()}, seconds)
        training = interleaved({who: _training(m, x) for who, m in pair.items()}, seconds)
        what = f"{_describe(layer)} on {'x'.join(map(str, x.shape))}"
        yield LayerResult(name, what, difference, error, forward, training)
        step(name)


def replaced_layers(converted: nn.Module) -> dict[str, nn.Module]:
    """The modules of convkit in a network, by name."""
    return {name: m for name, m in converted.named_modules() if type(m).__module__.startswith("convkit.nn")}


def compare_layers(original: nn.Module, ours: nn.Module, x: Tensor) -> tuple[float, float]:
    """The largest relative difference of two layers in output and gradients, and convkit's error in units of its bound.

    The gradients are those of a random weighting of the output; the first image stands for all.
    """
    x = x[:1]
    with torch.no_grad():
        dy = torch.randn(original(x).shape, generator=torch.Generator().manual_seed(0))

    def run(layer: nn.Module) -> list[Tensor]:
        leaf = x.detach().requires_grad_()
        output = layer(leaf)
        return [output.detach(), *torch.autograd.grad(output, [leaf, *layer.parameters()], dy)]

    theirs, results = run(original), run(ours)
    difference = max(float((a - b).abs().max() / a.abs().max()) for a, b in zip(theirs, results))
    reference = backends.get("reference")
    expected = [oracle.expect(call, reference)[0] for call in _raw_calls(ours, x, dy)]
    return difference, max(oracle.error(result, e) for result, e in zip(results, expected))


def _raw_calls(layer: Any, x: Tensor, dy: Tensor) -> list[oracle.Call]:
    """The raw operations that make the layer's output and gradients, in the order in which autograd lists them."""
    size = tuple(x.shape[2:])
    if isinstance(layer, nn.Conv2d):
        padding = _pair(layer.padding)
        common = {
            "spec": ConvSpec(layer.stride, padding, padding, layer.dilation, layer.groups),
            "channels_last": False,
        }
        w, bias = layer.weight.detach(), None if layer.bias is None else layer.bias.detach()
        plain = {"w": w, "scale": None, "residual": None, **common}
        return [
            oracle.Call("conv_fprop", {"x": x, "bias": bias, **plain}),
            oracle.Call("conv_dgrad", {"dy": dy, "bias": None, "input_size": size, **plain}),
            oracle.Call("conv_wgrad", {"dy": dy, "x": x, "kernel_size": tuple(w.shape[2:]), **common}),
            oracle.Call("conv_bgrad", {"dy": dy}),
        ]
    if isinstance(layer, nn.AdaptiveAvgPool2d):
        spec = adaptive_pool_spec(size, tuple(dy.shape[2:]))
    else:
        kernel, stride, padding = (_pair(v) for v in (layer.kernel_size, layer.stride, layer.padding))
        spec = PoolSpec(kernel, stride, padding, padding, _pair(getattr(layer, "dilation", 1)), layer.ceil_mode)
    common = {"spec": spec, "channels_last": False}
    if isinstance(layer, (nn.AvgPool2d, nn.AdaptiveAvgPool2d)):
        backward = {"dy": dy, "input_size": size, **common}
        return [oracle.Call("avg_pool", {"x": x, **common}), oracle.Call("avg_pool_bwd", backward)]
    offsets = backends.get("reference").max_pool(x, spec, True, False)[1]
    backward = {"dy": dy, "offsets": offsets, "input_size": size, **common}
    forward = {"x": x, "offsets": True, **common}
    return [oracle.Call("max_pool", forward), oracle.Call("pool_select_bwd", backward)]


def _inputs(network: nn.Module, names: list[str], images: Tensor) -> dict[str, Tensor]:
    """What each named layer receives when the network sees ``images``."""
    inputs: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda module, arguments: inputs.update({name: arguments[0]})

    handles = [network.get_submodule(name).register_forward_pre_hook(keep(name)) for name in names]
    with torch.no_grad():
        network(images)
    for handle in handles:
        handle.remove()
    return inputs


def _forward(layer: nn.Module, x: Tensor) -> Callable[[int], object]:
    return lambda i: layer(x)


def _training(layer: nn.Module, x: Tensor) -> Callable[[int], object]:
    with torch.no_grad():
        dy = torch.randn_like(layer(x))

    def run(i: int) -> object:
        leaf = x.detach().requires_grad_()
        return torch.autograd.grad(layer(leaf), [leaf, *layer.parameters()], dy)

    return run


def _describe(layer: Any) -> str:
    """A layer in a few characters, such as ``Conv2d 64>128 3x3 s2``."""
    channels = f" {layer.in_channels}>{layer.out_channels}" if hasattr(layer, "out_channels") else ""
    if isinstance(layer, nn.AdaptiveAvgPool2d):
        return f"{type(layer).__name__} to {'x'.join(map(str, _pair(layer.output_size)))}"
    stride = _pair(layer.stride)[0]
    text = f"{type(layer).__name__}{channels} {'x'.join(map(str, _pair(layer.kernel_size)))}"
    return text if stride == 1 else f"{text} s{stride}"


def _pair(value: Any) -> tuple[int, ...]:
    return value if isinstance(value, tuple) else (value, value)
