"""Checks of a pooling's arguments, with PyTorch's messages in PyTorch's order, and the spec that follows from them.

PyTorch computes average pooling in one dimension, and maximum pooling in one dimension with indices, as
a two-dimensional pooling of height 1; its messages show that, and so do these.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from convkit.problem.arguments import AVG_POOL_POSITIONS, Ints, Pairs, before_and_after, parse, spaced
from convkit.problem.shapes import check_fit, pool_output_size, same_padding
from convkit.problem.specs import PoolSpec

INT32_MAX = 2**31 - 1
COUNTS = {2: "two", 3: "three"}
AXES = {1: ("L",), 2: ("H", "W"), 3: ("T", "H", "W")}


class PoolPlan(NamedTuple):
    """What a checked call does."""

    spec: PoolSpec
    batched: bool


class _Windows(NamedTuple):
    """Parsed arguments, one value per dimension."""

    kernel_size: Ints
    stride: Ints
    before: Ints
    after: Ints
    dilation: Ints
    own_padding: bool  # in a form that PyTorch has not: (before, after) pairs, or a rule such as 'same_upper'

    def as_2d(self) -> _Windows:
        """The same windows in an image of height 1."""
        return _Windows(
            (1, *self.kernel_size),
            (1, *self.stride),
            (0, *self.before),
            (0, *self.after),
            (1, *self.dilation),
            self.own_padding,
        )

    def spec(self, ceil: bool, include_pad: bool = True, divisor: int | None = None) -> PoolSpec:
        return PoolSpec(
            self.kernel_size, self.stride, self.before, self.after, self.dilation, ceil, include_pad, divisor or 0
        )


def plan_max_pool(
    ndim: int,
    shape: Ints,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    ceil_mode: Any,
    return_indices: bool = False,
    strict: bool = False,
) -> PoolPlan:
    """Checks a call of ``max_pool{ndim}d``."""
    base = f"max_pool{ndim}d"
    plain_1d = ndim == 1 and not return_indices
    op = f"{base}_with_indices" if return_indices else base
    kernel, strides, pads, dilations, ceil = parse(
        op,
        ndim,
        ("kernel_size", "ints", kernel_size),
        ("stride", "ints?", stride),
        ("padding", "rule padding", padding),
        ("dilation", "ints", dilation),
        ("ceil_mode", "bool", ceil_mode),
    )
    raw = _windows(ndim, shape, kernel, strides or (), pads, dilations)
    if plain_1d:
        _check_max_pool1d_dims(shape)
    elif ndim == 1:
        check_dim_range(base, shape)
    windows = _expand_max_pool1d(raw) if plain_1d else _expand(base, ndim, raw)
    if plain_1d:
        _check_max_pool1d(shape, windows)
    elif ndim == 1:
        _check_2d((*shape[:-1], 1, shape[-1]), windows.as_2d(), ceil, "max_pool2d")
    elif ndim == 2:
        _check_2d(shape, windows, ceil, base)
    else:
        _check_3d(shape, windows, ceil, base)
    spec = windows.spec(ceil)
    if plain_1d:
        (out,) = pool_output_size(shape[-1:], spec)
        if out < 1:
            raise RuntimeError(f"max_pool1d() Invalid computed output size: {out}; {_listed(spec, shape)}")
    if strict:
        check_fit(shape[-ndim:], spec.kernel_size, spec)
    return PoolPlan(spec, len(shape) == ndim + 2)


def plan_avg_pool(
    ndim: int,
    shape: Ints,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    ceil_mode: Any,
    count_include_pad: Any,
    divisor_override: Any = None,
    dilation: Any = 1,
    strict: bool = False,
    from_lp_pool: bool = False,
) -> PoolPlan:
    """Checks a call of ``avg_pool{ndim}d``, or of ``lp_pool{ndim}d``, which PyTorch computes by it."""
    op = f"avg_pool{ndim}d"
    kernel, strides, pads, ceil, include, divisor, dilations = parse(
        op,
        ndim,
        ("kernel_size", "ints", kernel_size),
        ("stride", "ints?", stride),
        ("padding", "rule padding", padding),
        ("ceil_mode", "bool", ceil_mode),
        ("count_include_pad", "bool", count_include_pad),
        ("divisor_override", "int?", divisor_override),
        ("dilation", "ints", dilation),
        positions=AVG_POOL_POSITIONS if from_lp_pool and stride is not None else None,
    )
    raw = _windows(ndim, shape, kernel, strides or (), pads, dilations)
    if ndim == 1:
        check_dim_range(op, shape)
    windows = _expand(op, ndim, raw)
    if ndim == 1:
        _check_2d((*shape[:-1], 1, shape[-1]), windows.as_2d(), ceil, "avg_pool2d", divisor)
    elif ndim == 2:
        _check_2d(shape, windows, ceil, op, divisor)
    else:
        _check_3d(shape, windows, ceil, op, divisor)
    spec = windows.spec(ceil, include, divisor)
    if strict:
        check_fit(shape[-ndim:], spec.kernel_size, spec)
    return PoolPlan(spec, len(shape) == ndim + 2)


def plan_own_pool(
    op: str,
    ndim: int,
    shape: Ints,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    ceil_mode: Any,
    training: Any = True,
    count_include_pad: Any = True,
    strict: bool = False,
) -> PoolPlan:
    """Checks a call of ``op``, a pooling that PyTorch lacks."""
    kernel, strides, pads, ceil, _, include, dilations = parse(
        op,
        ndim,
        ("kernel_size", "ints", kernel_size),
        ("stride", "ints?", stride),
        ("padding", "rule padding", padding),
        ("ceil_mode", "bool", ceil_mode),
        ("training", "bool", training),
        ("count_include_pad", "bool", count_include_pad),
        ("dilation", "ints", dilation),
    )
    windows = _expand(op, ndim, _windows(ndim, shape, kernel, strides or (), pads, dilations))
    if len(shape) not in (ndim + 1, ndim + 2) or any(n == 0 for n in shape[-ndim - 1 :]):
        raise RuntimeError(
            f"Expected {ndim + 1}D or {ndim + 2}D (batch mode) tensor with optional 0 dim batch size for input, "
            f"but got:{list(shape)}"
        )
    _check_output_arguments(windows)
    _check_positive(AXES[ndim], windows)
    if windows.own_padding:
        _check_reach(windows)
    spec = windows.spec(ceil, include)
    _check_too_small(shape, pool_output_size(shape[-ndim:], spec), windows)
    if strict:
        check_fit(shape[-ndim:], spec.kernel_size, spec)
    return PoolPlan(spec, len(shape) == ndim + 2)


def _windows(ndim: int, shape: Ints, kernel: Ints, stride: Ints, pads: Any, dilation: Ints) -> _Windows:
    """The arguments as they were given, a padding rule replaced by what it stands for."""
    if not isinstance(pads, str):
        return _Windows(kernel, stride, *before_and_after(pads), dilation, isinstance(pads, Pairs))
    sizes = [values * ndim if len(values) == 1 else values for values in (kernel, stride or kernel, dilation)]
    if pads == "valid" or any(len(v) != ndim or min(v) < 1 for v in sizes) or len(shape) < ndim:
        before = after = (0,) * ndim  # nonsense is refused by the checks to come
    else:
        # PyTorch's pools have no 'same' whose restriction to stride 1 would have to be kept.
        rule = "same_upper" if pads == "same" else pads
        before, after = same_padding(rule, shape[-ndim:], *sizes)
    return _Windows(kernel, stride, before, after, dilation, True)


def _expand(op: str, ndim: int, raw: _Windows) -> _Windows:
    """One value per dimension; an empty stride stands for the kernel size."""
    pool_is_avg3d = op == "avg_pool3d"
    is_max = op.startswith("max")
    out: dict[str, Any] = {"own_padding": raw.own_padding}
    for name in ("kernel_size", "stride", "before", "after", "dilation"):
        values: Ints = getattr(raw, name)
        if name == "stride" and not values:
            values = out["kernel_size"]
        if len(values) not in (1, ndim):
            word = "padding" if name in ("before", "after") else name
            if ndim == 1:
                raise RuntimeError(
                    f"{op}() argument '{word}' should contain one int (got {len(values)}); {word}={list(values)}"
                )
            either = "" if pool_is_avg3d else "be either " if is_max and name == "dilation" else "either be "
            if name == "stride":
                either = "" if pool_is_avg3d else "either "
                what = f"must {either}be omitted, a single int, or a tuple of {COUNTS[ndim]} ints"
            elif pool_is_avg3d:
                what = f"must be a single int, or a tuple of {COUNTS[ndim]} ints"
            else:
                what = f"must {either}a single int, or a tuple of {COUNTS[ndim]} ints"
            raise RuntimeError(f"{op}: {word} {what}, but got {word}={list(values)}")
        for v in values:
            if not -INT32_MAX - 1 <= v <= INT32_MAX:
                raise RuntimeError(
                    f"value cannot be converted to type int without overflow, but got {name}={list(values)}"
                )
        out[name] = values if len(values) == ndim else values * ndim
    return _Windows(**out)


def _expand_max_pool1d(raw: _Windows) -> _Windows:
    """As :func:`_expand`, in the words of PyTorch's max_pool1d."""
    for name, start in (
        ("kernel_size", "an int, list of ints or tuple of ints"),
        ("stride", "None, an int, list of ints, or tuple of ints"),
        ("before", "an int, list of ints, or tuple of ints"),
        ("dilation", "an int, list of ints or tuple of ints"),
    ):
        values = getattr(raw, name)
        if len(values) != 1 and not (name == "stride" and not values):
            word = "padding" if name == "before" else name
            raise RuntimeError(
                f"max_pool1d() {word} must be {start} of size 1 but got size {len(values)}: {list(values)}"
            )
    return raw._replace(stride=raw.stride or raw.kernel_size)


def check_dim_range(op: str, shape: Ints) -> None:
    if len(shape) not in (2, 3):
        raise RuntimeError(
            f"Expected 2 to 3 dimensions, but got {len(shape)}-dimensional tensor for argument #1 'self' "
            f"(while checking arguments for {op}): input of size {list(shape)}"
        )


def _check_max_pool1d_dims(shape: Ints) -> None:
    if len(shape) not in (2, 3) or any(n == 0 for n in shape[-2:]):
        raise RuntimeError(
            "max_pool1d: Expected 2D or 3D (batch mode) tensor with optional 0 dim batch size for input, "
            f"but got:{list(shape)}"
        )


def _check_max_pool1d(shape: Ints, w: _Windows) -> None:
    (k,), (s,), (d,) = w.kernel_size, w.stride, w.dilation
    if k <= 0:
        raise RuntimeError(f"max_pool1d() kernel_size must be greater than zero, but got {k}")
    if s <= 0:
        raise RuntimeError(f"max_pool1d() stride must be greater than zero, but got {s}")
    for pad in (w.before[0], w.after[0]):
        if pad < 0:
            raise RuntimeError(f"max_pool1d() padding must be non-negative, but got {pad}")
    for pad in (w.before[0], w.after[0]):
        if pad > k // 2 and not w.own_padding:
            raise RuntimeError(
                "max_pool1d() padding should be at most half of kernel size, "
                f"but got padding={pad} and kernel_size={k}; allowed: 0 to {k // 2}"
            )
    if d <= 0:
        raise RuntimeError(f"max_pool1d() dilation must be greater than zero, but got {d}")
    if w.own_padding:
        _check_reach(w)


def _check_reach(w: _Windows) -> None:
    """The bound of a padding that PyTorch cannot express: no window lies beside the input."""
    for k, d, before, after in zip(w.kernel_size, w.dilation, w.before, w.after):
        reach = d * (k - 1)
        if max(before, after) > reach:
            raise RuntimeError(
                f"pad should be smaller than the effective kernel size, but got pad={(before, after)}, "
                f"kernel_size={k} and dilation={d}; allowed: 0 to {reach}"
            )


def _check_output_arguments(w: _Windows) -> None:
    """The checks that PyTorch makes dimension by dimension while it computes the output size."""
    for k, s, before, after, d in zip(w.kernel_size, w.stride, w.before, w.after, w.dilation):
        if s == 0:
            raise RuntimeError(f"stride should not be zero, but got stride={list(w.stride)}; allowed: at least 1")
        for pad in (before, after):
            if pad < 0:
                raise RuntimeError(f"pad must be non-negative, but got pad: {pad}; allowed: at least 0")
        if w.own_padding:
            continue
        # C++ rounds a negative half towards zero
        window = (k - 1) * d + 1
        half = window // 2 if window >= 0 else -(-window // 2)
        for pad in (before, after):
            if pad > half:
                raise RuntimeError(
                    f"pad should be at most half of effective kernel size, but got pad={pad}, "
                    f"kernel_size={k} and dilation={d}"
                )


def _check_positive(axes: tuple[str, ...], w: _Windows) -> None:
    for what, letter, values in (
        ("kernel size", "k", w.kernel_size),
        ("stride", "d", w.stride),
        ("dilation", "dilation", w.dilation),
    ):
        if any(v <= 0 for v in values):
            listed = " ".join(f"{letter}{axis}: {v}" for axis, v in zip(axes, values))
            raise RuntimeError(f"{what} should be greater than zero, but got {listed}")


def _check_too_small(shape: Ints, size: Ints, w: _Windows) -> None:
    if any(n < 1 for n in size):
        channels = shape[-len(size) - 1]
        raise RuntimeError(
            f"Given input size: ({spaced((channels, *shape[-len(size) :]), 'x')}). "
            f"Calculated output size: ({spaced((channels, *size), 'x')}). Output size is too small"
        )


def _listed(spec: PoolSpec, shape: Ints) -> str:
    return (
        f"input {list(shape)}, kernel_size {list(spec.kernel_size)}, stride {list(spec.stride)}, "
        f"padding {list(spec.pad_before)}, dilation {list(spec.dilation)}"
    )


def _check_2d(shape: Ints, w: _Windows, ceil: bool, op: str, divisor: int | None = None) -> None:
    if op == "max_pool2d" and len(shape) not in (3, 4):
        raise RuntimeError(
            f"non-empty 3D or 4D (batch mode) tensor expected for input, but got input of size {list(shape)}"
        )
    if not shape:
        raise IndexError(
            f"Dimension specified as -3 but tensor has no dimensions: {op} takes (C, H, W) or (N, C, H, W)"
        )
    if len(shape) < 3:
        raise IndexError(
            f"Dimension out of range (expected to be in range of [{-len(shape)}, {len(shape) - 1}], but got -3): "
            f"{op} takes (C, H, W) or (N, C, H, W), but got input of size {list(shape)}"
        )
    if divisor == 0:
        raise RuntimeError("divisor must be not zero, but got divisor_override=0")
    _check_output_arguments(w)
    _check_positive(AXES[2], w)
    if len(shape) not in (3, 4) or any(n == 0 for n in (shape if len(shape) == 3 else shape[1:])):
        raise RuntimeError(
            f"Expected 3D or 4D (batch mode) tensor with optional 0 dim batch size for input, but got:{list(shape)}"
        )
    (kh, kw), (bh, bw), (ah, aw) = w.kernel_size, w.before, w.after
    if w.own_padding:
        _check_reach(w)
    elif kh // 2 < max(bh, ah) or kw // 2 < max(bw, aw):
        raise RuntimeError(
            f"pad should be smaller than or equal to half of kernel size, but got padW = {max(bw, aw)}, "
            f"padH = {max(bh, ah)}, kW = {kw}, kH = {kh}"
        )
    _check_too_small(shape, pool_output_size(shape[-2:], w.spec(ceil)), w)


def _check_3d(shape: Ints, w: _Windows, ceil: bool, op: str, divisor: int | None = None) -> None:
    if len(shape) not in (4, 5):
        raise RuntimeError(
            f"non-empty 4D or 5D (batch mode) tensor expected for input, but got input of size {list(shape)}"
        )
    if divisor == 0:
        raise RuntimeError("divisor must be not zero, but got divisor_override=0")
    _check_output_arguments(w)
    _check_positive(AXES[3], w)
    where = "avg_pool3d()" if op == "avg_pool3d" else "max_pool3d_with_indices_out_cpu_template()"
    for dim, length in enumerate(shape):
        if length == 0 and not (len(shape) == 5 and dim == 0):
            raise RuntimeError(
                f"{where}: Expected input's non-batch dimensions to have positive length, but input has a shape of "
                f"{list(shape)} and non-batch dimension {length} has length zero!"
            )
    (t, h, width), (kt, kh, kw) = shape[-3:], w.kernel_size
    if op == "avg_pool3d" and not w.own_padding and (t < kt or h < kh or width < kw):
        raise RuntimeError(
            f"input image (T: {t} H: {h} W: {width}) smaller than kernel size (kT: {kt} kH: {kh} kW: {kw})"
        )
    pads = [max(pair) for pair in zip(w.before, w.after)]
    if w.own_padding:
        _check_reach(w)
    elif any(k // 2 < p for k, p in zip(w.kernel_size, pads)):
        raise RuntimeError(
            f"pad should be smaller than or equal to half of kernel size, but got kT: {kt} kW: {kw} kH: {kh} "
            f"padT: {pads[0]} padW: {pads[2]} padH: {pads[1]}"
        )
    _check_too_small(shape, pool_output_size(shape[-3:], w.spec(ceil)), w)
