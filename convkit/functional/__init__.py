"""Convolution and pooling with torch.nn.functional's names, signatures, results and errors.

Keyword-only extras: ``backend`` of every function (a name, see :func:`convkit.backend`), and ``strict`` where
windows slide in even steps (RuntimeError unless they fit the padded input exactly); there the padding may also be
(before, after) pairs, one per spatial dimension.
"""

from convkit.functional.adaptive_pooling import (
    adaptive_avg_pool1d,
    adaptive_avg_pool2d,
    adaptive_avg_pool3d,
    adaptive_max_pool1d,
    adaptive_max_pool1d_with_indices,
    adaptive_max_pool2d,
    adaptive_max_pool2d_with_indices,
    adaptive_max_pool3d,
    adaptive_max_pool3d_with_indices,
)
from convkit.functional.convolution import (
    conv1d,
    conv2d,
    conv3d,
    conv_transpose1d,
    conv_transpose2d,
    conv_transpose3d,
)
from convkit.functional.fractional_pool import (
    fractional_max_pool1d,
    fractional_max_pool1d_with_indices,
    fractional_max_pool2d,
    fractional_max_pool2d_with_indices,
    fractional_max_pool3d,
    fractional_max_pool3d_with_indices,
)
from convkit.functional.fused import (
    fused_conv1d,
    fused_conv2d,
    fused_conv3d,
    fused_conv_transpose1d,
    fused_conv_transpose2d,
    fused_conv_transpose3d,
)
from convkit.functional.lp_pooling import lp_pool1d, lp_pool2d, lp_pool3d
from convkit.functional.maxout import maxout
from convkit.functional.mixed_pooling import mixed_pool1d, mixed_pool2d, mixed_pool3d
from convkit.functional.nmax_pooling import nmax_pool1d, nmax_pool2d, nmax_pool3d
from convkit.functional.pooling import (
    avg_pool1d,
    avg_pool2d,
    avg_pool3d,
    max_pool1d,
    max_pool1d_with_indices,
    max_pool2d,
    max_pool2d_with_indices,
    max_pool3d,
    max_pool3d_with_indices,
)
from convkit.functional.spectral_pooling import spectral_pool1d, spectral_pool2d, spectral_pool3d
from convkit.functional.stochastic_pool import stochastic_pool1d, stochastic_pool2d, stochastic_pool3d
from convkit.functional.unpool import max_unpool1d, max_unpool2d, max_unpool3d

__all__ = [
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool3d",
    "adaptive_max_pool1d",
    "adaptive_max_pool1d_with_indices",
    "adaptive_max_pool2d",
    "adaptive_max_pool2d_with_indices",
    "adaptive_max_pool3d",
    "adaptive_max_pool3d_with_indices",
    "avg_pool1d",
    "avg_pool2d",
    "avg_pool3d",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "fractional_max_pool1d",
    "fractional_max_pool1d_with_indices",
    "fractional_max_pool2d",
    "fractional_max_pool2d_with_indices",
    "fractional_max_pool3d",
    "fractional_max_pool3d_with_indices",
    "fused_conv1d",
    "fused_conv2d",
    "fused_conv3d",
    "fused_conv_transpose1d",
    "fused_conv_transpose2d",
    "fused_conv_transpose3d",
    "lp_pool1d",
    "lp_pool2d",
    "lp_pool3d",
    "max_pool1d",
    "max_pool1d_with_indices",
    "max_pool2d",
    "max_pool2d_with_indices",
    "max_pool3d",
    "max_pool3d_with_indices",
    "max_unpool1d",
    "max_unpool2d",
    "max_unpool3d",
    "maxout",
    "mixed_pool1d",
    "mixed_pool2d",
    "mixed_pool3d",
    "nmax_pool1d",
    "nmax_pool2d",
    "nmax_pool3d",
    "spectral_pool1d",
    "spectral_pool2d",
    "spectral_pool3d",
    "stochastic_pool1d",
    "stochastic_pool2d",
    "stochastic_pool3d",
]
