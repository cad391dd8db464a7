"""The training losses: mean squared error over every entry (Ho et al. 2020, eq. 14, L_simple), and cross-entropy for a classifier."""

import numpy as np

from npdiff.nn.attention import softmax
from npdiff.nn.embedding import check_labels


def mse_forward(y, target, weight=None):
    """loss = mean(weight (y - target)^2).   y, target (N, ...) of one shape, weight (N,) or None for 1 -> a scalar"""
    error = y - target
    weighted = error if weight is None else weight.reshape(-1, *[1] * (y.ndim - 1)) * error
    return (weighted * error).sum() / error.size, weighted


def mse_backward(cache):
    """-> dy in the shape of y; target and weight are data and get no gradient.

    With M entries    loss = 1/M sum_m weight[m] error[m]^2,   error[m] = y[m] - target[m]
    Each y[m] occurs in one term     dy[m] = 2/M weight[m] error[m]
    """
    weighted = cache
    dy = (2 / weighted.size) * weighted
    return dy


def cross_entropy_forward(logits, labels):
    """loss = mean(-log p[n, labels[n]]), p = softmax(logits) along each row.   logits (N, K), labels (N,) integers in 0..K-1 -> a scalar

    -log p[n,l] = log sum_k exp(logits[n,k]) - logits[n,l]. A shift common to a row cancels; that by its largest (real part) keeps exp
    from overflowing.
    Raises ValueError for another number of labels than of rows, or a label out of range.
    """
    N, K = logits.shape
    labels = check_labels(labels, N, K)
    z = logits - logits.real.max(1, keepdims=True)                # (N, K)
    loss = (np.log(np.exp(z).sum(1)) - z[np.arange(N), labels]).sum() / N
    return loss, (logits, labels)


def cross_entropy_backward(cache):
    """-> dlogits (N, K); the labels are data and get no gradient.

    One row, l its label      loss[n] = log S - logits[n,l],   S = sum_k exp(logits[n,k])
    The logarithm of the sum  ∂(log S)/∂logits[n,k] = exp(logits[n,k]) / S = p[n,k]           the softmax itself
    The label's own logit     ∂logits[n,l]/∂logits[n,k] = [k = l]
    The loss is their mean    dlogits[n,k] = (p[n,k] - [k = l]) / N
    """
    logits, labels = cache
    N = len(logits)
    dlogits = softmax(logits)                                     # (N, K)
    dlogits[np.arange(N), labels] -= 1
    dlogits /= N
    return dlogits
