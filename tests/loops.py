"""Convolution and pooling by their definitions, one product at a time: the oracle behind the oracle.

Nothing here is shared with the package: plain Python loops over NumPy arrays. A convolution is the set of
triples (output, input, filter element) that meet in one product; a pooling is a list of input elements for
each output.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import product
from math import ceil, floor
from typing import Any

import numpy as np

Index = tuple[int, ...]


def conv_products(
    n: int, c: int, k: int, size: Index, kernel: Index, out: Index, spec: Any
) -> Iterator[tuple[Index, Index, Index]]:
    """All (output, input, filter) index triples that are multiplied with each other."""
    c_per_group, k_per_group = c // spec.groups, k // spec.groups
    for image, filter_, channel in product(range(n), range(k), range(c_per_group)):
        group = filter_ // k_per_group
        for position in product(*(range(o) for o in out)):
            for tap in product(*(range(r) for r in kernel)):
                pixel = tuple(
                    o * s - before + t * d
                    for o, s, before, t, d in zip(position, spec.stride, spec.pad_before, tap, spec.dilation)
                )
                if all(0 <= p < length for p, length in zip(pixel, size)):
                    yield (
                        (image, filter_, *position),
                        (image, group * c_per_group + channel, *pixel),
                        (filter_, channel, *tap),
                    )


def _output(size: Index, kernel: Index, spec: Any) -> Index:
    """Counts the windows that fit, by trying them one after the other."""
    counts = []
    for length, k, s, before, after, d in zip(
        size, kernel, spec.stride, spec.pad_before, spec.pad_after, spec.dilation
    ):
        count = 0
        while count * s - before + (k - 1) * d < length + after:
            count += 1
        counts.append(count)
    return tuple(counts)


def conv_fprop(x: np.ndarray, w: np.ndarray, spec: Any) -> np.ndarray:
    out = _output(x.shape[2:], w.shape[2:], spec)
    y = np.zeros((x.shape[0], w.shape[0], *out), x.dtype)
    for o, i, f in conv_products(x.shape[0], x.shape[1], w.shape[0], x.shape[2:], w.shape[2:], out, spec):
        y[o] += x[i] * w[f]
    return y


def conv_dgrad(dy: np.ndarray, w: np.ndarray, size: Index, spec: Any) -> np.ndarray:
    c = w.shape[1] * spec.groups
    dx = np.zeros((dy.shape[0], c, *size), dy.dtype)
    for o, i, f in conv_products(dy.shape[0], c, w.shape[0], size, w.shape[2:], dy.shape[2:], spec):
        dx[i] += dy[o] * w[f]
    return dx


def conv_wgrad(dy: np.ndarray, x: np.ndarray, kernel: Index, spec: Any) -> np.ndarray:
    dw = np.zeros((dy.shape[1], x.shape[1] // spec.groups, *kernel), x.dtype)
    for o, i, f in conv_products(x.shape[0], x.shape[1], dy.shape[1], x.shape[2:], kernel, dy.shape[2:], spec):
        dw[f] += dy[o] * x[i]
    return dw


def pool_windows(size: Index, spec: Any) -> Iterator[tuple[Index, list[tuple[int, Index]], int]]:
    """For each output position: the (tap number, pixel) pairs inside the input, and the padded window's size."""
    if spec.output_size:
        yield from adaptive_windows(size, spec)
        return
    per_dim = []
    for length, k, s, before, after, d in zip(
        size, spec.kernel_size, spec.stride, spec.pad_before, spec.pad_after, spec.dilation
    ):
        last = length + after - 1 - (k - 1) * d  # the last start whose window fits
        starts = []
        start = -before
        # In ceil mode a window may hang over by less than one stride, if it starts before the end.
        while start <= last or (spec.ceil_mode and start < last + s and start < length):
            starts.append(start)
            start += s
        per_dim.append(starts)
    for position in product(*(range(len(starts)) for starts in per_dim)):
        taps = []
        counted = 0
        for number, tap in enumerate(product(*(range(k) for k in spec.kernel_size))):
            pixel = tuple(per_dim[i][o] + t * spec.dilation[i] for i, (o, t) in enumerate(zip(position, tap)))
            if all(0 <= p < length for p, length in zip(pixel, size)):
                taps.append((number, pixel))
            if all(-b <= p < length + a for p, length, b, a in zip(pixel, size, spec.pad_before, spec.pad_after)):
                counted += 1
        yield position, taps, counted


def adaptive_windows(size: Index, spec: Any) -> Iterator[tuple[Index, list[tuple[int, Index]], int]]:
    """Window o of O over L elements holds those from floor(o L / O) on, up to but without ceil((o + 1) L / O)."""
    for position in product(*(range(out) for out in spec.output_size)):
        taps = []
        for number, tap in enumerate(product(*(range(k) for k in spec.kernel_size))):
            starts = [floor(Fraction(o * n, out)) for o, n, out in zip(position, size, spec.output_size)]
            ends = [ceil(Fraction((o + 1) * n, out)) for o, n, out in zip(position, size, spec.output_size)]
            pixel = tuple(start + t for start, t in zip(starts, tap))
            if all(p < end for p, end in zip(pixel, ends)):
                taps.append((number, pixel))
        yield position, taps, len(taps)


def output_size(size: Index, spec: Any) -> Index:
    if spec.output_size:
        return tuple(spec.output_size)
    positions = [position for position, _, _ in pool_windows(size, spec)]
    return tuple(p + 1 for p in positions[-1])


def max_pool(x: np.ndarray, spec: Any) -> tuple[np.ndarray, np.ndarray]:
    """(maxima, chosen tap): the first of equal ones; NaN beats everything, and the last NaN wins."""
    shape = (*x.shape[:2], *output_size(x.shape[2:], spec))
    y, offsets = np.full(shape, -np.inf), np.zeros(shape, np.int64)
    for position, taps, _ in pool_windows(x.shape[2:], spec):
        for n, c in product(range(x.shape[0]), range(x.shape[1])):
            best = None
            for number, pixel in taps:
                value = x[(n, c, *pixel)]
                if best is None or value > best or np.isnan(value):
                    best = value
                    y[(n, c, *position)] = value
                    offsets[(n, c, *position)] = number
    return y, offsets


def chosen(size: Index, offsets: np.ndarray, spec: Any) -> Iterator[tuple[Index, Index]]:
    """(output, input) index pairs that the window offsets name."""
    for position, taps, _ in pool_windows(size, spec):
        pixels = dict(taps)
        for n, c in product(range(offsets.shape[0]), range(offsets.shape[1])):
            number = int(offsets[(n, c, *position)])
            if number in pixels:
                yield (n, c, *position), (n, c, *pixels[number])


def pool_select(x: np.ndarray, offsets: np.ndarray, spec: Any) -> np.ndarray:
    y = np.zeros(offsets.shape, x.dtype)
    for o, i in chosen(x.shape[2:], offsets, spec):
        y[o] = x[i]
    return y


def pool_select_bwd(dy: np.ndarray, offsets: np.ndarray, size: Index, spec: Any) -> np.ndarray:
    dx = np.zeros((*dy.shape[:2], *size), dy.dtype)
    for o, i in chosen(size, offsets, spec):
        dx[i] += dy[o]
    return dx


def pool_indices(offsets: np.ndarray, size: Index, spec: Any) -> np.ndarray:
    indices = np.full(offsets.shape, -1, np.int64)
    for o, i in chosen(size, offsets, spec):
        flat = 0
        for length, p in zip(size, i[2:]):
            flat = flat * length + p
        indices[o] = flat
    return indices


def divisor(taps: list[tuple[int, Index]], counted: int, spec: Any) -> int:
    return spec.divisor_override or (counted if spec.count_include_pad else len(taps))


def avg_pool(x: np.ndarray, spec: Any) -> np.ndarray:
    """Window means; a window without any element gives 0."""
    y = np.zeros((*x.shape[:2], *output_size(x.shape[2:], spec)), x.dtype)
    for position, taps, counted in pool_windows(x.shape[2:], spec):
        for n, c in product(range(x.shape[0]), range(x.shape[1])):
            total = sum(x[(n, c, *pixel)] for _, pixel in taps)
            y[(n, c, *position)] = total / divisor(taps, counted, spec) if taps else 0
    return y


def avg_pool_bwd(dy: np.ndarray, size: Index, spec: Any) -> np.ndarray:
    dx = np.zeros((*dy.shape[:2], *size), dy.dtype)
    for position, taps, counted in pool_windows(size, spec):
        for n, c in product(range(dy.shape[0]), range(dy.shape[1])):
            for _, pixel in taps:
                dx[(n, c, *pixel)] += dy[(n, c, *position)] / divisor(taps, counted, spec)
    return dx


def named(indices: np.ndarray, plane: Index) -> Iterator[tuple[Index, Index]]:
    """(element, position) pairs that flat indices name, in row-major order of the elements."""
    for o in np.ndindex(*indices.shape):
        if 0 <= indices[o] < np.prod(plane):
            yield o, (*o[:2], *(int(p) for p in np.unravel_index(indices[o], plane)))


def max_unpool(x: np.ndarray, indices: np.ndarray, size: Index) -> np.ndarray:
    """Zeros with x at the places named; a later element overwrites an earlier one."""
    y = np.zeros((*x.shape[:2], *size), x.dtype)
    for o, i in named(indices, size):
        y[i] = x[o]
    return y


def plane_gather(x: np.ndarray, indices: np.ndarray) -> np.ndarray:
    y = np.zeros(indices.shape, x.dtype)
    for o, i in named(indices, x.shape[2:]):
        y[o] = x[i]
    return y


def plane_scatter(dy: np.ndarray, indices: np.ndarray, size: Index) -> np.ndarray:
    dx = np.zeros((*dy.shape[:2], *size), dy.dtype)
    for o, i in named(indices, size):
        dx[i] += dy[o]
    return dx


def fractional_max_pool(x: np.ndarray, samples: np.ndarray, kernel: Index, out: Index) -> tuple[np.ndarray, np.ndarray]:
    """(maxima, flat indices) of windows that samples in [0, 1) place, in float64."""
    size, dims = x.shape[2:], len(kernel)
    y, indices = np.full((*x.shape[:2], *out), -np.inf), np.zeros((*x.shape[:2], *out), np.int64)
    for o in np.ndindex(*y.shape):
        u = samples[o[:2]][::-1] if dims == 2 else samples[o[:2]]
        start = []
        for d in range(dims):
            room = size[d] - kernel[d]
            if o[2 + d] == out[d] - 1:
                start.append(room)
            else:
                alpha = room / (out[d] - 1)
                start.append(int((o[2 + d] + u[d]) * alpha) - int(u[d] * alpha))
        best = None
        for tap in np.ndindex(*kernel):
            pixel = tuple(s + t for s, t in zip(start, tap))
            value = x[(*o[:2], *pixel)]
            if best is None or value > best or np.isnan(value):
                best = y[o] = value
                indices[o] = np.ravel_multi_index(pixel, size)
    return y, indices


# Published with the generator (Random123, kat_vectors): counter, key, words.
PHILOX_KNOWN_ANSWERS = [
    ((0,) * 4, (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((2**32 - 1,) * 4, (2**32 - 1,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def philox4x32_10(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """Ten rounds on four words of 32 bits, in Python's integers."""
    a, b, c, d = counter
    k0, k1 = key
    for _ in range(10):
        low, high = a * 0xD2511F53, c * 0xCD9E8D57
        a, b, c, d = high >> 32 ^ b ^ k0, high % 2**32, low >> 32 ^ d ^ k1, low % 2**32
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return a, b, c, d


def positive_taps(x: np.ndarray, spec: Any) -> Iterator[tuple[Index, list[tuple[int, Index]], float]]:
    """(output index, the (tap, input index) of positive elements, their sum) for every window."""
    for position, taps, _ in pool_windows(x.shape[2:], spec):
        for n, c in product(range(x.shape[0]), range(x.shape[1])):
            chances = [(number, (n, c, *pixel)) for number, pixel in taps if x[(n, c, *pixel)] > 0]
            yield (n, c, *position), chances, sum(float(x[i]) for _, i in chances)


def stochastic_pool(x: np.ndarray, seed: int, spec: Any) -> tuple[np.ndarray, np.ndarray]:
    """(elements, taps) drawn one window after the other; 0 and -1 where nothing is positive."""
    shape = (*x.shape[:2], *output_size(x.shape[2:], spec))
    y, offsets = np.zeros(shape), np.full(shape, -1, np.int64)
    for o, chances, total in positive_taps(x, spec):
        flat = int(np.ravel_multi_index(o, shape))
        word = philox4x32_10((flat % 2**32, flat >> 32, 0, 0), (seed % 2**32, seed >> 32))[0]
        threshold, cumulative = (word >> 8) / 2**24 * total, 0.0
        for number, i in chances:
            cumulative += float(x[i])
            if cumulative > threshold:
                y[o], offsets[o] = x[i], number
                break
    return y, offsets


def stochastic_mean(x: np.ndarray, spec: Any) -> np.ndarray:
    """The sum of p_j x_j with p_j = x_j / sum x."""
    y = np.zeros((*x.shape[:2], *output_size(x.shape[2:], spec)))
    for o, chances, total in positive_taps(x, spec):
        y[o] = sum(float(x[i]) / total * float(x[i]) for _, i in chances)
    return y


def stochastic_mean_bwd(dy: np.ndarray, x: np.ndarray, y: np.ndarray, spec: Any) -> np.ndarray:
    dx = np.zeros(x.shape)
    for o, chances, total in positive_taps(x, spec):
        for _, i in chances:
            dx[i] += dy[o] * (2 * x[i] - y[o]) / total
    return dx


def lp_pool(x: np.ndarray, p: float, norm: bool, spec: Any) -> np.ndarray:
    """Roots of window sums of powers; PyTorch's sums stand for whole windows, a norm's are what they are."""
    y = np.zeros((*x.shape[:2], *output_size(x.shape[2:], spec)))
    window = int(np.prod(spec.kernel_size))
    for position, taps, counted in pool_windows(x.shape[2:], spec):
        for n, c in product(range(x.shape[0]), range(x.shape[1])):
            values = [float(x[(n, c, *pixel)]) for _, pixel in taps]
            total = sum(abs(v) ** p for v in values) if norm else sum(v**p for v in values) * window / max(counted, 1)
            y[(n, c, *position)] = total ** (1 / p)
    return y


def lp_pool_bwd(dy: np.ndarray, x: np.ndarray, y: np.ndarray, p: float, norm: bool, spec: Any) -> np.ndarray:
    dx = np.zeros(x.shape)
    window = int(np.prod(spec.kernel_size))
    for position, taps, counted in pool_windows(x.shape[2:], spec):
        for n, c in product(range(x.shape[0]), range(x.shape[1])):
            o = (n, c, *position)
            for _, pixel in taps:
                i = (n, c, *pixel)
                if y[o] == 0 or (norm and x[i] == 0):
                    continue
                slope = abs(x[i]) ** (p - 1) * np.sign(x[i]) if norm else x[i] ** (p - 1) * window / max(counted, 1)
                dx[i] += dy[o] * slope * y[o] ** (1 - p)
    return dx
