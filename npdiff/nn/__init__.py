"""Layers as pairs of functions: `y, cache = f_forward(...)` and `gradients = f_backward(dy, cache)`.

L is any scalar that depends on y, usually the loss. dy is the gradient of L with respect to y. f_backward
returns the gradients of the same L with respect to f's inputs, in their order. A loss is itself the last
pair: its backward takes the cache alone, as dL/dL = 1.

Nothing has state and nothing is recorded: the caller hands each cache back. Each backward is derived in its
docstring, line for line with its code. In the derivations ∂y/∂x is a derivative, and dx is the gradient
∂L/∂x. Forwards accept complex numbers, so npdiff.verify.gradcheck can differentiate them to machine
precision.
"""

from npdiff.nn.activation import silu_backward, silu_forward
from npdiff.nn.attention import attention_backward, attention_forward
from npdiff.nn.channels import add_channels_backward, add_channels_forward, concat_backward, concat_forward
from npdiff.nn.conv import conv2d_backward, conv2d_forward
from npdiff.nn.embedding import (
    embedding_lookup_backward,
    embedding_lookup_forward,
    fourier_backward,
    fourier_forward,
    sinusoidal_embedding,
)
from npdiff.nn.linear import linear_backward, linear_forward
from npdiff.nn.loss import cross_entropy_backward, cross_entropy_forward, mse_backward, mse_forward
from npdiff.nn.norm import group_norm_backward, group_norm_forward
from npdiff.nn.resample import avg_pool_backward, avg_pool_forward, upsample_backward, upsample_forward
