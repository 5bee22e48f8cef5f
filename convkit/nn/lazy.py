"""LazyConv{1,2,3}d and LazyConvTranspose{1,2,3}d: convolutions that learn in_channels from their first input."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from convkit.nn.convolution import Conv1d, Conv2d, Conv3d
from convkit.nn.options import Options
from convkit.nn.transposed import ConvTranspose1d, ConvTranspose2d, ConvTranspose3d


class _Lazy(Options):
    """Stands before torch.nn's lazy class, whose arguments it takes, which stands before the class to become."""

    def __init__(self, *args: Any, strict: bool = False, backend: str | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._set_options(strict=strict, backend=backend)


def _lazy(eager: type[torch.nn.Module]) -> Any:
    """The lazy class of ``eager``, with torch.nn's signature and the options of :class:`Options`.

    Made, not written out, because the six differ in nothing but the two classes that they join.
    """
    name = f"Lazy{eager.__name__}"
    theirs: Any = getattr(torch.nn, name)

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        _Lazy.__init__(self, *args, **kwargs)

    own = [p for p in inspect.signature(_Lazy.__init__).parameters.values() if p.kind is p.KEYWORD_ONLY]
    parameters = [*inspect.signature(theirs.__init__).parameters.values(), *own]
    __init__.__dict__["__signature__"] = inspect.Signature(parameters)
    members = {
        "__init__": __init__,
        "__module__": __name__,
        "__doc__": f":class:`{eager.__name__}` that learns in_channels from its first input.",
        "cls_to_become": eager,
    }
    return type(name, (_Lazy, theirs, eager), members)


LazyConv1d: type[Conv1d] = _lazy(Conv1d)
LazyConv2d: type[Conv2d] = _lazy(Conv2d)
LazyConv3d: type[Conv3d] = _lazy(Conv3d)
LazyConvTranspose1d: type[ConvTranspose1d] = _lazy(ConvTranspose1d)
LazyConvTranspose2d: type[ConvTranspose2d] = _lazy(ConvTranspose2d)
LazyConvTranspose3d: type[ConvTranspose3d] = _lazy(ConvTranspose3d)
