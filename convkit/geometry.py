"""Sizes: how large a layer's output is, and how much of the input one output element sees."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch

from convkit.problem import ConvSpec, PoolSpec, conv_output_size, conv_transpose_output_size, pool_output_size
from convkit.problem.arguments import Ints, Pairs, before_and_after, parse
from convkit.problem.shapes import STRING_PADDINGS, check_fit, same_padding


def output_size(
    input_size: Any,
    kernel_size: Any,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    *,
    ceil_mode: bool = False,
    transposed: bool = False,
    output_padding: Any = 0,
    strict: bool = False,
) -> Any:
    """Spatial output size of a convolution or pooling: floor((L + 2p - d(k-1) - 1) / s) + 1 per dimension.

    ``input_size`` is an int, for which an int is returned, or one int per dimension, for which a tuple is.
    The other sizes are as in :func:`convkit.functional.conv2d`, with padding strings and (before, after) pairs.
    ``ceil_mode`` rounds up as in poolings; ``transposed`` gives (L-1)s - 2p + d(k-1) + output_padding + 1.
    ``strict`` raises RuntimeError where the window does not fit exactly: size 7, kernel 3, stride 3 would give
    (7 - 3) / 3 + 1 = 2.33. Sizes that leave no output raise RuntimeError, other nonsense ValueError or TypeError.
    """
    scalar = not isinstance(input_size, (tuple, list))
    ndim = 1 if scalar else len(input_size)
    size, kernel, strides, pads, dilations, extra = parse(
        "output_size",
        ndim,
        ("input_size", "ints", input_size),
        ("kernel_size", "ints", kernel_size),
        ("stride", "ints", stride),
        ("padding", "text padding", padding),
        ("dilation", "ints", dilation),
        ("output_padding", "ints", output_padding),
    )
    kernel, strides, dilations, extra = (
        _expand(name, values, ndim, least)
        for name, values, least in (
            ("kernel_size", kernel, 1),
            ("stride", strides, 1),
            ("dilation", dilations, 1),
            ("output_padding", extra, 0),
        )
    )
    before, after = _paddings(pads, ndim, size, kernel, strides, dilations, transposed)
    spec = ConvSpec(strides, before, after, dilations)
    if transposed:
        out = conv_transpose_output_size(size, kernel, spec, extra)
    elif ceil_mode:
        out = pool_output_size(size, PoolSpec(kernel, strides, before, after, dilations, True))
    else:
        out = conv_output_size(size, kernel, spec)
    if any(n < 1 for n in out):
        raise RuntimeError(
            f"Output size is too small: {out[0] if scalar else list(out)} for input_size {input_size}, "
            f"kernel_size {kernel_size}, stride {stride}, padding {padding}, dilation {dilation}"
        )
    if strict:
        check_fit(out if transposed else size, kernel, spec)
    return out[0] if scalar else out


def _expand(name: str, values: Ints, ndim: int, least: int) -> Ints:
    if len(values) not in (1, ndim) or any(v < least for v in values):
        raise ValueError(f"{name} must be an int or {ndim} ints, at least {least}, but got {name}={list(values)}")
    return values if len(values) == ndim else values * ndim


def _paddings(
    pads: Any, ndim: int, size: Ints, kernel: Ints, stride: Ints, dilation: Ints, transposed: bool
) -> tuple[Ints, Ints]:
    if isinstance(pads, str):
        if pads not in STRING_PADDINGS or transposed:
            allowed = "no string for a transposed convolution" if transposed else f"one of {set(STRING_PADDINGS)}"
            raise ValueError(f"Invalid padding string: {pads!r}, allowed: {allowed}")
        if pads == "same" and any(s != 1 for s in stride):
            raise ValueError(f"padding='same' is not supported for strided convolutions, but got stride={list(stride)}")
        return ((0,) * ndim,) * 2 if pads == "valid" else same_padding(pads, size, kernel, stride, dilation)
    before, after = before_and_after(pads)
    if isinstance(pads, Pairs):
        return _expand("padding", before, ndim, 0), _expand("padding", after, ndim, 0)
    return (_expand("padding", before, ndim, 0),) * 2


class LayerField(NamedTuple):
    """One layer's window, and the receptive field of its output; one value per dimension."""

    name: str
    kernel_size: Ints
    stride: Ints
    dilation: Ints
    receptive_field: Ints  # input elements from the first to the last that one output element sees
    jump: Ints  # input elements between neighbouring output elements
    start: tuple[float, ...]  # centre of the first output element's field, where the first input element is 0


class ReceptiveField:
    """The receptive fields of a chain of layers; ``print`` it for a table."""

    def __init__(self, layers: list[LayerField]) -> None:
        self.layers = layers

    @property
    def size(self) -> Ints:
        """The receptive field of the last layer's output."""
        return self.layers[-1].receptive_field if self.layers else (1,)

    def __iter__(self) -> Any:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    def __getitem__(self, index: int) -> LayerField:
        return self.layers[index]

    def __str__(self) -> str:
        def show(values: Sequence[float]) -> str:
            distinct = values[:1] if len(set(values)) == 1 else values
            return "x".join(f"{v:g}" for v in distinct)

        rows: list[tuple[str, ...]] = [("layer", "kernel", "stride", "dilation", "field", "jump", "start")]
        for layer in self.layers:
            name, kernel, stride, dilation, field, jump, start = layer
            rows.append((name, *map(show, (kernel, stride, dilation, field, jump, start))))
        widths = [max(len(row[i]) for row in rows) for i in range(7)]
        return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths)).rstrip() for row in rows)

    __repr__ = __str__


def receptive_field(model_or_layers: torch.nn.Module | Iterable[Any]) -> ReceptiveField:
    """Receptive fields of the convolutions and poolings of a model, layer by layer and accumulated.

    With jump j (1 at the input), a layer of kernel k, stride s, dilation d adds d(k-1) j to the field, moves the
    first centre by (d(k-1)/2 - p) j, and multiplies the jump by s. A model's layers are taken as one chain, in
    the order of their registration; for a branching model pass the layers of one path. Layers are modules, or
    tuples (kernel_size, stride, padding, dilation), of which all but the first may be left out.
    Transposed convolutions, whose field varies from element to element, raise ValueError.
    """
    if isinstance(model_or_layers, torch.nn.Module):
        named: list[tuple[str, Any]] = list(model_or_layers.named_modules())
    else:
        named = []
        for i, layer in enumerate(model_or_layers):
            if isinstance(layer, torch.nn.Module):
                named += [(f"{i}.{name}" if name else str(i), module) for name, module in layer.named_modules()]
            else:
                named.append((str(i), layer))
    windows = [(name or type(layer).__name__, window) for name, layer in named if (window := _window(name, layer))]
    ndim = max((len(window[0]) for _, window in windows), default=1)
    field, jump, start = (1,) * ndim, (1,) * ndim, (0.0,) * ndim
    layers = []
    for name, window in windows:
        kernel, stride, before, dilation = (_expand(f"{name}: window", v, ndim, 0) for v in window)
        reach = tuple(d * (k - 1) for d, k in zip(dilation, kernel))
        field = tuple(f + r * j for f, r, j in zip(field, reach, jump))
        start = tuple(c + (r / 2 - p) * j for c, r, p, j in zip(start, reach, before, jump))
        jump = tuple(j * s for j, s in zip(jump, stride))
        layers.append(LayerField(name, kernel, stride, dilation, field, jump, start))
    return ReceptiveField(layers)


def _window(name: str, layer: Any) -> tuple[Ints, Ints, Ints, Ints] | None:
    """(kernel_size, stride, padding before, dilation) of a layer; None for one without windows."""
    if isinstance(layer, torch.nn.Module):
        if getattr(layer, "transposed", False):
            raise ValueError(f"{name or type(layer).__name__}: a transposed convolution has no one receptive field")
        kind = type(layer).__name__
        if not hasattr(layer, "kernel_size") or not hasattr(layer, "stride") or "Unpool" in kind:
            return None
        n = next((d for d in (1, 2, 3) if f"{d}d" in kind), 1)
        values: tuple[Any, ...] = (
            layer.kernel_size,
            layer.stride,
            getattr(layer, "padding", 0),
            getattr(layer, "dilation", 1),
        )
    else:
        given = tuple(layer) if isinstance(layer, (tuple, list)) else (layer,)
        if not 1 <= len(given) <= 4:
            raise ValueError(f"layer {name} must be (kernel_size, stride, padding, dilation), but got {layer!r}")
        values = (*given, *(1, 0, 1)[len(given) - 1 :])
        n = max((len(v) for v in values if isinstance(v, (tuple, list))), default=1)
    kernel, stride, pads, dilation = parse(
        "receptive_field",
        n,
        ("kernel_size", "ints", values[0]),
        ("stride", "ints", values[1]),
        ("padding", "text padding", values[2]),
        ("dilation", "ints", values[3]),
    )
    kernel, stride, dilation = (_expand(f"{name}: window", v, n, 1) for v in (kernel, stride, dilation))
    if isinstance(pads, str):
        # Without an input size the strided rules have no one padding: theirs at stride 1 keeps the centres in place.
        before = (0,) * n if pads == "valid" else same_padding(pads, (1,) * n, kernel, (1,) * n, dilation)[0]
    else:
        before = _expand(f"{name}: padding", before_and_after(pads)[0], n, 0)
    return kernel, stride, before, dilation
