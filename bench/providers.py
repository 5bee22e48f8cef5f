"""Who computes a convolution: convkit by backend and algorithm, PyTorch eager and PyTorch compiled.

A provider turns (problem, pass, inputs) into a function of no arguments. Passes: ``forward``, ``grad_input`` and
``grad_weight``. Forward passes go through the functions a user calls, backward passes call the operators that
autograd would call.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

import convkit
from bench.pool_providers import PASSES, memory_format
from bench.problems import Problem, Row
from convkit import backends
from convkit.problem import ACTIVATIONS

LAYOUTS = ("nchw", "nhwc")
Call = Callable[[], Any]


@dataclass(frozen=True)
class Inputs:
    """What one call reads: input and filter, and for backward passes the output's gradient."""

    x: Tensor
    w: Tensor
    dy: Any = None
    bias: Any = None

    def copy(self) -> Inputs:
        """The same values and layout elsewhere in memory."""
        more = (None if t is None else t.clone() for t in (self.dy, self.bias))
        return Inputs(self.x.clone(), self.w.clone(), *more)


#: A convolution with a bias and relu, as one call where there is one; not of transposed ones.
RELU = "bias+relu"


def passes(problem: Row, backward: bool, relu: bool = False) -> tuple[str, ...]:
    """The passes measured of a problem."""
    if not isinstance(problem, Problem):
        return PASSES
    plain = ("forward", "grad_input", "grad_weight") if backward else ("forward",)
    return (*plain, RELU) if relu and problem.op == "conv" else plain


def layouts(problem: Row) -> tuple[str, ...]:
    """PyTorch has a channels-last layout for two and three spatial dimensions."""
    return LAYOUTS[:1] if problem.dims == 1 else LAYOUTS


def make_inputs(
    problem: Problem, layout: str, dtype: torch.dtype, pass_: str, seed: int, device: str = "cpu"
) -> Inputs:
    """Random tensors for a pass of a problem in a layout; equal seeds give equal values in both layouts."""
    generator = torch.Generator(device).manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        values = torch.randn(shape, generator=generator, device=device).to(dtype)
        return values.to(memory_format=memory_format(layout, problem.dims))

    x = normal(problem.n, problem.c, *problem.spatial)
    w = normal(*problem.weight_shape)
    dy = normal(problem.n, problem.k, *problem.out) if pass_.startswith("grad") else None
    bias = torch.randn(problem.k, generator=generator, device=device).to(dtype) if pass_ == RELU else None
    return Inputs(x, w, dy, bias)


def raw(problem: Problem, pass_: str, inputs: Inputs, algorithm: int = 0) -> tuple[str, dict[str, Any]]:
    """The raw operation that is this pass of the problem, and its arguments (all but the result's layout)."""
    spec, x, w, dy = problem.spec, inputs.x, inputs.w, inputs.dy
    spec = spec._replace(algorithm=algorithm, activation=ACTIVATIONS.index("relu") if pass_ == RELU else 0)
    epilogue = {"bias": inputs.bias, "scale": None, "residual": None}
    # A transposed convolution is dgrad forwards; its input gradient is fprop, and its filter's has the roles swapped.
    transposed = problem.op == "conv_transpose"
    if pass_ == "grad_weight":
        small, large = (x, dy) if transposed else (dy, x)
        return "conv_wgrad", {"dy": small, "x": large, "kernel_size": problem.kernel, "spec": spec}
    if (pass_ in ("forward", RELU)) != transposed:
        return "conv_fprop", {"x": dy if transposed else x, "w": w, **epilogue, "spec": spec}
    size = problem.out if transposed else problem.spatial
    return "conv_dgrad", {"dy": x if transposed else dy, "w": w, **epilogue, "input_size": size, "spec": spec}


def convkit_call(problem: Problem, pass_: str, inputs: Inputs, layout: str, algorithm: str | None = None) -> Call:
    """convkit's native kernels: as a user calls them, or with one algorithm by name."""
    if pass_ == "forward" and algorithm is None:
        return partial(_functional, convkit.functional, problem, inputs)
    number = 0 if algorithm is None else _native().algorithms().index(algorithm) + 1
    op, arguments = raw(problem, pass_, inputs, number)
    return partial(getattr(_native(), op), **arguments, channels_last=layout == "nhwc")


def backend_call(name: str, problem: Problem, pass_: str, inputs: Inputs, layout: str) -> Call | None:
    """Another backend's operation of this pass; None where it does not support it."""
    backend = backends.get(name)
    op, arguments = raw(problem, pass_, inputs)
    if backend.available() is not None or backend.supports(op, inputs.x.dtype, inputs.x.device, problem.spec):
        return None
    return partial(getattr(backend, op), **arguments, channels_last=layout == "nhwc")


def cudnn_call(problem: Problem, inputs: Inputs) -> Call:
    """cuDNN's fused convolution, bias and relu, which PyTorch offers by this name only."""
    rest = (problem.stride, problem.padding, problem.dilation, problem.groups)
    return partial(torch.cudnn_convolution_relu, inputs.x, inputs.w, inputs.bias, *rest)


def eager_call(problem: Problem, pass_: str, inputs: Inputs) -> Call:
    """PyTorch's own operator; channels-last inputs take its channels-last path."""
    if pass_ in ("forward", RELU):
        return partial(_forward, problem, inputs)
    mask = [pass_ == "grad_input", pass_ == "grad_weight", False]
    transposed, no_padding = problem.op == "conv_transpose", [0] * problem.dims
    return partial(
        torch.ops.aten.convolution_backward.default,
        *(inputs.dy, inputs.x, inputs.w, None, problem.stride, problem.padding, problem.dilation),
        *(transposed, no_padding, problem.groups, mask),
    )


def compiled_call(problem: Problem, inputs: Inputs) -> Call:
    """torch.compile of PyTorch's forward."""
    return partial(torch.compile(_forward, dynamic=False), problem, inputs)


def supported_algorithms(problem: Problem, pass_: str, layout: str, inputs: Inputs) -> list[str]:
    """The native backend's named convolution algorithms that run this pass."""
    supported = []
    for name in _native().algorithms():
        try:
            convkit_call(problem, pass_, inputs, layout, name)()
        except RuntimeError:  # it says why it does not support the problem
            continue
        supported.append(name)
    return supported


def _forward(problem: Problem, inputs: Inputs) -> Tensor:
    """PyTorch's convolution, followed by relu where there is a bias to add before it."""
    y = _functional(torch.nn.functional, problem, inputs)
    return y if inputs.bias is None else y.relu_()


def _functional(namespace: Any, problem: Problem, inputs: Inputs) -> Tensor:
    rest = {"stride": problem.stride, "padding": problem.padding, "dilation": problem.dilation}
    result: Tensor = getattr(namespace, problem.functional)(
        inputs.x, inputs.w, inputs.bias, groups=problem.groups, **rest
    )
    return result


def _native() -> backends.Backend:
    return backends.get("native")
