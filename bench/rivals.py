"""What convkit's poolings are timed against where PyTorch has no function of the same name: the best composition
of its functions that was found. Also what some functions take besides their input.
"""

from __future__ import annotations

from torch import Tensor


def itself(x: Tensor) -> tuple[Tensor, ...]:
    """The tensor arguments of a function of the input alone."""
    return (x,)
