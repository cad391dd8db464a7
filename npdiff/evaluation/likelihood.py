"""Likelihood: how probable is given data under a diffusion model? A bound for the chain of the ancestral
sampler, and the exact value for the probability flow.

predict(x, t) and noise(t) are those of the samplers; divergence(x, t) is that of a Denoiser
(npdiff.backends.protocols). Coefficients and sums over the batch are Python floats, and only operators touch
arrays, so any backend's arrays can be used. discretised_decoder is for NumPy arrays.
"""

import math
from typing import NamedTuple

import numpy as np

from npdiff.backends.protocols import check_vectors
from npdiff.data import load_data
from npdiff.diffusion import (
    check_signal,
    eps_from_x0,
    posterior_mean,
    posterior_variance,
    prediction_target,
    prior_kl,
    q_sample,
    transition_beta,
    x0_from_prediction,
)
from npdiff.models import is_image
from npdiff.rng import generator
from npdiff.samplers import check_variance, time_pairs
from npdiff.verify.oracle import oracle_of

CDF_TAIL = -25.0        # log_normal_cdf takes a series below this; below about -38, erfc becomes 0


def variational_bound(predict, x0, schedule, noise, decoder, variance="posterior", prediction_type="epsilon"):
    """The variational bound on -log p(x_0) for the chain of the ancestral sampler, term by term.

        L_0      -log p(x_0 | x_1), by gaussian_decoder for points, discretised_decoder for images
        L_{t-1}  KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)),  t = 2..T
        L_T      KL(q(x_T | x_0) || N(0, I))

    -> NumPy float64 (T + 1,). Entry k is L_k in bits per dimension: the mean over the batch x0 (N, ...), with
    one draw of x_t for each t. The expected sum is at least -log2 p(x_0) / dimensions.

    p(x_{t-1} | x_t) is the sampler's normal distribution. Its mean is that of q(x_{t-1} | x_t, x_0) with the
    network's x_0 in the place of x_0. Its variance is beta or posterior: beta is the best for data from
    N(0, I), posterior for data that is a single point (section 3.2 of the source).
    Source: [Ho et al. 2020](https://arxiv.org/abs/2006.11239), eq. 5. Raises ValueError for an unknown
    variance or prediction_type, and for epsilon predictions where alpha_bar_T = 0.
    """
    check_variance(variance)
    check_signal(schedule, prediction_type)

    def inferred_x0(t):
        x_t = q_sample(x0, t, noise(t), schedule)
        return x0_from_prediction(x_t, t, predict(x_t, t), schedule, prediction_type)

    terms = np.empty(schedule.T + 1)
    # q(x_0 | x_1, x_0) has the mean x_0, so the mean of p(x_0 | x_1) is the network's x_0
    terms[0] = decoder(x0, inferred_x0(1), model_variance(1, schedule, variance))
    for t in range(2, schedule.T + 1):
        terms[t - 1] = posterior_kl(x0 - inferred_x0(t), t, schedule, variance)
    terms[-1] = prior_kl(x0, schedule)
    return terms / math.log(2)


def model_variance(t, schedule, variance):
    """The variance of p(x_{t-1} | x_t), a float: beta_t, or that of q(x_{t-1} | x_t, x_0).

    The latter is zero at t = 1, and a density needs a positive variance. So t = 1 takes that of t = 2
    ([Nichol and Dhariwal 2021](https://arxiv.org/abs/2102.09672), code).
    """
    if variance == "beta":
        return transition_beta(t, t - 1, schedule)
    t = max(t, 2)
    return posterior_variance(t, t - 1, schedule)


def posterior_kl(x0_error, t, schedule, variance):
    """KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)) for t >= 2, mean nats per dimension, a float.

    x0_error (N, ...) is x_0 minus the network's x_0. For normal distributions with means m_q, m_p and
    variances s_q, s_p
        KL = (log(s_p / s_q) + s_q / s_p - 1 + (m_q - m_p)^2 / s_p) / 2
    Both means are posterior_mean of the same x_t. It is linear, so m_q - m_p = posterior_mean(0, x0_error).
    """
    s_q, s_p = posterior_variance(t, t - 1, schedule), model_variance(t, schedule, variance)
    difference = posterior_mean(0.0, x0_error, t, t - 1, schedule)
    return (math.log(s_p / s_q) + s_q / s_p - 1 + float((difference * difference).mean()) / s_p) / 2


def gaussian_decoder(x0, mean, variance):
    """-log N(x0; mean, variance I), mean nats per dimension, a float. For continuous data, such as points."""
    error = x0 - mean
    return (math.log(2 * math.pi * variance) + float((error * error).mean()) / variance) / 2


def discretised_decoder(x0, mean, variance):
    """-log of the probability that a draw of N(mean, variance I) lies in x0's bins, mean nats per dimension,
    a float (Ho et al. 2020, section 3.3, eq. 13).

    x0 holds 8-bit levels scaled to [-1, 1]: byte b is (2 b - 255) / 255. A bin ends half way to the next
    level. The bins of bytes 0 and 255 have no outer end, so the 256 probabilities sum to 1. x0 and mean are
    NumPy arrays of one shape; computed in float64. Raises ValueError if x0 holds anything else.
    """
    levels = (np.asarray(x0, np.float64) + 1) * 127.5
    byte = levels.round()
    wrong = ~((abs(levels - byte) < 1e-3) & (byte >= 0) & (byte <= 255))
    if wrong.any():
        raise ValueError(f"x0 holds {np.asarray(x0)[wrong][0]}; "
                         "the discretised decoder takes 8-bit levels (2 b - 255) / 255, b = 0..255")
    lower = np.where(byte == 0, -np.inf, (byte - 0.5) / 127.5 - 1)
    upper = np.where(byte == 255, np.inf, (byte + 0.5) / 127.5 - 1)
    sigma = variance ** 0.5
    return -float(log_normal_mass((lower - mean) / sigma, (upper - mean) / sigma).mean())


def log_normal_mass(a, b):
    """log of the probability that a standard normal number lies in [a, b], element by element.

    a and b are float64 arrays, a < b; -inf and inf are allowed. P is log_normal_cdf without the log:
        log(P(b) - P(a)) = log P(b) + log(1 - exp(log P(a) - log P(b)))
    An interval right of 0 is first mirrored to the left of 0. There P is small, and keeps all its digits.
    """
    mirror = a + b > 0
    a, b = np.where(mirror, -b, a), np.where(mirror, -a, b)
    log_b = log_normal_cdf(b)
    return log_b + np.log(-np.expm1(log_normal_cdf(a) - log_b))


def log_normal_cdf(z):
    """log P(z), element by element. P(z) is the probability that a standard normal number lies below z.

        P(z) = erfc(-z / sqrt 2) / 2
    Far below zero erfc is 0 in floating point. There, by repeated integration by parts,
        P(z) = exp(-z^2/2) / (-z sqrt(2 pi)) (1 - 1/z^2 + 3/z^4 - 15/z^6 + ...)
    z is a float64 array, and any value is allowed.
    """
    near = np.log(np.vectorize(math.erfc, otypes=[float])(-z.clip(CDF_TAIL) / math.sqrt(2)) / 2)
    far = z.clip(max=CDF_TAIL)
    series = np.log1p(-1 / far ** 2 + 3 / far ** 4 - 15 / far ** 6)
    return np.where(z > CDF_TAIL, near, -far ** 2 / 2 - np.log(-far * math.sqrt(2 * math.pi)) + series)


def log_likelihood(divergence, x0, schedule, prediction_type="epsilon", steps=None):
    """log p(x_0) under the model of the probability flow: x0 (N, D) -> nats (N,). Its only error is that of
    finite steps.

    The model draws x_T from N(0, I) and lets it flow to x_0. The flow is invertible: one x_T leads to x_0,
    and to_noise finds it. By the change of variables
        log p(x_0) = log N(x_T; 0, I) + log |det ∂x_T/∂x_0|
    The chain of variational_bound is another model. Both agree where the denoiser is perfect.
    Arguments and errors are those of to_noise.
    Source: [Song et al. 2021](https://arxiv.org/abs/2011.13456), section 4.3.
    """
    x_T, log_det = to_noise(divergence, x0, schedule, prediction_type, steps)
    return log_det - (x_T * x_T).sum(1) / 2 - x0.shape[1] / 2 * math.log(2 * math.pi)


def to_noise(divergence, x0, schedule, prediction_type="epsilon", steps=None):
    """Let data flow to noise: x0 (N, D) -> x_T (N, D), log |det ∂x_T/∂x_0| (N,).

    The angle. Write a = cos phi and sigma = sin phi
    ([Salimans and Ho 2022](https://arxiv.org/abs/2202.00512), appendix D).
    From phi = 0 on, each pair (x_0, eps) moves along
        x = cos(phi) x_0 + sin(phi) eps        with the velocity   ∂x/∂phi = cos(phi) eps - sin(phi) x_0
    The mean velocity of all pairs that are at x is what a v_prediction network answers:
        v(x, phi) = E[∂x/∂phi | x] = cos(phi) E[eps | x] - sin(phi) E[x_0 | x]

    The flow. Let p(x, phi) be the density of x, and f any smooth function that is zero far away. Then
        ∂/∂phi E[f(x)] = E[∇f(x) · ∂x/∂phi] = E[∇f(x) · v(x, phi)]        as v is the mean of ∂x/∂phi given x
    With E as an integral over p, and the right side integrated by parts,
        ∫ f ∂p/∂phi dx = ∫ p ∇f · v dx = -∫ f div(p v) dx
    This is true for every f, so  ∂p/∂phi = -div(p v).  Now let points move with v itself: ∂x/∂phi = v. The
    same lines give the same equation for their density. Both start from the data's density at phi = 0, so the
    points that move with v have the density p(x, phi) at every angle.

    The determinant. In a small step dphi, x moves to x + v dphi. The Jacobian of this map is I + ∂v/∂x dphi,
    and the logarithm of its determinant is tr(∂v/∂x) dphi. The logarithms of all steps add:
        log |det ∂x_T/∂x_0| = ∫ tr(∂v/∂x) dphi from 0 to phi_T
    ([Chen et al. 2018](https://arxiv.org/abs/1806.07366), theorem 1).
    At phi = 0, x is x_0. It says nothing about eps, so E[eps | x] = 0 and v = 0. No network is asked there.

    divergence(x, t) -> the network's answer (N, D) and the trace of its Jacobian (N,), asked twice a jump.
    steps is the number of jumps from 0 to T, even and at most T; by default T, or T - 1 for an odd T. Raises
    ValueError for other steps, x0 that is not (N, D), and epsilon predictions where alpha_bar_T = 0.
    """
    check_vectors(x0)
    check_signal(schedule, prediction_type)
    steps = schedule.T - schedule.T % 2 if steps is None else steps
    if steps % 2:
        raise ValueError(f"steps is {steps}; the flow takes its jumps in pairs, so it must be even")
    stops = [s for _, s in reversed(time_pairs(schedule.T, steps))] + [schedule.T]          # 0, ..., T
    phi = np.arctan2(schedule.sigma, schedule.a).tolist()
    flow = velocity_of(divergence, schedule, prediction_type)
    x, log_det = x0, 0.0
    for triple in zip(stops[0::2], stops[1::2], stops[2::2]):
        dx, dlog_det = pair_of_jumps(flow, x, triple, [phi[t] for t in triple])
        x, log_det = x + dx, log_det + dlog_det
    return x, log_det


def velocity_of(divergence, schedule, prediction_type):
    """The flow of to_noise as a function (x, t) -> v (N, D), tr(∂v/∂x) (N,). At t = 0 both are zero."""

    def flow(x, t):
        if t == 0:
            return 0.0 * x, 0.0
        of_x, of_prediction = velocity_coefficients(t, schedule, prediction_type)
        prediction, trace = divergence(x, t)
        return of_x * x + of_prediction * prediction, of_x * x.shape[1] + of_prediction * trace

    return flow


def pair_of_jumps(flow, x, stops, phi):
    """What x (N, D) and the log-determinant gain over three stops: one Runge-Kutta step of order 4.

    stops and phi hold three timesteps and their angles. Let phi(r) be the parabola through the three angles
    at r = 0, 1, 2. In the variable r the flow is  ∂x/∂r = phi'(r) v.  The method needs it at r = 0, 1, 1
    and 2, which are timesteps of the network. (Heun's method on single jumps also asks the network twice a
    jump, and has order 2.)
    """
    t0, t1, t2 = stops
    p0, p1, p2 = phi
    speed0 = (4 * p1 - 3 * p0 - p2) / 2             # phi'(0)
    speed1 = (p2 - p0) / 2                          # phi'(1)
    speed2 = (p0 - 4 * p1 + 3 * p2) / 2             # phi'(2)
    v1, trace1 = flow(x, t0)
    v2, trace2 = flow(x + speed0 * v1, t1)
    v3, trace3 = flow(x + speed1 * v2, t1)
    v4, trace4 = flow(x + 2 * speed1 * v3, t2)
    dx = (speed0 * v1 + 2 * speed1 * (v2 + v3) + speed2 * v4) / 3
    dlog_det = (speed0 * trace1 + 2 * speed1 * (trace2 + trace3) + speed2 * trace4) / 3
    return dx, dlog_det


def velocity_coefficients(t, schedule, prediction_type):
    """Floats (of_x, of_prediction) with   v = of_x x + of_prediction prediction,   for an int t.

    The closed forms lead from a prediction to x_0 and eps, and from these to v. They are linear in x and the
    prediction, so their values at (1, 0) and (0, 1) are the two factors. The trace of the Jacobian follows:
        tr(∂v/∂x) = of_x D + of_prediction tr(∂prediction/∂x)
    """

    def velocity(x, prediction):
        x0 = x0_from_prediction(x, t, prediction, schedule, prediction_type)
        eps = eps_from_x0(x, t, x0, schedule)
        return prediction_target(x0, t, eps, schedule, "v_prediction")

    return velocity(1.0, 0.0), velocity(0.0, 1.0)


class DataLikelihood(NamedTuple):
    """How probable fresh data is under a trained denoiser."""
    log_p: float | None     # mean log p along the denoiser's flow, in nats; None for images
    exact: float | None     # mean log p of the data's own distribution, in nats; None where not known
    terms: np.ndarray       # (T + 1,) the variational bound, term by term, in bits per dimension


def data_likelihood(denoiser, backend, recipe, seed, data_dir=None):
    """How probable fresh data is under a trained denoiser: a DataLikelihood of 500 points or 16 8-bit images.

    The bound's variance is beta. It suits data whose standard deviation is much larger than the noise of the
    first step.
    """
    image = is_image(recipe.model)
    x0, labels = load_data(recipe.data, data_dir).draw(16 if image else 500, generator(seed, "data"))
    labels = labels if recipe.conditional else None
    schedule = recipe.make_schedule()

    def predict(x, t):
        return denoiser.predict(x, t, labels)

    def noise(t):
        return backend.asarray(generator(seed, "sample", t).standard_normal(x0.shape))

    def image_decoder(x0, mean, variance):
        return discretised_decoder(backend.to_numpy(x0), backend.to_numpy(mean), variance)

    x = backend.asarray(x0)
    decoder = image_decoder if image else gaussian_decoder
    terms = variational_bound(predict, x, schedule, noise, decoder, "beta", recipe.prediction_type)
    if image:
        return DataLikelihood(None, None, terms)
    log_p = backend.to_numpy(log_likelihood(denoiser.divergence, x, schedule, recipe.prediction_type))
    oracle = oracle_of(recipe.data)
    exact = None if oracle is None else float(oracle.log_density(x0, 1.0).mean())
    return DataLikelihood(float(log_p.mean()), exact, terms)
