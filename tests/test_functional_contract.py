"""The drop-in contract of the functionals, clause by clause; every test's id names its clause.

B1 convolutions, B2 transposed convolutions, B3 maximum pooling, B5 average pooling, B8 what convkit adds,
B9 where PyTorch is wrong. Random comparison with PyTorch is in test_differential.py.
"""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import convkit.functional as CF

INF, NAN = float("inf"), float("nan")
SPACE = {1: (9,), 2: (8, 8), 3: (6, 6, 6)}


def op(module: Any, name: str, n: int) -> Any:
    return getattr(module, f"{name}{n}d")


def whole(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    g = torch.Generator().manual_seed(sum(shape))
    return torch.randint(-2, 3, shape, generator=g).to(dtype)


def operands(n: int, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return whole(2, 4, *SPACE[n], dtype=dtype), whole(6, 4, *(3,) * n, dtype=dtype), whole(6, dtype=dtype)


def raises_alike(call: Any, kind: type[Exception], text: str) -> str:
    """convkit raises exactly ``kind`` with a message that starts with ``text``; returns the message."""
    with pytest.raises(kind) as caught:
        call(CF)
    assert type(caught.value) is kind
    assert str(caught.value).startswith(text), str(caught.value)
    return str(caught.value)


each_dim = pytest.mark.parametrize("n", [1, 2, 3], ids=["1d", "2d", "3d"])


# One row per clause: its name, the call, the exception, the start of PyTorch's message.
# A row is a line, to be read beside the next, however long.
# fmt: off
# ruff: noqa: E501
CONV_ERRORS = [
    ("B1.1-dims", lambda f, n, x, w, b: f(x[0, 0], w), RuntimeError, lambda n: f"Expected {n + 1}D (unbatched) or {n + 2}D (batched) input to conv{n}d, but got input of size: ["),
    ("B1.2-stride-length", lambda f, n, x, w, b: f(x, w, stride=(2,) * (n + 1)), RuntimeError, lambda n: f"expected stride to be a single integer value or a list of {n} values to match the convolution dimensions, but got stride="),
    ("B1.2-padding-length", lambda f, n, x, w, b: f(x, w, padding=(2,) * (n + 1)), RuntimeError, lambda n: f"expected padding to be a single integer value or a list of {n} values"),
    ("B1.2-dilation-length", lambda f, n, x, w, b: f(x, w, dilation=[]), RuntimeError, lambda n: f"expected dilation to be a single integer value or a list of {n} values"),
    ("B1.2-float", lambda f, n, x, w, b: f(x, w, stride=1.0), TypeError, lambda n: f"conv{n}d() received an invalid combination of arguments - got (Tensor, Tensor, stride=float)"),
    ("B1.2-bool", lambda f, n, x, w, b: f(x, w, groups=True), TypeError, lambda n: f"conv{n}d() received an invalid combination of arguments"),
    ("B1.3-channels", lambda f, n, x, w, b: f(x[:, :3], w), RuntimeError, lambda n: "Given groups=1, weight of size [6, 4, 3"),
    ("B1.3-groups-divide", lambda f, n, x, w, b: f(x, w[:5], groups=2), RuntimeError, lambda n: "Given groups=2, expected weight to be divisible by 2 at dimension 0, but got weight of size [[5, 4"),
    ("B1.3-groups-zero", lambda f, n, x, w, b: f(x, w, groups=0), RuntimeError, lambda n: "non-positive groups is not supported"),
    ("B1.3-stride-zero", lambda f, n, x, w, b: f(x, w, stride=0), RuntimeError, lambda n: "non-positive stride is not supported"),
    ("B1.3-dilation-zero", lambda f, n, x, w, b: f(x.float(), w.float(), dilation=0), RuntimeError, lambda n: "non-positive dilation is not supported"),
    ("B1.3-padding-negative", lambda f, n, x, w, b: f(x, w, padding=-1), RuntimeError, lambda n: "negative padding is not supported"),
    ("B1.3-kernel-larger", lambda f, n, x, w, b: f(x, w, dilation=5), RuntimeError, lambda n: "Calculated padded input size per channel: ("),
    ("B1.3-bias-size", lambda f, n, x, w, b: f(x, w, b[:5]), RuntimeError, lambda n: "Given weight of size [6, 4, 3"),
    ("B1.3-bias-dtype", lambda f, n, x, w, b: f(x.float(), w.float(), b), RuntimeError, lambda n: "Input type (float) and bias type (double) should be the same"),
    ("B1.3-weight-dtype", lambda f, n, x, w, b: f(x, w.float()), RuntimeError, lambda n: "expected scalar type Double but found Float"),
    ("B1.3-weight-dtype-half", lambda f, n, x, w, b: f(x.bfloat16(), w), RuntimeError, lambda n: "Input type (CPUBFloat16Type) and weight type (torch.DoubleTensor) should be the same"),
    ("B1.3-weight-dims", lambda f, n, x, w, b: f(x, w[(0,) * n]), RuntimeError, lambda n: "weight should have at least three dimensions"),
    ("B1.4-upper-case", lambda f, n, x, w, b: f(x, w, padding="SAME"), RuntimeError, lambda n: "Invalid padding string: 'SAME'"),
    ("B1.4-same-strided", lambda f, n, x, w, b: f(x, w, padding="same", stride=2), RuntimeError, lambda n: "padding='same' is not supported for strided convolutions"),
    ("B1.7-no-outputs", lambda f, n, x, w, b: f(x, w[:0]), RuntimeError, lambda n: "Given groups=1, expected weight to be at least 1 at dimension 0, but got weight of size [0, 4"),
    ("B1.7-no-space", lambda f, n, x, w, b: f(x[..., :0], w, padding=3), RuntimeError, lambda n: "Only zero batch or zero channel inputs are supported, but got input shape: ["),
    ("B1.8-bool", lambda f, n, x, w, b: f(x.bool(), w.bool()), NotImplementedError, lambda n: "\"compute_columns3d\" not implemented for 'Bool'" if n == 3 else "\"slow_conv2d_cpu\" not implemented for 'Bool'"),
]
TRANSPOSED_ERRORS = [
    ("B2.1-too-small", lambda f, n, x, w, b: f(x, w, padding=12), RuntimeError, lambda n: "Given input size per channel: ("),
    ("B2.2-output-padding", lambda f, n, x, w, b: f(x, w, stride=2, output_padding=2), RuntimeError, lambda n: "output padding must be smaller than either stride or dilation, but got output_padding_"),
    ("B2.2-negative", lambda f, n, x, w, b: f(x, w, output_padding=-1), RuntimeError, lambda n: "negative output_padding is not supported"),
    ("B2.4-string", lambda f, n, x, w, b: f(x, w, padding="same"), TypeError, lambda n: f"conv_transpose{n}d(): argument 'padding' must be tuple of ints, not str"),
    ("B2.1-channels", lambda f, n, x, w, b: f(x[:, :3], w), RuntimeError, lambda n: "Given transposed=1, weight of size [4, 6, 3"),
    ("B2.1-bias", lambda f, n, x, w, b: f(x, w, b[:4]), RuntimeError, lambda n: "Given transposed=1, weight of size [4, 6, 3"),
]
MAX_ERRORS = [
    ("B3.2-pad", lambda f, n, x: f(x, 2, padding=2), lambda n: "max_pool1d() padding should be at most half of kernel size, but got padding=2 and kernel_size=2" if n == 1 else "pad should be at most half of effective kernel size, but got pad=2, kernel_size=2 and dilation=1"),
    ("B3.2-pad-undilated", lambda f, n, x: f(x, 3, padding=2, dilation=2), lambda n: "max_pool1d() padding should be" if n == 1 else "pad should be smaller than or equal to half of kernel size, but got "),
    ("B3.3-kernel-zero", lambda f, n, x: f(x, 0), lambda n: "max_pool1d() kernel_size must be greater than zero, but got 0" if n == 1 else "stride should not be zero"),
    ("B3.3-kernel-length", lambda f, n, x: f(x, (2,) * (n + 1)), lambda n: f"max_pool{n}d"),
    ("B3.7-no-space", lambda f, n, x: f(x[..., :0], 2), lambda n: {1: "max_pool1d: Expected 2D or 3D (batch mode) tensor with optional 0 dim batch size for input, but got:[2, 4, 0]", 2: "Expected 3D or 4D (batch mode) tensor with optional 0 dim batch size for input, but got:[2, 4, 8, 0]", 3: "max_pool3d_with_indices_out_cpu_template(): Expected input's non-batch dimensions to have positive length, but input has a shape of [2, 4, 6, 6, 0]"}[n]),
    ("B3.7-no-channels", lambda f, n, x: f(x[:, :0], 2), lambda n: {1: "max_pool1d: Expected 2D or 3D", 2: "Expected 3D or 4D (batch mode) tensor", 3: "max_pool3d_with_indices_out_cpu_template(): Expected input's non-batch"}[n]),
    ("B3.7-too-small", lambda f, n, x: f(x, 10), lambda n: "max_pool1d() Invalid computed output size: 0" if n == 1 else "Given input size: (4x"),
]
AVG_ERRORS = [
    ("B5.5-pad", lambda f, n, x: f(x, 2, padding=2), lambda n: "pad should be at most half of effective kernel size, but got pad=2, kernel_size=2 and dilation=1"),
    ("B5.1-kernel-zero", lambda f, n, x: f(x, 0), lambda n: "stride should not be zero"),
    ("B5.1-too-small", lambda f, n, x: f(x, 10), lambda n: "input image (T: 6 H: 6 W: 6) smaller than kernel size (kT: 10 kH: 10 kW: 10)" if n == 3 else "Given input size: (4x"),
]
# fmt: on


def table(rows: list[Any]) -> Any:
    return pytest.mark.parametrize(("call", "kind", "text"), [pytest.param(*row[1:], id=row[0]) for row in rows])


def short_table(rows: list[Any]) -> Any:
    return pytest.mark.parametrize(("call", "text"), [pytest.param(*row[1:], id=row[0]) for row in rows])


@each_dim
@table(CONV_ERRORS)
def test_conv_errors(n: int, call: Any, kind: type[Exception], text: Any) -> None:
    x, w, b = operands(n)
    raises_alike(lambda module: call(op(module, "conv", n), n, x, w, b), kind, text(n))


@each_dim
@table(TRANSPOSED_ERRORS)
def test_conv_transpose_errors(n: int, call: Any, kind: type[Exception], text: Any) -> None:
    x, w, b = operands(n)
    raises_alike(lambda module: call(op(module, "conv_transpose", n), n, x, w.transpose(0, 1), b), kind, text(n))


@each_dim
@short_table(MAX_ERRORS)
def test_max_pool_errors(n: int, call: Any, text: Any) -> None:
    x, _, _ = operands(n)
    raises_alike(lambda module: call(op(module, "max_pool", n), n, x), RuntimeError, text(n))


@each_dim
@short_table(AVG_ERRORS)
def test_avg_pool_errors(n: int, call: Any, text: Any) -> None:
    x, _, _ = operands(n)
    raises_alike(lambda module: call(op(module, "avg_pool", n), n, x), RuntimeError, text(n))


@each_dim
@pytest.mark.parametrize("name", ["conv", "conv_transpose", "max_pool", "avg_pool"], ids=lambda s: f"B1.1-{s}")
def test_unbatched_is_a_batch_of_one(n: int, name: str) -> None:
    x, w, b = operands(n)
    rest = {"conv": (w, b), "conv_transpose": (w.transpose(0, 1), b)}.get(name, (2,))
    f = op(CF, name, n)
    assert torch.equal(f(x[0], *rest), f(x[:1], *rest)[0])


@pytest.mark.parametrize(
    ("length", "kernel", "stride", "padding", "dilation", "ceil", "expected"),
    [(7, 3, 3, 0, 1, False, 2), (7, 3, 3, 0, 1, True, 3), (3, 1, 3, 0, 1, True, 1), (9, 3, 2, 1, 2, False, 4)],
    ids=["B3.1-floor", "B3.1-ceil", "B3.1-last-window-dropped", "B1.6-dilated"],
)
def test_output_size(
    length: int, kernel: int, stride: int, padding: int, dilation: int, ceil: bool, expected: int
) -> None:
    x = whole(1, 1, length)
    assert CF.max_pool1d(x, kernel, stride, padding, dilation, ceil).shape[-1] == expected
    if not ceil:
        assert CF.conv1d(x, whole(1, 1, kernel), None, stride, padding, dilation).shape[-1] == expected


@each_dim
@pytest.mark.parametrize("kernel", [2, 3, 4], ids=["B1.4-even", "B1.4-odd", "B1.4-four"])
def test_same_keeps_the_size_and_puts_the_extra_behind(n: int, kernel: int) -> None:
    x, w = whole(2, 4, *SPACE[n]), whole(6, 4, *(kernel,) * n)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = op(F, "conv", n)(x, w, padding="same", dilation=2)
    assert torch.equal(op(CF, "conv", n)(x, w, padding="same", dilation=2), expected)
    total = 2 * (kernel - 1)
    pairs = ((total // 2, total - total // 2),) * n
    assert torch.equal(op(CF, "conv", n)(x, w, padding=pairs, dilation=2), expected)
    assert expected.shape[2:] == x.shape[2:]


@each_dim
@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"], ids=lambda m: f"B1.5-{m}")
def test_padding_modes(n: int, mode: str) -> None:
    x, w, b = operands(n)
    pad = [v for p in reversed(range(1, n + 1)) for v in (p, p)]
    expected = op(F, "conv", n)(F.pad(x, pad, mode=mode), w, b)
    ours = op(CF, "conv", n)(x, w, b, padding=tuple(range(1, n + 1)), padding_mode=mode)
    assert torch.equal(ours, expected)
    unbatched = op(CF, "conv", n)(x[0], w, b, padding=tuple(range(1, n + 1)), padding_mode=mode)
    assert torch.equal(unbatched, expected[0])


@each_dim
@pytest.mark.parametrize(
    ("mode", "text"),
    [
        ("reflect", "Padding size should be less than the corresponding input dimension"),
        ("circular", "Padding value causes wrapping around more than once."),
    ],
    ids=["B1.5-reflect-too-far", "B1.5-circular-too-far"],
)
def test_padding_modes_have_limits(n: int, mode: str, text: str) -> None:
    x, w, _ = operands(n)
    raises_alike(lambda module: op(module, "conv", n)(x, w, padding=10, padding_mode=mode), RuntimeError, text)
    assert op(CF, "conv", n)(x[..., :3], w, padding=10, padding_mode="replicate").shape[-1] == 21


@each_dim
def test_mean_padding_continues_each_channel_by_its_mean(n: int) -> None:
    x, w, b = operands(n)
    middle = tuple(slice(1, -2) for _ in range(n))
    padded = x.mean(dim=tuple(range(2, n + 2)), keepdim=True).expand(2, 4, *(s + 3 for s in SPACE[n])).clone()
    padded[(..., *middle)] = x
    ours = op(CF, "conv", n)(x, w, b, padding=((1, 2),) * n, padding_mode="mean")
    torch.testing.assert_close(ours, op(F, "conv", n)(padded, w, b))


@each_dim
def test_empty_batch_and_no_input_channels(n: int) -> None:
    x, w, b = operands(n)
    assert op(CF, "conv", n)(x[:0], w).shape == op(F, "conv", n)(x[:0], w).shape
    out = op(CF, "conv", n)(x[:, :0], w[:, :0], b)  # PyTorch loses the output channels here
    assert out.shape == (2, 6, *(s - 2 for s in SPACE[n]))
    assert torch.equal(out, b.view(-1, *(1,) * n).expand_as(out))


@each_dim
@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int32, torch.int64], ids=lambda d: f"B1.8-{d}"[:15])
def test_integers_accumulate_in_their_own_type(n: int, dtype: torch.dtype) -> None:
    x, w, b = (t.to(dtype) for t in operands(n))
    assert torch.equal(op(CF, "conv", n)(x * 50, w * 30, b), op(F, "conv", n)(x * 50, w * 30, b))


@pytest.mark.parametrize("n", [2, 3], ids=["2d", "3d"])
@pytest.mark.parametrize("which", ["input", "weight", "both"], ids=lambda s: f"B1.9-{s}")
def test_channels_last_of_either_operand_makes_the_result_so(n: int, which: str) -> None:
    layout = torch.channels_last if n == 2 else torch.channels_last_3d
    x, w, b = operands(n, torch.float32)
    x = x.contiguous(memory_format=layout) if which != "weight" else x
    w = w.contiguous(memory_format=layout) if which != "input" else w
    out = op(CF, "conv", n)(x, w, b)
    assert out.is_contiguous(memory_format=layout)
    w.requires_grad_()
    (grad,) = torch.autograd.grad(op(CF, "conv", n)(x, w, b).sum(), w)
    assert grad.stride() == w.stride()


@each_dim
@pytest.mark.parametrize("name", ["conv", "conv_transpose"], ids=lambda s: f"B1.11-{s}")
@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_autocast_casts_convolutions_alone(n: int, name: str, low: torch.dtype) -> None:
    x, w, b = operands(n, torch.float32)
    w = w if name == "conv" else w.transpose(0, 1)
    with torch.autocast("cpu", dtype=low):
        ours, theirs = op(CF, name, n)(x, w, b), op(F, name, n)(x, w, b)
        assert ours.dtype == theirs.dtype == low
        assert op(CF, name, n)(x.double(), w.double(), b.double()).dtype == torch.float64
        assert op(CF, "max_pool", n)(x, 2).dtype == op(CF, "avg_pool", n)(x, 2).dtype == torch.float32
    assert torch.equal(ours.float(), theirs.float())


@each_dim
def test_weights_and_biases_elsewhere_raise(n: int) -> None:
    x, w, b = operands(n)
    for call in (
        lambda f: f(x, w.to("meta")),
        lambda f: f(x.to("meta"), w),
        lambda f: f(x, w, b.to("meta")),
        lambda f: f(x, w.transpose(0, 1).to("meta")) if "transpose" in f.__name__ else f(x, w.to("meta")),
    ):
        with pytest.raises(RuntimeError, match="should be the same"):
            call(op(CF, "conv", n))
    with pytest.raises(RuntimeError, match="bias type"):
        op(CF, "conv_transpose", n)(x, w.transpose(0, 1), b.float())


@each_dim
def test_transposed_groups_stand_before_dilation(n: int) -> None:
    x, w = whole(2, 4, *SPACE[n]), whole(4, 3, *(3,) * n)
    expected = op(F, "conv_transpose", n)(x, w, None, 2, 1, 1, 2, 3)
    assert torch.equal(op(CF, "conv_transpose", n)(x, w, None, 2, 1, 1, 2, 3), expected)


@each_dim
@pytest.mark.parametrize("extra", [1, 2], ids=["B2.2-below-dilation", "B2.2-beyond-reach"])
def test_output_padding_may_reach_the_dilation(n: int, extra: int) -> None:
    x, w, b = whole(2, 4, *(4,) * n), whole(4, 3, *(2,) * n), whole(3)
    for padding in (0, 1):
        arguments = {"stride": 1, "padding": padding, "output_padding": extra, "dilation": 3}
        a = [t.clone().requires_grad_() for t in (x, w, b)]
        c = [t.clone().requires_grad_() for t in (x, w, b)]
        ours, theirs = op(CF, "conv_transpose", n)(*a, **arguments), op(F, "conv_transpose", n)(*c, **arguments)
        assert torch.equal(ours, theirs)
        dy = whole(*theirs.shape)
        for g, h in zip(torch.autograd.grad(ours, a, dy), torch.autograd.grad(theirs, c, dy)):
            assert torch.equal(g, h)


def plane(values: list[float], n: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64).view(1, 1, *(1,) * (n - 1), -1)


@each_dim
@pytest.mark.parametrize(
    ("values", "index"),
    [([NAN, 1, NAN, 4], 2), ([3, 5, 5, 1], 1), ([-INF, -INF, -INF, -INF], 0), ([1, INF, 2, INF], 1)],
    ids=["B3.4-nan-last", "B3.4-ties-first", "B3.4-all-minus-infinity", "B3.4-infinity"],
)
def test_max_pool_chooses(n: int, values: list[float], index: int) -> None:
    x = plane(values, n)
    y, indices = op(CF, "max_pool", n)(x, (1,) * (n - 1) + (4,), return_indices=True)
    assert indices.item() == index
    assert indices.dtype == torch.int64
    assert torch.equal(y.view(-1), torch.tensor([values[index]], dtype=torch.float64)) or y.isnan().all()
    padded, _ = op(CF, "max_pool", n)(
        -x.nan_to_num(0, 9, -9) - 20, (1,) * (n - 1) + (3,), padding=(0,) * (n - 1) + (1,), return_indices=True
    )
    assert (padded < 0).all()  # padding never wins


@each_dim
def test_max_pool_indices_and_gradient(n: int) -> None:
    x = whole(2, 3, *SPACE[n]) + torch.rand(2, 3, *SPACE[n], dtype=torch.float64)
    a, c = x.clone().requires_grad_(), x.clone().requires_grad_()
    ours, theirs = (op(m, "max_pool", n)(t, 3, 2, 1, return_indices=True) for m, t in ((CF, a), (F, c)))
    assert torch.equal(ours[1], theirs[1])
    assert torch.equal(x.flatten(2).gather(2, ours[1].flatten(2)).view_as(ours[0]), ours[0])
    assert not ours[1].requires_grad
    assert torch.equal(*(torch.autograd.grad(y.sum(), t)[0] for y, t in ((ours[0], a), (theirs[0], c))))


@each_dim
@pytest.mark.parametrize("stride", [None, []], ids=["B3.3-none", "B3.3-empty"])
def test_stride_stands_for_kernel_size(n: int, stride: Any) -> None:
    x, _, _ = operands(n)
    for name in ("max_pool", "avg_pool"):
        assert torch.equal(op(CF, name, n)(x, 2, stride), op(F, name, n)(x, 2, 2))


@each_dim
def test_max_pool_dtypes(n: int) -> None:
    x = whole(2, 3, *SPACE[n])
    for dtype in (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64):
        t = x.abs().to(dtype)
        for a, b in zip(*(op(m, "max_pool", n)(t, 2, return_indices=True) for m in (CF, F))):
            assert torch.equal(a, b)
    if n == 1:
        raises_alike(
            lambda m: m.max_pool1d(x.int(), 2), NotImplementedError, "\"max_pool1d_impl\" not implemented for 'Int'"
        )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"ceil_mode": True}, [2 / 3, 1, 1 / 2]),
        ({"ceil_mode": True, "count_include_pad": False}, [1, 1, 1]),
    ],
    ids=["B5.1-include", "B5.1-exclude"],
)
def test_average_divisor(arguments: dict[str, Any], expected: list[float]) -> None:
    y = CF.avg_pool1d(torch.ones(1, 1, 4, dtype=torch.float64), 3, 2, 1, **arguments)
    torch.testing.assert_close(y.view(-1), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("n", [2, 3], ids=["2d", "3d"])
def test_divisor_override_is_not_adapted_at_edges(n: int) -> None:
    x = torch.ones(1, 1, *(5,) * n, dtype=torch.float64)
    for divisor in (3, -2):
        ours, theirs = (op(m, "avg_pool", n)(x, 3, 2, 1, ceil_mode=True, divisor_override=divisor) for m in (CF, F))
        torch.testing.assert_close(ours, theirs)
    raises_alike(lambda m: op(m, "avg_pool", n)(x, 2, divisor_override=0), RuntimeError, "divisor must be not zero")
    with pytest.raises(TypeError):
        CF.avg_pool1d(x[0, 0], 2, divisor_override=2)


@each_dim
def test_average_of_integers(n: int) -> None:
    x = whole(2, 3, *SPACE[n]).long() * 7
    assert torch.equal(op(CF, "avg_pool", n)(x, 2), op(F, "avg_pool", n)(x, 2))
    where = "avg_pool3d_out_frame" if n == 3 else "avg_pool2d"
    raises_alike(
        lambda m: op(m, "avg_pool", n)(x.int(), 2), NotImplementedError, f"\"{where}\" not implemented for 'Int'"
    )


def test_avg_pool3d_compares_the_bare_input_with_the_kernel() -> None:
    x = whole(1, 1, 2, 2, 2)
    raises_alike(
        lambda m: m.avg_pool3d(x, 3, 1, 1), RuntimeError, "input image (T: 2 H: 2 W: 2) smaller than kernel size"
    )
    assert CF.avg_pool2d(x[0], 3, 1, 1).shape == (1, 2, 2, 2)


@each_dim
@pytest.mark.parametrize("name", ["conv", "max_pool", "avg_pool"], ids=lambda s: f"B8.4-{s}")
def test_pairs_pad_each_side_by_its_own(n: int, name: str) -> None:
    x, w, b = operands(n)
    pairs = ((0, 1), (1, 0), (1, 1))[:n]
    pad = [v for pair in reversed(pairs) for v in pair]
    if name == "conv":
        assert torch.equal(op(CF, name, n)(x, w, b, padding=pairs), op(F, name, n)(F.pad(x, pad), w, b))
    elif name == "max_pool":
        expected = op(F, name, n)(F.pad(x, pad, value=-INF), 3, 2)
        assert torch.equal(op(CF, name, n)(x, 3, 2, padding=pairs), expected)
    else:
        torch.testing.assert_close(op(CF, name, n)(x, 3, 2, padding=pairs), op(F, name, n)(F.pad(x, pad), 3, 2))


@each_dim
@pytest.mark.parametrize("name", ["conv", "conv_transpose"])
def test_a_bias_may_have_any_stride(n: int, name: str) -> None:
    """Raw operations read it side by side."""
    x, w, b = operands(n)
    for bias in (torch.stack([b, -b], 1)[:, 0], b[:1].expand(6)):
        bias = bias[: w.shape[1 if name == "conv_transpose" else 0]]
        dense = w[:4] if name == "conv_transpose" else w
        assert torch.equal(op(CF, name, n)(x, dense, bias), op(F, name, n)(x, dense, bias))


@each_dim
@pytest.mark.parametrize("rule", ["same_upper", "same_lower"], ids=lambda s: f"B8.4-{s}")
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_strided_same_gives_one_output_per_stride(n: int, rule: str, stride: int) -> None:
    x, w, _ = operands(n)
    w = w[(..., *(slice(2),) * n)]
    totals = [max((-(-s // stride) - 1) * stride + 2 - s, 0) for s in SPACE[n]]
    sides = [(t // 2, t - t // 2) if rule == "same_upper" else (t - t // 2, t // 2) for t in totals]
    expected = op(F, "conv", n)(F.pad(x, [v for side in reversed(sides) for v in side]), w, stride=stride)
    assert torch.equal(op(CF, "conv", n)(x, w, stride=stride, padding=rule), expected)
    assert expected.shape[2:] == tuple(-(-s // stride) for s in SPACE[n])


@each_dim
def test_causal_sees_nothing_behind(n: int) -> None:
    x, w, _ = operands(n)
    y = op(CF, "conv", n)(x, w, padding="causal", dilation=2)
    assert y.shape[2:] == x.shape[2:]
    later = x.clone()
    later[..., -1] += 1
    assert torch.equal(op(CF, "conv", n)(later, w, padding="causal", dilation=2)[..., :-1], y[..., :-1])


@each_dim
def test_average_may_be_dilated(n: int) -> None:
    x = whole(2, 3, *SPACE[n])
    weight = torch.full((1, 1, *(2,) * n), 1 / 2**n, dtype=torch.float64)
    expected = op(F, "conv", n)(x.flatten(0, 1)[:, None], weight, dilation=3).view(2, 3, *(s - 3 for s in SPACE[n]))
    torch.testing.assert_close(op(CF, "avg_pool", n)(x, 2, 1, dilation=3), expected)


@each_dim
@pytest.mark.parametrize("name", ["conv", "max_pool", "avg_pool"], ids=lambda s: f"B8.5-{s}")
def test_strict_refuses_a_window_that_does_not_fit(n: int, name: str) -> None:
    x, w = whole(1, 1, *(7,) * n), whole(1, 1, *(3,) * n)
    rest = (w, None) if name == "conv" else (3,)
    with pytest.raises(RuntimeError, match=r"doesn't fit.*= 2.33"):
        op(CF, name, n)(x, *rest, 3, strict=True)
    assert op(CF, name, n)(x, *rest, 2, strict=True).shape[-1] == 3


@each_dim
def test_warns_once_of_uneven_same(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from convkit.functional import convolution

    monkeypatch.setattr(convolution, "_warned", False)
    x, w = whole(1, 1, *SPACE[n]), whole(1, 1, *(2,) * n)
    with pytest.warns(UserWarning, match="Using padding='same' with even kernel lengths"):
        op(CF, "conv", n)(x, w, padding="same")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        op(CF, "conv", n)(x, w, padding="same")


def test_equal_numbers_of_other_types_are_no_hit_in_the_plan_cache() -> None:
    x, w, _ = operands(2)
    CF.conv2d(x, w, stride=(1, 1), groups=1)
    for bad in (1.0, True, (1.0, 1.0)):
        with pytest.raises(TypeError):
            CF.conv2d(x, w, stride=bad)
    CF.max_pool2d(x, 2, ceil_mode=False)
    with pytest.raises(TypeError):
        CF.max_pool2d(x, 2, ceil_mode=0)


class Tagged(torch.Tensor):
    """A subclass without a __torch_function__ of its own."""


def test_tensor_subclasses_stay_themselves() -> None:
    x, w, b = operands(2)
    out = CF.conv2d(x.as_subclass(Tagged), w, b)
    assert type(out) is Tagged
    assert torch.equal(out.as_subclass(torch.Tensor), CF.conv2d(x, w, b))
    assert type(CF.avg_pool2d(x.as_subclass(Tagged), 2)) is Tagged
    seen = []

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(func)
            return func(*args, **(kwargs or {}))

    with Watch():
        CF.max_pool2d(x, 2)
    assert CF.max_pool2d in seen
