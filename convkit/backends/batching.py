"""torch.vmap over the compiled operators: one call for each element of the batch.

So does PyTorch with operators that have no rule of their own, but it warns of that at every use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, library


def register(namespace: str, operators: Iterable[str]) -> None:
    """Registers the rule of the operators, which a library has defined."""
    for name in operators:
        library.register_vmap(f"{namespace}::{name}", _rule(getattr(getattr(torch.ops, namespace), name)))


def _rule(operator: Callable[..., Any]) -> Callable[..., Any]:
    def batched(info: Any, dims: tuple[Any, ...], *arguments: Any) -> Any:
        size = info.batch_size
        rows = range(max(size, 1))  # of none, the sizes of results are those of any
        results = [operator(*[_element(a, dim, row) for a, dim in zip(arguments, dims)]) for row in rows]
        if isinstance(results[0], Tensor):
            return torch.stack(results)[:size], 0
        parts = tuple(torch.stack(part)[:size] for part in zip(*results))
        return parts, (0,) * len(parts)

    return batched


def _element(argument: Any, dim: Any, row: int) -> Any:
    if not isinstance(argument, Tensor) or dim is None:
        return argument
    return (
        argument.select(dim, row)
        if argument.shape[dim]
        else argument.new_zeros(1).expand(*argument.shape[:dim], *argument.shape[dim + 1 :])
    )
