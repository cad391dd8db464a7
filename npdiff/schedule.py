"""Noise schedules: how much of the data is left in x_t at each timestep t = 0..T.

Time runs t = 1..T, and t = 0 is clean data ([Ho et al. 2020](https://arxiv.org/abs/2006.11239)). Every table
has T + 1 entries, so alpha_bar[t] needs no offset, and alpha_bar[0] = 1. (diffusers counts from 0: its
`timestep` is our t - 1.)
"""

import operator

import numpy as np


class Schedule:
    """The tables of one forward process. Each is float64, has the shape (T + 1,), and is indexed by t.

    beta                variance of the noise that step t adds               beta[0] = 0
    alpha               1 - beta
    alpha_bar           product of alpha[1] .. alpha[t]                      alpha_bar[0] = 1
    a                   sqrt(alpha_bar), the factor of x_0 in x_t            a[0] = 1
    sigma               sqrt(1 - alpha_bar), the factor of eps in x_t        sigma[0] = 0
    snr                 alpha_bar / (1 - alpha_bar) = (a / sigma)^2          snr[0] = inf
    posterior_variance  beta_t (1 - alpha_bar[t-1]) / (1 - alpha_bar[t])     zero at t = 0 and t = 1

    Sources: Ho et al. 2020, section 2 and eq. 7; snr: [Kingma et al. 2021](https://arxiv.org/abs/2107.00630),
    eq. 2.
    """

    def __init__(self, beta):
        """beta (T,) holds beta_1 .. beta_T.

        Raises ValueError unless T >= 2 and every beta lies in (0, 1). The last may be 1: then x_T is all
        noise.
        """
        beta = np.asarray(beta, np.float64)
        if beta.ndim != 1 or len(beta) < 2:
            raise ValueError(f"beta has shape {beta.shape}; it must be (T,) with T >= 2")
        last = np.arange(len(beta)) == len(beta) - 1
        inside = (beta > 0) & (beta < 1) | (beta == 1) & last
        if not inside.all():
            t = int(np.argmin(inside)) + 1
            raise ValueError(f"beta at t = {t} is {beta[t - 1]:g}; "
                             "every beta must lie in (0, 1), only the last may be 1")
        self.T = len(beta)
        self.beta = np.concatenate([[0.0], beta])
        self.alpha = 1 - self.beta
        self.alpha_bar = np.cumprod(self.alpha)
        self.a = self.alpha_bar ** 0.5
        self.sigma = (1 - self.alpha_bar) ** 0.5
        self.snr = np.concatenate([[np.inf], self.alpha_bar[1:] / (1 - self.alpha_bar[1:])])
        self.posterior_variance = np.zeros(self.T + 1)
        self.posterior_variance[1:] = beta * (1 - self.alpha_bar[:-1]) / (1 - self.alpha_bar[1:])

    def scales(self, t, x=None, first=0):
        """The two factors in   x_t = a x_0 + sigma eps,   ready to multiply x: (a, sigma), for t in first..T.

        For an int t they are Python floats; for integers t (N,), arrays (N, 1, ..., 1) in the dtype of x.
        """
        t = self.check_t(t, x, first)
        return coefficient(self.a, t, x), coefficient(self.sigma, t, x)

    def check_t(self, t, x=None, first=1):
        """t as timesteps gives it, for the samples x if given.

        Raises ValueError as timesteps does, and unless t lies in first..T.
        """
        t = timesteps(t, None if x is None else np.shape(x)[:1], f"{first}..{self.T}")
        if isinstance(t, int):
            outside = [] if first <= t <= self.T else [t]
        else:
            outside = t[(t < first) | (t > self.T)]
        if len(outside):
            raise ValueError(f"t is {outside[0]}; it must lie in {first}..{self.T}")
        return t


def timesteps(t, shape=None, span="1..T"):
    """t as a Python int, or as an integer array (N,). What counts as a timestep is decided here alone.

    One number with __index__ is an int: an int, a NumPy integer, an array () of integers. An array or a list
    of integers of any width is one timestep for each sample. Raises ValueError for all else: a float, a bool,
    or another shape than `shape`, where that is given.
    """
    if (one := whole(t)) is not None:
        return one
    if isinstance(t, list | tuple):
        ints = [whole(one) for one in t]
        t = np.array(t if None in ints else ints, None if ints else int)        # [] holds no floats
    t = np.asarray(t)
    if t.dtype.kind not in "iu" or t.ndim != 1 or shape not in (None, t.shape):
        raise ValueError(f"t has shape {t.shape} and dtype {t.dtype}; "
                         f"it must be an int or {shape or '(N,)'} integers in {span}")
    return t


def whole(value):
    """The Python int that a value is, or None: it must be one number with __index__, and no bool."""
    if "bool" in str(getattr(value, "dtype", type(value))) or getattr(value, "ndim", 0):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def coefficient(table, t, x):
    """table[t], ready to multiply x: a Python float for an int t, else an array (N, 1, ..., 1).

    t comes from check_t. The array has the dtype of x. A Python float keeps the dtype of x too, but a
    float64 scalar would turn float32 into float64.
    """
    if isinstance(t, int):
        return float(table[t])
    return table[t].astype(x.dtype).reshape(-1, *[1] * (x.ndim - 1))


def linear(T, beta_start=1e-4, beta_end=0.02):
    """beta rises in a straight line (Ho et al. 2020, section 4, with T = 1000).

    With the same two ends and a smaller T too little noise is added: alpha_bar[T] is 4e-5 at T = 1000 but
    0.13 at T = 200.
    """
    return Schedule(np.linspace(beta_start, beta_end, check_num_train_timesteps(T)))


def rescaled(beta):
    """Betas (T,) that were chosen for T = 1000, each multiplied by 1000 / T.

    Then sum(beta) is the same for every T, and so, to first order, is log alpha_bar[T]. A beta above 0.999
    (it occurs for small T only) becomes 0.999.
    Source: [Nichol and Dhariwal 2021](https://arxiv.org/abs/2102.09672), code.
    """
    return Schedule(np.minimum(beta * (1000 / len(beta)), 0.999))


def rescaled_linear(T):
    """The linear schedule, rescaled. The "scaled_linear" of diffusers is the next function."""
    return rescaled(np.linspace(1e-4, 0.02, check_num_train_timesteps(T)))


def scaled_linear(T):
    """sqrt(beta) rises in a straight line, rescaled. Even at T = 1000, alpha_bar[T] is 0.0047.

    Source: [Rombach et al. 2022](https://arxiv.org/abs/2112.10752), code.
    """
    return rescaled(np.linspace(0.00085 ** 0.5, 0.012 ** 0.5, check_num_train_timesteps(T)) ** 2)


def sigmoid(T):
    """beta rises along a sigmoid from about 1e-4 to about 0.02, rescaled: slowly, then fast, then slowly.

    The ends are 1.49e-4 and 0.01995 before the rescaling: at -6 and 6 the sigmoid is not yet 0 and 1.

    Source: [Xu et al. 2022](https://arxiv.org/abs/2203.02923), "GeoDiff", code.
    """
    x = np.linspace(-6, 6, check_num_train_timesteps(T))
    return rescaled(1e-4 + (0.02 - 1e-4) / (1 + np.exp(-x)))


def cosine(T, s=0.008):
    """alpha_bar falls like a squared cosine, and beta is at most 0.999 (Nichol and Dhariwal 2021, eq. 17).

        alpha_bar[t] = f(t) / f(0)        f(t) = cos^2((t/T + s) / (1 + s) * pi/2)

    The cosine is computed as the sine of the complement, which is accurate near its zero at T.
    """
    t = np.arange(check_num_train_timesteps(T) + 1)
    f = np.sin((T - t) / (T * (1 + s)) * np.pi / 2) ** 2               # (T+1,)
    return Schedule(np.minimum(beta_of(f / f[0]), 0.999))


def karras(T, sigma_min=0.002, sigma_max=80.0, rho=7.0):
    """The noise levels of [Karras et al. 2022](https://arxiv.org/abs/2206.00364), eq. 5.

    u_t = sigma_t / a_t, the noise in units of the data, rises from sigma_min to sigma_max in equal steps of
    u^(1/rho).   alpha_bar = 1 / (1 + u^2)
    """
    root_u = np.linspace(sigma_min ** (1 / rho), sigma_max ** (1 / rho), check_num_train_timesteps(T))
    u = root_u ** rho                                                                  # (T,)
    return Schedule(beta_of(np.concatenate([[1.0], 1 / (1 + u ** 2)])))


def straight(T):
    """The straight line of rectified flow, scaled to variance one. alpha_bar[T] = 0.

        z_t = (1 - tau) x_0 + tau eps,   tau = t/T        x_t = z_t / sqrt((1 - tau)^2 + tau^2)

    So a = (1 - tau) / sqrt((1 - tau)^2 + tau^2), and alpha_bar = a^2.
    Source: [Liu et al. 2023](https://arxiv.org/abs/2209.03003).
    """
    tau = np.arange(check_num_train_timesteps(T) + 1) / T
    return Schedule(beta_of((1 - tau) ** 2 / ((1 - tau) ** 2 + tau ** 2)))


def zero_terminal_snr(schedule):
    """The schedule with a shifted and scaled so that a[T] = 0 and a[1] stays: x_T is then all noise.

        a[t] <- (a[t] - a[T]) a[1] / (a[1] - a[T])

    Near T the difference a[t] - a[T] would lose digits. So it is the sum of its small parts, r = t+1 .. T:
        a[r-1] - a[r] = a[r-1] (1 - sqrt(alpha[r])) = a[r-1] beta[r] / (1 + sqrt(alpha[r]))
    Source: [Lin et al. 2024](https://arxiv.org/abs/2305.08891), algorithm 1.
    """
    a = schedule.a
    drops = a[:-1] * schedule.beta[1:] / (1 + schedule.alpha[1:] ** 0.5)               # (T,)   a[r-1] - a[r]
    above_end = np.concatenate([np.cumsum(drops[::-1])[::-1], [0.0]])                  # (T+1,) a[t] - a[T]
    above_end *= a[1] / above_end[1]
    return Schedule(beta_of(np.concatenate([[1.0], above_end[1:] ** 2])))


def zero_snr_linear(T):
    """rescaled_linear with no data left in x_T."""
    return zero_terminal_snr(rescaled_linear(T))


def beta_of(alpha_bar):
    """alpha_bar (T+1,), which falls from 1 -> beta (T,):   beta_t = 1 - alpha_bar[t] / alpha_bar[t-1]"""
    return 1 - alpha_bar[1:] / alpha_bar[:-1]


SCHEDULES = {function.__name__: function for function in
             (linear, rescaled_linear, scaled_linear, cosine, sigmoid, karras, straight, zero_snr_linear)}


def make_schedule(name, num_train_timesteps):
    """The schedule called `name`, a key of SCHEDULES, with T = num_train_timesteps.

    Raises ValueError for an unknown name or T < 2.
    """
    if name not in SCHEDULES:
        raise ValueError(f"schedule is {name!r}; it must be one of {', '.join(SCHEDULES)}")
    return SCHEDULES[name](num_train_timesteps)


def check_num_train_timesteps(T):
    """T as a Python int. Raises ValueError unless it is an integer of at least 2."""
    if whole(T) is None or whole(T) < 2:
        raise ValueError(f"num_train_timesteps is {T!r}; it must be an integer of at least 2")
    return whole(T)
