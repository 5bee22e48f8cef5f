"""Backend ``triton``: the raw operations in Triton, one file per family of kernels.

``backend``, ``machine`` and ``tiles`` are imported with the package, the others when they are needed: they import
triton, which is optional and takes a third of a second. Kernels run on CUDA tensors, and with TRITON_INTERPRET=1 on
CPU tensors, slowly.
"""
