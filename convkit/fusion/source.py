"""Patterns in the source of a forward that does not trace: attributes of the module called one after the other.

Only what the text proves is changed. In

    x = self.conv(x)
    if self.norm is not None:
        x = self.norm(x)
    x = self.act(x)

each statement takes what the one before assigned and assigns the same name anew, so that nothing else can see the
values between. Such a run becomes one statement that calls a chain; all other code of forward stays as it is written,
and runs as Python, with whatever control flow made tracing fail.
"""

from __future__ import annotations

import ast
import copy
import inspect
import textwrap
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import nn

from convkit.fusion.patterns import function_activation, module_activation, module_refusal
from convkit.fusion.units import CHAINS, Chain, Chains
from convkit.nn.fused import CONVOLUTIONS

_RESULT = "return"


class _Run(NamedTuple):
    """``operations`` applied to ``start`` in turn, assigned to the variable ``target``, or returned."""

    start: ast.expr
    operations: list[Any]
    target: str


class _Call(NamedTuple):
    name: str


class _Activation(NamedTuple):
    form: tuple[int, float]
    written: ast.Call


class _Add(NamedTuple):
    operand: ast.Name
    in_place: ast.AugAssign | None = None  # the statement, where it is one


class _Chained(NamedTuple):
    name: str
    residual: ast.Name | None


class Rewritten(NamedTuple):
    """Forwards in which patterns are calls of ``chains``, and why other layers stay apart."""

    codes: dict[bool, Callable[..., Any] | None]  # by whether gradients are enabled; None where nothing is changed
    chains: Chains
    patterns: list[tuple[Chain, bool]]  # and whether an addition is part of it
    reasons: dict[nn.Module, str]
    asked: set[str]  # the attributes that were compared with None


def rewrite(module: nn.Module, shared: frozenset[nn.Module]) -> Rewritten:
    """The forward of ``module`` with its patterns fused, as far as its text shows them."""
    result = Rewritten({}, Chains(), [], {}, set())
    function: Any = type(module).forward
    if getattr(function, "__closure__", None) or not hasattr(function, "__globals__"):
        return result
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return result
    definition = tree.body[0]
    if (
        not isinstance(definition, ast.FunctionDef)
        or definition.decorator_list
        or definition.args.args[0].arg != "self"
        or any(map(_private, ast.walk(definition)))
    ):
        return result
    _drop_defaults(definition)
    for gradients in (True, False):
        result.patterns.clear()
        changed = copy.deepcopy(tree)
        _Rewriter(module, function.__globals__, shared, definition, result, not gradients).visit(changed.body[0])
        found: dict[str, Any] = {}
        if result.patterns:
            exec(compile(ast.fix_missing_locations(changed), "<convkit.fuse>", "exec"), function.__globals__, found)
        result.codes[gradients] = code = found.get(definition.name)
        if code is not None:
            code.__defaults__, code.__kwdefaults__ = function.__defaults__, function.__kwdefaults__
    return result


def _private(node: ast.AST) -> bool:
    """Whether a name is in it that Python writes otherwise inside of a class."""
    names = (getattr(node, field, None) for field in ("id", "attr", "arg", "name"))
    return any(isinstance(n, str) and n.startswith("__") and not n.endswith("__") for n in names)


def _drop_defaults(definition: ast.FunctionDef) -> None:
    """Takes away what would be evaluated outside of the class, which may define it; defaults are copied later.

    None stands for them: those of arguments with one are the last, and keywords without one stay without.
    """
    arguments = definition.args
    arguments.defaults = [ast.Constant(None) for _ in arguments.defaults]
    arguments.kw_defaults = [d and ast.Constant(None) for d in arguments.kw_defaults]
    definition.returns = None
    for node in ast.walk(arguments):
        if isinstance(node, ast.arg):
            node.annotation = None


class _Rewriter(ast.NodeTransformer):
    def __init__(
        self,
        module: nn.Module,
        scope: dict[str, Any],
        shared: frozenset[nn.Module],
        definition: ast.FunctionDef,
        result: Rewritten,
        without_norm: bool,
    ) -> None:
        """``without_norm``: whether convolutions that no norm follows are patterns too."""
        self._module, self._scope, self._shared = module, scope, shared
        self._result, self._without_norm = result, without_norm
        called = [_own_attribute(node.func) for node in ast.walk(definition) if isinstance(node, ast.Call)]
        self._calls = Counter(called)

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        for field in ("body", "orelse", "finalbody"):
            block = getattr(node, field, None)
            if isinstance(block, list) and block and isinstance(block[0], ast.stmt):
                setattr(node, field, self._block(block))
        return node

    def visit_Try(self, node: ast.Try) -> ast.AST:
        """Left as it is: what follows an error may read a variable that a run would no longer assign."""
        return node

    def _block(self, statements: list[ast.stmt]) -> list[ast.stmt]:
        """The statements, with each run that holds a pattern in one."""
        result: list[ast.stmt] = []
        pending: list[ast.stmt] = []
        run: _Run | None = None

        def finish() -> None:
            fused = None if run is None else self._fuse(run)
            result.extend(pending if fused is None else fused)
            pending.clear()

        for statement in statements:
            parsed = self._statement(statement)
            follows = (
                run is not None
                and parsed is not None
                and isinstance(parsed.start, ast.Name)
                and parsed.start.id == run.target
                and parsed.target in (run.target, _RESULT)
                and not any(isinstance(o, _Add) and o.operand.id == run.target for o in parsed.operations)
            )
            if follows and run is not None and parsed is not None:
                run = _Run(run.start, run.operations + parsed.operations, parsed.target)
            else:
                finish()
                run = parsed
            pending.append(statement)
        finish()
        return result

    def _statement(self, statement: ast.stmt) -> _Run | None:
        if isinstance(statement, ast.If) and not statement.orelse and len(statement.body) == 1:
            inner = self._statement(statement.body[0])
            name = _not_none(statement.test)
            if inner is None or name is None or inner.target == _RESULT:
                return None
            self._result.asked.add(name)
            if getattr(self._module, name, None) is not None:
                return inner
            return _Run(ast.Name(inner.target, ast.Load()), [], inner.target)
        if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
            target = statement.targets[0]
            if isinstance(target, ast.Name):
                return _Run(*self._expression(statement.value, target.id), target.id)
        if isinstance(statement, ast.Return) and statement.value is not None:
            return _Run(*self._expression(statement.value, ""), _RESULT)
        if (
            isinstance(statement, ast.AugAssign)
            and isinstance(statement.op, ast.Add)
            and isinstance(statement.target, ast.Name)
            and isinstance(statement.value, ast.Name)
            and statement.value.id != statement.target.id
        ):
            name = statement.target.id
            return _Run(ast.Name(name, ast.Load()), [_Add(statement.value, statement)], name)
        return None

    def _expression(self, e: ast.expr, target: str) -> tuple[ast.expr, list[Any]]:
        if isinstance(e, ast.Call) and len(e.args) >= 1:
            name = _own_attribute(e.func)
            if name is not None and len(e.args) == 1 and not e.keywords and not isinstance(e.args[0], ast.Starred):
                start, operations = self._expression(e.args[0], target)
                return start, [*operations, _Call(name)]
            form = self._function(e)
            if form is not None:
                start, operations = self._expression(e.args[0], target)
                return start, [*operations, _Activation(form, e)]
        if isinstance(e, ast.BinOp) and isinstance(e.op, ast.Add):
            for one, other in ((e.left, e.right), (e.right, e.left)):
                start, operations = self._expression(one, target)
                same = isinstance(one, ast.Name) and one.id == target
                if (operations or same) and isinstance(other, ast.Name) and other.id != target:
                    return start, [*operations, _Add(other)]
        return e, []

    def _function(self, e: ast.Call) -> tuple[int, float] | None:
        """The activation that a call of a function is, with constant settings."""
        try:
            path = ast.unparse(e.func).split(".")
            function = self._scope[path[0]]
            for name in path[1:]:
                function = getattr(function, name)
            settings = {k.arg: ast.literal_eval(k.value) for k in e.keywords}
            return function_activation(function, [ast.literal_eval(a) for a in e.args[1:]], settings)
        except (KeyError, AttributeError, ValueError, TypeError):
            return None

    def _fuse(self, run: _Run) -> list[ast.stmt] | None:
        """One statement for a run, if any of it is a pattern; more where something else is written in place."""
        operations: list[Any] = []
        rest = list(run.operations)
        before = len(self._result.patterns)
        while rest:
            taken = self._pattern(rest)
            if taken:
                name = self._result.chains.name(self._result.patterns[-1][0])
                addition = next((o for o in rest[:taken] if isinstance(o, _Add)), None)
                operations.append(_Chained(name, addition.operand if addition else None))
                rest = rest[taken:]
            else:
                operations.append(rest.pop(0))
        if len(self._result.patterns) == before:
            return None
        value, statements = run.start, list[ast.stmt]()
        for operation in operations:
            if isinstance(operation, _Add) and operation.in_place is not None:
                assert isinstance(operation.in_place.target, ast.Name)
                name = operation.in_place.target.id
                if not isinstance(value, ast.Name):
                    statements.append(ast.Assign([ast.Name(name, ast.Store())], value))
                statements.append(operation.in_place)
                value = ast.Name(name, ast.Load())
            else:
                value = _applied(operation, value)
        last = ast.Return(value) if run.target == _RESULT else ast.Assign([ast.Name(run.target, ast.Store())], value)
        return [*statements, last]

    def _pattern(self, operations: list[Any]) -> int:
        """How many of the first operations are a pattern, which becomes a chain; 0 for none."""
        conv, bn = (self._called(o) for o in [*operations, None][:2])
        if not isinstance(bn, nn.modules.batchnorm._BatchNorm):
            bn = None
        if not isinstance(conv, nn.Module) or (bn is None and not self._stands_alone(conv)):
            return 0
        taken = layers = 1 if bn is None else 2
        in_place = False
        if len(operations) > taken and isinstance(operations[taken], _Add):
            in_place = operations[taken].in_place is not None
            taken += 1
        act, form = None, (0, 0.0)
        if len(operations) > taken:
            following = operations[taken]
            module = self._called(following)
            known = following.form if isinstance(following, _Activation) else module_activation(module)
            if known is not None:
                act, form, taken = module, known, taken + 1
        if bn is None and taken == 1:
            return 0
        chain = Chain(conv, bn, act, form, in_place)
        reason = module_refusal(conv, bn, self._module.training)
        repeated = [o.name for o in operations[:layers] if self._calls[o.name] > 1]
        if reason is None and (repeated or conv in self._shared or bn in self._shared):
            reason = "shared, or used more than once"
        if reason is not None:
            self._result.reasons[chain.layer] = reason
            return 0
        self._result.patterns.append((chain, any(isinstance(o, _Add) for o in operations[:taken])))
        return taken

    def _called(self, operation: Any) -> Any:
        """The attribute that an operation calls, if it does."""
        return getattr(self._module, operation.name, None) if isinstance(operation, _Call) else None

    def _stands_alone(self, conv: nn.Module) -> bool:
        return self._without_norm and isinstance(conv, tuple(CONVOLUTIONS))


def _own_attribute(node: ast.AST) -> str | None:
    """The name of an attribute of self, directly."""
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self":
        return node.attr
    return None


def _not_none(test: ast.expr) -> str | None:
    """The attribute of self that a condition wants not to be None."""
    if (
        isinstance(test, ast.Compare)
        and isinstance(test.ops[0], ast.IsNot)
        and len(test.ops) == 1
        and isinstance(test.comparators[0], ast.Constant)
        and test.comparators[0].value is None
    ):
        return _own_attribute(test.left)
    return None


def _applied(operation: Any, value: ast.expr) -> ast.expr:
    own = ast.Name("self", ast.Load())
    match operation:
        case _Call(name):
            return ast.Call(ast.Attribute(own, name, ast.Load()), [value], [])
        case _Activation(_, written):
            again = copy.copy(written)
            again.args = [value, *written.args[1:]]
            return again
        case _Add(operand, _):
            return ast.BinOp(value, ast.Add(), operand)
        case _:
            chains = ast.Attribute(own, CHAINS, ast.Load())
            function = ast.Attribute(chains, operation.name, ast.Load())
            return ast.Call(function, [value, *([operation.residual] if operation.residual else [])], [])
