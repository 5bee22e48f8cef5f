"""The pooling rows, one line each: a function of convkit.functional, the input's shape, and the arguments.

``python -m bench.run pools`` calls the function as a user does, forward alone and forward with backward through
autograd, beside its rival: PyTorch's function of the same name or, where PyTorch has none, a composition of its
functions (``bench/rivals.py``). A row's family is its function without the number of dimensions; the promised
ratios stand by family in ``bench/floors.py``.

The windows of suite.json's pools are run with every kind of pooling listed in KINDS; ROWS holds the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from torch import Tensor

from bench import rivals

SMALLEST_SPATIAL, SMALLEST_CHANNELS = 28, 64


@dataclass(frozen=True)
class PoolRow:
    """One pooling layer: ``op`` names the function, ``arguments`` all it takes besides tensors."""

    id: str
    op: str
    shape: tuple[int, ...]  # N, C, spatial
    arguments: Mapping[str, Any] = field(hash=False)
    rival: Callable[..., Any] | None = None  # called as torch.nn.functional's function of that name would be
    tensors: Callable[[Tensor], tuple[Tensor, ...]] = rivals.itself  # the tensor arguments, made from the input
    source: str = ""

    @property
    def family(self) -> str:
        return self.op[:-2]

    @property
    def dims(self) -> int:
        return len(self.shape) - 2

    @property
    def out(self) -> tuple[int, ...]:
        """Spatial size of an adaptive pool's result; () for the others."""
        size = self.arguments["output_size"] if self.family.startswith("adaptive") else ()
        return (size,) * self.dims if isinstance(size, int) else tuple(size)

    @property
    def kernel(self) -> tuple[int, ...]:
        """The window's extents; of an adaptive pool the largest."""
        if self.out:
            return tuple(-(-n // o) + (n % o != 0) for n, o in zip(self.shape[2:], self.out))
        size = self.arguments["kernel_size"]
        return (size,) * self.dims if isinstance(size, int) else tuple(size)

    @property
    def flops(self) -> float:
        """Elements read by the windows of an unstrided pooling: an upper bound."""
        return float(math.prod(self.shape) * (1 if self.out else math.prod(self.kernel)))

    @property
    def bytes(self) -> float:
        """Bytes of input and, at most as large, output in float32."""
        return 8.0 * math.prod(self.shape)

    def of_batch(self, share: float) -> PoolRow:
        return replace(self, shape=(max(1, int(self.shape[0] * share)), *self.shape[1:]))

    def less_space(self) -> PoolRow:
        spatial = list(self.shape[2:])
        longest = max(range(self.dims), key=lambda i: spatial[i])
        half = spatial[longest] // 2
        if self.out or half < max(SMALLEST_SPATIAL, self.kernel[longest]):
            return self
        spatial[longest] = half
        return replace(self, shape=(*self.shape[:2], *spatial))

    def fewer_channels(self) -> PoolRow:
        half = self.shape[1] // 2
        return self if half < SMALLEST_CHANNELS else replace(self, shape=(self.shape[0], half, *self.shape[2:]))

    def __str__(self) -> str:
        def short(values: Any) -> str:
            values = [values] if isinstance(values, (int, float)) else list(values)
            return str(values[0]) if len(set(values)) == 1 else "x".join(map(str, values))

        parts = ["x".join(map(str, self.shape))]
        for name, value in self.arguments.items():
            if name == "kernel_size":
                parts.append("x".join(map(str, self.kernel)))
            elif name == "output_size":
                parts.append("to " + "x".join(map(str, self.out or (value if isinstance(value, tuple) else (value,)))))
            elif name in ("stride", "padding"):
                parts += [] if short(value) == ("1" if name == "stride" else "0") else [name[0] + short(value)]
            else:
                parts.append(f"{name}={value}")
        return " ".join(parts)


class Kind(NamedTuple):
    """A kind of pooling that suite.json's windows are run with."""

    family: str
    extra: Mapping[str, Any] = {}
    padding: bool = True  # whether rival and function know padding
    rival: Callable[..., Any] | None = None


# by the name in suite.json's "ops"
KINDS = {
    "max": Kind("max_pool"),
    "avg": Kind("avg_pool"),
    "lp2": Kind("lp_pool", {"norm_type": 2.0}, padding=False),
}

# Unpooling's shapes are those of what was pooled, and comes back.
UNPOOLED = ({"kernel_size": 2, "stride": 2}, None, rivals.pooled(2, 2))

ROWS = [
    PoolRow("M01", "max_pool2d", (256, 6, 24, 24), {"kernel_size": 2, "stride": 2}, source="LeNet-5 pool 1"),
    PoolRow("M02", "max_pool2d", (32, 192, 27, 27), {"kernel_size": 3, "stride": 2}, source="AlexNet pool 2"),
    PoolRow("M03", "max_pool2d", (64, 512, 14, 14), {"kernel_size": 2, "stride": 2}, source="VGG pool 5"),
    *(
        PoolRow(
            f"ST{number}",
            "stochastic_pool2d",
            shape,
            {"kernel_size": (k, k), "stride": (s, s), "padding": (p, p)},
            rivals.stochastic_pool2d,
            source=source,
        )
        for number, (shape, k, s, p, source) in enumerate(
            (
                ((64, 64, 32, 32), 3, 2, 1, "Zeiler & Fergus 2013, CIFAR-10, pool 1"),
                ((32, 64, 56, 56), 2, 2, 0, "VGG pool 2's window"),
                ((16, 64, 112, 112), 3, 2, 1, "ResNet stem's window"),
                ((16, 192, 28, 28), 3, 1, 1, "Inception's window"),
            ),
            1,
        )
    ),
    PoolRow("AA1", "adaptive_avg_pool2d", (64, 256, 13, 13), {"output_size": 6}, source="AlexNet, other image sizes"),
    PoolRow("AA2", "adaptive_avg_pool2d", (64, 512, 14, 14), {"output_size": 7}, source="VGG head"),
    PoolRow("AA3", "adaptive_avg_pool2d", (64, 512, 10, 10), {"output_size": 7}, source="VGG head, 320 pixels"),
    PoolRow("AA4", "adaptive_avg_pool2d", (32, 2048, 7, 7), {"output_size": 1}, source="ResNet head"),
    PoolRow("AA5", "adaptive_avg_pool2d", (32, 128, 60, 60), {"output_size": 6}, source="PSPNet pyramid"),
    PoolRow("AA6", "adaptive_avg_pool2d", (16, 128, 56, 56), {"output_size": 7}, source="windows of 8"),
    PoolRow("AA7", "adaptive_avg_pool2d", (16, 16, 224, 224), {"output_size": 7}, source="windows of 32"),
    PoolRow("AA8", "adaptive_avg_pool3d", (8, 128, 9, 30, 31), {"output_size": (4, 7, 7)}, source="video, uneven"),
    PoolRow("AM1", "adaptive_max_pool2d", (64, 256, 13, 13), {"output_size": 6}, source="AlexNet, other image sizes"),
    PoolRow("AM2", "adaptive_max_pool2d", (64, 512, 14, 14), {"output_size": 7}, source="region features"),
    PoolRow("AM3", "adaptive_max_pool2d", (64, 512, 10, 10), {"output_size": 7}, source="region features, uneven"),
    PoolRow("AM4", "adaptive_max_pool2d", (32, 2048, 7, 7), {"output_size": 1}, source="global maximum"),
    PoolRow("AM5", "adaptive_max_pool2d", (16, 128, 56, 56), {"output_size": 7}, source="windows of 8"),
    PoolRow("AM6", "adaptive_max_pool1d", (64, 64, 1000), {"output_size": 7}, source="windows of 143"),
    PoolRow("U01", "max_unpool2d", (8, 64, 112, 112), *UNPOOLED, source="SegNet, second from last"),
    PoolRow("U02", "max_unpool2d", (32, 256, 28, 28), *UNPOOLED, source="SegNet, in the middle"),
    PoolRow("U03", "max_unpool2d", (1, 64, 112, 112), *UNPOOLED, source="one image"),
    PoolRow("U04", "max_unpool3d", (2, 32, 32, 32, 32), *UNPOOLED, source="volumes"),
    PoolRow(
        "F01",
        "fractional_max_pool2d",
        (64, 32, 94, 94),
        {"kernel_size": 2, "output_ratio": (0.7071, 0.7071)},
        source="Graham 2014",
    ),
    PoolRow(
        "F02", "fractional_max_pool3d", (8, 32, 24, 24, 24), {"kernel_size": 2, "output_ratio": 0.6}, source="volumes"
    ),
    *(
        PoolRow(f"L0{i}", "lp_pool2d", shape, {"norm_type": p, "kernel_size": k, "stride": 2}, source=source)
        for i, (p, k, shape, source) in enumerate(
            (
                (2.0, 3, (32, 64, 112, 112), "ResNet's first pool"),
                (2.0, 2, (32, 128, 56, 56), "halving, p = 2"),
                (1.0, 3, (32, 64, 112, 112), "p = 1"),
                (3.0, 3, (32, 64, 112, 112), "p = 3"),
                (2.5, 3, (32, 64, 112, 112), "a power without a shorter way"),
            ),
            1,
        )
    ),
]


def suite_row(row: Mapping[str, Any], name: str) -> PoolRow:
    """The window of a pool of suite.json with the kind of pooling that ``name`` stands for."""
    kind = KINDS[name]
    arguments: dict[str, Any] = {"kernel_size": tuple(row["kernel"]), "stride": tuple(row["stride"])}
    if kind.padding:
        arguments["padding"] = tuple(row["padding"])
    if len(row["kernel"]) == 1:  # lp_pool1d takes no tuple
        arguments["kernel_size"] = row["kernel"][0]
    spatial = tuple(row["spatial"])
    return PoolRow(
        f"{row['id']}-{name}",
        f"{kind.family}{len(spatial)}d",
        (row["n"], row["c"], *spatial),
        {**kind.extra, **arguments},
        kind.rival,
        source=row["source"],
    )
