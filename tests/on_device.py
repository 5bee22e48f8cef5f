"""Where Triton kernels run: on a GPU, or in Triton's interpreter on CPU tensors."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from convkit.backends.base import RAW_OPS, Backend
from convkit.backends.triton import tiles
from tests import places

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def lighten_interpreter() -> None:
    """Leaves out what Triton's interpreter computes for nothing, two thirds of its time (seen in Triton 3.9).

    It works out whether a sum or product of integers overflows, and drops the answer unless its option ``debug`` is
    set; and every call of a device function prepares the language for the function's module, where one per launch does.
    """
    from triton.runtime import interpreter

    options = interpreter.interpreter_builder.options
    if options.debug or not all(hasattr(interpreter, name) for name in ("_patch_lang", "InterpreterError")):
        return  # the answer is asked for, or another version
    interpreter.interpreter_builder.options = dataclasses.replace(options, sanitize_overflow=False)
    launch, prepared = interpreter.GridExecutor.__call__, set[int]()

    def launched(self: Any, *args: Any, **kwargs: Any) -> None:
        prepared.clear()  # what the last launch prepared it has undone
        launch(self, *args, **kwargs)

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        module = id(self.fn.__globals__)
        if module not in prepared:
            interpreter._patch_lang(self.fn)
            prepared.add(module)
        try:
            return self.rewrite()(*args, **kwargs)
        except Exception as e:
            raise interpreter.InterpreterError(repr(e)) from e

    interpreter.GridExecutor.__call__ = launched
    interpreter.InterpretedFunction.__call__ = call


class OnDevice(Backend):
    """The backend, given CPU tensors: on a GPU they travel there and back."""

    name = "triton on the device"

    def __init__(self, inner: Backend) -> None:
        self._inner = inner

    def __getattribute__(self, op: str) -> Any:
        if op not in RAW_OPS:
            return super().__getattribute__(op)
        run = getattr(self._inner, op)

        def there_and_back(**arguments: Any) -> Any:
            def move(t: Tensor) -> Tensor:
                return t if DEVICE == "cpu" else places.move(t, torch.device(DEVICE))

            # In the interpreter every operation of a block costs alike: few large blocks.
            with tiles.forced(block=tiles.Block(512, 4) if DEVICE == "cpu" else None):
                result = run(**{name: places.mapped(move, a) for name, a in arguments.items()})
            return tuple(r.cpu() for r in result) if isinstance(result, tuple) else result.cpu()

        return there_and_back
