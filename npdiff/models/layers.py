"""The pairs of npdiff.nn as the named layers of a network.

A forward `layer(x, params, cache, name)` reads its parameters as params["name.W"] and so on, calls the pair's
forward, and keeps in cache[name] what that returned: the output, and what the backward needs. It returns the
output. Its `layer_back(dy, cache, grads, name)` calls the pair's backward, writes the parameters' gradients
to grads under the same names, and returns the gradients of the other inputs. Layers without parameters have
no params and no grads. init_layer(params, name, ...) makes the parameters.
"""

import numpy as np

from npdiff.nn import (
    add_channels_backward,
    add_channels_forward,
    attention_backward,
    attention_forward,
    avg_pool_backward,
    avg_pool_forward,
    concat_backward,
    concat_forward,
    conv2d_backward,
    conv2d_forward,
    embedding_lookup_backward,
    embedding_lookup_forward,
    fourier_backward,
    fourier_forward,
    group_norm_backward,
    group_norm_forward,
    linear_backward,
    linear_forward,
    silu_backward,
    silu_forward,
    sinusoidal_embedding,
    upsample_backward,
    upsample_forward,
)


def init_linear(params, name, inputs, outputs, rng):
    """Weights (inputs, outputs) and biases, uniform in +-1/sqrt(inputs), float64 as all that is made here."""
    bound = inputs ** -0.5
    params[f"{name}.W"] = rng.uniform(-bound, bound, (inputs, outputs))
    params[f"{name}.b"] = rng.uniform(-bound, bound, outputs)


def linear(x, params, cache, name):
    """x (N, I) -> (N, O)"""
    cache[name] = linear_forward(x, params[f"{name}.W"], params[f"{name}.b"])
    return output_of(cache, name)


def linear_back(dy, cache, grads, name):
    """dy (N, O) -> dx (N, I)"""
    dx, grads[f"{name}.W"], grads[f"{name}.b"] = linear_backward(dy, kept_by(cache, name))
    return dx


def init_conv(params, name, k, inputs, outputs, rng):
    """A kernel (k, k, inputs, outputs) and biases, uniform in +-1/sqrt(k k inputs)."""
    bound = (k * k * inputs) ** -0.5
    params[f"{name}.W"] = rng.uniform(-bound, bound, (k, k, inputs, outputs))
    params[f"{name}.b"] = rng.uniform(-bound, bound, outputs)


def conv(x, params, cache, name):
    """x (N, H, W, I) -> (N, H, W, O)"""
    cache[name] = conv2d_forward(x, params[f"{name}.W"], params[f"{name}.b"])
    return output_of(cache, name)


def conv_back(dy, cache, grads, name):
    """dy (N, H, W, O) -> dx (N, H, W, I)"""
    dx, grads[f"{name}.W"], grads[f"{name}.b"] = conv2d_backward(dy, kept_by(cache, name))
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
    cache[name] = group_norm_forward(x, params[f"{name}.gamma"], params[f"{name}.beta"], groups)
    return output_of(cache, name)


def norm_back(dy, cache, grads, name):
    """dy (N, H, W, C) -> dx (N, H, W, C)"""
    dx, grads[f"{name}.gamma"], grads[f"{name}.beta"] = group_norm_backward(dy, kept_by(cache, name))
    return dx


def fourier(x, params, cache, name):
    """x (N, D) -> (N, 2F)"""
    cache[name] = fourier_forward(x, params[f"{name}.B"])
    return output_of(cache, name)


def fourier_back(dy, cache, grads, name):
    """dy (N, 2F) -> dx (N, D)"""
    dx, grads[f"{name}.B"] = fourier_backward(dy, kept_by(cache, name))
    return dx


def lookup(labels, params, cache, name):
    """labels (N,) integers -> (N, E)"""
    cache[name] = embedding_lookup_forward(labels, params[f"{name}.table"])
    return output_of(cache, name)


def lookup_back(dy, cache, grads, name):
    """dy (N, E) -> nothing: labels are data"""
    grads[f"{name}.table"] = embedding_lookup_backward(dy, kept_by(cache, name))


def sinusoids(t, cache, name, config, dtype):
    """t (N,) integers -> (N, time_dim) in this dtype. It has no backward: t is data."""
    cache[name] = sinusoidal_embedding(t, config.time_dim, config.max_period, dtype), None
    return output_of(cache, name)


def silu(x, cache, name):
    """x (...) -> (...)"""
    cache[name] = silu_forward(x)
    return output_of(cache, name)


def silu_back(dy, cache, name):
    """dy (...) -> dx (...)"""
    return silu_backward(dy, kept_by(cache, name))


def attention(qkv, cache, name, heads):
    """qkv (N, P, 3C) -> (N, P, C)"""
    cache[name] = attention_forward(qkv, heads)
    return output_of(cache, name)


def attention_back(dy, cache, name):
    """dy (N, P, C) -> dqkv (N, P, 3C)"""
    return attention_backward(dy, kept_by(cache, name))


def add_channels(x, e, cache, name):
    """x (N, H, W, C), e (N, C) -> (N, H, W, C)"""
    cache[name] = add_channels_forward(x, e)
    return output_of(cache, name)


def add_channels_back(dy, cache, name):
    """dy (N, H, W, C) -> dx (N, H, W, C), de (N, C)"""
    return add_channels_backward(dy, kept_by(cache, name))


def concat(x, skip, cache, name):
    """x (N, H, W, A), skip (N, H, W, B) -> (N, H, W, A + B)"""
    cache[name] = concat_forward(x, skip)
    return output_of(cache, name)


def concat_back(dy, cache, name):
    """dy (N, H, W, A + B) -> dx (N, H, W, A), dskip (N, H, W, B)"""
    return concat_backward(dy, kept_by(cache, name))


def pool(x, cache, name):
    """x (N, H, W, C) -> (N, H/2, W/2, C)"""
    cache[name] = avg_pool_forward(x)
    return output_of(cache, name)


def pool_back(dy, cache, name):
    """dy (N, H/2, W/2, C) -> dx (N, H, W, C)"""
    return avg_pool_backward(dy, kept_by(cache, name))


def upsample(x, cache, name):
    """x (N, H, W, C) -> (N, 2H, 2W, C)"""
    cache[name] = upsample_forward(x)
    return output_of(cache, name)


def upsample_back(dy, cache, name):
    """dy (N, 2H, 2W, C) -> dx (N, H, W, C)"""
    return upsample_backward(dy, kept_by(cache, name))


def output_of(cache, name):
    """What the layer called `name` answered."""
    output, _ = cache[name]
    return output


def kept_by(cache, name):
    """What the layer called `name` keeps for its backward."""
    _, kept = cache[name]
    return kept
