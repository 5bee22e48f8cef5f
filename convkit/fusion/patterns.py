"""Which nodes of a graph one operation can compute: convolution, batch norm, addition, activation; some may lack."""

from __future__ import annotations

import operator
from collections import Counter
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.nn.utils import parametrize

from convkit.functional.fused import ALPHAS, activation_number
from convkit.fusion.standin import ADD_IN_PLACE
from convkit.fusion.tracing import is_leaf
from convkit.nn.fused import CONVOLUTIONS, NORMS, base, hooked

_MODULES: dict[type, str] = {
    nn.ReLU: "relu",
    nn.LeakyReLU: "leaky_relu",
    nn.ELU: "elu",
    nn.Sigmoid: "sigmoid",
    nn.Tanh: "tanh",
    nn.SiLU: "silu",
    nn.GELU: "gelu",
}
_FUNCTIONS: dict[Any, str] = {
    F.relu: "relu",
    F.relu_: "relu",
    torch.relu: "relu",
    torch.relu_: "relu",
    F.leaky_relu: "leaky_relu",
    F.elu: "elu",
    torch.sigmoid: "sigmoid",
    F.sigmoid: "sigmoid",
    torch.tanh: "tanh",
    F.tanh: "tanh",
    F.silu: "silu",
    F.gelu: "gelu",
}
#: What torch.nn calls the parameter of an activation that has one.
_PARAMETERS = {"leaky_relu": "negative_slope", "elu": "alpha"}
_METHODS = {"relu", "relu_", "sigmoid", "sigmoid_", "tanh", "tanh_"}
_ADDITIONS = (operator.add, operator.iadd, torch.add, ADD_IN_PLACE)
_IN_PLACE = (operator.iadd, "add_", ADD_IN_PLACE)


class Pattern(NamedTuple):
    """Nodes of one graph, and the modules that they call."""

    nodes: list[fx.Node]  # the first is the convolution's, the last gives the result
    addition: fx.Node | None  # one of them
    conv: nn.Module
    bn: nn.Module | None
    act: nn.Module | None  # where the activation is a module
    activation: tuple[int, float]

    @property
    def layer(self) -> nn.Module:
        """By which a pattern is known: its norm, where it has one."""
        return self.conv if self.bn is None else self.bn

    @property
    def residual(self) -> Any:
        """What is added. Read from the graph as it is now: it may be the result of a pattern that was rewritten."""
        if self.addition is None:
            return None
        before = self.nodes[self.nodes.index(self.addition) - 1]
        return next(a for a in self.addition.args if a is not before)

    @property
    def in_place(self) -> bool:
        """Whether the addition writes where the layers' result is."""
        return self.addition is not None and self.addition.target in _IN_PLACE

    @property
    def open(self) -> bool:
        """Whether an addition or an activation could follow."""
        return not self.activation[0]


class Left(NamedTuple):
    """A batch norm, or a convolution before an activation, that stays on its own."""

    layer: nn.Module
    reason: str
    outside: bool = False  # what stands before it was not seen


class Search:
    """The patterns of one graph, whose modules belong to ``root``. ``shared`` are used in several places."""

    def __init__(self, graph: fx.Graph, root: nn.Module, shared: frozenset[nn.Module]) -> None:
        self._root, self._order = root, list(graph.nodes)
        self._modules = dict(root.named_modules(remove_duplicate=False))
        self._position = {node: i for i, node in enumerate(self._order)}
        called = Counter(self._module(node) for node in self._order if node.op == "call_module")
        self._reused = shared | {m for m, calls in called.items() if calls > 1}
        self._taken: set[fx.Node] = set()
        self.patterns: list[Pattern] = []
        self.left: list[Left] = []
        for find in (self._with_norm, self._without_norm):
            for node in self._order:
                found = find(node, self._module(node))
                if isinstance(found, Pattern):
                    self.patterns.append(found)
                    self._taken.update(found.nodes)
                elif found is not None:
                    self.left.append(found)

    def _module(self, node: Any) -> Any:
        return self._modules.get(node.target) if isinstance(node, fx.Node) and node.op == "call_module" else None

    def _with_norm(self, node: fx.Node, bn: Any) -> Pattern | Left | None:
        if not isinstance(bn, nn.modules.batchnorm._BatchNorm):
            return None
        source = node.args[0] if len(node.args) == 1 and not node.kwargs else None
        conv = self._module(source)
        if not isinstance(source, fx.Node) or not isinstance(conv, tuple(CONVOLUTIONS)):
            outside = isinstance(source, fx.Node) and source.op in ("placeholder", "call_module")
            return Left(bn, _no_convolution(conv), outside)
        if len(source.users) != 1:
            return Left(bn, "the convolution's result is used elsewhere too")
        return self._followed([source, node], conv, bn)

    def _without_norm(self, node: fx.Node, conv: Any) -> Pattern | Left | None:
        if not isinstance(conv, tuple(CONVOLUTIONS)) or node in self._taken:
            return None
        return self._followed([node], conv, None)

    def _followed(self, nodes: list[fx.Node], conv: Any, bn: Any) -> Pattern | Left | None:
        """What starts with ``nodes``, and the addition and activation behind them."""
        first, last = nodes[0], nodes[-1]
        addition = self._only_user(last)
        if addition is not None and self._adds(addition, last, first):
            nodes.append(addition)
        else:
            addition = None
        act, activation = None, (0, 0.0)
        user = self._only_user(nodes[-1])
        if user is not None and (known := self._activation(user, nodes[-1])) is not None:
            nodes.append(user)
            act, activation = self._module(user), known
        if bn is None and len(nodes) == 1:
            return None
        if (reason := self._refusal(first, conv, bn)) is not None:
            return Left(conv if bn is None else bn, reason)
        if self._written_between(nodes):
            return Left(conv if bn is None else bn, "something else is computed in place between its parts")
        return Pattern(nodes, addition, conv, bn, act, activation)

    def _refusal(self, source: fx.Node, conv: Any, bn: Any) -> str | None:
        """Why a convolution and what follows it stay apart."""
        if len(source.args) != 1 or source.kwargs:
            return "the convolution is given more than its input"
        if (reason := module_refusal(conv, bn, self._root.training)) is not None:
            return reason
        for module in (conv, bn):
            if module in self._reused:
                return f"the {type(module).__name__} is shared, or used more than once"
        return None

    def _only_user(self, node: fx.Node) -> fx.Node | None:
        users = list(node.users)
        return users[0] if len(users) == 1 and users[0].op != "output" else None

    def _adds(self, addition: fx.Node, node: fx.Node, conv: fx.Node) -> bool:
        """Whether ``addition`` adds something to ``node`` that a fused operation may add."""
        function = addition.op == "call_function" and addition.target in _ADDITIONS
        method = addition.op == "call_method" and addition.target in ("add", "add_")
        if not (function or method) or addition.kwargs or len(addition.args) != 2 or addition in self._taken:
            return False
        a, b = addition.args
        other = b if a is node else a
        if not isinstance(other, fx.Node) or other is node:
            return False
        if addition.target in _IN_PLACE and a is not node:  # the other operand is changed
            return False
        later = self._order[self._position[addition] + 1 :]
        if any(other in n.all_input_nodes and self._writes(n) for n in later):  # it is kept for backward
            return False
        return not self._written_between([conv, node, addition])

    def _activation(self, node: fx.Node, operand: fx.Node) -> tuple[int, float] | None:
        """The number and parameter of a known activation of ``operand``, and nothing else."""
        if not node.args or node.args[0] is not operand or len(node.all_input_nodes) != 1:
            return None
        module = self._module(node)
        if module is not None:
            return module_activation(module)
        if node.op == "call_method":
            plain = node.target in _METHODS and len(node.args) == 1 and not node.kwargs
            return activation_number(str(node.target).rstrip("_"), None) if plain else None
        if node.op != "call_function":
            return None
        return function_activation(node.target, list(node.args[1:]), dict(node.kwargs))

    def _written_between(self, nodes: list[fx.Node]) -> bool:
        """Whether something beside ``nodes`` writes in place after the first and before the last of them."""
        between = self._order[self._position[nodes[0]] + 1 : self._position[nodes[-1]]]
        return any(n not in nodes and self._writes(n) for n in between)

    def _writes(self, node: fx.Node) -> bool:
        if node.op == "call_module":
            module = self._module(node)
            return module is None or not is_leaf(module) or hooked(module) or bool(getattr(module, "inplace", False))
        if node.op == "call_method":
            return str(node.target).endswith("_") or str(node.target).startswith("__i")
        if node.op != "call_function":
            return False
        name = getattr(node.target, "__name__", "_")
        in_place = getattr(node.target, "__module__", "") == "_operator" and (name.startswith("i") or name == "setitem")
        flags = [*node.args, *node.kwargs.values()]
        return (
            (in_place and name not in ("index", "inv", "invert", "is_", "is_not"))
            or name.endswith("_")
            or True in [v for v in flags if isinstance(v, bool)]
            or "out" in node.kwargs
        )


def _no_convolution(before: nn.Module | None) -> str:
    if before is None or not isinstance(before, tuple(CONVOLUTIONS)):
        return "no convolution before it"
    if parametrize.is_parametrized(before):
        return f"the {type(before).__bases__[0].__name__} is parametrized"
    return f"{type(before).__name__} is a subclass, whose forward may do something else"


def module_refusal(conv: Any, bn: Any, training: bool) -> str | None:
    """Why modules that follow each other stay apart; ``training``: the mode of the module around them.

    ``bn`` is None where a convolution without a norm is activated, whatever the mode.
    """
    kind = base(conv, CONVOLUTIONS)
    if kind is None or parametrize.is_parametrized(conv):
        return _no_convolution(conv)
    modules = [conv]
    if bn is not None:
        norm = base(bn, NORMS)
        if norm is None:
            return f"{type(bn).__name__} is not torch.nn's own batch norm"
        if CONVOLUTIONS[kind] != NORMS[norm]:
            return f"{type(bn).__name__} behind {type(conv).__name__}: of different numbers of dimensions"
        modules.append(bn)
    for module in modules:
        name = type(module).__name__
        if "forward" in vars(module):
            return f"the forward of the {name} was replaced on the object"
        if hooked(module):
            return f"the {name} has hooks"
    if bn is not None and (bn.training != training or conv.training != training):
        return f"the batch norm is in {_mode(bn.training)} mode, what is around it in {_mode(training)} mode"
    return None


def _mode(training: bool) -> str:
    return "training" if training else "evaluation"


def module_activation(module: Any) -> tuple[int, float] | None:
    """The number and parameter of an activation module, None where convkit has no such activation."""
    name = _MODULES.get(type(module))
    if name is None or hooked(module) or getattr(module, "approximate", "none") != "none":
        return None
    return activation_number(name, getattr(module, _PARAMETERS[name]) if name in _PARAMETERS else None)


def function_activation(function: Any, arguments: list[Any], settings: dict[Any, Any]) -> tuple[int, float] | None:
    """The same of a function that is called with an operand and these arguments."""
    name = _FUNCTIONS.get(function)
    settings.pop("inplace", None)
    if name is None or settings.pop("approximate", "none") != "none":
        return None
    alpha = None
    if name in _PARAMETERS:
        alpha = arguments.pop(0) if arguments else settings.pop(_PARAMETERS[name], ALPHAS[name])
        if not isinstance(alpha, (int, float)):
            return None
    if settings or any(not isinstance(v, bool) for v in arguments):
        return None
    return activation_number(name, alpha)
