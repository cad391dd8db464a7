"""The closed forms: what is known about x_t exactly, without any network.

x_0 is clean data, noise (eps) is standard normal, and   x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps.
Everything here is operators on that line. t is an int (one timestep for the whole batch; x may then be any backend's array) or
an integer NumPy array (N,) with one timestep per sample (x is then a NumPy array (N, ...)).
"""

import numpy as np


def gather(table, t, x):
    """The coefficients table[t], ready to multiply x: a Python float for an int t, else an array (N, 1, ..., 1) in x's dtype.

    A Python float leaves the dtype of x alone; a float64 scalar would silently turn float32 into float64. Raises ValueError if t is of another length than x.
    """
    if isinstance(t, int):
        return float(table[t])
    if np.shape(t) != np.shape(x)[:1]:
        raise ValueError(f"t has shape {np.shape(t)}; for x of shape {np.shape(x)} it must be an int or {np.shape(x)[:1]}")
    return table[t].astype(x.dtype).reshape(-1, *[1] * (x.ndim - 1))


def forward_step(x_prev, t, noise, schedule):
    """One step of the forward chain, a draw from q(x_t | x_{t-1}) (Ho et al. 2020, eq. 2).

        x_t = sqrt(1 - beta_t) x_{t-1} + sqrt(beta_t) noise

    x_prev and noise have one shape, (N, ...); so has the result. Raises ValueError for t outside 1..T or unequal shapes.
    """
    schedule.check_t(t)
    check_same_shape(x_prev=x_prev, noise=noise)
    beta = gather(schedule.beta, t, x_prev)
    return (1 - beta) ** 0.5 * x_prev + beta ** 0.5 * noise


def q_sample(x0, t, noise, schedule):
    """All t steps of the forward chain at once, a draw from q(x_t | x_0) (Ho et al. 2020, eq. 4).

        x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) noise

    x0 and noise have one shape, (N, ...); so has the result. Raises ValueError for t outside 1..T or unequal shapes.
    """
    schedule.check_t(t)
    check_same_shape(x0=x0, noise=noise)
    signal = gather(schedule.sqrt_alpha_bar, t, x0)
    sigma = gather(schedule.sqrt_one_minus_alpha_bar, t, x0)
    return signal * x0 + sigma * noise


def x0_from_eps(x_t, t, eps, schedule):
    """The clean data that x_t and its noise imply: q_sample solved for x_0.   x_0 = (x_t - sqrt(1 - alpha_bar_t) eps) / sqrt(alpha_bar_t)"""
    schedule.check_t(t)
    signal = gather(schedule.sqrt_alpha_bar, t, x_t)
    sigma = gather(schedule.sqrt_one_minus_alpha_bar, t, x_t)
    return (x_t - sigma * eps) / signal


def eps_from_x0(x_t, t, x0, schedule):
    """The noise that x_t and the clean data imply: q_sample solved for eps.   eps = (x_t - sqrt(alpha_bar_t) x_0) / sqrt(1 - alpha_bar_t)"""
    schedule.check_t(t)
    signal = gather(schedule.sqrt_alpha_bar, t, x_t)
    sigma = gather(schedule.sqrt_one_minus_alpha_bar, t, x_t)
    return (x_t - signal * x0) / sigma


PREDICTION_TYPES = ("epsilon", "sample", "v_prediction")


def prediction_target(x0, t, noise, schedule, prediction_type):
    """What a network of this prediction_type should answer to x_t: the noise, x_0, or the velocity (Salimans and Ho 2022, appendix D).

        epsilon: noise     sample: x_0     v_prediction: sqrt(alpha_bar_t) noise - sqrt(1 - alpha_bar_t) x_0
    """
    if prediction_type == "epsilon":
        return noise
    if prediction_type == "sample":
        return x0
    check_prediction_type(prediction_type)
    return gather(schedule.sqrt_alpha_bar, t, x0) * noise - gather(schedule.sqrt_one_minus_alpha_bar, t, x0) * x0


def x0_from_prediction(x_t, t, prediction, schedule, prediction_type):
    """The clean data that a network's answer to x_t implies.

        epsilon: x0_from_eps     sample: the answer itself     v_prediction: sqrt(alpha_bar_t) x_t - sqrt(1 - alpha_bar_t) v
    """
    if prediction_type == "epsilon":
        return x0_from_eps(x_t, t, prediction, schedule)
    if prediction_type == "sample":
        return prediction
    check_prediction_type(prediction_type)
    return gather(schedule.sqrt_alpha_bar, t, x_t) * x_t - gather(schedule.sqrt_one_minus_alpha_bar, t, x_t) * prediction


def check_prediction_type(prediction_type):
    """Raise ValueError unless it is one of PREDICTION_TYPES."""
    if prediction_type not in PREDICTION_TYPES:
        raise ValueError(f"prediction_type is {prediction_type!r}; it must be one of {', '.join(PREDICTION_TYPES)}")


def transition_beta(t, s, schedule):
    """The variance of the noise that leads from x_s to x_t, s < t:   beta_{t|s} = 1 - alpha_bar_t / alpha_bar_s.   beta_{t|t-1} is beta_t."""
    return float(1 - schedule.alpha_bar[t] / schedule.alpha_bar[s])


def posterior_mean(x_t, x0, t, s, schedule):
    """The mean of q(x_s | x_t, x_0) for ints 0 <= s < t; s = t - 1 is Ho et al. 2020, eq. 7.

    With beta = beta_{t|s} and alpha = 1 - beta, the product of the two Gaussians q(x_s | x_0) and q(x_t | x_s) has the mean
        sqrt(alpha_bar_s) beta / (1 - alpha_bar_t) x_0  +  sqrt(alpha) (1 - alpha_bar_s) / (1 - alpha_bar_t) x_t
    For s = 0 this is x_0 itself.
    """
    beta = transition_beta(t, s, schedule)
    alpha_bar_t, alpha_bar_s = float(schedule.alpha_bar[t]), float(schedule.alpha_bar[s])
    of_x0 = alpha_bar_s ** 0.5 * beta / (1 - alpha_bar_t)
    of_x_t = (1 - beta) ** 0.5 * (1 - alpha_bar_s) / (1 - alpha_bar_t)
    return of_x0 * x0 + of_x_t * x_t


def posterior_variance(t, s, schedule):
    """The variance of q(x_s | x_t, x_0) for ints 0 <= s < t, a float:   beta_{t|s} (1 - alpha_bar_s) / (1 - alpha_bar_t).   Zero for s = 0."""
    return transition_beta(t, s, schedule) * float((1 - schedule.alpha_bar[s]) / (1 - schedule.alpha_bar[t]))


def check_same_shape(**arrays):
    """Raise ValueError unless all the named arrays have the same shape."""
    shapes = {name: tuple(np.shape(array)) for name, array in arrays.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError("; ".join(f"{name} has shape {shape}" for name, shape in shapes.items()) + "; they must be equal")
