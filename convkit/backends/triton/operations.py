"""The kernels' functions by the names of raw operations. Importing this imports triton."""

from convkit.backends.triton.avg_pool import avg_pool, avg_pool_bwd
from convkit.backends.triton.bn_act import bn_act, bn_act_bwd, bn_act_bwd_reduce
from convkit.backends.triton.bn_stats import bn_stats
from convkit.backends.triton.convolution import conv_dgrad, conv_fprop, conv_fprop_stats, conv_wgrad
from convkit.backends.triton.flat import max_unpool, plane_gather, plane_scatter
from convkit.backends.triton.fractional_pool import fractional_max_pool
from convkit.backends.triton.lp_pool import lp_pool, lp_pool_bwd
from convkit.backends.triton.max_pool import max_pool, pool_indices, pool_select, pool_select_bwd
from convkit.backends.triton.stochastic_pool import stochastic_mean, stochastic_mean_bwd, stochastic_pool
from convkit.backends.triton.sums import conv_bgrad

__all__ = [
    "avg_pool",
    "avg_pool_bwd",
    "bn_act",
    "bn_act_bwd",
    "bn_act_bwd_reduce",
    "bn_stats",
    "conv_bgrad",
    "conv_dgrad",
    "conv_fprop",
    "conv_fprop_stats",
    "conv_wgrad",
    "fractional_max_pool",
    "lp_pool",
    "lp_pool_bwd",
    "max_pool",
    "max_unpool",
    "plane_gather",
    "plane_scatter",
    "pool_indices",
    "pool_select",
    "pool_select_bwd",
    "stochastic_mean",
    "stochastic_mean_bwd",
    "stochastic_pool",
]
