"""Cases and calls of batch normalisation with activations and residuals, and of convolution with statistics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from convkit.backends.base import Backend, bundled
from convkit.problem import ACTIVATIONS
from convkit.testing.cases import ConvCase
from convkit.testing.layouts import LAYOUTS
from convkit.testing.oracle import Call, Sizes, data
from convkit.testing.tolerances import ACCUMULATE


@dataclass(frozen=True)
class NormCase:
    """Tensors (N, C, *spatial) that are normalised, with what follows."""

    name: str
    why: str
    input: Sizes
    activation: str
    residual: bool = False
    affine: bool = True
    alpha: float = 0.1
    constant: bool = False  # statistics that no batch was asked for: those of evaluation

    @property
    def dims(self) -> int:
        return len(self.input) - 2


NORMS = (
    NormCase("relu_2d", "the layer of all networks", (2, 8, 6, 7), "relu"),
    NormCase("relu_1d", "the same in one dimension", (2, 3, 19), "relu"),
    NormCase("relu_3d", "the same in three dimensions", (2, 5, 3, 4, 5), "relu"),
    NormCase("relu_residual", "the end of a residual block", (2, 19, 5, 6), "relu", True),
    NormCase("relu_residual_3d", "the same in three dimensions, in a vector tail", (1, 7, 3, 4, 3), "relu", True),
    NormCase("identity", "a downsampling shortcut", (2, 6, 5, 7), "identity"),
    NormCase("identity_residual", "a linear bottleneck", (3, 6, 4, 5), "identity", True),
    NormCase("identity_plain", "neither weight nor bias", (2, 4, 7, 3), "identity", affine=False),
    NormCase("relu_plain", "neither weight nor bias", (2, 4, 7, 3), "relu", True, affine=False),
    NormCase("relu_constant", "running statistics", (2, 5, 6, 5), "relu", constant=True),
    NormCase("leaky_relu", "a slope below 0", (2, 5, 6, 7), "leaky_relu"),
    NormCase("leaky_relu_residual", "a slope and a residual", (2, 17, 3, 4), "leaky_relu", True, alpha=0.3),
    NormCase("elu", "an exponential below 0, and a derivative that jumps", (2, 5, 6, 7), "elu", alpha=0.7),
    NormCase("elu_residual", "an exponential and a residual", (1, 18, 4, 5), "elu", True, alpha=1.0),
    NormCase("sigmoid", "a gate", (2, 5, 6, 7), "sigmoid"),
    NormCase("sigmoid_constant", "a gate after running statistics", (2, 16, 3, 5), "sigmoid", True, constant=True),
    NormCase("tanh", "a bounded value", (2, 5, 6, 7), "tanh", True),
    NormCase("silu", "EfficientNet", (2, 5, 6, 7), "silu"),
    NormCase("silu_residual", "a smooth gate and a residual", (1, 33, 3, 4), "silu", True),
    NormCase("gelu", "ConvNeXt's activation", (2, 5, 6, 7), "gelu"),
    NormCase("gelu_plain", "a smooth gate and neither weight nor bias", (1, 16, 4, 9), "gelu", True, affine=False),
    NormCase("one_element", "one element per channel: a variance of 0", (1, 9, 1, 1), "relu", True),
    NormCase("two_elements", "the least that varies", (2, 5, 1), "identity"),
    NormCase("one_channel", "all elements in one sum", (3, 1, 9, 11), "relu", True),
    NormCase("channels_15", "one channel less than a vector", (2, 15, 3, 4), "relu"),
    NormCase("channels_64", "whole vectors of channels", (1, 64, 5, 5), "relu", True),
    NormCase("channels_many", "more channels than one block of vectors", (1, 150, 2, 3), "relu", True),
    NormCase("width_16", "exactly one vector in a row", (1, 2, 3, 16), "relu", True),
    NormCase("width_17", "one element more than a vector", (1, 2, 3, 17), "relu"),
    NormCase("plane_long", "rows longer than one block", (2, 2, 37, 41), "relu", True),
    NormCase("batch_many", "more images than threads", (13, 4, 3, 3), "relu"),
    NormCase("batch_many_residual", "the same with a residual", (11, 3, 3, 2), "relu", True),
    NormCase("batch_0", "an empty batch", (0, 4, 5, 6), "relu", True),
)


def norm_calls(case: NormCase, dtype: torch.dtype, layout: str = "contiguous", exact: bool = False) -> list[Call]:
    """The four operations of one case; statistics are made up, of another place and size than the data's.

    ``exact``: small integers, and powers of 2 as scales, of which no operation without an elementary function rounds
    anything.
    """
    wide = ACCUMULATE[dtype]

    def vector(name: str) -> Tensor:
        return data((case.input[1],), wide, f"{case.name} {name}", exact)

    def tensor(name: str) -> Tensor:
        return LAYOUTS[layout](data(case.input, dtype, f"{case.name} {name}", exact))

    power = 2.0 ** data((case.input[1],), torch.float64, f"{case.name} power", True).clamp(-1, 1)
    invstd = power.to(wide) if exact else vector("invstd").abs() + 0.1
    norm: dict[str, Any] = {
        "x": tensor("x"),
        "mean": vector("mean"),
        "invstd": invstd,
        "weight": vector("weight") if case.affine else None,
        "bias": vector("bias") if case.affine else None,
        "residual": tensor("residual") if case.residual else None,
        "activation": ACTIVATIONS.index(case.activation),
        "alpha": 0.5 if exact else case.alpha,
    }
    backward = {"dz": tensor("dz"), **norm}
    elements = case.input[0] * torch.Size(case.input[2:]).numel()
    # Statistics over two processes' elements, as many in each.
    count = 0 if case.constant else 2 ** (elements + 1).bit_length() if exact else 2 * elements
    sums = {name: None if case.constant else 3 * vector(name) for name in ("dbias", "dweight")}
    last = {"channels_last": layout == "channels_last"}
    gradient = {**backward, **sums, "count": count, **last}
    return [
        Call("bn_stats", {"x": norm["x"]}),
        Call("bn_act", {**norm, **last}),
        Call("bn_act_bwd_reduce", backward),
        Call("bn_act_bwd", {**gradient, "with_residual": False}),
        Call("bn_act_bwd", {**gradient, "with_residual": True}),
    ]


def in_one(gradient: Call) -> dict[str, Any]:
    """The arguments of the operator ``bn_act_grad`` that make of a call of bn_act_bwd one that takes its own sums."""
    return {name: value for name, value in gradient.arguments.items() if name not in ("dbias", "dweight")}


def composed(gradient: Call, backend: Backend) -> tuple[Tensor, ...]:
    """What ``bn_act_grad`` of these arguments is: two operations, one after the other."""
    a = bundled(in_one(gradient))
    return Backend.bn_act_grad(backend, elements=a.pop("count"), **a)


def alone(gradient: Call, backend: Backend) -> tuple[Tensor, ...]:
    """The same in whatever the backend does."""
    a = bundled(in_one(gradient))
    return backend.bn_act_grad(elements=a.pop("count"), **a)


def stats_calls(case: ConvCase, dtype: torch.dtype, layout: str = "contiguous", exact: bool = False) -> list[Call]:
    """A convolution with its result's statistics, without a bias and with one."""
    x = LAYOUTS[layout](data(case.input, dtype, case.name + " x", exact))
    w = LAYOUTS[layout](data(case.weight, dtype, case.name + " w", exact))
    bias = data(case.weight[:1], dtype, case.name + " bias", exact)
    common = {"spec": case.spec, "channels_last": layout == "channels_last"}
    return [Call("conv_fprop_stats", {"x": x, "w": w, "bias": b, **common}) for b in (None, bias)]


def fused_calls(dtype: torch.dtype, layout: str = "contiguous") -> list[tuple[str, Call]]:
    """Every call of this file's cases and of one convolution of each kind, with its case's name."""
    found = [(c.name, call) for c in NORMS for call in norm_calls(c, dtype, layout)]
    return found + [(c.name, call) for c in WITH_STATISTICS for call in stats_calls(c, dtype, layout)]


#: A convolution of each kind and algorithm.
WITH_STATISTICS = (
    ConvCase("stats_3x3", "the commonest layer", (2, 8, 6, 7), (18, 8, 3, 3), padding=1),
    ConvCase("stats_1d", "one dimension", (2, 3, 20), (4, 3, 3), 2),
    ConvCase("stats_3d", "three dimensions", (2, 3, 4, 5, 4), (4, 3, 2, 3, 2)),
    ConvCase("stats_pointwise", "1x1", (2, 19, 5, 7), (21, 19, 1, 1)),
    ConvCase("stats_deep", "several depth blocks", (1, 300, 4, 3), (17, 300, 3, 3), padding=1),
    ConvCase("stats_groups", "groups of a few channels", (1, 32, 5, 5), (32, 4, 3, 3), padding=1, groups=8),
    ConvCase("stats_depthwise", "MobileNet", (2, 17, 9, 10), (17, 1, 3, 3), 2, 1, groups=17),
    ConvCase("stats_one_pixel", "one element per channel", (1, 5, 3, 3), (7, 5, 3, 3)),
    ConvCase("stats_plane", "more pixels than one block", (2, 3, 33, 35), (5, 3, 3, 3), padding=1),
    ConvCase("stats_batch_0", "an empty batch", (0, 3, 6, 7), (4, 3, 3, 3)),
)
