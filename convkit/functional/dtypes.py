"""What the tensors of a call must be: types, dtypes and devices, with PyTorch's messages; autocast's dtype."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from convkit.problem.arguments import dtype_name, wrong_type
from convkit.problem.specs import ConvSpec

FLOATING = frozenset((torch.float16, torch.bfloat16, torch.float32, torch.float64))
INTEGERS = frozenset((torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64))
COMPLEX = frozenset((torch.complex32, torch.complex64, torch.complex128))

_CPP_NAMES = {  # as PyTorch prints C++ types: "Input type (float) and bias type (double) should be the same"
    torch.float32: "float",
    torch.float64: "double",
    torch.float16: "c10::Half",
    torch.bfloat16: "c10::BFloat16",
    torch.int64: "long int",
    torch.int32: "int",
    torch.int16: "short int",
    torch.int8: "signed char",
    torch.uint8: "unsigned char",
    torch.bool: "bool",
    torch.complex64: "c10::complex<float>",
    torch.complex128: "c10::complex<double>",
    torch.complex32: "c10::complex<c10::Half>",
}


def autocast_dtype(input: Tensor) -> torch.dtype | None:
    """The dtype that autocast gives convolutions on the input's device, None where it is off."""
    device = input.device.type
    if device in ("cpu", "cuda") and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return None


def check_tensors(op: str, input: Any, weight: Any, bias: Any) -> None:
    """TypeError unless the operands are tensors."""
    if isinstance(input, Tensor) and isinstance(weight, Tensor) and (bias is None or isinstance(bias, Tensor)):
        return
    for name, value in (("input", input), ("weight", weight), ("bias", bias)):
        if not isinstance(value, Tensor) and not (name == "bias" and value is None):
            raise wrong_type(op, name, value, "Tensor", "a Tensor or None" if name == "bias" else "a Tensor")


def bias_mismatch(input: Tensor, bias: Tensor) -> str:
    """PyTorch's message for a bias of another dtype than the input's."""
    names = (_CPP_NAMES.get(t.dtype, str(t.dtype)) for t in (input, bias))
    return "Input type ({}) and bias type ({}) should be the same".format(*names)


def check_operands(op: str, input: Tensor, weight: Tensor, bias: Tensor | None, spec: ConvSpec) -> None:
    """RuntimeError unless weight and bias have the input's dtype and device; NotImplementedError for its dtype."""
    dtype = input.dtype
    if weight.dtype is dtype and weight.device == input.device and (bias is None or bias.device == input.device):
        if dtype in FLOATING:
            return
    elif weight.dtype is dtype:
        for name, tensor in (("weight", weight), ("bias", bias)):
            if tensor is not None and tensor.device != input.device:
                raise RuntimeError(
                    f"Input type ({_type_name(input)}) and {name} type ({_type_name(tensor)}) should be the same: "
                    f"expected all tensors to be on the same device, but input is on {input.device} and "
                    f"{name} is on {tensor.device}"
                )
    unknown = _unsupported(op, input, any(d != 1 for d in spec.dilation))
    # PyTorch's 2-d kernel compares dtypes before it looks whether it has a kernel, the others after.
    if unknown and unknown != _PLAIN_2D:
        raise _not_implemented(unknown, dtype)
    if weight.dtype is not dtype:
        types = f"Input type ({_type_name(input)}) and weight type ({_type_name(weight)}) should be the same"
        if dtype in COMPLEX:
            raise RuntimeError(types)
        if dtype in (torch.float16, torch.bfloat16) or _vendor_path(input, spec):
            raise RuntimeError(f"{types} or input should be a MKLDNN tensor and weight is a dense tensor")
        raise RuntimeError(
            f"expected scalar type {dtype_name(dtype)} but found {dtype_name(weight.dtype)}: "
            "weight must have the input's dtype"
        )
    if unknown:
        raise _not_implemented(unknown, dtype)


_PLAIN_2D = "slow_conv2d_cpu"


def _unsupported(op: str, input: Tensor, dilated: bool) -> str | None:
    """The name of PyTorch's CPU kernel that refuses the input's dtype, None where it takes it."""
    dtype = input.dtype
    if dtype in FLOATING or dtype in COMPLEX or dtype is torch.int64 or (input.numel() == 0 and dtype in INTEGERS):
        return None
    if "transpose" in op:
        return f"slow_conv_transpose{3 if op.endswith('3d') else 2}d_out_cpu"
    if dtype in INTEGERS and not dilated:
        return None
    return "slow_conv_dilated<>" if dilated else "compute_columns3d" if op == "conv3d" else _PLAIN_2D


def _vendor_path(input: Tensor, spec: ConvSpec) -> bool:
    """Whether PyTorch would call oneDNN, which words a dtype mismatch in its own way."""
    return input.dtype is torch.float32 and (spec.groups > 1 or (input.dim() > len(spec.stride) + 1 and len(input) > 1))


def _type_name(tensor: Tensor) -> str:
    """``torch.FloatTensor``, or ``CPUBFloat16Type`` where there is no such legacy class."""
    name = dtype_name(tensor.dtype)
    where = {"cpu": "", "cuda": "cuda."}.get(tensor.device.type)
    if where is None:
        return f"torch.{tensor.device.type}.{name}Tensor"
    if name in ("Float", "Double", "Half", "Byte", "Char", "Short", "Int", "Long"):
        return f"torch.{where}{name}Tensor"
    return f"{tensor.device.type.upper()}{name}Type"


def _not_implemented(where: str, dtype: torch.dtype) -> NotImplementedError:
    return NotImplementedError(f"\"{where}\" not implemented for '{dtype_name(dtype)}'")


def check_pool_input(op: str, input: Any) -> None:
    """TypeError unless the input is a tensor."""
    if not isinstance(input, Tensor):
        raise wrong_type(op, "input", input, "Tensor", "a Tensor")


def check_floating(op: str, input: Tensor) -> None:
    """NotImplementedError unless the input is of floating point."""
    if input.dtype not in FLOATING:
        raise _not_implemented(op, input.dtype)


def check_pool_dtype(kind: str, ndim: int, input: Tensor, return_indices: bool) -> None:
    """NotImplementedError for a dtype that PyTorch's CPU kernels do not take."""
    dtype = input.dtype
    if dtype in FLOATING:
        return
    if kind == "max":
        through_2d = return_indices or (input.requires_grad and torch.is_grad_enabled())
        if ndim == 1 and not through_2d:
            raise _not_implemented("max_pool1d_impl", dtype)
        if dtype not in INTEGERS:
            raise _not_implemented("max_pool3d" if ndim == 3 else "max_pool2d", dtype)
    else:
        check_average_dtype(ndim, dtype)


def check_average_dtype(ndim: int, dtype: torch.dtype) -> None:
    """NotImplementedError for a dtype that avg_pool does not take."""
    if dtype not in FLOATING and dtype is not torch.int64:
        raise _not_implemented("avg_pool3d_out_frame" if ndim == 3 else "avg_pool2d", dtype)


def check_flat_dtype(where: str, input: Tensor) -> None:
    """NotImplementedError unless the input is of a floating type, as unpooling and fractional pooling need it."""
    if input.dtype not in FLOATING:
        raise _not_implemented(where, input.dtype)


def full_precision(input: Tensor) -> Tensor:
    """``input`` as float32 where CPU autocast computes an operation so, which it does for 16-bit types."""
    if input.dtype in (torch.float16, torch.bfloat16) and input.device.type == "cpu" and autocast_dtype(input):
        return input.float()
    return input


def check_adaptive_pool_dtype(kind: str, input: Tensor, output_size: tuple[int, ...]) -> None:
    """Refuses dtypes as PyTorch's CPU kernels do; an average over everything is a mean to it."""
    dtype = input.dtype
    if dtype in FLOATING:
        return
    if kind == "avg" and all(n == 1 for n in output_size):
        if dtype in COMPLEX:
            return
        raise RuntimeError(
            "mean(): could not infer output dtype. Input dtype must be either a floating point or complex dtype. "
            f"Got: {dtype_name(dtype)}"
        )
    op = f"adaptive_{kind}_pool"
    raise _not_implemented(f"{op}3d_cpu" if len(output_size) == 3 else f"{op}2d", dtype)
