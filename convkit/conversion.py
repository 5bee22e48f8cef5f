"""Swaps the convolution and pooling layers of a model for convkit's, in place, and back.

A layer is converted by exchanging its class, as torch.nn.utils.parametrize and lazy modules do: the object,
its parameters, buffers, hooks, mode and state_dict keys stay what they are. Only layers of exactly
torch.nn's classes are converted; a subclass may compute something else in its forward.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch.nn.utils import parametrize

from convkit import nn
from convkit.backends import get

_KINDS = ("Conv", "ConvTranspose", "MaxPool", "AvgPool", "AdaptiveAvgPool", "AdaptiveMaxPool", "MaxUnpool")
_NAMES = [f"{kind}{n}d" for kind in _KINDS for n in (1, 2, 3)]
_NAMES += ["FractionalMaxPool2d", "FractionalMaxPool3d"]
_NAMES += ["LPPool1d", "LPPool2d", "LPPool3d"]
REPLACEMENTS: dict[type, type] = {getattr(torch.nn, name): getattr(nn, name) for name in _NAMES}
ORIGINALS: dict[type, type] = {ours: theirs for theirs, ours in REPLACEMENTS.items()}

# What a converted layer had before, to be put back by revert: the instance attribute "backend", or its absence.
_MARK = "_convkit_converted"

_LAZY = torch.nn.modules.lazy.LazyModuleMixin
_RELATED = ("Conv", "Pool", "Unpool")
_UNRELATED = "not a convolution or pooling layer"


class LayerReport(NamedTuple):
    """What was done with one layer, and why."""

    name: str
    layer: str
    replaced: bool
    reason: str


class ConversionReport:
    """One :class:`LayerReport` per layer, in the model's order; ``print`` it for a table."""

    kept_word = "kept"

    def __init__(self, verb: str, layers: list[LayerReport]) -> None:
        self.verb = verb
        self.layers = layers

    @property
    def replaced(self) -> list[LayerReport]:
        """The layers whose class was exchanged."""
        return [layer for layer in self.layers if layer.replaced]

    @property
    def kept(self) -> list[LayerReport]:
        """The layers that were left as they are."""
        return [layer for layer in self.layers if not layer.replaced]

    @property
    def summary(self) -> str:
        """How many layers were exchanged, and how many were not."""
        return f"{len(self.replaced)} {self.verb}, {len(self.kept)} {self.kept_word}"

    def __iter__(self) -> Iterator[LayerReport]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    def __str__(self) -> str:
        shown = [layer for layer in self.layers if layer.replaced or layer.reason != _UNRELATED]
        others = Counter(layer.layer for layer in self.layers if layer not in shown)
        rows = [("layer", "class", "", "why")]
        rows += [
            (r.name or "(the model)", r.layer, self.verb if r.replaced else self.kept_word, r.reason) for r in shown
        ]
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        lines = ["  ".join([*(cell.ljust(w) for cell, w in zip(row, widths)), row[3]]).rstrip() for row in rows]
        lines.append(self.summary)
        if others:
            lines[-1] += " (also " + ", ".join(f"{n} {name}" for name, n in others.items()) + ")"
        return "\n".join(lines)

    __repr__ = __str__


def convert(model: torch.nn.Module, backend: str | None = None) -> ConversionReport:
    """Makes every torch.nn convolution and pooling layer of ``model`` run convkit's kernels, in place.

    The layers keep their identity, parameters, hooks, names, state_dict keys and mode. ``backend`` is the name
    that the converted layers ask for; None leaves the choice to each call. ValueError for an unknown name.
    """
    if backend is not None:
        get(backend)
    return _walk(model, "replaced", lambda module: _convert_layer(module, backend))


def revert(model: torch.nn.Module) -> ConversionReport:
    """Undoes :func:`convert`, exactly; layers that were made as convkit's stay."""
    return _walk(model, "restored", _revert_layer)


def _walk(model: torch.nn.Module, verb: str, act: Any) -> ConversionReport:
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, not {type(model).__name__}")
    layers: list[LayerReport] = []
    seen: dict[int, str] = {}

    def visit(module: torch.nn.Module, name: str, frozen: str | None) -> None:
        if id(module) in seen:  # a shared layer, or a cycle
            return
        seen[id(module)] = name
        frozen = frozen or _closed(module)
        replaced, reason = (False, frozen) if frozen else act(module)
        children = [(key, child) for key, child in module.named_children() if key != "parametrizations"]
        if replaced or not children or isinstance(module, tuple(REPLACEMENTS)):
            layers.append(LayerReport(name, _class_name(module), replaced, reason))
        for key, child in children:
            visit(child, f"{name}.{key}" if name else key, frozen)

    visit(model, "", None)
    return ConversionReport(verb, layers)


def _closed(module: torch.nn.Module) -> str | None:
    """Why nothing inside of ``module`` can be exchanged, None where it can."""
    if isinstance(module, torch.jit.ScriptModule):
        return "TorchScript: its code is fixed; convert what it was made of, and trace that under torch.no_grad()"
    if type(module).__name__ == "OptimizedModule" and hasattr(module, "_orig_mod"):
        return "compiled: convert the model before torch.compile"
    return None


def _class_name(module: torch.nn.Module) -> str:
    if parametrize.is_parametrized(module) and "Parametrized" in type(module).__name__:
        return type(module).__bases__[0].__name__
    if isinstance(module, torch.jit.ScriptModule):
        return getattr(module, "original_name", type(module).__name__)
    return type(module).__name__


def _exchange(module: torch.nn.Module, table: dict[type, type]) -> bool:
    """Gives ``module`` the class that ``table`` names for its own; False where it names none."""
    kind = type(module)
    if kind in table:
        module.__class__ = table[kind]
        return True
    # parametrize.register_parametrization derives a class with one property per parameter, and nothing else.
    if parametrize.is_parametrized(module) and len(kind.__bases__) == 1 and kind.__bases__[0] in table:
        members = {key: value for key, value in vars(kind).items() if key not in ("__dict__", "__weakref__", "__doc__")}
        module.__class__ = type(kind.__name__, (table[kind.__bases__[0]],), members)
        return True
    return False


def _convert_layer(module: torch.nn.Module, backend: str | None) -> tuple[bool, str]:
    if _MARK in vars(module):
        if vars(module).get("backend") == backend:
            return False, "already converted"
        _set_backend(module, backend)
        return False, f"already converted; backend is now {backend or 'chosen per call'}"
    if type(module) in ORIGINALS or (len(type(module).__bases__) == 1 and type(module).__bases__[0] in ORIGINALS):
        return False, "is convkit's own"
    if "forward" in vars(module):
        return False, "its forward was replaced on the object"
    if isinstance(module, _LAZY):
        return False, "lazy: convert after the first forward pass"
    if _exchange(module, REPLACEMENTS):
        vars(module)[_MARK] = True
        _set_backend(module, backend)
        why = "parametrized torch.nn layer" if parametrize.is_parametrized(module) else "torch.nn layer"
        return True, why if backend is None else f"{why}, backend {backend}"
    for theirs in REPLACEMENTS:
        if isinstance(module, theirs):
            return False, f"a subclass of torch.nn.{theirs.__name__}"
    if any(word in type(module).__name__ for word in _RELATED):
        quantized = "quantized" in type(module).__module__
        return False, "quantized" if quantized else "convkit has no such layer"
    return False, _UNRELATED


def _set_backend(module: torch.nn.Module, backend: str | None) -> None:
    vars(module).pop("backend", None)
    if backend is not None:
        vars(module)["backend"] = backend


def _revert_layer(module: torch.nn.Module) -> tuple[bool, str]:
    if _MARK not in vars(module):
        own = isinstance(module, tuple(ORIGINALS))
        related = own or any(word in type(module).__name__ for word in _RELATED)
        return False, "made as convkit's own" if own else "was not converted" if related else _UNRELATED
    _exchange(module, ORIGINALS)
    _set_backend(module, None)
    del vars(module)[_MARK]
    return True, "as before its conversion"
