"""torch.nn's convolution and pooling classes, as subclasses that run convkit's kernels."""

from convkit.nn.adaptive_pooling import (
    AdaptiveAvgPool1d,
    AdaptiveAvgPool2d,
    AdaptiveAvgPool3d,
    AdaptiveMaxPool1d,
    AdaptiveMaxPool2d,
    AdaptiveMaxPool3d,
)
from convkit.nn.convolution import Conv1d, Conv2d, Conv3d
from convkit.nn.fractional_pool import FractionalMaxPool1d, FractionalMaxPool2d, FractionalMaxPool3d
from convkit.nn.fused import ConvBNReLU1d, ConvBNReLU2d, ConvBNReLU3d
from convkit.nn.lazy import (
    LazyConv1d,
    LazyConv2d,
    LazyConv3d,
    LazyConvTranspose1d,
    LazyConvTranspose2d,
    LazyConvTranspose3d,
)
from convkit.nn.lp_pooling import (
    GaussianLPPool1d,
    GaussianLPPool2d,
    GaussianLPPool3d,
    LPPool1d,
    LPPool2d,
    LPPool3d,
)
from convkit.nn.maxout import Maxout
from convkit.nn.mixed_pooling import MixedPool1d, MixedPool2d, MixedPool3d, NMaxPool1d, NMaxPool2d, NMaxPool3d
from convkit.nn.pooling import (
    AvgPool1d,
    AvgPool2d,
    AvgPool3d,
    MaxPool1d,
    MaxPool2d,
    MaxPool3d,
)
from convkit.nn.spectral_pooling import SpectralPool1d, SpectralPool2d, SpectralPool3d
from convkit.nn.stochastic_pool import StochasticPool1d, StochasticPool2d, StochasticPool3d
from convkit.nn.transposed import ConvTranspose1d, ConvTranspose2d, ConvTranspose3d
from convkit.nn.unpool import MaxUnpool1d, MaxUnpool2d, MaxUnpool3d

__all__ = [
    "AdaptiveAvgPool1d",
    "AdaptiveAvgPool2d",
    "AdaptiveAvgPool3d",
    "AdaptiveMaxPool1d",
    "AdaptiveMaxPool2d",
    "AdaptiveMaxPool3d",
    "AvgPool1d",
    "AvgPool2d",
    "AvgPool3d",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvBNReLU1d",
    "ConvBNReLU2d",
    "ConvBNReLU3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "FractionalMaxPool1d",
    "FractionalMaxPool2d",
    "FractionalMaxPool3d",
    "GaussianLPPool1d",
    "GaussianLPPool2d",
    "GaussianLPPool3d",
    "LPPool1d",
    "LPPool2d",
    "LPPool3d",
    "LazyConv1d",
    "LazyConv2d",
    "LazyConv3d",
    "LazyConvTranspose1d",
    "LazyConvTranspose2d",
    "LazyConvTranspose3d",
    "MaxPool1d",
    "MaxPool2d",
    "MaxPool3d",
    "MaxUnpool1d",
    "MaxUnpool2d",
    "MaxUnpool3d",
    "Maxout",
    "MixedPool1d",
    "MixedPool2d",
    "MixedPool3d",
    "NMaxPool1d",
    "NMaxPool2d",
    "NMaxPool3d",
    "SpectralPool1d",
    "SpectralPool2d",
    "SpectralPool3d",
    "StochasticPool1d",
    "StochasticPool2d",
    "StochasticPool3d",
]
