"""Embeddings: a few numbers become the sines and cosines of many multiples of themselves, a label becomes a vector.

N batch, D coordinates (of a point, of a label's vector), F frequencies, K labels

A network fed a coordinate as one number sees 500 and 501 as almost the same input. Fed sines of rising frequency, it can tell
neighbours apart and still see what is far. Labels have no order at all: each is given a vector of its own, trained like any weight.
"""

from functools import cache

import numpy as np


def fourier_forward(x, B):
    """y = [sin(x B), cos(x B)].   x (N, D), B (D, F) -> y (N, 2F)     (Tancik et al. 2020, "Fourier features")"""
    angle = x @ B                                                 # (N, F)
    y = np.concatenate([np.sin(angle), np.cos(angle)], axis=1)    # (N, 2F)
    return y, (x, B, y)


def fourier_backward(dy, cache):
    """dy (N, 2F) -> dx (N, D), dB (D, F)

    The outputs           y[n,f] = sin(angle[n,f])     y[n,F+f] = cos(angle[n,f])     angle[n,f] = sum_d x[n,d] B[d,f]
    Through sin and cos   dangle[n,f] = dy[n,f] cos(angle[n,f]) - dy[n,F+f] sin(angle[n,f]);   y already holds both
    Through the product, as in the linear layer:
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
    """The embedding of timesteps: Fourier features of t at geometrically falling frequencies.   t (N,) integers -> (N, dim)

        y[n,k] = sin(w[k] (t[n] - 1))     y[n,dim/2+k] = cos(w[k] (t[n] - 1))     w[k] = max_period^(-k / (dim/2)),  k = 0..dim/2-1

    The network sees t - 1, counted from 0, as the source recipes and diffusers do. It has no backward: t is data, nothing is trained through it.
    Source: Vaswani et al. 2017, section 3.5, as used by Ho et al. 2020, appendix B.
    """
    w = frequencies(dim, max_period).astype(dtype)                # (1, dim/2)
    y, _ = fourier_forward((t[:, None] - 1).astype(dtype), w)
    return y                                                      # (N, dim)


@cache
def frequencies(dim, max_period):
    """w[k] = max_period^(-k / (dim/2)), float64 (1, dim/2)."""
    k = np.arange(dim // 2)
    return max_period ** (-k / (dim // 2))[None, :]


def embedding_lookup_forward(labels, table):
    """y[n] = table[labels[n]].   labels (N,) integers in 0..K-1, table (K, D) -> y (N, D). Raises ValueError for another label."""
    K = len(table)
    labels = check_labels(labels, len(labels), K)
    y = table[labels]                                             # (N, D)
    return y, (labels, K)


def embedding_lookup_backward(dy, cache):
    """dy (N, D) -> dtable (K, D); the labels are data and get no gradient.

    Write the choice as a product      y[n,d] = sum_k chosen[n,k] table[k,d],   chosen[n,k] = 1 where k = labels[n], else 0
    As in the linear layer             dtable[k,d] = sum_n chosen[n,k] dy[n,d]       a label that occurs twice gathers both gradients
    """
    labels, K = cache
    chosen = (labels[:, None] == np.arange(K)).astype(dy.dtype)   # (N, K)
    dtable = chosen.T @ dy                                        # (K, D)
    return dtable


def check_labels(labels, N, K):
    """labels as an array (N,). Raises ValueError unless they are N integers in 0..K-1; K = 0 takes none."""
    labels = np.asarray(labels)
    if K == 0:
        raise ValueError(f"labels have shape {labels.shape}; this network has 0 classes and takes no labels")
    if labels.shape != (N,) or labels.dtype.kind not in "iu":
        raise ValueError(f"labels have shape {labels.shape} and dtype {labels.dtype}; "
                         f"for {N} samples they must be ({N},) integers in 0..{K - 1}")
    outside = (labels < 0) | (labels >= K)
    if outside.any():
        raise ValueError(f"a label is {labels[outside][0]}; it must lie in 0..{K - 1}")
    return labels
