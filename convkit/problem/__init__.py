"""What a convolution or a pooling computes, apart from its data: specs, shape formulas, and the checks of arguments.

``specs`` holds the tuples that every layer below passes on, ``shapes`` the only shape formulas in Python,
``arguments`` the parsing of ints, tuples and pairs, ``convolution`` and ``pooling`` the checks of each
family with PyTorch's messages.
"""

from convkit.problem.shapes import (
    adaptive_pool_spec,
    conv_output_size,
    conv_transpose_output_size,
    largest_window,
    pool_output_size,
)
from convkit.problem.specs import (
    ACTIVATIONS,
    PADDING_MODES,
    ConvSpec,
    PoolSpec,
    offset_bytes,
    pack_conv,
    pack_pool,
)

__all__ = [
    "ACTIVATIONS",
    "PADDING_MODES",
    "ConvSpec",
    "PoolSpec",
    "adaptive_pool_spec",
    "conv_output_size",
    "conv_transpose_output_size",
    "largest_window",
    "offset_bytes",
    "pack_conv",
    "pack_pool",
    "pool_output_size",
]
