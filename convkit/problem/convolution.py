"""Checks of a convolution's arguments, with PyTorch's messages in PyTorch's order, and the spec that follows."""

from __future__ import annotations

from typing import Any, NamedTuple

from convkit.problem.arguments import Ints, Pairs, before_and_after, parse, spaced
from convkit.problem.shapes import STRING_PADDINGS, check_fit, conv_transpose_output_size, same_padding
from convkit.problem.specs import PADDING_MODES, ConvSpec


class ConvPlan(NamedTuple):
    """What a checked call does: pad the input, if ``pad`` is not empty, and convolve by ``spec``.

    A transposed convolution makes a result of ``output_size`` and pads that, with the bias.
    """

    spec: ConvSpec
    batched: bool
    pad: Ints = ()  # torch.nn.functional.pad's list, last dimension first
    output_size: Ints = ()  # of a transposed convolution


def check_batch(op: str, ndim: int, shape: Ints) -> bool:
    """Whether the input has a batch dimension; RuntimeError unless it has ``ndim`` + 1 or + 2 dimensions."""
    if len(shape) == ndim + 2:
        return True
    if len(shape) == ndim + 1:
        return False
    raise RuntimeError(
        f"Expected {ndim + 1}D (unbatched) or {ndim + 2}D (batched) input to {op}, but got input of size: {list(shape)}"
    )


def _check_weight_dims(weight: Ints) -> None:
    if len(weight) < 3:
        raise RuntimeError(
            f"weight should have at least three dimensions, but got weight of size {list(weight)}; "
            "allowed: (out_channels, in_channels / groups, *kernel_size)"
        )


def _check_groups(groups: int) -> None:
    if groups <= 0:
        raise RuntimeError(f"non-positive groups is not supported, but got groups={groups}; allowed: at least 1")


def _check_weight_rank(weight: Ints, shape: Ints, space: str = " ") -> None:
    if len(weight) != len(shape):
        raise RuntimeError(
            f"Expected {len(weight)}-dimensional input for {len(weight)}-dimensional weight{space}{list(weight)}, "
            f"but got {len(shape)}-dimensional input of size {list(shape)} instead"
        )


def _expand(name: str, values: Ints, ndim: int) -> Ints:
    if len(values) == ndim:
        return values
    if len(values) == 1:
        return values * ndim
    raise RuntimeError(
        f"expected {name} to be a single integer value or a list of {ndim} values to match the convolution "
        f"dimensions, but got {name}={list(values)}"
    )


def _check_signs(stride: Ints, padding: Ints, dilation: Ints, output_padding: Ints = ()) -> None:
    for value in padding:
        if value < 0:
            raise RuntimeError(
                f"negative padding is not supported, but got padding={list(padding)}; allowed: at least 0"
            )
    for value in output_padding:
        if value < 0:
            raise RuntimeError(
                f"negative output_padding is not supported, but got output_padding={list(output_padding)}; "
                "allowed: at least 0"
            )
    for value in stride:
        if value <= 0:
            raise RuntimeError(
                f"non-positive stride is not supported, but got stride={list(stride)}; allowed: at least 1"
            )
    for value in dilation:
        if value < 0:
            raise RuntimeError(
                f"dilation should be greater than zero, but got dilation={list(dilation)}; allowed: at least 1"
            )


def _check_zero_dilation(dilation: Ints, text: str) -> None:
    """PyTorch meets a zero later than a negative value, and words it by the library that it hands the work to."""
    if 0 in dilation:
        raise RuntimeError(f"{text}, but got dilation={list(dilation)}; allowed: at least 1")


def _check_channels(shape: Ints, weight: Ints, bias: Ints | None, groups: int, transposed: bool) -> None:
    if weight[0] < groups:
        raise RuntimeError(
            f"Given groups={groups}, expected weight to be at least {groups} at dimension 0, "
            f"but got weight of size {list(weight)} instead"
        )
    if weight[0] % groups != 0:
        raise RuntimeError(
            f"Given groups={groups}, expected weight to be divisible by {groups} at dimension 0, "
            f"but got weight of size [{list(weight)}] instead"
        )
    given = "transposed=1" if transposed else f"groups={groups}"
    channels = weight[0] if transposed else weight[1] * groups
    if shape[1] != channels:
        raise RuntimeError(
            f"Given {given}, weight of size {list(weight)}, expected input{list(shape)} to have {channels} channels, "
            f"but got {shape[1]} channels instead"
        )
    outputs = weight[1] * groups if transposed else weight[0]
    if bias is not None and (len(bias) != 1 or bias[0] != outputs):
        given = "transposed=1, " if transposed else ""
        raise RuntimeError(
            f"Given {given}weight of size {list(weight)}, expected bias to be 1-dimensional with {outputs} elements, "
            f"but got bias of size {list(bias)} instead"
        )


def _check_window(shape: Ints, weight: Ints, spec: ConvSpec) -> None:
    """RuntimeError unless the dilated kernel fits into the padded input, and neither is empty."""
    kernel = weight[2:]
    padded = [n + a + b for n, a, b in zip(shape[2:], spec.pad_before, spec.pad_after)]
    window = [d * (k - 1) + 1 for d, k in zip(spec.dilation, kernel)]
    for length, extent in zip(padded, window):
        if length < extent:
            raise RuntimeError(
                f"Calculated padded input size per channel: ({spaced(padded, ' x ')}). "
                f"Kernel size: ({spaced(window, ' x ')}). Kernel size can't be greater than actual input size"
            )
    _check_not_empty(shape, kernel)


def _check_not_empty(shape: Ints, kernel: Ints) -> None:
    for length in shape[2:]:
        if length == 0:
            if len(shape) == 3:
                shape = (*shape[:2], 1, shape[2])  # PyTorch words a 1-d problem as a 2-d one of height 1
            raise RuntimeError(
                f"Only zero batch or zero channel inputs are supported, but got input shape: {list(shape)}"
            )
    for k in kernel:
        if k == 0:
            raise RuntimeError(f"kernel size should be greater than zero, but got kernel_size: ({spaced(kernel)})")


def plan_conv(
    op: str,
    ndim: int,
    shape: Ints,
    weight: Ints,
    bias: Ints | None,
    mismatch: str | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: Any,
    padding_mode: str = "zeros",
    strict: bool = False,
) -> ConvPlan:
    """Checks a call of ``conv{ndim}d`` by its shapes and arguments.

    ``mismatch`` says how the dtypes of input and bias disagree, None where they do not.
    Raises what PyTorch raises (TypeError, RuntimeError), in its order and words, and ValueError for an
    unknown ``padding_mode``.
    """
    strides, pads, dilations, groups = parse(
        op,
        ndim,
        ("stride", "ints", stride),
        ("padding", "text padding", padding),
        ("dilation", "ints", dilation),
        ("groups", "int", groups),
    )
    if padding_mode not in PADDING_MODES:
        raise ValueError(f"padding_mode must be one of {set(PADDING_MODES)}, but got padding_mode={padding_mode!r}")

    text = isinstance(pads, str)
    if mismatch and not text:
        raise RuntimeError(mismatch)
    batched = check_batch(op, ndim, shape)
    if not batched:
        shape = (1, *shape)
    if text:
        if pads not in STRING_PADDINGS:
            raise RuntimeError(f"Invalid padding string: '{pads}', should be one of {set(STRING_PADDINGS)}")
        before, after = _string_padding(pads, shape, weight, strides, dilations, groups)
    else:
        before, after = before_and_after(pads)
    _check_weight_dims(weight)
    _check_groups(groups)
    dims = len(weight) - 2
    strides = _expand("stride", strides, dims)
    before = _expand("padding", before, dims)
    after = _expand("padding", after, dims)
    dilations = _expand("dilation", dilations, dims)
    _check_signs(strides, before + after if isinstance(pads, Pairs) else before, dilations)
    _check_weight_rank(weight, shape)

    pad: Ints = ()
    if padding_mode != "zeros" and (any(before) or any(after)):
        check_padding_mode(padding_mode, shape, before, after)
        pad = tuple(v for pair in zip(reversed(before), reversed(after)) for v in pair)
        shape = (*shape[:2], *(n + a + b for n, a, b in zip(shape[2:], before, after)))
        before = after = (0,) * ndim
    spec = ConvSpec(strides, before, after, dilations, groups)
    _check_channels(shape, weight, bias, groups, transposed=False)
    _check_window(shape, weight, spec)
    _check_zero_dilation(dilations, "non-positive dilation is not supported")
    if mismatch:
        raise RuntimeError(mismatch)
    if strict:
        check_fit(shape[2:], weight[2:], spec)
    return ConvPlan(spec, batched, pad)


def _string_padding(
    padding: str, shape: Ints, weight: Ints, stride: Ints, dilation: Ints, groups: int
) -> tuple[Ints, Ints]:
    """The (befores, afters) that a padding string stands for."""
    _check_weight_dims(weight)
    ndim = len(weight) - 2
    if padding == "valid":
        return (0,) * ndim, (0,) * ndim
    if padding == "same":
        _check_groups(groups)
    _check_weight_rank(weight, shape, space="")
    if padding == "same" and any(s != 1 for s in stride):
        raise RuntimeError(
            f"padding='same' is not supported for strided convolutions, but got stride={list(stride)}; "
            "'same_upper' and 'same_lower' keep ceil(size / stride)"
        )
    for name, values in (("stride", stride), ("dilation", dilation)):
        if len(values) not in (1, ndim):
            raise RuntimeError(f"{name} cannot broadcast to {ndim} dimensions, but got {name}={list(values)}")
    stride, dilation = _expand("stride", stride, ndim), _expand("dilation", dilation, ndim)
    if any(d <= 0 for d in dilation) or any(s <= 0 for s in stride):
        totals = [d * (k - 1) for d, k in zip(dilation, weight[2:])]
        if padding == "same" and min(totals) < 0 and all(total % 2 == 0 for total in totals):
            raise RuntimeError(
                f"negative padding is not supported, but got padding='same' and dilation={list(dilation)}"
            )
        return (0,) * ndim, (0,) * ndim  # the checks to come refuse it
    return same_padding(padding, shape[2:], weight[2:], stride, dilation)


def check_padding_mode(mode: str, shape: Ints, before: Ints, after: Ints) -> None:
    """RuntimeError where the input is too small to be reflected, wrapped or continued that far."""
    for dim, (length, a, b) in enumerate(zip(shape[2:], before, after), start=2):
        if mode == "reflect" and max(a, b) >= length:
            raise RuntimeError(
                f"Padding size should be less than the corresponding input dimension, but got: padding ({a}, {b}) "
                f"at dimension {dim} of input {list(shape)}"
            )
        if mode == "circular" and max(a, b) > length:
            raise RuntimeError(
                "Padding value causes wrapping around more than once."
                f" Got padding ({a}, {b}) at dimension {dim} of input {list(shape)}; allowed: at most {length}"
            )
        if length == 0:
            raise RuntimeError(
                f"Only zero batch or zero channel inputs are supported, but got input shape: {list(shape)}"
            )


def plan_conv_transpose(
    op: str,
    ndim: int,
    shape: Ints,
    weight: Ints,
    bias: Ints | None,
    mismatch: str | None,
    stride: Any,
    padding: Any,
    output_padding: Any,
    groups: Any,
    dilation: Any,
    strict: bool = False,
) -> ConvPlan:
    """Checks a call of ``conv_transpose{ndim}d``; its spec is that of the convolution whose input gradient it is."""
    strides, pads, extra, groups, dilations = parse(
        op,
        ndim,
        ("stride", "ints", stride),
        ("padding", "padding", padding),
        ("output_padding", "ints", output_padding),
        ("groups", "int", groups),
        ("dilation", "ints", dilation),
    )
    before, after = before_and_after(pads)
    batched = check_batch(op, ndim, shape)
    if not batched:
        shape = (1, *shape)
    _check_weight_dims(weight)
    _check_groups(groups)
    dims = len(weight) - 2
    strides = _expand("stride", strides, dims)
    before = _expand("padding", before, dims)
    after = _expand("padding", after, dims)
    dilations = _expand("dilation", dilations, dims)
    extra = _expand("output_padding", extra, dims)
    _check_signs(strides, before + after if isinstance(pads, Pairs) else before, dilations, extra)
    _check_weight_rank(weight, shape)
    _check_channels(shape, weight, bias, groups, transposed=True)
    if mismatch:
        raise RuntimeError(mismatch)
    _check_zero_dilation(dilations, "dilation should be greater than zero")
    _check_not_empty(shape, weight[2:])
    _check_output_padding(extra, strides, dilations)
    spec = ConvSpec(strides, before, after, dilations, groups)
    size = conv_transpose_output_size(shape[2:], weight[2:], spec, extra)
    if any(n < 1 for n in size):
        height = (1,) if ndim == 1 else ()  # PyTorch words a 1-d problem as a 2-d one of height 1
        raise RuntimeError(
            f"Given input size per channel: ({spaced((*height, *shape[2:]), ' x ')}). "
            f"Calculated output size per channel: ({spaced((*height, *size), ' x ')}). Output size is too small"
        )
    if strict:
        check_fit(size, weight[2:], spec)
    return ConvPlan(spec, batched, (), size)


def _check_output_padding(extra: Ints, stride: Ints, dilation: Ints) -> None:
    if all(e < s or e < d for e, s, d in zip(extra, stride, dilation)):
        return
    if len(extra) == 1:  # PyTorch words a 1-d problem as a 2-d one of height 1
        extra, stride, dilation = (0, *extra), (1, *stride), (1, *dilation)
    axes = ("depth", "height", "width")[-len(extra) :]
    listed = " ".join(
        f"{name}_{axis}: {value}"
        for name, values in (("output_padding", extra), ("stride", stride), ("dilation", dilation))
        for axis, value in zip(axes, values)
    )
    raise RuntimeError(f"output padding must be smaller than either stride or dilation, but got {listed}")


def output_padding_for(
    ndim: int, shape: Ints, output_size: Any, kernel_size: Ints, stride: Ints, padding: Any, dilation: Ints
) -> Ints:
    """The output_padding with which a transposed convolution's result has spatial size ``output_size``.

    ``output_size`` may also name all dimensions of the result. ValueError unless it is within reach: a stride
    decides less than one stride's worth of sizes.
    """
    if not hasattr(output_size, "__len__"):
        raise TypeError(
            f"object of type {type(output_size).__name__!r} has no len(): output_size must be a sequence of {ndim} ints"
        )
    leading = len(shape) - ndim
    if len(output_size) == leading + ndim:
        output_size = output_size[leading:]
    if len(output_size) != ndim:
        raise ValueError(
            f"ConvTranspose{ndim}D: for {len(shape)}D input, output_size must have {ndim} "
            f"or {leading + ndim} elements (got {len(output_size)})"
        )
    pads = parse(f"conv_transpose{ndim}d", ndim, ("padding", "padding", padding))[0]
    before, after = before_and_after(pads)
    spec = ConvSpec(stride, before, after, dilation)
    least = list(conv_transpose_output_size(shape[leading:], kernel_size, spec, (0,) * ndim))
    most = [size + s - 1 for size, s in zip(least, stride)]
    for size, low, high in zip(output_size, least, most):
        if size < low or size > high:
            raise ValueError(
                f"requested an output size of {output_size}, but valid sizes range from {least} to {most} "
                f"(for an input of {shape[2:]})"
            )
    return tuple(size - low for size, low in zip(output_size, least))
