"""The training loss: mean squared error over every entry (Ho et al. 2020, eq. 14, L_simple)."""


def mse_forward(y, target):
    """loss = mean((y - target)^2).   y, target of one shape -> a scalar"""
    error = y - target
    return (error * error).sum() / error.size, error


def mse_backward(cache):
    """-> dy in the shape of y; the target is data and gets no gradient.

    With M entries    loss = 1/M sum_m error[m]^2,   error[m] = y[m] - target[m]
    Each y[m] occurs in one term     dy[m] = 2/M error[m]
    """
    error = cache
    dy = (2 / error.size) * error
    return dy
