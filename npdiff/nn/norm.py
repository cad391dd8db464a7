"""Group normalisation (Wu and He 2018): each group of an image's channels gets mean 0 and variance 1, then each channel its own scale and shift.

N batch, H x W positions, C channels in G groups of C/G neighbours; M = H W C/G entries of one image's group.
"""

import numpy as np

EPS = 1e-5      # keeps a constant group from dividing by zero; the usual value


def group_norm_forward(x, gamma, beta, groups):
    """y = gamma (x - mean) / sqrt(var + EPS) + beta, with mean and (biased) variance over each image's group, gamma and beta for each channel.

    x (N, H, W, C), gamma (C,), beta (C,) -> y (N, H, W, C). Raises ValueError unless groups divides C.
    """
    N, H, W, C = x.shape
    if C % groups:
        raise ValueError(f"groups is {groups}; it must divide the {C} channels")
    x = x.reshape(N, H * W, C)
    mean = group_mean(np.einsum("npc->nc", x), H * W, groups)     # (N, 1, C), equal within a group
    centred = x - mean                                            # (N, HW, C)
    var = group_mean(np.einsum("npc,npc->nc", centred, centred), H * W, groups)             # (N, 1, C)
    rstd = (var + EPS) ** -0.5
    scale = rstd * gamma                                          # (N, 1, C)
    y = np.multiply(centred, scale, dtype=np.result_type(centred, scale, beta))
    y += beta
    return y.reshape(N, H, W, C), (centred, rstd, gamma, groups)


def group_norm_backward(dy, cache):
    """dy (N, H, W, C) -> dx (N, H, W, C), dgamma (C,), dbeta (C,)

    Scale and shift   y[n,p,c] = gamma[c] xhat[n,p,c] + beta[c];   gamma[c] and beta[c] reach every n, p
        dbeta[c]  = sum_np dy[n,p,c]
        dgamma[c] = sum_np dy[n,p,c] xhat[n,p,c]
        dxhat[n,p,c] = dy[n,p,c] gamma[c]
    One group of one image, its M entries numbered m
        xhat[m] = (x[m] - mean) rstd,   mean = 1/M sum_m x[m],   rstd = (1/M sum_m (x[m] - mean)^2 + EPS)^(-1/2)
        ∂mean/∂x[k] = 1/M
        ∂rstd/∂x[k] = -1/2 rstd^3 2/M (x[k] - mean) = -1/M rstd^2 xhat[k];     the way through mean adds nothing, as sum_m (x[m] - mean) = 0
        ∂xhat[m]/∂x[k] = rstd ([m = k] - 1/M) + (x[m] - mean) ∂rstd/∂x[k] = rstd ([m = k] - 1/M - 1/M xhat[m] xhat[k])
    Chain rule, x[k] reaching every xhat[m] of its group:
        dx[k] = rstd (dxhat[k] - 1/M sum_m dxhat[m] - xhat[k] 1/M sum_m dxhat[m] xhat[m])
              = rstd (dxhat[k] - average - xhat[k] overlap)
    Both sums run over positions first, where gamma is constant, so the sums that dbeta and dgamma need serve again. Kept from the forward is
    centred = x - mean; as xhat = centred rstd, and rstd is constant within a group, rstd goes into the small factors.
    """
    centred, rstd, gamma, groups = cache
    N, P, C = centred.shape
    shape, dy = dy.shape, dy.reshape(N, P, C)
    sum_dy = np.einsum("npc->nc", dy)                             # (N, C)
    sum_dy_xhat = np.einsum("npc,npc->nc", dy, centred) * rstd[:, 0]                        # (N, C)
    dbeta = sum_dy.sum(0)                                         # (C,)
    dgamma = sum_dy_xhat.sum(0)                                   # (C,)
    average = group_mean(gamma * sum_dy, P, groups)               # (N, 1, C)
    overlap = group_mean(gamma * sum_dy_xhat, P, groups)          # (N, 1, C)
    dx = dy * (rstd * gamma)                                      # (N, HW, C): rstd dxhat
    dx -= rstd * average
    dx -= centred * (rstd ** 2 * overlap)                         # rstd xhat overlap
    return dx.reshape(shape), dgamma, dbeta


def group_mean(sums, positions, groups):
    """Means over groups, from the sums over positions of each channel: (N, C) -> (N, 1, C), each group's mean written at each of its channels."""
    N, C = sums.shape
    means = sums.reshape(N, groups, C // groups).sum(2) / (positions * (C // groups))       # (N, G)
    return np.repeat(means, C // groups, axis=1)[:, None, :]      # (N, 1, C)
