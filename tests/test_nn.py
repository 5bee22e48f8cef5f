"""B0: the modules are torch.nn's in everything but what computes."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
from typing import Any

import pytest
import torch
from torch.nn.utils.fusion import fuse_conv_bn_eval

import convkit
import convkit.nn as cn

CONVS = [f"Conv{n}d" for n in (1, 2, 3)]
TRANSPOSED = [f"ConvTranspose{n}d" for n in (1, 2, 3)]
POOLS = [f"{kind}Pool{n}d" for kind in ("Max", "Avg") for n in (1, 2, 3)]
SPACE = 7


def pair(name: str, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
    """(convkit's, torch's) module from the same seed, in double."""
    made = []
    for module in (cn, torch.nn):
        torch.manual_seed(0)
        made.append(getattr(module, name)(*args, **kwargs).double())
    return made[0], made[1]


def image(name: str, channels: int = 4) -> torch.Tensor:
    g = torch.Generator().manual_seed(1)
    return torch.randn(2, channels, *(SPACE,) * int(name[-2]), generator=g, dtype=torch.float64)


def same(a: torch.Tensor, b: torch.Tensor) -> None:
    # sums of at most 108 products of numbers below 8: 108 roundings of at most 64 * eps
    torch.testing.assert_close(a, b, rtol=0, atol=108 * 64 * torch.finfo(b.dtype).eps)


class StochasticPoolArguments:
    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: Any = False,
        return_indices: Any = False,
    ) -> None: ...


# What torch.nn lacks: tests/test_{lp_pool,fused,mixed_pooling,spectral_pooling,maxout}.py.
OWN = ("Gaussian", "ConvBN", "Mixed", "NMax", "Spectral", "Maxout")


@pytest.mark.parametrize("name", [n for n in cn.__all__ if not n.startswith(OWN)], ids=lambda s: f"B0.1-{s}")
def test_subclass_with_the_same_constructor(name: str) -> None:
    # A class that torch.nn lacks takes what its two-dimensional relative takes.
    ours, theirs = getattr(cn, name), getattr(torch.nn, name, getattr(torch.nn, name.replace("1d", "2d"), None))
    assert issubclass(ours, theirs if hasattr(torch.nn, name) else torch.nn.Module)
    assert ours.__name__ == name
    if theirs is None:  # torch.nn has none in any number of dimensions
        theirs = {"StochasticPool": StochasticPoolArguments}[name[:-2]]
    parameters = inspect.signature(ours.__init__).parameters.values()
    positional = [(p.name, p.default) for p in parameters if p.kind is not p.KEYWORD_ONLY]
    expected = [(p.name, p.default) for p in inspect.signature(theirs.__init__).parameters.values()]
    assert positional == expected
    slides = not any(word in name for word in ("Unpool", "Fractional", "Adaptive"))
    assert {"backend"} | ({"strict"} if slides else set()) <= {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}


@pytest.mark.parametrize("bias", [True, False], ids=["B0.2-bias", "B0.2-no-bias"])
@pytest.mark.parametrize("name", CONVS + TRANSPOSED)
def test_state_and_result(name: str, bias: bool) -> None:
    ours, theirs = pair(name, 4, 6, 3, stride=2, groups=2, bias=bias)
    assert list(ours.state_dict()) == (["weight", "bias"] if bias else ["weight"])
    for key, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[key], value)
    same(ours(image(name)), theirs(image(name)))
    same(ours(image(name)[0]), theirs(image(name)[0]))


@pytest.mark.parametrize(
    ("name", "args", "kwargs", "text"),
    [
        (
            "Conv2d",
            (4, 6, 3),
            {"padding": "same", "dilation": 2, "bias": False, "padding_mode": "circular"},
            "Conv2d(4, 6, kernel_size=(3, 3), stride=(1, 1), padding=same, dilation=(2, 2), bias=False, "
            "padding_mode=circular)",
        ),
        (
            "MaxPool2d",
            (3, 2, 1),
            {"ceil_mode": True},
            "MaxPool2d(kernel_size=3, stride=2, padding=1, dilation=1, ceil_mode=True)",
        ),
        ("AvgPool2d", ((3, 2),), {}, "AvgPool2d(kernel_size=(3, 2), stride=(3, 2), padding=0)"),
        ("AvgPool1d", (3,), {}, "AvgPool1d(kernel_size=(3,), stride=(3,), padding=(0,))"),
    ],
    ids=["B0.3-conv", "B0.3-max", "B0.3-avg", "B0.3-avg1d"],
)
def test_repr(name: str, args: Any, kwargs: Any, text: str) -> None:
    ours, theirs = pair(name, *args, **kwargs)
    assert repr(ours) == repr(theirs) == text


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        ({"groups": 0}, "groups must be a positive integer"),
        ({"groups": 3}, "in_channels must be divisible by groups"),
        ({"groups": 4}, "out_channels must be divisible by groups"),
        ({"padding": "full"}, "Invalid padding string 'full', should be one of"),
        ({"padding": "same", "stride": 2}, "padding='same' is not supported for strided convolutions"),
        ({"padding_mode": "mean"}, "padding_mode must be one of"),
    ],
    ids=lambda v: f"B0.4-{v}" if isinstance(v, dict) else "",
)
@pytest.mark.parametrize("name", CONVS)
def test_constructor_checks(name: str, kwargs: Any, text: str) -> None:
    with pytest.raises(ValueError, match=r"^" + text) as caught:
        getattr(cn, name)(4, 6, 3, **kwargs)
    assert type(caught.value) is ValueError


@pytest.mark.parametrize("name", TRANSPOSED)
def test_transposed_constructor_checks(name: str) -> None:
    with pytest.raises(ValueError, match=f'^Only "zeros" padding mode is supported for {name}'):
        getattr(cn, name)(4, 6, 3, padding_mode="reflect")
    with pytest.raises(ValueError, match=r"^Invalid padding string 'same'"):  # torch stores ('s', 'a', 'm', 'e')
        getattr(cn, name)(4, 6, 3, padding="same")


@pytest.mark.parametrize("name", CONVS)
def test_not_checked_at_construction(name: str) -> None:
    for kwargs in ({"stride": 0}, {"padding": -1}):
        module = getattr(cn, name)(4, 6, 3, **kwargs).double()
        with pytest.raises(RuntimeError):
            module(image(name))


@pytest.mark.parametrize("name", CONVS)
@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"], ids=lambda m: f"B1.5-{m}")
@pytest.mark.parametrize("padding", [1, "same"])
def test_padding_modes(name: str, mode: str, padding: Any) -> None:
    ours, theirs = pair(name, 4, 6, 3, padding=padding, padding_mode=mode)
    same(ours(image(name)), theirs(image(name)))
    with torch.autocast("cpu", torch.bfloat16):  # which pads in float32
        results = [m.float()(image(name).float()) for m in (ours, theirs)]
    torch.testing.assert_close(*results, rtol=2**-6, atol=2**-6)


@pytest.mark.parametrize("name", CONVS + TRANSPOSED)
def test_pairs_and_rules_of_padding(name: str) -> None:
    n = int(name[-2])
    pairs = ((0, 2), (1, 0), (2, 1))[:n]
    module = getattr(cn, name)(4, 6, 3, padding=pairs).double()
    function = getattr(convkit.functional, f"conv{'_transpose' if 'Transpose' in name else ''}{n}d")
    assert torch.equal(module(image(name)), function(image(name), module.weight, module.bias, padding=pairs))
    assert f"padding={pairs}" in repr(module)
    if name in CONVS:
        for rule in ("same_upper", "same_lower", "causal"):
            strided = getattr(cn, name)(4, 6, 3, 2, padding=rule).double()
            assert strided(image(name)).shape[2:] == (4,) * n
            assert f"padding={rule}" in repr(strided)


@pytest.mark.parametrize("name", [f"Lazy{name}" for name in CONVS + TRANSPOSED], ids=lambda s: f"B0.5-{s}")
def test_lazy(name: str) -> None:
    lazy = getattr(cn, name)(6, 3, backend="reference")
    out = lazy(image(name).float())
    assert type(lazy) is getattr(cn, name.removeprefix("Lazy"))
    assert lazy.backend == "reference"
    assert out.shape[1] == 6


@pytest.mark.parametrize("name", CONVS + TRANSPOSED + POOLS, ids=lambda s: f"B0.5-{s}")
def test_copies_and_pickles(name: str) -> None:
    args = (3,) if "Pool" in name else (4, 6, 3)
    module = getattr(cn, name)(*args, backend="reference").double()
    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    for other in (
        copy.deepcopy(module),
        pickle.loads(pickle.dumps(module)),
        torch.load(buffer, weights_only=False),
    ):
        assert type(other) is type(module)
        assert other.backend == "reference"
        assert torch.equal(other(image(name)), module(image(name)))


@pytest.mark.parametrize("name", CONVS)
def test_state_without_padding_mode(name: str) -> None:
    module = getattr(cn, name)(4, 6, 3).double()
    state = dict(module.__dict__)
    del state["padding_mode"]
    other = getattr(cn, name).__new__(getattr(cn, name))
    other.__setstate__(state)
    assert torch.equal(other(image(name)), module(image(name)))


@pytest.mark.parametrize("name", CONVS + TRANSPOSED)
def test_parametrizations_and_hooks(name: str) -> None:
    ours, theirs = pair(name, 4, 6, 3)
    for module in (ours, theirs):
        torch.nn.utils.parametrizations.weight_norm(module)
        module.register_forward_pre_hook(lambda m, args: (args[0] * 2,))
        module.register_forward_hook(lambda m, args, out: out + 1)
    with torch.no_grad():
        ours.parametrizations.weight.original0.mul_(3)
        theirs.parametrizations.weight.original0.mul_(3)
    same(ours(image(name)), theirs(image(name)))


def test_half_and_memory_format() -> None:
    module = cn.Conv2d(4, 6, 3).to(memory_format=torch.channels_last)
    assert module.weight.is_contiguous(memory_format=torch.channels_last)
    assert module(image("Conv2d").float()).is_contiguous(memory_format=torch.channels_last)
    assert module.half()(image("Conv2d").half()).dtype == torch.float16


@pytest.mark.parametrize("name", TRANSPOSED)
def test_output_size(name: str) -> None:
    n = int(name[-2])
    ours, theirs = pair(name, 4, 6, 3, stride=2, padding=1)
    x = image(name)
    for size in ((13,) * n, (14,) * n, (2, 6, *(14,) * n)):
        same(ours(x, output_size=size), theirs(x, output_size=list(size)))
    for size, kind in (((20,) * n, ValueError), ((14,) * (n + 1), ValueError), (14, TypeError)):
        with pytest.raises(kind) as expected:
            theirs(x, output_size=size)
        with pytest.raises(kind) as caught:
            ours(x, output_size=size)
        assert str(caught.value).startswith(str(expected.value))
    pairs = getattr(cn, name)(4, 6, 3, stride=2, padding=((1, 0),) * n).double()
    assert pairs(x, output_size=(15,) * n).shape[2:] == (15,) * n


@pytest.mark.parametrize("name", POOLS)
def test_pools(name: str) -> None:
    kwargs = {"stride": 2, "padding": 1, "ceil_mode": True}
    ours, theirs = pair(name, 3, **kwargs)
    same(ours(image(name)), theirs(image(name)))
    if name.startswith("Max"):
        ours, theirs = pair(name, 3, return_indices=True, dilation=2, **kwargs)
        assert torch.equal(ours(image(name))[1], theirs(image(name))[1])
    else:
        assert getattr(cn, name)(2, 1, dilation=3)(image(name)).shape[-1] == SPACE - 3


def test_strict() -> None:
    with pytest.raises(RuntimeError, match="doesn't fit"):
        cn.MaxPool2d(2, strict=True)(image("MaxPool2d"))


@pytest.mark.parametrize("groups", [1, 2], ids=["B7-dense", "B7-grouped"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("name", CONVS + TRANSPOSED)
def test_folding_batch_norm(name: str, bias: bool, groups: int) -> None:
    transposed = name in TRANSPOSED
    extra = {} if transposed else {"padding": 1, "padding_mode": "reflect"}
    conv = getattr(cn, name)(4, 6, 3, groups=groups, bias=bias, **extra).double().eval()
    conv.weight.requires_grad_(False)
    norm = getattr(torch.nn, f"BatchNorm{name[-2]}d")(6, eps=0.1).double().eval()
    for t in (norm.running_mean, norm.weight, norm.bias):
        torch.nn.init.normal_(t)
    torch.nn.init.uniform_(norm.running_var, 0.5, 2)
    x = image(name)
    fused = convkit.fuse_conv_bn_eval(conv, norm)
    torch.testing.assert_close(fused(x), norm(conv(x)))
    assert type(fused) is type(conv)
    assert not fused.weight.requires_grad
    if not (transposed and groups > 1):  # torch's own fails there
        theirs = fuse_conv_bn_eval(conv, norm, transpose=transposed)
        torch.testing.assert_close(theirs(x), fused(x))
        assert theirs.bias.requires_grad == fused.bias.requires_grad
    with pytest.raises(AssertionError, match=r"^Fusion only for eval!"):
        convkit.fuse_conv_bn_eval(conv.train(), norm)


@pytest.mark.parametrize("name", CONVS + TRANSPOSED + POOLS)
def test_fullgraph(name: str) -> None:
    args = (3, 2) if "Pool" in name else (4, 6, 3, 2)
    module = getattr(cn, name)(*args).double()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(image(name)), module(image(name)))
