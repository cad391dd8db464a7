"""The blocks of image networks. Each is a forward and a backward, made of the layers of layers.py.

f_forward(x, ..., params, cache, name, config) reads params["name.conv1.W"] and so on and keeps its layers in
cache under "name.conv1" and so on. f_backward(dy, cache, grads, name, config) reads them in reverse. Each
line of a backward is the backward of one line of its forward, the last line first.

The condition is what a block is told: timestep and label, as one vector e of E entries for each sample.
condition_forward makes e, once for all blocks. Its parameters have fixed names, "time..." and "label...", so
it takes no name; its arguments have an order of their own.

N batch, H x W positions, I input and O output channels (C if they are equal), E entries of e. Images are
channels-last inside: x (N, H, W, C).
"""

import numpy as np

from npdiff.models.checks import label_count
from npdiff.models.layers import (
    add_channels,
    add_channels_back,
    attention,
    attention_back,
    conv,
    conv_back,
    init_conv,
    init_linear,
    init_norm,
    init_zero,
    linear,
    linear_back,
    lookup,
    lookup_back,
    norm,
    norm_back,
    silu,
    silu_back,
    sinusoids,
)
from npdiff.nn.embedding import check_labels


def init_condition(params, time_dim, embedding_dim, classes, rng):
    """Parameters of the condition: two linear layers for t, and a table of labels, standard normal.

    The table has a vector for each class and one more, the last, for "no label". No table where classes is 0.
    """
    init_linear(params, "time.linear1", time_dim, embedding_dim, rng)
    init_linear(params, "time.linear2", embedding_dim, embedding_dim, rng)
    if classes:
        params["label.table"] = rng.standard_normal((classes + 1, embedding_dim))


def condition_forward(params, t, labels, cache, config, dtype):
    """e = linear(SiLU(linear(sinusoids of t))) + table[labels].   t (N,), labels (N,) or None -> e (N, E)

    labels None means "no label". config gives time_dim, max_period and classes.
    Raises ValueError for labels where classes is 0, and unless they are N integers in 0..classes.
    """
    h = sinusoids(t, cache, "time.sinusoids", config, dtype)                    # (N, time_dim)
    h = linear(h, params, cache, "time.linear1")                                # (N, E)
    h = silu(h, cache, "time.linear1.silu")
    e = linear(h, params, cache, "time.linear2")                                # (N, E)
    if labels is not None:
        check_labels(labels, len(t), label_count(config))
    if config.classes:
        labels = np.full(len(t), config.classes) if labels is None else labels
        e = e + lookup(labels, params, cache, "label")                          # (N, E)
    return e


def condition_backward(de, cache, grads, config):
    """de (N, E) -> nothing: t and labels are data."""
    if config.classes:
        lookup_back(de, cache, grads, "label")
    dh = linear_back(de, cache, grads, "time.linear2")                          # (N, E)
    dh = silu_back(dh, cache, "time.linear1.silu")
    linear_back(dh, cache, grads, "time.linear1")


def init_block(params, name, inputs, outputs, config, rng):
    """The parameters of a block of the kind config.block_kind.

    Residual: norm1 stands before conv1, so it has the channels of the input. conv2 starts at zero, so at
    first the block is its shortcut alone.
    Plain: norm1 stands after conv1.
    """
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


def residual_block_forward(x, e, params, cache, name, config):
    """y = shortcut(x) + conv(SiLU(norm(conv(SiLU(norm(x))) + linear(e))))

    x (N, H, W, I), e (N, E) -> y (N, H, W, O)

    The shortcut is x itself if I = O, else a 1 x 1 convolution
    ([He et al. 2016](https://arxiv.org/abs/1512.03385); Ho et al. 2020, appendix B).
    """
    h = norm(x, params, cache, f"{name}.norm1", config.groups)                  # (N, H, W, I)
    h = silu(h, cache, f"{name}.norm1.silu")
    h = conv(h, params, cache, f"{name}.conv1")                                 # (N, H, W, O)
    shift = linear(e, params, cache, f"{name}.time")                            # (N, O)
    h = add_channels(h, shift, cache, f"{name}.add")
    h = norm(h, params, cache, f"{name}.norm2", config.groups)
    h = silu(h, cache, f"{name}.norm2.silu")
    h = conv(h, params, cache, f"{name}.conv2")                                 # (N, H, W, O)
    if f"{name}.shortcut.W" in params:
        x = conv(x, params, cache, f"{name}.shortcut")                          # (N, H, W, O)
    return x + h


def residual_block_backward(dy, cache, grads, name, config):
    """dy (N, H, W, O) -> dx (N, H, W, I), de (N, E). x is used twice, so its gradients add."""
    dx = dy
    if f"{name}.shortcut" in cache:
        dx = conv_back(dy, cache, grads, f"{name}.shortcut")                    # (N, H, W, I)
    dh = conv_back(dy, cache, grads, f"{name}.conv2")                           # (N, H, W, O)
    dh = silu_back(dh, cache, f"{name}.norm2.silu")
    dh = norm_back(dh, cache, grads, f"{name}.norm2")
    dh, dshift = add_channels_back(dh, cache, f"{name}.add")                    # (N, H, W, O), (N, O)
    de = linear_back(dshift, cache, grads, f"{name}.time")                      # (N, E)
    dh = conv_back(dh, cache, grads, f"{name}.conv1")                           # (N, H, W, I)
    dh = silu_back(dh, cache, f"{name}.norm1.silu")
    dh = norm_back(dh, cache, grads, f"{name}.norm1")
    return dx + dh, de


def plain_block_forward(x, e, params, cache, name, config):
    """y = SiLU(norm(conv(SiLU(norm(conv(x))) + linear(e)))).   x (N, H, W, I), e (N, E) -> y (N, H, W, O)"""
    h = conv(x, params, cache, f"{name}.conv1")                                 # (N, H, W, O)
    h = norm(h, params, cache, f"{name}.norm1", config.groups)
    h = silu(h, cache, f"{name}.norm1.silu")
    shift = linear(e, params, cache, f"{name}.time")                            # (N, O)
    h = add_channels(h, shift, cache, f"{name}.add")
    h = conv(h, params, cache, f"{name}.conv2")                                 # (N, H, W, O)
    h = norm(h, params, cache, f"{name}.norm2", config.groups)
    return silu(h, cache, f"{name}.norm2.silu")


def plain_block_backward(dy, cache, grads, name, config):
    """dy (N, H, W, O) -> dx (N, H, W, I), de (N, E)"""
    dh = silu_back(dy, cache, f"{name}.norm2.silu")
    dh = norm_back(dh, cache, grads, f"{name}.norm2")
    dh = conv_back(dh, cache, grads, f"{name}.conv2")                           # (N, H, W, O)
    dh, dshift = add_channels_back(dh, cache, f"{name}.add")                    # (N, H, W, O), (N, O)
    de = linear_back(dshift, cache, grads, f"{name}.time")                      # (N, E)
    dh = silu_back(dh, cache, f"{name}.norm1.silu")
    dh = norm_back(dh, cache, grads, f"{name}.norm1")
    dx = conv_back(dh, cache, grads, f"{name}.conv1")                           # (N, H, W, I)
    return dx, de


def init_attention(params, name, channels, rng):
    """The parameters of an attention block. Its last layer starts at zero."""
    init_norm(params, f"{name}.norm", channels)
    init_linear(params, f"{name}.qkv", channels, 3 * channels, rng)
    init_linear(params, f"{name}.out", channels, channels, rng)
    init_zero(params, f"{name}.out")


def attention_block_forward(x, params, cache, name, config):
    """y = x + linear(attention(linear(norm(x)))).   x (N, H, W, C) -> y (N, H, W, C)"""
    N, H, W, C = x.shape
    h = norm(x, params, cache, f"{name}.norm", config.groups)                   # (N, H, W, C)
    h = linear(h.reshape(N * H * W, C), params, cache, f"{name}.qkv")           # (N HW, 3C)
    h = attention(h.reshape(N, H * W, 3 * C), cache, f"{name}.attention", config.heads)    # (N, HW, C)
    h = linear(h.reshape(N * H * W, C), params, cache, f"{name}.out")           # (N HW, C)
    return x + h.reshape(N, H, W, C)


def attention_block_backward(dy, cache, grads, name, config):
    """dy (N, H, W, C) -> dx (N, H, W, C). x is used twice, so its gradients add."""
    N, H, W, C = dy.shape
    dh = linear_back(dy.reshape(N * H * W, C), cache, grads, f"{name}.out")     # (N HW, C)
    dh = attention_back(dh.reshape(N, H * W, C), cache, f"{name}.attention")    # (N, HW, 3C)
    dh = linear_back(dh.reshape(N * H * W, 3 * C), cache, grads, f"{name}.qkv")            # (N HW, C)
    dh = norm_back(dh.reshape(N, H, W, C), cache, grads, f"{name}.norm")        # (N, H, W, C)
    return dy + dh


BLOCKS = {"residual": (residual_block_forward, residual_block_backward),
          "plain": (plain_block_forward, plain_block_backward)}
