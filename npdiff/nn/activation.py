"""The nonlinearity SiLU, y = x sigmoid(x) (Elfwing et al. 2018; Ramachandran et al. 2017, "swish"), element by element on any shape."""

import numpy as np


def sigmoid(x):
    """1 / (1 + exp(-x)), through the identity  sigmoid(x) = (1 + tanh(x/2)) / 2,  which cannot overflow."""
    s = 0.5 * x
    np.tanh(s, out=s)
    s *= 0.5
    s += 0.5
    return s


def silu_forward(x):
    """y = x sigmoid(x).   x (...) -> y (...)"""
    s = sigmoid(x)
    y = x * s
    return y, (s, y)


def silu_backward(dy, cache):
    """dy (...) -> dx (...)

    With s = sigmoid(x)     ds/dx = s (1 - s)
    y = x s                 dy/dx = s + x s (1 - s)          product rule
                                  = s + y (1 - s)            x s is y again
    Chain rule                 dx = dy (s + y (1 - s))
    """
    s, y = cache
    dx = 1 - s
    dx *= y
    dx += s
    dx *= dy
    return dx
