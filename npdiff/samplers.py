"""Samplers: generators that lead x from noise to data at t = 0. They yield (t, x) at every stop.

All walk one list of jumps, `pairs`, from time_pairs. A jump (t, s) leads from t to a smaller s; t and s are
its stops. ddim alone also goes up, to a larger s. The jumps must be a chain within 0..T, each from where the
last one ended: else ValueError.

All see the network as one function from to_x0_eps, denoise(x, t), which returns (x0, eps): the clean data and
the noise that the network finds in x. x_0 is the sample at t = 0; x0, at any t, is what the network takes for
it.

All have the same arguments, then options of their own. noise(t) gives standard normal noise in the shape of
x; heun and dpm_solver_pp ignore it. Only operators touch x, so x may be any backend's array.

In the docstrings a = sqrt(alpha_bar) and sigma = sqrt(1 - alpha_bar), so x_t = a_t x_0 + sigma_t eps.
"""

import math

from npdiff.diffusion import (
    check_jump,
    eps_from_x0,
    posterior_mean,
    posterior_variance,
    transition_beta,
    x0_from_prediction,
)
from npdiff.schedule import whole

TIMESTEP_SPACINGS = ("leading", "linspace", "trailing")


def time_pairs(T, steps=None, timestep_spacing="trailing"):
    """The jumps (t, s) of a sampler, t > s: `steps` of them, nearly equal, the last to 0.

    steps is T unless given: then every timestep is a stop. timestep_spacing says which t the jumps start at:
        trailing   T, ..., about T / steps: starts at the end of the schedule, where x is noise
        linspace   T, ..., 1: both ends
        leading    ..., 1 + k, 1 with k = T // steps: starts below T, though x there is not yet all noise

    The jumps are a chain: each ends where the next starts. Where T is a multiple of steps, these are the
    spacings that diffusers knows by these names.
    Source: [Lin et al. 2024](https://arxiv.org/abs/2305.08891), table 2.
    Raises ValueError unless 1 <= steps <= T; linspace needs 2 steps or more.
    """
    steps, given = T if steps is None else whole(steps), steps
    if steps is None or not 1 <= steps <= T:
        raise ValueError(f"steps is {given}; a sampler of this schedule takes 1..{T}")
    if timestep_spacing not in TIMESTEP_SPACINGS:
        raise ValueError(f"timestep_spacing is {timestep_spacing!r}; "
                         f"it must be one of {', '.join(TIMESTEP_SPACINGS)}")
    if timestep_spacing == "linspace" and steps == 1:
        raise ValueError("steps is 1; linspace visits both t = T and t = 1, so it takes at least 2")
    stop = {"trailing": lambda i: round(T * i / steps),
            "linspace": lambda i: 1 + round((T - 1) * (i - 1) / (steps - 1)),
            "leading": lambda i: 1 + (i - 1) * (T // steps)}[timestep_spacing]
    stops = [*(stop(i) for i in range(steps, 0, -1)), 0]
    return list(zip(stops[:-1], stops[1:], strict=True))


def to_x0_eps(predict, schedule, prediction_type="epsilon", clip=None):
    """A network's answer predict(x, t), of this prediction_type, as the function denoise(x, t) -> (x0, eps).

    clip holds x0 in [-clip, clip]. eps always follows from x0, also after clipping, so the equation
    x = a x0 + sigma eps stays true.
    """

    def denoise(x, t):
        x0 = x0_from_prediction(x, t, predict(x, t), schedule, prediction_type)
        if clip is not None:
            x0 = x0.clip(-clip, clip)
        return x0, eps_from_x0(x, t, x0, schedule)

    return denoise


def guided(predict, labels, guidance):
    """Classifier-free guidance:   eps = eps_uncond + w (eps_cond - eps_uncond)

    predict is a function of (x, t, labels); guided returns a function of (x, t). w is the argument guidance:
    w = 1 asks for the labels, w = 0 for no label, and w > 1 goes beyond the labels.

    The formula is the same for every prediction_type. At a given x_t each answer is A + B x_0, with the same
    A and B for both predictions. The weights of the two, 1 - w and w, add up to 1, so A stays A.
    Source: [Ho and Salimans 2022](https://arxiv.org/abs/2207.12598), eq. 6, with w = 1 + their w.
    """
    if guidance in (0, 1):
        return lambda x, t: predict(x, t, labels if guidance else None)

    def predict_guided(x, t):
        uncond = predict(x, t, None)
        return uncond + guidance * (predict(x, t, labels) - uncond)

    return predict_guided


def ancestral(denoise, x, schedule, noise, pairs, variance="posterior"):
    """The ancestral sampler ([Ho et al. 2020](https://arxiv.org/abs/2006.11239), algorithm 2).

    q(x_s | x_t, x_0) is the exact distribution of x_s, if x_t and x_0 are known (npdiff/diffusion.py). Each
    jump t -> s draws x_s from a normal distribution:
        x = mean + sqrt(sigma2) noise
    Its mean is the mean of q(x_s | x_t, x_0), with the network's x0 for x_0. Its variance sigma2 (section 3.2
    of the paper) is one of two:
        beta        the variance beta of the forward step from s to t. It is right if the data is standard
                    normal: then x_s and x_t are too, with correlation sqrt(1 - beta), and x_s given x_t has
                    variance beta.
        posterior   the variance of q(x_s | x_t, x_0). It is right if the data is one point: then
                    x_0 is known.
    The last jump adds no noise: its result is the mean. Raises ValueError for another variance.
    """
    check_variance(variance)
    check_jumps(pairs, schedule)
    yield pairs[0][0], x
    for t, s in pairs:
        x0, _ = denoise(x, t)
        x = posterior_mean(x, x0, t, s, schedule)
        if s > 0:
            sigma2 = (posterior_variance if variance == "posterior" else transition_beta)(t, s, schedule)
            x = x + sigma2 ** 0.5 * noise(s)
        yield s, x


def ddim(denoise, x, schedule, noise, pairs, eta=0.0):
    """DDIM ([Song, Meng and Ermon 2021](https://arxiv.org/abs/2010.02502), eq. 12 and 16).

    Training uses only how x_t is distributed given x_0, for each t alone. So x_s may be any mixture that has
    the same distribution: a_s x_0 plus noise of variance sigma_s^2. Take the noise that is already in x_t,
    eps, and replace a part of it by fresh noise:
        x_s = a_s x0 + sqrt(sigma_s^2 - d^2) eps + d * noise       d is a number: eta sqrt(posterior variance)
    The two noises are independent, so their variances add: sigma_s^2 - d^2 + d^2 = sigma_s^2.

    eta = 0 draws no noise: the same x_T gives the same x_0. eta = 1 is the ancestral sampler with the
    posterior variance: put eps = (x_t - a_t x0) / sigma_t in, and both factors are those of posterior_mean,
    because sigma_s^2 - d^2 = (1 - beta_{t|s}) sigma_s^4 / sigma_t^2.

    With eta = 0 it also goes up: pairs = [(s, t) for t, s in reversed(time_pairs(T, steps))] leads from data
    x_0 to an x_T, and the same jumps down lead from there back to x_0. The more steps, the smaller the error.
    At t = 0 no network is asked: x is x_0, and it says nothing about the noise, whose mean is 0.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta is {eta}; it must lie in [0, 1]")
    check_jumps(pairs, schedule, upward=eta == 0)
    yield pairs[0][0], x
    for t, s in pairs:
        x0, eps = denoise(x, t) if t > 0 else (x, 0.0 * x)
        d = eta * posterior_variance(t, s, schedule) ** 0.5 if eta else 0.0
        alpha_bar = float(schedule.alpha_bar[s])
        x = alpha_bar ** 0.5 * x0 + max(1 - alpha_bar - d ** 2, 0) ** 0.5 * eps
        if d > 0:
            x = x + d * noise(s)
        yield s, x


def heun(denoise, x, schedule, noise, pairs):
    """Heun's method on the probability flow ([Karras et al. 2022](https://arxiv.org/abs/2206.00364),
    algorithm 1).

    The flow is DDIM without noise, in infinitely small jumps. Divide x = a x0 + sigma eps by a + sigma. With
    tau = sigma / (a + sigma), which runs from 0 to 1, and z = x / (a + sigma):
        z = (1 - tau) x0 + tau eps
    A jump of DDIM keeps x0 and eps and changes tau, so z_s = z_t + (tau_s - tau_t) (eps - x0). In the limit
        dz/dtau = eps - x0 = f(z, tau)                             the slope
    DDIM is Euler's method for it. Heun's method takes the mean of the slopes at both ends:
        z_euler = z_t + (tau_s - tau_t) f_t                        f_t = f(z_t, tau_t)
        z_s     = z_euler + (tau_s - tau_t) (f_s - f_t) / 2        f_s = f(z_euler, tau_s)
    (The paper uses x / a and sigma / a. That is the same flow, but these numbers grow without bound as a
    goes to 0.)

    It draws no noise and asks the network twice in a jump. The jump to s = 0 stays Euler's, as no network is
    trained at 0.
    A method has order p if its error falls with steps^-p. Here p is 2 at every t > 0. At t = 0 it can be 1,
    because the last jump is Euler's, and its error is large if much noise is left before it. Measured at
    t = 0 with an exact denoiser: 2.0 on the schedule karras, 1.0 on sigmoid (npdiff/schedule.py).
    """
    check_jumps(pairs, schedule)
    yield pairs[0][0], x
    for t, s in pairs:
        (a_t, sigma_t), (a_s, sigma_s) = schedule.scales(t), schedule.scales(s)
        x0, eps = denoise(x, t)
        x = a_s * x0 + sigma_s * eps                                       # Euler step
        if s > 0:
            x0_s, eps_s = denoise(x, s)
            f_t, f_s = eps - x0, eps_s - x0_s
            # (a_s + sigma_s) (tau_s - tau_t) / 2
            half_jump = 0.5 * (sigma_s - (a_s + sigma_s) * sigma_t / (a_t + sigma_t))
            x = x + half_jump * (f_s - f_t)                                # second-order correction
        yield s, x


def dpm_solver_pp(denoise, x, schedule, noise, pairs):
    """DPM-Solver++ (2M) ([Lu et al. 2022](https://arxiv.org/abs/2211.01095), algorithm 2).

    Let lambda = log(a / sigma) take the place of t. Then x / sigma = exp(lambda) x0 + eps. A small jump of
    DDIM keeps x0 and eps, so d(x / sigma) = exp(lambda) x0 dlambda. Integrate from lambda_t to lambda_s:
        x_s / sigma_s - x_t / sigma_t = integral of exp(lambda) x0(lambda) dlambda
    With a constant x0 the integral is (exp(lambda_s) - exp(lambda_t)) x0. Multiply by sigma_s. With
    h = lambda_s - lambda_t and sigma_s exp(lambda_s) = a_s:
        x_s = sigma_s / sigma_t x_t + a_s (1 - exp(-h)) x0         DDIM's step
    But x0 changes within the jump. So it is taken at the middle of the jump, on the line through the last two
    predictions; h_previous is the h of the jump before:
        x0 + h / (2 h_previous) (x0 - x0_previous)                 second-order correction
    The first jump has no previous one. In the last jump h is infinite, and x_0 is x0 itself.

    It draws no noise and asks the network once in a jump. The order (see heun) is 2 at every t > 0. Measured
    at t = 0 with an exact denoiser: 2.1 on the schedule karras, 1.1 on sigmoid.
    """
    check_jumps(pairs, schedule)
    yield pairs[0][0], x
    x0_previous = h_previous = None
    for t, s in pairs:
        (a_t, sigma_t), (a_s, sigma_s) = schedule.scales(t), schedule.scales(s)
        x0, _ = denoise(x, t)
        h = half_log_snr(s, schedule) - half_log_snr(t, schedule)
        middle = x0
        if x0_previous is not None and s > 0:
            middle = x0 + h / (2 * h_previous) * (x0 - x0_previous)        # second-order correction
        ratio = sigma_s / sigma_t
        x = ratio * x + (a_s - ratio * a_t) * middle                       # a_s exp(-h) = ratio a_t
        x0_previous, h_previous = x0, h
        yield s, x


def naive_skip(denoise, x, schedule, noise, pairs):
    """Wrong on purpose: takes the ancestral step from t to t - 1, variance beta, and calls the result x_s.

    It is right only where s = t - 1. Elsewhere it removes the noise of one step, though the jump has t - s
    steps. So x holds more noise than the network expects at s.
    """
    check_jumps(pairs, schedule)
    yield pairs[0][0], x
    for t, s in pairs:
        x0, _ = denoise(x, t)
        x = posterior_mean(x, x0, t, t - 1, schedule)
        if s > 0:
            x = x + float(schedule.beta[t]) ** 0.5 * noise(s)
        yield s, x


def check_jumps(pairs, schedule, upward=False):
    """Raise ValueError unless pairs are jumps (t, s), T >= t > s >= 0, and each starts where the last ended.

    upward allows s > t as well.
    """
    end = None
    for t, s in pairs:
        check_jump(*((s, t) if upward and s > t else (t, s)), schedule)
        if end not in (None, t):
            raise ValueError(f"a jump ends at {end} and the next starts at {t}; they must be equal")
        end = s
    if end is None:
        raise ValueError("pairs is empty; it must hold at least one jump (t, s)")


def half_log_snr(t, schedule):
    """lambda_t = log(a_t / sigma_t), a float: inf at t = 0, -inf where alpha_bar_t = 0."""
    snr = float(schedule.snr[schedule.check_t(t, first=0)])
    return math.log(snr) / 2 if snr else -math.inf


def check_variance(variance):
    """Raise ValueError unless variance is beta or posterior."""
    if variance not in ("beta", "posterior"):
        raise ValueError(f"variance is {variance!r}; it must be beta or posterior")


SAMPLERS = {function.__name__: function for function in (ancestral, ddim, dpm_solver_pp, heun, naive_skip)}
