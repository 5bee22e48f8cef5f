"""A module that computes its patterns as one operation each: only its forward is another, on the object.

No module, parameter, buffer or name changes. The new forward runs the code of the rewritten graph, in which each
pattern is a call of a :class:`Chain`; and as soon as anything is not as it was when the graph was drawn (another
argument, a hook, an exchanged submodule, an attribute), it runs the forward of the module's class, on the modules as
they are.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from convkit.autograd.activations import activate
from convkit.functional.dtypes import autocast_dtype
from convkit.fusion.patterns import Pattern, Search, module_activation
from convkit.fusion.reading import Readings
from convkit.fusion.tracing import Trace, required
from convkit.nn.fused import conv_act, conv_norm_act, hooked, watched

#: The instance attributes of a fused module.
FORWARD, CHAINS, REPLICATE = "forward", "_convkit_chains", "_replicate_for_data_parallel"


class Chain:
    """Calls layers one behind the other as one operation, or one by one where hooks ask for it."""

    def __init__(
        self,
        conv: nn.Module,
        bn: nn.Module | None,
        act: nn.Module | None,
        activation: tuple[int, float],
        in_place: bool = False,
    ) -> None:
        """``in_place``: what is added is added in place, so that the sum has the layers' dtype."""
        self.conv, self.bn, self.act, self.activation = conv, bn, act, activation
        self.in_place = in_place

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
        if self.in_place and isinstance(residual, Tensor) and residual.dtype is not (autocast_dtype(x) or x.dtype):
            y = self._run(x, None, (0, 0.0))
            y += residual
            return activate(y, *activation)
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

    def __init__(self, module: nn.Module, programs: Programs, made_of: Trace | Readings) -> None:
        """Without a trace the programs are the module's own code, which takes any arguments."""
        self.module, self.programs = module, programs
        trace = made_of if isinstance(made_of, Trace) else None
        self.by_mode = trace is not None and trace.by_mode
        self.called = [] if trace is None else [m for m in trace.inlined if m is not module]
        self.arguments = None if trace is None else len(required(module))
        self.readings: Readings = made_of.readings if isinstance(made_of, Trace) else made_of

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        program = self.program(args, kwargs)
        if program is None:
            return type(self.module).forward(self.module, *args, **kwargs)
        return program(self.module, *args, **kwargs)

    def fits(self, args: tuple[Any, ...], kwargs: dict[str, Any], kinds: tuple[type, ...] = (Tensor,)) -> bool:
        """Whether a call gives what a graph stands for: its required arguments, and tensors."""
        if self.arguments is None:  # torch.fx's stand-ins for tensors have no sizes, which chains ask for
            return fx.Proxy in kinds or not any(isinstance(a, fx.Proxy) for a in args)
        return not kwargs and len(args) == self.arguments and all(isinstance(a, kinds) for a in args)

    def program(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[..., Any] | None:
        """What such a call runs as things are; None: the forward of the module's class."""
        if not self.programs or not self.fits(args, kwargs):
            return None
        training = self.module.training
        if watched() or any(map(hooked, self.called)):
            return None
        if not self.readings.unchanged(training if self.by_mode else None):
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
        return {**vars(self), "programs": {}, "readings": None}

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
        give_forward(self.module, FusedForward(self.module, programs, self._trace), chains)


def give_forward(module: nn.Module, forward: FusedForward, chains: Chains) -> None:
    """Puts a forward, and the chains that its code names, on the object."""
    vars(module).update({FORWARD: forward, CHAINS: chains, REPLICATE: functools.partial(_replica, module)})


def _replica(module: nn.Module) -> nn.Module:
    """What DataParallel runs on another device: with layers of its own, and so with its class's forward."""
    replica: nn.Module = getattr(type(module), REPLICATE)(module)
    for name in (FORWARD, CHAINS, REPLICATE):
        vars(replica).pop(name, None)
    return replica


def chain_of(pattern: Pattern) -> Chain:
    """The layers of a pattern, to be called."""
    return Chain(pattern.conv, pattern.bn, pattern.act, pattern.activation, pattern.in_place)


def _rewritten(graph: fx.Graph, patterns: list[Pattern], chains: Chains) -> Callable[..., Any] | None:
    """The code of a graph after ``patterns`` became calls of chains in it; None where there are none."""
    for pattern in patterns:
        _rewrite(graph, pattern, f"{CHAINS}.{chains.name(chain_of(pattern))}")
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


def running_chains(module: nn.Module) -> list[Chain]:
    """The chains that a fused module runs; a copy by pickle has some, and runs none."""
    return list(vars(vars(module)[CHAINS]).values()) if is_fused(module) and vars(module)[FORWARD].programs else []


def is_fused(module: nn.Module) -> bool:
    """Whether the forward of a module is one of these."""
    return isinstance(vars(module).get(FORWARD), FusedForward)


def ends_module(pattern: Pattern) -> bool:
    """Whether a pattern gives the traced module's result, and could be continued around it."""
    return pattern.open and any(user.op == "output" for user in pattern.nodes[-1].users)


def restore(module: nn.Module) -> list[Chain]:
    """Takes the forward away again, but not one that took its place; the chains that it had, none where it had none."""
    chains = vars(module).get(CHAINS)
    if chains is None:
        return []
    for name in (CHAINS, REPLICATE, *((FORWARD,) if is_fused(module) else ())):
        del vars(module)[name]
    return list(vars(chains).values())
