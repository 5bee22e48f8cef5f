"""Backend ``reference``: every raw operation in plain PyTorch, written to be read. It is the oracle of the tests.

A window operation is a loop over the taps of the window. For one tap, the elements that all windows read
form a strided slice of the padded input (:func:`windows.tap_slice`); the forward operation reads that slice and
the adjoint adds to it. Sums are kept in the operands' type, for 16-bit floating types in float32.
One class per family of operations, in a file of its own; the backend is all of them.
"""

from __future__ import annotations

import torch

from convkit.backends.base import FLAT_OPS
from convkit.backends.reference.batch_norm import BatchNormReference
from convkit.backends.reference.convolution import apply_epilogue
from convkit.backends.reference.flat import FlatReference
from convkit.backends.reference.lp_pooling import LpPoolingReference
from convkit.backends.reference.pooling import PoolingReference
from convkit.backends.reference.stochastic_pool import StochasticReference
from convkit.problem import ConvSpec, PoolSpec

__all__ = ["Reference", "apply_epilogue"]


class Reference(BatchNormReference, PoolingReference, StochasticReference, FlatReference, LpPoolingReference):
    name = "reference"

    def supports(
        self, op: str, dtype: torch.dtype, device: torch.device, spec: ConvSpec | PoolSpec | None
    ) -> str | None:
        if dtype == torch.bool:
            return f"no {op} for {dtype}"
        if not op.startswith("conv") and dtype.is_complex:
            return f"no {op} for {dtype}: complex numbers have no order, and PyTorch does not pool them"
        if op in FLAT_OPS and not dtype.is_floating_point:
            return f"no {op} for {dtype}: PyTorch has it for floating types"
        if op.startswith("stochastic") and not dtype.is_floating_point:
            return f"no {op} for {dtype}: probabilities are fractions"
        if (op.startswith("bn") or op == "conv_fprop_stats") and not dtype.is_floating_point:
            return f"no {op} for {dtype}: a normalised value is a fraction"
        if op.startswith("lp") and not dtype.is_floating_point:
            return f"no {op} for {dtype}: powers and roots need floating point"
        if isinstance(spec, ConvSpec) and spec.activation and (dtype.is_complex or not dtype.is_floating_point):
            return f"no activation for {dtype}"
        if isinstance(spec, ConvSpec) and spec.algorithm:
            return "has no algorithms to choose from"
        return None
