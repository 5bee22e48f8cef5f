"""Shape formulas: the only ones in Python."""

from __future__ import annotations

from convkit.problem.specs import ConvSpec, PoolSpec

STRING_PADDINGS = ("valid", "same", "same_upper", "same_lower", "causal")


def conv_output_size(size: tuple[int, ...], kernel_size: tuple[int, ...], spec: ConvSpec) -> tuple[int, ...]:
    """floor((L + before + after - d(k-1) - 1) / s) + 1 in each dimension."""
    return tuple(
        (length + before + after - d * (k - 1) - 1) // s + 1
        for length, k, s, before, after, d in zip(
            size, kernel_size, spec.stride, spec.pad_before, spec.pad_after, spec.dilation
        )
    )


def conv_transpose_output_size(
    size: tuple[int, ...], kernel_size: tuple[int, ...], spec: ConvSpec, output_padding: tuple[int, ...]
) -> tuple[int, ...]:
    """(L - 1)s - before - after + d(k-1) + output_padding + 1 in each dimension."""
    return tuple(
        (length - 1) * s - before - after + d * (k - 1) + extra + 1
        for length, k, s, before, after, d, extra in zip(
            size, kernel_size, spec.stride, spec.pad_before, spec.pad_after, spec.dilation, output_padding
        )
    )


def pool_output_size(size: tuple[int, ...], spec: PoolSpec) -> tuple[int, ...]:
    """floor or ceil of (L + before + after - d(k-1) - 1) / s, plus 1.

    In ceil mode the last window is dropped if it starts at or beyond ``L + before``.
    Adaptive windows say it themselves.
    """
    if spec.output_size:
        return spec.output_size
    out = []
    for length, k, s, before, after, d in zip(
        size, spec.kernel_size, spec.stride, spec.pad_before, spec.pad_after, spec.dilation
    ):
        span = length + before + after - d * (k - 1) - 1
        count = (span + (s - 1 if spec.ceil_mode else 0)) // s + 1
        if spec.ceil_mode and (count - 1) * s >= length + before:
            count -= 1
        out.append(count)
    return tuple(out)


def largest_window(length: int, out: int) -> int:
    """The size of the largest adaptive window; 1 where there is none.

    One element more than length // out where out does not divide the length, and two where the rest of that division
    does not divide out. In sums and quotients alone: a traced graph is to hold for lengths of either kind.
    """
    if out == 0:
        return 1
    rest = length % out
    uneven = (rest + out - 1) // out  # 1 unless rest is 0
    by = rest + (1 - uneven) * out
    return length // out + uneven + (out % by + by - 1) // by


def adaptive_pool_spec(size: tuple[int, ...], output_size: tuple[int, ...]) -> PoolSpec:
    """The spec of adaptive windows from spatial size to spatial size; an average divides by a window's elements."""
    kernel = tuple(largest_window(length, out) for length, out in zip(size, output_size))
    ones, zeros = (1,) * len(size), (0,) * len(size)
    return PoolSpec(kernel, ones, zeros, zeros, ones, count_include_pad=False, output_size=output_size)


def same_padding(
    rule: str, size: tuple[int, ...], kernel_size: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(befores, afters) of a padding string.

    ``same`` (stride 1), ``same_upper`` and ``same_lower`` give ceil(L / s) outputs by
    total = max((ceil(L / s) - 1) s + d(k-1) + 1 - L, 0), TensorFlow's rule; an odd element goes behind
    (``same``, ``same_upper``) or before (``same_lower``). ``causal`` puts d(k-1) before, so that no output
    sees an input behind its own place.
    """
    befores, afters = [], []
    for length, k, s, d in zip(size, kernel_size, stride, dilation):
        reach = d * (k - 1)
        if rule == "causal":
            before, after = reach, 0
        else:
            outputs = (length + s - 1) // s
            # 'same' has stride 1, where this is d(k-1) for any L; not to read L spares a symbolic size a guard.
            total = reach if rule == "same" else max((outputs - 1) * s + reach + 1 - length, 0)
            before = (total + 1) // 2 if rule == "same_lower" else total // 2
            after = total - before
        befores.append(before)
        afters.append(after)
    return tuple(befores), tuple(afters)


def check_fit(size: tuple[int, ...], kernel_size: tuple[int, ...], spec: ConvSpec | PoolSpec) -> None:
    """RuntimeError unless the windows end exactly at the padded input's end in every dimension."""
    for dim, (length, k, s, before, after, d) in enumerate(
        zip(size, kernel_size, spec.stride, spec.pad_before, spec.pad_after, spec.dilation)
    ):
        window = d * (k - 1) + 1
        span = length + before + after - window
        if span % s != 0:
            raise RuntimeError(
                f"strict: the window doesn't fit in spatial dimension {dim}: "
                f"({length + before + after} - {window}) / {s} + 1 = {span / s + 1:.2f} is not a whole number "
                f"(input {length}, padding ({before}, {after}), "
                f"kernel_size {k}, dilation {d}, stride {s})"
            )
