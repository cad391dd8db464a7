"""A third backend, to prove that the seam is small: a linear model, y = x A + t c + d, on plain Python lists, fitted by gradient descent.

It knows nothing of NumPy's networks; training, samplers and comparison run on it unchanged. Registered by tests/test_backend.py as an entry point.
"""

import operator

import numpy as np


def each(operation):
    """The operation row by row, down to the numbers; a number on the right goes with every row."""
    return lambda a, b: Rows(operation(x, y) for x, y in zip(a, b if isinstance(b, Rows) else [b] * len(a)))


class Rows(list):
    """An array of this library: a list of numbers, or of such lists, with the operators that npdiff's shared code uses."""

    shape = property(lambda self: (len(self), len(self[0])))
    __add__ = __radd__ = each(operator.add)
    __sub__ = each(operator.sub)
    __mul__ = __rmul__ = each(operator.mul)
    __truediv__ = each(operator.truediv)
    __getitem__ = lambda self, key: Rows(list.__getitem__(self, key)) if isinstance(key, slice) else list.__getitem__(self, key)
    sum = lambda self, axis: Rows(sum(row) for row in self)
    mean = lambda self: sum(sum(row) / len(row) for row in self) / len(self)


class ToyBackend:
    def __init__(self, device="cpu", dtype="float64"):
        self.made_for = device, dtype

    def asarray(self, x):
        return Rows(Rows(row) for row in np.asarray(x, float).tolist())

    def to_numpy(self, x):
        return np.array(x)

    def about(self):
        return "lists, slowly"

    def peak_memory(self):
        return 0

    def make_denoiser(self, config, params, ema_decay=0.0):
        return ToyDenoiser(config.data_dim)


class ToyDenoiser:
    def __init__(self, D):
        self.D, self.step, self.w = D, 0, [[0.0] * D for _ in range(D + 2)]     # rows of A, then c, then d

    def features(self, x, t):
        times = t if np.ndim(t) else [t] * len(x)
        return [[*row, time / 1000, 1.0] for row, time in zip(x, times)]

    def predict(self, x, t, labels=None):
        return Rows(Rows(sum(f * w[o] for f, w in zip(row, self.w)) for o in range(self.D)) for row in self.features(x, t))

    def divergence(self, x, t, labels=None):
        return self.predict(x, t), Rows([sum(self.w[d][d] for d in range(self.D))] * len(x))

    def operations(self, x, t, labels=None):
        return [("linear", self.predict(x, t))]

    def loss_and_grads(self, x_t, t, target, labels=None, weight=None):
        error, rows, M = self.predict(x_t, t) - target, self.features(x_t, t), len(x_t) * self.D
        grads = [[sum(2 / M * e[o] * f[i] for e, f in zip(error, rows)) for o in range(self.D)] for i in range(self.D + 2)]
        return sum(e * e for row in error for e in row) / M, {"w": grads}

    def update(self, grads, lr):
        self.step += 1
        self.w = [[w - 0.2 * g for w, g in zip(*rows)] for rows in zip(self.w, grads["w"])]

    def export(self):
        return {"params/w": np.array(self.w), "step": np.array(self.step)}

    def load(self, state):
        self.w, self.step = state["params/w"].tolist(), int(state["step"])
