"""The graph of what a module computes, by torch.fx, or None where a graph would not be the whole truth.

torch.fx runs forward once with stand-ins for tensors. What does not depend on them is fixed in the graph: the branch
taken, a number drawn. So a graph is only believed if
- forward's required arguments are tensors; optional ones keep their defaults (the caller looks at both),
- nothing on the way asks for, or changes, what a graph cannot hold: gradient and autocast modes, random numbers of
  Python, the type of a tensor, checkpointing, output (all code that the modules and their helpers can reach is
  searched for these names),
- no attribute of a module changed meanwhile, hooks included, and no tensor was made of nothing,
- the graph is drawn in training and in evaluation mode, if these differ.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from convkit.nn.fused import hooked

_UNTRACED = frozenset(
    (
        *("no_grad", "enable_grad", "inference_mode", "set_grad_enabled", "is_grad_enabled"),
        *("autocast", "is_autocast_enabled", "is_compiling", "is_tracing"),
        *("checkpoint", "checkpoint_sequential", "random", "print", "isinstance", "is_tensor"),
    )
)


_CONTAINERS = (nn.Module, nn.Sequential)


class Untraceable(Exception):
    """Why there is no graph."""


class _Tracer(fx.Tracer):
    """Looks into modules that are not PyTorch's own; notes where each operation stands."""

    def __init__(self, closed: frozenset[nn.Module]) -> None:
        super().__init__()
        self._closed = closed
        self._scopes = [""]
        self.inlined: dict[nn.Module, None] = {}
        self.unfit: list[nn.Module] = []

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return m in self._closed or is_leaf(m)

    def create_arg(self, a: Any) -> Any:
        if isinstance(a, Tensor) and not any(a is known for known in self._known):
            raise Untraceable("a tensor that forward makes of nothing")
        return super().create_arg(a)

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> Any:
        self._known = [*self.root.parameters(), *self.root.buffers()]
        self.inlined[self.root] = None
        return root_fn, [self.root, *(self.create_proxy("placeholder", n, (), {}) for n in required(self.root))]

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        node = super().create_node(*args, **kwargs)
        node.meta["scope"] = self._scopes[-1]
        return node

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        path = self.path_of_module(m)
        if self.is_leaf_module(m, path):
            fits = getattr(vars(m).get("forward"), "fits", None)
            if fits is not None and not fits(args, kwargs):
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
    before = [_state(m) for m in modules]
    graphs: dict[bool, fx.Graph] = {}
    inlined: dict[nn.Module, None] = {}
    unfit: list[nn.Module] = []
    try:
        for mode in (True, False):
            for m in modules:
                if not is_leaf(m):
                    vars(m)["training"] = mode
            tracer = _Tracer(closed)
            graphs[mode] = tracer.trace(module)
            _drop_identities(graphs[mode], module, tracer.inlined)
            inlined.update(tracer.inlined)
            unfit += tracer.unfit
    except Exception as error:
        raise Untraceable(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}") from None
    finally:
        changed = [m for m, state in zip(modules, before) if not _restore(m, state)]
    if changed:
        raise Untraceable(f"{type(changed[0]).__name__} changes its own attributes")
    for m in inlined:
        if (name := _untraced_name(m)) is not None:
            raise Untraceable(f"{type(m).__name__} uses {name!r}")
    if graphs[True].python_code("self").src == graphs[False].python_code("self").src:
        graphs[False] = graphs[True]
    return Trace(graphs, list(inlined), unfit)


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


def _untraced_name(module: nn.Module) -> str | None:
    """A name in the code that a module can reach, of its classes and its own functions, which a graph cannot hold."""
    seen: set[CodeType] = set()
    classes = [c for c in type(module).__mro__ if not c.__module__.startswith("torch.nn.") and c is not object]
    for members in (vars(module), *map(vars, classes)):
        for member in members.values():
            function = getattr(member, "__func__", member)
            if isinstance(function, FunctionType) and function.__name__ not in ("__init__", "__repr__", "extra_repr"):
                for name in _names(function.__code__, function.__globals__, seen):
                    if name in _UNTRACED:
                        return name
    return None


def _names(code: CodeType, scope: dict[str, Any], seen: set[CodeType]) -> Iterator[str]:
    """The global names and attributes that ``code`` uses, and functions it calls that are not PyTorch's own."""
    if code in seen:
        return
    seen.add(code)
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant, scope, seen)
    for name in code.co_names:
        helper = scope.get(name)
        if isinstance(helper, FunctionType) and not helper.__module__.startswith("torch"):
            yield from _names(helper.__code__, helper.__globals__, seen)
