"""fuse and unfuse: a whole model, from its inner modules to its outer ones.

Patterns stay with the smallest module that holds all of their parts, so that calls of, and hooks on, the modules around
it keep working. What ends with a batch norm waits for the module around it: an addition or activation may follow
there, and then that module is fused, and looks into the inner one.
"""

from __future__ import annotations

from collections import Counter

import torch
from torch import nn

from convkit.conversion import ConversionReport, LayerReport
from convkit.fusion.patterns import Pattern, Search
from convkit.fusion.reading import Readings
from convkit.fusion.source import rewrite
from convkit.fusion.tracing import Untraceable, is_leaf, trace
from convkit.fusion.units import (
    Chain,
    FusedForward,
    Unit,
    chain_of,
    ends_module,
    give_forward,
    is_fused,
    restore,
    running_chains,
)
from convkit.nn.fused import CONVOLUTIONS, FusedLayer
from convkit.problem import ACTIVATIONS

Norm = torch.nn.modules.batchnorm._BatchNorm
LAYERS = (Norm, *CONVOLUTIONS)
WITHOUT_NORM = "one kernel where gradients are disabled, else its layers"


class FusionReport(ConversionReport):
    """One row per pattern and per batch norm, in the model's order: whether it was fused, with what, or why not."""

    kept_word = "left"

    @property
    def fused(self) -> list[LayerReport]:
        """The patterns that are one operation now."""
        return self.replaced

    @property
    def left(self) -> list[LayerReport]:
        """The batch norms, and convolutions before an activation, that stay on their own, with the reason."""
        return self.kept


def fuse(model: nn.Module) -> FusionReport:
    """Makes convolution, batch norm, addition and activation one operation wherever they follow each other, in place.

    In training the statistics come out of the convolution, backward recomputes what it needs, and less memory is
    kept; in evaluation without gradients a pattern is one kernel. Each call follows the mode that the model is in.
    A convolution with an addition or activation, but no norm, is one kernel where gradients are disabled, and runs
    as its layers elsewhere.
    Results change by rounding only. Modules, parameters, buffers, names, hooks, optimizers and state_dict stay what
    they are: a module that holds a pattern gets another forward. Patterns are found by torch.fx where a module
    traces, and by the text of its forward (attributes called one after the other) where it does not.

    Left alone, with the reason in the report: what is used elsewhere too, shared or reused modules, hooks,
    parametrizations, subclasses whose call does more, batch norms in another mode than the module around them,
    modules that do not trace: theirs is what draws random numbers, reads a tensor's values, switches gradients or
    autocast, or reads an object of the module's that may change in itself.
    Changes afterwards are noticed at the next call, which then runs the module as it is written: hooks, exchanged
    layers, modes, attributes and methods that forward read, a module's class. Not noticed: what forward reads
    elsewhere, of variables that are global or of a closure, the clock, files.
    Limits: an operand that is added is kept for backward, so that changing it in place before raises RuntimeError,
    where the layers themselves may not need it. Replicas of torch.nn.DataParallel and copies by pickle run unfused
    (``fuse`` the latter again); a shallow copy (copy.copy) runs the original. ``unfuse`` before torch.jit.script.
    ``unfuse`` restores. TypeError unless ``model`` is a module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, not {type(model).__name__}")
    walk = _Walk(model)
    for unit in walk.visit(model):
        walk.install(unit)
    return walk.report()


def unfuse(model: nn.Module) -> FusionReport:
    """Undoes :func:`fuse`, exactly; a forward put on a module since then stays. TypeError as there."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, not {type(model).__name__}")
    names = {m: name for name, m in model.named_modules()}
    rows = [
        LayerReport(
            _joined(names, chain),
            _parts(chain, False),
            True,
            "as before its fusion",
        )
        for module in model.modules()
        for chain in restore(module)
    ]
    return FusionReport("restored", rows)


class _Walk:
    """What is known of a model on the way through it."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._names = {m: name for name, m in model.named_modules()}
        places = Counter(m for _, m in model.named_modules(remove_duplicate=False))
        self._shared = frozenset(m for m, n in places.items() if n > 1)
        self._fused: dict[nn.Module, tuple[str, str, bool]] = {}
        self._reasons: dict[nn.Module, str] = {}
        self._seen: set[nn.Module] = set()
        for module in model.modules():
            for chain in (running := running_chains(module)):
                self._reasons[chain.layer] = "already fused"
            if not running:  # a copy by pickle, or another forward took the fused one's place
                restore(module)

    def visit(self, module: nn.Module) -> list[Unit]:
        """Fuses what lies inside ``module``; the units that wait for what is around it."""
        if module in self._seen or not any(isinstance(m, LAYERS) for m in module.modules()):
            return []
        self._seen.add(module)
        if isinstance(module, torch.jit.ScriptModule) or is_fused(module):
            return []
        if isinstance(module, FusedLayer):
            self._reasons[module.bn] = f"part of {type(module).__name__}"
            return []
        waiting = [unit for child in module.children() for unit in self.visit(child)]
        unit = None if is_leaf(module) else self._unit(module)
        if unit is None:
            for inner in waiting:
                self.install(inner)
            self._rewrite_source(module)
            return []
        covered = {p.layer for inner in waiting for p in inner.patterns}
        if any(_spans(p) or p.layer not in covered for p in unit.patterns):
            inside = {p.layer for p in unit.patterns}
            for inner in waiting:  # what the new forward does not contain
                if not inside.intersection(p.layer for p in inner.patterns):
                    self.install(inner)
            if unit.open:
                return [unit]
            self.install(unit)
            return []
        ends = {p.layer for p in unit.patterns if ends_module(p)}
        still = [inner for inner in waiting if ends.intersection(p.layer for p in inner.patterns)]
        for inner in waiting:
            if inner not in still:
                self.install(inner)
        return still

    def _unit(self, module: nn.Module) -> Unit | None:
        """What ``module`` computes, its children looked into, or where that fails as a whole; None if both fail."""
        reason = ""
        for closed in (frozenset[nn.Module](), frozenset(module.children())):
            try:
                traced = trace(module, closed)
            except Untraceable as error:
                reason = reason or f"{type(module).__name__} does not trace: {error}"
                continue
            if traced.unfit:  # as DenseNet's layers, which are called with lists
                for inner in traced.unfit:
                    for chain in restore(inner):
                        self._fused.pop(chain.layer, None)
                return self._unit(module)
            searches = dict.fromkeys((True, False), Search(traced.graphs[True], module, self._shared))
            if traced.by_mode:
                searches[False] = Search(traced.graphs[False], module, self._shared)
            for left in searches[module.training].left:
                if left.layer not in self._reasons or not left.outside:
                    self._reasons[left.layer] = left.reason
            return Unit(module, traced, searches)
        for inner in module.modules():
            if isinstance(inner, Norm):
                self._reasons.setdefault(inner, reason)
        return None

    def _rewrite_source(self, module: nn.Module) -> None:
        """Fuses what the text of a forward shows that does not trace."""
        if is_leaf(module):
            return
        found = rewrite(module, self._shared)
        self._reasons.update(found.reasons)
        if found.patterns:
            programs = {(mode, gradients): code for mode in (True, False) for gradients, code in found.codes.items()}
            readings = Readings({module: found.asked}, [module])
            give_forward(module, FusedForward(module, programs, readings), found.chains)
            for chain, with_addition in found.patterns:
                self._note(chain, with_addition)

    def install(self, unit: Unit) -> None:
        for p in unit.patterns:
            self._note(chain_of(p), p.addition is not None)
        unit.install()

    def _note(self, chain: Chain, addition: bool) -> None:
        self._fused[chain.layer] = _joined(self._names, chain), _parts(chain, addition), chain.bn is None

    def report(self) -> FusionReport:
        rows = []
        for name, module in self._model.named_modules():
            if module in self._fused:
                names, parts, alone = self._fused[module]
                rows.append(LayerReport(names, parts, True, WITHOUT_NORM if alone else "one operation"))
            elif isinstance(module, Norm) or module in self._reasons:
                reason = self._reasons.get(module, "nothing calls it where it was looked for")
                rows.append(LayerReport(name, type(module).__name__, False, reason))
        return FusionReport("fused", rows)


def _spans(pattern: Pattern) -> bool:
    """Whether no module inside of the one that was traced holds all parts of a pattern."""
    scopes = [node.meta["scope"].split(".") for node in pattern.nodes]
    return any(scope[0] != scopes[0][0] for scope in scopes) or scopes[0][0] == ""


def _joined(names: dict[nn.Module, str], chain: Chain) -> str:
    """The names of both layers, without what they have in common: layer1.0.conv1, bn1."""
    first = names[chain.conv]
    if chain.bn is None:
        return first
    second = names[chain.bn]
    around = second.rpartition(".")[0]
    return f"{first}, {second.rpartition('.')[2] if first.rpartition('.')[0] == around else second}"


def _parts(chain: Chain, addition: bool) -> str:
    parts = [type(chain.conv).__name__, *([] if chain.bn is None else [type(chain.bn).__name__])]
    parts += ["add"] if addition else []
    return ", ".join([*parts, *([ACTIVATIONS[chain.activation[0]]] if chain.activation[0] else [])])
