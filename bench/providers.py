"""Who computes a problem: convkit by backend and algorithm, PyTorch eager and PyTorch compiled.

A provider turns (problem, pass, inputs) into a function of no arguments. Passes: ``forward``; for convolutions
``grad_input`` and ``grad_weight``, for pools ``grad_input``. Forward passes go through the functions a user
calls, backward passes call the operators that autograd would call.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

import convkit
from bench.problems import Problem
from convkit import backends
from convkit.problem import ConvSpec, PoolSpec

LAYOUTS = ("nchw", "nhwc")
Call = Callable[[], Any]


@dataclass(frozen=True)
class Inputs:
    """What one call reads: input and filter, and for backward passes the output's gradient and what forward kept."""

    x: Tensor
    w: Any = None  # a tensor where the problem has one, as the next ones
    dy: Any = None
    kept: Any = None  # max_pool: window offsets
    indices: Any = None  # max_pool: PyTorch's indices


def passes(problem: Problem, backward: bool) -> tuple[str, ...]:
    """The passes measured of a problem."""
    if not backward:
        return ("forward",)
    return ("forward", "grad_input") if problem.pools else ("forward", "grad_input", "grad_weight")


def layouts(problem: Problem) -> tuple[str, ...]:
    """PyTorch has a channels-last layout for two and three spatial dimensions."""
    return LAYOUTS[:1] if problem.dims == 1 else LAYOUTS


def make_inputs(problem: Problem, layout: str, dtype: torch.dtype, backward: bool, seed: int) -> Inputs:
    """Random tensors of a problem in a layout; equal seeds give equal values in both layouts."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        values = torch.randn(shape, generator=generator).to(dtype)
        return values.to(memory_format=_memory_format(layout, problem.dims))

    x = normal(problem.n, problem.c, *problem.spatial)
    w = None if problem.pools else normal(*problem.weight_shape)
    dy = normal(problem.n, problem.k, *problem.out) if backward else None
    kept = indices = None
    if isinstance(problem.spec, PoolSpec) and problem.op == "max_pool" and backward:
        kept = _native().max_pool(x, problem.spec, True, layout == "nhwc")[1]
        indices = _torch_max_pool_indices(problem, x)
    return Inputs(x, w, dy, kept, indices)


def raw(problem: Problem, pass_: str, inputs: Inputs, algorithm: int = 0) -> tuple[str, dict[str, Any]]:
    """The raw operation that is this pass of the problem, and its arguments (all but the result's layout)."""
    spec, x, w, dy = problem.spec, inputs.x, inputs.w, inputs.dy
    if problem.pools:
        if pass_ == "forward":
            return problem.op, {"x": x, "spec": spec} | ({"offsets": False} if problem.op == "max_pool" else {})
        if problem.op == "max_pool":
            return "pool_select_bwd", {"dy": dy, "offsets": inputs.kept, "input_size": problem.spatial, "spec": spec}
        return "avg_pool_bwd", {"dy": dy, "input_size": problem.spatial, "spec": spec}
    assert isinstance(spec, ConvSpec)
    spec = spec._replace(algorithm=algorithm)
    epilogue = {"bias": None, "scale": None, "residual": None}
    # A transposed convolution is dgrad forwards; its input gradient is fprop, and its filter's has the roles swapped.
    transposed = problem.op == "conv_transpose"
    if pass_ == "grad_weight":
        small, large = (x, dy) if transposed else (dy, x)
        return "conv_wgrad", {"dy": small, "x": large, "kernel_size": problem.kernel, "spec": spec}
    if (pass_ == "forward") != transposed:
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


def eager_call(problem: Problem, pass_: str, inputs: Inputs) -> Call:
    """PyTorch's own operator; channels-last inputs take its channels-last path."""
    if pass_ == "forward":
        return partial(_functional, torch.nn.functional, problem, inputs)
    aten = torch.ops.aten
    if not problem.pools:
        mask = [pass_ == "grad_input", pass_ == "grad_weight", False]
        transposed, no_padding = problem.op == "conv_transpose", [0] * problem.dims
        return partial(
            aten.convolution_backward.default,
            *(inputs.dy, inputs.x, inputs.w, None, problem.stride, problem.padding, problem.dilation),
            *(transposed, no_padding, problem.groups, mask),
        )
    window: tuple[Any, ...] = (problem.kernel, problem.stride, problem.padding)
    if problem.op == "max_pool":
        if problem.dims == 1:  # PyTorch pools 1-d as 2-d
            dy, x, indices = (t.unsqueeze(-2) for t in (inputs.dy, inputs.x, inputs.indices))
            window = tuple((first, *v) for first, v in zip((1, 1, 0), window))
            dilation = (1, *problem.dilation)
        else:
            dy, x, indices, dilation = inputs.dy, inputs.x, inputs.indices, problem.dilation
        op = getattr(aten, f"max_pool{max(problem.dims, 2)}d_with_indices_backward").default
        return partial(op, dy, x, *window, dilation, False, indices)
    if problem.dims == 1:
        op = aten.avg_pool2d_backward.default
        window = tuple((first, *v) for first, v in zip((1, 1, 0), window))
        return partial(op, inputs.dy.unsqueeze(-2), inputs.x.unsqueeze(-2), *window, False, True, None)
    op = getattr(aten, f"avg_pool{problem.dims}d_backward").default
    return partial(op, inputs.dy, inputs.x, *window, False, True, None)


def compiled_call(problem: Problem, inputs: Inputs) -> Call:
    """torch.compile of PyTorch's forward."""
    return partial(torch.compile(_functional, dynamic=False), torch.nn.functional, problem, inputs)


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


def _functional(namespace: Any, problem: Problem, inputs: Inputs) -> Tensor:
    function = getattr(namespace, problem.functional)
    if not problem.pools:
        rest = {"stride": problem.stride, "padding": problem.padding, "dilation": problem.dilation}
        return function(inputs.x, inputs.w, None, groups=problem.groups, **rest)
    return function(inputs.x, problem.kernel, problem.stride, problem.padding)


def _native() -> backends.Backend:
    return backends.get("native")


def _memory_format(layout: str, dims: int) -> torch.memory_format:
    if layout == "nchw":
        return torch.contiguous_format
    return torch.channels_last if dims == 2 else torch.channels_last_3d


def _torch_max_pool_indices(problem: Problem, x: Tensor) -> Tensor:
    function = getattr(torch.nn.functional, problem.functional)
    return function(x, problem.kernel, problem.stride, problem.padding, return_indices=True)[1]
