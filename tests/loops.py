"""Every pair of npdiff.nn as plain loops: the sums of its docstring, index by index, with the same letters.

Slow, and as plain as possible: compare your own code with it, in any language. Each function takes and
returns what the pair in npdiff.nn does, except that a cache holds the forward's inputs, and that the
embedding of timesteps is float64 always.
"""

from itertools import product
from math import cos, exp, log, sin, sqrt

import numpy as np


def over(*sizes):
    """All index tuples (0, ..., 0) to (size - 1, ..., size - 1)."""
    return product(*map(range, sizes))


def linear_forward(x, W, b):
    (N, I), O = x.shape, len(b)
    y = np.zeros((N, O))
    for n, o in over(N, O):
        y[n, o] = sum(x[n, i] * W[i, o] for i in range(I)) + b[o]
    return y, (x, W)


def linear_backward(dy, cache):
    x, W = cache
    (N, I), O = x.shape, dy.shape[1]
    dx, dW, db = np.zeros(x.shape), np.zeros(W.shape), np.zeros(O)
    for n, i in over(N, I):
        dx[n, i] = sum(dy[n, o] * W[i, o] for o in range(O))
    for i, o in over(I, O):
        dW[i, o] = sum(x[n, i] * dy[n, o] for n in range(N))
    for o in range(O):
        db[o] = sum(dy[n, o] for n in range(N))
    return dx, dW, db


def silu_forward(x):
    y = np.zeros(x.shape)
    for index in over(*x.shape):
        y[index] = x[index] / (1 + exp(-x[index]))
    return y, x


def silu_backward(dy, x):
    dx = np.zeros(x.shape)
    for index in over(*x.shape):
        s = 1 / (1 + exp(-x[index]))
        dx[index] = dy[index] * (s + x[index] * s * (1 - s))
    return dx


def fourier_forward(x, B):
    (N, D), F = x.shape, B.shape[1]
    y = np.zeros((N, 2 * F))
    for n, f in over(N, F):
        angle = sum(x[n, d] * B[d, f] for d in range(D))
        y[n, f], y[n, F + f] = sin(angle), cos(angle)
    return y, (x, B)


def fourier_backward(dy, cache):
    x, B = cache
    (N, D), F = x.shape, B.shape[1]
    dangle, dx, dB = np.zeros((N, F)), np.zeros(x.shape), np.zeros(B.shape)
    for n, f in over(N, F):
        angle = sum(x[n, d] * B[d, f] for d in range(D))
        dangle[n, f] = dy[n, f] * cos(angle) - dy[n, F + f] * sin(angle)
    for n, d in over(N, D):
        dx[n, d] = sum(dangle[n, f] * B[d, f] for f in range(F))
    for d, f in over(D, F):
        dB[d, f] = sum(x[n, d] * dangle[n, f] for n in range(N))
    return dx, dB


def sinusoidal_embedding(t, dim, max_period):
    K = dim // 2
    y = np.zeros((len(t), dim))
    for n, k in over(len(t), K):
        w = max_period ** (-k / K)
        y[n, k], y[n, K + k] = sin(w * (t[n] - 1)), cos(w * (t[n] - 1))
    return y


def embedding_lookup_forward(labels, table):
    y = np.zeros((len(labels), table.shape[1]))
    for n, d in over(*y.shape):
        y[n, d] = table[labels[n], d]
    return y, (labels, table)


def embedding_lookup_backward(dy, cache):
    labels, table = cache
    dtable = np.zeros(table.shape)
    for k, d in over(*table.shape):
        dtable[k, d] = sum(dy[n, d] for n in range(len(labels)) if labels[n] == k)
    return dtable


def mse_forward(y, target, weight=None):
    weight = np.ones(len(y)) if weight is None else weight
    M = y.size
    loss = sum(weight[m[0]] * (y[m] - target[m]) ** 2 for m in over(*y.shape)) / M
    return loss, (y, target, weight)


def mse_backward(cache):
    y, target, weight = cache
    dy = np.zeros(y.shape)
    for m in over(*y.shape):
        dy[m] = 2 / y.size * weight[m[0]] * (y[m] - target[m])
    return dy


def cross_entropy_forward(logits, labels):
    N, K = logits.shape
    loss = 0.0
    for n in range(N):
        S = sum(exp(logits[n, k]) for k in range(K))
        loss += (log(S) - logits[n, labels[n]]) / N
    return loss, (logits, labels)


def cross_entropy_backward(cache):
    logits, labels = cache
    N, K = logits.shape
    dlogits = np.zeros((N, K))
    for n, k in over(N, K):
        p = exp(logits[n, k]) / sum(exp(logits[n, j]) for j in range(K))
        dlogits[n, k] = (p - (1 if k == labels[n] else 0)) / N
    return dlogits


def taps(x, W, stride):
    """Which output sees which input: (n, h, w, i, j, h', w') with h' = s h + i - p, w' = s w + j - q."""
    (N, H, width, _), (kh, kw, _, _) = x.shape, W.shape
    p, q = (kh - 1) // 2, (kw - 1) // 2
    for n, h, w, i, j in over(N, -(-H // stride), -(-width // stride), kh, kw):
        row, column = stride * h + i - p, stride * w + j - q
        if 0 <= row < H and 0 <= column < width:            # beyond the edge x is zero
            yield n, h, w, i, j, row, column


def conv2d_forward(x, W, b, stride=1):
    """One linear layer for each tap, on the shifted image."""
    (N, H, width, I), O = x.shape, len(b)
    y = np.zeros((N, -(-H // stride), -(-width // stride), O))
    for n, h, w, o in over(*y.shape):
        y[n, h, w, o] = b[o]
    for n, h, w, i, j, row, column in taps(x, W, stride):
        for c, o in over(I, O):
            y[n, h, w, o] += x[n, row, column, c] * W[i, j, c, o]
    return y, (x, W, stride)


def conv2d_backward(dy, cache):
    """Each product x W of the forward gives one term to dx and one to dW.

    These are the terms of the docstring's sums. Here they are added in the order of the outputs, so a stride
    needs no zeros in dy.
    """
    x, W, stride = cache
    I, O = W.shape[2:]
    dx, dW, db = np.zeros(x.shape), np.zeros(W.shape), np.zeros(O)
    for n, h, w, i, j, row, column in taps(x, W, stride):
        for c, o in over(I, O):
            dx[n, row, column, c] += dy[n, h, w, o] * W[i, j, c, o]
            dW[i, j, c, o] += x[n, row, column, c] * dy[n, h, w, o]
    for n, h, w, o in over(*dy.shape):
        db[o] += dy[n, h, w, o]
    return dx, dW, db


def groups_of(x, groups):
    """For each image and each group: n, and its M entries as a list of indices (n, h, w, c)."""
    N, H, W, C = x.shape
    size = C // groups
    for n, g in over(N, groups):
        yield [(n, h, w, g * size + c) for h, w, c in over(H, W, size)]


def normalised(x, entries, eps=1e-5):
    """xhat of one group, by index, and rstd."""
    M = len(entries)
    mean = sum(x[m] for m in entries) / M
    var = sum((x[m] - mean) ** 2 for m in entries) / M
    rstd = 1 / sqrt(var + eps)
    return {m: (x[m] - mean) * rstd for m in entries}, rstd


def group_norm_forward(x, gamma, beta, groups):
    y = np.zeros(x.shape)
    for entries in groups_of(x, groups):
        xhat, _ = normalised(x, entries)
        for m in entries:
            y[m] = gamma[m[3]] * xhat[m] + beta[m[3]]
    return y, (x, gamma, groups)


def group_norm_backward(dy, cache):
    x, gamma, groups = cache
    dx, dgamma, dbeta = np.zeros(x.shape), np.zeros(gamma.shape), np.zeros(gamma.shape)
    for entries in groups_of(x, groups):
        M = len(entries)
        xhat, rstd = normalised(x, entries)
        dxhat = {m: dy[m] * gamma[m[3]] for m in entries}
        average = sum(dxhat[m] for m in entries) / M
        overlap = sum(dxhat[m] * xhat[m] for m in entries) / M
        for k in entries:
            dgamma[k[3]] += dy[k] * xhat[k]
            dbeta[k[3]] += dy[k]
            dx[k] = rstd * (dxhat[k] - average - xhat[k] * overlap)
    return dx, dgamma, dbeta


def avg_pool_forward(x):
    N, H, W, C = x.shape
    y = np.zeros((N, H // 2, W // 2, C))
    for n, h, w, c in over(*y.shape):
        y[n, h, w, c] = sum(x[n, 2 * h + i, 2 * w + j, c] for i, j in over(2, 2)) / 4
    return y, x


def avg_pool_backward(dy, x):
    dx = np.zeros(x.shape)
    for n, h, w, c in over(*dy.shape):
        for i, j in over(2, 2):
            dx[n, 2 * h + i, 2 * w + j, c] = dy[n, h, w, c] / 4
    return dx


def upsample_forward(x):
    N, H, W, C = x.shape
    y = np.zeros((N, 2 * H, 2 * W, C))
    for n, h, w, c in over(*x.shape):
        for i, j in over(2, 2):
            y[n, 2 * h + i, 2 * w + j, c] = x[n, h, w, c]
    return y, x


def upsample_backward(dy, x):
    dx = np.zeros(x.shape)
    for n, h, w, c in over(*x.shape):
        dx[n, h, w, c] = sum(dy[n, 2 * h + i, 2 * w + j, c] for i, j in over(2, 2))
    return dx


def add_channels_forward(x, e):
    y = np.zeros(x.shape)
    for n, h, w, c in over(*x.shape):
        y[n, h, w, c] = x[n, h, w, c] + e[n, c]
    return y, x


def add_channels_backward(dy, x):
    N, H, W, C = dy.shape
    dx, de = np.zeros(dy.shape), np.zeros((N, C))
    for n, h, w, c in over(N, H, W, C):
        dx[n, h, w, c] = dy[n, h, w, c]
        de[n, c] += dy[n, h, w, c]
    return dx, de


def concat_forward(x, skip):
    (N, H, W, A), B = x.shape, skip.shape[3]
    y = np.zeros((N, H, W, A + B))
    for n, h, w, c in over(N, H, W, A + B):
        y[n, h, w, c] = x[n, h, w, c] if c < A else skip[n, h, w, c - A]
    return y, (x, skip)


def concat_backward(dy, cache):
    x, skip = cache
    dx, dskip = np.zeros(x.shape), np.zeros(skip.shape)
    for n, h, w, c in over(*dy.shape):
        if c < x.shape[3]:
            dx[n, h, w, c] = dy[n, h, w, c]
        else:
            dskip[n, h, w, c - x.shape[3]] = dy[n, h, w, c]
    return dx, dskip


def one_head(qkv, heads, n, head):
    """q, k, v of one image and one head, (P, d) each, and the weights a (P, P)."""
    P, C = qkv.shape[1], qkv.shape[2] // 3
    d = C // heads
    q, k, v = (np.array([[qkv[n, i, part * C + head * d + e] for e in range(d)] for i in range(P)])
               for part in range(3))
    score, a = np.zeros((P, P)), np.zeros((P, P))
    for i, j in over(P, P):
        score[i, j] = sum(q[i, e] * k[j, e] for e in range(d)) / sqrt(d)
    for i, j in over(P, P):
        a[i, j] = exp(score[i, j]) / sum(exp(score[i, m]) for m in range(P))
    return q, k, v, a


def attention_forward(qkv, heads):
    N, P, C = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    d = C // heads
    y = np.zeros((N, P, C))
    for n, head in over(N, heads):
        _, _, v, a = one_head(qkv, heads, n, head)
        for i, e in over(P, d):
            y[n, i, head * d + e] = sum(a[i, j] * v[j, e] for j in range(P))
    return y, (qkv, heads)


def attention_backward(dy, cache):
    qkv, heads = cache
    N, P, C = dy.shape
    d = C // heads
    dqkv = np.zeros(qkv.shape)
    for n, head in over(N, heads):
        q, k, v, a = one_head(qkv, heads, n, head)
        dz = np.array([[dy[n, i, head * d + e] for e in range(d)] for i in range(P)])
        da, dscore = np.zeros((P, P)), np.zeros((P, P))
        for i, j in over(P, P):
            da[i, j] = sum(dz[i, e] * v[j, e] for e in range(d))
        for i, j in over(P, P):
            dscore[i, j] = a[i, j] * (da[i, j] - sum(da[i, m] * a[i, m] for m in range(P)))
        for i, e in over(P, d):
            place = head * d + e
            dqkv[n, i, place] = sum(dscore[i, j] * k[j, e] for j in range(P)) / sqrt(d)              # dq
        for j, e in over(P, d):
            place = head * d + e
            dqkv[n, j, C + place] = sum(dscore[i, j] * q[i, e] for i in range(P)) / sqrt(d)          # dk
            dqkv[n, j, 2 * C + place] = sum(a[i, j] * dz[i, e] for i in range(P))                    # dv
    return dqkv
