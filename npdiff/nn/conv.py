"""Convolution: one small linear layer at every position of an image. The rest of this file is speed.

The plain version, index by index, is in tests/loops.py. Here the patch that each output position sees is
copied into one row of a matrix, and the matrix is multiplied by the kernel. Rows are made and used in blocks
that fit in the processor's cache, so the copies never go to main memory.

N batch, H x V positions (V is the width; W is the kernel), I inputs, O outputs, kh x kw taps, stride s.
"""

import math

import numpy as np

from npdiff.nn.channels import sum_over_positions
from npdiff.nn.checks import check_arrays

BLOCK_BYTES = 2**21     # of one block of patches, about a second-level cache


def conv2d_forward(x, W, b, stride=1):
    """y = the kernel's weighted sum around every s-th position of x ("same" padding).

        y[n,h,w,o] = sum_ijc x[n, s h + i - p, s w + j - q, c] W[i,j,c,o] + b[o]
    Padding: p = (kh - 1) / 2 lines of zeros above and below x, and q = (kw - 1) / 2 on its left and right. So
    with s = 1 the tap in the middle of the kernel lies on the position (h, w) itself, and y is as large as x.

    x (N, H, V, I), W (kh, kw, I, O), b (O,) -> y (N, ceil(H/s), ceil(V/s), O)
    Raises ValueError for an even kh or kw, and for shapes that do not match.
    """
    check_arrays("NHVC ijIO O", x=x, W=W, b=b)
    check_kernel(x, W)
    kh, kw, I, O = W.shape
    N, H, V, _ = x.shape
    y = np.empty((N, -(-H // stride), -(-V // stride), O), np.result_type(x, W, b))
    for block, rows in patches(x, kh, kw, stride):
        out = y[block].reshape(-1, O)                             # (M, O), a view into y
        np.matmul(rows, W.reshape(kh * kw * I, O), out=out)
        out += b
    return y, (x, W, stride)


def conv2d_backward(dy, cache):
    """dy (N, ceil(H/s), ceil(V/s), O) -> dx (N, H, V, I), dW (kh, kw, I, O), db (O,)

    Stride. A convolution of stride s is one of stride 1 of which every s-th position is kept. What is not
    kept does not reach L, so its gradient is zero. From here on dy is that of the convolution of stride 1,
    (N, H, V, O): the given one at the kept positions, zero at the others. One output
        y[n,h,w,o] = sum_ijc x[n,h+i-p,w+j-q,c] W[i,j,c,o] + b[o]
    It depends on the input at (h', w') = (h+i-p, w+j-q). So the input at (h', w') reaches the outputs at
    (h, w) = (h'+p-i, w'+q-j), one for each tap. Sum over them
        dx[n,h',w',c] = sum_ijo dy[n,h'+p-i,w'+q-j,o] W[i,j,c,o]
    Count the taps from the other end: a = kh-1-i, e = kw-1-j. As kh = 2p+1 and kw = 2q+1,
        p-i = a-p     q-j = e-q
        dx[n,h',w',c] = sum_aeo dy[n,h'+a-p,w'+e-q,o] turned[a,e,o,c]
        turned[a,e,o,c] = W[kh-1-a,kw-1-e,c,o]
    This is the forward again, with dy for x and the turned kernel for W. So with the patches of dy
        rows[(n,h',w'),(a,e,o)] = dy[n,h'+a-p,w'+e-q,o]                         dx = rows turned
    W[i,j,c,o] meets the input at (h', w') in the output at (h'+p-i, w'+q-j), which rows holds as well
        dW[i,j,c,o] = sum_nh'w' x[n,h',w',c] dy[n,h'+p-i,w'+q-j,o]
                    = sum_nh'w' x[n,h',w',c] rows[(n,h',w'),(a,e,o)]            dW, turned back = x^T rows
    b[o] is in every output
        db[o] = sum_nhw dy[n,h,w,o]
    """
    x, W, stride = cache
    kh, kw, I, O = W.shape
    db = sum_over_positions(dy).sum(0)                            # (O,)
    if stride > 1:
        kept, dy = dy, np.zeros((*x.shape[:3], O), dy.dtype)      # (N, H, V, O)
        dy[:, ::stride, ::stride] = kept
    turned = W[::-1, ::-1].transpose(0, 1, 3, 2).reshape(kh * kw * O, I)
    dx = np.empty(x.shape, dy.dtype)
    dW = np.zeros((I, kh * kw * O), dy.dtype)
    for block, rows in patches(dy, kh, kw):
        np.matmul(rows, turned, out=dx[block].reshape(-1, I))     # into a view of dx
        dW += x[block].reshape(-1, I).T @ rows                    # (I, kh kw O)
    dW = dW.reshape(I, kh, kw, O).transpose(1, 2, 0, 3)           # (kh, kw, I, O)
    return dx, np.ascontiguousarray(dW[::-1, ::-1]), db


def patches(x, kh, kw, stride=1):
    """The patches that a kernel sees, block by block.   x (N, H, V, C) -> yields (block, rows)

    block is a tuple of two slices, of images and of lines of y: whole images while they are small, else part
    of one. rows (M, kh kw C) are the patches of the M positions in y[block].
    """
    N, H, V, C = x.shape
    p, q = kh // 2, kw // 2
    padded = x
    if p or q:
        padded = np.zeros((N, H + 2 * p, V + 2 * q, C), x.dtype)
        padded[:, p:p + H, q:q + V] = x
    height, width = -(-H // stride), -(-V // stride)              # of y
    by_n, by_h, by_w, by_c = padded.strides
    # A view: windows[n,h,w,i,j] = padded[n, s h + i, s w + j]
    windows = np.lib.stride_tricks.as_strided(
        padded, shape=(N, height, width, kh, kw, C),
        strides=(by_n, by_h * stride, by_w * stride, by_h, by_w, by_c), writeable=False)
    lines = max(1, BLOCK_BYTES // (width * kh * kw * C * x.itemsize))           # of y, in one block
    images = max(1, lines // height)
    lines = math.ceil(height / math.ceil(height / lines))         # blocks of equal height
    for n in range(0, N, images):
        for h in range(0, height, lines):
            block = slice(n, n + images), slice(h, h + lines)
            yield block, windows[block].reshape(-1, kh * kw * C)  # (M, kh kw C), a copy unless kh = kw = 1


def check_kernel(x, W):
    """Raise ValueError unless W is an odd-sized kernel for the channels of x."""
    kh, kw, I, _ = W.shape
    if kh % 2 == 0 or kw % 2 == 0:
        raise ValueError(f"the kernel is {kh} x {kw}; both sides must be odd")
    if x.shape[-1] != I:
        raise ValueError(f"x has {x.shape[-1]} channels; the kernel takes {I}")
