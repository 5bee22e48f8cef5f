"""convkit: convolution and pooling kernels for PyTorch.

``functional`` and ``nn`` have the names, signatures and results of torch.nn.functional and torch.nn;
``backend`` chooses who computes, ``explain`` says who does and why, ``tune`` measures who should on a GPU;
``convert`` swaps the layers of a model, ``revert`` swaps them back; ``output_size`` and ``receptive_field`` are the
formulas.
"""

from convkit import functional, nn
from convkit.backends import backend, explain, tune
from convkit.conversion import convert, revert
from convkit.fusion import fuse, fuse_conv_bn_eval, unfuse
from convkit.geometry import output_size, receptive_field
from convkit.version import __version__

__all__ = [
    "__version__",
    "backend",
    "convert",
    "explain",
    "functional",
    "fuse",
    "fuse_conv_bn_eval",
    "nn",
    "output_size",
    "receptive_field",
    "revert",
    "tune",
    "unfuse",
]
