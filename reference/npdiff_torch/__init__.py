"""The reference: npdiff's networks on PyTorch, gradients from autograd, Adam and averaging from torch itself.

CPU or CUDA.
"""
