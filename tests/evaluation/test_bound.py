"""The variational bound, compared with closed forms term by term, with exact densities, and with an integral
on a grid; its decoders.
"""

import math
from dataclasses import replace

import numpy as np
import pytest
from fashion import REAL, needs_data
from known_mixture import mixture, mixture_divergence, points
from tiny_recipes import TINY_SHAPES
from toy_backend import ToyBackend

from npdiff.backends.numpy import NumpyBackend
from npdiff.data import load_data
from npdiff.diffusion import (
    PREDICTION_TYPES,
    eps_from_x0,
    posterior_variance,
    prediction_target,
    prior_kl,
    transition_beta,
)
from npdiff.evaluation.likelihood import (
    data_likelihood,
    discretised_decoder,
    gaussian_decoder,
    log_likelihood,
    log_normal_cdf,
    log_normal_mass,
    model_variance,
    to_noise,
    variational_bound,
)
from npdiff.models import mlp
from npdiff.rng import generator
from npdiff.schedule import cosine, linear, make_schedule, rescaled_linear, straight, zero_terminal_snr
from npdiff.training import new_denoiser

MEAN, VARIANCE = 0.7, 0.3
# Two values of x_0 and two of the noise, with the means and variances of their distributions: for a linear
# denoiser the average over the four pairs is the expectation.
X0 = np.array([MEAN - VARIANCE ** 0.5, MEAN + VARIANCE ** 0.5]).repeat(2)[:, None]
NOISE = np.array([-1.0, 1.0, -1.0, 1.0])[:, None]


def gaussian_bound(schedule, variance):
    """The bound's terms for data N(MEAN, VARIANCE) and its perfect denoiser, E[eps | x_t = x]."""

    def predict(x, t):
        alpha_bar = float(schedule.alpha_bar[t])
        x_variance = alpha_bar * VARIANCE + 1 - alpha_bar
        return (1 - alpha_bar) ** 0.5 * (x - alpha_bar ** 0.5 * MEAN) / x_variance

    return variational_bound(predict, X0, schedule, lambda t: NOISE, gaussian_decoder, variance)


@pytest.mark.parametrize("variance", ["beta", "posterior"])
def test_every_term_for_gaussian_data(variance):
    """Each against its closed form, with
    E (x_0 - E[x_0 | x_t])^2 = VARIANCE (1 - alpha_bar) / (alpha_bar VARIANCE + 1 - alpha_bar).
    """
    schedule = rescaled_linear(100)
    terms = gaussian_bound(schedule, variance)
    alpha_bar, beta, T = schedule.alpha_bar, schedule.beta, schedule.T
    error = VARIANCE * (1 - alpha_bar) / (alpha_bar * VARIANCE + 1 - alpha_bar)
    first = beta[1] if variance == "beta" else schedule.posterior_variance[2]
    expected = [(math.log(2 * math.pi * first) + error[1] / first) / 2]
    for t in range(2, T + 1):
        q = schedule.posterior_variance[t]
        p = beta[t] if variance == "beta" else q
        weight = alpha_bar[t - 1] * beta[t] ** 2 / (2 * p * (1 - alpha_bar[t]) ** 2)
        expected.append(math.log(p / q) / 2 + (q / p - 1) / 2 + weight * error[t])
    expected.append((alpha_bar[T] * (VARIANCE + MEAN ** 2) - alpha_bar[T] - math.log(1 - alpha_bar[T])) / 2)
    assert terms.shape == (T + 1,) and terms.dtype == np.float64
    np.testing.assert_allclose(terms * math.log(2), expected, rtol=1e-8)
    assert (terms[1:] >= 0).all()


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_the_bound_of_a_perfect_denoiser_is_near_the_entropy(name):
    """At T = 1000 with variance beta, which suits such wide data, to 0.01 bits. 20 steps lose more, and so
    does the posterior variance.
    """
    entropy = math.log2(2 * math.pi * math.e * VARIANCE) / 2

    def total(T, variance):
        return gaussian_bound(make_schedule(name, T), variance).sum()

    assert entropy < total(1000, "beta") < entropy + 0.01 < min(total(20, "beta"), total(1000, "posterior"))


def test_the_bound_of_the_mixture_lies_above_its_density():
    """A perfect denoiser, and 100 steps: about 0.1 bits are lost, ten times the error of the draws."""
    schedule, n = rescaled_linear(100), 4000
    rng, x = np.random.default_rng(0), points(2 * n)[:n]
    divergence = mixture_divergence(schedule)

    def predict(x, t):
        answer, _ = divergence(x, t)
        return answer

    def noise(t):
        return rng.standard_normal(x.shape)

    bound = variational_bound(predict, x, schedule, noise, gaussian_decoder, "beta").sum()
    log_density, _, _ = mixture(x, 1.0)
    exact = -log_density.mean() / 2 / math.log(2)
    assert exact + 0.03 < bound < exact + 0.2


@pytest.mark.parametrize("variance", ["beta", "posterior"])
def test_the_bound_holds_for_any_network(variance):
    """The chain of a random network over one coordinate. A sum over a grid of x_1, x_2, ... gives the exact
    p(x_0), and the bound of each x_0 lies above -log2 p(x_0).
    """
    schedule, config, n = linear(5, 0.1, 0.4), mlp.Config(data_dim=1, hidden=(8,), time_dim=4), 20_000
    denoiser = NumpyBackend(dtype="float64").make_denoiser(config, mlp.init(config, generator(3, "init")))
    grid, step = np.linspace(-25, 25, 1201, retstep=True)

    def density(t, x):
        """p(x_{t-1} = x | x_t = grid), (len(grid), len(x))"""
        eps = denoiser.predict(grid[:, None], t)
        # [Ho et al. 2020](https://arxiv.org/abs/2006.11239), eq. 11
        mean = (grid[:, None] - schedule.beta[t] / schedule.sigma[t] * eps) / schedule.alpha[t] ** 0.5
        sigma2 = model_variance(t, schedule, variance)
        return np.exp(-(x - mean) ** 2 / (2 * sigma2)) / (2 * np.pi * sigma2) ** 0.5

    marginal = np.exp(-grid ** 2 / 2) / (2 * np.pi) ** 0.5
    for t in range(5, 1, -1):
        marginal = marginal @ density(t, grid) * step
    assert marginal.sum() * step == pytest.approx(1, abs=1e-6)
    rng = np.random.default_rng(0)

    def noise(t):
        return rng.standard_normal((n, 1))

    for x0 in (-1.5, 0.0, 0.4, 2.0):
        exact = -math.log2((marginal @ density(1, np.array([x0]))).item() * step)
        same = np.full((n, 1), x0)
        total = variational_bound(denoiser.predict, same, schedule, noise, gaussian_decoder, variance).sum()
        assert exact < total < exact + 5


def test_the_variance_of_the_first_step():
    schedule = cosine(50)
    assert model_variance(1, schedule, "posterior") == model_variance(2, schedule, "posterior")
    assert model_variance(2, schedule, "posterior") == posterior_variance(2, 1, schedule) > 0
    assert model_variance(1, schedule, "beta") == transition_beta(1, 0, schedule)
    assert model_variance(1, schedule, "beta") != model_variance(2, schedule, "beta")


def test_equivalent_predictions_have_one_bound():
    """Answers of every type that say the same. Where alpha_bar_T = 0, all but epsilon."""
    for schedule, kinds in [
        (cosine(30), [*PREDICTION_TYPES]),
        (zero_terminal_snr(cosine(30)), ["sample", "v_prediction", "flow_prediction"]),
    ]:
        noises = np.random.default_rng(0).standard_normal((31, 6, 2))

        def bound(kind):
            def predict(x, t):
                x0 = 0.3 * np.tanh(x)
                return prediction_target(x0, t, eps_from_x0(x, t, x0, schedule), schedule, kind)

            noise = noises.__getitem__
            return variational_bound(predict, points(6), schedule, noise, gaussian_decoder, "beta", kind)

        bounds = [bound(kind) for kind in kinds]
        for terms in bounds:
            assert np.isfinite(terms).all() and (terms[-1] == 0) == (schedule.alpha_bar[-1] == 0)
            np.testing.assert_allclose(terms, bounds[0], rtol=1e-9, atol=1e-12)


def test_what_the_bound_refuses():
    x = np.zeros((2, 2))
    right = {"predict": lambda x, t: x, "x0": x, "schedule": linear(10), "noise": lambda t: x,
             "decoder": gaussian_decoder}
    assert variational_bound(**right).shape == (11,)
    for wrong, message in [
        ({"variance": "gamma"}, "beta or posterior"),
        ({"prediction_type": "noise"}, "prediction_type is 'noise'"),
        ({"schedule": zero_terminal_snr(linear(10))}, "prediction_type is 'epsilon', but alpha_bar_T is 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            variational_bound(**right | wrong)


LEVELS = (2 * np.arange(256) - 255) / 255


@pytest.mark.parametrize("mean", [0.0, -1.0, 0.9, 3.0])
@pytest.mark.parametrize("sigma", [1e-3, 0.01, 0.3, 5.0])
def test_the_levels_probabilities_sum_to_one(mean, sigma):
    """And of the levels whose bins have two ends, the one nearest to the mean is the likeliest."""
    log_p = np.array([-discretised_decoder(np.array([level]), np.array([mean]), sigma ** 2)
                      for level in LEVELS])
    assert np.isfinite(log_p).all() and np.exp(log_p).sum() == pytest.approx(1, abs=1e-12)
    likeliest = LEVELS[np.argmax(log_p[1:-1]) + 1]
    assert abs(likeliest - np.clip(mean, *LEVELS[[1, -2]])) <= 1 / 255


def test_narrow_bins_are_a_density():
    """Where sigma is much larger than a bin, the discretised decoder is the Gaussian one minus the logarithm
    of the bin's width.
    """
    rng = np.random.default_rng(0)
    x0, mean = LEVELS[rng.integers(1, 255, (20, 1, 3, 3))], rng.uniform(-1, 1, (20, 1, 3, 3))
    by_bins = discretised_decoder(x0, mean, 4.0)
    assert by_bins == pytest.approx(gaussian_decoder(x0, mean, 4.0) - math.log(2 / 255), abs=1e-5)
    assert discretised_decoder(x0.astype(np.float32), mean, 4.0) == pytest.approx(by_bins, abs=1e-6)


@pytest.mark.parametrize("wrong", [1.01, -1.1, 0.0, np.nan])
def test_the_discretised_decoder_takes_levels_alone(wrong):
    with pytest.raises(ValueError, match=f"x0 holds {wrong}; the discretised decoder takes 8-bit levels"):
        discretised_decoder(np.array([LEVELS[3], wrong]), np.zeros(2), 1.0)


def images_bound(schedule, predict_x0, variance):
    """The bound's sum for images whose pixels are drawn evenly from all levels; predict_x0(x, t, x0)."""
    rng = np.random.default_rng(0)
    x0 = LEVELS[rng.integers(0, 256, (40, 1, 8, 8))].astype(np.float32)

    def predict(x, t):
        return predict_x0(x, t, x0)

    def noise(t):
        return rng.standard_normal(x0.shape, np.float32)

    return variational_bound(predict, x0, schedule, noise, discretised_decoder, variance, "sample").sum()


def test_images_have_a_bound():
    """Such pixels hold 8 bits each. The bound of the best linear denoiser is a little more than that.

    A denoiser that knows the image needs almost no bits.
    """

    def best_linear(x, t, x0):
        a, sigma = float(schedule.a[t]), float(schedule.sigma[t])
        return a / 3 / (a ** 2 / 3 + sigma ** 2) * x            # the levels' variance is nearly 1/3

    schedule = linear(200, 1e-5, 0.1)
    assert 8 < images_bound(schedule, best_linear, "beta") < 8.5
    assert 0 < images_bound(linear(200, 1e-6, 0.1), lambda x, t, x0: x0, "posterior") < 1e-3


@needs_data
def test_bits_per_dimension_of_the_real_images():
    """A new U-Net answers 0, so its x_0 is x_t / a. Each term is a KL divergence or minus the logarithm of a
    probability, so none is negative. Two are known in closed form: the prior's, and that of the jump from T.
    """
    model = replace(TINY_SHAPES.model, classes=10)
    recipe, backend = replace(TINY_SHAPES, data="fashion-mnist", model=model), NumpyBackend()
    likelihood = data_likelihood(new_denoiser(backend, recipe, 0), backend, recipe, 0, REAL)
    assert likelihood.log_p is None and likelihood.exact is None
    T, schedule, terms = recipe.num_train_timesteps, recipe.make_schedule(), likelihood.terms
    assert terms.shape == (T + 1,) and (terms >= 0).all()
    x0, _ = load_data("fashion-mnist", REAL).draw(16, generator(0, "data"))
    assert terms[T] == pytest.approx(prior_kl(x0.astype(np.float64), schedule) / np.log(2), rel=1e-5)
    # x_0 - x_t / a = -sigma / a eps, and eps has mean square 1 over 12,544 pixels
    error = 1 / schedule.snr[T]
    of_x0 = schedule.a[T - 1] * schedule.beta[T] / (1 - schedule.alpha_bar[T])      # in the posterior's mean
    q, p = float(schedule.posterior_variance[T]), float(schedule.beta[T])           # the two variances
    nats = (np.log(p / q) + q / p - 1 + of_x0 ** 2 * error / p) / 2
    assert terms[T - 1] == pytest.approx(nats / np.log(2), rel=0.05)


def test_normal_integrals():
    """log P(z): known values, symmetry, and both formulas on both sides of CDF_TAIL. log masses far from 0,
    from the density and its slope.
    """
    z = np.array([0.0, 1.959963984540054, -1.959963984540054, -np.inf, np.inf])
    np.testing.assert_allclose(np.exp(log_normal_cdf(z)), [0.5, 0.975, 0.025, 0, 1], rtol=1e-12)
    series, erfc, below = log_normal_cdf(np.array([-25 - 1e-9, -25 + 1e-9, -26.0]))
    assert abs(series - erfc) < 1e-6
    assert below == pytest.approx(math.log(math.erfc(26 / math.sqrt(2)) / 2), abs=1e-8)
    for far in (-1000.0, 1000.0):
        mass = log_normal_mass(np.array([far - 1e-4]), np.array([far + 1e-4])).item()
        density = -far ** 2 / 2 - math.log(2 * math.pi) / 2
        width = math.log((math.exp(0.1) - math.exp(-0.1)) / 1000)
        assert mass - density == pytest.approx(width, abs=1e-7)


@pytest.mark.parametrize("T", [7, 8])
def test_float32_stays_float32(T):
    """The network is asked with it and answers in it. The terms are Python floats, as close to those of
    float64 as float32 allows.
    """
    schedule, config = rescaled_linear(T), mlp.Config(hidden=(8,), time_dim=4)
    params, noise = mlp.init(config, generator(0, "init")), np.random.default_rng(0).standard_normal((6, 2))
    results = {}
    for dtype in (np.float32, np.float64):
        backend = NumpyBackend(dtype=np.dtype(dtype).name)
        denoiser, asked, x = backend.make_denoiser(config, params), [], backend.asarray(points(6))

        def divergence(x, t):
            asked.append(x.dtype)
            return denoiser.divergence(x, t)

        def predict(x, t):
            answer, _ = divergence(x, t)
            return answer

        flow = to_noise(divergence, x, schedule)
        likelihood = log_likelihood(divergence, x, schedule)
        bound = variational_bound(predict, x, schedule, lambda t: backend.asarray(noise), gaussian_decoder)
        assert {*asked, *(array.dtype for array in (*flow, likelihood))} == {np.dtype(dtype)}
        results[dtype] = likelihood, bound
    for single, double in zip(*results.values()):
        np.testing.assert_allclose(single, double, rtol=1e-4, atol=1e-4)


def test_the_bound_runs_on_lists():
    """The toy backend's arrays, against NumPy's with the same answers."""
    backend, schedule, x = ToyBackend(), cosine(12), points(4)
    noise = np.random.default_rng(0).standard_normal((13, 4, 2))
    toy = backend.make_denoiser(mlp.Config(), {})
    toy.w = [[0.3, -0.2], [0.1, 0.4], [0.5, 0.1], [0.2, -0.3]]

    def noise_as_lists(t):
        return backend.asarray(noise[t])

    def predict_arrays(x, t):
        return backend.to_numpy(toy.predict(x.tolist(), t))

    of_lists = variational_bound(toy.predict, backend.asarray(x), schedule, noise_as_lists, gaussian_decoder)
    of_arrays = variational_bound(predict_arrays, x, schedule, noise.__getitem__, gaussian_decoder)
    np.testing.assert_allclose(of_lists, of_arrays, rtol=1e-12)


@pytest.mark.parametrize(
    "schedule",
    [linear(200), linear(50), rescaled_linear(1000)],
    ids=["linear 200", "linear 50", "rescaled 1000"],
)
def test_prior_kl_against_monte_carlo(schedule):
    """The KL divergence is the mean of log q(x_T | x_0) - log N(x_T; 0, I) over draws of x_T."""
    rng, alpha_bar = np.random.default_rng(0), schedule.alpha_bar[-1]
    x0 = rng.exponential(2.0, (4, 3))
    noise = rng.standard_normal((200_000, 4, 3))
    x_T = alpha_bar ** 0.5 * x0 + (1 - alpha_bar) ** 0.5 * noise
    ratio = ((x_T ** 2 - noise ** 2 - np.log(1 - alpha_bar)) / 2).mean((1, 2))
    assert prior_kl(x0, schedule) == pytest.approx(ratio.mean(), abs=4 * ratio.std() / len(ratio) ** 0.5)


def test_prior_kl_vanishes_with_the_signal():
    for no_signal in (zero_terminal_snr(linear(10)), straight(20)):
        assert prior_kl(np.full((2, 2), 1e6), no_signal) == 0
    assert prior_kl(np.zeros((2, 2)), linear(10)) > 0
