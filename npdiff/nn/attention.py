"""Self-attention: every position of an image reads from all positions.

What a position reads from another is weighted by how well its query fits the other's key.
N batch, P positions (H W), C channels in h heads of d = C/h entries. Each head attends on its own.
Source: [Vaswani et al. 2017](https://arxiv.org/abs/1706.03762).
"""

import numpy as np

from npdiff.nn.checks import check_arrays


def attention_forward(qkv, heads):
    """z = softmax(q k^T / sqrt(d)) v for each image and head; y is z with the heads side by side.

    qkv (N, P, 3C) -> y (N, P, C). Entry e of head k (from 0) lies in y at channel k d + e. Its query lies in
    qkv at the same channel, its key C further on, and its value 2C further on. The linear layers before and
    after are the caller's. Raises ValueError unless heads divides C.
    """
    check_arrays("NPC", qkv=qkv)
    N, P, C = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    if heads < 1 or C % heads:
        raise ValueError(f"heads is {heads}; it must divide the {C} channels")
    scale = (C // heads) ** -0.5
    q, k, v = qkv.reshape(N, P, 3, heads, C // heads).transpose(2, 0, 3, 1, 4)      # (N, h, P, d) each
    a = softmax(q @ k.swapaxes(2, 3) * scale)                     # (N, h, P, P)
    z = a @ v                                                     # (N, h, P, d)
    y = z.transpose(0, 2, 1, 3).reshape(N, P, C)
    return y, (q, k, v, a, scale)


def attention_backward(dy, cache):
    """dy (N, P, C) -> dqkv (N, P, 3C)

    One image, one head: i is the position that reads, j (or m) the one that is read, e an entry of the head
        score[i,j] = scale sum_e q[i,e] k[j,e]
        a[i,j] = exp(score[i,j]) / sum_m exp(score[i,m])
        z[i,e] = sum_j a[i,j] v[j,e]
    z is a matrix product, so as in the linear layer
        dv[j,e] = sum_i a[i,j] dz[i,e]                          dv = a^T dz
        da[i,j] = sum_e dz[i,e] v[j,e]                          da = dz v^T
    Softmax, within one row i. With S = sum_m exp(score[i,m]), a[i,m] = exp(score[i,m]) / S, the quotient rule
    gives
        ∂a[i,m]/∂score[i,j] = (1 if m = j else 0) exp(score[i,m]) / S - exp(score[i,m]) exp(score[i,j]) / S^2
                            = a[i,m] ((1 if m = j else 0) - a[i,j])
    score[i,j] reaches every a[i,m] of its row
        dscore[i,j] = sum_m da[i,m] a[i,m] ((1 if m = j else 0) - a[i,j])
                    = a[i,j] (da[i,j] - sum_m da[i,m] a[i,m])
    The scores are scale times a matrix product
        dqk[i,j] = scale dscore[i,j]                            the gradient of sum_e q[i,e] k[j,e]
        dq[i,e] = sum_j dqk[i,j] k[j,e]                         dq = dqk k
        dk[j,e] = sum_i dqk[i,j] q[i,e]                         dk = dqk^T q
    """
    q, k, v, a, scale = cache
    N, heads, P, d = q.shape
    dz = dy.reshape(N, P, heads, d).transpose(0, 2, 1, 3)         # (N, h, P, d)
    dv = a.swapaxes(2, 3) @ dz                                    # (N, h, P, d)
    da = dz @ v.swapaxes(2, 3)                                    # (N, h, P, P)
    dscore = a * (da - (da * a).sum(3, keepdims=True))            # (N, h, P, P)
    dqk = scale * dscore                                          # (N, h, P, P)
    dq = dqk @ k                                                  # (N, h, P, d)
    dk = dqk.swapaxes(2, 3) @ q                                   # (N, h, P, d)
    dqkv = np.stack([dq, dk, dv])                                 # (3, N, h, P, d)
    return dqkv.transpose(1, 3, 0, 2, 4).reshape(N, P, 3 * heads * d)


def softmax(score):
    """exp(score) / sum(exp(score)) along the last axis.

    A number that is subtracted from a whole row cancels. Here it is the row's largest (real part), so exp
    cannot overflow.
    """
    e = np.exp(score - score.real.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)
