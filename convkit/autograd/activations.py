"""The activations of fused operations as PyTorch's functions, which have derivatives of every order."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from convkit.problem import ACTIVATIONS


def activate(value: Tensor, activation: int, alpha: float) -> Tensor:
    """The activation of number ``activation`` in ACTIVATIONS; ``alpha`` is leaky_relu's slope or elu's alpha."""
    match ACTIVATIONS[activation]:
        case "relu":
            return torch.relu(value)
        case "leaky_relu":
            return F.leaky_relu(value, alpha)
        case "elu":
            return F.elu(value, alpha)
        case "sigmoid":
            return torch.sigmoid(value)
        case "tanh":
            return torch.tanh(value)
        case "silu":
            return F.silu(value)
        case "gelu":
            return F.gelu(value)
    return value
