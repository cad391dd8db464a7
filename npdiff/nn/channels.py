"""A second input for the channels of an image: a number is added to each channel, or more channels are
appended.

N batch, H x W positions, C channels; A and B are the channels of two images.
"""

import math

import numpy as np

from npdiff.nn.checks import check_arrays


def add_channels_forward(x, e):
    """y[n,h,w,c] = x[n,h,w,c] + e[n,c]: one number a channel.   x (N, H, W, C), e (N, C) -> y (N, H, W, C)"""
    check_arrays("NHWC NC", x=x, e=e)
    y = x + e[:, None, None, :]                                   # (N, H, W, C)
    return y, None


def add_channels_backward(dy, cache):
    """dy (N, H, W, C) -> dx (N, H, W, C), de (N, C)

    x[n,h,w,c] is in one output                 dx[n,h,w,c] = dy[n,h,w,c]
    e[n,c] is in the outputs at every h, w      de[n,c] = sum_hw dy[n,h,w,c]
    """
    dx = dy
    de = sum_over_positions(dy)                                   # (N, C)
    return dx, de


def concat_forward(x, skip):
    """y = the channels of x, then those of skip.   x (N, H, W, A), skip (N, H, W, B) -> y (N, H, W, A + B)"""
    y = np.concatenate([x, skip], axis=3)                         # (N, H, W, A + B)
    return y, x.shape[3]


def concat_backward(dy, cache):
    """dy (N, H, W, A + B) -> dx (N, H, W, A), dskip (N, H, W, B)

    Every entry of x and skip is one entry of y     dx = the first A channels of dy,  dskip = the rest
    """
    A = cache
    dx, dskip = dy[..., :A], dy[..., A:]
    return dx, dskip


def sum_over_positions(x, factor=None):
    """The sum over all positions of x, or of x times factor.   (N, ..., C), factor alike -> (N, C)

    einsum multiplies and adds in one pass, without a product array in between.
    """
    N, *sides, C = x.shape
    x = x.reshape(N, math.prod(sides), C)                         # (N, P, C)
    if factor is None:
        return np.einsum("npc->nc", x)
    return np.einsum("npc,npc->nc", x, factor.reshape(x.shape))
