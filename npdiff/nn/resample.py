"""Halving and doubling the sides of an image.

N batch, H x W positions, C channels. A cell is the square of 2 x 2 fine positions that one coarse position
covers.
"""

import numpy as np


def avg_pool_forward(x):
    """y = the mean of each cell.   x (N, H, W, C) -> y (N, H/2, W/2, C)

    Raises ValueError for an odd H or W.
    """
    _, H, W, _ = x.shape
    if H % 2 or W % 2:
        raise ValueError(f"the image is {H} x {W}; halving needs even sides")
    y = cell_sum(x)                                               # (N, H/2, W/2, C)
    y *= 0.25
    return y, None


def avg_pool_backward(dy, cache):
    """dy (N, H/2, W/2, C) -> dx (N, H, W, C)

    One output            y[n,h,w,c] = 1/4 sum_ij x[n,2h+i,2w+j,c],   i, j = 0, 1
    Each x is in one y    dx[n,2h+i,2w+j,c] = 1/4 dy[n,h,w,c]          each entry is written to its whole cell
    """
    dx = cell_fill(0.25 * dy)                                     # (N, H, W, C)
    return dx


def upsample_forward(x):
    """y = every entry of x, written to its whole cell ("nearest").   x (N, H, W, C) -> y (N, 2H, 2W, C)"""
    return cell_fill(x), None                                     # (N, 2H, 2W, C)


def upsample_backward(dy, cache):
    """dy (N, 2H, 2W, C) -> dx (N, H, W, C)

    Each x is in four y   y[n,2h+i,2w+j,c] = x[n,h,w,c],   i, j = 0, 1
    Sum over them         dx[n,h,w,c] = sum_ij dy[n,2h+i,2w+j,c]
    """
    dx = cell_sum(dy)                                             # (N, H, W, C)
    return dx


def cell_sum(x):
    """The sum of each cell: (N, 2H, 2W, C) -> (N, H, W, C)."""
    y = x[:, ::2, ::2] + x[:, ::2, 1::2]                          # (N, H, W, C)
    y += x[:, 1::2, ::2]
    y += x[:, 1::2, 1::2]
    return y


def cell_fill(x):
    """Every entry, written to its whole cell: (N, H, W, C) -> (N, 2H, 2W, C)."""
    N, H, W, C = x.shape
    y = np.empty((N, H, 2, W, 2, C), x.dtype)                     # y[n,h,i,w,j,c] is y[n,2h+i,2w+j,c]
    y[...] = x[:, :, None, :, None]
    return y.reshape(N, 2 * H, 2 * W, C)
