"""What a raw operation must return: calls made from the catalogue, the float64 oracle, and the comparison.

A :class:`Call` names a raw operation and its arguments. :func:`expect` computes the result from the ``reference``
backend in float64 (integers in int64) together with the bound of ``tolerances``, and :func:`mismatch` and
:func:`error` compare a result with it.
"""

from __future__ import annotations

import ctypes
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from convkit.backends.base import Backend, bundled
from convkit.backends.gpu import tf32_allowed
from convkit.problem import ConvSpec, PoolSpec, largest_window
from convkit.testing.cases import ConvCase, PoolCase, TransposedCase
from convkit.testing.layouts import LAYOUTS
from convkit.testing.norm_bounds import NORM_OPS, norm_expectations
from convkit.testing.tolerances import LP_SLOPE, activated, root_of_sum, summation, tensor_core_error

#: Raw operations whose results are chosen or counted, never rounded.
EXACT_OPS = (
    *("max_pool", "pool_select", "pool_indices", "max_unpool", "plane_gather", "fractional_max_pool"),
    "stochastic_pool",
)
#: Those that return (a value, what names its element).
CHOOSING_OPS = ("max_pool", "fractional_max_pool", "stochastic_pool")
#: The argument of an operation without which its second result is a place holder, where it is not ``with_indices``.
_PLACE_HOLDERS = {"max_pool": "offsets", "bn_act_bwd": "with_residual"}
#: Arguments that name elements or seed a draw, and are no data.
NAMES = ("offsets", "indices", "seed")

Sizes = tuple[int, ...]


class Call(NamedTuple):
    """One call of a raw operation; ``arguments`` by the names of ``Backend``'s methods and of a norm's members."""

    op: str
    arguments: dict[str, Any]

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the data (for pool_indices, of the offsets)."""
        return next(a for a in self.arguments.values() if isinstance(a, Tensor)).dtype

    @property
    def spec(self) -> Any:
        return self.arguments.get("spec")

    def run(self, backend: Backend) -> tuple[Tensor, ...]:
        result = getattr(backend, self.op)(**bundled(self.arguments))
        return result if isinstance(result, tuple) else (result,)

    def replace(self, **changes: Any) -> Call:
        return Call(self.op, {**self.arguments, **changes})


class Expectation(NamedTuple):
    """The exact result, and how far a result in ``dtype`` may lie from it; None: not at all."""

    value: Tensor
    tolerance: Tensor | None
    dtype: torch.dtype


# --- data ----------------------------------------------------------------------------------------------------


def data(shape: tuple[int, ...], dtype: torch.dtype, seed: str, exact: bool = False) -> Tensor:
    """Reproducible values of order 1. ``exact``: small integers, whose sums of products no format rounds.

    Integers lie in [-3, 3] (unsigned: [0, 6]), so that windows hold ties.
    """
    generator = torch.Generator().manual_seed(zlib.crc32(seed.encode()))
    if dtype.is_complex:
        real = torch.float64
        parts = [data(shape, real, f"{seed} {part}", exact) for part in ("real", "imaginary")]
        return torch.complex(*parts).to(dtype)
    if exact or not dtype.is_floating_point:
        values = torch.randint(-3, 4, shape, generator=generator)
        return (values + 3 if dtype == torch.uint8 else values).to(dtype)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def conv_calls(case: ConvCase, dtype: torch.dtype, layout: str = "contiguous", exact: bool = False) -> list[Call]:
    """fprop with and without bias, dgrad, wgrad and bgrad of one case."""
    x = LAYOUTS[layout](data(case.input, dtype, case.name + " x", exact))
    w = LAYOUTS[layout](data(case.weight, dtype, case.name + " w", exact))
    dy = LAYOUTS[layout](data(case.output, dtype, case.name + " dy", exact))
    bias = data(case.weight[:1], dtype, case.name + " bias", exact)
    common = {"spec": case.spec, "channels_last": layout == "channels_last"}
    plain = {"bias": None, "scale": None, "residual": None, **common}
    return [
        Call("conv_fprop", {"x": x, "w": w, **plain}),
        Call("conv_fprop", {"x": x, "w": w, **plain, "bias": bias}),
        Call("conv_dgrad", {"dy": dy, "w": w, "input_size": case.input[2:], **plain}),
        Call("conv_wgrad", {"dy": dy, "x": x, "kernel_size": case.weight[2:], **common}),
        Call("conv_bgrad", {"dy": dy}),
    ]


def transposed_calls(
    case: TransposedCase, dtype: torch.dtype, layout: str = "contiguous", exact: bool = False
) -> list[Call]:
    """dgrad used forwards, with a bias, and its two gradients: fprop and wgrad."""
    x = LAYOUTS[layout](data(case.input, dtype, case.name + " x", exact))
    w = LAYOUTS[layout](data(case.weight, dtype, case.name + " w", exact))
    dy = LAYOUTS[layout](data(case.output, dtype, case.name + " dy", exact))
    bias = data((case.output[1],), dtype, case.name + " bias", exact)
    common = {"spec": case.spec, "channels_last": layout == "channels_last"}
    plain = {"bias": None, "scale": None, "residual": None, **common}
    return [
        Call("conv_dgrad", {"dy": x, "w": w, "input_size": case.output[2:], **plain, "bias": bias}),
        Call("conv_fprop", {"x": dy, "w": w, **plain}),
        Call("conv_wgrad", {"dy": x, "x": dy, "kernel_size": case.weight[2:], **common}),
    ]


def pool_calls(
    case: PoolCase, dtype: torch.dtype, reference: Backend, layout: str = "contiguous", exact: bool = False
) -> list[Call]:
    """max_pool with and without offsets, the three operations on its offsets, the average pair and the Lp pairs."""
    x = LAYOUTS[layout](data(case.input, dtype, case.name + " x", exact))
    dy = LAYOUTS[layout](data(case.output, dtype, case.name + " dy", exact))
    common = {"spec": case.spec, "channels_last": layout == "channels_last"}
    largest = Call("max_pool", {"x": x, "offsets": True, **common})
    offsets = LAYOUTS[layout](_right(largest, reference)[1])
    slides = not case.spec.output_size
    drawn = stochastic_calls(case, x, dy, reference, layout) if slides and dtype.is_floating_point else []
    backward = {"input_size": case.input[2:], **common}
    return [
        largest,
        largest.replace(offsets=False),
        Call("pool_select", {"x": x, "offsets": offsets, **common}),
        Call("pool_select_bwd", {"dy": dy, "offsets": offsets, **backward}),
        Call("pool_indices", {"offsets": offsets, **backward}),
        Call("avg_pool", {"x": x, **common}),
        Call("avg_pool_bwd", {"dy": dy, **backward}),
        *drawn,
        *(_lp_calls(x, dy, common, reference) if dtype.is_floating_point and not case.spec.output_size else ()),
    ]


def stochastic_calls(case: PoolCase, x: Tensor, dy: Tensor, reference: Backend, layout: str) -> list[Call]:
    """A draw, the three operations on its offsets (some name no element), and the expectation with its gradient."""
    common = {"spec": case.spec, "channels_last": layout == "channels_last"}
    seed = torch.tensor(zlib.crc32(case.name.encode()) << 31 | 1)
    draw = Call("stochastic_pool", {"x": x, "seed": seed, **common})
    mean = Call("stochastic_mean", {"x": x, **common})
    offsets = LAYOUTS[layout](_right(draw, reference)[1])
    y = LAYOUTS[layout](_right(mean, reference)[0])
    return [
        draw,
        Call("pool_select", {"x": x, "offsets": offsets, **common}),
        Call("pool_select_bwd", {"dy": dy, "offsets": offsets, "input_size": case.input[2:], **common}),
        Call("pool_indices", {"offsets": offsets, "input_size": case.input[2:], **common}),
        mean,
        Call("stochastic_mean_bwd", {"dy": dy, "x": x, "y": y, **common}),
    ]


def _lp_calls(x: Tensor, dy: Tensor, common: dict[str, Any], reference: Backend) -> list[Call]:
    """Both semantics, with powers that have a shorter way and one that has none, as a number and as a tensor."""
    found = []
    for p, norm, tensor in ((2.0, False, False), (3.0, True, False), (2.5, True, True)):
        exponent = torch.tensor(p, dtype=torch.float64) if tensor else None
        power: dict[str, Any] = {"exponent": exponent, "p": 0.0 if tensor else p, "norm": norm}
        root = Call("lp_pool", {"x": x, **power, **common})
        y = LAYOUTS["channels_last" if common["channels_last"] else "contiguous"](_right(root, reference)[0])
        found += [root, Call("lp_pool_bwd", {"dy": dy, "x": x, "y": y, **power, **common})]
    return found


def _right(call: Call, reference: Backend) -> tuple[Tensor, ...]:
    """The results of a call as its dtype holds them, contiguous, for calls that take copies of them."""
    return tuple(e.value.to(e.dtype).contiguous() for e in expect(call, reference))


# --- the oracle ------------------------------------------------------------------------------------------------


def wide(dtype: torch.dtype) -> torch.dtype:
    """The widest dtype of the same kind, in which the oracle computes."""
    return torch.complex128 if dtype.is_complex else torch.float64 if dtype.is_floating_point else torch.int64


def _map(call: Call, f: Any) -> Call:
    """``f`` applied to every data tensor of the call; offsets, indices and seeds stay as they are."""
    changed = {k: f(a) if isinstance(a, Tensor) and k not in NAMES else a for k, a in call.arguments.items()}
    return Call(call.op, changed)


def magnitude(call: Call) -> Call:
    """The same operation on absolute values, whose result bounds every partial sum."""
    if call.op == "stochastic_mean":
        return call  # of positive elements alone
    if call.op == "stochastic_mean_bwd":  # dy (2 x - y) / s: x as it is, its sign decides what counts
        return call.replace(dy=call.arguments["dy"].abs(), y=-call.arguments["y"].abs())
    absolute = _map(call, torch.abs)
    spec = call.spec
    if isinstance(spec, ConvSpec):
        absolute = absolute.replace(spec=spec._replace(activation=0))
    elif isinstance(spec, PoolSpec):
        absolute = absolute.replace(spec=spec._replace(divisor_override=abs(spec.divisor_override)))
    return absolute


def _product(sizes: tuple[int, ...]) -> int:
    result = 1
    for size in sizes:
        result *= size
    return result


def terms(call: Call) -> int:
    """The largest number of products (or summands) in one element of the result."""
    a = call.arguments
    if call.op == "conv_fprop":
        return _product(a["w"].shape[1:])
    if call.op == "conv_dgrad":
        return _product(a["w"].shape[2:]) * (a["w"].shape[0] // a["spec"].groups)
    if call.op == "plane_scatter":
        indices = a["indices"].flatten(2)
        named = indices.clamp(0, _product(a["input_size"]) - 1)
        most = torch.zeros(*indices.shape[:2], _product(a["input_size"])).scatter_add(2, named, torch.ones(named.shape))
        return max(1, int(most.max())) if most.numel() else 1
    if call.op in ("conv_wgrad", "conv_bgrad"):
        return a["dy"].shape[0] * _product(a["dy"].shape[2:])
    spec = a["spec"]
    if spec.output_size and call.op.endswith("bwd"):
        return _product(tuple(largest_window(out, n) for out, n in zip(spec.output_size, a["input_size"])))
    return _product(spec.kernel_size)  # a window's elements; as many sliding windows at most share one element


def divided_roundings(call: Call) -> int:
    """The roundings that a division adds to those of the sum above it."""
    if call.op.startswith("avg"):
        return 2  # perhaps by multiplying with a rounded reciprocal
    if call.op.startswith("stochastic"):  # the divisor is a sum of as many terms, and the terms are products
        return _product(call.spec.kernel_size) + 4
    return 0


def _epilogue_roundings(call: Call) -> int:
    return sum(call.arguments.get(name) is not None for name in ("bias", "scale", "residual"))


def product_error(call: Call, backend: Backend) -> float:
    """The relative error of one product of a convolution before it is added."""
    spec = call.spec
    on_gpu = next(a for a in call.arguments.values() if isinstance(a, Tensor)).is_cuda
    if not (on_gpu or backend.name == "simt") or call.dtype != torch.float32 or not isinstance(spec, ConvSpec):
        return 0.0
    named = backend.algorithms()[spec.algorithm - 1] if spec.algorithm else ""
    return tensor_core_error(
        named in ("conv_igemm_tf32", "conv_igemm_packed_tf32") or spec.allow_tf32 or (on_gpu and tf32_allowed())
    )


#: What :func:`expect` computed last: the layouts of one case share their values.
_expected: dict[Any, tuple[Expectation, ...]] = {}
_MOST_EXPECTED = 256


def _worth_keeping(call: Call) -> bool:
    """Small problems on the CPU, of which tests have many; a benchmark's are neither small nor met twice."""
    tensors = [a for a in call.arguments.values() if isinstance(a, Tensor)]
    return all(a.device.type == "cpu" and a.numel() <= 1 << 20 for a in tensors)


def _values(call: Call) -> Any:
    """What the results of a call depend on: of its tensors the elements, not their places in memory."""

    def value(a: Any) -> Any:
        if isinstance(a, Tensor):
            dense = torch.empty(a.numel(), dtype=a.dtype).copy_(a.reshape(-1))
            # By address: tensors give their bytes to numpy alone, which torch does not need.
            bytes_ = dense.numel() * dense.element_size()
            return a.dtype, a.shape, ctypes.string_at(dense.data_ptr(), bytes_) if bytes_ else b""
        return a

    return call.op, tuple((name, value(a)) for name, a in call.arguments.items() if name != "channels_last")


def expect(call: Call, reference: Backend, product: float = 0.0) -> tuple[Expectation, ...]:
    """The oracle's results for one call, each with its admissible error; ``product``: that of one product, relative."""
    if not _worth_keeping(call):
        return _expect(call, reference, product)
    key = (reference, _values(call), product)
    if key not in _expected:
        if len(_expected) >= _MOST_EXPECTED:
            _expected.pop(next(iter(_expected)))
        _expected[key] = _expect(call, reference, product)
    return _expected[key]


def _expect(call: Call, reference: Backend, product: float) -> tuple[Expectation, ...]:
    dtype = call.dtype
    if call.op in NORM_OPS:
        return tuple(Expectation(*e) for e in norm_expectations(call.op, call.arguments, dtype, reference))
    # A choice needs no wider type; and the maximum of an empty window is the least value of the type itself.
    values = _map(call, lambda t: t.to(dtype if call.op in EXACT_OPS else wide(dtype))).run(reference)
    if call.op in CHOOSING_OPS:
        return (Expectation(values[0], None, dtype), Expectation(values[1], None, values[1].dtype))
    if call.op == "pool_indices":
        return (Expectation(values[0], None, torch.int64),)
    if call.op in EXACT_OPS or not (dtype.is_floating_point or dtype.is_complex):
        return (Expectation(values[0], None, dtype),)
    if call.op == "lp_pool":
        a = call.arguments
        p = a["p"] if a["exponent"] is None else float(a["exponent"])
        return (Expectation(values[0], root_of_sum(values[0], terms(call), p, dtype), dtype),)
    (size,) = _map(magnitude(call), lambda t: t.to(torch.float64)).run(reference)
    more = LP_SLOPE if call.op == "lp_pool_bwd" else divided_roundings(call) + _epilogue_roundings(call)
    inner = values[0]
    if isinstance(call.spec, ConvSpec) and call.spec.activation != 0:
        plain = call.replace(spec=call.spec._replace(activation=0))
        (inner,) = _map(plain, lambda t: t.to(wide(dtype))).run(reference)
    tolerance = summation(values[0], size, terms(call), dtype, more) + product * size
    if isinstance(call.spec, ConvSpec):
        tolerance = activated(inner, tolerance, call.spec.activation, call.spec.alpha, dtype)
    return (Expectation(values[0], tolerance, dtype),)


def verify(call: Call, backend: Backend, reference: Backend) -> Iterator[tuple[Expectation, Tensor]]:
    """Runs a call on a backend and pairs each result with what is expected of it."""
    yield from judge(call, call.run(backend), backend, reference)


def judge(
    call: Call, results: tuple[Tensor, ...], backend: Backend, reference: Backend
) -> Iterator[tuple[Expectation, Tensor]]:
    """The same of results that the backend gave already."""
    if call.op == "conv_fprop_stats":  # statistics are those of the result as it is, with its rounding errors
        plain = Call("conv_fprop", {**call.arguments, "scale": None, "residual": None})
        expectations = expect(plain, reference, product_error(call, backend))
        expectations += expect(Call("bn_stats", {"x": results[0]}), reference)
    else:
        expectations = expect(call, reference, product_error(call, backend))
    if call.arguments.get(_PLACE_HOLDERS.get(call.op, "with_indices")) is False:
        expectations = expectations[:1]
    yield from zip(expectations, results)


# --- the comparison --------------------------------------------------------------------------------------------


def error(actual: Tensor, expected: Expectation) -> float:
    """The largest error in units of the admissible one: at most 1 for a correct result, inf for a wrong kind.

    NaN must meet NaN and infinities themselves; where nothing may be rounded every deviation is infinite.
    """
    if actual.shape != expected.value.shape or actual.dtype != expected.dtype:
        return float("inf")
    if actual.numel() == 0:
        return 0.0
    if not (actual.dtype.is_floating_point or actual.dtype.is_complex):
        return 0.0 if torch.equal(actual, expected.value.to(actual.dtype)) else float("inf")
    a, e = actual.to(wide(actual.dtype)), expected.value.to(wide(actual.dtype))
    same = (a == e) | (a.isnan() & e.isnan())
    if expected.tolerance is None:
        return 0.0 if bool(same.all()) else float("inf")
    ratio = (a - e).abs() / expected.tolerance
    ratio = torch.where(same, torch.zeros_like(ratio), ratio)
    # A NaN compares as false with everything: it must not pass for a small error.
    return float(torch.where(ratio.isnan(), torch.full_like(ratio, float("inf")), ratio).max())


def mismatch(actual: Tensor, expected: Expectation) -> str | None:
    """None, or what is wrong with a result: the place of its worst element, the values and the bound."""
    if actual.shape != expected.value.shape:
        return f"shape {tuple(actual.shape)} instead of {tuple(expected.value.shape)}"
    if actual.dtype != expected.dtype:
        return f"dtype {actual.dtype} instead of {expected.dtype}"
    worst = error(actual, expected)
    if worst <= 1:
        return None
    a, e = actual.to(wide(actual.dtype)), expected.value.to(wide(actual.dtype))
    difference = torch.where((a == e) | (a.isnan() & e.isnan()), torch.zeros_like(a), a - e).abs().double()
    if expected.tolerance is not None:
        difference = difference / expected.tolerance
    flat = int(torch.where(difference.isnan(), torch.full_like(difference, float("inf")), difference).argmax())
    place = tuple(int(i) for i in torch.unravel_index(torch.tensor(flat), actual.shape))
    allowed = "exactly" if expected.tolerance is None else f"within {expected.tolerance[place].item():.3g}"
    wrong = int((difference > (0 if expected.tolerance is None else 1)).sum())
    return (
        f"{wrong} of {a.numel()} elements are wrong; the worst, at {place}, is {a[place].item()!r} "
        f"instead of {e[place].item()!r} {allowed} ({worst:.3g} times the admissible error)"
    )
