"""A third backend, and a template for a fourth: a linear model on plain Python lists.

The network is y = x A + t/1000 c + d. It has its own parameters, not those of npdiff's networks. Training,
samplers and comparison run on it unchanged. A package offers its backend by an entry point:

    [project.entry-points."npdiff.backends"]
    toy = "toy_backend:ToyBackend"
"""

import operator
from dataclasses import dataclass

import numpy as np

from npdiff.backends.protocols import Backend, Denoiser


class Rows(list):
    """An array of this library: a list of numbers, or a list of Rows.

    It has the operations of protocols.Array.
    """

    @property
    def shape(self):
        return (len(self), *self[0].shape) if self and isinstance(self[0], Rows) else (len(self),)

    def each(self, operation, other):
        """operation(x, y) for every number x of self. y is the number of `other` at x's place, or `other`."""
        others = other if isinstance(other, Rows) else [other] * len(self)
        return Rows(x.each(operation, y) if isinstance(x, Rows) else operation(x, y)
                    for x, y in zip(self, others, strict=True))

    def __add__(self, other):
        return self.each(operator.add, other)

    def __sub__(self, other):
        return self.each(operator.sub, other)

    def __mul__(self, other):
        return self.each(operator.mul, other)

    def __truediv__(self, other):
        return self.each(operator.truediv, other)

    def __rsub__(self, other):
        return self * -1.0 + other

    def __neg__(self):
        return self * -1.0

    __radd__, __rmul__ = __add__, __mul__

    def __getitem__(self, rows):
        return Rows(super().__getitem__(rows)) if isinstance(rows, slice) else super().__getitem__(rows)

    def clip(self, low, high):
        return self.each(lambda x, _: min(max(x, low), high), 0.0)

    def sum(self, axis):
        # of two axes; axis 1 is the only one that npdiff sums over
        return Rows(sum(row) for row in self)

    def mean(self):
        return sum(map(sum, self)) / sum(map(len, self))


class ToyBackend(Backend):
    """Lists on the CPU, float64."""

    @dataclass(frozen=True)
    class Options:
        """The backend's own settings: flags of `npdiff train --backend toy`."""
        weight_decay: float = 0.0           # how far each step shrinks the weights, times lr

    def __init__(self, device="cpu", dtype="float64", threads=None, options=None):
        self.made_for, self.options = (device, dtype), options or self.Options()

    def asarray(self, x):
        x = np.asarray(x, float).tolist()
        return Rows(Rows(row) for row in x) if x and isinstance(x[0], list) else Rows(x)

    def to_numpy(self, x):
        return np.array(x)

    def make_denoiser(self, config, params, ema_decay=0.0):
        return ToyDenoiser(config.data_dim, self.options)

    def about(self):
        return "Python lists"

    def peak_memory(self):
        return 0


class ToyDenoiser(Denoiser):
    """w has D + 2 rows of D numbers: the rows of A, then c, then d."""

    def __init__(self, D, options):
        self.D, self.options, self.step = D, options, 0
        self.w, self.m, self.v = (Rows(Rows([0.0] * D) for _ in range(D + 2)) for _ in range(3))

    def inputs(self, x, t):
        """What w multiplies: x, t / 1000 and 1, (N, D + 2)."""
        times = t if np.ndim(t) else [t] * len(x)
        return [[*row, time / 1000, 1.0] for row, time in zip(x, times, strict=True)]

    def predict(self, x, t, labels=None):
        def answer(row):
            return Rows(sum(i * w[o] for i, w in zip(row, self.w, strict=True)) for o in range(self.D))

        return Rows(map(answer, self.inputs(x, t)))

    def divergence(self, x, t, labels=None):
        trace = sum(self.w[d][d] for d in range(self.D))            # of A, the Jacobian at every x
        return self.predict(x, t), Rows([trace] * len(x))

    def loss_and_grads(self, batch):
        """loss = 1/(N D) sum_no weight[n] error[n,o]^2

        dw[i,o] = 2/(N D) sum_n weight[n] error[n,o] inputs[n,i]
        """
        N, D = len(batch.x_t), self.D
        inputs = self.inputs(batch.x_t, batch.t)
        error = self.predict(batch.x_t, batch.t) - batch.target
        weight = [1.0] * N if batch.weight is None else batch.weight.tolist()
        loss = sum(weight[n] * error[n][o] ** 2 for n in range(N) for o in range(D)) / (N * D)

        def dw(i, o):
            return 2 / (N * D) * sum(weight[n] * error[n][o] * inputs[n][i] for n in range(N))

        return loss, {"w": Rows(Rows(dw(i, o) for o in range(D)) for i in range(D + 2))}

    def update(self, grads, lr):
        """Adam, as in npdiff.optim.adam, after the weight decay."""
        self.step += 1
        g = grads["w"]
        self.m = self.m * 0.9 + g * 0.1
        self.v = self.v * 0.999 + g * g * 0.001
        m_hat, v_hat = self.m / (1 - 0.9 ** self.step), self.v / (1 - 0.999 ** self.step)
        self.w = self.w * (1 - lr * self.options.weight_decay)
        self.w = self.w - m_hat.each(lambda m, v: m / (v ** 0.5 + 1e-8), v_hat) * lr

    def operations(self, x, t, labels=None):
        return {"linear": self.predict(x, t)}

    def export(self):
        arrays = {"params/w": self.w, "adam_m/w": self.m, "adam_v/w": self.v}
        return {name: np.array(rows) for name, rows in arrays.items()} | {"step": np.array(self.step)}

    def load(self, state):
        self.w, self.m, self.v = (
            Rows(map(Rows, state[name].tolist())) for name in ("params/w", "adam_m/w", "adam_v/w")
        )
        self.step = int(state["step"])
