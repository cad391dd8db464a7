"""What a sampler needs: the list of jumps, clipping, guidance, settings, noise. And the ancestral sampler on
normally distributed data, for which the exact answer of a network is one line.
"""

from dataclasses import replace

import numpy as np
import pytest

from npdiff.samplers import SAMPLERS, ancestral, ddim, guided, half_log_snr, time_pairs, to_x0_eps
from npdiff.sampling import Sampling, sample
from npdiff.schedule import linear, rescaled_linear, zero_snr_linear


def denoise_gaussian(mean, variance, schedule):
    """The exact denoise(x, t) -> (x0, eps) for data from N(mean, variance).

    x_t has the distribution N(a mean, a^2 variance + sigma^2), and its covariance with eps is sigma. So
        E[eps | x_t] = sigma (x_t - a mean) / (a^2 variance + sigma^2)
    """

    def predict(x, t):
        a, sigma = schedule.scales(t)
        return sigma * (x - a * mean) / (a ** 2 * variance + sigma ** 2)

    return to_x0_eps(predict, schedule)


def ancestral_samples(mean, data_variance, schedule, n, steps=None, variance="posterior", seed=0):
    """n samples (n, 1) of the ancestral sampler for data from N(mean, data_variance)."""
    rng = np.random.default_rng(seed)

    def noise(t):
        return rng.standard_normal((n, 1))

    denoise, pairs = denoise_gaussian(mean, data_variance, schedule), time_pairs(schedule.T, steps)
    return last(ancestral(denoise, noise(schedule.T), schedule, noise, pairs, variance))


def last(chain):
    *_, (t, x) = chain
    assert t == 0
    return x


@pytest.mark.parametrize(
    "variance, data_variance", [("posterior", 0.09), ("beta", 1.0), ("beta", 0.5), ("posterior", 0.5)]
)
def test_gaussian_data_comes_back(variance, data_variance):
    """1000 steps give the data's mean and variance, within four standard errors."""
    n = 20_000
    x = ancestral_samples(0.7, data_variance, rescaled_linear(1000), n, variance=variance)
    assert x.mean() == pytest.approx(0.7, abs=4 * (data_variance / n) ** 0.5)
    assert x.var() == pytest.approx(data_variance, rel=4 * (2 / n) ** 0.5 + 0.01)


@pytest.mark.parametrize("variance", ["posterior", "beta"])
def test_moments_after_five_steps(variance):
    """Here every step is linear in x, so the mean m and the variance v of x_s follow from those of x_t.

    With eps = slope (x - a mean), the mean of the step (Ho et al. 2020, eq. 11) is
        (x - beta / sigma eps) / sqrt(1 - beta) = scale x + shift
    """
    schedule, n, mean, data_variance = rescaled_linear(200), 400_000, 0.5, 0.3
    x = ancestral_samples(mean, data_variance, schedule, n, 5, variance, seed=1)
    m, v = 0.0, 1.0
    for t, s in time_pairs(200, 5):
        (a, sigma), (_, sigma_s) = schedule.scales(t), schedule.scales(s)
        beta = 1 - schedule.alpha_bar[t] / schedule.alpha_bar[s]
        slope = sigma / (a ** 2 * data_variance + sigma ** 2)
        scale = (1 - beta / sigma * slope) / (1 - beta) ** 0.5
        shift = beta / sigma * slope * a * mean / (1 - beta) ** 0.5
        noise = {"beta": beta, "posterior": beta * sigma_s ** 2 / sigma ** 2}[variance] if s > 0 else 0
        m, v = scale * m + shift, scale ** 2 * v + noise
    assert x.mean() == pytest.approx(m, abs=5 * (v / n) ** 0.5)
    assert x.var() == pytest.approx(v, rel=5 * (2 / n) ** 0.5)


def test_signal_left_in_x_T_shifts_the_samples():
    """A textbook's DDPM chapter (two moons, T = 200, betas 1e-4..0.02) leaves alpha_bar_T = 0.132. Sampling
    starts at N(0, I) all the same, so even an exact denoiser misses the mean. Rescaled betas mend this.
    """
    n = 20_000
    left = ancestral_samples(2.0, 0.1, linear(200), n).mean()
    rescaled = ancestral_samples(2.0, 0.1, rescaled_linear(200), n).mean()
    error = 4 * (0.1 / n) ** 0.5
    assert left < 2.0 - 2 * error and rescaled == pytest.approx(2.0, abs=error)


@pytest.mark.parametrize("variance", ["beta", "posterior"])
def test_no_noise_at_the_last_step(variance):
    schedule, asked = linear(10), []

    def noise(t):
        asked.append(t)
        return np.ones((2, 1))

    denoise = to_x0_eps(lambda x, t: 0 * x, schedule)
    chain = ancestral(denoise, np.ones((2, 1)), schedule, noise, time_pairs(10), variance)
    stops = [t for t, _ in chain]
    assert stops == list(range(10, -1, -1)) and asked == list(range(9, 0, -1))


@pytest.mark.parametrize("T", [2, 10, 200, 1000])
def test_time_pairs(T):
    for steps in {1, 2, 3, 7, T // 2, T - 1, T} & set(range(1, T + 1)):
        pairs = time_pairs(T, steps)
        assert len(pairs) == steps and pairs[0][0] == T and pairs[-1][1] == 0
        assert all(t > s for t, s in pairs)
        assert all(end == start for (_, end), (start, _) in zip(pairs, pairs[1:]))
    assert time_pairs(T) == [(t, t - 1) for t in range(T, 0, -1)]


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


@pytest.mark.parametrize("steps", [0, -1, 11, 2.0, True, "5"])
def test_refuses_steps(steps):
    with pytest.raises(ValueError, match="takes 1..10"):
        time_pairs(10, steps)


def test_clipping_holds_x0_and_derives_eps_again():
    schedule, rng = rescaled_linear(20), np.random.default_rng(0)
    x, t = rng.standard_normal((50, 2)), 5
    x0, eps = to_x0_eps(lambda x, t: 0.3 * x, schedule, clip=0.5)(x, t)
    assert abs(x0).max() == 0.5 and (abs(x0) < 0.5).any()
    np.testing.assert_allclose(schedule.a[t] * x0 + schedule.sigma[t] * eps, x, rtol=1e-12)


def test_guidance():
    """uncond + w (cond - uncond) with answers 1 and 3. w = 0 and w = 1 ask the network once."""
    calls = []

    def predict(x, t, labels):
        calls.append(labels)
        return x * (1.0 if labels is None else 3.0)

    x = np.ones(2)
    assert [guided(predict, "cats", w)(x, 1)[0] for w in (0, 1, 2.5, -1)] == [1, 3, 1 + 2.5 * 2, -1]
    assert calls == [None, "cats", None, "cats", None, "cats"]


def test_refusals_come_before_the_first_step(tiny):
    denoiser, backend, recipe = tiny
    for wrong, message in [
        ({"n": 0}, "n is 0"),
        ({"sampling": Sampling(steps=10**6)}, "takes 1..200"),
        ({"seed": -1}, "seed is -1"),
        ({"sampling": Sampling(guidance=2)}, "guidance is 2.0; moons takes no labels"),
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
    assert first.dtype == np.float32 and first.tobytes() == again.tobytes()
    assert abs(np.corrcoef(first[:, 0], other[:, 0])[0, 1]) < 4 / 50 ** 0.5     # four standard errors


def test_from_data_the_chain_begins_at_the_true_x_T(tiny):
    """start "data" begins at   a x_0 + sigma noise,   and the noise is what start "noise" begins at."""
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


def test_denoise_refuses_integers():
    """An image of integers, or an answer of integers: in the words of the closed forms."""
    schedule, floats, integers = linear(10), np.ones((3, 2)), np.ones((3, 2), int)
    for predict, x in ((lambda x, t: 1.0 * x, integers), (lambda x, t: integers, floats)):
        with pytest.raises(ValueError, match="is int64; it must be an array of floats"):
            to_x0_eps(predict, schedule)(x, 5)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize(
    "pairs, message",
    [
        ([(5, 5)], "t is 5 and s is 5; they must be integers, 0 <= s < t <= 10"),
        ([(11, 3), (3, 0)], "t is 11 and s is 3"),
        ([(10, -1)], "t is 10 and s is -1"),
        ([(10.0, 0)], "t is 10.0 and s is 0"),
        ([(10, 5), (4, 0)], "a jump ends at 5 and the next starts at 4; they must be equal"),
        ([], "pairs is empty; it must hold at least one jump"),
    ],
)
def test_jumps_that_are_no_chain_are_refused(name, pairs, message):
    schedule = linear(10)
    chain = SAMPLERS[name](denoise_gaussian(0.0, 1.0, schedule), np.ones((3, 2)), schedule, None, pairs)
    with pytest.raises(ValueError, match=message):
        next(chain)


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "ddim"])
def test_only_ddim_goes_up(name):
    schedule = linear(10)
    for pairs in ([(3, 5)], [(0, 5), (5, 10)]):
        chain = SAMPLERS[name](denoise_gaussian(0.0, 1.0, schedule), np.ones((3, 2)), schedule, None, pairs)
        with pytest.raises(ValueError, match="they must be integers, 0 <= s < t <= 10"):
            next(chain)


@pytest.mark.parametrize("pairs, eta, message", [
    ([(3, 5)], 0.5, "t is 3 and s is 5"), ([(5, 0)], 1.5, "eta is 1.5"), ([(5, 0)], -0.5, "eta is -0.5"),
    ([(3, 11)], 0.0, "t is 11 and s is 3"), ([(-1, 3)], 0.0, "t is 3 and s is -1"),
])
def test_what_ddim_refuses(pairs, eta, message):
    schedule = linear(10)
    with pytest.raises(ValueError, match=message):
        next(ddim(denoise_gaussian(0.0, 1.0, schedule), np.ones((3, 2)), schedule, None, pairs, eta))


def test_half_log_snr():
    """The log of a / sigma at every t of 0..T, and no other t wraps round to the end of the table."""
    schedule = zero_snr_linear(10)
    assert half_log_snr(0, schedule) == np.inf and half_log_snr(10, schedule) == -np.inf
    assert half_log_snr(np.uint8(4), schedule) == pytest.approx(np.log(schedule.a[4] / schedule.sigma[4]))
    for t in (-1, 11):
        with pytest.raises(ValueError, match=f"t is {t}; it must lie in 0..10"):
            half_log_snr(t, schedule)
