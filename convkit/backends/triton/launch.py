"""What every launcher needs: sizes and strides as three dimensions, the integers to count in, and the launch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from convkit.backends.layout import result_strides
from convkit.backends.triton import tiles

Sizes = tuple[int, ...]


@triton.jit
def _nothing(x):
    pass


#: Kernels are interpreted (TRITON_INTERPRET=1 when triton was first imported) instead of compiled.
INTERPRETED = not isinstance(_nothing, triton.JITFunction)
if INTERPRETED:
    triton.knobs.runtime.interpret = True  # parts of triton that are imported later ask again

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


def strides(t: Tensor) -> tuple[int, ...]:
    """(n, c, d, h, w) strides of a tensor with one to three spatial dimensions."""
    s = t.stride()
    return (*s[:2], *(0,) * (5 - len(s)), *s[2:])


def dense(like: Tensor, size: Sizes, channels_last: bool, dtype: torch.dtype | None = None) -> Tensor:
    """An unwritten result in the wanted layout."""
    return like.new_empty_strided(size, result_strides(size, channels_last), dtype=dtype)


def index_type(*tensors: Tensor | None) -> Any:
    """The integers in which positions in all of these are counted: 32 bits where they suffice."""
    for t in tensors:
        if t is not None and sum((n - 1) * s for n, s in zip(t.shape, t.stride())) >= _WIDE:
            return tl.int64
    return tl.int32


def _run(kernel: Any, grid: tuple[int, ...], *args: Any, **meta: Any) -> None:
    kernel[grid](*args, **meta)


#: How kernels are run: replaced where they are only to be compiled (tools/triton_aot.py).
runner: Callable[..., None] = _run


def launch(kernel: Any, programs: int, like: Tensor, *args: Any, **meta: Any) -> None:
    """Runs a kernel on the device of ``like``; contraction of products and sums is off unless asked for."""
    meta.setdefault("enable_fp_fusion", False)
    if like.is_cuda and like.device.index != torch.cuda.current_device():
        with torch.cuda.device(like.device):
            runner(kernel, (programs,), *args, **meta)
    else:
        runner(kernel, (programs,), *args, **meta)


def each_element(kernel: Any, result: Tensor, tensors: tuple[Tensor | None, ...], *args: Any, **meta: Any) -> None:
    """Runs a kernel that computes a result one element per lane; ``tensors`` are all that it counts positions in."""
    count = result.numel()
    if count > 0:
        block = tiles.block(count)
        launch(
            kernel,
            triton.cdiv(count, block.size),
            result,
            *args,
            BLOCK=block.size,
            INDEX=index_type(*tensors),
            num_warps=block.warps,
            **meta,
        )
