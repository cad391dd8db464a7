"""The reference: npdiff's networks on PyTorch, on CPU or CUDA.

Gradients come from autograd, Adam and the moving average from torch. All else is npdiff's own.
"""
