"""The network of the moons: a multilayer perceptron of the point and the timestep.   N batch, D data coordinates, H hidden units

    z = [x, sin(x B), cos(x B), embedding(t)] -> linear, SiLU -> ... -> linear, SiLU -> linear -> y in the shape of x

With 0 Fourier features, z is [x, embedding(t)], and the network is the textbook's.
"""

from dataclasses import dataclass

import numpy as np

from npdiff.nn import fourier_backward, fourier_forward, linear_backward, linear_forward, silu_backward, silu_forward, sinusoidal_embedding


@dataclass(frozen=True)
class Config:
    """The sizes of the network."""
    data_dim: int = 2
    hidden: tuple[int, ...] = (128, 128)
    """Units in each hidden layer."""
    time_dim: int = 16
    """Entries of the timestep's embedding, an even number."""
    max_period: float = 10000.0
    """The slowest sine of the timestep's embedding turns about once in 2 pi max_period steps."""
    fourier_features: int = 0
    """Frequencies F of the point's own embedding; their vectors B (D, F) are trained like any weight."""
    fourier_scale: float = 1.0
    """Standard deviation of B at the start."""

    def __post_init__(self):
        for name in ("data_dim", "time_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.time_dim % 2:
            raise ValueError(f"time_dim is {self.time_dim}; it must be even: half sines, half cosines")
        if not self.hidden or min(self.hidden) < 1:
            raise ValueError(f"hidden is {self.hidden}; it must name at least one layer of at least 1 unit")
        if self.fourier_features < 0:
            raise ValueError(f"fourier_features is {self.fourier_features}; it must be at least 0")

    @property
    def data_shape(self):
        """The shape of one sample."""
        return (self.data_dim,)

    @property
    def widths(self):
        """The width of every layer, input and output included."""
        inputs = self.data_dim + 2 * self.fourier_features + self.time_dim
        return inputs, *self.hidden, self.data_dim


SMALL = Config(hidden=(7, 5), time_dim=6, fourier_features=3)      # small enough to check the gradient of every element


def init(config, rng):
    """Fresh float64 parameters, a dict of names: linear weights and biases uniform in +-1/sqrt(inputs), B normal."""
    params = {}
    if config.fourier_features:
        params["fourier.B"] = config.fourier_scale * rng.standard_normal((config.data_dim, config.fourier_features))
    for k, (inputs, outputs) in enumerate(zip(config.widths[:-1], config.widths[1:]), start=1):
        bound = inputs ** -0.5
        params[f"linear{k}.W"] = rng.uniform(-bound, bound, (inputs, outputs))
        params[f"linear{k}.b"] = rng.uniform(-bound, bound, outputs)
    return params


def forward(params, x, t, config):
    """y = network(x, t).   x (N, D), t (N,) integers -> y (N, D)"""
    time = sinusoidal_embedding(t, config.time_dim, config.max_period, x.dtype)     # (N, time_dim)
    fourier, fourier_cache = fourier_forward(x, params["fourier.B"]) if config.fourier_features else (x[:, :0], None)
    h = np.concatenate([x, fourier, time], axis=1)                                  # (N, D + 2F + time_dim)
    caches = []
    for k in range(1, len(config.hidden) + 1):
        h, linear_cache = linear_forward(h, params[f"linear{k}.W"], params[f"linear{k}.b"])
        h, silu_cache = silu_forward(h)                                             # (N, H)
        caches.append((linear_cache, silu_cache))
    k = len(config.hidden) + 1
    y, out_cache = linear_forward(h, params[f"linear{k}.W"], params[f"linear{k}.b"])    # (N, D)
    return y, (config, fourier_cache, caches, out_cache)


def backward(dy, cache):
    """dy (N, D) -> dx (N, D), gradients (a dict with the names of params). Each line undoes one line of forward, last line first."""
    config, fourier_cache, caches, out_cache = cache
    grads = {}
    k = len(config.hidden) + 1
    dh, grads[f"linear{k}.W"], grads[f"linear{k}.b"] = linear_backward(dy, out_cache)
    for k in range(len(config.hidden), 0, -1):
        linear_cache, silu_cache = caches[k - 1]
        dh = silu_backward(dh, silu_cache)
        dh, grads[f"linear{k}.W"], grads[f"linear{k}.b"] = linear_backward(dh, linear_cache)
    D, F = config.data_dim, config.fourier_features
    dx, dfourier = dh[:, :D], dh[:, D:D + 2 * F]           # the rest is the gradient of embedding(t), which is data
    if config.fourier_features:
        dx_fourier, grads["fourier.B"] = fourier_backward(dfourier, fourier_cache)
        dx = dx + dx_fourier                               # x was used twice: its gradients add
    return dx, grads
