"""Likelihoods against densities known in closed form: a Gaussian's chain term by term, a mixture's flow point
by point, a small chain on a grid.
"""

import itertools
import math

import numpy as np
import pytest
from toy_backend import ToyBackend

from npdiff.backends.numpy import NumpyBackend
from npdiff.diffusion import (
    PREDICTION_TYPES,
    eps_from_x0,
    posterior_variance,
    prediction_target,
    prior_kl,
    transition_beta,
)
from npdiff.evaluation.likelihood import (
    discretised_decoder,
    gaussian_decoder,
    log_likelihood,
    log_normal_cdf,
    log_normal_mass,
    model_variance,
    to_noise,
    variational_bound,
    velocity_coefficients,
)
from npdiff.models import mlp
from npdiff.rng import generator
from npdiff.schedule import cosine, linear, make_schedule, rescaled_linear, zero_terminal_snr

# A mixture of three round Gaussians in the plane, of mean 0 and nearly the covariance I: what alpha_bar_T
# leaves of it in x_T is then little.
WEIGHTS = np.array([0.5, 0.3, 0.2])
MEANS = np.array([[-0.9, 0.3], [1.2, 0.7], [0.45, -1.8]])
VARIANCES = np.array([0.04, 0.25, 0.01])


def mixture(x, alpha_bar):
    """Of the noised mixture, at x (N, 2): the log density (N,), its gradient (N, 2) and its Laplacian (N,).
    """
    variance = alpha_bar * VARIANCES + 1 - alpha_bar                                            # (3,)
    offset = x[:, None] - alpha_bar ** 0.5 * MEANS                                              # (N, 3, 2)
    log_terms = np.log(WEIGHTS / (2 * np.pi * variance)) - (offset ** 2).sum(2) / (2 * variance)  # (N, 3)
    log_density = np.logaddexp.reduce(log_terms, axis=1)
    share = np.exp(log_terms - log_density[:, None])
    pull = -offset / variance[:, None]
    score = (share[..., None] * pull).sum(1)
    return log_density, score, (share * ((pull ** 2).sum(2) - 2 / variance)).sum(1) - (score ** 2).sum(1)


def mixture_divergence(schedule, prediction_type="epsilon"):
    """The perfect denoiser's divergence.

    Its eps is -sigma score, its x_0 follows, and any answer is linear in the two, so its trace is so in their
    traces.
    """

    def divergence(x, t):
        _, score, laplacian = mixture(x, schedule.alpha_bar[t])
        a, sigma = float(schedule.a[t]), float(schedule.sigma[t])
        # at a = 0 the data's mean
        x0, x0_trace = (
            ((x + sigma**2 * score) / a, (2 + sigma**2 * laplacian) / a) if a else (0 * x, 0 * laplacian)
        )
        return (prediction_target(x0, t, -sigma * score, schedule, prediction_type),
                prediction_target(x0_trace, t, -sigma * laplacian, schedule, prediction_type))

    return divergence


def points(n):
    """Half of them drawn from the mixture, half from a square much larger than it."""
    rng = np.random.default_rng(0)
    k = rng.choice(3, n // 2, p=WEIGHTS)
    return np.concatenate(
        [
            MEANS[k] + VARIANCES[k, None] ** 0.5 * rng.standard_normal((n // 2, 2)),
            rng.uniform(-3, 3, (n - n // 2, 2)),
        ]
    )


@pytest.mark.parametrize(
    "name, T, tolerance", [("rescaled_linear", 1000, 1e-3), ("cosine", 1000, 1e-4), ("cosine", 999, 1e-4)]
)
def test_the_flow_finds_the_mixtures_density(name, T, tolerance):
    schedule, x = make_schedule(name, T), points(200)
    exact, _, _ = mixture(x, 1.0)
    assert exact.min() < -40 and exact.max() > 1
    assert abs(log_likelihood(mixture_divergence(schedule), x, schedule) - exact).max() < tolerance


def test_the_flow_is_right_where_its_end_is_not():
    """alpha_bar_T = 0.13: taking x_T for standard normal costs nats, with the mixture's own density at T in
    its place the error is that of 200 steps.
    """
    schedule, x = linear(200), points(200)
    exact, _, _ = mixture(x, 1.0)
    x_T, log_det = to_noise(mixture_divergence(schedule), x, schedule)
    assert abs(mixture(x_T, schedule.alpha_bar[-1])[0] + log_det - exact).max() < 5e-3
    assert abs(log_likelihood(mixture_divergence(schedule), x, schedule) - exact).max() > 1


def test_more_steps_pay():
    """Twice the steps, less than a quarter of the error."""
    schedule, x = cosine(960), points(100)
    exact, _, _ = mixture(x, 1.0)
    errors = [
        np.median(abs(log_likelihood(mixture_divergence(schedule), x, schedule, steps=steps) - exact))
        for steps in (30, 60, 120, 240)
    ]
    assert all(coarse > 4 * fine for coarse, fine in zip(errors, errors[1:]))


@pytest.mark.parametrize(
    "schedule", [cosine(100), zero_terminal_snr(cosine(100))], ids=["cosine", "no signal at T"]
)
def test_all_predictions_flow_alike(schedule):
    x, no_signal = points(50), schedule.alpha_bar[-1] == 0
    kinds = ["v_prediction"] if no_signal else PREDICTION_TYPES
    by_type = {kind: log_likelihood(mixture_divergence(schedule, kind), x, schedule, kind) for kind in kinds}
    assert abs(by_type["v_prediction"] - mixture(x, 1.0)[0]).max() < 0.02
    for result in by_type.values():
        np.testing.assert_allclose(result, by_type["v_prediction"], rtol=1e-7)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_velocity_coefficients(prediction_type):
    """The velocity of an x_0 and its noise, again from what a network would have answered."""
    schedule, (x, x0) = rescaled_linear(50), np.random.default_rng(0).standard_normal((2, 3, 2))
    for t in (1, 20, 50):
        prediction = prediction_target(x0, t, eps_from_x0(x, t, x0, schedule), schedule, prediction_type)
        of_x, of_prediction = velocity_coefficients(t, schedule, prediction_type)
        assert type(of_x) is type(of_prediction) is float
        velocity = prediction_target(x0, t, eps_from_x0(x, t, x0, schedule), schedule, "v_prediction")
        np.testing.assert_allclose(of_x * x + of_prediction * prediction, velocity, rtol=1e-9, atol=1e-9)


def test_a_networks_density_integrates_to_one():
    """Any network's: the flow is invertible whatever it predicts.

    The grid is as wide as N(0, I) needs, and log_det far from constant on it.
    """
    config, schedule = mlp.Config(hidden=(16, 16), time_dim=4, fourier_features=2), rescaled_linear(40)
    rng = generator(0, "init")
    params = {
        name: array + 0.1 * rng.standard_normal(array.shape) for name, array in mlp.init(config, rng).items()
    }
    denoiser = NumpyBackend(dtype="float64").make_denoiser(config, params)
    side, step = np.linspace(-7, 7, 41, retstep=True)
    grid = np.array(list(itertools.product(side, side)))
    _, log_det = to_noise(denoiser.divergence, grid, schedule, "v_prediction")
    assert np.ptp(log_det) > 1
    density = np.exp(log_likelihood(denoiser.divergence, grid, schedule, "v_prediction"))
    assert density.sum() * step ** 2 == pytest.approx(1, abs=1e-4)


def test_the_determinant_is_that_of_the_map():
    """An affine network's map is affine, so its Jacobian can be read off three points.

    On the toy backend, whose arrays are lists.
    """
    backend, schedule = ToyBackend(), cosine(200)
    denoiser = backend.make_denoiser(mlp.Config(), {})
    denoiser.w = [[0.3, -0.2], [0.1, 0.4], [0.5, 0.1], [0.2, -0.3]]
    end = [
        backend.to_numpy(to_noise(denoiser.divergence, backend.asarray(x), schedule, "v_prediction")[0])
        for x in ([[0, 0], [1, 0], [0, 1]], [[2, -1]])
    ]
    jacobian = end[0][1:] - end[0][0]                                       # row i is what e_i adds
    np.testing.assert_allclose(end[1][0], end[0][0] + np.array([2, -1]) @ jacobian, rtol=1e-12)
    result = backend.to_numpy(
        log_likelihood(denoiser.divergence, backend.asarray([[2, -1]]), schedule, "v_prediction")
    )
    expected = math.log(np.linalg.det(jacobian)) - (end[1] ** 2).sum() / 2 - math.log(2 * math.pi)
    np.testing.assert_allclose(result, [expected], rtol=1e-6)


@pytest.mark.parametrize("function", [log_likelihood, to_noise])
def test_what_the_flow_refuses(function):
    divergence = mixture_divergence(linear(10))
    for wrong, message in [
        ({"steps": 5}, "steps is 5; .* must be even"),
        ({"steps": 12}, "takes 1..10"),
        ({"steps": 0}, "takes 1..10"),
        ({"x0": np.ones((2, 1, 4, 4))}, r"x has shape \(2, 1, 4, 4\); .* vectors"),
        ({"prediction_type": "noise"}, "prediction_type is 'noise'"),
        ({"schedule": zero_terminal_snr(linear(10))}, "prediction_type is 'epsilon', but alpha_bar_T is 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            function(**{"divergence": divergence, "x0": np.ones((2, 2)), "schedule": linear(10)} | wrong)


MEAN, VARIANCE = 0.7, 0.3
# Two values each of x_0 and of noise, with the distributions' means and variances: for a linear denoiser the
# average over all four pairs is the expectation.
X0 = np.array([MEAN - VARIANCE ** 0.5, MEAN + VARIANCE ** 0.5]).repeat(2)[:, None]
NOISE = np.array([-1.0, 1.0, -1.0, 1.0])[:, None]


def gaussian_eps(x, t, schedule):
    """E[eps | x_t = x] for data N(MEAN, VARIANCE)."""
    alpha_bar = float(schedule.alpha_bar[t])
    return (1 - alpha_bar) ** 0.5 * (x - alpha_bar ** 0.5 * MEAN) / (alpha_bar * VARIANCE + 1 - alpha_bar)


@pytest.mark.parametrize("variance", ["beta", "posterior"])
def test_every_term_for_gaussian_data(variance):
    """Each against its closed form, with E (x_0 - E[x_0 | x_t])^2 = VARIANCE (1 - alpha_bar) / (alpha_bar
    VARIANCE + 1 - alpha_bar).
    """
    schedule = rescaled_linear(100)
    terms = variational_bound(
        lambda x, t: gaussian_eps(x, t, schedule), X0, schedule, lambda t: NOISE, gaussian_decoder, variance
    )
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
    """At T = 1000 with variance beta, which suits such wide data, to 0.01 bits; 20 steps lose more, and so
    does the posterior variance.
    """
    entropy = math.log2(2 * math.pi * math.e * VARIANCE) / 2

    def total(T, variance):
        schedule = make_schedule(name, T)
        return variational_bound(
            lambda x, t: gaussian_eps(x, t, schedule),
            X0,
            schedule,
            lambda t: NOISE,
            gaussian_decoder,
            variance,
        ).sum()

    assert entropy < total(1000, "beta") < entropy + 0.01 < min(total(20, "beta"), total(1000, "posterior"))


def test_the_bound_of_the_mixture_lies_above_its_density():
    """A perfect denoiser, and 100 steps: about 0.1 bits are lost, ten times the error of the draws."""
    schedule, n = rescaled_linear(100), 4000
    rng, x = np.random.default_rng(0), points(2 * n)[:n]
    divergence = mixture_divergence(schedule)
    bound = variational_bound(
        lambda x, t: divergence(x, t)[0],
        x,
        schedule,
        lambda t: rng.standard_normal(x.shape),
        gaussian_decoder,
        "beta",
    ).sum()
    exact = -mixture(x, 1.0)[0].mean() / 2 / math.log(2)
    assert exact + 0.03 < bound < exact + 0.2


@pytest.mark.parametrize("variance", ["beta", "posterior"])
def test_the_bound_holds_for_any_network(variance):
    """A random network's chain over one coordinate, p(x_0) exact by summing over a grid of x_1, x_2, ...:
    each x_0's bound lies above its -log2 p(x_0).
    """
    schedule, config, n = linear(5, 0.1, 0.4), mlp.Config(data_dim=1, hidden=(8,), time_dim=4), 20_000
    denoiser = NumpyBackend(dtype="float64").make_denoiser(config, mlp.init(config, generator(3, "init")))
    grid, step = np.linspace(-25, 25, 1201, retstep=True)

    def density(t, x):
        """p(x_{t-1} = x | x_t = grid), (len(grid), len(x))"""
        eps = denoiser.predict(grid[:, None], t)
        # Ho et al., eq. 11
        mean = (grid[:, None] - schedule.beta[t] / schedule.sigma[t] * eps) / schedule.alpha[t] ** 0.5
        sigma2 = model_variance(t, schedule, variance)
        return np.exp(-(x - mean) ** 2 / (2 * sigma2)) / (2 * np.pi * sigma2) ** 0.5

    marginal = np.exp(-grid ** 2 / 2) / (2 * np.pi) ** 0.5
    for t in range(5, 1, -1):
        marginal = marginal @ density(t, grid) * step
    assert marginal.sum() * step == pytest.approx(1, abs=1e-6)
    rng = np.random.default_rng(0)
    for x0 in (-1.5, 0.0, 0.4, 2.0):
        exact = -math.log2((marginal @ density(1, np.array([x0]))).item() * step)
        total = variational_bound(
            denoiser.predict,
            np.full((n, 1), x0),
            schedule,
            lambda t: rng.standard_normal((n, 1)),
            gaussian_decoder,
            variance,
        ).sum()
        assert exact < total < exact + 5


def test_the_variance_of_the_first_step():
    schedule = cosine(50)
    assert (
        model_variance(1, schedule, "posterior")
        == model_variance(2, schedule, "posterior")
        == posterior_variance(2, 1, schedule)
        > 0
    )
    assert (
        model_variance(1, schedule, "beta")
        == transition_beta(1, 0, schedule)
        != model_variance(2, schedule, "beta")
    )


def test_equivalent_predictions_have_one_bound():
    """Three answers that say the same; where alpha_bar_T = 0, the two that can."""
    for schedule, kinds in [
        (cosine(30), PREDICTION_TYPES),
        (zero_terminal_snr(cosine(30)), ("sample", "v_prediction")),
    ]:
        noises = np.random.default_rng(0).standard_normal((31, 6, 2))

        def predict(kind):
            def answer(x, t):
                x0 = 0.3 * np.tanh(x)
                return prediction_target(x0, t, eps_from_x0(x, t, x0, schedule), schedule, kind)
            return answer

        bounds = [
            variational_bound(
                predict(kind), points(6), schedule, noises.__getitem__, gaussian_decoder, "beta", kind
            )
            for kind in kinds
        ]
        for terms in bounds:
            assert np.isfinite(terms).all() and (terms[-1] == 0) == (schedule.alpha_bar[-1] == 0)
            np.testing.assert_allclose(terms, bounds[0], rtol=1e-9, atol=1e-12)


def test_what_the_bound_refuses():
    schedule, x = linear(10), np.zeros((2, 2))
    for wrong, message in [
        ({"variance": "gamma"}, "beta or posterior"),
        ({"prediction_type": "noise"}, "prediction_type is 'noise'"),
        ({"schedule": zero_terminal_snr(linear(10))}, "prediction_type is 'epsilon', but alpha_bar_T is 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            variational_bound(
                **{
                    "predict": lambda x, t: x,
                    "x0": x,
                    "schedule": schedule,
                    "noise": lambda t: x,
                    "decoder": gaussian_decoder,
                }
                | wrong
            )


LEVELS = (2 * np.arange(256) - 255) / 255


@pytest.mark.parametrize("mean", [0.0, -1.0, 0.9, 3.0])
@pytest.mark.parametrize("sigma", [1e-3, 0.01, 0.3, 5.0])
def test_the_levels_probabilities_sum_to_one(mean, sigma):
    log_p = np.array(
        [-discretised_decoder(np.array([level]), np.array([mean]), sigma**2) for level in LEVELS]
    )
    assert np.isfinite(log_p).all() and np.exp(log_p).sum() == pytest.approx(1, abs=1e-12)
    likeliest = LEVELS[np.argmax(log_p[1:-1]) + 1] if sigma < 1 else None
    assert likeliest is None or abs(likeliest - np.clip(mean, *LEVELS[[1, -2]])) <= 1 / 255


def test_narrow_bins_are_a_density():
    """Where sigma is much wider than a bin, the discretised decoder is the Gaussian one less the log of the
    bin's width.
    """
    rng = np.random.default_rng(0)
    x0, mean = LEVELS[rng.integers(1, 255, (20, 1, 3, 3))], rng.uniform(-1, 1, (20, 1, 3, 3))
    assert discretised_decoder(x0, mean, 4.0) == pytest.approx(
        gaussian_decoder(x0, mean, 4.0) - math.log(2 / 255), abs=1e-5
    )
    assert discretised_decoder(x0.astype(np.float32), mean, 4.0) == pytest.approx(
        discretised_decoder(x0, mean, 4.0), abs=1e-6
    )


@pytest.mark.parametrize("wrong", [1.01, -1.1, 0.0, np.nan])
def test_the_discretised_decoder_takes_levels_alone(wrong):
    with pytest.raises(ValueError, match=f"x0 holds {wrong}; the discretised decoder takes 8-bit levels"):
        discretised_decoder(np.array([LEVELS[3], wrong]), np.zeros(2), 1.0)


def images_bound(schedule, predict_x0, variance):
    """The bound's sum for images whose pixels are drawn evenly from all levels; predict_x0(x, t, x0)."""
    rng = np.random.default_rng(0)
    x0 = LEVELS[rng.integers(0, 256, (40, 1, 8, 8))].astype(np.float32)
    return variational_bound(
        lambda x, t: predict_x0(x, t, x0),
        x0,
        schedule,
        lambda t: rng.standard_normal(x0.shape, np.float32),
        discretised_decoder,
        variance,
        "sample",
    ).sum()


def test_images_have_a_bound():
    """Such pixels hold 8 bits each: the best linear denoiser comes near, and not below.

    One that is told the image needs next to nothing.
    """
    schedule = linear(200, 1e-5, 0.1)

    def best_linear(x, t, x0):
        a, sigma = float(schedule.a[t]), float(schedule.sigma[t])
        # the levels' variance is nearly 1/3
        return a / 3 / (a ** 2 / 3 + sigma ** 2) * x

    assert 8 < images_bound(schedule, best_linear, "beta") < 8.5
    assert 0 < images_bound(linear(200, 1e-6, 0.1), lambda x, t, x0: x0, "posterior") < 1e-3


def test_normal_integrals():
    """log P(z): the textbook's values, symmetry, and both formulas on both sides of the switch; log masses
    far out by the density's slope.
    """
    z = np.array([0.0, 1.959963984540054, -1.959963984540054, -np.inf, np.inf])
    np.testing.assert_allclose(np.exp(log_normal_cdf(z)), [0.5, 0.975, 0.025, 0, 1], rtol=1e-12)
    sides = log_normal_cdf(np.array([-25 - 1e-9, -25 + 1e-9, -26.0]))
    assert abs(sides[0] - sides[1]) < 1e-6 and sides[2] == pytest.approx(
        math.log(math.erfc(26 / math.sqrt(2)) / 2), abs=1e-8
    )
    for far in (-1000.0, 1000.0):
        a, b = np.array([far - 1e-4]), np.array([far + 1e-4])
        density = -far ** 2 / 2 - math.log(2 * math.pi) / 2
        assert log_normal_mass(a, b).item() - density == pytest.approx(
            math.log((math.exp(0.1) - math.exp(-0.1)) / 1000), abs=1e-7
        )


@pytest.mark.parametrize("T", [7, 8])
def test_float32_stays_float32(T):
    """The network is asked with it and answers in it; the terms are Python's floats, as close to float64's as
    float32 allows.
    """
    schedule, config = rescaled_linear(T), mlp.Config(hidden=(8,), time_dim=4)
    params, x, noise = (
        mlp.init(config, generator(0, "init")),
        points(6),
        np.random.default_rng(0).standard_normal((6, 2)),
    )
    results = {}
    for dtype in (np.float32, np.float64):
        backend = NumpyBackend(dtype=np.dtype(dtype).name)
        denoiser, asked = backend.make_denoiser(config, params), []

        def divergence(x, t):
            asked.append(x.dtype)
            return denoiser.divergence(x, t)

        flow = to_noise(divergence, backend.asarray(x), schedule)
        likelihood = log_likelihood(divergence, backend.asarray(x), schedule)
        bound = variational_bound(
            lambda x, t: divergence(x, t)[0],
            backend.asarray(x),
            schedule,
            lambda t: backend.asarray(noise),
            gaussian_decoder,
        )
        assert {*asked, *(array.dtype for array in (*flow, likelihood))} == {np.dtype(dtype)}
        results[dtype] = likelihood, bound
    for single, double in zip(*results.values()):
        np.testing.assert_allclose(single, double, rtol=1e-4, atol=1e-4)


def test_the_bound_runs_on_lists():
    """The toy backend's arrays, against NumPy's with the same answers."""
    backend, schedule, x, noise = (
        ToyBackend(),
        cosine(12),
        points(4),
        np.random.default_rng(0).standard_normal((13, 4, 2)),
    )
    toy = backend.make_denoiser(mlp.Config(), {})
    toy.w = [[0.3, -0.2], [0.1, 0.4], [0.5, 0.1], [0.2, -0.3]]
    of_lists = variational_bound(
        toy.predict, backend.asarray(x), schedule, lambda t: backend.asarray(noise[t]), gaussian_decoder
    )
    of_arrays = variational_bound(
        lambda x, t: backend.to_numpy(toy.predict(x.tolist(), t)),
        x,
        schedule,
        lambda t: noise[t],
        gaussian_decoder,
    )
    np.testing.assert_allclose(of_lists, of_arrays, rtol=1e-12)


def test_prior_kl_vanishes_with_the_signal():
    assert prior_kl(np.full((2, 2), 1e6), zero_terminal_snr(linear(10))) == 0
    assert prior_kl(np.zeros((2, 2)), linear(10)) > 0
