"""Group normalisation: each group of an image's channels gets mean 0 and variance 1, then each channel its
own scale and shift.

N batch, H x W positions (P = H W of them), C channels in G groups of C/G neighbours. M = P C/G entries in one
group of one image. sum_np is the sum over n and p. gamma and beta are scale and shift (not the beta of the
noise schedule). var is the biased variance: divided by M, not by M - 1.   rstd = 1 / sqrt(var + EPS)
Because of EPS the variance of the result is a little below 1.

Source: [Wu and He 2018](https://arxiv.org/abs/1803.08494).
"""

import numpy as np

from npdiff.nn.channels import sum_over_positions
from npdiff.nn.checks import check_arrays

EPS = 1e-5      # keeps a constant group from a division by zero; the usual value


def group_norm_forward(x, gamma, beta, groups):
    """xhat = (x - mean) rstd,   y = gamma xhat + beta.   mean and rstd are those of a group of one image.

    x (N, H, W, C), gamma (C,), beta (C,) -> y (N, H, W, C). Raises ValueError unless groups divides C.
    """
    check_arrays("NHWC C C", x=x, gamma=gamma, beta=beta)
    N, H, W, C = x.shape
    if groups < 1 or C % groups:
        raise ValueError(f"groups is {groups}; it must divide the {C} channels")
    x = x.reshape(N, H * W, C)                                    # (N, P, C)
    mean = group_mean(sum_over_positions(x), H * W, groups)       # (N, 1, C), equal within a group
    xhat = x - mean                                               # (N, P, C), so far x - mean
    var = group_mean(sum_over_positions(xhat, xhat), H * W, groups)             # (N, 1, C)
    rstd = (var + EPS) ** -0.5                                    # (N, 1, C)
    xhat *= rstd                                                  # (N, P, C)
    y = gamma * xhat + beta                                       # (N, P, C)
    return y.reshape(N, H, W, C), (xhat, rstd, gamma, groups)


def group_norm_backward(dy, cache):
    """dy (N, H, W, C) -> dx (N, H, W, C), dgamma (C,), dbeta (C,)

    Scale and shift   y[n,p,c] = gamma[c] xhat[n,p,c] + beta[c].   gamma[c] and beta[c] are in every n, p
        dbeta[c]  = sum_np dy[n,p,c]
        dgamma[c] = sum_np dy[n,p,c] xhat[n,p,c]
        dxhat[n,p,c] = dy[n,p,c] gamma[c]
    One group of one image: the xhat[n,p,c] with this n, every p, and the C/G channels c of the group. One
    index m = 1..M counts these entries
        xhat[m] = (x[m] - mean) rstd      mean = 1/M sum_m x[m]      rstd = (var + EPS)^(-1/2)
        var = 1/M sum_m (x[m] - mean)^2
    Derivatives with respect to one entry x[k]
        ∂mean/∂x[k] = 1/M
        ∂var/∂x[k]  = 2/M (x[k] - mean)      (the way through mean gives sum_m (x[m] - mean) = 0)
        ∂rstd/∂x[k] = -1/2 rstd^3 ∂var/∂x[k] = -1/M rstd^3 (x[k] - mean) = -1/M rstd^2 xhat[k]
        ∂xhat[m]/∂x[k] = rstd (1 if m = k else 0) - rstd 1/M + (x[m] - mean) ∂rstd/∂x[k]
                       = rstd ((1 if m = k else 0) - 1/M - 1/M xhat[m] xhat[k])
    Chain rule: x[k] reaches every xhat[m] of its group, dx[k] = sum_m dxhat[m] ∂xhat[m]/∂x[k]
        dx[k] = rstd (dxhat[k] - 1/M sum_m dxhat[m] - xhat[k] 1/M sum_m dxhat[m] xhat[m])
              = rstd (dxhat[k] - average - xhat[k] overlap)
    The M entries are P positions of C/G channels, and gamma depends on the channel alone, so
        sum_m dxhat[m]         = sum_c gamma[c] sum_p dy[n,p,c]                c: the channels of the group
        sum_m dxhat[m] xhat[m] = sum_c gamma[c] sum_p dy[n,p,c] xhat[n,p,c]
    The inner sums are dbeta and dgamma before their sum over n. average and overlap are these two, times 1/M.
    """
    xhat, rstd, gamma, groups = cache
    N, P, C = xhat.shape
    shape, dy = dy.shape, dy.reshape(N, P, C)
    sum_dy = sum_over_positions(dy)                               # (N, C)
    sum_dy_xhat = sum_over_positions(dy, xhat)                    # (N, C)
    dbeta = sum_dy.sum(0)                                         # (C,)
    dgamma = sum_dy_xhat.sum(0)                                   # (C,)
    average = group_mean(gamma * sum_dy, P, groups)               # (N, 1, C)
    overlap = group_mean(gamma * sum_dy_xhat, P, groups)          # (N, 1, C)
    dx = dy * gamma                                               # (N, P, C), so far dxhat
    dx -= average
    dx -= xhat * overlap
    dx *= rstd
    return dx.reshape(shape), dgamma, dbeta


def group_mean(sums, positions, groups):
    """The mean of each group, written at each of its channels.   sums over positions (N, C) -> (N, 1, C)"""
    N, C = sums.shape
    of_group = sums.reshape(N, groups, C // groups).sum(2)        # (N, G)
    means = of_group / (positions * (C // groups))                # (N, G)
    return np.repeat(means, C // groups, axis=1)[:, None, :]      # (N, 1, C)
