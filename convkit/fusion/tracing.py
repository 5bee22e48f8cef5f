"""The graph of what a module computes, by torch.fx, or None where a graph would not be the whole truth.

torch.fx runs forward once with stand-ins for tensors. What does not depend on them is fixed in the graph: the branch
taken, a number drawn. So a graph is only believed if
- forward's required arguments are tensors; optional ones keep their defaults (the caller looks at both),
- nothing is computed on the way but of stand-ins: no tensor is drawn, made or asked for its values, dtype or device,
  and no random number of Python or NumPy is drawn,
- every operation stands in the modes of gradients, autocast and saved tensors that forward was called in,
- no attribute of a module changed meanwhile, hooks included, and what was read of modules can be compared at each
  call (``reading``),
- nothing asks for what a stand-in answers differently, or prints (all code that the modules and their helpers can
  reach is searched for these names),
- the graph is drawn in training and in evaluation mode, if these differ.
Not seen are values of global variables, the clock, files.
"""

from __future__ import annotations

import dis
import inspect
import random
import sys
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from convkit.autograd.recipe import outer_hooks
from convkit.fusion.reading import Readings, Unnoticed, noted
from convkit.fusion.standin import StandIn
from convkit.nn.fused import hooked

#: Questions that a stand-in answers differently, or that have one answer in a graph.
_QUESTIONS = frozenset(
    (
        *("is_grad_enabled", "is_inference_mode_enabled", "is_autocast_enabled", "is_compiling", "is_tracing"),
        *("isinstance", "type", "is_tensor", "print"),
    )
)
#: What must not be done or asked on the way, of tensors that are no stand-ins too.
_FUNCTIONS: dict[Any, str] = {
    torch._C._set_grad_enabled: "the mode of gradients is changed",
    **{getattr(Tensor, name).__get__: f"a tensor is asked for its {name}" for name in ("dtype", "device")},
}
_CONTAINERS = (nn.Module, nn.Sequential)


class Untraceable(Exception):
    """Why there is no graph."""


class _Watch(TorchFunctionMode):
    """Lets no function through that a graph cannot hold, wherever it is called."""

    def __init__(self, tracer: _Tracer) -> None:
        super().__init__()
        self._tracer = tracer

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in _FUNCTIONS:
            self._tracer.refuse(_FUNCTIONS[function])
        return function(*args, **(kwargs or {}))


class _NothingComputed(TorchDispatchMode):
    """Stand-ins are never computed with: what comes here would be a constant of the graph."""

    def __init__(self, tracer: _Tracer) -> None:
        super().__init__()
        self._tracer = tracer

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._tracer.refuse(f"{function} computes with something else than what forward is given")


def _modes() -> tuple[Any, ...]:
    """Those that operations run in. The depth tells of an autocast region that changes nothing now."""
    depth = torch.autocast_increment_nesting()
    torch.autocast_decrement_nesting()
    return torch.is_inference_mode_enabled(), depth, outer_hooks()


class _Generators:
    """The states of the global random number generators."""

    def __init__(self) -> None:
        self._python, self._torch = random.getstate(), torch.get_rng_state()
        self._numpy: Any = sys.modules.get("numpy")  # who has not imported it draws nothing from it
        self._state = self._numpy and self._numpy.random.get_state()

    def put_back(self) -> bool:
        """Whether one had changed."""
        now = _Generators()
        random.setstate(self._python)
        torch.set_rng_state(self._torch)
        if self._numpy:
            self._numpy.random.set_state(self._state)
        same = self._python == now._python and torch.equal(self._torch, now._torch)
        return not same or (self._numpy and _plain(self._state) != _plain(now._state))


def _plain(state: Any) -> list[Any]:
    return [part.tobytes() if hasattr(part, "tobytes") else part for part in state]


class _Tracer(fx.Tracer):
    """Looks into modules that are not PyTorch's own; notes where each operation stands."""

    def __init__(self, closed: frozenset[nn.Module]) -> None:
        super().__init__()
        self._closed = closed
        self._scopes = [""]
        self._modes = _modes()
        self.inlined: dict[nn.Module, None] = {}
        self.unfit: list[nn.Module] = []
        self.refusals: list[str] = []

    def refuse(self, reason: str) -> NoReturn:
        """Remembers the reason as well, since forward may catch the error."""
        self.refusals.append(reason)
        raise Untraceable(reason)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return m in self._closed or is_leaf(m)

    def proxy(self, node: fx.Node) -> StandIn:
        return StandIn(node, self)

    def create_arg(self, a: Any) -> Any:
        if isinstance(a, Tensor) and not any(a is known for known in self._known):
            self.refuse("a tensor that forward makes of nothing")
        if isinstance(a, (dict, list)) and type(a) not in (dict, list):  # the graph would make a plain one
            self.refuse(f"a {type(a).__name__} is made")
        return super().create_arg(a)

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> Any:
        self._known = [*self.root.parameters(), *self.root.buffers()]
        self.inlined[self.root] = None
        return root_fn, [self.root, *(self.create_proxy("placeholder", n, (), {}) for n in required(self.root))]

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        if _modes() != self._modes:
            self.refuse("a mode of autocast, inference or saved tensors is changed")
        node = super().create_node(*args, **kwargs)
        node.meta["scope"] = self._scopes[-1]
        return node

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        path = self.path_of_module(m)
        if self.is_leaf_module(m, path):
            fits = getattr(vars(m).get("forward"), "fits", None)
            if fits is not None and not fits(args, kwargs, (Tensor, fx.Proxy)):
                self.unfit.append(m)
            return self.create_proxy("call_module", path, args, kwargs)
        self.inlined[m] = None
        self._scopes.append(path)
        try:
            return forward(*args, **kwargs)
        finally:
            self._scopes.pop()


def is_leaf(module: nn.Module) -> bool:
    """Whether a graph calls ``module`` as a whole: PyTorch's and convkit's layers, and what does more than forward."""
    if hooked(module) or isinstance(module, torch.jit.ScriptModule) or hasattr(module, "_orig_mod"):
        return True
    layers = ("torch.nn.modules.", "torch.ao.nn.", "convkit.nn.")
    known = any(c.__module__.startswith(layers) and c not in _CONTAINERS for c in type(module).__mro__)
    return known and not isinstance(module, nn.Sequential)


def required(module: nn.Module) -> list[str]:
    """The names of the arguments that forward must be given."""
    parameters = list(inspect.signature(type(module).forward).parameters.values())[1:]
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [p.name for p in parameters if p.kind in kinds and p.default is inspect.Parameter.empty]


class Trace(NamedTuple):
    """What is known of a module's forward."""

    graphs: dict[bool, fx.Graph]  # by training mode; one object, where they are alike
    inlined: list[nn.Module]  # the modules looked into
    readings: Readings  # what the graphs hold of modules
    unfit: list[nn.Module]  # fused modules that are called in a way that their new forward does not take

    @property
    def by_mode(self) -> bool:
        """Whether the mode of a module that was looked into matters."""
        return self.graphs[True] is not self.graphs[False]


def trace(module: nn.Module, closed: frozenset[nn.Module] = frozenset()) -> Trace:
    """The graphs of ``module``, in which those of ``closed`` are called as a whole; Untraceable with the reason."""
    if is_leaf(module):
        raise Untraceable("its forward is not its class's, or is PyTorch's own")
    if not required(module):
        raise Untraceable("its forward requires no argument")
    modules = [m for m in module.modules() if not isinstance(m, torch.jit.ScriptModule)]
    before, generators = [_state(m) for m in modules], _Generators()
    tracers = {mode: _Tracer(closed) for mode in (True, False)}
    graphs: dict[bool, fx.Graph] = {}
    try:
        with noted() as reads:
            for mode, tracer in tracers.items():
                for m in modules:
                    vars(m)["training"] = mode
                with _NothingComputed(tracer), _Watch(tracer):
                    graphs[mode] = tracer.trace(module)
                _drop_identities(graphs[mode], module, tracer.inlined)
    except Untraceable:
        raise
    except Exception as error:
        raise Untraceable(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}") from None
    finally:
        changed = [m for m, state in zip(modules, before) if not _restore(m, state)]
        drawn = generators.put_back()
    if changed:
        raise Untraceable(f"{type(changed[0]).__name__} changes its own attributes")
    if drawn:
        raise Untraceable("random numbers are drawn")
    for tracer in tracers.values():
        for reason in tracer.refusals:
            raise Untraceable(reason)
    inlined = list(tracers[True].inlined | tracers[False].inlined)
    try:
        readings = Readings(reads, inlined)
    except Unnoticed as error:
        raise Untraceable(str(error)) from None
    for m in dict.fromkeys([*inlined, *readings.ran]):
        if (name := _question(m)) is not None:
            raise Untraceable(f"{type(m).__name__} uses {name!r}")
    if graphs[True].python_code("self").src == graphs[False].python_code("self").src:
        graphs[False] = graphs[True]
    return Trace(graphs, inlined, readings, tracers[True].unfit + tracers[False].unfit)


def _drop_identities(graph: fx.Graph, root: nn.Module, inlined: dict[nn.Module, None]) -> None:
    """Leaves nn.Identity out; it counts as looked into, so that a hook on it is noticed."""
    for node in list(graph.nodes):
        if node.op == "call_module" and len(node.args) == 1 and not node.kwargs:
            module = root.get_submodule(node.target)
            if type(module) is nn.Identity and not hooked(module):
                inlined[module] = None
                node.replace_all_uses_with(node.args[0])
                graph.erase_node(node)


def _state(module: nn.Module) -> dict[str, tuple[Any, Any]]:
    """A module's attributes, and copies of those that contain something."""
    return {key: (v, _content(v)) for key, v in vars(module).items()}


def _content(value: Any) -> Any:
    return next((kind(value) for kind in (dict, list, set) if isinstance(value, kind)), None)


def _restore(module: nn.Module, state: dict[str, tuple[Any, Any]]) -> bool:
    """Puts attributes and what they contain back, hooks too; whether nothing but the mode had changed."""
    own = vars(module)
    own["training"] = state["training"][0]
    same = own.keys() == state.keys() and all(own[key] is v for key, (v, _) in state.items())
    if not same:
        own.clear()
        own.update({key: v for key, (v, _) in state.items()})
    for value, content in state.values():
        if content is not None and _parts(value) != _parts(content):
            same = False
            value.clear()
            (value.extend if isinstance(value, list) else value.update)(content)
    return same


def _parts(container: Any) -> list[int]:
    parts = [id(part) for part in container]
    if isinstance(container, set):
        return sorted(parts)
    return parts + [id(part) for part in container.values()] if isinstance(container, dict) else parts


def _question(module: nn.Module) -> str | None:
    """A name in the code that a module can reach, of its classes and its own functions, which a graph cannot hold."""
    seen: set[CodeType] = set()
    classes = [c for c in type(module).__mro__ if not c.__module__.startswith("torch.nn.") and c is not object]
    for members in (vars(module), *map(vars, classes)):
        for member in members.values():
            function = getattr(member, "__func__", member)
            if isinstance(function, FunctionType) and function.__name__ not in ("__init__", "__repr__", "extra_repr"):
                for name in _names(function.__code__, function.__globals__, seen):
                    if name in _QUESTIONS:
                        return name
    return None


def _names(code: CodeType, scope: dict[str, Any], seen: set[CodeType]) -> Iterator[str]:
    """The global names and attributes that ``code`` uses, and functions it calls that are not PyTorch's own."""
    if code in seen:
        return
    seen.add(code)
    for step in dis.get_instructions(code):
        # An attribute of the name type is no question: x.type(...) converts.
        if step.opname == "LOAD_GLOBAL" or (step.opcode in dis.hasname and step.argval != "type"):
            yield step.argval
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant, scope, seen)
    for name in code.co_names:
        helper = scope.get(name)
        if isinstance(helper, FunctionType) and not helper.__module__.startswith("torch"):
            yield from _names(helper.__code__, helper.__globals__, seen)
