"""Random calls of the poolings that take more than windows: adaptive, Lp, unpooling, fractional; and spoilt ones.

``tests/differential.py`` compares their outcomes with PyTorch's.
"""

from __future__ import annotations

import random
from typing import Any

import torch
import torch.nn.functional as F

from tests.differential import OTHERS, Call, cast, whole

_SPOILT = ("adaptive_avg_pool", "adaptive_max_pool", "lp_pool", "max_unpool")
SPOILT = [f"{name}{n}d" for name in _SPOILT for n in (1, 2, 3)] + [f"fractional_max_pool{n}d" for n in (2, 3)]

DTYPES = (torch.float32, torch.float32, torch.float64, torch.bfloat16)


def draw_unpool(rng: random.Random, n: int) -> Call:
    """A valid call of max_unpool: the maxima and indices of a pooling."""
    k, s = rng.choice((1, 2, 3)), rng.choice((1, 2, 3))
    size = [k + rng.randrange(1, 6) for _ in range(n)]
    x = whole(rng, [rng.choice((1, 2)), rng.choice((1, 2)), *size], rng.choice(DTYPES))
    y, indices = getattr(F, f"max_pool{n}d")(x, k, s, return_indices=True)
    if rng.random() < 0.15:
        y, indices = y[0], indices[0]
    return Call(f"max_unpool{n}d", (y, indices, k), {"stride": s, "output_size": size})


def draw_fractional(rng: random.Random, n: int) -> Call:
    """A valid call of fractional_max_pool with samples, so that both choose the same windows."""
    k = rng.choice((1, 2, 3))
    size = [k + rng.randrange(3, 8) for _ in range(n)]
    dtype = rng.choice(DTYPES)
    x = whole(rng, [rng.choice((1, 2)), rng.choice((1, 2)), *size], dtype)
    generator = torch.Generator().manual_seed(rng.getrandbits(31))
    kwargs: dict[str, Any] = {"_random_samples": torch.rand(*x.shape[:2], n, generator=generator).to(dtype)}
    if rng.random() < 0.5:
        kwargs["output_size"] = tuple(rng.randrange(1, m - k + 1) for m in size)
    else:
        kwargs["output_ratio"] = (rng.choice((0.3, 0.5)),) * n
    if rng.random() < 0.3:
        kwargs["return_indices"] = True
    return Call(f"fractional_max_pool{n}d", (x, k), kwargs)


def spoil(rng: random.Random, call: Call) -> Call:
    """The call with one argument made wrong (or, now and then, merely unusual)."""
    n = int(call.op[-2])
    args, kwargs = list(call.args), dict(call.kwargs)
    sizes = [0, -1, 9, (1,) * (n + 1), (), (0,) * n, (-1,) * n, (2,) * n, 1.5, (1.5,) * n, None, "a", True]
    sizes += [[1] * n, (1,) * (n - 1) + (1.0,), (1,) * (n - 1) + (None,), (n + 1) * (None,)]
    x = args[0].detach()
    # What PyTorch multiplies before it looks at it: a string or a list would be repeated.
    plain = [v for v in sizes if not isinstance(v, (str, list))]
    values: dict[str, list[Any]] = {
        "input": [x[..., :0], x[:0], x[0], x[None], x[0, 0], x[..., :1], x.reshape(-1), x.sum(), None, 1, [1.0]]
        + [x[:, :0], cast(x, rng.choice(OTHERS))]
    }
    if call.op.startswith("adaptive"):
        values["output_size"] = sizes
    elif call.op.startswith("lp"):
        values["norm_type"] = [0, 0.0, None, "a", (1,), -1, True, [2.0], 2 + 0j]
        values["kernel_size"] = plain
        values["stride"] = sizes
        values["ceil_mode"] = [1, 0, None, "a", 1.0]
    elif call.op.startswith("max_unpool"):
        indices = args[1]
        values["indices"] = [None, 1, indices.int(), indices[..., :1], indices[0], indices[None], indices.double()]
        values["kernel_size"] = values["stride"] = values["padding"] = sizes
        values["output_size"] = [*sizes, *([max(1, m + d) for m in kwargs["output_size"]] for d in (-3, 3))]
        values["output_size"] += [(1, 1, *kwargs["output_size"]), torch.Size(kwargs["output_size"])]
    else:
        samples = kwargs["_random_samples"]
        values["kernel_size"] = sizes
        values["output_size"] = [v for v in sizes if v is not None]
        values["output_ratio"] = [0, 0.5, 1.5, -0.1, (0.5,) * n, (1.5,) * n, (0.5,) * (n + 1), (), None, (None,) * n]
        values["_random_samples"] = [samples[0], samples[:, :0], samples[..., :1], samples.int(), 1, samples[:0]]
    what = rng.choice(sorted(values))
    value = rng.choice(values[what])
    positions = {
        "adaptive": ("input", "output_size"),
        "lp": ("input", "norm_type", "kernel_size"),
        "max": ("input", "indices", "kernel_size"),
        "fractional": ("input", "kernel_size"),
    }[call.op.split("_")[0]]
    if what in positions:
        args[positions.index(what)] = value
    else:
        kwargs[what] = value
    return Call(call.op, tuple(args), kwargs)
