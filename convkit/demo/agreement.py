"""Whether a converted network computes what the original does, judged by a float64 copy of it.

Two float32 networks never agree bit for bit: they round at different places, and a value near zero may pass a ReLU in
one and not in the other. So both are compared with the same network in float64, and the converted one may
be off by no more than a small multiple of what PyTorch itself is off.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

FACTOR = 4.0  # of PyTorch's own error; rounding is random, and a few flipped ReLUs weigh more than all the rest
UNIT_ROUNDOFF = torch.finfo(torch.float32).eps / 2


class Agreement(NamedTuple):
    """Relative errors (2-norm) of one quantity in PyTorch and in convkit, against float64."""

    quantity: str
    pytorch: float
    convkit: float

    @property
    def ok(self) -> bool:
        return self.convkit <= FACTOR * self.pytorch + UNIT_ROUNDOFF


def compare_networks(
    original: nn.Module, converted: nn.Module, images: Tensor, labels: Tensor, fused: nn.Module | None = None
) -> list[Agreement]:
    """Compares outputs and gradients in eval and in train mode; leaves batch norm's statistics as they were.

    ``fused`` is compared too, after all of ``converted``.
    """
    exact = copy.deepcopy(original).double()
    found, found_fused = [], []
    for mode in ("eval", "train"):
        results = []
        for network in (exact, original, converted, *(() if fused is None else (fused,))):
            state = copy.deepcopy(network.state_dict())
            results.append(_run_network(network.train(mode == "train"), images, labels))
            network.load_state_dict(state)
        for quantity in results[0]:
            truth, pytorch, *ours = (r[quantity] for r in results)
            errors = [relative_error(values, truth) for values in (pytorch, *ours)]
            found.append(Agreement(f"{mode}: {quantity}", *errors[:2]))
            found_fused += [Agreement(f"fused, {mode}: {quantity}", errors[0], error) for error in errors[2:]]
    return found + found_fused


def _run_network(network: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    parameters = list(network.parameters())
    x = images.to(parameters[0].dtype).detach().requires_grad_()
    output = network(x)
    logits = output.logits if hasattr(output, "logits") else output
    gradients = torch.autograd.grad(cross_entropy(logits, labels), [x, *parameters])
    together = torch.cat([g.flatten() for g in gradients[1:]])
    return {"output": logits.detach(), "gradient of the input": gradients[0], "gradients of the parameters": together}


def relative_error(values: Tensor, truth: Tensor) -> float:
    """The 2-norm of the error as a part of the 2-norm of the truth."""
    return float((values.double() - truth).norm() / truth.norm())
