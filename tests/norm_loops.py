"""Batch normalisation by its definition, one element at a time; of the package it knows the names of activations only.

An activation's derivative is a difference quotient of the activation itself, on the side that PyTorch takes at corners.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

ACTIVATIONS: dict[str, Callable[[float, float], float]] = {
    "identity": lambda v, alpha: v,
    "relu": lambda v, alpha: max(v, 0.0),
    "leaky_relu": lambda v, alpha: v if v > 0 else alpha * v,
    "elu": lambda v, alpha: v if v > 0 else alpha * math.expm1(v),
    "sigmoid": lambda v, alpha: 1 / (1 + math.exp(-v)),
    "tanh": lambda v, alpha: math.tanh(v),
    "silu": lambda v, alpha: v / (1 + math.exp(-v)),
    "gelu": lambda v, alpha: v * (1 + math.erf(v / math.sqrt(2))) / 2,
}
STEP = 2.0**-17  # the error of the quotient is near the square of it, and rounding adds 2^-52 over it


def derivative(name: str, v: float, alpha: float) -> float:
    act = ACTIVATIONS[name]
    if name in ("relu", "leaky_relu", "elu") and -STEP <= v <= 0:  # from below
        return (act(v - STEP, alpha) * -4 + act(v - 2 * STEP, alpha) + act(v, alpha) * 3) / (2 * STEP)
    return (act(v + STEP, alpha) - act(v - STEP, alpha)) / (2 * STEP)


#: How far such a derivative may lie from the true one.
QUOTIENT_ERROR = 2 * STEP**2 + 8 * 2.0**-52 / STEP


def statistics(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mean, var = np.zeros(x.shape[1]), np.zeros(x.shape[1])
    for c in range(x.shape[1]):
        elements = [float(v) for v in x[:, c].ravel()]
        mean[c] = math.fsum(elements) / len(elements) if elements else math.nan
        var[c] = math.fsum((v - mean[c]) ** 2 for v in elements) / len(elements) if elements else math.nan
    return mean, var


def activated_value(a: dict[str, Any], at: tuple[int, ...]) -> float:
    """What the activation is given at one place."""
    c = at[1]
    scale = a["invstd"][c] * (1 if a["weight"] is None else a["weight"][c])
    v = (a["x"][at] - a["mean"][c]) * scale + (0 if a["bias"] is None else a["bias"][c])
    return float(v + (0 if a["residual"] is None else a["residual"][at]))


def act(a: dict[str, Any], name: str) -> np.ndarray:
    z = np.zeros(a["x"].shape)
    for at in np.ndindex(z.shape):
        z[at] = ACTIVATIONS[name](activated_value(a, at), a["alpha"])
    return z


def gradient(a: dict[str, Any], name: str) -> np.ndarray:
    g = np.zeros(a["x"].shape)
    for at in np.ndindex(g.shape):
        g[at] = a["dz"][at] * derivative(name, activated_value(a, at), a["alpha"])
    return g


def reduce(a: dict[str, Any], name: str) -> tuple[np.ndarray, np.ndarray]:
    g = gradient(a, name)
    dbias, dweight = np.zeros(g.shape[1]), np.zeros(g.shape[1])
    for at in np.ndindex(g.shape):
        c = at[1]
        dbias[c] += g[at]
        dweight[c] += g[at] * (a["x"][at] - a["mean"][c]) * a["invstd"][c]
    return dbias, dweight


def apply(a: dict[str, Any], name: str) -> tuple[np.ndarray, np.ndarray]:
    g = gradient(a, name)
    dx = np.zeros(g.shape)
    for at in np.ndindex(g.shape):
        c = at[1]
        inner = g[at]
        if a["count"]:
            hat = (a["x"][at] - a["mean"][c]) * a["invstd"][c]
            inner = inner - a["dbias"][c] / a["count"] - hat * a["dweight"][c] / a["count"]
        dx[at] = a["invstd"][c] * (1 if a["weight"] is None else a["weight"][c]) * inner
    return dx, g
