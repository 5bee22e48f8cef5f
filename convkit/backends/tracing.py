"""What torch.compile is not to look into."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

F = TypeVar("F", bound=Callable[..., object])


def constant_while_traced(function: F) -> F:
    """Dynamo calls ``function`` while it traces, and keeps the answer, instead of tracing it.

    torch.compiler.assume_constant_result does the same, but imports the compiler, which takes longer than importing
    all of this package.
    """
    function.__dict__["_dynamo_marked_constant"] = True
    return function
