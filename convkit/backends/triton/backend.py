"""Backend ``triton``, as the registry knows it: what it can run, and the way to its kernels."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from convkit.backends import flops
from convkit.backends.base import RAW_OPS, Backend, Norm, NormSums
from convkit.backends.triton import machine, operators, tiles
from convkit.problem import ConvSpec, PoolSpec, pack_conv, pack_pool

FLOATING: tuple[torch.dtype, ...] = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
HALF_OR_SINGLE: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16, torch.float16)
INTEGRAL: tuple[torch.dtype, ...] = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
CONVOLUTIONS = ("conv_fprop", "conv_dgrad", "conv_wgrad", "conv_bgrad")
CHOOSING = ("max_pool", "pool_select", "pool_select_bwd", "pool_indices")

_compiling = torch.compiler.is_compiling
_modes: Callable[[], int] = getattr(torch._C, "_len_torch_dispatch_stack", lambda: 0)


def _seen() -> bool:
    """Whether torch has to see which operation runs: it traces a graph, or is in a mode that is told of each."""
    return _compiling() or _modes() > 0


def _alpha(spec: ConvSpec) -> float:
    # Not read where it does not matter: torch.compile makes a symbol of a float.
    return spec.alpha if spec.activation else 0.0


class Triton(Backend):
    name = "triton"

    def __init__(self) -> None:
        # A counter knows the operators that have a formula when it is made, maybe before the first call.
        flops.when_imported(flops.COUNTER, lambda counter: operators.register())

    def available(self) -> str | None:
        return machine.obstacle()

    def supports(
        self, op: str, dtype: torch.dtype, device: torch.device, spec: ConvSpec | PoolSpec | None
    ) -> str | None:
        if device.type != machine.device_type():
            return f"no Triton kernels for {device.type} tensors"
        if op not in RAW_OPS:
            return f"no Triton kernel for {op}"
        if op in CHOOSING:
            allowed = FLOATING + INTEGRAL
        elif op.startswith("avg"):
            allowed = (*FLOATING, torch.int64)
        elif op.startswith("lp"):
            allowed = HALF_OR_SINGLE
        else:
            allowed = FLOATING
        if dtype not in allowed:
            return f"no {op} kernel for {dtype}"
        if isinstance(spec, ConvSpec) and spec.padding_mode != 0:
            return "reads zero padding only"
        return None

    def algorithms(self) -> tuple[str, ...]:
        return tiles.ALGORITHMS

    def plan(
        self, op: str, a: Tensor, b: Tensor, size: tuple[int, ...], spec: ConvSpec, channels_last: bool
    ) -> str | None:
        w_side = (b.shape[1], b.shape[0]) if op != "conv_wgrad" else (b.shape[1] // spec.groups, a.shape[1])
        return tiles.algorithm(spec.algorithm, spec.groups, w_side[0], w_side[1] // spec.groups)

    @cached_property
    def _run(self) -> Any:
        """The functions of this module's kernels, imported with triton at the first use."""
        from convkit.backends.triton import operations

        return operations

    @property
    def _graph(self) -> Any:
        """The same as operators of torch, for graphs that are being traced, and for modes."""
        return torch.ops.convkit_triton

    @property
    def _ops(self) -> Any:
        """Where the operations are called whose arguments are the same in both: those without a spec or norm."""
        return self._graph if _seen() else self._run

    def conv_fprop(
        self,
        x: Tensor,
        w: Tensor,
        bias: Tensor | None,
        scale: Tensor | None,
        residual: Tensor | None,
        spec: ConvSpec,
        channels_last: bool,
    ) -> Tensor:
        if _seen():
            packed = pack_conv(spec, channels_last)
            return self._graph.conv_fprop(x, w, bias, scale, residual, packed, _alpha(spec))
        return self._run.conv_fprop(x, w, bias, scale, residual, spec, channels_last)

    def conv_dgrad(
        self,
        dy: Tensor,
        w: Tensor,
        bias: Tensor | None,
        scale: Tensor | None,
        residual: Tensor | None,
        input_size: tuple[int, ...],
        spec: ConvSpec,
        channels_last: bool,
    ) -> Tensor:
        if _seen():
            packed = pack_conv(spec, channels_last)
            return self._graph.conv_dgrad(dy, w, bias, scale, residual, input_size, packed, _alpha(spec))
        return self._run.conv_dgrad(dy, w, bias, scale, residual, input_size, spec, channels_last)

    def conv_wgrad(
        self, dy: Tensor, x: Tensor, kernel_size: tuple[int, ...], spec: ConvSpec, channels_last: bool
    ) -> Tensor:
        if _seen():
            return self._graph.conv_wgrad(dy, x, kernel_size, pack_conv(spec, channels_last))
        return self._run.conv_wgrad(dy, x, kernel_size, spec, channels_last)

    def conv_bgrad(self, dy: Tensor) -> Tensor:
        return self._ops.conv_bgrad(dy)

    def max_pool(self, x: Tensor, spec: PoolSpec, offsets: bool, channels_last: bool) -> tuple[Tensor, Tensor]:
        if _seen():
            return self._graph.max_pool(x, pack_pool(spec, channels_last), offsets)
        return self._run.max_pool(x, spec, offsets, channels_last)

    def pool_select(self, x: Tensor, offsets: Tensor, spec: PoolSpec, channels_last: bool) -> Tensor:
        if _seen():
            return self._graph.pool_select(x, offsets, pack_pool(spec, channels_last))
        return self._run.pool_select(x, offsets, spec, channels_last)

    def pool_select_bwd(
        self, dy: Tensor, offsets: Tensor, input_size: tuple[int, ...], spec: PoolSpec, channels_last: bool
    ) -> Tensor:
        if _seen():
            return self._graph.pool_select_bwd(dy, offsets, input_size, pack_pool(spec, channels_last))
        return self._run.pool_select_bwd(dy, offsets, input_size, spec, channels_last)

    def pool_indices(self, offsets: Tensor, input_size: tuple[int, ...], spec: PoolSpec, channels_last: bool) -> Tensor:
        if _seen():
            return self._graph.pool_indices(offsets, input_size, pack_pool(spec, channels_last))
        return self._run.pool_indices(offsets, input_size, spec, channels_last)

    def avg_pool(self, x: Tensor, spec: PoolSpec, channels_last: bool) -> Tensor:
        if _seen():
            return self._graph.avg_pool(x, pack_pool(spec, channels_last))
        return self._run.avg_pool(x, spec, channels_last)

    def avg_pool_bwd(self, dy: Tensor, input_size: tuple[int, ...], spec: PoolSpec, channels_last: bool) -> Tensor:
        if _seen():
            return self._graph.avg_pool_bwd(dy, input_size, pack_pool(spec, channels_last))
        return self._run.avg_pool_bwd(dy, input_size, spec, channels_last)

    def max_unpool(self, x: Tensor, indices: Tensor, output_size: tuple[int, ...], channels_last: bool) -> Tensor:
        return self._ops.max_unpool(x, indices, output_size, channels_last)

    def plane_gather(self, x: Tensor, indices: Tensor, channels_last: bool) -> Tensor:
        return self._ops.plane_gather(x, indices, channels_last)

    def plane_scatter(self, dy: Tensor, indices: Tensor, input_size: tuple[int, ...], channels_last: bool) -> Tensor:
        return self._ops.plane_scatter(dy, indices, input_size, channels_last)

    def fractional_max_pool(
        self,
        x: Tensor,
        samples: Tensor,
        kernel_size: tuple[int, ...],
        output_size: tuple[int, ...],
        with_indices: bool,
        channels_last: bool,
    ) -> tuple[Tensor, Tensor]:
        return self._ops.fractional_max_pool(x, samples, kernel_size, output_size, with_indices, channels_last)

    def stochastic_pool(self, x: Tensor, seed: Tensor, spec: PoolSpec, channels_last: bool) -> tuple[Tensor, Tensor]:
        if _seen():
            return self._graph.stochastic_pool(x, seed, pack_pool(spec, channels_last))
        return self._run.stochastic_pool(x, seed, spec, channels_last)

    def stochastic_mean(self, x: Tensor, spec: PoolSpec, channels_last: bool) -> Tensor:
        if _seen():
            return self._graph.stochastic_mean(x, pack_pool(spec, channels_last))
        return self._run.stochastic_mean(x, spec, channels_last)

    def stochastic_mean_bwd(self, dy: Tensor, x: Tensor, y: Tensor, spec: PoolSpec, channels_last: bool) -> Tensor:
        if _seen():
            return self._graph.stochastic_mean_bwd(dy, x, y, pack_pool(spec, channels_last))
        return self._run.stochastic_mean_bwd(dy, x, y, spec, channels_last)

    def lp_pool(
        self, x: Tensor, exponent: Tensor | None, spec: PoolSpec, p: float, norm: bool, channels_last: bool
    ) -> Tensor:
        if _seen():
            return self._graph.lp_pool(x, exponent, pack_pool(spec, channels_last), p, norm)
        return self._run.lp_pool(x, exponent, spec, p, norm, channels_last)

    def lp_pool_bwd(
        self,
        dy: Tensor,
        x: Tensor,
        y: Tensor,
        exponent: Tensor | None,
        spec: PoolSpec,
        p: float,
        norm: bool,
        channels_last: bool,
    ) -> Tensor:
        if _seen():
            return self._graph.lp_pool_bwd(dy, x, y, exponent, pack_pool(spec, channels_last), p, norm)
        return self._run.lp_pool_bwd(dy, x, y, exponent, spec, p, norm, channels_last)

    def conv_fprop_stats(
        self, x: Tensor, w: Tensor, bias: Tensor | None, spec: ConvSpec, channels_last: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        if _seen():
            return self._graph.conv_fprop_stats(x, w, bias, pack_conv(spec, channels_last))
        return self._run.conv_fprop_stats(x, w, bias, spec, channels_last)

    def bn_stats(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self._ops.bn_stats(x)

    def bn_act(self, x: Tensor, norm: Norm, channels_last: bool) -> Tensor:
        if _seen():
            return self._graph.bn_act(x, *norm.tensors, *norm.form, channels_last)
        return self._run.bn_act(x, norm, channels_last)

    def bn_act_bwd_reduce(self, dz: Tensor, x: Tensor, norm: Norm) -> tuple[Tensor, Tensor]:
        if _seen():
            return self._graph.bn_act_bwd_reduce(dz, x, *norm.tensors, *norm.form)
        return self._run.bn_act_bwd_reduce(dz, x, norm)

    def bn_act_bwd(
        self, dz: Tensor, x: Tensor, norm: Norm, sums: NormSums, with_residual: bool, channels_last: bool
    ) -> tuple[Tensor, Tensor]:
        if _seen():
            return self._graph.bn_act_bwd(dz, x, *norm.tensors, *sums, *norm.form, with_residual, channels_last)
        return self._run.bn_act_bwd(dz, x, norm, sums, with_residual, channels_last)
