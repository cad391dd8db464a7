"""The pairs of npdiff.nn as the named layers of a network.

A forward `layer(x, params, cache, name)` reads its parameters as params["name.W"] and so on, calls the pair's
forward, and keeps in cache[name] what that returned: the output, and what the backward needs. It returns the
output. Its `layer_back(dy, cache, grads, name)` calls the pair's backward, writes the parameters' gradients
to grads under the same names, and returns the gradients of the other inputs. Layers without parameters have
no params and no grads. init_layer(params, name, ...) makes the parameters.
"""

import numpy as np

from npdiff import nn


def init_linear(params, name, inputs, outputs, rng):
    """Weights (inputs, outputs) and biases, uniform in +-1/sqrt(inputs), float64 as all that is made here."""
    bound = inputs ** -0.5
    params[f"{name}.W"] = rng.uniform(-bound, bound, (inputs, outputs))
    params[f"{name}.b"] = rng.uniform(-bound, bound, outputs)


def linear(x, params, cache, name):
    """x (N, I) -> (N, O)"""
    return keep(cache, name, nn.linear_forward(x, params[f"{name}.W"], params[f"{name}.b"]))


def linear_back(dy, cache, grads, name):
    """dy (N, O) -> dx (N, I)"""
    dx, grads[f"{name}.W"], grads[f"{name}.b"] = nn.linear_backward(dy, kept_by(cache, name))
    return dx


def init_conv(params, name, k, inputs, outputs, rng):
    """A kernel (k, k, inputs, outputs) and biases, uniform in +-1/sqrt(k k inputs)."""
    bound = (k * k * inputs) ** -0.5
    params[f"{name}.W"] = rng.uniform(-bound, bound, (k, k, inputs, outputs))
    params[f"{name}.b"] = rng.uniform(-bound, bound, outputs)


def conv(x, params, cache, name):
    """x (N, H, W, I) -> (N, H, W, O)"""
    return keep(cache, name, nn.conv2d_forward(x, params[f"{name}.W"], params[f"{name}.b"]))


def conv_back(dy, cache, grads, name):
    """dy (N, H, W, O) -> dx (N, H, W, I)"""
    dx, grads[f"{name}.W"], grads[f"{name}.b"] = nn.conv2d_backward(dy, kept_by(cache, name))
    return dx


def init_zero(params, name):
    """Zeros for the layer already under this name: at the start of training its branch adds nothing."""
    params[f"{name}.W"][...] = 0
    params[f"{name}.b"][...] = 0


def init_norm(params, name, channels):
    """Scale 1 and shift 0."""
    params[f"{name}.gamma"] = np.ones(channels)
    params[f"{name}.beta"] = np.zeros(channels)


def norm(x, params, cache, name, groups):
    """x (N, H, W, C) -> (N, H, W, C)"""
    return keep(
        cache, name, nn.group_norm_forward(x, params[f"{name}.gamma"], params[f"{name}.beta"], groups)
    )


def norm_back(dy, cache, grads, name):
    """dy (N, H, W, C) -> dx (N, H, W, C)"""
    dx, grads[f"{name}.gamma"], grads[f"{name}.beta"] = nn.group_norm_backward(dy, kept_by(cache, name))
    return dx


def fourier(x, params, cache, name):
    """x (N, D) -> (N, 2F)"""
    return keep(cache, name, nn.fourier_forward(x, params[f"{name}.B"]))


def fourier_back(dy, cache, grads, name):
    """dy (N, 2F) -> dx (N, D)"""
    dx, grads[f"{name}.B"] = nn.fourier_backward(dy, kept_by(cache, name))
    return dx


def lookup(labels, params, cache, name):
    """labels (N,) integers -> (N, E)"""
    return keep(cache, name, nn.embedding_lookup_forward(labels, params[f"{name}.table"]))


def lookup_back(dy, cache, grads, name):
    """dy (N, E) -> nothing: labels are data"""
    grads[f"{name}.table"] = nn.embedding_lookup_backward(dy, kept_by(cache, name))


def sinusoids(t, cache, name, config, dtype):
    """t (N,) integers -> (N, time_dim) in this dtype. It has no backward: t is data."""
    return keep(cache, name, (nn.sinusoidal_embedding(t, config.time_dim, config.max_period, dtype), None))


def silu(x, cache, name):
    """x (...) -> (...)"""
    return keep(cache, name, nn.silu_forward(x))


def silu_back(dy, cache, name):
    """dy (...) -> dx (...)"""
    return nn.silu_backward(dy, kept_by(cache, name))


def attention(qkv, cache, name, heads):
    """qkv (N, P, 3C) -> (N, P, C)"""
    return keep(cache, name, nn.attention_forward(qkv, heads))


def attention_back(dy, cache, name):
    """dy (N, P, C) -> dqkv (N, P, 3C)"""
    return nn.attention_backward(dy, kept_by(cache, name))


def add_channels(x, e, cache, name):
    """x (N, H, W, C), e (N, C) -> (N, H, W, C)"""
    return keep(cache, name, nn.add_channels_forward(x, e))


def add_channels_back(dy, cache, name):
    """dy (N, H, W, C) -> dx (N, H, W, C), de (N, C)"""
    return nn.add_channels_backward(dy, kept_by(cache, name))


def concat(x, skip, cache, name):
    """x (N, H, W, A), skip (N, H, W, B) -> (N, H, W, A + B)"""
    return keep(cache, name, nn.concat_forward(x, skip))


def concat_back(dy, cache, name):
    """dy (N, H, W, A + B) -> dx (N, H, W, A), dskip (N, H, W, B)"""
    return nn.concat_backward(dy, kept_by(cache, name))


def pool(x, cache, name):
    """x (N, H, W, C) -> (N, H/2, W/2, C)"""
    return keep(cache, name, nn.avg_pool_forward(x))


def pool_back(dy, cache, name):
    """dy (N, H/2, W/2, C) -> dx (N, H, W, C)"""
    return nn.avg_pool_backward(dy, kept_by(cache, name))


def upsample(x, cache, name):
    """x (N, H, W, C) -> (N, 2H, 2W, C)"""
    return keep(cache, name, nn.upsample_forward(x))


def upsample_back(dy, cache, name):
    """dy (N, 2H, 2W, C) -> dx (N, H, W, C)"""
    return nn.upsample_backward(dy, kept_by(cache, name))


def keep(cache, name, returned):
    """Keep what a forward returned, (output, what its backward needs), under a layer's name. -> output"""
    cache[name] = returned
    output, _ = returned
    return output


def kept_by(cache, name):
    """What the layer called `name` keeps for its backward."""
    _, kept = cache[name]
    return kept
