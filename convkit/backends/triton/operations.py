"""The kernels' functions by the names of raw operations. Importing this imports triton."""

from convkit.backends.triton.avg_pool import avg_pool, avg_pool_bwd
from convkit.backends.triton.convolution import conv_dgrad, conv_fprop, conv_wgrad
from convkit.backends.triton.max_pool import max_pool, pool_indices, pool_select, pool_select_bwd
from convkit.backends.triton.sums import conv_bgrad

__all__ = [
    "avg_pool",
    "avg_pool_bwd",
    "conv_bgrad",
    "conv_dgrad",
    "conv_fprop",
    "conv_wgrad",
    "max_pool",
    "pool_indices",
    "pool_select",
    "pool_select_bwd",
]
