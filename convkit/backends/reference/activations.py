"""Activations and their derivatives, with torch.nn.functional's values where they have a corner or overflow."""

from __future__ import annotations

from math import pi

import torch
from torch import Tensor

from convkit.problem import ACTIVATIONS


def _normal_cdf(v: Tensor) -> Tensor:
    return 0.5 * (1 + torch.erf(v * 0.5**0.5))


def _normal_density(v: Tensor) -> Tensor:
    return torch.exp(-0.5 * v * v) / (2 * pi) ** 0.5


def activate(v: Tensor, activation: int, alpha: float) -> Tensor:
    """act(v); ``activation`` is an index into ACTIVATIONS."""
    return {
        "identity": lambda: v,
        "relu": lambda: torch.relu(v),
        "leaky_relu": lambda: torch.where(v < 0, v * alpha, v),
        "elu": lambda: torch.where(v < 0, alpha * torch.expm1(v), v),
        "sigmoid": lambda: torch.sigmoid(v),
        "tanh": lambda: torch.tanh(v),
        "silu": lambda: v / (1 + torch.exp(-v)),
        "gelu": lambda: v * _normal_cdf(v),
    }[ACTIVATIONS[activation]]()


def activation_gradient(dz: Tensor, v: Tensor, activation: int, alpha: float) -> Tensor:
    """dz act'(v). Where a relu stops a gradient the result is 0, even of an infinite dz."""
    sigmoid = torch.sigmoid  # elu: exp of a large v, though not chosen, would make the next derivative NaN
    return {
        "identity": lambda: dz,
        "relu": lambda: torch.where(v <= 0, 0, dz),
        "leaky_relu": lambda: torch.where(v > 0, dz, dz * alpha),
        "elu": lambda: torch.where(v > 0, dz, dz * alpha * torch.exp(v.clamp(max=0))),
        "sigmoid": lambda: dz * (1 - sigmoid(v)) * sigmoid(v),
        "tanh": lambda: dz * (1 - torch.tanh(v) ** 2),
        "silu": lambda: dz * sigmoid(v) * (1 + v * (1 - sigmoid(v))),
        "gelu": lambda: dz * (_normal_cdf(v) + v * _normal_density(v)),
    }[ACTIVATIONS[activation]]()
