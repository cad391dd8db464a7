"""The closed forms: what is known exactly about x_t, without a network.

x_0 is clean data and eps is standard normal noise. With a = sqrt(alpha_bar) and sigma = sqrt(1 - alpha_bar),

    x_t = a x_0 + sigma eps

Everything here follows from this line. t is an int (one timestep for the whole batch; x may be any backend's
array) or an integer NumPy array (N,) with one timestep per sample (x is then a NumPy array (N, ...)). Data,
noise and predictions are floats; integers are refused, as are unequal shapes and timesteps outside 1..T.
"""

import math

import numpy as np

from npdiff.schedule import coefficient, whole


def forward_step(x_prev, t, noise, schedule):
    """One step of the forward chain, a draw from q(x_t | x_{t-1}).

        x_t = sqrt(1 - beta_t) x_{t-1} + sqrt(beta_t) noise        (Ho et al. 2020, eq. 2)

    x_prev, noise (N, ...) -> (N, ...).
    """
    check_data(x_prev=x_prev, noise=noise)
    t = schedule.check_t(t, x_prev)
    beta = coefficient(schedule.beta, t, x_prev)
    return (1 - beta) ** 0.5 * x_prev + beta ** 0.5 * noise


def q_sample(x0, t, noise, schedule):
    """All t steps of the forward chain at once, a draw from q(x_t | x_0).

        x_t = a x_0 + sigma noise                                  (Ho et al. 2020, eq. 4)

    Two steps of the chain, with alpha = 1 - beta:
        sqrt(alpha_t) x_{t-1} + sqrt(beta_t) e_t
          = sqrt(alpha_t alpha_{t-1}) x_{t-2} + sqrt(alpha_t beta_{t-1}) e_{t-1} + sqrt(beta_t) e_t
    The last two terms are independent and normal, so their sum is normal and their variances add:
        alpha_t beta_{t-1} + beta_t = alpha_t (1 - alpha_{t-1}) + 1 - alpha_t = 1 - alpha_t alpha_{t-1}
    So two steps are one step whose alpha is the product of both. All t steps: the product is alpha_bar_t, the
    factor of x_0 is sqrt(alpha_bar_t) = a, and the variance of the noise is 1 - alpha_bar_t = sigma^2.

    x0, noise (N, ...) -> (N, ...).
    """
    check_data(x0=x0, noise=noise)
    a, sigma = schedule.scales(t, x0, first=1)
    return a * x0 + sigma * noise


def eps_from_x0(x_t, t, x0, schedule):
    """The noise in x_t, if x0 is its clean data:   eps = (x_t - a x_0) / sigma.   (N, ...) -> (N, ...)"""
    check_data(x_t=x_t, x0=x0)
    a, sigma = schedule.scales(t, x_t, first=1)
    return (x_t - a * x0) / sigma


# What a network is trained to predict: target = p x_0 + q eps, and (p, q) by name.
PREDICTION_TYPES = {
    "epsilon": lambda a, sigma: (0.0, 1.0),             # eps                  Ho et al. 2020
    "sample": lambda a, sigma: (1.0, 0.0),              # x_0
    "v_prediction": lambda a, sigma: (-sigma, a),       # a eps - sigma x_0    Salimans and Ho 2022
    "flow_prediction": lambda a, sigma: (-1.0, 1.0),    # eps - x_0            Liu et al. 2023
}


def prediction_target(x0, t, noise, schedule, prediction_type):
    """What a network of this prediction_type should answer to x_t:   target = p x_0 + q noise.

    v is the derivative of x_t with respect to the angle phi, where a = cos phi and sigma = sin phi. The flow
    is the direction of the straight line from x_0 to the noise, and npdiff.schedule.straight follows that
    line. Sources: [Salimans and Ho 2022](https://arxiv.org/abs/2202.00512),
    [Liu et al. 2023](https://arxiv.org/abs/2209.03003).

    x0, noise (N, ...) -> (N, ...). Raises ValueError for an unknown prediction_type.
    """
    check_prediction_type(prediction_type)
    check_data(x0=x0, noise=noise)
    p, q = PREDICTION_TYPES[prediction_type](*schedule.scales(t, x0, first=1))
    return p * x0 + q * noise


def x0_from_prediction(x_t, t, prediction, schedule, prediction_type="epsilon"):
    """The clean data that follows from x_t and a network's answer. Two equations, two unknowns x_0 and eps:

        x_t        = a x_0 + sigma eps
        prediction = p x_0 + q eps
    q times the first minus sigma times the second:
        x_0 = (q x_t - sigma prediction) / (q a - p sigma)
    For epsilon this is (x_t - sigma eps) / a. For v_prediction it is a x_t - sigma v, as a^2 + sigma^2 = 1.

    x_t, prediction (N, ...) -> (N, ...). Raises ValueError for an unknown prediction_type, and where
    q a = p sigma: there the two equations are the same one.
    """
    check_data(x_t=x_t, prediction=prediction)
    a, sigma = schedule.scales(t, x_t, first=1)
    check_signal(schedule, prediction_type, t)
    p, q = PREDICTION_TYPES[prediction_type](a, sigma)
    return (q * x_t - sigma * prediction) / (q * a - p * sigma)


def check_signal(schedule, prediction_type, t=None):
    """Raise ValueError where x_t and the network's answer do not determine x_0: where q a = p sigma.

    t is an int, integers (N,), or None for all of 1..T. It happens for epsilon at T alone, and only
    if alpha_bar_T is 0.
    """
    check_prediction_type(prediction_type)
    t = np.arange(1, schedule.T + 1) if t is None else schedule.check_t(t)
    a, sigma = schedule.a[t], schedule.sigma[t]
    p, q = PREDICTION_TYPES[prediction_type](a, sigma)
    if np.any(q * a == p * sigma):
        raise ValueError(f"prediction_type is {prediction_type!r}, but alpha_bar_T is 0: "
                         "x_T is all noise, and to know that noise says nothing about x_0; "
                         "it must be sample, v_prediction or flow_prediction")


def check_prediction_type(prediction_type):
    """Raise ValueError unless it is one of PREDICTION_TYPES."""
    if prediction_type not in PREDICTION_TYPES:
        raise ValueError(f"prediction_type is {prediction_type!r}; "
                         f"it must be one of {', '.join(PREDICTION_TYPES)}")


LOSS_WEIGHTS = ("simple", "min_snr", "vlb")


def squared_error_ratio(schedule, prediction_type):
    """How an error in x_0 shows in the network's own answer: r^2 (T+1,), indexed by t, nan at t = 0.

        |prediction - target|^2 = r^2 |x0_hat - x_0|^2

    x_t is given, so a wrong x_0 means a wrong eps = (x_t - a x_0) / sigma. In the answer p x_0 + q eps an
    error e of x_0 becomes
        (p - q a / sigma) e = -r e                                 r = (q a - p sigma) / sigma
    epsilon: r^2 = snr     sample: 1     v_prediction: snr + 1     flow_prediction: (sqrt(snr) + 1)^2
    """
    check_prediction_type(prediction_type)
    a, sigma = schedule.a[1:], schedule.sigma[1:]
    p, q = PREDICTION_TYPES[prediction_type](a, sigma)
    return np.concatenate([[np.nan], ((q * a - p * sigma) / sigma) ** 2])


def loss_weights(schedule, prediction_type, loss_weight, gamma=5.0):
    """The factor of the squared error of a network's answer at t: (T+1,), indexed by t.

    It is 0 at t = 0, which is never trained.

        simple    1, whatever the network predicts (Ho et al. 2020, eq. 14, L_simple)
        min_snr   min(snr, gamma) for the error of x_0, so it is divided by r^2
                  ([Hang et al. 2023](https://arxiv.org/abs/2303.09556), section 3.4)
        vlb       the factor in the variational bound, in nats, for sigma^2 = beta

    From the bound to L_simple. The bound's term at t is the KL divergence of two normal distributions of
    x_{t-1}: q(x_{t-1} | x_t, x_0), and the model's, which has x0_hat for x_0 and the variance beta_t. The
    part that depends on the network is  |m_q - m_p|^2 / (2 beta_t).  By posterior_mean both means have the
    same factor of x_0:
        m_q - m_p = a_{t-1} beta_t / sigma_t^2 (x_0 - x0_hat)
    So an error of x_0 has the weight   a_{t-1}^2 beta_t / (2 sigma_t^4),   which is vlb times r^2.
    An error of eps is a_t / sigma_t times that of x_0, and a_t^2 = alpha_t a_{t-1}^2, so it has the weight
        beta_t / (2 alpha_t sigma_t^2)                             (Ho et al. 2020, eq. 12)
    Without this weight the loss is L_simple.

    Where alpha_bar_T = 0, snr and the r^2 of epsilon are 0 at T, and the weights are their limits. At every
    snr up to gamma, min_snr is snr / snr = 1. vlb grows without bound: it is inf.
    """
    check_loss_weight(loss_weight)
    weights = np.zeros(schedule.T + 1)
    if loss_weight == "simple":
        weights[1:] = 1
        return weights
    of_x0 = {"min_snr": np.minimum(schedule.snr[1:], gamma),
             "vlb": schedule.alpha_bar[:-1] * schedule.beta[1:] / (2 * schedule.sigma[1:] ** 4)}[loss_weight]
    ratio = squared_error_ratio(schedule, prediction_type)[1:]
    weights[1:] = {"min_snr": 1, "vlb": np.inf}[loss_weight]
    np.divide(of_x0, ratio, out=weights[1:], where=ratio > 0)
    return weights


def check_loss_weight(loss_weight):
    """Raise ValueError unless it is one of LOSS_WEIGHTS."""
    if loss_weight not in LOSS_WEIGHTS:
        raise ValueError(f"loss_weight is {loss_weight!r}; it must be one of {', '.join(LOSS_WEIGHTS)}")


def transition_beta(t, s, schedule):
    """The variance of the noise that leads from x_s to x_t, for ints s < t, a float.

        beta_{t|s} = 1 - alpha_bar_t / alpha_bar_s                 beta_{t|t-1} is beta_t
    Raises ValueError, as all functions of a jump do, unless 0 <= s < t <= T.
    """
    t, s = check_jump(t, s, schedule)
    return float(1 - schedule.alpha_bar[t] / schedule.alpha_bar[s])


def posterior_mean(x_t, x0, t, s, schedule):
    """The mean of q(x_s | x_t, x_0) for ints 0 <= s < t. With s = t - 1 it is Ho et al. 2020, eq. 7.

    With beta = beta_{t|s},  and alpha = 1 - beta,  by Bayes' rule q(x_s | x_t, x_0) is proportional to
        q(x_t | x_s) q(x_s | x_0) = N(x_t; sqrt(alpha) x_s, beta) N(x_s; a_s x_0, sigma_s^2)
    The exponent is quadratic in x_s, so this is a normal distribution. Its precision is minus the factor of
    x_s^2 / 2:
        alpha / beta + 1 / sigma_s^2 = (alpha sigma_s^2 + beta) / (beta sigma_s^2)
                                     = sigma_t^2 / (beta sigma_s^2)
    because  alpha sigma_s^2 + beta = alpha - alpha alpha_bar_s + 1 - alpha = 1 - alpha_bar_t.
    Its mean is the factor of x_s divided by the precision:
        (sqrt(alpha) / beta x_t + a_s / sigma_s^2 x_0) beta sigma_s^2 / sigma_t^2
    So its two factors are
        of_x0 = a_s beta / sigma_t^2        of_x_t = sqrt(alpha) sigma_s^2 / sigma_t^2
        mean = of_x0 x_0 + of_x_t x_t
    For s = 0 it is x_0.
    """
    check_data(x_t=x_t, x0=x0)
    t, s = check_jump(t, s, schedule)
    beta = transition_beta(t, s, schedule)
    alpha_bar_t, alpha_bar_s = float(schedule.alpha_bar[t]), float(schedule.alpha_bar[s])
    of_x0 = alpha_bar_s ** 0.5 * beta / (1 - alpha_bar_t)
    of_x_t = (1 - beta) ** 0.5 * (1 - alpha_bar_s) / (1 - alpha_bar_t)
    return of_x0 * x0 + of_x_t * x_t


def posterior_variance(t, s, schedule):
    """The variance of q(x_s | x_t, x_0) for ints 0 <= s < t, a float: 1 / (the precision in posterior_mean).

        variance = beta_{t|s} sigma_s^2 / sigma_t^2                zero for s = 0
    """
    t, s = check_jump(t, s, schedule)
    return transition_beta(t, s, schedule) * float((1 - schedule.alpha_bar[s]) / (1 - schedule.alpha_bar[t]))


def prior_kl(x0, schedule):
    """KL(q(x_T | x_0) || N(0, I)), mean nats per dimension, a float: what x_T still tells about x_0.

    For two normal distributions with means m, n and variances v, w
        KL = (log(w / v) + v / w - 1 + (m - n)^2 / w) / 2
    Here m = a_T x_0, v = sigma_T^2, n = 0 and w = 1. It is zero where alpha_bar_T is zero.
    """
    check_data(x0=x0)
    alpha_bar = float(schedule.alpha_bar[schedule.T])
    return (-math.log1p(-alpha_bar) - alpha_bar + alpha_bar * float((x0 * x0).mean())) / 2


def check_jump(t, s, schedule):
    """t and s as Python ints. Raises ValueError unless they are integers with 0 <= s < t <= T."""
    ints = whole(t), whole(s)
    if None in ints or not 0 <= ints[1] < ints[0] <= schedule.T:
        raise ValueError(f"t is {t} and s is {s}; they must be integers, 0 <= s < t <= {schedule.T}")
    return ints


def check_data(**arrays):
    """Raise ValueError unless the named arrays hold floats (or complex numbers, or objects) in equal shapes.

    Coefficients in the dtype of integers would be zeros. A dtype is known by NumPy's kind of it, or by its
    name; an array without one is taken. A Python float stands for an array of any shape.
    """
    arrays = {name: array for name, array in arrays.items() if not isinstance(array, float)}
    for name, array in arrays.items():
        dtype = getattr(array, "dtype", None)
        if dtype is None:
            dtype, right = type(array).__name__, type(array) not in (bool, int, list, tuple)
        else:
            right = getattr(dtype, "kind", "-") in "fcO" or "float" in str(dtype) or "complex" in str(dtype)
        if not right:
            raise ValueError(f"{name} is {dtype}; it must be an array of floats")
    check_same_shape(**arrays)


def check_same_shape(**arrays):
    """Raise ValueError unless all the named arrays have the same shape."""
    shapes = {name: tuple(np.shape(array)) for name, array in arrays.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError("; ".join(f"{name} has shape {shape}" for name, shape in shapes.items())
                         + "; they must be equal")
