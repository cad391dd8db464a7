"""Self-attention (Vaswani et al. 2017): every position of an image reads from all positions, weighted by how well its query meets their keys.

N batch, P positions (H W), C channels in h heads of d = C/h; each head attends on its own.
"""

import numpy as np


def attention_forward(qkv, heads):
    """y = softmax(q k^T / sqrt(d)) v for each image and head, where qkv holds queries, keys and values side by side.

    qkv (N, P, 3C) -> y (N, P, C). Raises ValueError unless heads divides C. The linear layers before and after are the caller's.
    """
    N, P, C = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    if C % heads:
        raise ValueError(f"heads is {heads}; it must divide the {C} channels")
    scale = (C // heads) ** -0.5
    q, k, v = qkv.reshape(N, P, 3, heads, C // heads).transpose(2, 0, 3, 1, 4)      # (N, h, P, d) each
    a = softmax(q @ k.swapaxes(2, 3) * scale)                     # (N, h, P, P)
    z = a @ v                                                     # (N, h, P, d)
    y = z.transpose(0, 2, 1, 3).reshape(N, P, C)
    return y, (q, k, v, a, scale)


def attention_backward(dy, cache):
    """dy (N, P, C) -> dqkv (N, P, 3C)

    For one image and head; i is the position that reads, j the one that is read, d the place within the head
        score[i,j] = scale sum_d q[i,d] k[j,d]      a[i,j] = exp(score[i,j]) / sum_j exp(score[i,j])      z[i,d] = sum_j a[i,j] v[j,d]
    The reading is a matrix product, so as in the linear layer
        dv[j,d] = sum_i a[i,j] dz[i,d]                          dv = a^T dz
        da[i,j] = sum_d dz[i,d] v[j,d]                          da = dz v^T
    Softmax, within one row i      ∂a[i,m]/∂score[i,j] = a[i,m] ([m = j] - a[i,j])
        dscore[i,j] = sum_m da[i,m] ∂a[i,m]/∂score[i,j] = a[i,j] (da[i,j] - sum_m da[i,m] a[i,m])
    The scores are a matrix product too
        dq[i,d] = scale sum_j dscore[i,j] k[j,d]                dq = scale dscore k
        dk[j,d] = scale sum_i dscore[i,j] q[i,d]                dk = scale dscore^T q
    """
    q, k, v, a, scale = cache
    N, heads, P, d = q.shape
    dz = dy.reshape(N, P, heads, d).transpose(0, 2, 1, 3)         # (N, h, P, d)
    dv = a.swapaxes(2, 3) @ dz                                    # (N, h, P, d)
    da = dz @ v.swapaxes(2, 3)                                    # (N, h, P, P)
    dscore = a * (da - (da * a).sum(3, keepdims=True))            # (N, h, P, P)
    dscore *= scale
    dq = dscore @ k                                               # (N, h, P, d)
    dk = dscore.swapaxes(2, 3) @ q                                # (N, h, P, d)
    dqkv = np.stack([dq, dk, dv])                                 # (3, N, h, P, d)
    return dqkv.transpose(1, 3, 0, 2, 4).reshape(N, P, 3 * heads * d)


def softmax(score):
    """exp(score) / sum(exp(score)) along the last axis. A shift common to a row cancels; that by its largest (real part) keeps exp from overflowing."""
    e = np.exp(score - score.real.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)
