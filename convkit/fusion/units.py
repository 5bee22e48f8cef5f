"""A module that computes its patterns as one operation each: only its forward is another, on the object.

No module, parameter, buffer or name changes. The new forward runs the code of the rewritten graph, in which each
pattern is a call of a :class:`Chain`; and as soon as anything is not as it was when the graph was drawn (another
argument, a hook, an exchanged submodule), it runs the forward of the module's class, on the modules as they are.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from convkit.fusion.patterns import Pattern, Search, module_activation
from convkit.fusion.tracing import Trace, required
from convkit.nn.fused import conv_act, conv_norm_act, hooked, watched

#: The instance attributes of a fused module.
FORWARD, CHAINS = "forward", "_convkit_chains"


class Chain:
    """Calls layers one behind the other as one operation, or one by one where hooks ask for it."""

    def __init__(
        self, conv: nn.Module, bn: nn.Module | None, act: nn.Module | None, activation: tuple[int, float]
    ) -> None:
        self.conv, self.bn, self.act, self.activation = conv, bn, act, activation

    @property
    def layer(self) -> nn.Module:
        """By which it is known: its norm, where it has one."""
        return self.conv if self.bn is None else self.bn

    def __call__(self, x: Tensor, residual: Any = None) -> Tensor:
        if self.act is None:
            return self._run(x, residual, self.activation)
        activation = None if hooked(self.act) else module_activation(self.act)
        if activation is None:
            result: Tensor = self.act(self._run(x, residual, (0, 0.0)))
            return result
        return self._run(x, residual, activation)

    def _run(self, x: Tensor, residual: Any, activation: tuple[int, float]) -> Tensor:
        if self.bn is None:
            return conv_act(self.conv, x, residual, activation)
        return conv_norm_act(self.conv, self.bn, x, residual, activation)


class Chains:
    """The chains of a module, as attributes c0, c1, ...: the code of a graph finds them by name."""

    def name(self, chain: Chain) -> str:
        """That of ``chain`` or of an equal one; the several codes of a forward share them."""
        for name, known in vars(self).items():
            if vars(known) == vars(chain):
                return str(name)
        name = f"c{len(vars(self))}"
        setattr(self, name, chain)
        return name


#: The codes of a forward, by training mode and by whether gradients are enabled; None stands for the class's own.
Programs = dict[tuple[bool, bool], Callable[..., Any] | None]


class FusedForward:
    """What is called in place of a module's forward. A pickled copy calls the forward of its class."""

    def __init__(self, module: nn.Module, trace: Trace | None, programs: Programs) -> None:
        """Without a trace the program is the module's own code, which takes any arguments."""
        self.module, self.programs = module, programs
        self.by_mode = trace is not None and trace.by_mode
        self.inlined = [module] if trace is None else trace.inlined
        self.arguments = None if trace is None else len(required(module))
        self.children = [tuple(m._modules.values()) for m in self.inlined]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        program = self._program(args, kwargs)
        if program is None:
            return type(self.module).forward(self.module, *args, **kwargs)
        return program(self.module, *args, **kwargs)

    def fits(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether a call gives what a graph stands for: its required arguments, and tensors."""
        if self.arguments is None:
            return True
        return not kwargs and len(args) == self.arguments and all(isinstance(a, (Tensor, fx.Proxy)) for a in args)

    def _program(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[..., Any] | None:
        if not self.fits(args, kwargs):
            return None
        training = self.module.training
        if not torch.compiler.is_compiling():
            if watched() or any(hooked(m) for m in self.inlined[1:]):
                return None
            for m, children in zip(self.inlined, self.children):
                if tuple(m._modules.values()) != children or (self.by_mode and m.training != training):
                    return None
        return self.programs.get((training, torch.is_grad_enabled()))

    @property
    def __func__(self) -> Any:
        """As a bound method: torch.export and others ask for the signature and the code."""
        return type(self.module).forward

    @property
    def __code__(self) -> Any:
        return self.__func__.__code__

    @property
    def __signature__(self) -> inspect.Signature:
        signature = inspect.signature(self.__func__)
        return signature.replace(parameters=list(signature.parameters.values())[1:])

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "programs": {}}

    def __deepcopy__(self, memo: dict[int, Any]) -> FusedForward:
        other = object.__new__(type(self))
        memo[id(self)] = other
        vars(other).update({k: v if k == "programs" else copy.deepcopy(v, memo) for k, v in vars(self).items()})
        return other


class Unit:
    """A module with patterns, not yet fused."""

    def __init__(self, module: nn.Module, trace: Trace, searches: dict[bool, Search]) -> None:
        self.module, self._trace, self._searches = module, trace, searches

    @property
    def patterns(self) -> list[Pattern]:
        """Of the graph of the module's present mode."""
        return self._searches[self.module.training].patterns

    @property
    def open(self) -> bool:
        """Whether a pattern gives the module's result, and an addition or activation around it might join in."""
        return any(ends_module(p) for p in self.patterns)

    def install(self) -> None:
        """Gives the module its new forward."""
        chains, programs = Chains(), Programs()
        for mode, search in self._searches.items():
            if mode or self._trace.by_mode:
                graph = self._trace.graphs[mode]
                alone = [p for p in search.patterns if p.bn is None]
                programs[mode, True] = _rewritten(graph, [p for p in search.patterns if p not in alone], chains)
                programs[mode, False] = _rewritten(graph, alone, chains) or programs[mode, True]
            else:
                programs.update({(mode, gradients): programs[True, gradients] for gradients in (True, False)})
        give_forward(self.module, FusedForward(self.module, self._trace, programs), chains)


def give_forward(module: nn.Module, forward: FusedForward, chains: Chains) -> None:
    """Puts a forward, and the chains that its code names, on the object."""
    vars(module)[CHAINS] = chains
    vars(module)[FORWARD] = forward


def _rewritten(graph: fx.Graph, patterns: list[Pattern], chains: Chains) -> Callable[..., Any] | None:
    """The code of a graph after ``patterns`` became calls of chains in it; None where there are none."""
    for pattern in patterns:
        _rewrite(graph, pattern, f"{CHAINS}.{chains.name(Chain(*pattern[2:6]))}")
    return _compiled(graph) if patterns else None


def _rewrite(graph: fx.Graph, pattern: Pattern, name: str) -> None:
    """One call in place of the pattern's nodes, where its last stood."""
    last = pattern.nodes[-1]
    operands = (pattern.nodes[0].args[0], *(() if pattern.addition is None else (pattern.residual,)))
    with graph.inserting_before(last):
        call = graph.create_node("call_module", name, operands)
    last.replace_all_uses_with(call)
    for node in reversed(pattern.nodes):
        graph.erase_node(node)


def _compiled(graph: fx.Graph) -> Callable[..., Any]:
    code = graph.python_code("self")
    scope = dict(code.globals)
    exec(compile(code.src, "<convkit.fuse>", "exec"), scope)
    program: Callable[..., Any] = scope["forward"]
    return program


def is_fused(module: nn.Module) -> bool:
    """Whether the forward of a module is one of these."""
    return isinstance(vars(module).get(FORWARD), FusedForward)


def ends_module(pattern: Pattern) -> bool:
    """Whether a pattern gives the traced module's result, and could be continued around it."""
    return pattern.open and any(user.op == "output" for user in pattern.nodes[-1].users)


def fused_chains(module: nn.Module) -> list[Chain]:
    """The chains of a fused module."""
    return list(vars(vars(module)[CHAINS]).values())


def restore(module: nn.Module) -> list[Chain]:
    """Takes the forward away again; the chains that it had, none where it had none."""
    if not is_fused(module):
        return []
    chains = fused_chains(module)
    del vars(module)[FORWARD], vars(module)[CHAINS]
    return chains
