"""Samplers: generators that lead x from noise to data at t = 0, yielding (t, x) at every stop.

All walk the same list of jumps, `pairs`, from time_pairs, and see the network through the same function, denoise(x, t) -> (x0, eps), from split: the clean
data and the noise that x is taken to be made of. noise(t) is standard normal noise in the shape of x, given by the caller.
Only operators touch x, so any backend's arrays pass through. In the docstrings a = sqrt(alpha_bar) and sigma = sqrt(1 - alpha_bar).
"""

import math
from dataclasses import dataclass

import numpy as np

from npdiff.diffusion import eps_from_x0, posterior_mean, posterior_variance, q_sample, transition_beta, x0_from_prediction
from npdiff.rng import generator

TIMESTEP_SPACINGS = ("leading", "linspace", "trailing")


def time_pairs(T, steps=None, timestep_spacing="trailing"):
    """The jumps (t, s) of a sampler, t > s, in `steps` near-equal strides that end at 0 (default: every timestep).

        trailing   T, T - stride, ...: begins at the end of the schedule, where the noise is
        linspace   T, ..., 1: both ends
        leading    ..., 1 + stride, 1: the first stop lies below T, though x there is still taken for noise

    The list is the only one: the end of one jump is the start of the next. Where T is a multiple of steps these are the spacings that diffusers
    knows by these names (Lin et al. 2024, table 2). Raises ValueError unless 1 <= steps <= T, and for linspace 2 <= steps.
    """
    steps = T if steps is None else steps
    if not 1 <= steps <= T:
        raise ValueError(f"steps is {steps}; a sampler of this schedule takes 1..{T}")
    if timestep_spacing not in TIMESTEP_SPACINGS:
        raise ValueError(f"timestep_spacing is {timestep_spacing!r}; it must be one of {', '.join(TIMESTEP_SPACINGS)}")
    if timestep_spacing == "linspace" and steps == 1:
        raise ValueError("steps is 1; linspace visits both t = T and t = 1, so it takes at least 2")
    times = {"trailing": lambda i: round(T * i / steps), "linspace": lambda i: 1 + round((T - 1) * (i - 1) / (steps - 1)),
             "leading": lambda i: 1 + (i - 1) * (T // steps)}[timestep_spacing]
    stops = [*(times(i) for i in range(steps, 0, -1)), 0]
    return list(zip(stops[:-1], stops[1:]))


def split(predict, schedule, prediction_type="epsilon", clip=None):
    """predict(x, t), a network's answer of this prediction_type, as denoise(x, t) -> (x0, eps).

    clip holds x0 in [-clip, clip]. eps is always derived from x0, after clipping too, so that x = a x0 + sigma eps stays true.
    """

    def denoise(x, t):
        x0 = x0_from_prediction(x, t, predict(x, t), schedule, prediction_type)
        if clip is not None:
            x0 = x0.clip(-clip, clip)
        return x0, eps_from_x0(x, t, x0, schedule)

    return denoise


def guided(predict, labels, guidance):
    """Classifier-free guidance (Ho and Salimans 2022, eq. 6, with w = 1 + their w):   eps = eps_uncond + w (eps_cond - eps_uncond)

    predict(x, t, labels) -> a function of (x, t). w = 1 asks for the labels alone, w = 0 for none, w > 1 goes beyond; the formula is the same for
    every prediction_type, as all are affine in eps.
    """
    if guidance in (0, 1):
        return lambda x, t: predict(x, t, labels if guidance else None)

    def predict_guided(x, t):
        uncond = predict(x, t, None)
        return uncond + guidance * (predict(x, t, labels) - uncond)

    return predict_guided


def ancestral(denoise, x, schedule, noise, pairs, variance="posterior"):
    """The ancestral sampler (Ho et al. 2020, algorithm 2).

    Each jump t -> s draws x_s from a normal distribution with the mean of q(x_s | x_t, x_0) and one of the two variances of section 3.2: `beta`, the
    forward step's (right for data that is itself standard normal), or `posterior`, that of q(x_s | x_t, x_0) (right for data that is one point).
    The last jump adds no noise: x_0 is its mean.
    """
    check_variance(variance)
    yield pairs[0][0], x
    for t, s in pairs:
        x0, _ = denoise(x, t)
        x = posterior_mean(x, x0, t, s, schedule)
        if s > 0:
            sigma2 = posterior_variance(t, s, schedule) if variance == "posterior" else transition_beta(t, s, schedule)
            x = x + sigma2 ** 0.5 * noise(s)
        yield s, x


def ddim(denoise, x, schedule, noise, pairs, eta=0.0):
    """DDIM (Song, Meng and Ermon 2021, eq. 12 and 16): renoise x0 to level s with the noise that was found, of which a part is fresh.

        x_s = a_s x0 + sqrt(1 - alpha_bar_s - d^2) eps + d noise,   d = eta sqrt(posterior variance)

    eta = 0 draws no noise: the same x_T gives the same x_0. eta = 1 is the ancestral sampler with the posterior variance.
    """
    yield pairs[0][0], x
    for t, s in pairs:
        x0, eps = denoise(x, t)
        d = eta * posterior_variance(t, s, schedule) ** 0.5
        alpha_bar = float(schedule.alpha_bar[s])
        x = alpha_bar ** 0.5 * x0 + max(1 - alpha_bar - d ** 2, 0) ** 0.5 * eps
        if d > 0:
            x = x + d * noise(s)
        yield s, x


def heun(denoise, x, schedule, noise, pairs):
    """Heun's method on the probability-flow ODE (Karras et al. 2022, algorithm 1); no noise, two predictions a jump, an error that falls with steps^-2.

    In z = x / (a + sigma) and tau = sigma / (a + sigma), which runs from 0 to 1, the ODE is dz/dtau = eps - x0 = f (the straight line of rectified flow),
    and DDIM is Euler's method: z_s = z_t + (tau_s - tau_t) f_t. Heun's follows the mean of the slopes at both ends instead, which moves z_s by
    (tau_s - tau_t) (f_s - f_t) / 2. (The paper's x / a and sigma / a are the same ODE, but grow without bound where the signal ends.)
    At s = 0, where no network is trained, the jump stays Euler's.
    """
    yield pairs[0][0], x
    for t, s in pairs:
        a_t, a_s, sigma_t, sigma_s = coefficients(t, s, schedule)
        x0, eps = denoise(x, t)
        x = a_s * x0 + sigma_s * eps
        if s > 0:
            x0_s, eps_s = denoise(x, s)
            x = x + 0.5 * (sigma_s - (a_s + sigma_s) * sigma_t / (a_t + sigma_t)) * ((eps_s - x0_s) - (eps - x0))
        yield s, x


def dpm_solver_pp(denoise, x, schedule, noise, pairs):
    """DPM-Solver++ (2M) (Lu et al. 2022, "DPM-Solver++", algorithm 2); no noise, one prediction a jump, an error that falls with steps^-2.

    In lambda = log(a / sigma) the ODE has the solution   x_s = sigma_s / sigma_t x_t + sigma_s int exp(lambda) x0(lambda) dlambda   from lambda_t to lambda_s.
    With x0 constant and h = lambda_s - lambda_t the integral is a_s (1 - exp(-h)) x0, and the step is DDIM's. Here x0 is instead taken from the line through
    the last two predictions, at the middle of the jump: x0 + h / (2 h_previous) (x0 - x0_previous). The first jump has no previous one, and the last,
    where h is infinite, gives x0 itself.
    """
    yield pairs[0][0], x
    x0_previous = h_previous = None
    for t, s in pairs:
        a_t, a_s, sigma_t, sigma_s = coefficients(t, s, schedule)
        x0, _ = denoise(x, t)
        h = half_log_snr(s, schedule) - half_log_snr(t, schedule)
        middle = x0 if x0_previous is None or s == 0 else x0 + h / (2 * h_previous) * (x0 - x0_previous)
        x = sigma_s / sigma_t * x + (a_s - sigma_s / sigma_t * a_t) * middle            # a_s exp(-h) = sigma_s / sigma_t a_t
        x0_previous, h_previous = x0, h
        yield s, x


def naive_skip(denoise, x, schedule, noise, pairs):
    """Wrong on purpose: takes the ancestral step from t to t - 1, variance beta, and calls the result x_s. Right only where s = t - 1.

    Skipped steps are simply left out: too little noise is taken away, and what remains is more than the network expects at s.
    """
    yield pairs[0][0], x
    for t, s in pairs:
        x0, _ = denoise(x, t)
        x = posterior_mean(x, x0, t, t - 1, schedule)
        if s > 0:
            x = x + float(schedule.beta[t]) ** 0.5 * noise(s)
        yield s, x


def coefficients(t, s, schedule):
    """a_t, a_s, sigma_t, sigma_s, Python floats."""
    return *(float(schedule.sqrt_alpha_bar[i]) for i in (t, s)), *(float(schedule.sqrt_one_minus_alpha_bar[i]) for i in (t, s))


def half_log_snr(t, schedule):
    """lambda_t = log(a_t / sigma_t): inf at t = 0, -inf where alpha_bar_t = 0."""
    snr = float(schedule.snr[t])
    return math.log(snr) / 2 if snr else -math.inf


def check_variance(variance):
    """Raise ValueError unless variance is beta or posterior."""
    if variance not in ("beta", "posterior"):
        raise ValueError(f"variance is {variance!r}; it must be beta or posterior")


SAMPLERS = {function.__name__: function for function in (ancestral, ddim, dpm_solver_pp, heun, naive_skip)}


@dataclass(frozen=True)
class Sampling:
    """How samples are drawn. Raises ValueError for what no sampler takes."""
    sampler: str = "ancestral"
    """ancestral, ddim, dpm_solver_pp, heun, or naive_skip, which is wrong on purpose."""
    steps: int | None = None
    """Jumps from noise to data, 1..T; every timestep unless given."""
    timestep_spacing: str = "trailing"
    """leading, linspace or trailing: which timesteps are visited when not all are."""
    variance: str | None = None
    """Variance of the ancestral sampler, beta or posterior; the recipe's unless given."""
    eta: float = 0.0
    """The fresh share of DDIM's noise: 0 none, 1 as much as the ancestral sampler."""
    clip: float | None = None
    """Hold every estimate of x_0 in [-clip, clip] and derive eps again; no clipping unless given."""
    guidance: float = 1.0
    """w of classifier-free guidance: 0 ignores the labels, 1 asks for them, more exaggerates them."""
    start: str = "noise"
    """noise: begin at N(0, I). data: at the true q(x_t) of the first timestep, fresh data with noise added."""

    def __post_init__(self):
        if self.sampler not in SAMPLERS:
            raise ValueError(f"sampler is {self.sampler!r}; it must be one of {', '.join(SAMPLERS)}")
        if self.variance is not None:
            check_variance(self.variance)
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta is {self.eta}; it must lie in [0, 1]")
        if self.clip is not None and not 0 < self.clip < math.inf:
            raise ValueError(f"clip is {self.clip}; it must be a positive number")
        if not math.isfinite(self.guidance):
            raise ValueError(f"guidance is {self.guidance}; it must be a finite number")
        if self.start not in ("noise", "data"):
            raise ValueError(f"start is {self.start!r}; it must be noise or data")

    def options(self, recipe):
        """The keyword arguments that only this sampler takes."""
        return {"ancestral": {"variance": self.variance or recipe.variance}, "ddim": {"eta": self.eta}}.get(self.sampler, {})


def sample(denoiser, backend, recipe, n, seed, draw=0, labels=None, sampling=Sampling(), x0=None):
    """Draw n samples with a recipe's schedule: the chosen sampler's generator, yielding (t, x) with x (n, ...).

    All noise is drawn on the host at addresses (seed, draw, t), so backends agree and `draw` 0, 1, ... are independent sets. labels (n,) are what a
    conditional network is asked for; x0 (n, ...) is the data to begin from where start is "data". Raises ValueError for values out of range.
    """
    if n < 1:
        raise ValueError(f"n is {n}; it must be at least 1")
    if sampling.guidance != 1 and not recipe.conditional:
        raise ValueError(f"guidance is {sampling.guidance}; {recipe.name} takes no labels, so it must be 1")
    if sampling.start == "data" and np.shape(x0) != (n, *recipe.model.data_shape):
        raise ValueError(f"start is data, and x0 has shape {np.shape(x0)}; it must be ({n}, {', '.join(map(str, recipe.model.data_shape))})")
    schedule = recipe.make_schedule()
    pairs = time_pairs(schedule.T, sampling.steps, sampling.timestep_spacing)
    first, _ = pairs[0]

    def host_noise(t):
        return generator(seed, "sample", draw * (schedule.T + 1) + t).standard_normal((n, *recipe.model.data_shape))

    x = host_noise(first)
    if sampling.start == "data":
        x = q_sample(x0, first, x, schedule)
    denoise = split(guided(denoiser.predict, labels, sampling.guidance), schedule, recipe.prediction_type, sampling.clip)
    return SAMPLERS[sampling.sampler](denoise, backend.asarray(x), schedule, lambda t: backend.asarray(host_noise(t)), pairs, **sampling.options(recipe))
