"""ConvBNReLU1d, ConvBNReLU2d, ConvBNReLU3d, and the call that fused models make of a convolution and a batch norm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from convkit.autograd.activations import activate
from convkit.autograd.function import differentiable
from convkit.functional.batch_norm import BatchNorm, conv_bn_act
from convkit.functional.convolution import Prepared, prepare_conv, prepare_conv_transpose
from convkit.functional.fused import MAXOUT, activation_number
from convkit.functional.fused import conv_act as one_kernel
from convkit.functional.maxout import check_divides, check_pieces, maxout
from convkit.nn.convolution import Conv1d, Conv2d, Conv3d
from convkit.nn.options import Options
from convkit.nn.transposed import ConvTranspose1d, ConvTranspose2d, ConvTranspose3d

CONVOLUTIONS: dict[type, int] = {
    torch.nn.Conv1d: 1,
    torch.nn.Conv2d: 2,
    torch.nn.Conv3d: 3,
    Conv1d: 1,
    Conv2d: 2,
    Conv3d: 3,
    torch.nn.ConvTranspose1d: 1,
    torch.nn.ConvTranspose2d: 2,
    torch.nn.ConvTranspose3d: 3,
    ConvTranspose1d: 1,
    ConvTranspose2d: 2,
    ConvTranspose3d: 3,
}
NORMS: dict[type, int] = {torch.nn.BatchNorm1d: 1, torch.nn.BatchNorm2d: 2, torch.nn.BatchNorm3d: 3}


def hooked(module: torch.nn.Module) -> bool:
    """Whether a call of ``module`` does more than its class's forward: hooks, or a forward of its own."""
    own = vars(module)
    hooks = own["_forward_hooks"] or own["_forward_pre_hooks"] or own["_backward_hooks"] or own["_backward_pre_hooks"]
    return bool(hooks) or "forward" in own


_any_global_hook: Callable[[], bool] = getattr(torch.nn.modules.module, "_has_any_global_hook", lambda: False)


def watched() -> bool:
    """Whether hooks of all modules are registered, as profilers do."""
    return not torch.compiler.is_compiling() and _any_global_hook()


#: What a class must not define anew, for a call to do what its base class's does.
_CALLED = ("forward", "__call__", "__getattr__", "_call_impl", "_conv_forward", "_output_padding", "_check_input_dim")


def base(module: torch.nn.Module, kinds: dict[type, int]) -> type | None:
    """The class of ``kinds`` whose forward a call of ``module`` runs: its own, or that of a subclass that adds none."""
    for kind in type(module).__mro__:
        if kind in kinds:
            return kind
        if any(name in vars(kind) for name in _CALLED):
            return None
    return None


def fusable(conv: Any, bn: Any, x: Tensor) -> bool:
    """Whether calling ``conv``, then ``bn``, does what one operation can: no hooks, and a batch that is not empty.

    ``bn`` is None where nothing normalises.
    """
    if base(conv, CONVOLUTIONS) is None or hooked(conv) or watched():
        return False
    if bn is not None and (base(bn, NORMS) is None or hooked(bn)):
        return False
    return x.dim() == len(conv.kernel_size) + 2 and x.numel() > 0


def conv_act(conv: Any, x: Tensor, residual: Any, activation: tuple[int, float]) -> Tensor:
    """activation(conv(x) + residual): one kernel where no derivative is wanted and it can, the layers otherwise."""
    operands = x, conv.weight, conv.bias, residual if isinstance(residual, Tensor) else None
    if fusable(conv, None, x) and x.is_floating_point() and not differentiable(*operands):
        return one_kernel(_prepare(conv, x), conv.transposed, residual, activation, _backend(conv))
    y = conv(x)
    return activate(y if residual is None else y + residual, *activation)


def conv_norm_act(
    conv: Any, bn: Any, x: Tensor, residual: Tensor | None, activation: tuple[int, float], group: Any = None
) -> Tensor:
    """activation(bn(conv(x)) + residual), with all that a call of torch.nn's two modules does.

    ``conv``: a (transposed) convolution of torch.nn or convkit.nn; ``bn``: a batch norm of torch.nn of as many
    dimensions. ``group``: of processes whose statistics are taken together in training.
    """
    if not fusable(conv, bn, x):
        if group is not None and bn.training:
            raise RuntimeError(
                "process_group: statistics over several processes are taken of batched input that is not empty, and "
                "of submodules conv and bn of their own classes, without hooks"
            )
        y = bn(conv(x))
        return activate(y if residual is None else y + residual, *activation)
    prepared = _prepare(conv, x)  # raises before the batch is counted, as the convolution does
    training = bn.training or (bn.running_mean is None and bn.running_var is None)
    momentum = _momentum(bn)
    keeps = not bn.training or bn.track_running_stats
    mean, var = (bn.running_mean, bn.running_var) if keeps else (None, None)
    norm = BatchNorm(mean, var, bn.weight, bn.bias, training, momentum, bn.eps, group)
    return conv_bn_act(prepared, conv.transposed, norm, residual, activation, _backend(conv))


def _backend(conv: Any) -> str | None:
    """What a layer of convkit.nn was made or converted with."""
    name: str | None = getattr(conv, "backend", None)
    return name


def _prepare(conv: Any, x: Tensor) -> Prepared:
    ndim = len(conv.kernel_size)
    strict = getattr(conv, "strict", False)
    if conv.transposed:
        if conv.padding_mode != "zeros":
            raise ValueError(f"Only `zeros` padding mode is supported for ConvTranspose{ndim}d")
        settings = conv.stride, conv.padding, conv.output_padding, conv.groups, conv.dilation, strict
        return prepare_conv_transpose(f"conv_transpose{ndim}d", ndim, x, conv.weight, conv.bias, *settings)
    settings = conv.stride, conv.padding, conv.dilation, conv.groups, conv.padding_mode, strict
    return prepare_conv(f"conv{ndim}d", ndim, x, conv.weight, conv.bias, *settings)


def _momentum(bn: Any) -> float:
    """The weight of this batch in the running statistics; counts the batch, as torch.nn.BatchNorm's forward does."""
    if bn.training and bn.track_running_stats and bn.num_batches_tracked is not None:
        bn.num_batches_tracked.add_(1)
        if bn.momentum is None:
            return 1.0 / float(bn.num_batches_tracked)
    return 0.0 if bn.momentum is None else float(bn.momentum)


class FusedLayer(Options):
    """A convolution, batch norm, an optional residual, and an activation, computed together.

    The convolution and the norm are the submodules ``conv`` and ``bn``, with torch.nn's parameters, buffers and
    initialisation. In training the statistics come out of the convolution, and of its result and the layer's only the
    first is kept for backward; in evaluation without gradients all is one kernel.

    Beyond the arguments of the convolution (its bias is off by default) and of the norm: ``activation`` and its
    ``alpha`` or ``pieces`` as in functional.fused_conv2d, None for none; ``process_group``: statistics over the
    processes of this torch.distributed group, as torch.nn.SyncBatchNorm takes them. Hooks of the submodules are
    called; the layer then runs them one after the other.
    """

    _convolution: type[torch.nn.Module]
    _norm: type[torch.nn.Module]
    _shown = ()

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = False,
        padding_mode: Any = "zeros",
        device: Any = None,
        dtype: Any = None,
        *,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        activation: str | None = "relu",
        alpha: float | None = None,
        pieces: int = 2,
        process_group: Any = None,
        strict: bool = False,
        backend: str | None = None,
    ) -> None:
        super().__init__()
        self._activation = activation_number(activation, alpha)
        self.activation, self.alpha, self.pieces, self.process_group = activation, alpha, pieces, process_group
        if activation == MAXOUT:
            check_pieces(type(self).__name__, pieces)
            check_divides(type(self).__name__, out_channels, pieces, "the result's channels")
        settings: Any = (stride, padding, dilation, groups, bias, padding_mode, device, dtype)
        convolution: Any = self._convolution
        norm: Any = self._norm
        self.conv = convolution(in_channels, out_channels, kernel_size, *settings, strict=strict, backend=backend)
        self.bn = norm(out_channels, eps, momentum, affine, track_running_stats, device=device, dtype=dtype)

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        """activation(bn(conv(input)) + residual)."""
        z = conv_norm_act(self.conv, self.bn, input, residual, self._activation, self.process_group)
        return maxout(z, self.pieces, backend=_backend(self.conv)) if self.activation == MAXOUT else z

    def extra_repr(self) -> str:
        settings = {"activation": self.activation, "alpha": self.alpha}
        settings["pieces"] = self.pieces if self.activation == MAXOUT else None
        return ", ".join(f"{name}={v}" for name, v in settings.items() if v is not None or name == "activation")


class ConvBNReLU1d(FusedLayer, torch.nn.Module):
    """Conv1d, BatchNorm1d, an optional residual, and ReLU (or another activation) in one.

    Shapes: input (N, C, L), residual and result (N, K, L_out).
    """

    _convolution, _norm = Conv1d, torch.nn.BatchNorm1d


class ConvBNReLU2d(FusedLayer, torch.nn.Module):
    """Conv2d, BatchNorm2d, an optional residual, and ReLU (or another activation) in one.

    Shapes: input (N, C, H, W), residual and result (N, K, H_out, W_out).
    """

    _convolution, _norm = Conv2d, torch.nn.BatchNorm2d


class ConvBNReLU3d(FusedLayer, torch.nn.Module):
    """Conv3d, BatchNorm3d, an optional residual, and ReLU (or another activation) in one.

    Shapes: input (N, C, D, H, W), residual and result (N, K, D_out, H_out, W_out).
    """

    _convolution, _norm = Conv3d, torch.nn.BatchNorm3d
