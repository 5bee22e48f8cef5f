"""lp_pool1d, lp_pool2d and lp_pool3d."""

from __future__ import annotations

from math import inf, prod
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from convkit.autograd.conv import convolution
from convkit.autograd.function import differentiable
from convkit.autograd.lp_pool import lp_pooling
from convkit.autograd.pool import average_pooling, max_pooling
from convkit.functional.dimensions import public
from convkit.functional.dtypes import FLOATING, check_average_dtype, check_pool_dtype
from convkit.functional.plans import plans
from convkit.functional.windows import enclosing, steps, windows
from convkit.problem import ConvSpec, PoolSpec, pool_output_size
from convkit.problem.pooling import plan_avg_pool, plan_max_pool

SEMANTICS = ("torch", "norm")


def _lp_pool(
    ndim: int,
    input: Tensor,
    norm_type: float | Tensor,
    kernel_size: Any,
    stride: Any = None,
    ceil_mode: bool = False,
    *,
    padding: Any = 0,
    dilation: Any = 1,
    weight: Tensor | None = None,
    semantics: str = "torch",
    strict: bool = False,
    backend: str | None = None,
) -> Tensor:
    """The p-norm of sliding windows, torch.nn.functional.lp_pool{n}d: y = (sum of x^p)^(1/p), p = norm_type.

    Shapes as in :func:`avg_pool{n}d`: input (N, C, {dims}) or (C, {dims}).

    norm_type: a number but 0; inf and -inf give the largest and the smallest |x|. Or a tensor of one element, which
    is read where it lies, and to which a gradient flows.
    weight: a tensor ({taps}) of numbers that are not negative, y = (sum of weight x^p)^(1/p); it may require a
    gradient. padding (with zeros, at most half of the kernel, or in the forms that max_pool takes beyond PyTorch's) and
    dilation are convkit's own.

    semantics="torch" is PyTorch's, formula by formula: x^p keeps the sign of x for odd p, the root of a negative sum is
    NaN (for p = 1 it is the sum), the gradient is 0 where the sum is, and a window that ceil_mode lets hang over the
    edge counts as if it were full. semantics="norm" takes |x| and the elements that there are, scales each window by
    its largest |x|, so that no power overflows or vanishes, and has finite gradients: 0 at x = 0.

    dtypes: floating point; 16-bit types are summed in float32. Integers as PyTorch takes them.

    Raises PyTorch's TypeError, RuntimeError, NotImplementedError, ValueError (kernel_size of a wrong length) and
    ZeroDivisionError (norm_type=0), and ValueError for unknown semantics or a weight of another shape.
    """
    name = f"lp_pool{ndim}d"
    if semantics not in SEMANTICS:
        raise ValueError(f"semantics must be one of {set(SEMANTICS)}, but got semantics={semantics!r}")
    _check_kernel_size(name, ndim, kernel_size)
    if isinstance(norm_type, Real) and not isinstance(norm_type, (int, float)):
        norm_type = int(norm_type) if isinstance(norm_type, Integral) else float(norm_type)  # NumPy's
    limit = isinstance(norm_type, (int, float)) and norm_type in (inf, -inf)
    _check_types(name, input, norm_type, weight, limit)
    if limit:
        input = input.abs()
        plan = plans.get(
            plan_max_pool, ndim, input.shape, kernel_size, stride, padding, dilation, ceil_mode, False, strict
        )
        check_pool_dtype("max", ndim, input, False)
    else:
        plan = plans.get(
            plan_avg_pool,
            ndim,
            input.shape,
            kernel_size,
            stride,
            padding,
            ceil_mode,
            True,
            None,
            dilation,
            strict,
            True,
        )
        if input.dtype not in FLOATING or isinstance(norm_type, complex):
            _check_powers(ndim, torch.result_type(input, norm_type), norm_type, semantics == "norm")
    spec = plan.spec
    if not limit and ndim == 1 and isinstance(kernel_size, (tuple, list)):
        raise TypeError(
            f"mul(): argument 'other' (position 1) must be Tensor, not {type(kernel_size).__name__}: "
            f"kernel_size of lp_pool1d must be an int, but got kernel_size={kernel_size!r}"
        )
    if isinstance(norm_type, (int, float)) and norm_type == 0:
        raise ZeroDivisionError(f"float division by zero: norm_type must not be 0, but got norm_type={norm_type!r}")
    if weight is not None:
        _check_weight(name, weight, spec)
    norm_type = _on_device(name, "norm_type", norm_type, input)
    weight = _on_device(name, "weight", weight, input)
    x = input if plan.batched else input.unsqueeze(0)
    y = _pool(x, norm_type, weight, spec, semantics == "norm", ndim, backend)
    return y if plan.batched else y.squeeze(0)


def _check_kernel_size(name: str, ndim: int, kernel_size: Any) -> None:
    """ValueError for what PyTorch cannot take apart into one number per dimension; it does so first of all."""
    if ndim > 1 and isinstance(kernel_size, (tuple, list)) and len(kernel_size) != ndim:
        start = (
            f"too many values to unpack (expected {ndim})"
            if len(kernel_size) > ndim
            else f"not enough values to unpack (expected {ndim}, got {len(kernel_size)})"
        )
        raise ValueError(f"{start}: kernel_size of {name} must be an int or {ndim} ints, but got {kernel_size!r}")


def _check_types(name: str, input: Any, norm_type: Any, weight: Any, limit: bool) -> None:
    if not isinstance(input, Tensor):
        attribute = "abs" if limit else "pow"
        raise AttributeError(
            f"'{type(input).__name__}' object has no attribute '{attribute}': input of {name} must be a Tensor"
        )
    if not isinstance(norm_type, (int, float, complex, Tensor, torch.SymFloat, torch.SymInt)):
        raise TypeError(
            f"pow() received an invalid combination of arguments - got ({type(norm_type).__name__}): "
            f"norm_type of {name} must be an int, a float or a Tensor, not {norm_type!r}"
        )
    if weight is not None and not isinstance(weight, Tensor):
        raise TypeError(
            f"{name}(): argument 'weight' must be Tensor, not {type(weight).__name__}; allowed: a Tensor or None"
        )


def _check_powers(ndim: int, dtype: torch.dtype, norm_type: Any, norm: bool) -> None:
    """Refuses powers, of this dtype, that PyTorch cannot average or compute; a norm takes all real ones."""
    if norm and not dtype.is_complex:
        return
    if not (dtype.is_floating_point or dtype.is_complex or isinstance(norm_type, Tensor)) and norm_type < 0:
        raise RuntimeError(
            f"Integers to negative integer powers are not allowed.; norm_type={norm_type!r} needs a floating input"
        )
    if dtype is torch.complex32:
        raise NotImplementedError("\"pow\" not implemented for 'ComplexHalf'")
    check_average_dtype(ndim, dtype)


def _on_device(name: str, argument: str, value: Any, input: Tensor) -> Any:
    """``value`` where the input is: as in PyTorch, only a number on the CPU may come from elsewhere."""
    if not isinstance(value, Tensor) or value.device == input.device:
        return value
    if value.dim() == 0 and value.device.type == "cpu":
        return value.to(input.device)
    raise RuntimeError(
        f"Expected all tensors to be on the same device, but found at least two devices, {value.device} and "
        f"{input.device}: {argument} of {name} is on {value.device}, input on {input.device}"
    )


def _check_weight(name: str, weight: Tensor, spec: PoolSpec) -> None:
    if tuple(weight.shape) != spec.kernel_size:
        raise ValueError(
            f"{name}: weight must have the shape of the window, {list(spec.kernel_size)}, but got {list(weight.shape)}"
        )
    if not weight.is_floating_point():
        raise TypeError(f"{name}: weight must have a floating point dtype, but got {weight.dtype}")
    # Its values are looked at where that costs nothing: not under transforms or while tracing, not on other devices.
    if weight.device.type == "cpu" and not torch.compiler.is_compiling() and not differentiable():
        least = weight.detach().min().item()
        if least < 0:
            raise ValueError(f"{name}: weight must not be negative, but its least element is {least}")


def _pool(
    x: Tensor,
    norm_type: float | Tensor,
    weight: Tensor | None,
    spec: PoolSpec,
    norm: bool,
    ndim: int,
    backend: str | None,
) -> Tensor:
    if norm and x.dtype not in FLOATING:
        x = x.to(torch.get_default_dtype())
    if isinstance(norm_type, Tensor):
        one = norm_type.numel() == 1 and norm_type.dim() <= x.dim() and not norm_type.is_complex()
        if norm and not one:
            raise ValueError(f"norm_type must have one element, but got a Tensor of shape {list(norm_type.shape)}")
        kept = norm_type.dim() == 0 or torch.promote_types(x.dtype, norm_type.dtype) == x.dtype
        fused = norm or (one and kept)
        if fused and not norm_type.is_floating_point():
            norm_type = norm_type.to(x.dtype)
    else:
        fused = True
        if isinstance(norm_type, (int, float)) and norm_type in (inf, -inf):
            return _extreme(x, norm_type > 0, weight, spec, backend)
    if weight is not None:
        return _weighted(x, norm_type, weight, spec, norm, backend)
    if fused and x.dtype in FLOATING:
        power = norm_type if isinstance(norm_type, Tensor) else float(norm_type)
        return lp_pooling(x, power, spec, norm, backend)
    return _composed(x, norm_type, spec, ndim, backend)


def _composed(x: Tensor, norm_type: float | Tensor, spec: PoolSpec, ndim: int, backend: str | None) -> Tensor:
    """PyTorch's own composition, for what has no kernel: whole numbers, and exponents that change shape or dtype."""
    powers = x.pow(norm_type)
    check_average_dtype(ndim, powers.dtype)
    mean = average_pooling(powers, spec, backend)
    return _root(mean * prod(spec.kernel_size), norm_type)


def _root(total: Tensor, norm_type: float | Tensor) -> Tensor:
    # In this form, which is PyTorch's, the gradient is 0 where the sum is.
    return (torch.sign(total) * torch.relu(torch.abs(total))).pow(1.0 / norm_type)


def _extreme(x: Tensor, largest: bool, weight: Tensor | None, spec: PoolSpec, backend: str | None) -> Tensor:
    """The limits p = inf and p = -inf: the largest (smallest) x, the first of equal ones; x is not negative."""
    signed = x if largest else -x
    if weight is None:
        top = max_pooling(signed, spec, False, backend)
        assert isinstance(top, Tensor)
    else:  # all that matters of a weight is whether it is 0
        top = torch.where(weight > 0, windows(signed, spec), -inf).flatten(-weight.dim()).max(-1).values
    if not largest:
        return -top
    # Minus infinity is the maximum of a window without any element: a dilation beyond the input makes one.
    return top.clamp(min=0) if weight is not None or any(d > 1 for d in spec.dilation) else top


def _weighted(
    x: Tensor, norm_type: float | Tensor, weight: Tensor, spec: PoolSpec, norm: bool, backend: str | None
) -> Tensor:
    """(sum of weight x^p)^(1/p) as a depthwise convolution of powers: differentiable in x, the weights and p."""
    # A norm's powers, scaled to at most 1 in each plane, stay in float64's range; PyTorch's are not scaled.
    wide = torch.float64 if norm else torch.promote_types(x.dtype, torch.float32)
    dtype = x.dtype if x.is_floating_point() else torch.get_default_dtype()
    p: Any = norm_type.reshape(()).to(wide) if isinstance(norm_type, Tensor) else norm_type
    x = x.to(wide)
    if not norm:
        total = _weighted_sum(x.pow(p), weight, spec, backend) * _fullness(x, spec)
        return _root(total, p).to(dtype)
    size = x.abs()
    scale = size.detach().amax(tuple(range(2, x.dim())), keepdim=True)
    scale = torch.where((scale > 0) & (scale < inf), scale, 1)
    zero = size == 0
    at_zero = torch.where(torch.as_tensor(p, device=x.device) > 0, 0.0, inf).to(wide)
    total = _weighted_sum(torch.where(zero, at_zero, torch.where(zero, 1, size / scale).pow(p)), weight, spec, backend)
    dead = total == 0
    return (torch.where(dead, 0, torch.where(dead, 1, total).pow(1.0 / p)) * scale).to(dtype)


def _weighted_sum(x: Tensor, weight: Tensor, spec: PoolSpec, backend: str | None) -> Tensor:
    size, channels = tuple(x.shape[2:]), x.shape[1]
    out = pool_output_size(size, spec)
    filters = weight.to(x.dtype).expand(channels, 1, *weight.shape)
    return convolution(
        x, filters, None, ConvSpec(spec.stride, *enclosing(size, out, spec), spec.dilation, channels), backend
    )


def _fullness(x: Tensor, spec: PoolSpec) -> Tensor | int:
    """By how much PyTorch scales windows that ceil_mode lets hang over: size of the window by its padded elements."""
    if not spec.ceil_mode:
        return 1
    size = tuple(x.shape[2:])
    scale = x.new_ones(())
    pads = (before + after for before, after in zip(spec.pad_before, spec.pad_after))
    for n, pad, o, s, d, k in zip(size, pads, pool_output_size(size, spec), *steps(spec)):
        room = n + pad - torch.arange(o, device=x.device) * s
        taps = ((room + d - 1) // d).clamp(1, k)
        scale = scale[..., None] * (k / taps).to(x.dtype)
    return scale


lp_pool1d, lp_pool2d, lp_pool3d = (public(_lp_pool, n, "lp_pool{n}d") for n in (1, 2, 3))
