"""Backend ``native``: the compiled kernels, C++ on CPU tensors and CUDA on GPU tensors."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from convkit.backends import batching, fake, flops, gpu
from convkit.backends.base import FLAT_OPS, Backend, Norm, NormSums
from convkit.build_info import LIBRARY
from convkit.problem import ConvSpec, PoolSpec, pack_conv, pack_pool

Dtypes = tuple[torch.dtype, ...]
FLOATING: Dtypes = gpu.FLOATING
INTEGRAL: Dtypes = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
COMPLEX: Dtypes = (torch.complex64, torch.complex128)
CONV_OPS = ("conv_fprop", "conv_dgrad", "conv_wgrad")  # as the library numbers them
#: All operators of the library that are called here.
OPERATORS = (*(kernel.__name__ for kernel in fake.KERNELS), "conv_plan")


@lru_cache  # torch 2.10 refuses a second fake kernel of an operator
def _load(library: Path, namespace: str) -> str | None:
    """Loads a library of operators, once; None, or the reason why it cannot be."""
    if not library.exists():
        return f"the compiled library {library.name} is not installed"
    try:
        torch.ops.load_library(library)
    except OSError as error:
        return f"the compiled library does not load: {error}"
    missing = [op for op in OPERATORS if not hasattr(getattr(torch.ops, namespace), op)]
    if missing:
        return f"the compiled library is of another version, without {missing[0]}: build it again"
    fake.register(namespace)
    flops.register(namespace)
    batching.register(namespace, OPERATORS)
    return None


_pack_conv = lru_cache(maxsize=1024)(pack_conv)
_pack_pool = lru_cache(maxsize=1024)(pack_pool)


def _conv_list(spec: ConvSpec, channels_last: bool) -> list[int]:
    # Specs that are being traced may hold symbolic integers, which have no hash.
    return pack_conv(spec, channels_last) if torch.compiler.is_compiling() else _pack_conv(spec, channels_last)


def _pool_list(spec: PoolSpec, channels_last: bool) -> list[int]:
    return pack_pool(spec, channels_last) if torch.compiler.is_compiling() else _pack_pool(spec, channels_last)


def _alpha(spec: ConvSpec) -> float:
    # Not read where it does not matter: torch.compile makes a symbol of a float.
    return spec.alpha if spec.activation else 0.0


class Native(Backend):
    name = "native"
    namespace = "convkit"
    binary = LIBRARY
    # The functions of the library that list the algorithms of a type of device.
    tables: Mapping[str, str] = {"cpu": "convkit_algorithms", "cuda": "convkit_gpu_algorithms"}

    def __init__(self) -> None:
        self._reason = _load(self.binary, self.namespace)
        self._names: dict[str, tuple[str, ...]] = {}
        if self._reason is None:
            self._names = {device: gpu.lines(self.binary, table) for device, table in self.tables.items()}
            ops = getattr(torch.ops, self.namespace)
            self._fprop = ops.conv_fprop.default
            self._dgrad = ops.conv_dgrad.default
            self._wgrad = ops.conv_wgrad.default
            self._bgrad = ops.conv_bgrad.default
            self._max_pool = ops.max_pool.default
            self._select = ops.pool_select.default
            self._select_bwd = ops.pool_select_bwd.default
            self._indices = ops.pool_indices.default
            self._avg_pool = ops.avg_pool.default
            self._avg_pool_bwd = ops.avg_pool_bwd.default
            self._max_unpool = ops.max_unpool.default
            self._plane_gather = ops.plane_gather.default
            self._plane_scatter = ops.plane_scatter.default
            self._fractional_max_pool = ops.fractional_max_pool.default
            self._stochastic_pool = ops.stochastic_pool.default
            self._stochastic_mean = ops.stochastic_mean.default
            self._stochastic_mean_bwd = ops.stochastic_mean_bwd.default
            self._lp_pool = ops.lp_pool.default
            self._lp_pool_bwd = ops.lp_pool_bwd.default
            self._conv_fprop_stats = ops.conv_fprop_stats.default
            self._bn_stats = ops.bn_stats.default
            self._bn_act = ops.bn_act.default
            self._bn_act_bwd_reduce = ops.bn_act_bwd_reduce.default
            self._bn_act_bwd = ops.bn_act_bwd.default
            self._bn_act_grad = ops.bn_act_grad.default
            self._plan = ops.conv_plan.default

    def available(self) -> str | None:
        return self._reason

    def algorithms(self) -> tuple[str, ...]:
        """Those for CPU tensors first, with the library's numbers, then those that GPUs alone have."""
        return tuple(dict.fromkeys(name for names in self._names.values() for name in names))

    def algorithms_of(self, device: str) -> tuple[str, ...]:
        """Those for one type of device, in its table's order."""
        return self._names.get(device, ())

    def _conv_list(self, spec: ConvSpec, channels_last: bool, x: Tensor) -> list[int]:
        if x.is_cuda:
            if spec.algorithm:  # its kernels have numbers of their own
                spec = spec._replace(algorithm=self._number_on_gpu(spec.algorithm))
            if x.dtype == torch.float32 and gpu.tf32_allowed():
                spec = spec._replace(allow_tf32=True)
        return _conv_list(spec, channels_last)

    def _number_on_gpu(self, number: int) -> int:
        name = self.algorithms()[number - 1]
        if name not in self.algorithms_of("cuda"):
            raise RuntimeError(f"convkit: {name} has no GPU kernel")
        return self.algorithms_of("cuda").index(name) + 1

    def plan(
        self, op: str, a: Tensor, b: Tensor, size: tuple[int, ...], spec: ConvSpec, channels_last: bool
    ) -> str | None:
        number = self._plan(CONV_OPS.index(op), a, b, size, self._conv_list(spec, channels_last, a))
        return self.algorithms_of(a.device.type)[number - 1] if number else None

    def supports(
        self, op: str, dtype: torch.dtype, device: torch.device, spec: ConvSpec | PoolSpec | None
    ) -> str | None:
        if self._reason is not None:
            return self._reason
        if device.type == "cuda":
            reason = gpu.unusable(self.binary, device) or gpu.lacks_kernel(self.binary, op, dtype)
            if reason is not None:
                return reason
        elif device.type not in ("cpu", "meta"):  # the fake kernels serve meta tensors
            return f"no compiled kernels for {device.type} tensors"
        if (reason := self._lacks(op, dtype)) is not None:
            return reason
        if not isinstance(spec, ConvSpec):
            return None
        if spec.padding_mode != 0:
            return "reads zero padding only"
        if spec.algorithm > 0 and device.type != "meta":
            name = self.algorithms()[spec.algorithm - 1]
            if name not in self.algorithms_of(device.type):
                return f"algorithm {name!r} has no kernel for {device.type} tensors"
        return None

    def _lacks(self, op: str, dtype: torch.dtype) -> str | None:
        """None, or why no kernel of any device computes ``op`` in ``dtype``."""
        if op.startswith(("lp", "bn")) or op == "conv_fprop_stats":
            allowed = FLOATING
        elif op.startswith("conv"):
            allowed = FLOATING + INTEGRAL + COMPLEX
        elif op.startswith("avg"):
            allowed = (*FLOATING, torch.int64)
        elif op in FLAT_OPS or op.startswith("stochastic"):
            allowed = FLOATING
        else:
            allowed = FLOATING + INTEGRAL
        return None if dtype in allowed else f"no {op} kernel for {dtype}"

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
        return self._fprop(x, w, bias, scale, residual, self._conv_list(spec, channels_last, x), _alpha(spec))

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
        packed = self._conv_list(spec, channels_last, dy)
        return self._dgrad(dy, w, bias, scale, residual, input_size, packed, _alpha(spec))

    def conv_wgrad(
        self, dy: Tensor, x: Tensor, kernel_size: tuple[int, ...], spec: ConvSpec, channels_last: bool
    ) -> Tensor:
        return self._wgrad(dy, x, kernel_size, self._conv_list(spec, channels_last, dy))

    def conv_bgrad(self, dy: Tensor) -> Tensor:
        return self._bgrad(dy)

    def max_pool(self, x: Tensor, spec: PoolSpec, offsets: bool, channels_last: bool) -> tuple[Tensor, Tensor]:
        return self._max_pool(x, _pool_list(spec, channels_last), offsets)

    def pool_select(self, x: Tensor, offsets: Tensor, spec: PoolSpec, channels_last: bool) -> Tensor:
        return self._select(x, offsets, _pool_list(spec, channels_last))

    def pool_select_bwd(
        self, dy: Tensor, offsets: Tensor, input_size: tuple[int, ...], spec: PoolSpec, channels_last: bool
    ) -> Tensor:
        return self._select_bwd(dy, offsets, input_size, _pool_list(spec, channels_last))

    def pool_indices(self, offsets: Tensor, input_size: tuple[int, ...], spec: PoolSpec, channels_last: bool) -> Tensor:
        return self._indices(offsets, input_size, _pool_list(spec, channels_last))

    def avg_pool(self, x: Tensor, spec: PoolSpec, channels_last: bool) -> Tensor:
        return self._avg_pool(x, _pool_list(spec, channels_last))

    def avg_pool_bwd(self, dy: Tensor, input_size: tuple[int, ...], spec: PoolSpec, channels_last: bool) -> Tensor:
        return self._avg_pool_bwd(dy, input_size, _pool_list(spec, channels_last))

    def max_unpool(self, x: Tensor, indices: Tensor, output_size: tuple[int, ...], channels_last: bool) -> Tensor:
        return self._max_unpool(x, indices, output_size, channels_last)

    def plane_gather(self, x: Tensor, indices: Tensor, channels_last: bool) -> Tensor:
        return self._plane_gather(x, indices, channels_last)

    def plane_scatter(self, dy: Tensor, indices: Tensor, input_size: tuple[int, ...], channels_last: bool) -> Tensor:
        return self._plane_scatter(dy, indices, input_size, channels_last)

    def fractional_max_pool(
        self,
        x: Tensor,
        samples: Tensor,
        kernel_size: tuple[int, ...],
        output_size: tuple[int, ...],
        with_indices: bool,
        channels_last: bool,
    ) -> tuple[Tensor, Tensor]:
        return self._fractional_max_pool(x, samples, kernel_size, output_size, with_indices, channels_last)

    def stochastic_pool(self, x: Tensor, seed: Tensor, spec: PoolSpec, channels_last: bool) -> tuple[Tensor, Tensor]:
        return self._stochastic_pool(x, seed, _pool_list(spec, channels_last))

    def stochastic_mean(self, x: Tensor, spec: PoolSpec, channels_last: bool) -> Tensor:
        return self._stochastic_mean(x, _pool_list(spec, channels_last))

    def stochastic_mean_bwd(self, dy: Tensor, x: Tensor, y: Tensor, spec: PoolSpec, channels_last: bool) -> Tensor:
        return self._stochastic_mean_bwd(dy, x, y, _pool_list(spec, channels_last))

    def lp_pool(
        self, x: Tensor, exponent: Tensor | None, spec: PoolSpec, p: float, norm: bool, channels_last: bool
    ) -> Tensor:
        return self._lp_pool(x, exponent, _pool_list(spec, channels_last), p, norm)

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
        return self._lp_pool_bwd(dy, x, y, exponent, _pool_list(spec, channels_last), p, norm)

    def conv_fprop_stats(
        self, x: Tensor, w: Tensor, bias: Tensor | None, spec: ConvSpec, channels_last: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        return self._conv_fprop_stats(x, w, bias, self._conv_list(spec, channels_last, x))

    def bn_stats(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self._bn_stats(x)

    def bn_act(self, x: Tensor, norm: Norm, channels_last: bool) -> Tensor:
        return self._bn_act(x, *norm.tensors, *norm.form, channels_last)

    def bn_act_bwd_reduce(self, dz: Tensor, x: Tensor, norm: Norm) -> tuple[Tensor, Tensor]:
        return self._bn_act_bwd_reduce(dz, x, *norm.tensors, *norm.form)

    def bn_act_bwd(
        self, dz: Tensor, x: Tensor, norm: Norm, sums: NormSums, with_residual: bool, channels_last: bool
    ) -> tuple[Tensor, Tensor]:
        return self._bn_act_bwd(dz, x, *norm.tensors, *sums, *norm.form, with_residual, channels_last)

    def bn_act_grad(
        self, dz: Tensor, x: Tensor, norm: Norm, elements: int, with_residual: bool, channels_last: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self._bn_act_grad(dz, x, *norm.tensors, elements, *norm.form, with_residual, channels_last)
