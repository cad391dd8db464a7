"""The linear layer: every output is a weighted sum of every input.   N batch, I inputs, O outputs"""

from npdiff.nn.checks import check_arrays


def linear_forward(x, W, b):
    """y = x W + b.   x (N, I), W (I, O), b (O,) -> y (N, O)"""
    check_arrays("NI IO O", x=x, W=W, b=b)
    y = x @ W + b                      # (N, O)
    return y, (x, W)


def linear_backward(dy, cache):
    """dy (N, O) -> dx (N, I), dW (I, O), db (O,)

    One output              y[n,o] = sum_i x[n,i] W[i,o] + b[o]
    depends on its inputs   ∂y[n,o]/∂x[n,i] = W[i,o]     ∂y[n,o]/∂W[i,o] = x[n,i]     ∂y[n,o]/∂b[o] = 1
    Chain rule: for each variable, sum over all the outputs that it reaches.
        x[n,i] reaches y[n,o] for every o     dx[n,i] = sum_o dy[n,o] W[i,o]     dx = dy W^T
        W[i,o] reaches y[n,o] for every n     dW[i,o] = sum_n x[n,i] dy[n,o]     dW = x^T dy
        b[o]   reaches y[n,o] for every n     db[o]   = sum_n dy[n,o]            db = column sums of dy
    """
    x, W = cache
    dx = dy @ W.T                      # (N, I)
    dW = x.T @ dy                      # (I, O)
    db = dy.sum(0)                     # (O,)
    return dx, dW, db
