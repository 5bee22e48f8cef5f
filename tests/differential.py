"""Random calls of the functionals, valid and invalid, and what to compare with torch.nn.functional.

Inputs, weights and gradients hold small whole numbers, so that sums are exact in every dtype and in any
order: convolutions must agree bit for bit. Average pooling divides, once, so it may differ by a rounding.
"""

from __future__ import annotations

import random
import warnings
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F

import convkit.functional as CF

SPOILT = [f"{name}{n}d" for name in ("conv", "conv_transpose", "max_pool", "avg_pool") for n in (1, 2, 3)]
# Errors of the others: tests/differential_pools.py.
OPS = SPOILT + [f"{name}{n}d" for name in ("adaptive_avg_pool", "adaptive_max_pool", "lp_pool") for n in (1, 2, 3)]
FLOATS = (torch.float32, torch.float32, torch.float32, torch.float64, torch.bfloat16, torch.float16)
OTHERS = (torch.int64, torch.int32, torch.uint8, torch.int8, torch.complex64, torch.complex128, torch.bool)


@dataclass
class Call:
    op: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)

    def plain(self) -> Call:
        """The same call on contiguous operands of the widest dtype."""

        def plain(t: Any) -> Any:
            if not isinstance(t, torch.Tensor):
                return t
            wide = torch.complex128 if t.is_complex() else torch.float64
            return t.detach().to(wide, memory_format=torch.contiguous_format).requires_grad_(t.requires_grad)

        return Call(self.op, tuple(plain(a) for a in self.args), self.kwargs)

    def __str__(self) -> str:
        def show(v: Any) -> str:
            if isinstance(v, torch.Tensor):
                return f"{str(v.dtype)[6:]}{list(v.shape)}/{list(v.stride())}{'+grad' if v.requires_grad else ''}"
            return repr(v)

        parts = [show(a) for a in self.args] + [f"{k}={show(v)}" for k, v in self.kwargs.items()]
        return f"{self.op}({', '.join(parts)})"


def whole(rng: random.Random, shape: list[int], dtype: torch.dtype) -> torch.Tensor:
    """A tensor of -1, 0 and 1 (0 and 1 where unsigned)."""
    g = torch.Generator().manual_seed(rng.getrandbits(31))
    low = 0 if dtype in (torch.uint8, torch.bool) else -1
    t = torch.randint(low, 2, shape, generator=g)
    if dtype.is_complex:
        return torch.complex(t.double(), torch.randint(-1, 2, shape, generator=g).double()).to(dtype)
    return t.to(dtype)


def cast(t: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return (t.real if t.is_complex() and not dtype.is_complex else t).to(dtype)


def laid_out(rng: random.Random, t: torch.Tensor) -> torch.Tensor:
    """The same values under other strides."""
    kind = rng.choice(("contiguous", "contiguous", "channels_last", "permuted", "sliced", "expanded"))
    if kind == "channels_last" and t.dim() in (4, 5):
        return t.contiguous(memory_format=torch.channels_last if t.dim() == 4 else torch.channels_last_3d)
    if kind == "permuted" and t.dim() > 2:
        return t.transpose(-1, -2).contiguous().transpose(-1, -2)
    if kind == "sliced":
        return torch.stack([t, t], -1)[..., 0]
    if kind == "expanded" and t.dim() > 0:
        return t[:1].expand(t.shape)
    return t


def per_dim(rng: random.Random, n: int, values: list[int]) -> Any:
    """An int, or a tuple or list of 1 or n of them."""
    kind = rng.randrange(4)
    if kind == 0:
        return rng.choice(values)
    if kind == 1:
        return [rng.choice(values)]
    out = [rng.choice(values) for _ in range(n)]
    return tuple(out) if kind == 2 else out


def spread(value: Any, n: int) -> list[int]:
    if isinstance(value, int):
        return [value] * n
    return list(value) * n if len(value) == 1 else list(value)


def draw_call(rng: random.Random, op: str) -> Call:
    """A valid call."""
    n = int(op[-2])
    dtype = rng.choice(FLOATS) if rng.random() < 0.9 else rng.choice(OTHERS)
    batched = rng.random() < 0.85
    batch = rng.choice((0, 1, 2, 3)) if batched else 1
    grad = rng.random() < 0.5 and (dtype.is_floating_point or dtype.is_complex)
    kernel = [rng.choice((1, 2, 3)) for _ in range(n)]
    kwargs: dict[str, Any] = {}

    if op.startswith("adaptive"):
        x = laid_out(rng, whole(rng, [batch, rng.choice((1, 2, 3)), *(rng.randrange(1, 9) for _ in range(n))], dtype))
        out: Any = tuple(rng.choice((1, 2, 3, 5, 9) + (None,) * (n > 1)) for _ in range(n))
        if n == 1 or rng.random() < 0.4:
            out = rng.choice((1, 2, 3, 5, 9))
        if op.startswith("adaptive_max") and rng.random() < 0.4:
            kwargs["return_indices"] = rng.random() < 0.8
        return Call(op, ((x if batched else x[0]).requires_grad_(grad), out), kwargs)

    if "pool" in op:
        kernel_size = per_dim(rng, n, [1, 2, 3])
        k = spread(kernel_size, n)
        size = [max(k) + 2 + rng.randrange(5) for _ in range(n)]
        if rng.random() < 0.7:
            kwargs["stride"] = rng.choice((None, per_dim(rng, n, [1, 2, 3])))
        if rng.random() < 0.6 and not op.startswith("lp"):
            kwargs["padding"] = per_dim(rng, n, list(range(min(k) // 2 + 1)))
        if rng.random() < 0.4:
            kwargs["ceil_mode"] = rng.random() < 0.7
        if op.startswith("max"):
            if rng.random() < 0.3:
                kwargs["dilation"] = per_dim(rng, n, [1, 2])
            if rng.random() < 0.4:
                kwargs["return_indices"] = rng.random() < 0.8
        elif op.startswith("avg"):
            if rng.random() < 0.4:
                kwargs["count_include_pad"] = rng.random() < 0.3
            if rng.random() < 0.3 and n > 1:
                kwargs["divisor_override"] = rng.choice((None, 1, 2, 3, -2, 7))
        x = laid_out(rng, whole(rng, [batch, rng.choice((1, 2, 3)), *size], dtype))
        x = (x if batched else x[0]).requires_grad_(grad)
        if not op.startswith("lp"):
            return Call(op, (x, kernel_size), kwargs)
        if n > 1 and not isinstance(kernel_size, int):
            kernel_size = tuple(k)  # lp_pool multiplies by its numbers
        return Call(op, (x, rng.choice((1, 2, 2.0, 3)), k[0] if n == 1 else kernel_size), kwargs)

    groups = rng.choice((1, 1, 1, 2, 3))
    cin, cout = groups * rng.choice((1, 2)), groups * rng.choice((1, 2, 3))
    if rng.random() < 0.7:
        kwargs["stride"] = per_dim(rng, n, [1, 2, 3])
    if rng.random() < 0.6:
        kwargs["padding"] = per_dim(rng, n, [0, 1, 2])
    if rng.random() < 0.4:
        kwargs["dilation"] = per_dim(rng, n, [1, 2])
    if groups > 1 or rng.random() < 0.2:
        kwargs["groups"] = groups
    transposed = "transpose" in op
    if transposed:
        least = min(min(spread(kwargs.get(key, 1), n)) for key in ("stride", "dilation"))
        if rng.random() < 0.5:
            kwargs["output_padding"] = per_dim(rng, n, list(range(max(least, 1))))
        size = [rng.choice((3, 4, 5)) for _ in range(n)]
        shape = [cin, cout // groups, *kernel]
    else:
        if rng.random() < 0.15:
            kwargs["padding"] = rng.choice(("same", "valid"))
            if kwargs["padding"] == "same":
                kwargs.pop("stride", None)
        size = [5 + rng.randrange(4) for _ in range(n)]
        shape = [cout, cin // groups, *kernel]
    x = laid_out(rng, whole(rng, [batch, cin, *size], dtype))
    x = (x if batched else x[0]).requires_grad_(grad)
    w = laid_out(rng, whole(rng, shape, dtype)).requires_grad_(grad and rng.random() < 0.8)
    args: tuple[Any, ...] = (x, w)
    if rng.random() < 0.5:
        bias = whole(rng, [cout, 2], dtype).select(1, 0) if rng.random() < 0.3 else whole(rng, [cout], dtype)
        args += (bias.detach().requires_grad_(grad),)
    return Call(op, args, kwargs)


def spoil(rng: random.Random, call: Call) -> Call:
    """The call with one argument or operand made wrong (or, now and then, merely unusual)."""
    n = int(call.op[-2])
    args, kwargs = list(call.args), dict(call.kwargs)
    operands = args[:1] if "pool" in call.op else args[:2]
    if not all(isinstance(t, torch.Tensor) and t.dim() > n and t.numel() for t in operands):
        return call  # spoilt enough
    pool = "pool" in call.op
    names = ["stride", "padding"]
    names += (
        ["kernel_size", "ceil_mode"] if pool else ["dilation", "groups", "input", "weight", "bias", "dtype", "channels"]
    )
    names += ["dilation", "input"] if call.op.startswith("max") else ["input"]
    if call.op.startswith("avg") and n > 1:
        names += ["divisor_override", "count_include_pad"]
    if "transpose" in call.op:
        names.append("output_padding")
    what = rng.choice(names)
    bad_ints = [
        0,
        -1,
        9,
        (1,) * (n + 1),
        (),
        (0,) * n,
        (-1,) * n,
        1.5,
        (1.5,) * n,
        None,
        "a",
        True,
        (1,) * (n - 1) + (1.0,),
    ]
    if what in ("stride", "dilation", "output_padding") or (what == "padding" and (pool or rng.random() < 0.8)):
        kwargs[what] = rng.choice(bad_ints + [4, 5, (2,) * n])
    elif what == "padding":
        kwargs[what] = rng.choice(("SAME", "full", "same", "valid", ""))
    elif what == "kernel_size":
        args[1] = rng.choice(bad_ints + [12, (1,) * (n - 1) + (20,)])
    elif what == "groups":
        kwargs[what] = rng.choice((0, -1, 2, 3, 5, 1.0, True, None, "a", (1,)))
    elif what in ("ceil_mode", "count_include_pad"):
        kwargs[what] = rng.choice((1, 0, None, "a", 1.0))
    elif what == "divisor_override":
        kwargs[what] = rng.choice((0, 1.0, True, "a", -1))
    elif what == "input":
        x = args[0].detach()
        args[0] = rng.choice(
            [
                x[..., :0],
                x[0],
                x[None],
                x[0, 0],
                x[..., :1],
                x.reshape(-1),
                x.sum(),
                None,
                x.numpy() if x.dtype != torch.bfloat16 else 1,
            ]
            + ([x[:, :0]] if pool else [])
        )
    elif what == "weight":
        w = args[1].detach()
        args[1] = rng.choice(
            [
                w[:0],
                w[0],
                w[None],
                w[:, 0],
                w[0, 0],
                None,
                torch.cat([w, w[:1]]),
                torch.cat([w, w], 1),
                torch.cat([w] * 9, -1),
            ]
        )
    elif what == "bias":
        b = torch.zeros(args[1].shape[0] + 1, dtype=args[0].dtype)
        args = [*args[:2], rng.choice([b, b[:-1][None], cast(b, torch.int16), b.sum(), False, 0, b[:0]])]
    elif what == "dtype":
        which = rng.randrange(2)
        args[which] = cast(args[which].detach(), rng.choice(FLOATS + OTHERS))
    elif what == "channels":
        args[0] = torch.cat([args[0].detach()] * 2, -n - 1)
    return Call(call.op, tuple(args), kwargs)


def outcome(module: Any, call: Call) -> Any:
    """The result, as a tuple of tensors with their gradients, or the exception."""
    args = tuple(a.detach().requires_grad_(a.requires_grad) if isinstance(a, torch.Tensor) else a for a in call.args)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            out = getattr(module, call.op)(*args, **call.kwargs)
        except Exception as error:
            return error
        outs = out if isinstance(out, tuple) else (out,)
        leaves = [a for a in args if isinstance(a, torch.Tensor) and a.requires_grad]
        grads: tuple[Any, ...] = ()
        if leaves and outs[0].requires_grad:
            g = torch.Generator().manual_seed(7)
            dy = torch.randint(-1, 2, outs[0].shape, generator=g).to(outs[0].dtype)
            try:
                grads = torch.autograd.grad(outs[0], leaves, dy)
            except RuntimeError as error:
                grads = (error,)
    return tuple(o.detach() for o in outs), grads


def first_line(error: Exception) -> str:
    """PyTorch's own words: without its list of signatures."""
    text = str(error).split("\n")[0].split(" - got (")[0].split(", but expected one of")[0]
    return text.replace('_channels_last" not', '" not')


def excused(call: Call, expected: Any, got: Any) -> bool:
    """Calls on which PyTorch's answer is an accident of the library that it hands the work to, or a defect."""
    kinds = ("avg_pool3d", "lp_pool3d")
    if call.op in kinds and "not implemented for 'Half'" in str(expected).replace("BFloat16", "Half"):
        # PyTorch's CPU kernels leave these two dtypes out
        return not isinstance(got, Exception) or isinstance(got, ZeroDivisionError)
    if "Expected input_depth * input_height" in str(expected):
        return not isinstance(got, Exception)  # channels_last planes of more elements than the input's type can count
    if isinstance(expected, AttributeError):
        return isinstance(got, TypeError)  # max_pool3d asks what is no tensor for its device
    if call.op.startswith("adaptive_avg") and "not implemented" in str(got):
        # Empty batches and results come by before their dtype is looked at, or meet another complaint.
        size = call.args[1]
        return call.args[0].numel() == 0 or 0 in (size if isinstance(size, (tuple, list)) else (size,))
    if call.op.startswith("max_unpool") and isinstance(got, TypeError) and "an int or a tuple" in str(got):
        return True  # PyTorch calculates with what is no int until something fails, or nothing does
    if call.op.startswith("fractional") and "kernel_size must be greater than 0" in str(got):
        return not isinstance(expected, Exception)  # it reads before the input then
    if "conv" not in call.op:
        return False
    x, w = call.args[:2]
    if isinstance(w, torch.Tensor) and w.dim() > 2 and 0 in w.shape[1:]:
        return True  # no input channels, an empty kernel
    text, ours = (str(e) if isinstance(e, Exception) else "" for e in (expected, got))
    if any(words in text for words in ("could not c", "cannot reshape", "integer multiplication overflow")):
        return bool(ours)  # the library's own complaint about a size
    if "Output size is too small" in ours:
        # PyTorch returns an empty result in some dtypes, and looks at the weight's dtype first in others.
        return not text or "should be the same" in text
    if "dilation" in ours and (not text or "dilation" in text or "dimensions are invalid" in text):
        return call.kwargs.get("dilation") in (
            0,
            (0,) * int(call.op[-2]),
        )  # a zero is worded in two ways, and let through for empty batches
    if "should be the same" in ours + text and "expected scalar type" in ours + text:
        return True  # the same complaint, worded by problem size and thread count
    if call.kwargs.get("padding") == "same":
        # PyTorch looks at dtypes in another order then, and may name the padded input's size
        if "should be the same" in ours and "should be the same" in text:
            return True
        if ", expected input[" in text:
            return ours.startswith(text.split("expected input[")[0])
    if "bias type" in ours and "transpose" in call.op:
        return True  # a bias of another dtype is met late, or not at all
    return x.dtype is torch.bool and 0 in x.shape if isinstance(x, torch.Tensor) else False


def compare(call: Call) -> str | None:
    """None, or how convkit's outcome differs from PyTorch's."""
    expected, got = outcome(F, call), outcome(CF, call)
    if excused(call, expected, got):
        return None
    if isinstance(expected, Exception) or isinstance(got, Exception):
        if not isinstance(got, Exception):
            return f"returned, PyTorch raises {type(expected).__name__}: {first_line(expected)}"
        if not isinstance(expected, Exception):
            return f"raised {type(got).__name__}: {got}; PyTorch returns {list(expected[0][0].shape)}"
        if type(expected) is not type(got) or not str(got).startswith(first_line(expected)):
            theirs = f"PyTorch {type(expected).__name__}: {first_line(expected)}"
            return f"raised {type(got).__name__}: {str(got)[:200]}; {theirs}"
        return None
    for which, theirs, ours in (("result", expected[0], got[0]), ("gradient", expected[1], got[1])):
        if any(isinstance(o, Exception) for o in theirs):
            continue  # PyTorch's backward passes refuse some empty results that its forward passes make
        if len(theirs) != len(ours):
            return f"{len(ours)} {which}s, PyTorch {len(theirs)}"
        for i, (a, b) in enumerate(zip(theirs, ours)):
            difference = _differs(call, which, a, b)
            if difference and (a.dtype.is_floating_point or a.dtype.is_complex) and "values" in difference:
                # PyTorch misreads weights of some strides, and dilated float16 ones: it must differ from itself.
                exact = outcome(F, call.plain())[which == "gradient"][i]
                difference = None if _differs(call, "value", exact, b.to(exact.dtype)) is None else difference
            if difference and torch.isinf(theirs[0].double()).any():
                # A dilated window may hold padding alone: its maximum is the lowest value, its index means nothing.
                difference = None if torch.equal(a[~theirs[0].isinf()], b[~theirs[0].isinf()]) else difference
            if difference:
                return f"{which} {i}: {difference}"
    return None


def long_strides(t: torch.Tensor) -> list[int]:
    """Strides, but of dimensions of one element, where any will do."""
    return [stride for size, stride in zip(t.shape, t.stride()) if size > 1]


def layout_is_defined(call: Call) -> bool:
    """Whether PyTorch's result has a layout by its rule, and not by the kernel that happens to compute it."""
    x = call.args[0]
    if call.op.endswith("2d"):
        return not call.op.startswith("lp") or len(x) > 1  # a power may choose another layout for a single image
    return (
        call.op in ("conv3d", "max_pool3d")
        and x.dim() == 5
        and len(x) > 1
        and x.dtype in (torch.float32, torch.bfloat16)
    )


def _differs(call: Call, which: str, a: torch.Tensor, b: torch.Tensor) -> str | None:
    if a.shape != b.shape or a.dtype != b.dtype:
        return f"{b.dtype} {list(b.shape)}, PyTorch {a.dtype} {list(a.shape)}"
    if a.numel() and which == "result" and layout_is_defined(call) and long_strides(a) != long_strides(b):
        return f"strides {b.stride()}, PyTorch {a.stride()} for shape {list(a.shape)}"
    if "max" not in call.op and "pool" in call.op and a.dtype.is_floating_point:
        error, eps = (a.double() - b.double()).abs(), torch.finfo(a.dtype).eps
        if call.op.startswith("lp"):
            # A power, a mean, a product and a root; a gradient adds up to 27 terms, none of them above 27, of two
            # powers and three products. Sums below 0 have no root.
            size, roundings = (a.double().abs(), 8) if which == "result" else (27.0, 27 + 8)
            ok = bool(((error <= roundings * eps * size) | (a.isnan() & b.isnan()) | (a == b)).all())
        else:
            # One sum of whole numbers, and a division or, adaptive, one per dimension; a gradient adds up quotients of
            # at most 27 windows, adaptive of 729.
            most = 9**3 if call.op.startswith("adaptive") else 27
            roundings = (3 if most > 27 else 1) if which == "result" else most
            bound = 2 * roundings * eps * a.double().abs().clamp(min=1.0)
            ok = bool(((error <= bound) | (a.isnan() & b.isnan())).all())  # the mean of nothing
    else:
        ok = torch.equal(a, b)
    return (
        None
        if ok
        else f"values differ by up to {(a.to(torch.complex128) - b.to(torch.complex128)).abs().max().item():.3g}"
    )
