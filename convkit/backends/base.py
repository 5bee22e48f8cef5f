"""The raw operations every backend offers, and how a backend says that it cannot run one.

All tensors are batched: (N, C, *spatial), filters (K, C/groups, *kernel), with 1 to 3 spatial
dimensions and any strides. ``channels_last`` is the memory layout of the result. Shapes were
validated by the caller; a backend computes, it does not differentiate.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from convkit.problem import ConvSpec, PoolSpec

RAW_OPS = (
    "conv_fprop",
    "conv_dgrad",
    "conv_wgrad",
    "conv_bgrad",
    "max_pool",
    "pool_select",
    "pool_select_bwd",
    "pool_indices",
    "avg_pool",
    "avg_pool_bwd",
    "max_unpool",
    "plane_gather",
    "plane_scatter",
    "fractional_max_pool",
    "stochastic_pool",
    "stochastic_mean",
    "stochastic_mean_bwd",
    "lp_pool",
    "lp_pool_bwd",
    "conv_fprop_stats",
    "bn_stats",
    "bn_act",
    "bn_act_bwd_reduce",
    "bn_act_bwd",
)
#: Those that take or give flat int64 indices: row-major positions in the plane of one sample and channel.
FLAT_OPS = ("max_unpool", "plane_gather", "plane_scatter", "fractional_max_pool")


def accumulate_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type sums are kept in, and the vectors of batch norms."""
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype


class Norm(NamedTuple):
    """act((x - mean) invstd weight + bias + residual): all but its x, in the order of the operators' arguments.

    Vectors (C,) in x's accumulate dtype, contiguous; the residual of x's shape and dtype. ``activation`` is an index
    into ``ACTIVATIONS``, ``alpha`` its parameter, as in :class:`ConvSpec`.
    """

    mean: Tensor
    invstd: Tensor
    weight: Tensor | None = None
    bias: Tensor | None = None
    residual: Tensor | None = None
    activation: int = 0
    alpha: float = 0.0

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None]:
        return self[:5]

    def with_affine(self, weight: Tensor | None, bias: Tensor | None) -> Norm:
        """``_replace``, in less time."""
        mean, invstd, _, _, residual, activation, alpha = self
        return Norm(mean, invstd, weight, bias, residual, activation, alpha)

    @property
    def form(self) -> tuple[int, float]:
        """(activation, alpha), with 0 for an alpha that does not matter: torch.compile makes a symbol of a float."""
        return (self.activation, self.alpha) if self.activation else (0, 0.0)


class NormSums(NamedTuple):
    """What the gradient of statistics needs: the sums of ``bn_act_bwd_reduce``, and over how many elements.

    Those of several processes, maybe. 0 elements: the statistics are constants, and the sums do not matter.
    """

    dbias: Tensor | None = None
    dweight: Tensor | None = None
    elements: int = 0  # the operators' ``count``


def bundled(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of an operator, by name, as the method of :class:`Backend` takes them."""
    rest = dict(arguments)
    if "mean" in rest:
        rest["norm"] = Norm(*(rest.pop(name) for name in Norm._fields))
    if "dbias" in rest:
        rest["sums"] = NormSums(*(rest.pop(name) for name in ("dbias", "dweight", "count")))
    return rest


def unbundled(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The other way round."""
    rest = dict(arguments)
    if "norm" in rest:
        rest.update(rest.pop("norm")._asdict())
    if "sums" in rest:
        rest.update(zip(("dbias", "dweight", "count"), rest.pop("sums")))
    return rest


class Backend:
    """One implementation of the raw operations. Subclasses override what they support."""

    name: str

    def available(self) -> str | None:
        """None, or the reason why this backend cannot run on this machine at all."""
        return None

    def supports(
        self, op: str, dtype: torch.dtype, device: torch.device, spec: ConvSpec | PoolSpec | None
    ) -> str | None:
        """None, or the reason why raw operation ``op`` cannot run on such tensors."""
        raise NotImplementedError

    def algorithms(self) -> tuple[str, ...]:
        """The algorithms that ``ConvSpec.algorithm`` can name: number i is the i-th of these, from 1."""
        return ()

    def plan(
        self, op: str, a: Tensor, b: Tensor, size: tuple[int, ...], spec: ConvSpec, channels_last: bool
    ) -> str | None:
        """The algorithm that ``op`` would run, or None: fprop of (x, w), dgrad of (dy, w), wgrad of (dy, x).

        ``size`` is dgrad's input size or wgrad's kernel size.
        """
        return None

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
        """y = act(conv(x, w) * scale[k] + bias[k] + residual), cross-correlation as in the lectures."""
        raise NotImplementedError

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
        """The adjoint of fprop in x (and transposed convolution): result (N, C, *input_size).

        bias, scale (over C) and residual act on the result as in fprop.
        """
        raise NotImplementedError

    def conv_wgrad(
        self, dy: Tensor, x: Tensor, kernel_size: tuple[int, ...], spec: ConvSpec, channels_last: bool
    ) -> Tensor:
        """The adjoint of fprop in w: result (K, C/groups, *kernel_size)."""
        raise NotImplementedError

    def conv_bgrad(self, dy: Tensor) -> Tensor:
        """Sum over batch and space: (N, K, *spatial) -> (K,)."""
        raise NotImplementedError

    def max_pool(self, x: Tensor, spec: PoolSpec, offsets: bool, channels_last: bool) -> tuple[Tensor, Tensor]:
        """(y, window offsets). Offset = row-major position of the chosen tap inside its (unclipped) window.

        Ties: the first tap wins. NaN wins, and the last NaN. Offsets are uint8/int16/int32 by
        ``problem.offset_bytes``, of y's shape and layout; an empty tensor where ``offsets`` is False.
        """
        raise NotImplementedError

    def pool_select(self, x: Tensor, offsets: Tensor, spec: PoolSpec, channels_last: bool) -> Tensor:
        """y[o] = x[the element that offsets[o] names]."""
        raise NotImplementedError

    def pool_select_bwd(
        self, dy: Tensor, offsets: Tensor, input_size: tuple[int, ...], spec: PoolSpec, channels_last: bool
    ) -> Tensor:
        """The adjoint of pool_select: result (N, C, *input_size), gathered, each element written once."""
        raise NotImplementedError

    def pool_indices(self, offsets: Tensor, input_size: tuple[int, ...], spec: PoolSpec, channels_last: bool) -> Tensor:
        """Window offsets to int64 indices, flat within the unpadded plane of ``input_size``."""
        raise NotImplementedError

    def avg_pool(self, x: Tensor, spec: PoolSpec, channels_last: bool) -> Tensor:
        """Window sum over the divisor of ``spec`` (override, padded window size, or real elements)."""
        raise NotImplementedError

    def avg_pool_bwd(self, dy: Tensor, input_size: tuple[int, ...], spec: PoolSpec, channels_last: bool) -> Tensor:
        """The adjoint of avg_pool: result (N, C, *input_size)."""
        raise NotImplementedError

    def max_unpool(self, x: Tensor, indices: Tensor, output_size: tuple[int, ...], channels_last: bool) -> Tensor:
        """y[indices[o]] = x[o], zero elsewhere: result (N, C, *output_size); of equal indices the last o counts.

        RuntimeError for an index outside of its plane.
        """
        raise NotImplementedError

    def plane_gather(self, x: Tensor, indices: Tensor, channels_last: bool) -> Tensor:
        """y[o] = x[indices[o]], of the indices' shape; 0 where an index lies outside of its plane."""
        raise NotImplementedError

    def plane_scatter(self, dy: Tensor, indices: Tensor, input_size: tuple[int, ...], channels_last: bool) -> Tensor:
        """The adjoint of plane_gather: result (N, C, *input_size), added in row-major order of o."""
        raise NotImplementedError

    def fractional_max_pool(
        self,
        x: Tensor,
        samples: Tensor,
        kernel_size: tuple[int, ...],
        output_size: tuple[int, ...],
        with_indices: bool,
        channels_last: bool,
    ) -> tuple[Tensor, Tensor]:
        """(y, int64 indices): maxima of windows that start where ``samples`` (>= N, C, dims), of x's dtype, say.

        Ties and NaN as in max_pool. Indices of y's shape and layout; an empty tensor where ``with_indices`` is False.
        """
        raise NotImplementedError

    def stochastic_pool(self, x: Tensor, seed: Tensor, spec: PoolSpec, channels_last: bool) -> tuple[Tensor, Tensor]:
        """(y, window offsets): of each window the first element whose cumulative sum exceeds u times the sum.

        Elements that are not positive count as 0. Sums add in row-major order, in float32 (float64 for float64); u
        is the upper 24 bits, over 2^24, of the first word of Philox4x32-10 at the output's position in a contiguous
        result, with the key ``seed`` (one int64 number, read on its device). So the choice is the same for every
        backend, layout and number of threads. An infinite sum: the element with which it becomes infinite; NaN wins,
        and the last NaN. Offsets as of max_pool; "none" (255 or -1), and y = 0, where nothing is positive.
        """
        raise NotImplementedError

    def stochastic_mean(self, x: Tensor, spec: PoolSpec, channels_last: bool) -> Tensor:
        """The expectation of stochastic_pool: sum x^2 / sum x over the positive elements, 0 where there are none."""
        raise NotImplementedError

    def stochastic_mean_bwd(self, dy: Tensor, x: Tensor, y: Tensor, spec: PoolSpec, channels_last: bool) -> Tensor:
        """The gradient of stochastic_mean, with result y: the sum of dy (2 x - y) / sum x over an element's windows.

        0 for elements that are not positive. Result of x's size, gathered, each element written once.
        """
        raise NotImplementedError

    def lp_pool(
        self, x: Tensor, exponent: Tensor | None, spec: PoolSpec, p: float, norm: bool, channels_last: bool
    ) -> Tensor:
        """y = (window sum of x^p)^(1/p). p is the one element of ``exponent`` where that is given.

        The sum is taken times (size of the window) / (its elements in the padded input), as PyTorch does where
        ceil_mode's windows hang over. ``norm``: of |x|^p, elements of the input only, and by way of |x| / m with m
        the window's largest |x| (smallest for p < 0), so that nothing overflows or underflows.
        The divisors of ``spec`` do not matter.
        """
        raise NotImplementedError

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
        """dx of y = lp_pool(x): x^(p-1) times the sum of dy y^(1-p) over the windows that read x; 0 where y is 0.

        ``norm``: sum of dy sign(x) (|x| / y)^(p-1), finite for finite operands, and 0 where x is 0.
        """
        raise NotImplementedError

    def conv_fprop_stats(
        self, x: Tensor, w: Tensor, bias: Tensor | None, spec: ConvSpec, channels_last: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(y, mean, var): y = conv_fprop of a spec without activation, and ``bn_stats`` of y as it is stored."""
        raise NotImplementedError

    def bn_stats(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(mean, var) of each channel of x (N, C, *spatial): vectors (C,) in x's accumulate dtype.

        That is float64 for float64, else float32, as are all per-channel vectors of the operations below. var is the
        biased variance, the mean of (x - mean)^2, computed without the square of the mean; NaN where N is 0.
        """
        raise NotImplementedError

    def bn_act(self, x: Tensor, norm: Norm, channels_last: bool) -> Tensor:
        """z = act((x - mean) invstd weight + bias + residual), rounded once."""
        raise NotImplementedError

    def bn_act_bwd_reduce(self, dz: Tensor, x: Tensor, norm: Norm) -> tuple[Tensor, Tensor]:
        """(dbias, dweight): the sums of g and of g (x - mean) invstd per channel, with g = dz act'(v).

        v, what the activation was given, is computed from x again. The derivative of relu at 0 is 0.
        """
        raise NotImplementedError

    def bn_act_bwd(
        self, dz: Tensor, x: Tensor, norm: Norm, sums: NormSums, with_residual: bool, channels_last: bool
    ) -> tuple[Tensor, Tensor]:
        """(dx, dresidual): dx = invstd weight (g - dbias / n - (x - mean) invstd dweight / n), g = dresidual.

        mean and invstd are the statistics of n = ``sums.elements`` elements per channel, and dbias and dweight sums
        over all of them. n = 0: dx = invstd weight g. dresidual is an empty tensor where ``with_residual`` is False.
        """
        raise NotImplementedError

    def bn_act_grad(
        self, dz: Tensor, x: Tensor, norm: Norm, elements: int, with_residual: bool, channels_last: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(dx, dresidual, dbias, dweight): ``bn_act_bwd`` with the sums of ``bn_act_bwd_reduce`` over ``elements``.

        One operation where a backend gains by that; not a raw one: this is what it does otherwise.
        """
        dbias, dweight = self.bn_act_bwd_reduce(dz, x, norm)
        sums = NormSums(dbias, dweight, elements)
        return *self.bn_act_bwd(dz, x, norm, sums, with_residual, channels_last), dbias, dweight
