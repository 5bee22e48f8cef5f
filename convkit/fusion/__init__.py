"""Fusing the layers of a model: convolution, batch norm, residual and activation as one operation, in place and back.

``tracing`` finds out what a module computes, ``patterns`` which of it one operation can do, ``units`` lets the module
do so, ``model`` walks through a whole model; ``folding`` makes one layer of two, for inference.
"""

from convkit.fusion.folding import fuse_conv_bn_eval
from convkit.fusion.model import FusionReport, fuse, unfuse

__all__ = ["FusionReport", "fuse", "fuse_conv_bn_eval", "unfuse"]
