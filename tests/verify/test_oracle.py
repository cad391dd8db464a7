"""The exact denoiser, compared with numerical integration, with the derivatives of its own density, and with
random draws.
"""

from types import SimpleNamespace

import numpy as np
import pytest

from npdiff.data.moons import MEAN, SCALE
from npdiff.diffusion import q_sample
from npdiff.samplers import ancestral, time_pairs, to_x0_eps
from npdiff.schedule import linear, make_schedule, rescaled_linear
from npdiff.verify.floor import bayes_floor, floor_by_t
from npdiff.verify.gradcheck import complex_step
from npdiff.verify.oracle import GaussianMixture, Moons, oracle_of

MOONS = Moons()
LINE = GaussianMixture([0.2, 0.5, 0.3], [[-2], [0.5], [3]], [[[0.1]], [[0.5]], [[0.02]]])
FAR_PARTS = GaussianMixture([0.5, 0.5], [[-20], [20]], [[[0.01]], [[0.04]]])
PLANE = GaussianMixture(
    [0.36, 0.64], [[0.9, -1.0], [-0.35, 0.25]], [[[0.64, 0.36], [0.36, 0.64]], [[0.5, -0.2], [-0.2, 0.3]]]
)


def mean_and_covariance(mixture):
    mean = mixture.weights @ mixture.means
    offsets = mixture.means - mean
    of_each = mixture.covariances + offsets[:, :, None] * offsets[:, None]
    return mean, np.einsum("k,kde->de", mixture.weights, of_each)


def summed_posterior(x, alpha_bar, x0, log_weight):
    """What Oracle.posterior answers if x_0 is one of the points x0 (M, D), with the log weights (M,).

    Bayes' rule, one x after the other.
    """
    answers = []
    for point in x:
        log_joint = log_weight - ((point - alpha_bar ** 0.5 * x0) ** 2).sum(1) / (2 * (1 - alpha_bar))
        share = np.exp(log_joint - log_joint.max())
        log_p = np.log(share.sum()) + log_joint.max() - len(point) / 2 * np.log(2 * np.pi * (1 - alpha_bar))
        mean = np.average(x0, 0, share)
        answers.append((log_p, mean, np.average(((x0 - mean) ** 2).sum(1), 0, share)))
    return [np.array(parts) for parts in zip(*answers)]


def assert_close(answer, expected, rtol):
    for a, b in zip(answer, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("mixture, step", [(LINE, 0.01), (PLANE, 0.05)])
def test_mixture_against_integration(mixture, step):
    axes = np.meshgrid(*[np.arange(-8, 8, step)] * mixture.dim)
    x0 = np.stack([axis.ravel() for axis in axes], axis=1)
    density = np.zeros(len(x0))
    for weight, mean, covariance in zip(mixture.weights, mixture.means, mixture.covariances):
        squared = ((x0 - mean) @ np.linalg.inv(covariance) * (x0 - mean)).sum(1)
        density += weight * np.exp(-squared / 2) / np.linalg.det(2 * np.pi * covariance) ** 0.5
    np.testing.assert_allclose(np.exp(mixture.log_density(x0, 1.0)), density, atol=1e-12)
    x = np.random.default_rng(0).normal(0, 2, (6, mixture.dim))
    with np.errstate(divide="ignore"):
        log_weight = np.log(density * step ** mixture.dim)
    for alpha_bar in (0.05, 0.5, 0.95):
        assert_close(mixture.posterior(x, alpha_bar), summed_posterior(x, alpha_bar, x0, log_weight), 1e-9)


def test_one_gaussian_in_closed_form():
    mean, covariance = np.array([1.0, -2.0]), np.array([[1.0, 0.6], [0.6, 0.5]])
    oracle, x = GaussianMixture([1], [mean], [covariance]), np.random.default_rng(0).normal(0, 3, (5, 2))
    for alpha_bar in (0.0, 1e-4, 0.3, 0.9999, 1.0):
        a, total = alpha_bar ** 0.5, alpha_bar * covariance + (1 - alpha_bar) * np.eye(2)
        log_p, x0, variance = oracle.posterior(x, alpha_bar)
        gain = a * covariance @ np.linalg.inv(total)
        np.testing.assert_allclose(x0, mean + (x - a * mean) @ gain.T, rtol=1e-12)
        np.testing.assert_allclose(variance, np.trace(covariance - a * gain @ covariance), atol=1e-12)
        squared = ((x - a * mean) @ np.linalg.inv(total) * (x - a * mean)).sum(1)
        expected = -squared / 2 - np.log(np.linalg.det(2 * np.pi * total)) / 2
        np.testing.assert_allclose(log_p, expected, rtol=1e-12)


EDGES = np.concatenate([[0], np.geomspace(1e-7, 0.01, 30), np.linspace(0.01, np.pi / 2, 130)[1:]])


def arc_points(edges=EDGES):
    """Points of the noiseless arcs, (M, 2), and the logs of their weights.

    Each quarter circle is cut at `edges`, angles from its end to the arc's middle, with 16 Gauss nodes in
    each part.
    """
    nodes, heights = np.polynomial.legendre.leggauss(16)
    theta = (edges[:-1, None] + np.diff(edges)[:, None] * (nodes + 1) / 2).ravel()
    weight = np.tile((np.diff(edges)[:, None] * heights / 2).ravel(), 2) / (2 * np.pi)
    theta = np.concatenate([theta, np.pi - theta])
    upper = np.stack([np.cos(theta), np.sin(theta)], axis=1)
    return SCALE * np.concatenate([upper, (1, 0.5) - upper]), np.log(np.tile(weight, 2))


def test_moons_against_a_finer_rule():
    """At every noise level, near and far.

    Jitter and noise are one Gaussian of variance v. After scaling to power one, x_t is that of arcs without
    jitter.
    """
    points, log_weight = arc_points()
    rng = np.random.default_rng(0)
    near, far = rng.normal(0, 2, (8, 2)), rng.normal(0, 30, (4, 2))
    special = [[0, 0], [0, -2], [1.5, 40], [0.3, 0], [SCALE, 0.75]]
    x = np.concatenate([MOONS.sample(4, rng), near, far, special])
    for alpha_bar in (1e-9, 4e-5, 0.01, 0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.97, 0.99, 0.999, 0.9999):
        a, v = alpha_bar ** 0.5, alpha_bar * MOONS.variance + 1 - alpha_bar
        scale = (alpha_bar + v) ** -0.5
        log_p, c, spread = summed_posterior(scale * x, alpha_bar * scale ** 2, points, log_weight)
        shrink = (1 - alpha_bar) / v
        x0 = shrink * c + a * MOONS.variance / v * x
        variance = 2 * MOONS.variance * shrink + shrink ** 2 * spread
        assert_close(MOONS.posterior(x, alpha_bar), (log_p + 2 * np.log(scale), x0, variance), 2e-12)
        eps = (1 - alpha_bar) ** 0.5 / v * (x - a * c)
        np.testing.assert_allclose(MOONS.eps(x, alpha_bar), eps, rtol=2e-12, atol=2e-12)


def test_moons_from_very_far():
    """From there only one point of the arcs counts, the one that reaches farthest towards x."""
    turn = np.linspace(0, 2 * np.pi, 50)
    direction = np.stack([np.cos(turn), np.sin(turn)], axis=1)
    points, _ = arc_points()
    farthest = points[np.argmax(direction @ points.T, axis=1)]
    for alpha_bar in (1e-9, 0.5, 0.9999):
        x, v = 1e9 * direction, alpha_bar * MOONS.variance + 1 - alpha_bar
        c = (MOONS.x0(x, alpha_bar) * v - alpha_bar ** 0.5 * MOONS.variance * x) / (1 - alpha_bar)
        np.testing.assert_allclose(c, farthest, atol=1e-2)
        assert np.isfinite(MOONS.log_density(x, alpha_bar)).all()


@pytest.mark.parametrize("oracle", [LINE, PLANE, MOONS])
@pytest.mark.parametrize("alpha_bar", [0.0, 0.02, 0.5, 0.9, 0.999])
def test_score_is_the_gradient_of_the_log_density(oracle, alpha_bar):
    """The score gives the mean and the covariance of x_0 given x (Tweedie's formulas):

        a E[x_0 | x] = x + sigma^2 score        a^2 cov(x_0 | x) = sigma^2 (I + sigma^2 ∂score/∂x)
    """
    rng = np.random.default_rng(0)
    x, sigma2 = 2 * oracle.sample(10, rng) + rng.normal(0, 1, (10, oracle.dim)), 1 - alpha_bar
    score = complex_step(lambda z: oracle.log_density(z, alpha_bar).sum(), x)
    scale = abs(score).max()
    np.testing.assert_allclose(oracle.score(x, alpha_bar), score, rtol=0, atol=1e-12 * scale)
    np.testing.assert_allclose(oracle.eps(x, alpha_bar), -sigma2 ** 0.5 * score, rtol=0, atol=1e-12 * scale)
    _, x0, variance = oracle.posterior(x, alpha_bar)
    np.testing.assert_allclose(alpha_bar ** 0.5 * x0, x + sigma2 * score, atol=1e-11)
    rows = [complex_step(lambda z: oracle.score(z, alpha_bar)[:, d].sum(), x) for d in range(oracle.dim)]
    divergence = sum(row[:, d] for d, row in enumerate(rows))
    np.testing.assert_allclose(alpha_bar * variance, sigma2 * (oracle.dim + sigma2 * divergence), atol=1e-11)


def test_without_signal_and_without_noise():
    x = np.random.default_rng(0).normal(0, 3, (5, 2))
    for oracle, mean in ((MOONS, MEAN), (PLANE, mean_and_covariance(PLANE)[0])):
        np.testing.assert_allclose(oracle.x0(x, 0.0), np.tile(mean, (5, 1)), rtol=1e-12)
        np.testing.assert_array_equal(oracle.eps(x, 0.0), x)
        np.testing.assert_array_equal(oracle.score(x, 0.0), -x)
        np.testing.assert_allclose(oracle.x0(x, 1.0), x, rtol=1e-12)


def test_predict_is_a_networks_predict():
    schedule, x = linear(200), np.random.default_rng(0).normal(0, 1, (300, 2))
    t = 1 + np.arange(300) % 200
    for oracle in (MOONS, PLANE):
        predict = oracle.predict(schedule)
        each = predict(x, t)
        for i in (0, 7, 299):
            np.testing.assert_allclose(predict(x[i:i + 1], int(t[i]))[0], each[i], rtol=1e-12)
        x32 = x.astype(np.float32)
        assert predict(x32, t).dtype == np.float32 and predict(x[:0], 5).shape == (0, 2)
        np.testing.assert_allclose(predict(x32, t), predict(x32.astype(np.float64), t), rtol=1e-6)
        for wrong, message in [(0, "t is 0"), (201, "t is 201"), (t[:5], r"alpha_bar has shape \(5,\)")]:
            with pytest.raises(ValueError, match=message):
                predict(x, wrong)


def test_mixture_draws_have_its_moments():
    x = PLANE.sample(100_000, np.random.default_rng(0))
    mean, covariance = mean_and_covariance(PLANE)
    np.testing.assert_allclose(x.mean(0), mean, atol=4 * (covariance.max() / len(x)) ** 0.5)
    np.testing.assert_allclose(np.cov(x.T), covariance, atol=4 * (2 / len(x)) ** 0.5 * covariance.max())


@pytest.mark.slow
def test_sampler_with_the_oracle_returns_the_mixture():
    """In 80 jumps. The last, from t = 12, leaves out 0.25 % of the variance, half a standard error.

    (With every timestep it takes a minute.)
    """
    schedule, n, rng = rescaled_linear(1000), 100_000, np.random.default_rng(0)
    mixture = GaussianMixture([0.36, 0.64], [[0.9, -1], [-0.35, 0.25]], [[[0.64, 0.36], [0.36, 0.64]]] * 2)

    def noise(t):
        return rng.standard_normal((n, 2))

    denoise, start = to_x0_eps(mixture.predict(schedule), schedule), rng.standard_normal((n, 2))
    *_, (_, x) = ancestral(denoise, start, schedule, noise, time_pairs(1000, 80), "beta")
    mean, covariance = mean_and_covariance(mixture)
    variance = np.diag(covariance)
    np.testing.assert_array_less(abs(x.mean(0) - mean), 4 * (variance / n) ** 0.5)
    standard_error = ((variance * variance[:, None] + covariance ** 2) / n) ** 0.5
    np.testing.assert_array_less(abs(np.cov(x.T) - covariance), 4 * standard_error)


def test_mmse_of_gaussians_and_at_the_ends():
    snr = np.geomspace(1e-8, 1e6, 4).reshape(2, 2)
    for covariance in (np.eye(1) * 1e-4, np.array([[2.0, 0.3], [0.3, 0.4]]), np.diag([0.5, 1, 2])):
        oracle = GaussianMixture([1], [np.full(len(covariance), 3.0)], [covariance])
        variances = np.linalg.eigvalsh(covariance)
        expected = (variances / (1 + snr[..., None] * variances)).sum(-1)
        np.testing.assert_allclose(oracle.mmse(snr), expected, rtol=1e-7)
    _, covariance = mean_and_covariance(PLANE)
    assert PLANE.mmse(0) == pytest.approx(np.trace(covariance), rel=1e-7)
    # the arcs' variance: 0.75 in x, 0.5625 - 1/pi in y
    of_arcs = SCALE ** 2 * (0.75 + 0.5625 - 1 / np.pi)
    assert MOONS.mmse(0) == pytest.approx(of_arcs + 2 * MOONS.variance, rel=1e-7)
    assert MOONS.mmse(1e7) == pytest.approx(2e-7, rel=1e-3)


def fine_mmse(snr):
    """The moons' MMSE, computed in another way: on a fine lattice, with integrals as matrix products.

    They are that because every Gaussian is a product of one factor for each coordinate.
    """
    points, log_weight = arc_points(np.linspace(0, np.pi / 2, 20))
    alpha_bar = snr / (1 + snr)
    a, v = alpha_bar ** 0.5, alpha_bar * MOONS.variance + 1 - alpha_bar
    factors = []
    for centre in a * points.T:
        axis = np.arange(centre.min() - 8 * v ** 0.5, centre.max() + 8 * v ** 0.5, 0.25 * v ** 0.5)
        factors.append(np.exp(-(axis[:, None] - centre) ** 2 / (2 * v)))                        # (lattice, M)
    moments = np.stack([np.ones(len(points)), *points.T, (points ** 2).sum(1)])                     # (4, M)
    weights = np.exp(log_weight) * moments                                                          # (4, M)
    p, mx, my, squared = ((factors[0] * w) @ factors[1].T for w in weights)
    shrink = (1 - alpha_bar) / v
    spread = (squared - (mx * mx + my * my) / np.maximum(p, 1e-290)).sum() / p.sum()
    return 2 * MOONS.variance * shrink + shrink ** 2 * spread


def test_mmse_against_a_finer_and_wider_sum():
    for snr in (18.0, 60.0, 1e4):
        assert MOONS.mmse(snr) == pytest.approx(fine_mmse(snr), rel=3e-5)
    for mixture in (LINE, FAR_PARTS):
        for snr in (0.01, 0.04, 0.05, 1.0, 20.0, 1000.0):
            x = np.linspace(-28, 28, 100_001)[:, None]
            log_p, _, variance = mixture.posterior(x, snr / (1 + snr))
            expected = (np.exp(log_p) * variance).sum() * (x[1, 0] - x[0, 0])
            assert mixture.mmse(snr) == pytest.approx(expected, rel=3e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, T, known",
    [
        ("linear", 200, 0.455),
        ("linear", 1000, 0.216),
        ("rescaled_linear", 200, 0.212),
        ("cosine", 200, 0.373),
    ],
)
def test_moons_floor_against_a_finer_rule_and_known_means(name, T, known):
    schedule = make_schedule(name, T)
    floor = floor_by_t(MOONS, schedule)
    assert floor.shape == (T + 1,) and np.isnan(floor[0]) and (floor[1:] > 0).all() and (floor[1:] < 1).all()
    assert floor[1:].mean() == pytest.approx(known, abs=0.003)         # known by Monte Carlo
    for t in (1, T // 10, T // 3, T * 2 // 3, T):
        assert floor[t] == pytest.approx(schedule.snr[t] * fine_mmse(schedule.snr[t]) / 2, rel=1e-4)


def test_floor_of_mixtures():
    """That of a Gaussian in closed form. That of two far, narrow components against every t computed: their
    MMSE has a corner, which the interpolation must notice.
    """
    schedule = rescaled_linear(1000)
    snr = schedule.snr[1:]
    gaussian = GaussianMixture([1], [[5.0]], [[[0.01]]])
    np.testing.assert_allclose(floor_by_t(gaussian, schedule)[1:], 1 - 1 / (1 + 0.01 * snr), rtol=1e-4)
    every_t = snr * FAR_PARTS.mmse(snr)
    np.testing.assert_allclose(floor_by_t(FAR_PARTS, schedule)[1:], every_t, rtol=2e-4)


def test_floor_where_nothing_is_left_of_the_signal():
    snr = np.array([np.inf, 9.0, 1.0, 0.0])
    alpha_bar = np.append(1.0, snr[1:] / (1 + snr[1:]))
    end = SimpleNamespace(T=3, snr=snr, a=alpha_bar ** 0.5, sigma=(1 - alpha_bar) ** 0.5)
    floor = floor_by_t(LINE, end)
    assert floor[3] == 0 and floor[1] == pytest.approx(9 * LINE.mmse(9.0))
    assert bayes_floor(LINE, end) == floor[1:].mean()


@pytest.mark.parametrize("oracle", [MOONS, PLANE])
@pytest.mark.parametrize("t", [1, 10, 40, 100, 200])
def test_the_floor_is_the_oracles_error_and_no_other_answer_does_better(oracle, t):
    """On real draws. The error of eps* is orthogonal to every function of x_t, so a change of the answer adds
    its own mean square to the loss.
    """
    schedule, n, rng = linear(200), 10_000, np.random.default_rng(0)
    noise = rng.standard_normal((n, 2))
    x_t = q_sample(oracle.sample(n, rng), t, noise, schedule)
    eps = oracle.predict(schedule)(x_t, t)
    squared = ((noise - eps) ** 2).mean(1)
    floor = schedule.snr[t] * oracle.mmse(schedule.snr[t]) / 2
    assert abs(squared.mean() - floor) < 4 * squared.std() / n ** 0.5
    for direction in (eps, np.ones((n, 2)), x_t, np.sin(3 * x_t)):
        change = 0.1 * direction / (direction ** 2).mean() ** 0.5
        inner = ((noise - eps) * change).mean(1)
        assert abs(inner.mean()) < 4 * inner.std() / n ** 0.5
        assert all(((noise - eps - sign * change) ** 2).mean() > squared.mean() for sign in (-1, 1))


@pytest.mark.parametrize(
    "weights, means, covariances, message",
    [
        ([1], [[0, 0]], [[1, 1]], "have shapes"),
        ([0.5, 0.5], [[0]], [[[1]]], "have shapes"),
        ([], np.zeros((0, 2)), np.zeros((0, 2, 2)), "have shapes"),
        ([0.5, 0.4], [[0], [1]], [[[1]], [[1]]], "sum to 1"),
        ([1.5, -0.5], [[0], [1]], [[[1]], [[1]]], "positive and sum"),
        ([1], [[np.nan]], [[[1]]], "means are"),
        ([1], [[0, 0]], [[[1, 0.5], [0.4, 1]]], "symmetric"),
        ([1], [[0, 0]], [[[1, 2], [2, 1]]], "positive definite"),
        ([0.5, 0.5], [[0], [1]], [[[1]], [[0]]], r"covariances\[1\] is \[\[0.0\]\]"),
    ],
)
def test_refuses_mixtures(weights, means, covariances, message):
    with pytest.raises(ValueError, match=message):
        GaussianMixture(weights, means, covariances)


@pytest.mark.parametrize(
    "x, alpha_bar, message",
    [
        (np.zeros(2), 0.5, r"x has shape \(2,\)"),
        (np.zeros((4, 3)), 0.5, r"takes \(N, 2\)"),
        (np.full((4, 2), np.inf), 0.5, "x holds inf"),
        (np.zeros((4, 2)), 1.5, "alpha_bar is 1.5"),
        (np.zeros((4, 2)), np.nan, "alpha_bar is nan"),
        (np.zeros((4, 2)), np.zeros(3), "for 4 points"),
        (np.zeros((4, 2)), 1.0, "no noise to predict"),
    ],
)
def test_refuses_points(x, alpha_bar, message):
    for oracle in (MOONS, PLANE):
        for answer in (oracle.eps, oracle.score):
            with pytest.raises(ValueError, match=message):
                answer(x, alpha_bar)


def test_refuses_snr_and_lattices_out_of_reach():
    for snr in (-1.0, np.inf, np.nan, np.array([1.0, -2.0])):
        with pytest.raises(ValueError, match="must be finite and not negative"):
            MOONS.mmse(snr)
    with pytest.raises(ValueError, match="must have at most"):
        GaussianMixture([0.5, 0.5], [[0, 0], [100, 100]], [np.eye(2) * 1e-4] * 2).mmse(1e4)


def test_oracle_of():
    assert isinstance(oracle_of("moons"), Moons) and oracle_of("fashion-mnist") is None
