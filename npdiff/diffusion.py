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
    """The clean data that x_t and its noise imply: q_sample solved for x_0.   x_0 = (x_t - sqrt(1 - alpha_bar_t) eps) / sqrt(alpha_bar_t)

    Raises ValueError where alpha_bar_t = 0.
    """
    schedule.check_t(t)
    if not np.all(schedule.alpha_bar[t]):
        raise ValueError(f"alpha_bar is 0 at t = {schedule.T}: x_t is all noise, and naming it says nothing of x_0; predict sample, v_prediction or flow_prediction")
    signal = gather(schedule.sqrt_alpha_bar, t, x_t)
    sigma = gather(schedule.sqrt_one_minus_alpha_bar, t, x_t)
    return (x_t - sigma * eps) / signal


def eps_from_x0(x_t, t, x0, schedule):
    """The noise that x_t and the clean data imply: q_sample solved for eps.   eps = (x_t - sqrt(alpha_bar_t) x_0) / sqrt(1 - alpha_bar_t)"""
    schedule.check_t(t)
    signal = gather(schedule.sqrt_alpha_bar, t, x_t)
    sigma = gather(schedule.sqrt_one_minus_alpha_bar, t, x_t)
    return (x_t - signal * x0) / sigma


PREDICTION_TYPES = ("epsilon", "sample", "v_prediction", "flow_prediction")


def prediction_target(x0, t, noise, schedule, prediction_type):
    """What a network of this prediction_type should answer to x_t: the noise, x_0, or one of two velocities.

        epsilon: noise     sample: x_0     v_prediction: sqrt(alpha_bar_t) noise - sqrt(1 - alpha_bar_t) x_0     flow_prediction: noise - x_0

    v is the derivative of x_t along the circle that sqrt(alpha_bar) and sqrt(1 - alpha_bar) lie on (Salimans and Ho 2022, appendix D); the flow is that of
    the straight line from x_0 to the noise (Liu et al. 2023, "rectified flow"), which x_t follows up to its scale (npdiff.schedule.straight).
    """
    check_prediction_type(prediction_type)
    if prediction_type == "epsilon":
        return noise
    if prediction_type == "sample":
        return x0
    if prediction_type == "flow_prediction":
        return noise - x0
    return gather(schedule.sqrt_alpha_bar, t, x0) * noise - gather(schedule.sqrt_one_minus_alpha_bar, t, x0) * x0


def x0_from_prediction(x_t, t, prediction, schedule, prediction_type):
    """The clean data that a network's answer to x_t implies: q_sample and the target, two equations, solved for x_0.

    With a = sqrt(alpha_bar_t) and sigma = sqrt(1 - alpha_bar_t):
        epsilon: (x_t - sigma eps) / a     sample: the answer     v_prediction: a x_t - sigma v     flow_prediction: (x_t - sigma f) / (a + sigma)
    Raises ValueError for an epsilon prediction where alpha_bar_t = 0: x_t is then all noise, and to name it says nothing of x_0.
    """
    check_prediction_type(prediction_type)
    if prediction_type == "epsilon":
        return x0_from_eps(x_t, t, prediction, schedule)
    if prediction_type == "sample":
        return prediction
    a, sigma = gather(schedule.sqrt_alpha_bar, t, x_t), gather(schedule.sqrt_one_minus_alpha_bar, t, x_t)
    if prediction_type == "flow_prediction":
        return (x_t - sigma * prediction) / (a + sigma)
    return a * x_t - sigma * prediction


def check_prediction_type(prediction_type):
    """Raise ValueError unless it is one of PREDICTION_TYPES."""
    if prediction_type not in PREDICTION_TYPES:
        raise ValueError(f"prediction_type is {prediction_type!r}; it must be one of {', '.join(PREDICTION_TYPES)}")


LOSS_WEIGHTS = ("simple", "min_snr", "vlb")


def squared_error_ratio(schedule, prediction_type):
    """What an error in x_0 is worth in a network's own answer: r^2 (T+1,), indexed by t, with |prediction - target|^2 = r^2 |x0_hat - x_0|^2.

    x_t is given, so all that a network can answer moves with x0_hat in a straight line: eps by -a / sigma, v by -a^2 / sigma - sigma, f by -a / sigma - 1. So
        epsilon: snr     sample: 1     v_prediction: snr + 1     flow_prediction: (sqrt(snr) + 1)^2          (infinite at t = 0, except sample)
    """
    check_prediction_type(prediction_type)
    snr = schedule.snr
    return {"epsilon": snr, "sample": np.ones(schedule.T + 1), "v_prediction": snr + 1, "flow_prediction": (snr ** 0.5 + 1) ** 2}[prediction_type]


def loss_weights(schedule, prediction_type, loss_weight, gamma=5.0):
    """What multiplies the squared error of a network's answer to x_t: (T+1,), indexed by t; 0 at t = 0, which is never trained.

        simple    1: the error of what the network predicts, as it is (Ho et al. 2020, eq. 14)
        min_snr   min(snr, gamma) on the error of x_0 (Hang et al. 2023, section 3.4), so divided by r^2
        vlb       the variational bound's, in nats and with sigma^2 = beta: beta / (2 alpha (1 - alpha_bar)) on the error of eps (Ho et al. 2020, eq. 12),
                  that is beta alpha_bar[t-1] / (2 (1 - alpha_bar)^2) on that of x_0, divided by r^2
    """
    check_loss_weight(loss_weight)
    ratio, weights = squared_error_ratio(schedule, prediction_type)[1:], np.zeros(schedule.T + 1)
    if loss_weight == "simple":
        weights[1:] = 1
    elif loss_weight == "min_snr":
        weights[1:] = np.minimum(schedule.snr[1:], gamma) / ratio
    else:
        weights[1:] = schedule.beta[1:] * schedule.alpha_bar[:-1] / (2 * (1 - schedule.alpha_bar[1:]) ** 2) / ratio
    return weights


def check_loss_weight(loss_weight):
    """Raise ValueError unless it is one of LOSS_WEIGHTS."""
    if loss_weight not in LOSS_WEIGHTS:
        raise ValueError(f"loss_weight is {loss_weight!r}; it must be one of {', '.join(LOSS_WEIGHTS)}")


def check_signal(schedule, prediction_type):
    """Raise ValueError for epsilon predictions where alpha_bar_T = 0: x_T is then the noise itself, and knowing it says nothing of x_0."""
    if prediction_type == "epsilon" and schedule.alpha_bar[schedule.T] == 0:
        raise ValueError("prediction_type is 'epsilon', but alpha_bar_T is 0: x_T is all noise, and naming it says nothing of x_0; "
                         "it must be sample, v_prediction or flow_prediction")


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
