"""Runs a call outside of the graph that torch.compile is tracing. Imported only then: it imports Dynamo."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


@torch.compiler.disable
def run(call: Callable[..., Any], *args: Any) -> Any:
    """``call(*args)`` in eager mode; an error under ``fullgraph=True``."""
    return call(*args)
