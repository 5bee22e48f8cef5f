"""What forward is given in place of tensors while it is traced: torch.fx's, with operators that write in place.

torch.fx makes ``y + z`` of ``y += z``: who has y by another name would no longer see the sum, and its dtype would be
another where those of y and z differ.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from torch import fx


class StandIn(fx.Proxy):
    """Stands for a tensor, or what is computed of one."""


def _in_place(operation: Callable[..., Any]) -> Callable[..., Any]:
    """A function of its own: torch.fx would write the statement, which binds the name of a number anew."""

    def write(a: Any, b: Any) -> Any:
        return operation(a, b)

    write.__name__ = write.__qualname__ = operation.__name__ + "_"  # as PyTorch names what writes in place

    def record(self: StandIn, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", write, (self, other), {})

    setattr(StandIn, f"__{operation.__name__}__", record)
    return write


#: y += z in a graph.
ADD_IN_PLACE = _in_place(operator.iadd)
for _operation in (
    *(operator.isub, operator.imul, operator.itruediv, operator.ifloordiv, operator.imod, operator.ipow),
    *(operator.iand, operator.ior, operator.ixor, operator.ilshift, operator.irshift),
):
    _in_place(_operation)
