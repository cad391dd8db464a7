"""The network of the moons: a multilayer perceptron of the point and the timestep.

    z = [x, sin(x B), cos(x B), embedding(t)] -> linear, SiLU -> ... -> linear, SiLU -> linear -> y

N batch, D data coordinates, F Fourier frequencies, H hidden units. With F = 0, z is [x, embedding(t)], and
the network is that of the recipe textbook-moons (see npdiff/recipes.py).
"""

from dataclasses import dataclass

import numpy as np

from npdiff.models.checks import check_at_least, check_positive, check_time, check_types, check_widths
from npdiff.models.layers import (
    fourier,
    fourier_back,
    init_linear,
    linear,
    linear_back,
    silu,
    silu_back,
    sinusoids,
)


@dataclass(frozen=True)
class Config:
    """The sizes of the network. Raises ValueError for sizes that no network has."""
    data_dim: int = 2                           # coordinates of a point
    hidden: tuple[int, ...] = (128, 128)        # units in each hidden layer
    time_dim: int = 16                          # entries of the timestep's embedding, an even number
    max_period: float = 10000.0                 # sets the slowest sine of that embedding, see nn/embedding.py
    fourier_features: int = 0                   # frequencies F of the point's own embedding; B (D, F) learns
    fourier_scale: float = 1.0                  # standard deviation of B at the start

    def __post_init__(self):
        check_types(self)
        check_at_least(self, 1, "data_dim")
        check_at_least(self, 0, "fourier_features")
        check_positive(self, "fourier_scale")
        check_widths(self, "hidden")
        check_time(self)

    @property
    def data_shape(self):
        """The shape of one sample."""
        return (self.data_dim,)

    @property
    def widths(self):
        """The width of every layer, input and output included."""
        inputs = self.data_dim + 2 * self.fourier_features + self.time_dim
        return inputs, *self.hidden, self.data_dim


SMALL = Config(hidden=(7, 5), time_dim=6, fourier_features=3)      # small enough to check every gradient


def init(config, rng):
    """Fresh float64 parameters by name: linear layers as in init_linear, B normal."""
    params = {}
    if config.fourier_features:
        shape = (config.data_dim, config.fourier_features)
        params["fourier.B"] = config.fourier_scale * rng.standard_normal(shape)
    for k, (inputs, outputs) in enumerate(zip(config.widths[:-1], config.widths[1:], strict=True), start=1):
        init_linear(params, f"linear{k}", inputs, outputs, rng)
    return params


def forward(params, x, t, config):
    """y = network(x, t).   x (N, D), t (N,) integers -> y (N, D), cache"""
    cache = {}
    inputs = [x, sinusoids(t, cache, "time", config, x.dtype)]                  # (N, D), (N, time_dim)
    if config.fourier_features:
        inputs.insert(1, fourier(x, params, cache, "fourier"))                  # (N, 2F)
    h = np.concatenate(inputs, axis=1)                                          # (N, D + 2F + time_dim)
    for k in range(1, len(config.hidden) + 1):
        h = linear(h, params, cache, f"linear{k}")                              # (N, H)
        h = silu(h, cache, f"linear{k}.silu")
    y = linear(h, params, cache, f"linear{len(config.hidden) + 1}")             # (N, D)
    return y, cache


def backward(dy, cache, config):
    """dy (N, D) -> dx (N, D), grads. Each line is one of forward's, backward; the last first."""
    grads = {}
    dh = linear_back(dy, cache, grads, f"linear{len(config.hidden) + 1}")       # (N, H)
    for k in range(len(config.hidden), 0, -1):
        dh = silu_back(dh, cache, f"linear{k}.silu")
        dh = linear_back(dh, cache, grads, f"linear{k}")
    D, F = config.data_dim, config.fourier_features
    dx = dh[:, :D]                                                              # (N, D)
    if F:
        dfourier = dh[:, D:D + 2 * F]                                           # (N, 2F)
        dx = dx + fourier_back(dfourier, cache, grads, "fourier")               # x is used twice: they add
    return dx, grads                                # the rest of dh belongs to embedding(t), which is data
