"""The losses: mean squared error (Ho et al. 2020, eq. 14, L_simple), and cross-entropy for a classifier.

A loss is the L of all other gradients, so its backward takes no dy: dL/dL = 1.
"""

import numpy as np

from npdiff.nn.attention import softmax
from npdiff.nn.checks import check_arrays
from npdiff.nn.embedding import check_labels


def mse_forward(y, target, weight=None):
    """loss = mean(weight (y - target)^2).   y, target (N, ...), weight (N,) or None for 1 -> a scalar

    Raises ValueError for other shapes, for integers, and for no numbers: they have no mean.
    """
    axes = "NABCDE"[:y.ndim]
    check_arrays(f"{axes} {axes} N", y=y, target=target, weight=weight)
    if not y.size:
        raise ValueError(f"y has shape {y.shape}; the mean of no numbers is not defined")
    error = y - target                                            # (N, ...)
    weighted = error if weight is None else weight.reshape(-1, *[1] * (y.ndim - 1)) * error
    return (weighted * error).sum() / error.size, weighted


def mse_backward(cache):
    """-> dy in the shape of y. target and weight are data and get no gradient.

    M entries, numbered m; n(m) is the sample that entry m belongs to
        loss = 1/M sum_m weight[n(m)] error[m]^2,   error[m] = y[m] - target[m]
    Each y[m] is in one term
        dy[m] = 2/M weight[n(m)] error[m]
    """
    weighted = cache
    dy = (2 / weighted.size) * weighted
    return dy


def cross_entropy_forward(logits, labels):
    """loss = mean(-log p[n,labels[n]]), p = softmax(logits).   logits (N, K), labels (N,) -> a scalar

        -log p[n,l] = log sum_k exp(logits[n,k]) - logits[n,l]

    A number that is subtracted from a whole row cancels. Here it is the row's largest (real part), so exp
    cannot overflow. Raises ValueError unless labels are N integers in 0..K-1, and for N = 0.
    """
    check_arrays("NK", logits=logits)
    N, K = logits.shape
    if not logits.size:
        raise ValueError(f"logits have shape {logits.shape}; the mean of no numbers is not defined")
    labels = check_labels(labels, N, K)
    z = logits - logits.real.max(1, keepdims=True)                # (N, K)
    loss = (np.log(np.exp(z).sum(1)) - z[np.arange(N), labels]).sum() / N
    return loss, (logits, labels)


def cross_entropy_backward(cache):
    """-> dlogits (N, K). The labels are data and get no gradient.

    One row n, l its label, S = sum_k exp(logits[n,k])
        loss[n] = log S - logits[n,l]
        ∂(log S)/∂logits[n,k] = exp(logits[n,k]) / S = p[n,k]     the softmax
        ∂logits[n,l]/∂logits[n,k] = 1 if k = l else 0
    The loss is the mean over rows
        dlogits[n,k] = (p[n,k] - (1 if k = l else 0)) / N
    """
    logits, labels = cache
    N = len(logits)
    dlogits = softmax(logits)                                     # (N, K)
    dlogits[np.arange(N), labels] -= 1
    dlogits /= N
    return dlogits
