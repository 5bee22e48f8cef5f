"""convkit: convolution and pooling kernels for PyTorch.

``functional`` and ``nn`` have the names, signatures and results of torch.nn.functional and torch.nn;
``backend`` chooses who computes.
"""

from convkit import functional, nn
from convkit.backends import backend
from convkit.version import __version__

__all__ = ["__version__", "backend", "functional", "nn"]
