"""Each sampler with an exact denoiser of known data in the place of a network: the samples are distributed as
the data, and the error falls with the order that the docstring states.
"""

import re
from functools import cache

import numpy as np
import pytest

from npdiff.diffusion import PREDICTION_TYPES
from npdiff.samplers import SAMPLERS, ancestral, ddim, heun, naive_skip, time_pairs, to_x0_eps
from npdiff.schedule import Schedule, beta_of, make_schedule, rescaled_linear
from npdiff.verify.oracle import GaussianMixture

MEANS = [[-1, 0.5], [1, 0]]
MIXTURE = GaussianMixture([0.3, 0.7], MEANS, [[[0.3, 0.1], [0.1, 0.2]], [[0.2, -0.05], [-0.05, 0.4]]])
DETERMINISTIC = ["ddim", "dpm_solver_pp", "heun"]


def denoise_by(oracle, schedule):
    """The exact E[x_0 | x] as a network of prediction_type sample, which every schedule permits."""
    return to_x0_eps(oracle.predict(schedule, "sample"), schedule, "sample")


def last(chain):
    *_, (t, x) = chain
    assert t == 0
    return x


def twins(means, v):
    """A mixture of two normal distributions with the same covariance v I."""
    return GaussianMixture([0.3, 0.7], means, [v * np.eye(2)] * 2)


def denoise_twins(twins, schedule):
    """denoise_by for such a mixture: faster, and in the dtype of x.

    As both covariances are equal, the log of the ratio of the two posterior weights is linear in x. So
    E[x_0 | x] needs one tanh for each point.
    """
    (first, second), v = twins.means.astype(np.float32), float(twins.variances[0, 0])
    log_prior_odds = np.log(twins.weights[1] / twins.weights[0])

    def predict(x, t):
        a, sigma2 = float(schedule.a[t]), float(1 - schedule.alpha_bar[t])
        total = a * a * v + sigma2                                          # variance of x in each component
        constant = log_prior_odds - a * a * (second @ second - first @ first) / (2 * total)
        log_odds = x @ (a / total * (second - first)) + float(constant)
        share = 0.5 + 0.5 * np.tanh(0.5 * log_odds)                         # (N,) weight of the second
        mean = first + share[:, None] * (second - first)                    # (N, 2)
        return (a * v / total) * x + (sigma2 / total) * mean                # (N, 2)

    return to_x0_eps(predict, schedule, "sample")


TWO_BUMPS, ONE_BUMP = twins(MEANS, 0.02), twins([[0.7, -0.2]] * 2, 0.5)


@pytest.mark.parametrize("data", [TWO_BUMPS, ONE_BUMP])
def test_the_fast_denoiser_is_the_exact_one(data):
    schedule, x = rescaled_linear(1000), 2 * np.random.default_rng(0).standard_normal((500, 2))
    for t in (1, 30, 400, 1000):
        fast, _ = denoise_twins(data, schedule)(x, t)
        exact, _ = denoise_by(data, schedule)(x, t)
        np.testing.assert_allclose(fast, exact, rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("data", [TWO_BUMPS, ONE_BUMP])
@pytest.mark.parametrize(
    "sampler, options, steps",
    [
        (ancestral, {"variance": "posterior"}, 1000),
        (ancestral, {"variance": "beta"}, 500),
        (ddim, {"eta": 0.0}, 500),
    ],
)
def test_the_data_comes_back(data, sampler, options, steps):
    """100,000 samples of a mixture and of a normal distribution: mean and covariance are those of the data,
    within four standard errors.
    """
    schedule, n, rng = rescaled_linear(1000), 100_000, np.random.default_rng(0)

    def noise(t):
        return rng.standard_normal((n, 2), np.float32)

    denoise, pairs = denoise_twins(data, schedule), time_pairs(1000, steps)
    x = last(sampler(denoise, noise(1000), schedule, noise, pairs, **options))
    assert x.dtype == np.float32
    x = x.astype(np.float64)
    mean, apart, v = data.weights @ data.means, data.means[1] - data.means[0], data.variances[0, 0]
    covariance = v * np.eye(2) + 0.3 * 0.7 * np.outer(apart, apart)
    fresh = data.sample(n, np.random.default_rng(1)) - mean
    products = fresh[:, :, None] * fresh[:, None]                   # (n, 2, 2), their mean is the covariance
    assert (abs(x.mean(0) - mean) < 4 * (np.diag(covariance) / n) ** 0.5).all()
    assert (abs(np.cov(x.T) - covariance) < 4 * products.std(0) / n ** 0.5).all()


START = np.random.default_rng(0).standard_normal((50, 2))           # x_T
EXTRA = 40                                                          # jumps between t = 1 and 0


@cache
def exact_flow(name, T):
    """Where the probability flow leads from START, at every t = 0..T of a schedule: a list of T + 1 arrays.

    By Heun's method with all T jumps. The last jump, from t = 1 to 0, is replaced by EXTRA short ones.
    """
    schedule = make_schedule(name, T)
    u = schedule.snr[1] ** -0.5 * np.geomspace(1e-4, 1, EXTRA)      # sigma / a, up to that of t = 1
    fine = Schedule(beta_of(np.concatenate([[1.0], 1 / (1 + u ** 2), schedule.alpha_bar[2:]])))
    chain = dict(heun(denoise_by(MIXTURE, fine), START, fine, None, time_pairs(fine.T)))
    return [chain[0], *(chain[t] for t in range(EXTRA, fine.T + 1))]


def errors(sampler, name, T, steps, stop):
    """The distance from exact_flow at t = stop, for each number of steps: root mean square."""
    schedule, exact = make_schedule(name, T), exact_flow(name, T)[stop]
    denoise = denoise_by(MIXTURE, schedule)
    ends = [dict(SAMPLERS[sampler](denoise, START, schedule, None, time_pairs(T, n)))[stop] for n in steps]
    return [((end - exact) ** 2).mean() ** 0.5 for end in ends]


def measured_order(sampler, name, stop):
    """Minus the slope of log error against log steps, at t = stop of T = 640."""
    steps = [20, 40, 80, 160]
    slope, _ = np.polyfit(np.log(steps), np.log(errors(sampler, name, 640, steps, stop)), 1)
    return -slope


@pytest.mark.slow
@pytest.mark.parametrize(
    "schedule, stop",
    [
        ("karras", 0),
        ("karras", 128),
        ("rescaled_linear", 128),
        ("sigmoid", 128),
        ("scaled_linear", 128),
        ("zero_snr_linear", 128),
    ],
)
@pytest.mark.parametrize("sampler, order", [("ddim", 1), ("dpm_solver_pp", 2), ("heun", 2)])
def test_order(sampler, order, schedule, stop):
    """At t = T / 5 = 128 every schedule shows the order of the method.

    At t = 0 the karras schedule does, because the noise at its last stop is small. In all three samplers the
    last jump is Euler's, and its error falls like the variance of that noise, sigma_t^2.
    """
    assert measured_order(sampler, schedule, stop) == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize("sampler", ["dpm_solver_pp", "heun"])
def test_order_at_the_end_is_what_the_docstring_says(sampler):
    """At t = 0: about 2 on karras and about 1 on sigmoid.

    On sigmoid sigma_t^2 at the last stop is about proportional to the stride, so to 1 / steps.
    """
    sentence = r"t = 0 with an exact denoiser: ([\d.]+) on the schedule karras, ([\d.]+) on sigmoid"
    stated = re.search(sentence, " ".join(SAMPLERS[sampler].__doc__.split())).groups()
    for name, order in zip(("karras", "sigmoid"), stated, strict=True):
        assert measured_order(sampler, name, 0) == pytest.approx(float(order), abs=0.05)


@pytest.mark.parametrize("sampler", DETERMINISTIC)
@pytest.mark.parametrize(
    "schedule", ["linear", "rescaled_linear", "cosine", "karras", "straight", "sigmoid", "zero_snr_linear"]
)
def test_few_steps_are_sane_on_every_schedule(sampler, schedule):
    """Ten steps end near the exact flow, less far than the data is wide.

    This also holds where alpha_bar_T is 2e-9 or 0.
    """
    [error] = errors(sampler, schedule, 200, [10], 0)
    assert error < 0.35


def test_ddim_with_eta_1_is_the_ancestral_sampler():
    schedule = make_schedule("cosine", 60)
    noises = np.random.default_rng(2).standard_normal((61, 50, 2))
    for steps in (60, 7):
        denoise, pairs = denoise_by(MIXTURE, schedule), time_pairs(60, steps)
        arguments = denoise, noises[60], schedule, noises.__getitem__, pairs
        stops = zip(ancestral(*arguments, "posterior"), ddim(*arguments, 1.0), strict=True)
        for (t, x), (s, y) in stops:
            assert t == s
            np.testing.assert_allclose(x, y, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", SAMPLERS)
def test_prediction_types_lead_the_same_way(name):
    """The exact answer of every prediction_type gives the same chain."""
    schedule, chains = rescaled_linear(40), []
    noises = np.random.default_rng(3).standard_normal((41, 20, 2))
    for prediction_type in PREDICTION_TYPES:
        denoise = to_x0_eps(MIXTURE.predict(schedule, prediction_type), schedule, prediction_type)
        chain = SAMPLERS[name](denoise, noises[40], schedule, noises.__getitem__, time_pairs(40, 8))
        chains.append(np.array([x for _, x in chain]))
    for other in chains[1:]:
        np.testing.assert_allclose(other, chains[0], rtol=0, atol=1e-9)


def test_naive_skip_is_wrong_and_only_where_it_skips():
    """The data is N(0.7, 0.01). All 200 steps give its variance. Every 2nd, 5th and 20th step leave more and
    more noise. DDIM with the same jumps does not.
    """
    narrow, schedule, n = GaussianMixture([1.0], [[0.7]], [[[0.01]]]), rescaled_linear(200), 2000
    x = np.random.default_rng(0).standard_normal((n, 1))

    def noise(t):
        return np.random.default_rng(t).standard_normal((n, 1))

    def variance(sampler, k, *options):
        pairs = time_pairs(200, 200 // k)
        return last(sampler(denoise_by(narrow, schedule), x, schedule, noise, pairs, *options)).var()

    all_steps, *skipping = [variance(naive_skip, k) for k in (1, 2, 5, 20)]
    assert all_steps == pytest.approx(variance(ancestral, 1, "beta"), rel=1e-9)
    assert all_steps == pytest.approx(0.01, rel=0.2)
    assert skipping[0] > 2 * all_steps and skipping[1] > 4 * skipping[0] and skipping[2] > 3 * skipping[1]
    assert all(variance(ddim, k) < 0.011 for k in (1, 2, 5, 20))


def inverted(x0, schedule, steps):
    """x_0 led up to x_T by ddim, and x_T led down again with the same jumps."""
    denoise, pairs = denoise_by(MIXTURE, schedule), time_pairs(schedule.T, steps)
    *_, (t, x_T) = ddim(denoise, x0, schedule, None, [(s, t) for t, s in reversed(pairs)])
    assert t == schedule.T
    return x_T, last(ddim(denoise, x_T, schedule, None, pairs))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["karras", "rescaled_linear", "cosine", "straight"])
def test_ddim_inverts_itself(name):
    """Up and down again is the way back: the error halves with twice as many steps, and so does the distance
    of x_T from the end of the exact flow. x_T is distributed as normal noise.
    """
    schedule, x0 = make_schedule(name, 320), MIXTURE.sample(500, np.random.default_rng(0))
    exact = heun_up(x0, schedule)
    errors, distances = [], []
    for steps in (40, 80, 160):
        x_T, back = inverted(x0, schedule, steps)
        errors.append(((back - x0) ** 2).mean() ** 0.5)
        distances.append(((x_T - exact) ** 2).mean() ** 0.5)
    assert errors[-1] < 0.03 and all(0.4 < new / old < 0.6 for old, new in zip(errors, errors[1:]))
    assert distances[-1] < 0.02
    assert abs(x_T.mean(0)).max() < 0.15 and abs(np.cov(x_T.T) - np.eye(2)).max() < 0.25


def heun_up(x, schedule):
    """The probability flow upwards in T jumps of Heun's method, in tau (see samplers.heun). -> x_T"""
    denoise, tau = denoise_by(MIXTURE, schedule), schedule.sigma / (schedule.a + schedule.sigma)

    def slope(z, t):
        x0, eps = denoise((schedule.a[t] + schedule.sigma[t]) * z, t) if t else (z, 0)
        return eps - x0

    z = x
    for t in range(schedule.T):
        h = tau[t + 1] - tau[t]
        first = slope(z, t)
        z = z + h / 2 * (first + slope(z + h * first, t + 1))
    return z * (schedule.a[-1] + schedule.sigma[-1])
