"""The plans of recent calls: in eager mode an equal call finds its checked plan by one dictionary look-up.

A key holds shapes and arguments as plain ints, tuples of ints, strings and flags, and their types: Python
counts 1 and True as equal, PyTorch does not. Anything else goes to the checks each time.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import torch

Plan = TypeVar("Plan")

CAPACITY = 4096


class PlanCache:
    """A bounded dictionary of plans; it is emptied when it is full."""

    def __init__(self) -> None:
        self._plans: dict[Hashable, Any] = {}

    def get(self, make: Callable[..., Plan], *arguments: Any) -> Plan:
        """``make(*arguments)``, or what an equal call made."""
        if torch.compiler.is_compiling():
            return make(*arguments)
        if not _plain(arguments):
            return make(*map(_without_tensors, arguments))
        key = (make, arguments, tuple(map(type, arguments)))
        plan = self._plans.get(key)
        if plan is None:
            plan = make(*arguments)
            if len(self._plans) >= CAPACITY:
                self._plans.clear()
            self._plans[key] = plan
        return plan


def _without_tensors(value: Any) -> Any:
    """A shape as numbers: torch.jit.trace gives tensors, which no operator here takes; it warns that they are fixed."""
    if type(value) is not torch.Size:
        return value
    return tuple([int(v) if isinstance(v, torch.Tensor) else v for v in value])


def _plain(arguments: tuple[Any, ...]) -> bool:
    for value in arguments:
        kind = type(value)
        if kind is tuple or kind is torch.Size:
            for v in value:
                if type(v) is not int:
                    return False
        elif kind is not int and kind is not str and kind is not bool and value is not None:
            return False
    return True


plans = PlanCache()
