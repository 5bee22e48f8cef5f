"""PyTorch's own samples and errors for its convolutions and poolings, functionals and modules."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.common_modules import module_db

import convkit
import convkit.functional as CF

NAMES = [f"{kind}{n}d" for kind in ("conv", "conv_transpose", "max_pool", "avg_pool", "max_unpool") for n in (1, 2, 3)]
NAMES += [f"adaptive_{kind}_pool{n}d" for kind in ("avg", "max") for n in (1, 2, 3)]
NAMES += ["fractional_max_pool2d", "fractional_max_pool3d"]
CLASSES = {getattr(torch.nn, name): getattr(convkit.nn, name) for name in convkit.nn.__all__ if hasattr(torch.nn, name)}
OPS = {op.name.split(".")[-1]: op for op in reversed(op_db) if op.name.split(".")[-1] in NAMES}  # the first variant
MODULES = {m.module_cls: m for m in module_db if m.module_cls in CLASSES}
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.complex64, torch.int64)


def supported(op: str) -> list[torch.dtype]:
    dtypes = OPS[op].dtypesIf("cpu") if callable(getattr(OPS[op], "dtypesIf", None)) else OPS[op].dtypes
    return [dtype for dtype in DTYPES if dtype in dtypes]


CASES = [(op, dtype) for op in NAMES for dtype in supported(op)]


def exact(t: Any) -> Any:
    """The tensor in the widest dtype of its kind, sharing no graph."""
    if not isinstance(t, torch.Tensor) or not (t.dtype.is_floating_point or t.dtype.is_complex):
        return t
    wide = torch.complex128 if t.dtype.is_complex else torch.float64
    return t.detach().to(wide).requires_grad_(t.requires_grad)


def agree(ours: torch.Tensor, theirs: torch.Tensor, true: torch.Tensor, bound: torch.Tensor | float) -> None:
    """Shape and dtype are PyTorch's; the value is within ``bound`` roundings of PyTorch's float64 result.

    (PyTorch's float16 convolutions with stride and dilation are wrong on the CPU; its float64 ones are not.)
    """
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype
    if not (theirs.dtype.is_floating_point or theirs.dtype.is_complex):
        assert torch.equal(ours, theirs)
        return
    error = (ours.to(true.dtype) - true).abs()
    assert bool((torch.isnan(error) == torch.isnan(true)).all())
    assert bool((torch.nan_to_num(error) <= torch.finfo(ours.dtype).eps * bound + 1e-300).all())


def run(function: Any, sample: Any, cast: Any = lambda t: t) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Results and, where there are any, gradients for a gradient of ones."""
    operands = [cast(t) for t in (sample.input, *sample.args)]
    # Fractional pooling draws its windows; OpInfo seeds PyTorch so, but torch.manual_seed takes a millisecond.
    torch.default_generator.manual_seed(42)
    out = function(*operands, **{k: cast(v) for k, v in sample.kwargs.items()})
    outs = list(out) if isinstance(out, tuple) else [out]
    given = [t for t in operands if isinstance(t, torch.Tensor) and t.requires_grad]
    if not given or not outs[0].requires_grad:
        return outs, []
    return outs, list(torch.autograd.grad(outs[0], given, torch.ones_like(outs[0])))


def magnitude(t: Any) -> Any:
    t = exact(t)
    return t.detach().abs().requires_grad_(t.requires_grad) if isinstance(t, torch.Tensor) else t


@pytest.mark.parametrize(("op", "dtype"), CASES, ids=lambda v: v if isinstance(v, str) else str(v)[6:])
def test_samples(op: str, dtype: torch.dtype) -> None:
    differentiable = dtype.is_floating_point or dtype.is_complex
    samples = list(OPS[op].sample_inputs("cpu", dtype, requires_grad=differentiable))
    assert samples
    for sample in samples:
        theirs, ours = run(OPS[op].op, sample), run(getattr(CF, op), sample)
        # In another dtype fractional pooling would have other windows; it rounds nothing but sums of gradients.
        true = theirs if op.startswith("fractional") else run(OPS[op].op, sample, exact)
        # Sums of products: each term is off by at most a rounding per addition, so the sum of absolute values,
        # which the same operation on absolute values gives, times the number of terms bounds the error.
        if op.startswith("conv"):
            sizes = run(OPS[op].op, sample, magnitude)
            terms = max(t.numel() for t in (sample.input, *sample.args, theirs[0][0]) if isinstance(t, torch.Tensor))
        else:
            sizes = ([t.abs() + 1 for t in true[0]], [t.abs() + 1 for t in true[1]])
            terms = max(8, sample.input.numel() // max(theirs[0][0].numel(), 1))
        for part in (0, 1):
            assert len(ours[part]) == len(theirs[part])
            for a, b, t, size in zip(ours[part], theirs[part], true[part], sizes[part]):
                agree(a, b, t, 2 * terms * size.detach().abs())


@pytest.mark.parametrize("op", [op for op in NAMES if OPS[op].error_inputs_func])
def test_errors(op: str) -> None:
    for error in OPS[op].error_inputs("cpu"):
        sample = error.sample_input
        with pytest.raises(error.error_type) as caught:
            getattr(CF, op)(sample.input, *sample.args, **sample.kwargs)
        assert type(caught.value) is error.error_type
        assert re.search(error.error_regex, str(caught.value))


@pytest.mark.parametrize("kind", MODULES, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_modules(kind: type, training: bool) -> None:
    info = MODULES[kind]
    lazy = kind.__name__.startswith("Lazy")
    for given in info.module_inputs_func(
        info, device="cpu", dtype=torch.float64, requires_grad=True, training=training
    ):
        build, call = given.constructor_input, given.forward_input
        torch.manual_seed(0)
        theirs = kind(*build.args, **build.kwargs).train(training)
        torch.manual_seed(0)
        ours = CLASSES[kind](*build.args, **build.kwargs).train(training)
        if not lazy:
            theirs, ours = theirs.double(), ours.double()
            assert list(ours.state_dict()) == list(theirs.state_dict())
            for key, value in theirs.state_dict().items():
                assert torch.equal(ours.state_dict()[key], value), key
            assert repr(ours) == repr(theirs)
        args = [a.to(torch.float32) if lazy else a for a in call.args]
        torch.manual_seed(1)  # lazy modules initialise themselves now
        expected = theirs(*args, **call.kwargs)
        torch.manual_seed(1)
        got = ours(*args, **call.kwargs)
        for a, b in zip(got, expected) if isinstance(expected, tuple) else [(got, expected)]:
            agree(a, b, b.double(), 64 * max(1.0, b.abs().max().item()) * len(list(theirs.parameters()) or [1]))
        if lazy:
            assert type(ours) is CLASSES[kind].cls_to_become


def test_tables_are_complete() -> None:
    assert set(OPS) == set(NAMES)
    assert len(MODULES) >= 18
