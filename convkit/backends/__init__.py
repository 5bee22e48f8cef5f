"""The backends and the choice between them.

Argument > ``with convkit.backend("name")`` > environment variable ``CONVKIT_BACKEND`` > automatic. An explicit
choice never falls back: it runs, or raises with the reason. The automatic choice takes what :func:`tune` measured to be
the fastest on a GPU, else the first backend of ``selection.AUTOMATIC`` that supports the operation; :func:`explain`
lists what each of them says.
"""

from __future__ import annotations

from convkit.backends.base import RAW_OPS, Backend
from convkit.backends.explain import Explanation, explain
from convkit.backends.selection import backend, get, names, register, resolve, select
from convkit.backends.tuning import Tuning, tune

__all__ = [
    "RAW_OPS",
    "Backend",
    "Explanation",
    "Tuning",
    "backend",
    "explain",
    "get",
    "names",
    "register",
    "resolve",
    "select",
    "tune",
]
