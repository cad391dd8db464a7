"""The nonlinearity SiLU, y = x sigmoid(x), element by element on any shape.

Sources: [Elfwing et al. 2018](https://arxiv.org/abs/1702.03118);
[Ramachandran et al. 2017](https://arxiv.org/abs/1710.05941), who call it "swish".
"""

import numpy as np


def sigmoid(x):
    """1 / (1 + exp(-x)), computed as  (1 + tanh(x/2)) / 2,  which cannot overflow."""
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

    With s = sigmoid(x)     ∂s/∂x = s (1 - s)
    y = x s                 ∂y/∂x = s + x s (1 - s)          product rule
                                  = s + y (1 - s)            x s is y again
    Chain rule                 dx = dy (s + y (1 - s))
    """
    s, y = cache
    dx = 1 - s
    dx *= y
    dx += s
    dx *= dy
    return dx
