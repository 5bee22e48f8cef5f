"""Maxout, alone and behind a convolution, beside the definition."""

from __future__ import annotations

from functools import partial
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import convkit.functional as CF
import convkit.nn as cn


def sample(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def definition(x: Tensor, pieces: int, dim: int = 1) -> Tensor:
    """z[k] = max over j of x[k pieces + j]."""
    parts = [x.narrow(dim, j, x.shape[dim] - pieces + 1) for j in range(pieces)]
    every = torch.arange(0, x.shape[dim], pieces)
    return torch.stack([p.index_select(dim, every) for p in parts]).amax(0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_values_in_every_dimension(dtype: torch.dtype) -> None:
    x = sample(6, 12, 6, 18).to(dtype)
    for dim, pieces in product(range(-4, 4), (1, 2, 3, 6)):
        assert torch.equal(CF.maxout(x, pieces, dim), definition(x, pieces, dim))
    for y in (x[:, :, 0, 0], x.unflatten(3, (3, 6)), x[:, :, :0], x[:0]):
        assert torch.equal(CF.maxout(y, 2), definition(y, 2)), y.shape
    assert torch.equal(CF.maxout(x[0, 0, 0], 3, 0), definition(x[0, 0, 0], 3, 0))
    assert CF.maxout(x[:, :0], 2).shape == (6, 0, 6, 18)
    wide = sample(2, 600).to(dtype)  # offsets of more than a byte
    assert torch.equal(CF.maxout(wide, 300), definition(wide, 300))


def test_layouts() -> None:
    x = sample(2, 6, 4, 5)
    for kind in (torch.contiguous_format, torch.channels_last):
        y = CF.maxout(x.contiguous(memory_format=kind), 2)
        assert y.is_contiguous(memory_format=kind) and torch.equal(y, definition(x, 2))
    for view in (x.transpose(2, 3), x[:, :, ::2], x.flip(1), x[:, :1].expand(2, 6, 4, 5), x.permute(3, 1, 0, 2)):
        assert torch.equal(CF.maxout(view, 3), definition(view, 3))


def test_ties_nan_and_infinity() -> None:
    inf, nan = float("inf"), float("nan")
    x = torch.tensor([[2.0, 2.0, nan, 1.0, -inf, -inf, nan, nan]], requires_grad=True)
    y = CF.maxout(x, 2)
    torch.testing.assert_close(y, torch.tensor([[2.0, nan, -inf, nan]]), equal_nan=True)
    (dx,) = torch.autograd.grad(y, x, torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
    assert dx.tolist() == [[1, 0, 2, 0, 3, 0, 0, 4]]


def test_derivatives() -> None:
    x = sample(2, 6, 3, 2).requires_grad_()
    for dim, pieces in ((1, 2), (1, 3), (2, 3), (-1, 2)):
        assert torch.autograd.gradcheck(CF.maxout, (x, pieces, dim))
        assert torch.autograd.gradgradcheck(CF.maxout, (x, pieces, dim))
    v = x.detach()
    tangents = [torch.func.jvp(partial(f, pieces=3), (v,), (v.cos(),)) for f in (CF.maxout, definition)]
    torch.testing.assert_close(*tangents, rtol=0, atol=0)


def composed(transposed: bool, dims: int, given: dict[str, Any], pieces: int) -> Tensor:
    f = getattr(F, f"conv_transpose{dims}d" if transposed else f"conv{dims}d")
    y = f(given["input"], given["weight"], None, 2, 1, groups=2)
    column = (-1, *(1,) * dims)
    y = y * given["scale"].view(column) + given["bias"].view(column) + given["residual"]
    return definition(y, pieces)


@pytest.mark.parametrize(("dims", "transposed"), list(product((1, 2, 3), (False, True))))
def test_behind_a_convolution(dims: int, transposed: bool) -> None:
    convolution = getattr(CF, f"fused_conv_transpose{dims}d" if transposed else f"fused_conv{dims}d")
    size = (4,) * dims
    given = {
        "input": sample(2, 4, *size),
        "weight": sample(4 if transposed else 6, 3 if transposed else 2, *(3,) * dims, seed=1),
        "bias": sample(6, seed=2),
        "scale": sample(6, seed=3),
    }
    out = (7,) * dims if transposed else (2,) * dims
    given["residual"] = sample(2, 6, *out, seed=4)
    settings: dict[str, Any] = {"stride": 2, "padding": 1, "groups": 2, "activation": "maxout"}
    for pieces in (2, 3):
        y = convolution(**given, **settings, pieces=pieces)
        torch.testing.assert_close(y, composed(transposed, dims, given, pieces))
        leaves = {name: t.clone().requires_grad_() for name, t in given.items()}
        results = [convolution(**leaves, **settings, pieces=pieces), composed(transposed, dims, leaves, pieces)]
        gradients = [torch.autograd.grad(r.sin().sum(), list(leaves.values())) for r in results]
        torch.testing.assert_close(*gradients)
        one = {"input": given["input"][0], "weight": given["weight"], "bias": given["bias"]}
        torch.testing.assert_close(
            convolution(**one, **settings, pieces=pieces),
            convolution(**{**one, "input": given["input"][:1]}, **settings, pieces=pieces)[0],
        )


def test_modules() -> None:
    x = sample(2, 3, 6, 6)
    assert torch.equal(cn.Maxout(3)(x), definition(x, 3)) and torch.equal(cn.Maxout(2, 3)(x), definition(x, 2, 3))
    assert repr(cn.Maxout(3)) == "Maxout(pieces=3)" and repr(cn.Maxout(2, -1)) == "Maxout(pieces=2, dim=-1)"
    layer = cn.ConvBNReLU2d(3, 6, 3, activation="maxout", pieces=3, dtype=torch.float64)
    assert "activation=maxout, pieces=3" in repr(layer)
    twin = torch.nn.Sequential(layer.conv, torch.nn.BatchNorm2d(6, dtype=torch.float64))
    residual = sample(2, 6, 4, 4, seed=1)
    for training in (True, False):
        torch.testing.assert_close(
            layer.train(training)(x, residual), definition(twin.train(training)(x) + residual, 3)
        )


def test_compiled_whole() -> None:
    torch._dynamo.reset()
    x, w = sample(2, 4, 5, 5).contiguous(memory_format=torch.channels_last), sample(6, 4, 3, 3, seed=1)

    def f(x: Tensor) -> Tensor:
        return CF.maxout(CF.fused_conv2d(x, w, activation="maxout"), 3)

    compiled = torch.compile(f, backend="aot_eager", fullgraph=True)
    gradients = [torch.autograd.grad(g(leaf := x.clone().requires_grad_()).sin().sum(), leaf) for g in (compiled, f)]
    torch.testing.assert_close(*gradients)
    assert compiled(x).stride() == f(x).stride()
    torch._dynamo.reset()


def test_half_precision_and_autocast() -> None:
    x, w = sample(2, 4, 5, 5).float(), sample(4, 4, 3, 3, seed=1).float()
    with torch.autocast("cpu", torch.bfloat16):
        y = CF.fused_conv2d(x, w, activation="maxout")
    z = CF.conv2d(x.bfloat16(), w.bfloat16())
    assert y.dtype is torch.bfloat16 and torch.equal(y, definition(z, 2))


ERRORS: list[tuple[Any, dict[str, Any], type[Exception], str]] = [
    (CF.maxout, {"input": [1.0], "pieces": 2}, TypeError, "argument 'input'"),
    (CF.maxout, {"pieces": 2.0}, TypeError, "argument 'pieces' must be int, not float"),
    (CF.maxout, {"pieces": True}, TypeError, "argument 'pieces' must be int, not bool"),
    (CF.maxout, {"pieces": 0}, ValueError, "pieces must be at least 1, but got pieces=0"),
    (CF.maxout, {"pieces": 2, "dim": 4}, IndexError, "Dimension out of range"),
    (CF.maxout, {"pieces": 4}, RuntimeError, "size of dimension 1 must be a multiple of pieces=4, but is 6"),
    (CF.maxout, {"pieces": 2, "input": torch.ones(2, 4, dtype=torch.int64)}, NotImplementedError, "Long"),
    (cn.Maxout, {"pieces": -1}, ValueError, "pieces must be at least 1"),
    (CF.fused_conv2d, {"pieces": 4}, RuntimeError, "the result's channels must be a multiple of pieces=4, but is 6"),
    (CF.fused_conv2d, {"pieces": 0}, ValueError, "fused_conv2d: pieces must be at least 1"),
    (CF.fused_conv2d, {"activation": "maxin"}, ValueError, "'maxout', or None"),
    (cn.ConvBNReLU2d, {"pieces": 4}, RuntimeError, "ConvBNReLU2d: the size of the result's channels"),
]


@pytest.mark.parametrize(("function", "changed", "kind", "text"), ERRORS)
def test_errors(function: Any, changed: dict[str, Any], kind: type[Exception], text: str) -> None:
    given: dict[str, Any] = {}
    if function is CF.maxout:
        given = {"input": sample(2, 6, 3, 3)}
    elif function is CF.fused_conv2d:
        given = {"input": sample(2, 4, 3, 3), "weight": sample(6, 4, 3, 3), "activation": "maxout"}
    elif function is cn.ConvBNReLU2d:
        given = {"in_channels": 3, "out_channels": 6, "kernel_size": 3, "activation": "maxout"}
    with pytest.raises(kind, match=text):
        function(**{**given, **changed})
