"""Batch normalisation with an activation and a residual, and its gradient, by the formulas of ``Backend.bn_act``."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from convkit.backends.base import Norm, NormSums, accumulate_dtype
from convkit.backends.reference.activations import activate, activation_gradient
from convkit.backends.reference.convolution import ConvolutionReference
from convkit.backends.reference.windows import finish
from convkit.problem import ConvSpec


def over_channels(v: Tensor, like: Tensor) -> Tensor:
    """A vector (C,) in the shape in which it meets (N, C, *spatial)."""
    return v.view(1, -1, *(1,) * (like.dim() - 2))


def channel_sums(t: Tensor) -> Tensor:
    return t.sum((0, *range(2, t.dim())))


class Normalised:
    """x as the formulas need it: ``centred`` = x - mean, ``scale`` = invstd weight, ``v`` = what is activated."""

    def __init__(self, x: Tensor, norm: Norm) -> None:
        self.centred = x.to(norm.mean.dtype) - over_channels(norm.mean, x)
        self.invstd = over_channels(norm.invstd, x)
        self.scale = self.invstd if norm.weight is None else self.invstd * over_channels(norm.weight, x)
        self.v = self.centred * self.scale
        if norm.bias is not None:
            self.v = self.v + over_channels(norm.bias, x)
        if norm.residual is not None:
            self.v = self.v + norm.residual
        self._form = norm.form

    def activated(self) -> Tensor:
        return activate(self.v, *self._form)

    def gradient(self, dz: Tensor) -> Tensor:
        """g = dz act'(v)."""
        return activation_gradient(dz.to(self.v.dtype), self.v, *self._form)


class BatchNormReference(ConvolutionReference):
    def conv_fprop_stats(
        self, x: Tensor, w: Tensor, bias: Tensor | None, spec: ConvSpec, channels_last: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        y = self.conv_fprop(x, w, bias, None, None, spec, channels_last)
        return y, *self.bn_stats(y)

    def bn_stats(self, x: Tensor) -> tuple[Tensor, Tensor]:
        wide = x.to(accumulate_dtype(x.dtype))
        count = x.shape[0] * prod(x.shape[2:])
        mean = channel_sums(wide) / count
        return mean, channel_sums((wide - over_channels(mean, x)) ** 2) / count

    def bn_act(self, x: Tensor, norm: Norm, channels_last: bool) -> Tensor:
        return finish(Normalised(x, norm).activated(), x.dtype, channels_last)

    def bn_act_bwd_reduce(self, dz: Tensor, x: Tensor, norm: Norm) -> tuple[Tensor, Tensor]:
        normalised = Normalised(x, norm)
        g = normalised.gradient(dz)
        return channel_sums(g), channel_sums(g * normalised.centred) * norm.invstd

    def bn_act_bwd(
        self, dz: Tensor, x: Tensor, norm: Norm, sums: NormSums, with_residual: bool, channels_last: bool
    ) -> tuple[Tensor, Tensor]:
        normalised = Normalised(x, norm)
        share = g = normalised.gradient(dz)
        dbias, dweight, count = sums
        if dbias is not None and dweight is not None and count != 0:
            hat = normalised.centred * normalised.invstd
            share = g - over_channels(dbias, x) / count - hat * over_channels(dweight, x) / count
        dresidual = g if with_residual else torch.empty_like(g[:0])
        dx = finish(share * normalised.scale, x.dtype, channels_last)
        return dx, finish(dresidual, x.dtype, channels_last)
