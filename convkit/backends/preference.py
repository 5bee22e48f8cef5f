"""Which backend was measured to be the fastest for a class of problems on a device, where ``convkit.tune`` has run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from convkit.backends import tuned
from convkit.backends.gpu import tf32_allowed
from convkit.backends.layout import is_channels_last
from convkit.backends.tracing import constant_while_traced
from convkit.problem import ConvSpec, PoolSpec

#: Types of devices that have more than one backend to choose from.
DEVICES = ("cuda",)


def _static(n: int) -> bool:
    """Whether a size is a number, also in a graph that is being traced, where it may be a symbol."""
    from torch.fx.experimental.symbolic_shapes import has_static_value

    return has_static_value(n)


def _sizes(sizes: Sequence[int], exactly: bool = False) -> str:
    traced = torch.compiler.is_compiling()
    known = [tuned.ANY if traced and not _static(n) else str(n if exactly else tuned.rounded(n)) for n in sizes]
    return "x".join(known)


def problem_of(op: str, x: Tensor, w: Tensor | None, spec: Any) -> str:
    """The class of a problem: what decides speed, with sizes up to powers of two; of symbols, any size."""
    filters = "" if w is None else f"filter {_sizes(w.shape[:2])} by {_sizes(w.shape[2:], exactly=True)}"
    steps: tuple[Any, ...] = ()  # not all of a spec: its floats may be symbols
    if isinstance(spec, ConvSpec):
        steps = spec.groups, spec.stride, spec.dilation
    elif isinstance(spec, PoolSpec):
        steps = spec.kernel_size, spec.stride, spec.dilation
    return _described(op, x.dtype, _sizes(x.shape), is_channels_last(x), filters, steps)


@constant_while_traced
def _described(
    op: str, dtype: torch.dtype, sizes: str, channels_last: bool, filters: str, steps: tuple[Any, ...]
) -> str:
    words = [op, str(dtype).removeprefix("torch."), sizes, "channels last" if channels_last else "rows"]
    words += [filters] if filters else []
    if steps:
        first, stride, dilation = steps
        convolution = isinstance(first, int)
        words += [] if convolution else [f"window {first}"]
        words += [f"stride {stride}", f"dilation {dilation}"]
        words += [f"groups {tuned.rounded(first)}"] if convolution else []
        words += ["tf32"] if convolution and dtype == torch.float32 and tf32_allowed() else []
    return " ".join(words)


@constant_while_traced
def _nothing_measured(device: torch.device) -> bool:
    return not tuned.winners(device).seconds


@constant_while_traced  # files cannot be traced: a graph keeps the winners that there are when it is made
def _fastest(device: torch.device, problem: str) -> str | None:
    return tuned.winners(device).fastest(problem)


def fastest(op: str, x: Tensor, w: Tensor | None, spec: Any) -> str | None:
    """The backend that was fastest for such a problem on x's device; None where none was measured."""
    if x.device.type not in DEVICES or _nothing_measured(x.device):
        return None
    return _fastest(x.device, problem_of(op, x, w, spec))


def measured(op: str, x: Tensor, w: Tensor | None, spec: Any) -> dict[str, float]:
    """The seconds of each backend for such a problem on x's device, as far as they were measured."""
    if x.device.type not in DEVICES:
        return {}
    return tuned.winners(x.device).seconds.get(problem_of(op, x, w, spec), {})
