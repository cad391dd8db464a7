"""The blocks that image networks are made of, each a pair like those of npdiff.nn, with its parameters under a name.   N batch, E embedding entries

f_forward(params, name, ...) reads params["name.conv1.W"] and so on; f_backward(dy, cache, grads, name) returns the gradients of the other inputs and
writes those of the parameters into grads under the same names. Each line of a backward undoes one line of its forward, last line first.
Images are channels-last inside: x (N, H, W, C).
"""

import numpy as np

from npdiff.nn import (add_channels_backward, add_channels_forward, attention_backward, attention_forward, conv2d_backward, conv2d_forward,
                       embedding_lookup_backward, embedding_lookup_forward, group_norm_backward, group_norm_forward, linear_backward, linear_forward,
                       silu_backward, silu_forward, sinusoidal_embedding)


def init_linear(params, name, inputs, outputs, rng):
    """Weights (inputs, outputs) and biases, uniform in +-1/sqrt(inputs), float64 as all that is made here."""
    bound = inputs ** -0.5
    params[f"{name}.W"] = rng.uniform(-bound, bound, (inputs, outputs))
    params[f"{name}.b"] = rng.uniform(-bound, bound, outputs)


def init_conv(params, name, k, inputs, outputs, rng):
    """A kernel (k, k, inputs, outputs) and biases, uniform in +-1/sqrt(k k inputs)."""
    bound = (k * k * inputs) ** -0.5
    params[f"{name}.W"] = rng.uniform(-bound, bound, (k, k, inputs, outputs))
    params[f"{name}.b"] = rng.uniform(-bound, bound, outputs)


def init_zero(params, name):
    """Zeros for the layer already under this name: at the start of training its branch adds nothing."""
    params[f"{name}.W"][...] = 0
    params[f"{name}.b"][...] = 0


def init_norm(params, name, channels):
    """Scale 1 and shift 0."""
    params[f"{name}.gamma"] = np.ones(channels)
    params[f"{name}.beta"] = np.zeros(channels)


def init_condition(params, time_dim, embedding_dim, classes, rng):
    """The embedding of time and label: two linear layers, and a table of classes + 1 standard normal vectors, the last for "no label"."""
    init_linear(params, "time.linear1", time_dim, embedding_dim, rng)
    init_linear(params, "time.linear2", embedding_dim, embedding_dim, rng)
    if classes:
        params["label.table"] = rng.standard_normal((classes + 1, embedding_dim))


def check_condition(config):
    """Raise ValueError unless config's time_dim is even and its classes at least 0."""
    if config.time_dim % 2:
        raise ValueError(f"time_dim is {config.time_dim}; it must be even: half sines, half cosines")
    if config.classes < 0:
        raise ValueError(f"classes is {config.classes}; it must be at least 0")


def check_labels_fit(labels, config, n):
    """Raise ValueError unless labels are None or, for a network that has classes, n of them."""
    classes = getattr(config, "classes", 0)
    if labels is not None and (not classes or np.shape(labels) != (n,)):
        raise ValueError(f"labels have shape {np.shape(labels)}; this network has {classes} classes and was given {n} samples")


def condition_forward(params, t, labels, config, dtype):
    """e = linear(SiLU(linear(sinusoids of t))) + table[labels].   t (N,), labels (N,) or None for "no label" -> e (N, E)

    config gives time_dim, max_period and classes. Raises ValueError for labels where classes is 0, or for another number of labels than of t.
    """
    h = sinusoidal_embedding(t, config.time_dim, config.max_period, dtype)                    # (N, time_dim)
    h, linear1_cache = linear_forward(h, params["time.linear1.W"], params["time.linear1.b"])  # (N, E)
    h, silu_cache = silu_forward(h)
    e, linear2_cache = linear_forward(h, params["time.linear2.W"], params["time.linear2.b"])
    lookup_cache = None
    check_labels_fit(labels, config, len(t))
    if config.classes:
        labels = np.full(len(t), config.classes) if labels is None else labels
        vector, lookup_cache = embedding_lookup_forward(labels, params["label.table"])        # (N, E)
        e = e + vector
    return e, (linear1_cache, silu_cache, linear2_cache, lookup_cache)


def condition_backward(de, cache, grads):
    """de (N, E) -> nothing: t and labels are data."""
    linear1_cache, silu_cache, linear2_cache, lookup_cache = cache
    if lookup_cache:
        grads["label.table"] = embedding_lookup_backward(de, lookup_cache)
    dh, grads["time.linear2.W"], grads["time.linear2.b"] = linear_backward(de, linear2_cache)
    dh = silu_backward(dh, silu_cache)
    _, grads["time.linear1.W"], grads["time.linear1.b"] = linear_backward(dh, linear1_cache)


def init_block(params, name, inputs, outputs, config, rng):
    """The parameters of a block of config.block_kind's kind."""
    residual = config.block_kind == "residual"
    init_norm(params, f"{name}.norm1", inputs if residual else outputs)
    init_conv(params, f"{name}.conv1", 3, inputs, outputs, rng)
    init_linear(params, f"{name}.time", config.embedding_dim, outputs, rng)
    init_norm(params, f"{name}.norm2", outputs)
    init_conv(params, f"{name}.conv2", 3, outputs, outputs, rng)
    if residual:
        init_zero(params, f"{name}.conv2")
        if inputs != outputs:
            init_conv(params, f"{name}.shortcut", 1, inputs, outputs, rng)


def residual_block_forward(params, name, x, e, groups):
    """y = shortcut(x) + conv(SiLU(norm(conv(SiLU(norm(x))) + linear(e)))).   x (N, H, W, I), e (N, E) -> y (N, H, W, O)

    The shortcut is x itself where I = O, else a 1 x 1 convolution (He et al. 2016; Ho et al. 2020, appendix B).
    """
    h, norm1_cache = group_norm_forward(x, params[f"{name}.norm1.gamma"], params[f"{name}.norm1.beta"], groups)
    h, silu1_cache = silu_forward(h)
    h, conv1_cache = conv2d_forward(h, params[f"{name}.conv1.W"], params[f"{name}.conv1.b"])                     # (N, H, W, O)
    shift, time_cache = linear_forward(e, params[f"{name}.time.W"], params[f"{name}.time.b"])                    # (N, O)
    h, add_cache = add_channels_forward(h, shift)
    h, norm2_cache = group_norm_forward(h, params[f"{name}.norm2.gamma"], params[f"{name}.norm2.beta"], groups)
    h, silu2_cache = silu_forward(h)
    h, conv2_cache = conv2d_forward(h, params[f"{name}.conv2.W"], params[f"{name}.conv2.b"])
    shortcut_cache = None
    if f"{name}.shortcut.W" in params:
        x, shortcut_cache = conv2d_forward(x, params[f"{name}.shortcut.W"], params[f"{name}.shortcut.b"])        # (N, H, W, O)
    y = x + h
    return y, (norm1_cache, silu1_cache, conv1_cache, time_cache, add_cache, norm2_cache, silu2_cache, conv2_cache, shortcut_cache)


def residual_block_backward(dy, cache, grads, name):
    """dy (N, H, W, O) -> dx (N, H, W, I), de (N, E). dy reaches x on two ways, so dx is a sum."""
    norm1_cache, silu1_cache, conv1_cache, time_cache, add_cache, norm2_cache, silu2_cache, conv2_cache, shortcut_cache = cache
    dx = dy
    if shortcut_cache:
        dx, grads[f"{name}.shortcut.W"], grads[f"{name}.shortcut.b"] = conv2d_backward(dy, shortcut_cache)       # (N, H, W, I)
    dh, grads[f"{name}.conv2.W"], grads[f"{name}.conv2.b"] = conv2d_backward(dy, conv2_cache)
    dh = silu_backward(dh, silu2_cache)
    dh, grads[f"{name}.norm2.gamma"], grads[f"{name}.norm2.beta"] = group_norm_backward(dh, norm2_cache)
    dh, dshift = add_channels_backward(dh, add_cache)
    de, grads[f"{name}.time.W"], grads[f"{name}.time.b"] = linear_backward(dshift, time_cache)                   # (N, E)
    dh, grads[f"{name}.conv1.W"], grads[f"{name}.conv1.b"] = conv2d_backward(dh, conv1_cache)                    # (N, H, W, I)
    dh = silu_backward(dh, silu1_cache)
    dh, grads[f"{name}.norm1.gamma"], grads[f"{name}.norm1.beta"] = group_norm_backward(dh, norm1_cache)
    return dx + dh, de


def plain_block_forward(params, name, x, e, groups):
    """y = SiLU(norm(conv(SiLU(norm(conv(x))) + linear(e)))).   x (N, H, W, I), e (N, E) -> y (N, H, W, O)"""
    h, conv1_cache = conv2d_forward(x, params[f"{name}.conv1.W"], params[f"{name}.conv1.b"])                     # (N, H, W, O)
    h, norm1_cache = group_norm_forward(h, params[f"{name}.norm1.gamma"], params[f"{name}.norm1.beta"], groups)
    h, silu1_cache = silu_forward(h)
    shift, time_cache = linear_forward(e, params[f"{name}.time.W"], params[f"{name}.time.b"])                    # (N, O)
    h, add_cache = add_channels_forward(h, shift)
    h, conv2_cache = conv2d_forward(h, params[f"{name}.conv2.W"], params[f"{name}.conv2.b"])
    h, norm2_cache = group_norm_forward(h, params[f"{name}.norm2.gamma"], params[f"{name}.norm2.beta"], groups)
    y, silu2_cache = silu_forward(h)
    return y, (conv1_cache, norm1_cache, silu1_cache, time_cache, add_cache, conv2_cache, norm2_cache, silu2_cache)


def plain_block_backward(dy, cache, grads, name):
    """dy (N, H, W, O) -> dx (N, H, W, I), de (N, E)"""
    conv1_cache, norm1_cache, silu1_cache, time_cache, add_cache, conv2_cache, norm2_cache, silu2_cache = cache
    dh = silu_backward(dy, silu2_cache)
    dh, grads[f"{name}.norm2.gamma"], grads[f"{name}.norm2.beta"] = group_norm_backward(dh, norm2_cache)
    dh, grads[f"{name}.conv2.W"], grads[f"{name}.conv2.b"] = conv2d_backward(dh, conv2_cache)
    dh, dshift = add_channels_backward(dh, add_cache)
    de, grads[f"{name}.time.W"], grads[f"{name}.time.b"] = linear_backward(dshift, time_cache)                   # (N, E)
    dh = silu_backward(dh, silu1_cache)
    dh, grads[f"{name}.norm1.gamma"], grads[f"{name}.norm1.beta"] = group_norm_backward(dh, norm1_cache)
    dx, grads[f"{name}.conv1.W"], grads[f"{name}.conv1.b"] = conv2d_backward(dh, conv1_cache)                    # (N, H, W, I)
    return dx, de


def init_attention(params, name, channels, rng):
    """The parameters of an attention block; its last layer starts at zero."""
    init_norm(params, f"{name}.norm", channels)
    init_linear(params, f"{name}.qkv", channels, 3 * channels, rng)
    init_linear(params, f"{name}.out", channels, channels, rng)
    init_zero(params, f"{name}.out")


def attention_block_forward(params, name, x, groups, heads):
    """y = x + linear(attention(linear(norm(x)))), every position attending to all.   x (N, H, W, C) -> y (N, H, W, C)"""
    N, H, W, C = x.shape
    h, norm_cache = group_norm_forward(x, params[f"{name}.norm.gamma"], params[f"{name}.norm.beta"], groups)
    h, qkv_cache = linear_forward(h.reshape(N * H * W, C), params[f"{name}.qkv.W"], params[f"{name}.qkv.b"])     # (N HW, 3C)
    h, attention_cache = attention_forward(h.reshape(N, H * W, 3 * C), heads)                                    # (N, HW, C)
    h, out_cache = linear_forward(h.reshape(N * H * W, C), params[f"{name}.out.W"], params[f"{name}.out.b"])     # (N HW, C)
    y = x + h.reshape(N, H, W, C)
    return y, (norm_cache, qkv_cache, attention_cache, out_cache)


def attention_block_backward(dy, cache, grads, name):
    """dy (N, H, W, C) -> dx (N, H, W, C). dy reaches x on two ways, so dx is a sum."""
    norm_cache, qkv_cache, attention_cache, out_cache = cache
    N, H, W, C = dy.shape
    dh, grads[f"{name}.out.W"], grads[f"{name}.out.b"] = linear_backward(dy.reshape(N * H * W, C), out_cache)    # (N HW, C)
    dh = attention_backward(dh.reshape(N, H * W, C), attention_cache)                                            # (N, HW, 3C)
    dh, grads[f"{name}.qkv.W"], grads[f"{name}.qkv.b"] = linear_backward(dh.reshape(N * H * W, 3 * C), qkv_cache)
    dh, grads[f"{name}.norm.gamma"], grads[f"{name}.norm.beta"] = group_norm_backward(dh.reshape(N, H, W, C), norm_cache)
    return dy + dh


BLOCKS = {"residual": (residual_block_forward, residual_block_backward), "plain": (plain_block_forward, plain_block_backward)}
