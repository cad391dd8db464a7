"""Every sampler with the exact denoiser of known data in the network's place: what comes out has the data's
law, and the error falls with the claimed order.
"""

import numpy as np
import pytest

from npdiff.diffusion import PREDICTION_TYPES
from npdiff.samplers import (
    SAMPLERS,
    ancestral,
    ddim,
    dpm_solver_pp,
    guided,
    heun,
    naive_skip,
    time_pairs,
    to_x0_eps,
)
from npdiff.schedule import make_schedule, rescaled_linear
from npdiff.verify.oracle import GaussianMixture

MIXTURE = GaussianMixture(
    [0.3, 0.7], [[-1, 0.5], [1, 0]], [[[0.3, 0.1], [0.1, 0.2]], [[0.2, -0.05], [-0.05, 0.4]]]
)
DETERMINISTIC = {"ddim": ddim, "dpm_solver_pp": dpm_solver_pp, "heun": heun}


def denoise_by(oracle, schedule):
    """The oracle's x_0 as the network of prediction_type sample, which every schedule permits."""
    return to_x0_eps(oracle.predict(schedule, "sample"), schedule, "sample")


def last(chain):
    *_, (t, x) = chain
    assert t == 0
    return x


def denoise_twins(twins, schedule):
    """The same for two components that share the covariance v I, where E[x_0 | x] needs one tanh a point:
    fast, and in the dtype of x.
    """
    (first, second), v = twins.means.astype(np.float32), float(twins.variances[0, 0])

    def predict(x, t):
        a, sigma2 = float(schedule.a[t]), float(1 - schedule.alpha_bar[t])
        total = a * a * v + sigma2
        log_odds = x @ (a / total * (second - first)) + float(
            np.log(twins.weights[1] / twins.weights[0])
            - a * a * (second @ second - first @ first) / (2 * total)
        )
        # (N,), of the second component
        share = 0.5 + 0.5 * np.tanh(0.5 * log_odds)
        return (a * v / total) * x + (sigma2 / total) * (first + share[:, None] * (second - first))  # (N, 2)

    return to_x0_eps(predict, schedule, "sample")


def twins(means, v):
    return GaussianMixture([0.3, 0.7], means, [v * np.eye(2)] * 2)


TWO_BUMPS, ONE_BUMP = twins([[-1, 0.5], [1, 0]], 0.02), twins([[0.7, -0.2]] * 2, 0.5)


@pytest.mark.parametrize("data", [TWO_BUMPS, ONE_BUMP])
def test_the_fast_oracle_is_the_oracle(data):
    schedule, x = rescaled_linear(1000), 2 * np.random.default_rng(0).standard_normal((500, 2))
    for t in (1, 30, 400, 1000):
        np.testing.assert_allclose(
            denoise_twins(data, schedule)(x, t)[0], denoise_by(data, schedule)(x, t)[0], rtol=0, atol=1e-6
        )


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
    """A mixture and a Gaussian, 100,000 samples each: mean and covariance within Monte-Carlo error (four
    standard errors).
    """
    schedule, n, rng = rescaled_linear(1000), 100_000, np.random.default_rng(0)

    def noise(t):
        return rng.standard_normal((n, 2), np.float32)

    x = last(
        sampler(
            denoise_twins(data, schedule), noise(1000), schedule, noise, time_pairs(1000, steps), **options
        )
    )
    mean, apart, v = data.weights @ data.means, data.means[1] - data.means[0], data.variances[0, 0]
    covariance = v * np.eye(2) + 0.3 * 0.7 * np.outer(apart, apart)
    fresh = data.sample(n, np.random.default_rng(1)) - mean
    # (n, 2, 2), whose mean is the covariance
    products = fresh[:, :, None] * fresh[:, None]
    assert x.dtype == np.float32
    x = x.astype(np.float64)
    assert (abs(x.mean(0) - mean) < 4 * (np.diag(covariance) / n) ** 0.5).all()
    assert (abs(np.cov(x.T) - covariance) < 4 * products.std(0) / n ** 0.5).all()


def errors(sampler, schedule, steps, stop):
    """Root mean square distance, at t = stop, of the sampler's chains in so many steps from that of the
    finest.
    """
    x = np.random.default_rng(0).standard_normal((50, 2))
    chains = [
        dict(SAMPLERS[name](denoise_by(MIXTURE, schedule), x, schedule, None, time_pairs(schedule.T, n)))[
            stop
        ]
        for name, n in [("heun", schedule.T), *((sampler, n) for n in steps)]
    ]
    return [((chain - chains[0]) ** 2).mean() ** 0.5 for chain in chains[1:]]


@pytest.mark.parametrize(
    "schedule, end",
    [
        ("karras", 0),
        ("karras", 1 / 5),
        ("rescaled_linear", 1 / 5),
        ("sigmoid", 1 / 5),
        ("scaled_linear", 1 / 5),
        ("zero_snr_linear", 1 / 5),
    ],
)
@pytest.mark.parametrize("sampler, order", [("ddim", 1), ("dpm_solver_pp", 2), ("heun", 2)])
def test_order(sampler, order, schedule, end):
    """The slope of log error against log steps.

    At t = 0 it is the method's own where the last jump, Euler's in all three, is short in noise, as in the
    karras schedule; elsewhere that jump's error falls like its noise, sigma_t^2, which for equal strides in t
    is like 1 / steps. At T / 5 it has not happened yet."""
    steps, table = [20, 40, 80, 160], make_schedule(schedule, 640)
    slope, _ = np.polyfit(np.log(steps), np.log(errors(sampler, table, steps, int(640 * end))), 1)
    assert -slope == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize("sampler", DETERMINISTIC)
@pytest.mark.parametrize(
    "schedule", ["linear", "rescaled_linear", "cosine", "karras", "straight", "sigmoid", "zero_snr_linear"]
)
def test_few_steps_are_sane_on_every_schedule(sampler, schedule):
    """Ten steps, also from alpha_bar_T = 2e-9 or 0, end within a data's width of where a thousand do."""
    [error] = errors(sampler, make_schedule(schedule, 200), [10], 0)
    assert error < 0.35


def test_ddim_with_eta_1_is_the_ancestral_sampler():
    schedule, n = make_schedule("cosine", 60), 50
    noises = np.random.default_rng(2).standard_normal((61, n, 2))
    for steps in (60, 7):
        arguments = (
            denoise_by(MIXTURE, schedule),
            noises[60],
            schedule,
            noises.__getitem__,
            time_pairs(60, steps),
        )
        for (_, ours), (_, theirs) in zip(
            ancestral(*arguments, "posterior"), ddim(*arguments, 1.0), strict=True
        ):
            np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", SAMPLERS)
def test_prediction_types_lead_the_same_way(name):
    """The oracle's answer in four parameterisations: the same chain."""
    schedule, chains = rescaled_linear(40), []
    noises = np.random.default_rng(3).standard_normal((41, 20, 2))
    for prediction_type in PREDICTION_TYPES:
        denoise = to_x0_eps(MIXTURE.predict(schedule, prediction_type), schedule, prediction_type)
        chains.append(
            np.array(
                [
                    x
                    for _, x in SAMPLERS[name](
                        denoise, noises[40], schedule, noises.__getitem__, time_pairs(40, 8)
                    )
                ]
            )
        )
    for other in chains[1:]:
        np.testing.assert_allclose(other, chains[0], rtol=0, atol=1e-9)


def test_naive_skipping_is_wrong_and_only_when_it_skips():
    """Of data N(0.7, 0.01), 200 steps come back; every 2nd, 5th, 20th leave ever more noise.

    DDIM's same jumps do not.
    """
    narrow, schedule, n = GaussianMixture([1.0], [[0.7]], [[[0.01]]]), rescaled_linear(200), 2000
    x = np.random.default_rng(0).standard_normal((n, 1))

    def variance(sampler, k, *options):
        return last(
            sampler(
                denoise_by(narrow, schedule),
                x,
                schedule,
                lambda t: np.random.default_rng(t).standard_normal((n, 1)),
                time_pairs(200, 200 // k),
                *options,
            )
        ).var()

    naive = [variance(naive_skip, k) for k in (1, 2, 5, 20)]
    assert naive[0] == pytest.approx(variance(ancestral, 1, "beta"), rel=1e-9) and naive[0] == pytest.approx(
        0.01, rel=0.2
    )
    assert naive[1] > 2 * naive[0] and naive[2] > 4 * naive[1] and naive[3] > 3 * naive[2]
    assert all(variance(ddim, k) < 0.011 for k in (1, 2, 5, 20))


def test_clipping_holds_x0_and_derives_eps_again():
    schedule, rng = rescaled_linear(20), np.random.default_rng(0)
    x, t = rng.standard_normal((50, 2)), 5
    x0, eps = to_x0_eps(lambda x, t: 0.3 * x, schedule, clip=0.5)(x, t)
    assert abs(x0).max() == 0.5 and (abs(x0) < 0.5).any()
    np.testing.assert_allclose(schedule.a[t] * x0 + schedule.sigma[t] * eps, x, rtol=1e-12)


def test_guidance_is_a_line_through_both_answers():
    calls = []

    def predict(x, t, labels):
        calls.append(labels)
        return x * (1.0 if labels is None else 3.0)

    x = np.ones(2)
    assert [guided(predict, "cats", w)(x, 1)[0] for w in (0, 1, 2.5, -1)] == [1, 3, 1 + 2.5 * 2, -1]
    assert calls == [None, "cats", None, "cats", None, "cats"]


@pytest.mark.parametrize(
    "spacing, expected",
    [("trailing", [10, 8, 5, 2, 0]), ("linspace", [10, 7, 4, 1, 0]), ("leading", [7, 5, 3, 1, 0])],
)
def test_spacings(spacing, expected):
    assert time_pairs(10, 4, spacing) == list(zip(expected[:-1], expected[1:]))
    for steps in range(2, 11):
        stops = [t for t, _ in time_pairs(10, steps, spacing)] + [0]
        assert len(set(stops)) == steps + 1 and stops == sorted(stops, reverse=True)
    assert time_pairs(10, None, spacing) == [(t, t - 1) for t in range(10, 0, -1)]


@pytest.mark.parametrize(
    "steps, spacing, message",
    [(1, "linspace", "linspace visits both"), (4, "centred", "timestep_spacing is 'centred'")],
)
def test_refused_spacings(steps, spacing, message):
    with pytest.raises(ValueError, match=message):
        time_pairs(10, steps, spacing)
