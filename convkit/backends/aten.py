"""Backend ``aten``: PyTorch's own operators behind the same interface, to compare with. Never chosen automatically."""

from __future__ import annotations

from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from convkit.backends.base import Backend, Norm, accumulate_dtype
from convkit.backends.layout import OFFSET_DTYPES, in_layout
from convkit.backends.reference import Reference, apply_epilogue
from convkit.backends.reference.activations import activate
from convkit.problem import ConvSpec, PoolSpec, conv_output_size, conv_transpose_output_size, offset_bytes

_reference = Reference()
_ADAPTIVE = {
    2: {
        "avg": torch.ops.aten._adaptive_avg_pool2d,
        "avg_bwd": torch.ops.aten._adaptive_avg_pool2d_backward,
        "max": torch.ops.aten.adaptive_max_pool2d,
        "max_bwd": torch.ops.aten.adaptive_max_pool2d_backward,
    },
    3: {
        "avg": torch.ops.aten._adaptive_avg_pool3d,
        "avg_bwd": torch.ops.aten._adaptive_avg_pool3d_backward,
        "max": torch.ops.aten.adaptive_max_pool3d,
        "max_bwd": torch.ops.aten.adaptive_max_pool3d_backward,
    },
}
_AVG_BACKWARD = {2: torch.ops.aten.avg_pool2d_backward, 3: torch.ops.aten.avg_pool3d_backward}
_MAX_FORWARD = {2: torch.ops.aten.max_pool2d_with_indices, 3: torch.ops.aten.max_pool3d_with_indices}
_MAX_BACKWARD = {
    2: torch.ops.aten.max_pool2d_with_indices_backward,
    3: torch.ops.aten.max_pool3d_with_indices_backward,
}


def _like(t: Tensor, size: tuple[int, ...], channels_last: bool) -> Tensor:
    """A tensor of this size whose values do not matter: PyTorch reads its size and layout only."""
    return in_layout(t.new_empty(size), channels_last)


def _shared_padding(spec: ConvSpec) -> tuple[tuple[int, ...], list[int]]:
    """Symmetric padding, and what remains to be padded first, in F.pad's order (last dimension first)."""
    shared = tuple(map(min, spec.pad_before, spec.pad_after))
    extra = []
    for before, after, both in reversed(list(zip(spec.pad_before, spec.pad_after, shared))):
        extra += [before - both, after - both]
    return shared, extra


def _two_dimensional(spec: PoolSpec) -> PoolSpec:
    """A 1-d pool as a 2-d one of height 1: PyTorch's 1-d operators have no backward of their own."""
    return spec._replace(
        kernel_size=(1, *spec.kernel_size),
        stride=(1, *spec.stride),
        pad_before=(0, *spec.pad_before),
        pad_after=(0, *spec.pad_after),
        dilation=(1, *spec.dilation),
        output_size=(1, *spec.output_size) if spec.output_size else (),
    )


def _window_starts(length: int, out: int, dim: int, spec: PoolSpec, device: torch.device) -> Tensor:
    window = torch.arange(out, device=device)
    return window * length // out if spec.output_size else window * spec.stride[dim] - spec.pad_before[dim]


class Aten(Backend):
    name = "aten"

    def supports(
        self, op: str, dtype: torch.dtype, device: torch.device, spec: ConvSpec | PoolSpec | None
    ) -> str | None:
        if op.startswith("stochastic"):
            return "PyTorch has no stochastic pooling"
        if op.startswith("bn_act_bwd"):
            return "PyTorch's gradient of batch norm computes its sums itself"
        if isinstance(spec, ConvSpec):
            if spec.padding_mode:
                return "pads with zeros only"
            if spec.algorithm:
                return "has no algorithms to choose from"
        if isinstance(spec, PoolSpec) and spec.pad_before != spec.pad_after:
            return "pools with the same padding before and after only"
        if isinstance(spec, PoolSpec) and op.startswith("avg") and any(d != 1 for d in spec.dilation):
            return "has no dilation for avg_pool"
        if isinstance(spec, PoolSpec) and spec.output_size and not dtype.is_floating_point:
            return f"has no adaptive pooling for {dtype}"
        if isinstance(spec, PoolSpec) and 0 in spec.output_size:
            return "has no gradient of a pooling into nothing"
        plain = not isinstance(spec, PoolSpec) or not (any(spec.pad_before) or any(d != 1 for d in spec.dilation))
        if op.startswith("lp") and not plain:
            return "has neither padding nor dilation for lp_pool"
        if op == "conv_wgrad" and not (dtype.is_floating_point or dtype.is_complex):
            return f"no {op} for {dtype}"
        return _reference.supports(op, dtype, device, spec)

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
        padding, extra = _shared_padding(spec)
        if any(extra):
            x = F.pad(x, extra)
        plain = scale is None
        y = torch.convolution(
            x, w, bias if plain else None, spec.stride, padding, spec.dilation, False, [0] * len(padding), spec.groups
        )
        y = apply_epilogue(y, None if plain else bias, scale, residual, spec)
        return in_layout(y, channels_last)

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
        padding, extra = _shared_padding(spec)
        added = tuple(before + after for before, after in zip(extra[::2], extra[1::2]))[::-1]
        least = conv_transpose_output_size(tuple(dy.shape[2:]), tuple(w.shape[2:]), spec, added)
        missing = [size + more - had for size, more, had in zip(input_size, added, least)]
        dx = torch.convolution(dy, w, None, spec.stride, padding, spec.dilation, True, missing, spec.groups)
        if any(extra):
            dx = F.pad(dx, [-e for e in extra])
        return in_layout(apply_epilogue(dx, bias, scale, residual, spec), channels_last)

    def conv_wgrad(
        self, dy: Tensor, x: Tensor, kernel_size: tuple[int, ...], spec: ConvSpec, channels_last: bool
    ) -> Tensor:
        padding = spec.pad_before
        read = [
            (o - 1) * s + d * (k - 1) + 1 for o, s, d, k in zip(dy.shape[2:], spec.stride, spec.dilation, kernel_size)
        ]
        if spec.pad_before != spec.pad_after or tuple(dy.shape[2:]) != conv_output_size(
            tuple(x.shape[2:]), kernel_size, spec
        ):
            pads = [(before, r - before - n) for before, r, n in zip(spec.pad_before, read, x.shape[2:])]
            x, padding = F.pad(x, [p for pair in reversed(pads) for p in pair]), (0,) * len(pads)
        w = _like(dy, (dy.shape[1], x.shape[1] // spec.groups, *kernel_size), channels_last)
        dw = torch.ops.aten.convolution_backward(
            dy,
            x,
            w,
            None,
            spec.stride,
            padding,
            spec.dilation,
            False,
            [0] * len(padding),
            spec.groups,
            [False, True, False],
        )[1]
        return in_layout(dw, channels_last)

    def conv_bgrad(self, dy: Tensor) -> Tensor:
        return _reference.conv_bgrad(dy)

    def max_pool(self, x: Tensor, spec: PoolSpec, offsets: bool, channels_last: bool) -> tuple[Tensor, Tensor]:
        if x.dim() == 3:
            y, o = self.max_pool(x.unsqueeze(2), _two_dimensional(spec), offsets, False)
            return y.squeeze(2), o.squeeze(2)
        if spec.output_size:
            y, indices = _ADAPTIVE[x.dim() - 2]["max"](x, spec.output_size)
        else:
            y, indices = _MAX_FORWARD[x.dim() - 2](
                x, spec.kernel_size, spec.stride, spec.pad_before, spec.dilation, spec.ceil_mode
            )
        size, dtype = x.shape[2:], OFFSET_DTYPES[offset_bytes(spec.kernel_size)]
        offset = torch.zeros_like(indices)
        plane = prod(size)
        for d, (length, kernel) in enumerate(zip(size, spec.kernel_size)):
            plane //= length
            start = _window_starts(length, y.shape[2 + d], d, spec, x.device)
            start = start.view(-1, *(1,) * (len(size) - 1 - d))
            offset = offset * kernel + (indices // plane % length - start) // spec.dilation[d]
        kept = (offset if offsets else offset[:0]).to(dtype)
        return in_layout(y, channels_last), in_layout(kept, channels_last)

    def pool_select(self, x: Tensor, offsets: Tensor, spec: PoolSpec, channels_last: bool) -> Tensor:
        indices = self.pool_indices(offsets, tuple(x.shape[2:]), spec, False).flatten(2)
        y = x.flatten(2).gather(2, indices.clamp(min=0)).masked_fill(indices < 0, 0)
        return in_layout(y.view(offsets.shape), channels_last)

    def pool_select_bwd(
        self, dy: Tensor, offsets: Tensor, input_size: tuple[int, ...], spec: PoolSpec, channels_last: bool
    ) -> Tensor:
        if dy.dim() == 3:
            spec = _two_dimensional(spec)
            dx = self.pool_select_bwd(dy.unsqueeze(2), offsets.unsqueeze(2), (1, *input_size), spec, False)
            return dx.squeeze(2)
        indices = self.pool_indices(offsets, input_size, spec, channels_last)
        x = _like(dy, (*dy.shape[:2], *input_size), channels_last)
        if spec.output_size:
            dx = _ADAPTIVE[dy.dim() - 2]["max_bwd"](in_layout(dy, channels_last), x, indices)
            return in_layout(dx, channels_last)
        dx = _MAX_BACKWARD[dy.dim() - 2](
            in_layout(dy, channels_last),
            x,
            spec.kernel_size,
            spec.stride,
            spec.pad_before,
            spec.dilation,
            spec.ceil_mode,
            indices,
        )
        return in_layout(dx, channels_last)

    def pool_indices(self, offsets: Tensor, input_size: tuple[int, ...], spec: PoolSpec, channels_last: bool) -> Tensor:
        return _reference.pool_indices(offsets, input_size, spec, channels_last)

    def avg_pool(self, x: Tensor, spec: PoolSpec, channels_last: bool) -> Tensor:
        if x.dim() == 3:
            return self.avg_pool(x.unsqueeze(2), _two_dimensional(spec), False).squeeze(2)
        if spec.output_size:
            return in_layout(_ADAPTIVE[x.dim() - 2]["avg"](x, spec.output_size), channels_last)
        forward = F.avg_pool2d if x.dim() == 4 else F.avg_pool3d
        y = forward(
            x,
            spec.kernel_size,
            spec.stride,
            spec.pad_before,
            spec.ceil_mode,
            spec.count_include_pad,
            spec.divisor_override or None,
        )
        return in_layout(y, channels_last)

    def avg_pool_bwd(self, dy: Tensor, input_size: tuple[int, ...], spec: PoolSpec, channels_last: bool) -> Tensor:
        if dy.dim() == 3:
            return self.avg_pool_bwd(dy.unsqueeze(2), (1, *input_size), _two_dimensional(spec), False).squeeze(2)
        x = _like(dy, (*dy.shape[:2], *input_size), channels_last)
        if spec.output_size:
            return in_layout(_ADAPTIVE[dy.dim() - 2]["avg_bwd"](in_layout(dy, channels_last), x), channels_last)
        dx = _AVG_BACKWARD[dy.dim() - 2](
            in_layout(dy, channels_last),
            x,
            spec.kernel_size,
            spec.stride,
            spec.pad_before,
            spec.ceil_mode,
            spec.count_include_pad,
            spec.divisor_override or None,
        )
        return in_layout(dx, channels_last)

    def max_unpool(self, x: Tensor, indices: Tensor, output_size: tuple[int, ...], channels_last: bool) -> Tensor:
        size = list(output_size)
        if x.dim() == 3:
            y = torch.ops.aten.max_unpool2d(x.unsqueeze(-1), indices.unsqueeze(-1), [*size, 1]).squeeze(-1)
        elif x.dim() == 4:
            y = torch.ops.aten.max_unpool2d(x, indices, size)
        else:
            y = torch.ops.aten.max_unpool3d(x, indices, size, [1, 1, 1], [0, 0, 0])
        return in_layout(y, channels_last)

    def plane_gather(self, x: Tensor, indices: Tensor, channels_last: bool) -> Tensor:
        return _reference.plane_gather(x, indices, channels_last)

    def plane_scatter(self, dy: Tensor, indices: Tensor, input_size: tuple[int, ...], channels_last: bool) -> Tensor:
        return _reference.plane_scatter(dy, indices, input_size, channels_last)

    def fractional_max_pool(
        self,
        x: Tensor,
        samples: Tensor,
        kernel_size: tuple[int, ...],
        output_size: tuple[int, ...],
        with_indices: bool,
        channels_last: bool,
    ) -> tuple[Tensor, Tensor]:
        if x.dim() == 3:  # an image of height 1, whose first sample is the width's
            y, indices = torch.ops.aten.fractional_max_pool2d(
                x.unsqueeze(2), [1, *kernel_size], [1, *output_size], samples.expand(-1, -1, 2)
            )
            y, indices = y.squeeze(2), indices.squeeze(2)
        else:
            pool = torch.ops.aten.fractional_max_pool2d if x.dim() == 4 else torch.ops.aten.fractional_max_pool3d
            y, indices = pool(x, list(kernel_size), list(output_size), samples)
        kept = indices if with_indices else indices[:0]
        return in_layout(y, channels_last), in_layout(kept, channels_last)

    def lp_pool(
        self, x: Tensor, exponent: Tensor | None, spec: PoolSpec, p: float, norm: bool, channels_last: bool
    ) -> Tensor:
        if norm:
            raise RuntimeError("backend 'aten' cannot run lp_pool: PyTorch has semantics 'torch' only")
        function = getattr(F, f"lp_pool{x.dim() - 2}d")
        kernel_size = spec.kernel_size[0] if x.dim() == 3 else spec.kernel_size
        y = function(x, p if exponent is None else exponent.to(x.dtype), kernel_size, spec.stride, spec.ceil_mode)
        return in_layout(y, channels_last)

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
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            y = self.lp_pool(x, exponent, spec, p, norm, channels_last)
        return in_layout(torch.autograd.grad(y, x, dy)[0], channels_last)

    def conv_fprop_stats(
        self, x: Tensor, w: Tensor, bias: Tensor | None, spec: ConvSpec, channels_last: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        y = self.conv_fprop(x, w, bias, None, None, spec, channels_last)
        return y, *self.bn_stats(y)

    def bn_stats(self, x: Tensor) -> tuple[Tensor, Tensor]:
        wide = x.to(accumulate_dtype(x.dtype))
        var, mean = torch.var_mean(wide, (0, *range(2, x.dim())), correction=0)
        return mean, var

    def bn_act(self, x: Tensor, norm: Norm, channels_last: bool) -> Tensor:
        wide = x.to(norm.mean.dtype)
        v = F.batch_norm(wide, norm.mean, norm.invstd**-2, norm.weight, norm.bias, eps=0.0)
        if norm.residual is not None:
            v = v + norm.residual
        return in_layout(activate(v, *norm.form).to(x.dtype), channels_last)
