"""convkit: convolution and pooling kernels for PyTorch."""
