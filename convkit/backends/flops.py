"""What torch.utils.flop_counter.FlopCounterMode counts for the operators that multiply: what it counts for PyTorch's.

The counter's module imports triton where that is installed, so it is not imported here: operators get their formulas
as soon as somebody imports it.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import torch

COUNTER = "torch.utils.flop_counter"
Size = Sequence[int]


class _Watcher(MetaPathFinder):
    """Leaves it to the other finders to find a module, and acts on it once it has been executed."""

    def __init__(self, name: str, action: Callable[[ModuleType], object]) -> None:
        self._name, self._action = name, action

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if fullname != self._name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def and_act(module: ModuleType) -> None:
                execute(module)
                self._action(module)

            spec.loader.exec_module = and_act  # type: ignore[method-assign]  # this loader alone
        return spec


def when_imported(name: str, action: Callable[[ModuleType], object]) -> None:
    """Calls ``action`` with the module of this name: now, or when it is imported."""
    if name in sys.modules:
        action(importlib.import_module(name))  # which waits, should another thread be importing it
    else:
        sys.meta_path.insert(0, _Watcher(name, action))


def register(namespace: str) -> None:
    """Registers the formulas of the operators, which a library has defined."""
    when_imported(COUNTER, partial(_register, getattr(torch.ops, namespace)))


def _register(operators: Any, counter: Any) -> None:
    def fprop(x: Size, w: Size, *rest: Any, out_shape: Size) -> int:
        return int(counter.conv_flop_count(x, w, out_shape))

    def fprop_stats(x: Size, w: Size, *rest: Any, out_shape: tuple[Size, ...]) -> int:
        return fprop(x, w, out_shape=out_shape[0])

    def dgrad(dy: Size, w: Size, *rest: Any, out_shape: Size) -> int:
        return int(counter.conv_flop_count(dy, w, out_shape, transposed=True))

    def wgrad(dy: Size, x: Size, *rest: Any, out_shape: Size) -> int:
        # By the formula of the whole gradient, which says itself what groups do to the count. It reads sizes, and
        # which of the three gradients are asked for.
        unread = (None,) * 4
        only_w = [False, True, False]
        sizes = (None, out_shape, None)
        return int(counter.conv_backward_flop(dy, x, out_shape, *unread, False, None, None, only_w, out_val=sizes))

    formulas = {"conv_fprop": fprop, "conv_fprop_stats": fprop_stats, "conv_dgrad": dgrad, "conv_wgrad": wgrad}
    for name, formula in formulas.items():
        counter.register_flop_formula(getattr(operators, name))(formula)
