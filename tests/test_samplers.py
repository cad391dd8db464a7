"""The sampler with a perfect denoiser: for Gaussian data the noise in x_t has a closed form, so the samples'
mean and variance are known.
"""

from dataclasses import replace

import numpy as np
import pytest

from npdiff.samplers import ancestral, time_pairs, to_x0_eps
from npdiff.sampling import Sampling, sample
from npdiff.schedule import linear, rescaled_linear


def gaussian_oracle(mean, variance, schedule):
    """E[eps | x_t] for data N(mean, variance): x_t is N(sqrt(ab) mean, ab variance + 1 - ab), and eps is
    jointly normal with it.
    """

    def predict(x, t):
        ab = schedule.alpha_bar[t]
        return (1 - ab) ** 0.5 * (x - ab ** 0.5 * mean) / (ab * variance + 1 - ab)

    return predict


def last(chain):
    *_, (t, x) = chain
    assert t == 0
    return x


@pytest.mark.parametrize(
    "variance, data_variance", [("posterior", 0.09), ("beta", 1.0), ("beta", 0.5), ("posterior", 0.5)]
)
def test_gaussian_data_comes_back(variance, data_variance):
    """1000 steps return the data's mean and variance within Monte-Carlo error."""
    schedule, n = rescaled_linear(1000), 20_000
    rng = np.random.default_rng(0)
    x = last(
        ancestral(
            to_x0_eps(gaussian_oracle(0.7, data_variance, schedule), schedule),
            rng.standard_normal((n, 1)),
            schedule,
            lambda t: rng.standard_normal((n, 1)),
            time_pairs(1000),
            variance,
        )
    )
    assert x.mean() == pytest.approx(0.7, abs=4 * (data_variance / n) ** 0.5)
    assert x.var() == pytest.approx(data_variance, rel=4 * (2 / n) ** 0.5 + 0.01)


def test_moments_are_those_of_the_linear_recursion():
    """With a linear denoiser every step is linear, so mean and variance of x_s follow exactly; in few steps
    the two variances differ plainly.
    """
    schedule, n, data_variance = rescaled_linear(200), 400_000, 0.3
    for kind in ("posterior", "beta"):
        m, v = 0.0, 1.0
        predict = gaussian_oracle(0.5, data_variance, schedule)
        rng = np.random.default_rng(1)
        x = last(
            ancestral(
                to_x0_eps(predict, schedule),
                rng.standard_normal((n, 1)),
                schedule,
                lambda t: rng.standard_normal((n, 1)),
                time_pairs(200, 5),
                kind,
            )
        )
        for t, s in time_pairs(200, 5):
            ab_t, ab_s = schedule.alpha_bar[t], schedule.alpha_bar[s]
            beta = 1 - ab_t / ab_s
            slope_eps = (1 - ab_t) ** 0.5 / (ab_t * data_variance + 1 - ab_t)
            scale = (1 - beta / (1 - ab_t) ** 0.5 * slope_eps) / (1 - beta) ** 0.5
            shift = beta / (1 - ab_t) ** 0.5 * slope_eps * ab_t ** 0.5 * 0.5 / (1 - beta) ** 0.5
            noise = 0 if s == 0 else beta if kind == "beta" else beta * (1 - ab_s) / (1 - ab_t)
            m, v = scale * m + shift, scale ** 2 * v + noise
        assert x.mean() == pytest.approx(m, abs=5 * (v / n) ** 0.5)
        assert x.var() == pytest.approx(v, rel=5 * (2 / n) ** 0.5)


def test_terminal_signal_biases_samples():
    """SOURCES: T = 200 linear leaves alpha_bar_T = 0.132, so even a perfect denoiser misses the mean;
    rescaled, it does not.
    """
    n = 20_000
    means = []
    for schedule in (linear(200), rescaled_linear(200)):
        rng = np.random.default_rng(0)
        means.append(
            last(
                ancestral(
                    to_x0_eps(gaussian_oracle(2.0, 0.1, schedule), schedule),
                    rng.standard_normal((n, 1)),
                    schedule,
                    lambda t: rng.standard_normal((n, 1)),
                    time_pairs(200),
                )
            ).mean()
        )
    error = 4 * (0.1 / n) ** 0.5
    assert means[0] < 2.0 - 2 * error and means[1] == pytest.approx(2.0, abs=error)


@pytest.mark.parametrize("variance", ["beta", "posterior"])
def test_no_noise_at_the_last_step(variance):
    schedule, asked = linear(10), []

    def noise(t):
        asked.append(t)
        return np.ones((2, 1))

    stops = [
        t
        for t, _ in ancestral(
            to_x0_eps(lambda x, t: 0 * x, schedule),
            np.ones((2, 1)),
            schedule,
            noise,
            time_pairs(10),
            variance,
        )
    ]
    assert stops == list(range(10, -1, -1)) and asked == list(range(9, 0, -1))


@pytest.mark.parametrize("T", [2, 10, 200, 1000])
def test_time_pairs(T):
    for steps in {1, 2, 3, 7, T // 2, T - 1, T} & set(range(1, T + 1)):
        pairs = time_pairs(T, steps)
        assert len(pairs) == steps and pairs[0][0] == T and pairs[-1][1] == 0
        assert all(t > s for t, s in pairs)
        assert all(end == start for (_, end), (start, _) in zip(pairs, pairs[1:]))
    assert time_pairs(T) == [(t, t - 1) for t in range(T, 0, -1)]


@pytest.mark.parametrize("steps", [0, -1, 11])
def test_refuses_steps(steps):
    with pytest.raises(ValueError, match="takes 1..10"):
        time_pairs(10, steps)


def test_refusals_come_before_the_first_step(tiny):
    denoiser, backend, recipe = tiny
    for wrong, message in [
        ({"n": 0}, "n is 0"),
        ({"sampling": Sampling(steps=10**6)}, "takes 1..200"),
        ({"seed": -1}, "seed is -1"),
        ({"sampling": Sampling(guidance=2)}, "guidance is 2; moons takes no labels"),
    ]:
        with pytest.raises(ValueError, match=message):
            sample(denoiser, backend, recipe, **{"n": 2, "seed": 0} | wrong)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"variance": "gamma"}, "beta or posterior"),
        ({"sampler": "euler"}, "sampler is 'euler'"),
        ({"eta": 2.0}, "eta is 2.0"),
        ({"clip": 0.0}, "clip is 0.0"),
        ({"guidance": float("nan")}, "guidance is nan"),
        ({"start": "zero"}, "start is 'zero'"),
    ],
)
def test_refused_settings(wrong, message):
    with pytest.raises(ValueError, match=message):
        Sampling(**wrong)


def test_draws_are_independent_and_repeat(tiny):
    denoiser, backend, recipe = tiny
    first, again, other = (last(sample(denoiser, backend, recipe, 50, 0, draw)) for draw in (0, 0, 1))
    assert first.tobytes() == again.tobytes() and abs(np.corrcoef(first[:, 0], other[:, 0])[0, 1]) < 0.6
    assert first.dtype == np.float32


def test_from_data_the_chain_begins_at_the_true_x_T(tiny):
    """start "data": x_T is the data noised to the first timestep, with the noise that start "noise" begins
    from.
    """
    denoiser, backend, recipe = tiny
    schedule, x0 = recipe.make_schedule(), np.full((5, 2), 3.0)
    for steps, first in ((None, 200), (4, 151)):
        spacing = Sampling(steps=steps, timestep_spacing="leading", sampler="ddim")
        (t, noise), *_ = sample(denoiser, backend, recipe, 5, 0, sampling=spacing)
        (s, x), *_ = sample(denoiser, backend, recipe, 5, 0, sampling=replace(spacing, start="data"), x0=x0)
        assert t == s == first
        np.testing.assert_allclose(x, schedule.a[t] * x0 + schedule.sigma[t] * noise, atol=1e-6)
    with pytest.raises(ValueError, match=r"x0 has shape \(\); it must be \(5, 2\)"):
        sample(denoiser, backend, recipe, 5, 0, sampling=Sampling(start="data"))
