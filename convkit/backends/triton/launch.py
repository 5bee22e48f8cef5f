"""What every launcher needs: sizes and strides as three dimensions, the integers to count in, and the launch."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from contextvars import copy_context
from functools import lru_cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from convkit.backends import tuned
from convkit.backends.layout import result_strides
from convkit.backends.triton import search, tiles

Sizes = tuple[int, ...]


@triton.jit
def _nothing(x):
    pass


#: Kernels are interpreted (TRITON_INTERPRET=1 when triton was first imported) instead of compiled.
INTERPRETED = not isinstance(_nothing, triton.JITFunction)
if INTERPRETED:
    triton.knobs.runtime.interpret = True  # parts of triton that are imported later ask again


class Constants:
    """Compile-time constants of a kernel by name, nested where one of them is of this class.

    Triton keeps the fields of named tuples in its newer versions only. To the kernels these are attributes; equal
    constants make equal kernels, by their text.
    """

    def __init__(self, **values: Any) -> None:
        self._text = "_".join(f"{name}_{value!r}" for name, value in values.items()).replace("-", "m")
        for name, value in values.items():
            setattr(self, name, value if INTERPRETED else tl.constexpr(value))

    def __repr__(self) -> str:
        return self._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Constants) and self._text == other._text


#: 32-bit positions wrap around from here; what blocks reach beyond a tensor's end is left below it.
_WIDE = 2**31 - 2**20


def volume(sizes: Sizes) -> int:
    product = 1
    for size in sizes:
        product *= size
    return product


def spatial(sizes: Sizes, fill: int = 1) -> tuple[int, int, int]:
    """One to three sizes as (d, h, w)."""
    d, h, w = [fill] * (3 - len(sizes)) + list(sizes)
    return d, h, w


def in_five(stride: Sizes) -> Sizes:
    """The strides of a tensor with one to three spatial dimensions as (n, c, d, h, w)."""
    return (*stride[:2], *(0,) * (5 - len(stride)), *stride[2:])


def strides(t: Tensor) -> Sizes:
    """(n, c, d, h, w) strides of a tensor with one to three spatial dimensions."""
    return in_five(t.stride())


_strides = lru_cache(maxsize=4096)(result_strides)


def dense(like: Tensor, size: Sizes, channels_last: bool, dtype: torch.dtype | None = None) -> Tensor:
    """An unwritten result in the wanted layout."""
    return like.new_empty_strided(size, _strides(size, channels_last), dtype=dtype)


@lru_cache(maxsize=4096)
def is_wide(size: Sizes, stride: Sizes) -> bool:
    """Whether positions in such a tensor need 64 bits."""
    return sum((n - 1) * s for n, s in zip(size, stride)) >= _WIDE


def index_type(*tensors: Tensor | None) -> Any:
    """The integers in which positions in all of these are counted: 32 bits where they suffice."""
    for t in tensors:
        if t is not None and is_wide(t.shape, t.stride()):
            return tl.int64
    return tl.int32


#: Compiled kernels that ran, by all that a kernel is built for; what runs them again, and their constants.
_ready: dict[tuple[Any, ...], tuple[Callable[..., None], tuple[Any, ...]]] = {}
_MOST_READY = 4096


def anew(kernel: Any, programs: int, device: int, args: tuple[Any, ...], meta: dict[str, Any]) -> Any:
    """Runs a kernel by Triton's own way, which finds or compiles it; returns it compiled."""
    return kernel[(programs, 1, 1)](*args, **meta)


def again(kernel: Any, programs: int, device: int, args: tuple[Any, ...], meta: dict[str, Any]) -> None:
    """Runs a kernel; one that ran with equal arguments before without another look at them.

    Triton builds a kernel for the types of its arguments, for what it can tell of integers (1, multiples of 16) and of
    addresses (multiples of 16), and for its constants. Equal integers, types, alignments and constants: equal kernel.
    """
    key: list[Any] = [id(kernel), programs, device]
    for a in args:
        if type(a) is int or type(a) is tuple:
            key.append(a)
        else:
            key += a.dtype, a.data_ptr() % 16 == 0
    key += meta.values()
    found = _ready.get(whole := tuple(key))
    if found is not None:
        found[0](*args, *found[1])
        return
    compiled = anew(kernel, programs, device, args, meta)
    if len(_ready) >= _MOST_READY:
        _ready.clear()
    constants = tuple(meta[name] for name in kernel.arg_names[len(args) :])
    _ready[whole] = compiled[(programs, 1, 1)], constants


#: How kernels are run. Replaced where they are only to be compiled (tools/triton_aot.py).
runner: Callable[[Any, int, int, tuple[Any, ...], dict[str, Any]], Any] = anew if INTERPRETED else again


def _with_scratch(device: torch.device, *call: Any) -> None:
    def allocate(size: int, alignment: int, stream: int | None) -> Tensor:  # torch's are aligned to 512 bytes
        return torch.empty(size, dtype=torch.int8, device=device)

    triton.set_allocator(allocate)
    runner(*call)


def launch(kernel: Any, programs: int, like: Tensor, *args: Any, descriptors: bool = False, **meta: Any) -> None:
    """Runs a kernel on the device of ``like``; contraction of products and sums is off unless asked for.

    With ``descriptors`` the kernel makes some, in memory that Triton asks an allocator for. The allocator is a context
    variable, which other threads (a backward pass's) do not inherit and which may be the caller's: each launch has a
    context of its own.
    """
    meta.setdefault("enable_fp_fusion", False)
    device = like.device.index if like.is_cuda else 0
    call = (kernel, programs, device, args, meta)
    with torch.cuda.device(device) if like.is_cuda and device != torch.cuda.current_device() else nullcontext():
        if descriptors:
            copy_context().run(_with_scratch, like.device, *call)
        else:
            runner(*call)


def each_element(kernel: Any, result: Tensor, tensors: tuple[Tensor | None, ...], *args: Any, **meta: Any) -> None:
    """Runs a kernel that computes a result one element per lane; ``tensors`` are all that it counts positions in."""
    count = result.numel()
    if count == 0:
        return

    def run(block: tiles.Block) -> None:
        programs, index = tiles.cdiv(count, block.size), index_type(*tensors)
        launch(kernel, programs, result, *args, BLOCK=block.size, INDEX=index, num_warps=block.warps, **meta)

    def problem() -> str:
        order = "channels last" if meta.get("CHANNELS_LAST") else "rows"
        return f"{kernel.fn.__name__} {result.dtype} {order} {tuned.rounded(count)}"

    search.in_best(run, result.device, problem, tiles.block(count), tiles.blocks)
