"""What a forward reads of modules while it is traced, and whether that is still so when its graph is called.

A graph holds the values that forward read: ``self.p``, a class's default, whether a parameter is None, the children
that a loop went through, the mode. So they are noted as they are read, whoever reads them (a property, another
module's method, a function of another file), and compared at each call.
"""

from __future__ import annotations

import copy
import enum
import functools
import inspect
import operator
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import torch
from torch import nn

#: The names that were read of each module.
Reads = dict[nn.Module, set[str]]

#: Code that reads attributes for its own ends.
_MACHINERY = ("torch.fx.", "torch.nn.modules.module", "convkit.fusion.")
#: How code that goes through a module's children begins.
_MEMBERS = ("_modules", "_parameters", "_buffers")
#: Values that another one may take the place of, but which do not change.
_FIXED = (
    *(int, float, complex, str, bytes, type(None), type, enum.Enum, slice, range),
    *(FunctionType, BuiltinFunctionType, MethodType, functools.partial),
    *(torch.dtype, torch.device, torch.layout, torch.memory_format, nn.Module),
)


class Unnoticed(Exception):
    """Something was read that may change without anybody's notice."""


class _Absent:
    """Stands for an attribute that a module lacks."""


@contextmanager
def noted() -> Iterator[Reads]:
    """The attributes of modules that forwards read meanwhile."""
    reads: Reads = {}
    plain = nn.Module.__getattribute__

    def read(module: nn.Module, name: str) -> Any:
        if not sys._getframe(1).f_globals.get("__name__", "").startswith(_MACHINERY):
            reads.setdefault(module, set()).add(name)
        return plain(module, name)

    type.__setattr__(nn.Module, "__getattribute__", read)
    try:
        yield reads
    finally:
        del nn.Module.__getattribute__


class Readings:
    """What was read, as it is now. Unnoticed, with the attribute, where its value may change in itself."""

    def __init__(self, reads: Reads, looked_into: list[nn.Module]) -> None:
        """Of modules that were looked into, the children count in any case."""
        self._attributes: list[tuple[nn.Module, str, Any]] = []
        self._tensors: list[tuple[nn.Module, str, bool]] = []  # parameters and buffers: whether there is one
        self._methods: list[tuple[nn.Module, str, FunctionType]] = []
        self._modes: list[nn.Module] = []
        self.ran: list[nn.Module] = []  # modules of which somebody took a method
        parents = dict.fromkeys(looked_into)
        for module, names in reads.items():
            if not isinstance(module, torch.jit.ScriptModule):
                for name in sorted(names):
                    self._note(module, name, parents)
        self._children = [(m, tuple(m._modules.values())) for m in parents]
        self._forwards = [(m, type(m).forward) for m in looked_into]

    def _note(self, module: nn.Module, name: str, parents: dict[nn.Module, None]) -> None:
        own = vars(module)
        if name == "training":
            self._modes.append(module)
        elif name in _MEMBERS or name in own["_modules"]:
            parents[module] = None
        elif name in own["_parameters"] or name in own["_buffers"]:
            self._tensors.append((module, name, _tensor(module, name) is not None))
        elif name in own:
            self._attributes.append((module, name, _kept(module, name, own[name])))
        elif not (name.startswith("__") and name.endswith("__")):
            self._note_of_class(module, name)

    def _note_of_class(self, module: nn.Module, name: str) -> None:
        owner = next((c for c in type(module).__mro__ if name in vars(c)), None)
        if owner is not None and hasattr(vars(owner)[name], "__get__"):  # what it reads is noted itself
            found = vars(owner)[name]
            if not getattr(inspect.unwrap(getattr(found, "fget", found)), "__module__", "").startswith("torch."):
                self.ran.append(module)
                if isinstance(found, FunctionType):
                    self._methods.append((module, name, found))
            return
        value = _Absent if owner is None else _kept(module, name, vars(owner)[name])
        self._attributes.append((module, name, value))

    def unchanged(self, mode: bool | None) -> bool:
        """Whether all is as it was read; ``mode``: the one that all modules must be in which were asked for it."""
        for module, children in self._children:
            now = module._modules
            if len(now) != len(children) or not all(map(operator.is_, now.values(), children)):
                return False
        for module, name, known in self._attributes:
            value = getattr(module, name, _Absent)  # compiled code notices a new one so, and not in vars(module)
            if value is not known and (type(value) is not type(known) or value != known):
                return False
        for module, name, function in self._methods:
            if getattr(getattr(module, name, None), "__func__", None) is not function:
                return False
        for module, forward in self._forwards:  # of another class, or of a class that was given another
            if type(module).forward is not forward:
                return False
        for module, name, present in self._tensors:
            if (_tensor(module, name) is not None) is not present:
                return False
        return mode is None or all(module.training is mode for module in self._modes)


def _tensor(module: nn.Module, name: str) -> Any:
    found = module._parameters.get(name)
    return module._buffers.get(name) if found is None else found


def _kept(module: nn.Module, name: str, value: Any) -> Any:
    """``value``, of a container a copy, to compare with."""
    if not _comparable(value):
        raise Unnoticed(f"{type(module).__name__} reads {name!r}, and a {type(value).__name__} may change in itself")
    return copy.copy(value) if isinstance(value, (list, set, dict)) else value


def _comparable(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_comparable, value)) and all(map(_comparable, value.values()))
    if isinstance(value, (list, tuple, set, frozenset)):
        return all(map(_comparable, value))
    return isinstance(value, _FIXED)
