"""Where GPU kernels run: on a GPU, or on the emulator, where the same test shows that it would find a mistake.

On the emulator CPU tensors stand for a GPU's, and what only a GPU has (streams, graphs) is nothing in particular.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor

from convkit import backends
from convkit.backends import selection
from convkit.backends.base import RAW_OPS, Backend, Norm, NormSums
from convkit.testing.simt import Simt


def no_gpu() -> str | None:
    """None, or why tests marked ``gpu`` cannot run here."""
    if not torch.cuda.is_available():
        return "no CUDA device"
    return backends.get("native").supports("avg_pool", torch.float32, torch.device("cuda", 0), None)


def memory(t: Tensor) -> Tensor:
    """The whole memory a tensor lives in, gaps included, as bytes."""
    return torch.empty(0, dtype=torch.uint8, device=t.device).set_(t.untyped_storage())


def move(t: Tensor, device: torch.device) -> Tensor:
    """A copy elsewhere with all of its memory: equal strides, offset and what lies between the elements."""
    copied = memory(t).to(device, copy=True).untyped_storage()
    return torch.empty(0, dtype=t.dtype, device=device).set_(copied, t.storage_offset(), t.shape, t.stride())


def mapped(f: Callable[[Tensor], Tensor], argument: Any) -> Any:
    """An argument of a raw operation, with ``f`` of each of its tensors."""
    if isinstance(argument, (Norm, NormSums)):
        return type(argument)(*(mapped(f, a) for a in argument))
    return f(argument) if isinstance(argument, Tensor) else argument


@contextmanager
def filled_memory() -> Iterator[None]:
    """Within it torch fills fresh memory with NaN, so that elements that a kernel forgets show."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    # torch.use_deterministic_algorithms sets this too, but imports the compiler, which takes seconds.
    torch._C._set_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch._C._set_deterministic_algorithms(before[0], warn_only=before[1])


class Elsewhere(Backend):
    """A backend for CPU tensors that copies them to a device, runs another backend there and brings back the results.

    It checks that the results lie there and that arguments are left alone.
    """

    def __init__(self, backend: Backend, device: torch.device) -> None:
        self.name = "simt"  # to the oracle: CPU tensors, and the arithmetic of a GPU
        self._backend, self._device = backend, device

    def algorithms(self) -> tuple[str, ...]:
        return self._backend.algorithms()

    def supports(self, op: str, dtype: torch.dtype, device: torch.device, spec: Any) -> str | None:
        return self._backend.supports(op, dtype, self._device, spec)

    def __getattribute__(self, name: str) -> Any:
        if name not in RAW_OPS:
            return super().__getattribute__(name)

        def run(**arguments: Any) -> Any:
            before = []

            def there(n: str, t: Tensor) -> Tensor:
                t = move(t, self._device)
                before.append((n, t, memory(t).clone()))
                return t

            moved = {n: mapped(partial(there, n), a) for n, a in arguments.items()}
            with filled_memory():
                results = getattr(self._backend, name)(**moved)
            for n, t, content in before:
                assert torch.equal(memory(t), content), f"{name} wrote to {n}"
            together = results if isinstance(results, tuple) else (results,)
            assert all(r.device == self._device for r in together), [r.device for r in together]
            back = tuple(move(r, torch.device("cpu")) for r in together)
            return back if isinstance(results, tuple) else back[0]

        return run


class Place:
    """``cuda`` or ``simt``: a device, and the backend whose kernels run there."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_gpu = name == "cuda"
        self.backend: Backend = backends.get("native") if self.is_gpu else Simt()
        self.device = torch.device("cuda", 0) if self.is_gpu else torch.device("cpu")
        self.from_cpu = Elsewhere(self.backend, self.device)

    def refusal(self) -> str | None:
        """None, or why nothing runs here."""
        return no_gpu() if self.is_gpu else self.backend.available()

    def supports(self, op: str, dtype: torch.dtype = torch.float32) -> bool:
        return self.backend.supports(op, dtype, self.device, None) is None

    def wait(self) -> None:
        if self.is_gpu:
            torch.cuda.synchronize(self.device)

    def other_stream(self) -> AbstractContextManager[Any]:
        """Within it another stream is the current one."""
        return torch.cuda.stream(torch.cuda.Stream(self.device)) if self.is_gpu else nullcontext()

    def delay(self) -> None:
        """Keeps the current stream busy for some 50 ms."""
        if self.is_gpu:
            torch.cuda._sleep(100_000_000)

    def captured(self, function: Callable[[], tuple[Tensor, ...]]) -> tuple[Callable[[], None], tuple[Tensor, ...]]:
        """What replays a function of no arguments, and the tensors in which its results then lie."""
        if not self.is_gpu:
            results = function()

            def again() -> None:
                for old, new in zip(results, function()):
                    old.copy_(new)

            return again, results
        with self.other_stream():
            function()  # loads the kernels
        self.wait()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            results = function()
        return graph.replay, results

    @contextmanager
    def chosen(self) -> Iterator[None]:
        """Within it convkit's functions run this place's kernels, or refuse."""
        backends.register(self.backend)
        try:
            with backends.backend(self.backend.name):
                yield
        finally:
            if not self.is_gpu:
                del selection._backends[self.backend.name]
                selection._choose.cache_clear()
