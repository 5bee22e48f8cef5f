"""Keeping how a tensor was made instead of the tensor.

z = act((y - mean) invstd weight + bias) is a cheap pass over y, and y is kept for backward anyway. So the layer that
makes z attaches a recipe to it, and the convolution that reads z keeps the recipe in its place: of a chain of such
layers only the y remain. The means is what PyTorch has for saved tensors: a pair of hooks, active while the
convolution saves its operands. PyTorch gives what such a hook returns the place of z in the graph, so derivatives of
higher order need nothing more.

A recipe holds while z is what it was: an operation in place makes it void, and z is kept as usual. Only through
z.data can z change unseen, as autograd does not see it either: backward then computes with z as it was made. Copies,
by pickle or deepcopy, have no recipe. Hooks that are active outside (they move tensors to another memory, count or
recompute them) are given y; where hooks are forbidden, z is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

Hooks = tuple[Callable[[Tensor], Any], Callable[[Any], Tensor]]

_ATTRIBUTE = "_convkit_recipe"
# Without it nobody can tell whether hooks are active outside, and recipes are not used.
_top_hooks: Callable[[bool], Hooks | None] | None = getattr(
    torch._C._autograd, "_top_saved_tensors_default_hooks", None
)


class Recipe:
    """``make(source)`` computes the tensor that it is attached to, in its state of ``version``."""

    __slots__ = ("make", "source", "version")

    def __init__(self, source: Tensor, make: Callable[[Tensor], Tensor]) -> None:
        self.source, self.make, self.version = source, make, -1

    def __reduce__(self) -> tuple[Any, ...]:
        return type(None), ()  # a copy of a tensor takes its attributes along: of this, None


# The message of torch.autograd.graph.disable_saved_tensors_hooks where it is active.
_forbidden: Callable[[], str | None] = getattr(
    torch._C._autograd, "_saved_tensors_hooks_get_disabled_error_message", lambda: None
)


def outer_hooks() -> Hooks | None:
    """The hooks on saved tensors that are active here, None where there are none or nobody can tell."""
    return None if _top_hooks is None else _top_hooks(False)


def attach(tensor: Tensor, recipe: Recipe) -> None:
    """From now on, and as long as it is not changed, ``tensor`` need not be kept."""
    if _top_hooks is not None:
        recipe.version = tensor._version
        setattr(tensor, _ATTRIBUTE, recipe)


def recipe_of(tensor: Tensor | None) -> Recipe | None:
    """The recipe of a tensor, None where it has none or was changed."""
    recipe: Recipe | None = getattr(tensor, _ATTRIBUTE, None)
    return recipe if recipe is not None and tensor is not None and recipe.version == tensor._version else None


_NOTHING: AbstractContextManager[Any] = nullcontext()


def remembering(*operands: Tensor | None) -> AbstractContextManager[Any]:
    """Inside, operations that save one of ``operands`` save its recipe where it has one."""
    if torch.compiler.is_compiling() or not torch.is_grad_enabled() or not any(map(recipe_of, operands)):
        return _NOTHING
    if _forbidden() is not None:
        return _NOTHING
    hooks = outer_hooks()
    return torch.autograd.graph.saved_tensors_hooks(*(_chained(hooks) if hooks else (_pack, _unpack)))


def _pack(tensor: Tensor) -> Recipe | tuple[Tensor, int]:
    recipe = recipe_of(tensor)
    return (tensor, tensor._version) if recipe is None else recipe


def _unpack(kept: Recipe | tuple[Tensor, int]) -> Tensor:
    if isinstance(kept, Recipe):
        return kept.make(kept.source)
    tensor, version = kept
    if tensor._version != version:  # PyTorch checks this itself where there are no hooks
        raise RuntimeError(
            "one of the variables needed for gradient computation has been modified by an inplace operation: "
            f"[{tensor.type()} {list(tensor.shape)}] is at version {tensor._version}; "
            f"expected version {version} instead"
        )
    return tensor


def _chained(outer: Hooks) -> Hooks:
    """Hooks that give ``outer`` what a recipe is made of, and all else as it is."""
    outer_pack, outer_unpack = outer

    def pack(tensor: Tensor) -> Any:
        recipe = recipe_of(tensor)
        return (None, outer_pack(tensor)) if recipe is None else (recipe.make, outer_pack(recipe.source))

    def unpack(kept: Any) -> Tensor:
        make, packed = kept
        tensor = outer_unpack(packed)
        return tensor if make is None else make(tensor)

    return pack, unpack
