"""Convolution, batch norm, an optional residual and an activation: ``python -m bench.run fused``.

Three passes of each row and layout:

- ``inference``: one kernel, beside PyTorch's functions one after the other (eager, and compiled where asked for) and
  beside ``unfused``, the same chain with convkit's convolution. Floors are relative to that chain.
- ``training``: forward and backward of ``convkit.nn.ConvBNReLU2d`` and of PyTorch's modules.
- ``training, norm``: what remains of such a step without the convolution's own, measured in the same run; no row
  where noise hides it, which is said.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import convkit
from bench.pool_providers import memory_format
from bench.problems import Problem, scaled
from convkit import backends
from convkit.backends import RAW_OPS, Backend, selection
from convkit.backends.base import Norm, NormSums, unbundled
from convkit.problem import ACTIVATIONS
from convkit.testing.oracle import Call, error, expect, judge, product_error
from convkit.timing import Timing

PASSES = ("inference", "training")
EPS = 1e-5
Results = tuple[Tensor, ...]
Calls = dict[str, list[Callable[[], Any]]]


@dataclass(frozen=True)
class FusedRow(Problem):
    """A convolution with what follows it: act(batch_norm(conv(x)) + residual)."""

    residual: bool = False
    activation: str = "relu"

    @property
    def small(self) -> bool:
        """1x1 convolutions and those of few channels, which are over soon: what follows weighs most there."""
        return set(self.kernel) == {1} or min(self.c, self.k) <= 32

    def __str__(self) -> str:
        return f"{super().__str__()} {self.activation}{' +residual' if self.residual else ''}"


def _row(
    id: str, source: str, n: int, c: int, k: int, size: int, kernel: int, stride: int = 1, groups: int = 1, **more: Any
) -> FusedRow:
    spatial, window, strides, padding = ((v, v) for v in (size, kernel, stride, kernel // 2))
    return FusedRow(id, "fused", source, "conv", n, c, k, spatial, window, strides, padding, (1, 1), groups, **more)


ROWS = (
    _row("B01", "ResNet-50 stem", 64, 3, 64, 224, 7, 2),
    _row("B02", "ResNet-50 stage 1, reduce", 64, 256, 64, 56, 1),
    _row("B03", "ResNet-50 stage 1, middle", 64, 64, 64, 56, 3),
    _row("B04", "ResNet-50 stage 1, expand", 64, 64, 256, 56, 1, residual=True),
    _row("B05", "ResNet-18 stage 2, second", 64, 128, 128, 28, 3, residual=True),
    _row("B06", "ResNet-50 stage 3, expand", 64, 256, 1024, 14, 1, residual=True),
    _row("B07", "ResNet-18 stage 4, second", 64, 512, 512, 7, 3, residual=True),
    _row("B08", "ResNet-20 on CIFAR, stage 1", 128, 16, 16, 32, 3, residual=True),
    _row("B09", "MobileNetV2, expand", 32, 24, 144, 56, 1),
    _row("B10", "MobileNetV2, depthwise", 32, 144, 144, 56, 3, groups=144),
    _row("B11", "MobileNetV2, project", 32, 144, 24, 56, 1, residual=True, activation="identity"),
    _row("B12", "EfficientNet, expand", 32, 40, 240, 28, 1, activation="silu"),
    _row("B13", "EfficientNet, depthwise", 32, 240, 240, 28, 5, groups=240, activation="silu"),
    _row("B14", "a pointwise layer with gelu", 32, 96, 384, 28, 1, activation="gelu"),
    _row("B15", "Darknet, leaky", 16, 64, 128, 52, 3, 2, activation="leaky_relu"),
)


def select(names: list[str], scale: float) -> Iterator[FusedRow]:
    """The rows named by their id or as ``fused``, scaled as the suite's."""
    for row in ROWS:
        if {row.family, row.id} & set(names):
            small = scaled(row, scale)
            assert isinstance(small, FusedRow)
            yield small


def floor(row: FusedRow, pass_: str) -> float | None:
    """The least ratio promised: of inference to convkit's own chain, of what follows a convolution to PyTorch's."""
    if pass_ == "inference":
        return 1.2 if row.small else 1.0
    return 2.0 if pass_ == "training, norm" else None


ALPHA = 0.1


def activate(v: Tensor, name: str) -> Tensor:
    if name == "leaky_relu":
        return F.leaky_relu(v, ALPHA, inplace=True)
    if name == "relu":
        return F.relu(v, inplace=True)
    return v if name == "identity" else getattr(F, name)(v)


class Layer:
    """The tensors of one row, and the functions of no arguments that are timed."""

    def __init__(self, row: FusedRow, layout: str, dtype: torch.dtype, seed: int, device: str) -> None:
        generator = torch.Generator(device).manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            values = torch.randn(shape, generator=generator, device=device).to(dtype)
            return values.to(memory_format=memory_format(layout, row.dims)) if len(shape) > 2 else values

        self.row, self.last, out = row, layout == "nhwc", (row.n, row.k, *row.out)
        self.x, self.w, self.dz = normal(row.n, row.c, *row.spatial), normal(*row.weight_shape), normal(*out)
        self.w /= self.w[0].numel() ** 0.5
        self.residual = normal(*out) if row.residual else None
        self.mean, self.weight, self.bias = normal(row.k), normal(row.k), normal(row.k)
        self.var = normal(row.k).abs() + 0.5
        self.geometry = {"stride": row.stride, "padding": row.padding, "groups": row.groups}

    # --- inference ---

    def chain(self, conv: Callable[..., Tensor]) -> Tensor:
        """One function after the other."""
        y = conv(self.x, self.w, None, **self.geometry)
        v = F.batch_norm(y, self.mean, self.var, self.weight, self.bias, eps=EPS)
        return activate(v if self.residual is None else v.add_(self.residual), self.row.activation)

    def raw(self) -> dict[str, Any]:
        """The arguments of the one raw operation that a fused layer is, but for the result's layout."""
        scale = (self.var + EPS).rsqrt() * self.weight
        spec = self.row.spec._replace(activation=ACTIVATIONS.index(self.row.activation), alpha=ALPHA)
        bias = self.bias - self.mean * scale
        return {"x": self.x, "w": self.w, "bias": bias, "scale": scale, "residual": self.residual, "spec": spec}

    def fused(self) -> Callable[[], Tensor]:
        return partial(backends.get("native").conv_fprop, **self.raw(), channels_last=self.last)

    def error(self, call: Callable[[], Tensor]) -> float:
        """The fused result's error in units of the admissible one, of two images: the oracle is slow."""
        few = {k: v[:2] if k in ("x", "residual") and v is not None else v for k, v in self.raw().items()}
        asked = Call("conv_fprop", few | {"channels_last": False})
        expected = expect(asked, backends.get("reference"), product_error(asked, backends.get("native")))[0]
        return error(call()[:2], expected)

    # --- training ---

    def modules(self, kind: Any, fused: bool) -> Any:
        """The layer's modules with this row's numbers: convkit's fused one, or a convolution alone."""
        row = self.row
        sizes = (row.c, row.k, row.kernel, row.stride, row.padding)
        settings: Any = {"groups": row.groups, "bias": False, "dtype": self.x.dtype, "device": self.x.device}
        if fused:
            settings |= {"activation": row.activation, "alpha": ALPHA if row.activation == "leaky_relu" else None}
        made = kind(*sizes, **settings)
        with torch.no_grad():
            (made.conv if fused else made).weight.copy_(self.w)
            if fused:
                made.bn.weight.copy_(self.weight)
                made.bn.bias.copy_(self.bias)
        return made.to(memory_format=memory_format("nhwc" if self.last else "nchw", row.dims))

    def step(self, forward: Callable[..., Tensor], parameters: list[Tensor], alone: bool) -> Callable[[], Results]:
        """Forward and backward, to every tensor that has a gradient; ``alone``: of a function of x only."""
        inputs = [self.x.clone().requires_grad_()]
        if self.residual is not None and not alone:
            inputs.append(self.residual.clone().requires_grad_())

        def run() -> Results:
            with torch.enable_grad():
                z = forward(*inputs)
                return (z.detach(), *torch.autograd.grad(z, [*inputs, *parameters], self.dz))

        return run

    def steps(self) -> dict[str, Callable[[], Results]]:
        """A step of the whole layer and of its convolution alone, convkit's and PyTorch's."""
        ours, alone = self.modules(convkit.nn.ConvBNReLU2d, True), self.modules(convkit.nn.Conv2d, False)
        conv = self.modules(torch.nn.Conv2d, False)
        norm = torch.nn.BatchNorm2d(self.row.k, dtype=self.x.dtype, device=self.x.device)
        with torch.no_grad():
            norm.weight.copy_(self.weight)
            norm.bias.copy_(self.bias)

        def chain(x: Tensor, residual: Tensor | None = None) -> Tensor:
            v = norm(conv(x))
            return activate(v if residual is None else v.add_(residual), self.row.activation)

        return {
            "convkit": self.step(ours, [*ours.parameters()], False),
            "eager": self.step(chain, [*conv.parameters(), *norm.parameters()], False),
            "convkit's convolution": self.step(alone, [*alone.parameters()], True),
            "PyTorch's convolution": self.step(conv, [*conv.parameters()], True),
        }


def prepare(
    row: FusedRow, pass_: str, layout: str, dtype: torch.dtype, copies: int, compiled: bool, device: str
) -> tuple[Calls, dict[str, float]]:
    """The candidates of one pass in one layout, one call per copy of the tensors, and convkit's error."""
    layers = [Layer(row, layout, dtype, seed, device) for seed in range(copies)]
    if pass_ == "training":
        made = [layer.steps() for layer in layers]
        calls: Calls = {name: [steps[name] for steps in made] for name in made[0]}
        few = Layer(replace(row, n=min(row.n, 2)), layout, dtype, 0, device)  # the oracle is slow
        return calls, {"convkit": error_of_step(few.steps()["convkit"])}
    calls = {
        "convkit": [layer.fused() for layer in layers],
        "eager": [partial(layer.chain, F.conv2d) for layer in layers],
        "unfused": [partial(layer.chain, convkit.functional.conv2d) for layer in layers],
    }
    if compiled:
        chain = torch.compile(Layer.chain, dynamic=False)
        calls["compile"] = [partial(chain, layer, F.conv2d) for layer in layers]
    return calls, {"convkit": layers[0].error(calls["convkit"][0])}


class Recorder(Backend):
    """The native kernels, what has been asked of them, and what they gave."""

    name = "recorder"

    def __init__(self) -> None:
        self.calls: list[tuple[Call, tuple[Tensor, ...]]] = []
        self._native = backends.get("native")
        for op in RAW_OPS:
            setattr(self, op, partial(self._run, op))

    def _run(self, op: str, *values: Any, **named: Any) -> Any:
        method = getattr(self._native, op)
        given = inspect.signature(method).bind(*values, **named).arguments
        result = method(*values, **named)
        self._record(op, given, result if isinstance(result, tuple) else (result,))
        return result

    def _record(self, op: str, given: Mapping[str, Any], results: tuple[Tensor, ...]) -> None:
        arguments = {k: a.detach() if isinstance(a, Tensor) else a for k, a in unbundled(given).items()}
        self.calls.append((Call(op, arguments), tuple(r.detach() for r in results)))

    def bn_act_grad(
        self, dz: Tensor, x: Tensor, norm: Norm, elements: int, with_residual: bool, channels_last: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Two operations to the oracle, and one to the kernels."""
        dx, dresidual, *sums = self._native.bn_act_grad(dz, x, norm, elements, with_residual, channels_last)
        reduce = {"dz": dz, "x": x, "norm": norm}
        rest = {"sums": NormSums(*sums, elements), "with_residual": with_residual, "channels_last": channels_last}
        self._record("bn_act_bwd_reduce", reduce, tuple(sums))
        self._record("bn_act_bwd", {**reduce, **rest}, (dx, dresidual))
        return dx, dresidual, *sums


def error_of_step(step: Callable[[], Results]) -> float:
    """The largest error of a step's operations, each on what the ones before it gave, in units of the admissible one.

    Not of the step: an element that rounding moves across relu's corner changes whole gradients, PyTorch's as ours.
    """
    recorder, native, reference = Recorder(), backends.get("native"), backends.get("reference")
    with selection.substituted(lambda *_: recorder):
        step()
    judged = (pair for call, results in recorder.calls for pair in judge(call, results, native, reference))
    return max(error(result, right) for right, result in judged)


def of_norm(times: Mapping[str, Timing]) -> dict[str, Timing]:
    """What a step takes beyond its convolution's; nothing where that is less than the convolution's times spread."""
    found = {}
    for name, alone in (("convkit", "convkit's convolution"), ("eager", "PyTorch's convolution")):
        step, conv = times[name], times[alone]
        if step.median - conv.median <= conv.p80 - conv.p20:
            return {}
        median, p20, p80 = (t - conv.median for t in (step.median, step.p20, step.p80))
        found[name] = Timing(median, p20, p80, step.runs)
    return found
