"""spectral_pool1d, spectral_pool2d and spectral_pool3d: a smaller map by its lowest frequencies."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from convkit.backends.layout import in_layout, is_channels_last
from convkit.functional.dimensions import public
from convkit.functional.dtypes import check_floating, check_pool_input
from convkit.functional.plans import plans
from convkit.problem.spectral import plan_spectral_pool


def _spectral_pool(ndim: int, input: Tensor, output_size: Any) -> Tensor:
    """The input's lowest frequencies as a map of ``output_size``: the centred discrete Fourier transform, cropped.

    Spectral pooling (Rippel, Snoek & Adams, "Spectral Representations for Convolutional Neural Networks", NIPS 2015).
    In each dimension, from length L to M with X the transform of x: y is the inverse transform of X_k, |k| < M / 2,
    times M / L, so that a constant map keeps its value. An even M < L has one more frequency, which is its own
    conjugate: (X_{{M/2}} + X_{{-M/2}}) / 2, the even part of both. So the result is real; M = L gives the input.

    Shapes: input (N, C, {dims}) or (C, {dims}); output_size: an int, or one per dimension, from 1 to the input's size;
    None keeps a dimension. dtypes: floating point; 16-bit types are transformed in float32.
    Composed of torch.fft.rfftn and irfftn, which give gradients of every order.

    Raises TypeError and RuntimeError, as :func:`adaptive_avg_pool{n}d` does, and RuntimeError for a larger output_size.
    """
    op = f"spectral_pool{ndim}d"
    check_pool_input(op, input)
    out = plans.get(plan_spectral_pool, ndim, input.shape, output_size)
    check_floating(op, input)
    size = tuple(input.shape[-ndim:])
    dims = tuple(d - ndim for d in range(ndim) if out[d] != size[d])
    if not dims:
        return input.clone()
    if input.numel() == 0:
        return input.new_empty(*input.shape[:-ndim], *out)
    wide = input.to(torch.promote_types(input.dtype, torch.float32))
    spectrum = torch.fft.rfftn(wide, dim=dims, norm="forward")
    for d in dims[:-1]:
        spectrum = _crop(spectrum, d, out[d])
    # Of the last one of the dimensions there is half: its own conjugate's imaginary part, irfftn leaves out.
    spectrum = spectrum.narrow(dims[-1], 0, out[dims[-1]] // 2 + 1)
    y: Tensor = torch.fft.irfftn(spectrum, s=[out[d] for d in dims], dim=dims, norm="forward")
    return in_layout(y.to(input.dtype), is_channels_last(input)) if input.dim() == ndim + 2 else y.to(input.dtype)


def _crop(spectrum: Tensor, dim: int, size: int) -> Tensor:
    """The ``size`` lowest frequencies along ``dim``, in the order 0, 1, ..., -1."""
    length, half = spectrum.shape[dim], (size - 1) // 2
    parts = [spectrum.narrow(dim, 0, half + 1)]
    if size % 2 == 0:
        ends = spectrum.narrow(dim, size // 2, 1), spectrum.narrow(dim, length - size // 2, 1)
        parts.append((ends[0] + ends[1]) / 2)
    parts.append(spectrum.narrow(dim, length - half, half))
    return torch.cat(parts, dim)


spectral_pool1d, spectral_pool2d, spectral_pool3d = (public(_spectral_pool, n, "spectral_pool{n}d") for n in (1, 2, 3))
