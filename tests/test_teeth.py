"""The comparisons used by all other tests catch planted bugs: each test here breaks an implementation in one way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from convkit.backends.base import Backend
from convkit.testing.catalogue import CONVOLUTIONS, POOLS, TRANSPOSED
from convkit.testing.norms import NORMS, norm_calls
from convkit.testing.oracle import Call, Expectation, conv_calls, mismatch, pool_calls, transposed_calls, verify

Results = tuple[Tensor, ...]
FLOATING = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def named(cases: tuple[Any, ...], name: str) -> Any:
    return next(case for case in cases if case.name == name)


def shifted_padding(call: Call, run: Callable[[Call], Results]) -> Results:
    """The windows begin one element late; as many of them fit."""
    spec = call.spec
    before = (spec.pad_before[0] - 1, *spec.pad_before[1:])
    after = (spec.pad_after[0] + 1, *spec.pad_after[1:])
    return run(call.replace(spec=spec._replace(pad_before=before, pad_after=after)))


def dropped_channel(call: Call, run: Callable[[Call], Results]) -> Results:
    """The last input channel takes no part in the sum."""
    w = call.arguments["w"].clone()
    w[:, -1] = 0
    return run(call.replace(w=w))


def dropped_tap(call: Call, run: Callable[[Call], Results]) -> Results:
    """The filter's last element is never read."""
    w = call.arguments["w"].clone()
    w.flatten(2)[..., -1] = 0
    return run(call.replace(w=w))


def swapped_taps(call: Call, run: Callable[[Call], Results]) -> Results:
    """True convolution instead of cross-correlation."""
    return run(call.replace(w=call.arguments["w"].flip(-1)))


def forgotten_bias(call: Call, run: Callable[[Call], Results]) -> Results:
    return run(call.replace(bias=None))


def forgotten_element(call: Call, run: Callable[[Call], Results]) -> Results:
    """The last element of a result is left as the allocator gave it."""
    (right, *rest) = run(call)
    wrong = torch.empty_strided(right.shape, right.stride(), dtype=right.dtype)
    written = torch.ones(right.shape, dtype=torch.bool)
    written.flatten()[-1] = False
    return (torch.where(written, right, wrong), *rest)


def dropped_image(call: Call, run: Callable[[Call], Results]) -> Results:
    """The last image adds nothing to a sum over the batch."""
    dy = call.arguments["dy"].clone()
    dy[-1] = 0
    return run(call.replace(dy=dy))


def last_of_ties(call: Call, run: Callable[[Call], Results]) -> Results:
    """Of equal elements the last one is chosen, as a comparison with >= does."""
    y, offsets = run(call)
    window = call.spec.kernel_size[0] * call.spec.kernel_size[1]
    mirrored = call.replace(x=call.arguments["x"].flip((2, 3)))
    _, from_the_end = run(mirrored)
    return y, (window - 1 - from_the_end.flip((2, 3)).int()).to(offsets.dtype)


def padding_is_zero(call: Call, run: Callable[[Call], Results]) -> Results:
    """The padding takes part in the maximum."""
    y, *rest = run(call)
    edge = torch.zeros(y.shape, dtype=torch.bool)
    edge[:, :, 0] = True
    return (torch.where(edge, y.clamp(min=0), y), *rest)


def padding_uncounted(call: Call, run: Callable[[Call], Results]) -> Results:
    return run(call.replace(spec=call.spec._replace(count_include_pad=False)))


def overhang_counted(call: Call, run: Callable[[Call], Results]) -> Results:
    """The divisor is always the whole window."""
    window = call.spec.kernel_size[0] * call.spec.kernel_size[1]
    return run(call.replace(spec=call.spec._replace(divisor_override=window)))


def scattered_once(call: Call, run: Callable[[Call], Results]) -> Results:
    """Overlapping windows overwrite each other's gradient instead of adding."""
    dx = run(call)[0].clone()
    dy, offsets = call.arguments["dy"], call.arguments["offsets"]
    indices = run(Call("pool_indices", {k: v for k, v in call.arguments.items() if k != "dy"}))[0]
    assert offsets.shape == indices.shape
    dx.zero_().flatten(2).scatter_(2, indices.flatten(2), dy.flatten(2))
    return (dx,)


def off_by_one_offset(call: Call, run: Callable[[Call], Results]) -> Results:
    y, offsets = run(call)
    return y, offsets + 1


def next_seed(call: Call, run: Callable[[Call], Results]) -> Results:
    return run(call.replace(seed=call.arguments["seed"] + 1))


def other_order(call: Call, run: Callable[[Call], Results]) -> Results:
    """Windows are drawn from in the order of another layout: columns before rows."""
    spec = call.spec
    turned = spec._replace(**{name: getattr(spec, name)[::-1] for name in spec._fields[:5]})
    y, offsets = run(call.replace(x=call.arguments["x"].transpose(2, 3), spec=turned))
    return y.transpose(2, 3).contiguous(), offsets.transpose(2, 3).contiguous()


def negatives_counted(call: Call, run: Callable[[Call], Results]) -> Results:
    return run(call.replace(x=call.arguments["x"].abs()))


def clipped_windows_as_they_are(call: Call, run: Callable[[Call], Results]) -> Results:
    """An Lp pooling that does not scale the sums of windows that hang over the edge."""
    return run(call.replace(norm=True))


def forgotten_residual(call: Call, run: Callable[[Call], Results]) -> Results:
    return run(call.replace(residual=None))


def unbiased_variance(call: Call, run: Callable[[Call], Results]) -> Results:
    mean, var = run(call)
    count = call.arguments["x"][:, 0].numel()
    return mean, var * count / (count - 1)


def dropped_last_image(call: Call, run: Callable[[Call], Results]) -> Results:
    """A task whose sum is lost: the last image's share."""
    return run(call.replace(**{n: call.arguments[n][:-1] for n in ("dz", "x", "residual")}))


def derivative_without_residual(call: Call, run: Callable[[Call], Results]) -> Results:
    """The activation's derivative at another place than its value."""
    return run(call.replace(residual=torch.zeros_like(call.arguments["x"])))


def mean_of_the_gradient_kept(call: Call, run: Callable[[Call], Results]) -> Results:
    return run(call.replace(dbias=torch.zeros_like(call.arguments["dbias"])))


BUGS = [
    ("bn_stats", "relu_2d", unbiased_variance),
    ("bn_stats", "plane_long", forgotten_element),
    ("bn_act", "relu_residual", forgotten_residual),
    ("bn_act", "relu_residual", forgotten_element),
    ("bn_act_bwd_reduce", "batch_many_residual", dropped_last_image),
    ("bn_act_bwd_reduce", "leaky_relu_residual", derivative_without_residual),
    ("bn_act_bwd", "leaky_relu_residual", derivative_without_residual),
    ("bn_act_bwd", "relu_residual", mean_of_the_gradient_kept),
    ("bn_act_bwd", "relu_residual", forgotten_element),
    ("conv_fprop", "unequal_2d", shifted_padding),
    ("conv_fprop", "channels_deep", dropped_channel),
    ("conv_fprop", "channels_deep", dropped_tap),
    ("conv_fprop", "same_3x3", swapped_taps),
    ("conv_fprop", "same_3x3", forgotten_bias),
    ("conv_fprop", "same_3x3", forgotten_element),
    ("conv_fprop", "depthwise_7x7", dropped_tap),
    ("conv_dgrad", "unequal_2d", shifted_padding),
    ("conv_dgrad", "channels_many", dropped_channel),
    ("conv_dgrad", "dcgan_4x4", forgotten_bias),
    ("conv_dgrad", "phases_without_taps", forgotten_element),
    ("conv_wgrad", "plane_long", dropped_image),
    ("conv_wgrad", "batch_many", dropped_image),
    ("conv_wgrad", "batch_many", forgotten_element),
    ("conv_wgrad", "unequal_2d", shifted_padding),
    ("conv_bgrad", "batch_many", dropped_image),
    ("max_pool", "k3_s2_p1", shifted_padding),
    ("max_pool", "k3_s2_p1", padding_is_zero),
    ("max_pool", "k3_s2_p1", forgotten_element),
    ("max_pool", "k3_s2_p1", off_by_one_offset),
    ("max_pool", "global", last_of_ties),
    ("pool_select_bwd", "k3_s2_p1", scattered_once),
    ("pool_select_bwd", "gap", forgotten_element),
    ("pool_indices", "k3_s2_p1", shifted_padding),
    ("avg_pool", "k3_s2_p1", padding_uncounted),
    ("avg_pool", "ceil_overhang_padded", overhang_counted),
    ("avg_pool", "k3_s1_p1", shifted_padding),
    ("avg_pool_bwd", "k3_s2_p1", padding_uncounted),
    ("avg_pool_bwd", "ceil_overhang_padded", overhang_counted),
    ("avg_pool_bwd", "gap", forgotten_element),
    ("stochastic_pool", "k3_s2_p1", shifted_padding),
    ("stochastic_pool", "k3_s2_p1", next_seed),
    ("stochastic_pool", "k3_s2_p1", other_order),
    ("stochastic_pool", "k3_s2_p1", negatives_counted),
    ("stochastic_pool", "k3_s2_p1", off_by_one_offset),
    ("stochastic_pool", "gap", forgotten_element),
    ("stochastic_mean", "k3_s2_p1", shifted_padding),
    ("stochastic_mean", "k3_s2_p1", negatives_counted),
    ("stochastic_mean", "gap", forgotten_element),
    ("stochastic_mean_bwd", "k3_s2_p1", shifted_padding),
    ("stochastic_mean_bwd", "k3_s2_p1", negatives_counted),
    ("stochastic_mean_bwd", "gap", forgotten_element),
    ("lp_pool", "k3_s1_p1", shifted_padding),
    ("lp_pool", "ceil_overhang", clipped_windows_as_they_are),
    ("lp_pool_bwd", "ceil_overhang", clipped_windows_as_they_are),
    ("lp_pool_bwd", "k3_s2_p1", shifted_padding),
    ("lp_pool_bwd", "gap", forgotten_element),
]


def call_of(op: str, name: str, dtype: torch.dtype, bug: Any, reference: Backend) -> Call:
    """The first call of an operation in a case; with a bias, or with values of little variety, where a bug needs it."""
    if op.startswith("bn"):
        calls = norm_calls(named(NORMS, name), dtype)
    elif not op.startswith("conv"):
        calls = pool_calls(named(POOLS, name), dtype, reference, exact=bug is last_of_ties)
    elif any(case.name == name for case in CONVOLUTIONS):
        calls = conv_calls(named(CONVOLUTIONS, name), dtype)
    else:
        calls = transposed_calls(named(TRANSPOSED, name), dtype)
    calls = [c for c in calls if c.op == op]
    return calls[-1] if bug is forgotten_bias else calls[0]


@pytest.mark.parametrize("dtype", FLOATING, ids=lambda d: str(d).removeprefix("torch."))
@pytest.mark.parametrize(("op", "name", "bug"), BUGS, ids=lambda v: v if isinstance(v, str) else v.__name__)
def test_planted_bug_is_caught(op: str, name: str, bug: Any, dtype: torch.dtype, reference: Backend) -> None:
    call = call_of(op, name, dtype, bug, reference)

    class Broken(Backend):
        name = "broken"

        def __getattribute__(self, attribute: str) -> Any:
            if attribute != op:
                return super().__getattribute__(attribute)
            return lambda **_: bug(call, lambda changed: changed.run(reference))

    assert all(mismatch(result, expected) is None for expected, result in verify(call, reference, reference))
    found = [mismatch(result, expected) for expected, result in verify(call, Broken(), reference)]
    assert any(found), f"nothing noticed in {op} of {name}"


def test_fresh_memory_is_poisoned() -> None:
    links = 32  # a block that was free before may begin with the allocator's list pointers: garbage, too
    for count in (64, 1000, 100_000, 1_000_000):
        for dtype in FLOATING:
            t = torch.empty(count, dtype=dtype)
            assert bool((t.view(torch.uint8)[links:] == 0x7F).all()), f"{count} elements of {dtype}"
            t.zero_()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_non_finite_results_are_caught(value: float) -> None:
    exact = torch.zeros(3, dtype=torch.float64)
    expected = Expectation(exact, torch.full((3,), 1e300, dtype=torch.float64), torch.float32)
    assert mismatch(torch.zeros(3), expected) is None
    assert mismatch(torch.tensor([0, value, 0]), expected) is not None
    awaited = Expectation(torch.tensor([0, value, 0], dtype=torch.float64), expected.tolerance, torch.float32)
    assert mismatch(torch.tensor([0, value, 0]), awaited) is None
    assert mismatch(torch.zeros(3), awaited) is not None


def test_wrong_kind_of_result_is_caught() -> None:
    expected = Expectation(torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64), torch.float32)
    assert "shape" in str(mismatch(torch.zeros(4), expected))
    assert "dtype" in str(mismatch(torch.zeros(3, dtype=torch.float64), expected))
