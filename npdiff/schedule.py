"""Noise schedules: how much of the signal is left at each timestep t = 0..T.

Time runs t = 1..T; t = 0 is clean data (Ho et al. 2020). Every table has T + 1 entries, so that `alpha_bar[t]` needs no offset and
alpha_bar[0] = 1. (diffusers counts from 0: its `timestep` is our t - 1.)
"""

import numpy as np


class Schedule:
    """The tables of one forward process, float64, each of shape (T + 1,) and indexed by t.

    beta                variance of the noise that step t adds            beta[0] = 0
    alpha               1 - beta
    alpha_bar           prod_{s<=t} alpha[s], the signal's share of power alpha_bar[0] = 1
    sqrt_alpha_bar, sqrt_one_minus_alpha_bar    what multiplies x_0 and the noise in x_t
    snr                 alpha_bar / (1 - alpha_bar)                       snr[0] = inf
    posterior_variance  beta_t (1 - alpha_bar[t-1]) / (1 - alpha_bar[t])  zero at t = 0 and t = 1

    Source: Ho et al. 2020, "Denoising diffusion probabilistic models", section 2 and eq. 7; snr: Kingma et al. 2021, eq. 2.
    """

    def __init__(self, beta):
        """beta (T,): beta_1 .. beta_T. Raises ValueError unless T >= 2 and every beta lies in (0, 1); the last may be 1, which leaves no signal in x_T."""
        beta = np.asarray(beta, np.float64)
        if beta.ndim != 1 or len(beta) < 2:
            raise ValueError(f"beta has shape {beta.shape}; it must be (T,) with T >= 2")
        inside = (beta > 0) & (beta < 1) | (beta == 1) & (np.arange(len(beta)) == len(beta) - 1)
        if not inside.all():
            t = int(np.argmin(inside)) + 1
            raise ValueError(f"beta at t = {t} is {beta[t - 1]:g}; every beta must lie in (0, 1), only the last may be 1")
        self.T = len(beta)
        self.beta = np.concatenate([[0.0], beta])
        self.alpha = 1 - self.beta
        self.alpha_bar = np.cumprod(self.alpha)
        self.sqrt_alpha_bar = self.alpha_bar ** 0.5
        self.sqrt_one_minus_alpha_bar = (1 - self.alpha_bar) ** 0.5
        self.snr = np.concatenate([[np.inf], self.alpha_bar[1:] / (1 - self.alpha_bar[1:])])
        self.posterior_variance = np.zeros(self.T + 1)
        self.posterior_variance[1:] = beta * (1 - self.alpha_bar[:-1]) / (1 - self.alpha_bar[1:])

    def check_t(self, t):
        """Refuse timesteps outside 1..T (int or integer array) with a ValueError."""
        t = np.asarray(t)
        if t.dtype.kind not in "iu":
            raise ValueError(f"t has dtype {t.dtype}; timesteps are integers in 1..{self.T}")
        if t.size and (t.min() < 1 or t.max() > self.T):
            bad = t[(t < 1) | (t > self.T)].flat[0]
            raise ValueError(f"t is {bad}; it must lie in 1..{self.T}")


def linear(T, beta_start=1e-4, beta_end=0.02):
    """beta rises in a straight line (Ho et al. 2020, section 4, there with T = 1000).

    With the same two ends and a smaller T the noise does not finish its work: alpha_bar[T] is 4e-5 at T = 1000 but 0.13 at T = 200.
    """
    return Schedule(np.linspace(beta_start, beta_end, check_num_train_timesteps(T)))


def rescaled(beta):
    """The schedule of betas (T,) chosen for T = 1000, each multiplied by 1000/T, so that alpha_bar[T] stays near its T = 1000 value.

    sum(beta), and with it log alpha_bar[T] to first order, is the same for every T. beta is clipped at 0.999 (reached only for small T).
    Source: Nichol and Dhariwal 2021, code.
    """
    return Schedule(np.minimum(beta * (1000 / len(beta)), 0.999))


def rescaled_linear(T):
    """The linear schedule, rescaled. Not what diffusers calls "scaled_linear", which is the next."""
    return rescaled(np.linspace(1e-4, 0.02, check_num_train_timesteps(T)))


def scaled_linear(T):
    """sqrt(beta) rises in a straight line (Rombach et al. 2022, code), rescaled. Even at T = 1000 it leaves alpha_bar[T] = 0.0047."""
    return rescaled(np.linspace(0.00085 ** 0.5, 0.012 ** 0.5, check_num_train_timesteps(T)) ** 2)


def sigmoid(T):
    """beta rises along a sigmoid from 1e-4 to 0.02 (Xu et al. 2022, "GeoDiff", code), rescaled: slow, fast, slow."""
    x = np.linspace(-6, 6, check_num_train_timesteps(T))
    return rescaled(1e-4 + (0.02 - 1e-4) / (1 + np.exp(-x)))


def cosine(T, s=0.008):
    """alpha_bar falls like a squared cosine (Nichol and Dhariwal 2021, "Improved DDPM", eq. 17), with beta clipped at 0.999.

    alpha_bar[t] = f(t) / f(0),  f(t) = cos^2((t/T + s) / (1 + s) * pi/2),  here as the sine of the complement, which is accurate near its zero at T.
    """
    t = np.arange(check_num_train_timesteps(T) + 1)
    f = np.sin((T - t) / (T * (1 + s)) * np.pi / 2) ** 2   # (T+1,)
    return Schedule(np.minimum(beta_of(f / f[0]), 0.999))


def karras(T, sigma_min=0.002, sigma_max=80.0, rho=7.0):
    """The noise levels of Karras et al. 2022, eq. 5: u_t = sqrt((1 - alpha_bar) / alpha_bar), the noise in units of the signal, rises from sigma_min to
    sigma_max in equal steps of u^(1/rho).   alpha_bar = 1 / (1 + u^2)"""
    u = np.linspace(sigma_min ** (1 / rho), sigma_max ** (1 / rho), check_num_train_timesteps(T)) ** rho       # (T,)
    return Schedule(beta_of(np.concatenate([[1.0], 1 / (1 + u ** 2)])))


def straight(T):
    """The straight line of rectified flow (Liu et al. 2023), z = (1 - tau) x_0 + tau eps with tau = t/T, scaled to variance one:   x_t = z / sqrt((1 - tau)^2 + tau^2)

    Its signal-to-noise ratio is ((1 - tau) / tau)^2, that is alpha_bar = (1 - tau)^2 / ((1 - tau)^2 + tau^2). alpha_bar[T] = 0.
    """
    tau = np.arange(check_num_train_timesteps(T) + 1) / T
    return Schedule(beta_of((1 - tau) ** 2 / ((1 - tau) ** 2 + tau ** 2)))


def zero_terminal_snr(schedule):
    """The schedule shifted and stretched so that x_T is pure noise (Lin et al. 2024, "Common diffusion noise schedules and sample steps are flawed", algorithm 1).

    With s = sqrt(alpha_bar):   s[t] <- (s[t] - s[T]) s[1] / (s[1] - s[T]),   which keeps s[1] and makes s[T] zero.
    s[t] - s[T] is summed from its small positive parts s[r-1] - s[r] = s[r-1] beta[r] / (1 + sqrt(alpha[r])), r > t: the difference itself would lose digits near T.
    """
    s = schedule.sqrt_alpha_bar
    drops = s[:-1] * schedule.beta[1:] / (1 + schedule.alpha[1:] ** 0.5)                        # (T,)
    above_end = np.concatenate([np.cumsum(drops[::-1])[::-1], [0.0]])                           # (T+1,), s[t] - s[T]
    above_end *= s[1] / above_end[1]
    return Schedule(beta_of(np.concatenate([[1.0], above_end[1:] ** 2])))


def zero_snr_linear(T):
    """rescaled_linear without the last of its signal."""
    return zero_terminal_snr(rescaled_linear(T))


def beta_of(alpha_bar):
    """alpha_bar (T+1,), from 1 down -> beta (T,):   beta_t = 1 - alpha_bar[t] / alpha_bar[t-1]"""
    return 1 - alpha_bar[1:] / alpha_bar[:-1]


SCHEDULES = {function.__name__: function for function in
             (linear, rescaled_linear, scaled_linear, cosine, sigmoid, karras, straight, zero_snr_linear)}


def make_schedule(name, num_train_timesteps):
    """The schedule called `name` (a key of SCHEDULES) with T = num_train_timesteps. Raises ValueError for an unknown name or T < 2."""
    if name not in SCHEDULES:
        raise ValueError(f"schedule is {name!r}; it must be one of {', '.join(SCHEDULES)}")
    return SCHEDULES[name](num_train_timesteps)


def check_num_train_timesteps(T):
    """Return T, or raise ValueError unless it is an integer of at least 2."""
    if not isinstance(T, (int, np.integer)) or isinstance(T, bool) or T < 2:
        raise ValueError(f"num_train_timesteps is {T!r}; it must be an integer of at least 2")
    return T
