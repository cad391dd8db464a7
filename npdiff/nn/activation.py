"""The nonlinearity SiLU, y = x sigmoid(x), element by element on any shape.

Sources: [Elfwing et al. 2018](https://arxiv.org/abs/1702.03118);
[Ramachandran et al. 2017](https://arxiv.org/abs/1710.05941), who call it "swish".
"""

import numpy as np

TINY = 2.0 ** -60


def sigmoid(x):
    """1 / (1 + exp(-x)),  computed as  TINY / (TINY + TINY exp(-x/2)^2).

    exp(-x) is inf from x = -88.8 on in float32, where the sigmoid is 3e-39 and not yet zero. TINY moves this
    down to where it is. The first digits are right for every x, however near to 0 or 1 the sigmoid is.
    """
    root = -0.5 * x
    with np.errstate(over="ignore"):            # inf where the sigmoid is zero: 1 / inf = 0
        np.exp(root, out=root)
        s = TINY * root
        s *= root
    s += TINY
    return np.divide(TINY, s, out=s)


def silu_forward(x):
    """y = x sigmoid(x).   x (...) -> y (...)"""
    s = sigmoid(x)
    y = x * s
    return y, (s, y)


def silu_backward(dy, cache):
    """dy (...) -> dx (...)

    Sigmoid       s = 1 / (1 + exp(-x)) = 1 / (1 + e)        ∂e/∂x = -e
                  ∂s/∂x = e / (1 + e)^2 = s (1 - s)          as 1 - s = e / (1 + e)
    y = x s       ∂y/∂x = s + x s (1 - s)                    product rule
                        = s + y (1 - s)                      x s is y again
    Chain rule       dx = dy (s + y (1 - s))
    """
    s, y = cache
    dx = 1 - s
    dx *= y
    dx += s
    dx *= dy
    return dx
