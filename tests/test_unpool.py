"""Max unpooling and the operations on flat indices by the contract: results, errors, derivatives, layouts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._dynamo.testing import CompileCounter
from torch.autograd import gradcheck, gradgradcheck

import convkit
import convkit.functional as CF
from convkit.autograd.unpool import plane_gather, plane_scatter
from convkit.backends.base import Backend
from convkit.testing.layouts import LAYOUTS

FLOATING = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
SIZES = {1: (9,), 2: (8, 9), 3: (4, 5, 6)}


def pooled(ndim: int, dtype: torch.dtype = torch.float64, batch: int = 2, **window: Any) -> tuple[Tensor, Tensor, Any]:
    """Maxima and indices of PyTorch's pooling, and the size they came from; the maxima are all different."""
    size = SIZES[ndim]
    n = batch * 3 * int(torch.Size(size).numel())
    x = torch.randperm(n, generator=torch.Generator().manual_seed(ndim)).to(dtype).view(batch, 3, *size)
    window = window or {"kernel_size": 2}
    y, indices = getattr(F, f"max_pool{ndim}d")(x, **window, return_indices=True)
    return y, indices, size


def unpool(ndim: int, functional: Any = CF) -> Any:
    return getattr(functional, f"max_unpool{ndim}d")


def in_order(y: Tensor, indices: Tensor, size: tuple[int, ...]) -> Tensor:
    """Unpooling by its definition: one value after the other, in row-major order."""
    out = y.new_zeros(*y.shape[:2], int(torch.Size(size).numel()))
    values, places = y.flatten(2), indices.flatten(2)
    for i in range(values.shape[2]):
        out.scatter_(2, places[..., i : i + 1], values[..., i : i + 1])
    return out.view(*y.shape[:2], *size)


# --- B4: results ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_b4_equals_pytorch_where_indices_differ(ndim: int, dtype: torch.dtype) -> None:
    for batched in (True, False):
        y, indices, size = pooled(ndim, dtype)
        y, indices = (y, indices) if batched else (y[0], indices[0])
        ours = unpool(ndim)(y, indices, 2, output_size=size)
        assert torch.equal(ours, unpool(ndim, F)(y, indices, 2, output_size=size))
        assert ours.dtype == dtype


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_b4_pooling_of_the_result_gives_the_maxima_back(ndim: int) -> None:
    for source in (F, CF):
        pool = getattr(source, f"max_pool{ndim}d")
        x = torch.rand(2, 3, *SIZES[ndim]) + 1  # nothing of it loses to the zeros
        y, indices = pool(x, 2, return_indices=True)
        back = unpool(ndim)(y, indices, 2, output_size=x.size())
        assert torch.equal(pool(back, 2), y)
        assert torch.equal(unpool(ndim, F)(y, indices, 2, output_size=SIZES[ndim]), back)


def test_b4_the_default_size_is_that_of_the_formula() -> None:
    """(L - 1) s - 2p + k: an odd size must be named."""
    y, indices = CF.max_pool2d(torch.arange(25.0).view(1, 1, 5, 5), 2, return_indices=True)
    with pytest.raises(RuntimeError, match=r"^Found an invalid max index: 18 \(output volumes are of size 4x4\)"):
        CF.max_unpool2d(y, indices, 2)
    assert CF.max_unpool2d(y, indices, 2, output_size=(5, 5)).shape[2:] == (5, 5)
    for k, s, p in ((2, 2, 0), (3, 2, 1), (5, 3, 2), ((3, 2), (2, 1), (1, 0))):
        y, indices, _ = pooled(2, kernel_size=k, stride=s, padding=p)
        index = torch.zeros_like(indices)
        assert CF.max_unpool2d(y, index, k, s, p).shape == F.max_unpool2d(y, index, k, s, p).shape


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_b8_2_the_last_of_equal_indices_wins(ndim: int, backend: Backend) -> None:
    y, indices, size = pooled(ndim, torch.float32, kernel_size=3, stride=1, padding=1)
    expected = in_order(y, indices, size)
    for layout in LAYOUTS.values():
        if layout.__name__.startswith("expanded"):
            continue
        for channels_last in (False, True):
            assert torch.equal(backend.max_unpool(layout(y), layout(indices), size, channels_last), expected)
    same = torch.zeros_like(indices)
    assert torch.equal(
        CF.max_unpool1d(y[:, :, :1].flatten(2), same[:, :, :1].flatten(2), 1)[..., 0], y[:, :, :1].flatten(2)[..., -1]
    )


def test_b8_2_the_same_on_every_number_of_threads() -> None:
    y = torch.randn(2, 40, 60, 61)
    indices = torch.randint(0, 900, y.shape)
    expected = in_order(y, indices, (30, 30))
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            for place in (lambda t: t, lambda t: t.contiguous(memory_format=torch.channels_last)):
                u = convkit.backends.get("native").max_unpool(place(y), place(indices), (30, 30), False)
                assert torch.equal(u, expected)
    finally:
        torch.set_num_threads(before)


def test_signs_of_zero_and_nan_are_moved_as_they_are() -> None:
    y = torch.tensor([[[-0.0, float("nan"), float("-inf")]]])
    u = CF.max_unpool1d(y, torch.tensor([[[4, 0, 2]]]), 2)
    assert bool(torch.signbit(u[0, 0, 4])) and bool(u[0, 0, 0].isnan()) and u[0, 0, 2] == float("-inf")
    assert u[0, 0, [1, 3, 5]].tolist() == [0, 0, 0]


# --- B4: errors ----------------------------------------------------------------------------------------------------


def calls(ndim: int) -> dict[str, Callable[[Any], Any]]:
    """Wrong calls; each takes the module of functions."""
    y, i, _ = pooled(ndim)
    f = f"max_unpool{ndim}d"
    big = SIZES[ndim][:-1] + (SIZES[ndim][-1] // 2 * 2 + 2,)
    found: dict[str, Callable[[Any], Any]] = {
        "int32 indices": lambda m: getattr(m, f)(y, i.int(), 2),
        "float indices": lambda m: getattr(m, f)(y, i.float(), 2),
        "indices of another shape": lambda m: getattr(m, f)(y, i[:1], 2),
        "unbatched indices": lambda m: getattr(m, f)(y, i[0], 2),
        "two dimensions too few": lambda m: getattr(m, f)(y[0, 0], i[0, 0], 2),
        "a dimension too many": lambda m: getattr(m, f)(y[None], i[None], 2),
        "no dimensions": lambda m: getattr(m, f)(torch.tensor(1.0), torch.tensor(0), 2),
        "no channels": lambda m: getattr(m, f)(y[:, :0], i[:, :0], 2),
        "no space": lambda m: getattr(m, f)(y[..., :0], i[..., :0], 2, output_size=(*big[:-1], 1)),
        "negative index": lambda m: getattr(m, f)(y, torch.full_like(i, -3), 2),
        "large index": lambda m: getattr(m, f)(y, torch.full_like(i, 10**6), 2),
        "huge index": lambda m: getattr(m, f)(y, torch.full_like(i, 2**63 - 1), 2),
        "a size too large": lambda m: getattr(m, f)(y, i, 2, output_size=big),
        "a size too large, as a list": lambda m: getattr(m, f)(y, i, 2, output_size=list(big)),
        "a size too large, as a Size": lambda m: getattr(m, f)(y, i, 2, output_size=torch.Size((2, 3, *big))),
        "sizes of another length": lambda m: getattr(m, f)(y, i, 2, output_size=(1, *SIZES[ndim])),
        "an int for sizes": lambda m: getattr(m, f)(y, i, 2, output_size=5),
        "padding beyond the kernel": lambda m: getattr(m, f)(y, i, 2, 2, 9),
        "an integer input": lambda m: getattr(m, f)(y.long(), i, 2),
        "a complex input": lambda m: getattr(m, f)(y.to(torch.complex64), i, 2),
        "a float kernel": lambda m: getattr(m, f)(y, i, 2.0),
        "too many kernel sizes": lambda m: getattr(m, f)(y, i, (2,) * (ndim + 1)),
        "an empty stride": lambda m: getattr(m, f)(y, i, 2, []),
        "a padding too short": lambda m: getattr(m, f)(y, i, 2, 2, ()),
    }
    if ndim > 1:
        found["indices that are none"] = lambda m: getattr(m, f)(y, None, 2)
        found["too few kernel sizes"] = lambda m: getattr(m, f)(y, i, (2,) * (ndim - 1))
    if ndim == 3:
        found["stride 0"] = lambda m: getattr(m, f)(y, i, 2, 0)
        found["a negative stride"] = lambda m: getattr(m, f)(y, i, 2, (2, 2, -1))
    return found


# What PyTorch says is about its own way of calling itself, and not about the argument.
OTHER_WORDS = ("a float kernel",)


@pytest.mark.parametrize(("ndim", "name"), [(n, name) for n in (1, 2, 3) for name in calls(n)])
def test_b4_errors_are_pytorchs(ndim: int, name: str) -> None:
    call = calls(ndim)[name]
    with pytest.raises(Exception) as theirs:
        call(F)
    with pytest.raises(theirs.type) as ours:
        call(CF)
    assert type(ours.value) is theirs.type
    words = str(theirs.value).split("\nException raised from")[0].rstrip(".)")
    assert name in OTHER_WORDS or str(ours.value).startswith(words), str(ours.value)


def test_b4_the_range_of_sizes() -> None:
    y, indices, _ = pooled(2)
    message = r'^invalid output_size "\(7, 11\)" \(dim 0 must be between 6 and 10\)'
    assert CF.max_unpool2d(y, indices, 2, output_size=(8, 9)).shape[2:] == (8, 9)
    assert CF.max_unpool2d(y, indices * 0, 2, output_size=(7, 7)).shape[2:] == (7, 7)
    assert CF.max_unpool2d(y, indices * 0, 2, output_size=(9, 9)).shape[2:] == (9, 9)
    for wrong in ((6, 8), (10, 8), (8, 6), (8, 10)):
        with pytest.raises(ValueError, match=r'^invalid output_size "'):
            CF.max_unpool2d(y, indices, 2, output_size=wrong)
    with pytest.raises(ValueError, match=message.replace("7, 11", "6, 11").replace(r"\(6", r"\(6")):
        CF.max_unpool2d(y, indices, 2, output_size=(6, 11))


def test_the_last_wrong_index_is_named(backend: Backend) -> None:
    x, indices = torch.ones(1, 2, 3, 4), torch.zeros(1, 2, 3, 4, dtype=torch.int64)
    indices[0, 1, 2, 3], indices[0, 1, 0, 1], indices[0, 1, 2, 0] = 77, -5, 20  # 77 is the last
    for order in (indices, indices.contiguous(memory_format=torch.channels_last)):
        with pytest.raises(RuntimeError, match=r"^Found an invalid max index: 77 \(output volumes are of size 4x5\)"):
            backend.max_unpool(x, order, (4, 5), False)


def test_b8_2_an_index_of_nothing_is_refused_by_unpooling_and_ignored_by_gathering(backend: Backend) -> None:
    x, nothing = torch.ones(1, 1, 2, 2), torch.tensor([[[[-1, 0], [-1, 3]]]])
    with pytest.raises(RuntimeError, match=r"^Found an invalid max index: -1"):
        backend.max_unpool(x, nothing, (2, 2), False)
    assert backend.plane_gather(x, nothing, False).flatten().tolist() == [0, 1, 0, 1]
    assert backend.plane_scatter(x, nothing, (2, 2), False).flatten().tolist() == [1, 0, 0, 1]


def test_both_tensors_must_be_on_one_device() -> None:
    y, indices, _ = pooled(2)
    with pytest.raises(RuntimeError, match=r"^Tensor on device cpu is not on the expected device meta!"):
        CF.max_unpool2d(y, indices.to("meta"), 2)


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_b1_7_an_empty_batch(ndim: int) -> None:
    y, indices, size = pooled(ndim, batch=1)
    out = unpool(ndim)(y[:0].requires_grad_(), indices[:0], 2, output_size=size)
    assert out.shape == (0, 3, *size)
    out.sum().backward()
    assert unpool(ndim)(y[0, :0], indices[0, :0], 2, output_size=size).shape == (0, *size)


# --- layouts, B9 -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ndim", [2, 3])
def test_b1_9_channels_last_is_kept(ndim: int) -> None:
    memory_format = torch.channels_last if ndim == 2 else torch.channels_last_3d
    y, indices, size = pooled(ndim)
    expected = unpool(ndim, F)(y, indices, 2, output_size=size)
    last = y.contiguous(memory_format=memory_format).requires_grad_()
    for places in (indices, indices.contiguous(memory_format=memory_format)):
        u = unpool(ndim)(last, places, 2, output_size=size)
        assert torch.equal(u, expected) and u.is_contiguous(memory_format=memory_format)
        (g,) = torch.autograd.grad(u.sin().sum(), last)
        assert g.is_contiguous(memory_format=memory_format)
    contiguous = unpool(ndim)(y, indices.contiguous(memory_format=memory_format), 2, output_size=size)
    assert contiguous.is_contiguous() and torch.equal(contiguous, expected)


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_b9_backward_with_any_strides(ndim: int) -> None:
    """PyTorch refuses indices and gradients that cannot be viewed flat."""
    y, indices, size = pooled(ndim)
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn((*y.shape[:2], *size), generator=generator, dtype=torch.float64)
    expected = weight.flatten(2).gather(2, indices.flatten(2)).view_as(y)
    for layout in LAYOUTS.values():
        if layout.__name__.startswith("expanded"):
            continue
        x = layout(y).requires_grad_()
        (g,) = torch.autograd.grad(unpool(ndim)(x, layout(indices), 2, output_size=size), x, layout(weight))
        assert torch.equal(g, expected), layout.__name__
    x = y.clone().requires_grad_()
    (g,) = torch.autograd.grad(unpool(ndim)(x, indices, 2, output_size=size).sum(), x)  # an expanded gradient
    assert bool((g == 1).all())


def test_b9_unbatched_channels_last_volumes() -> None:
    y, indices, size = pooled(3, batch=1)
    expected = F.max_unpool3d(y[0], indices[0], 2, output_size=size)
    last = [t.contiguous(memory_format=torch.channels_last_3d)[0] for t in (y, indices)]
    assert torch.equal(CF.max_unpool3d(*last, 2, output_size=size), expected)


# --- derivatives -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_derivatives_of_every_order(ndim: int) -> None:
    y, indices, size = pooled(ndim)
    x = torch.randn(y.shape, dtype=torch.float64, requires_grad=True)
    for function in (
        lambda t: unpool(ndim)(t, indices, 2, output_size=size),
        lambda t: unpool(ndim)(t[0], indices[0], 2, output_size=size),
    ):
        assert gradcheck(function, (x,), check_forward_ad=True, check_batched_grad=True)
        assert gradgradcheck(function, (x,), check_fwd_over_rev=True, check_batched_grad=True)


def test_derivatives_of_gathering_and_scattering(backend: Backend) -> None:
    large = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    small = torch.randn(2, 3, 6, 2, dtype=torch.float64, requires_grad=True)
    indices = torch.randint(-1, 20, small.shape)
    assert gradcheck(lambda t: plane_gather(t, indices, False, backend), (large,), check_forward_ad=True)
    assert gradgradcheck(lambda t: plane_gather(t, indices, True, backend), (large,))
    assert gradcheck(lambda t: plane_scatter(t, indices, (4, 5), False, backend), (small,), check_forward_ad=True)
    assert gradgradcheck(lambda t: plane_scatter(t, indices, (4, 5), True, backend), (small,))
    # adjoint: <gather x, d> = <x, scatter d>; small integers make both sums exact
    x, d = torch.randint(-9, 9, large.shape).double(), torch.randint(-9, 9, small.shape).double()
    read, written = plane_gather(x, indices, False, backend), plane_scatter(d, indices, (4, 5), False, backend)
    assert (read * d).sum() == (x * written).sum()


def test_the_gradient_of_repeated_indices_is_pytorchs() -> None:
    y, indices, size = pooled(2, kernel_size=3, stride=1, padding=1)
    weight = torch.randn(2, 3, *size, dtype=torch.float64)
    gradients = []
    for m in (CF, F):
        x = y.clone().requires_grad_()
        gradients += torch.autograd.grad(m.max_unpool2d(x, indices, 3, 1, 1), x, weight)
    assert torch.equal(*gradients)
    assert indices.flatten(2).unique().numel() < indices[0, 0].numel()


def test_vmap_and_func() -> None:
    y, indices, size = pooled(2)

    def one(a: Tensor, i: Tensor) -> Tensor:
        return CF.max_unpool2d(a, i, 2, output_size=size)

    expected = one(y, indices)
    assert torch.equal(torch.func.vmap(one)(y, indices), expected)
    assert torch.equal(
        torch.func.vmap(one, in_dims=(0, None))(y, indices[0]), torch.stack([one(a, indices[0]) for a in y])
    )
    tangent = torch.randn_like(y)
    assert torch.equal(torch.func.jvp(lambda a: one(a, indices), (y,), (tangent,))[1], one(tangent, indices))
    g = torch.func.grad(lambda a: one(a, indices).square().sum())(y)
    assert torch.equal(g, 2 * y)


# --- modes -----------------------------------------------------------------------------------------------------


def test_deterministic_mode_does_not_refuse() -> None:
    y, indices, size = pooled(2)
    torch.use_deterministic_algorithms(True)
    try:
        x = y.clone().requires_grad_()
        CF.max_unpool2d(x, indices, 2, output_size=size).sum().backward()
        for ndim in (1, 3):
            a, b, c = pooled(ndim)
            unpool(ndim)(a, b, 2, output_size=c)
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_b1_11_autocast_computes_in_float32(dtype: torch.dtype) -> None:
    y, indices, size = pooled(2, dtype)
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = (m.max_unpool2d(y, indices, 2, output_size=size) for m in (CF, F))
    assert ours.dtype == theirs.dtype and torch.equal(ours, theirs)


class SegNet(torch.nn.Module):
    """An encoder that hands its indices and sizes to the decoder, as in Badrinarayanan et al., arXiv:1511.00561."""

    def __init__(self, nn: Any) -> None:
        super().__init__()
        self.down = torch.nn.ModuleList([nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1)])
        self.up = torch.nn.ModuleList([nn.Conv2d(6, 4, 3, padding=1), nn.Conv2d(4, 2, 3, padding=1)])
        self.pool, self.unpool = nn.MaxPool2d(2, 2, return_indices=True), nn.MaxUnpool2d(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        for conv in self.down:
            x = conv(x).relu()
            size = x.size()
            x, indices = self.pool(x)
            kept.append((indices, size))
        for conv in self.up:
            indices, size = kept.pop()
            x = conv(self.unpool(x, indices, output_size=size))
        return x


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_an_autoencoder_with_odd_sizes(memory_format: torch.memory_format, compiled: bool) -> None:
    torch.manual_seed(0)
    theirs = SegNet(torch.nn).double()
    ours = SegNet(convkit.nn).double()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 2, 11, 13, dtype=torch.float64).contiguous(memory_format=memory_format)
    run = torch.compile(ours, fullgraph=True, backend="aot_eager") if compiled else ours
    y, expected = run(x), theirs(x)
    torch.testing.assert_close(y, expected)
    y.square().sum().backward()
    expected.square().sum().backward()
    for a, b in zip(ours.parameters(), theirs.parameters()):
        torch.testing.assert_close(a.grad, b.grad)


def test_one_graph_for_all_sizes() -> None:
    counter = CompileCounter()
    torch._dynamo.reset()
    function = torch.compile(
        lambda y, i, size: CF.max_unpool2d(y, i, 2, output_size=size), fullgraph=True, dynamic=True, backend=counter
    )
    for h, w in ((28, 20), (26, 41), (35, 30), (22, 32)):
        x = torch.randn(7, 8, h, w)
        y, indices = F.max_pool2d(x, 2, return_indices=True)
        assert torch.equal(function(y, indices, (h, w)), F.max_unpool2d(y, indices, 2, output_size=(h, w)))
    assert counter.frame_count == 1


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_modules(ndim: int) -> None:
    y, indices, size = pooled(ndim)
    theirs = getattr(torch.nn, f"MaxUnpool{ndim}d")(2)
    ours = getattr(convkit.nn, f"MaxUnpool{ndim}d")(2)
    assert repr(ours) == repr(theirs)
    assert torch.equal(ours(y, indices, output_size=size), theirs(y, indices, output_size=size))
    model = torch.nn.ModuleList([theirs])
    assert len(convkit.convert(model, backend="reference").replaced) == 1
    assert repr(model[0]) == repr(getattr(convkit.nn, f"MaxUnpool{ndim}d")(2, backend="reference"))
    assert torch.equal(model[0](y, indices, output_size=size), ours(y, indices, output_size=size))
    convkit.revert(model)
    assert type(model[0]) is type(theirs)


def test_random_problems_against_pytorch() -> None:
    """PyTorch on one thread also keeps the last of equal indices."""
    generator = torch.Generator().manual_seed(5)

    def number(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=generator))

    for _ in range(150):
        ndim = number(1, 4)
        kernel = [number(1, 4) for _ in range(ndim)]
        stride = [number(1, 4) for _ in range(ndim)]
        padding = [number(0, k // 2 + 1) for k in kernel]
        size = [number(k, 9) for k in kernel]
        dtype = FLOATING[number(0, 4)]
        x = torch.randn(number(1, 4), number(1, 20), *size, generator=generator).to(dtype)
        if number(0, 2) and ndim > 1:
            x = x.contiguous(memory_format=torch.channels_last if ndim == 2 else torch.channels_last_3d)
        y, indices = getattr(CF, f"max_pool{ndim}d")(x, kernel, stride, padding, return_indices=True)
        y = y.detach().requires_grad_()
        results = []
        for m in (CF, F):
            try:
                u = getattr(m, f"max_unpool{ndim}d")(y, indices, kernel, stride, padding, size)
            except Exception as error:
                results.append((type(error), str(error).split(":")[0]))
                continue
            weight = torch.ones_like(u).cumsum(-1)
            if m is F:  # its backward wants them contiguous
                source = y.detach().contiguous().requires_grad_()
                u = getattr(F, f"max_unpool{ndim}d")(source, indices.contiguous(), kernel, stride, padding, size)
                results.append((u, torch.autograd.grad(u, source, weight.contiguous())[0]))
            else:
                results.append((u, torch.autograd.grad(u, y, weight)[0]))
        for a, b in zip(*results):
            assert torch.equal(a, b) if isinstance(a, Tensor) else a == b


def test_no_indices_read_nothing(backend: Backend) -> None:
    """An empty plane of indices has no rows to be cut into tasks."""
    x = torch.ones(2, 3, 8, 10)
    for size in ((2, 3, 0, 1), (2, 3, 4, 0)):
        assert backend.plane_gather(x, torch.zeros(size, dtype=torch.int64), False).shape == size
