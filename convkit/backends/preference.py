"""Which backend was measured to be the fastest for a class of problems on a device, where ``convkit.tune`` has run."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from convkit.backends import tuned
from convkit.backends.gpu import tf32_allowed
from convkit.backends.layout import is_channels_last
from convkit.problem import ConvSpec, PoolSpec

#: Types of devices that have more than one backend to choose from.
DEVICES = ("cuda",)


def problem_of(op: str, x: Tensor, w: Tensor | None, spec: Any) -> str:
    """The class of a problem: what decides speed, with sizes up to powers of two."""
    sizes = "x".join(str(tuned.rounded(n)) for n in x.shape)
    words = [op, str(x.dtype).removeprefix("torch."), sizes, "channels last" if is_channels_last(x) else "rows"]
    if w is not None:
        words.append("filter " + "x".join(str(tuned.rounded(n)) for n in w.shape[:2]))
        words.append("by " + "x".join(map(str, w.shape[2:])))
    if isinstance(spec, ConvSpec):
        words += [f"stride {spec.stride}", f"dilation {spec.dilation}", f"groups {tuned.rounded(spec.groups)}"]
        words += ["tf32"] if x.dtype == torch.float32 and tf32_allowed() else []
    elif isinstance(spec, PoolSpec):
        words += [f"window {spec.kernel_size}", f"stride {spec.stride}", f"dilation {spec.dilation}"]
    return " ".join(words)


def fastest(op: str, x: Tensor, w: Tensor | None, spec: Any) -> str | None:
    """The backend that was fastest for such a problem on x's device; None where none was measured."""
    if x.device.type not in DEVICES:
        return None
    known = tuned.winners(x.device)
    return known.fastest(problem_of(op, x, w, spec)) if known.seconds else None


def measured(op: str, x: Tensor, w: Tensor | None, spec: Any) -> dict[str, float]:
    """The seconds of each backend for such a problem on x's device, as far as they were measured."""
    if x.device.type not in DEVICES:
        return {}
    return tuned.winners(x.device).seconds.get(problem_of(op, x, w, spec), {})
