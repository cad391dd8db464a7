"""Embeddings: numbers become the sines and cosines of their multiples; a label becomes a vector.

To a network, the inputs 500 and 501 are almost the same. The sine of a large multiple tells them apart, and
the sine of a small multiple tells 500 from 900. Labels have no order: each has a vector of its own, trained
like any weight.

N batch, D coordinates (of a point, of a label's vector), F frequencies, K labels.
"""

from functools import cache

import numpy as np


def fourier_forward(x, B):
    """y = [sin(x B), cos(x B)].   x (N, D), B (D, F) -> y (N, 2F)

    Source: [Tancik et al. 2020](https://arxiv.org/abs/2006.10739), "Fourier features".
    """
    angle = x @ B                                                 # (N, F)
    y = np.concatenate([np.sin(angle), np.cos(angle)], axis=1)    # (N, 2F)
    return y, (x, B, y)


def fourier_backward(dy, cache):
    """dy (N, 2F) -> dx (N, D), dB (D, F)

    The outputs   y[n,f] = sin(angle[n,f])     y[n,F+f] = cos(angle[n,f])     angle[n,f] = sum_d x[n,d] B[d,f]
    angle[n,f] is in two outputs, and y already holds the sine and the cosine
        dangle[n,f] = dy[n,f] cos(angle[n,f]) - dy[n,F+f] sin(angle[n,f])
    angle is a matrix product, so as in the linear layer
        dx[n,d] = sum_f dangle[n,f] B[d,f]
        dB[d,f] = sum_n x[n,d] dangle[n,f]
    """
    x, B, y = cache
    F = B.shape[1]
    sin, cos = y[:, :F], y[:, F:]                                 # (N, F) each
    dangle = dy[:, :F] * cos - dy[:, F:] * sin                    # (N, F)
    dx = dangle @ B.T                                             # (N, D)
    dB = x.T @ dangle                                             # (D, F)
    return dx, dB


def sinusoidal_embedding(t, dim, max_period, dtype):
    """Sines and cosines of the timesteps, at falling frequencies.   t (N,) integers -> (N, dim), dim = 2F

        y[n,f] = sin(w[f] (t[n] - 1))     y[n,F+f] = cos(w[f] (t[n] - 1))     f = 0..F-1
        w[f] = max_period^(-f/F)

    The fastest sine has the period 2 pi steps, the slowest 2 pi max_period^((F-1)/F) steps. The network sees
    t - 1, counted from 0, as the published recipes and diffusers do. There is no backward: t is data. Source:
    Vaswani et al. 2017, section 3.5, as used by Ho et al. 2020, appendix B. Raises ValueError for timesteps
    that are no integers (N,), an odd dim, a max_period that is no positive number, and a dtype of integers.
    """
    t = np.asarray(t, None if np.size(t) else int)
    if t.dtype.kind not in "iu" or t.ndim != 1:
        raise ValueError(f"t has shape {t.shape} and dtype {t.dtype}; it must be integers (N,)")
    kind = np.dtype(dtype).kind
    if kind in "iub":
        raise ValueError(f"dtype is {np.dtype(dtype)}; it must be floats")
    dtype = np.float64 if kind == "O" else dtype                  # t is data: it needs no object's own sine
    w = frequencies(dim, max_period).astype(dtype)                # (1, F)
    y, _ = fourier_forward((t[:, None] - 1).astype(dtype), w)
    return y                                                      # (N, dim)


@cache
def frequencies(dim, max_period):
    """w[f] = max_period^(-f/F) for f = 0..F-1, dim = 2F, float64 (1, F)."""
    if dim < 2 or dim % 2:
        raise ValueError(f"dim is {dim}; it must be even: half sines, half cosines")
    if not 0 < max_period < np.inf:
        raise ValueError(f"max_period is {max_period}; it must be a positive number")
    F = dim // 2
    return max_period ** (-np.arange(F) / F)[None, :]


def embedding_lookup_forward(labels, table):
    """y[n] = table[labels[n]].   labels (N,) integers in 0..K-1, table (K, D) -> y (N, D)

    Raises ValueError for another label.
    """
    K = len(table)
    labels = check_labels(labels, len(labels), K)
    y = table[labels]                                             # (N, D)
    return y, (labels, K)


def embedding_lookup_backward(dy, cache):
    """dy (N, D) -> dtable (K, D). The labels are data and get no gradient.

    Write the lookup as a matrix product, with chosen[n,k] = 1 if k = labels[n] else 0
        y[n,d] = sum_k chosen[n,k] table[k,d]
    So as in the linear layer
        dtable[k,d] = sum_n chosen[n,k] dy[n,d]                   gradients of equal labels add
    """
    labels, K = cache
    chosen = (labels[:, None] == np.arange(K)).astype(dy.dtype)   # (N, K)
    dtable = chosen.T @ dy                                        # (K, D)
    return dtable


def check_labels(labels, N, K):
    """labels as an array (N,). Raises ValueError unless they are N integers in 0..K-1; K = 0 takes none."""
    labels = np.asarray(labels, None if np.size(labels) else int)               # [] holds no floats
    if K == 0:
        raise ValueError(f"labels have shape {labels.shape}; this network has 0 classes and takes no labels")
    if labels.shape != (N,) or labels.dtype.kind not in "iu":
        raise ValueError(f"labels have shape {labels.shape} and dtype {labels.dtype}; "
                         f"for {N} samples they must be ({N},) integers in 0..{K - 1}")
    outside = (labels < 0) | (labels >= K)
    if outside.any():
        raise ValueError(f"a label is {labels[outside][0]}; it must lie in 0..{K - 1}")
    return labels
