"""The metrics against their definitions; that they tell good samples from bad, and a loss from its floor."""

from dataclasses import replace

import numpy as np
import pytest
from fashion import REAL, needs_data

from npdiff.backends.numpy import NumpyBackend
from npdiff.data.fashion_mnist import real_digest
from npdiff.data.moons import MEAN, SCALE, make_moons
from npdiff.diffusion import loss_weights
from npdiff.evaluation import judge
from npdiff.evaluation.metrics import (
    check_finite,
    distance_to_arcs,
    diversity,
    energy_distance,
    frechet_distance,
    loss_above_floor,
    loss_by_t,
    moons_report,
    off_arcs,
    precision_recall,
    quality,
    square_root,
)
from npdiff.recipes import MOONS, SHAPES
from npdiff.rng import generator
from npdiff.verify.floor import bayes_floor, recipe_floor
from npdiff.verify.oracle import oracle_of


def arcs(n=20_001):
    """Points close together along both noiseless arcs, drawn as 1 - cos, 1/2 - sin on the lower one."""
    theta = np.linspace(0, np.pi, n)
    upper = np.stack([np.cos(theta), np.sin(theta)], axis=1)
    lower = np.stack([1 - np.cos(theta), 0.5 - np.sin(theta)], axis=1)
    return SCALE * np.concatenate([upper, lower])


def test_distance_to_arcs_against_many_points_on_them():
    points = np.random.default_rng(0).uniform(-4, 5, (300, 2))
    nearest = np.linalg.norm(points[:, None] - arcs()[None], axis=2).min(1)
    np.testing.assert_allclose(distance_to_arcs(points), nearest, atol=3e-4)


def test_energy_distance_against_its_definition():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((70, 3)), rng.standard_normal((1100, 3)) + 0.5

    def mean(a, b):
        return np.linalg.norm(a[:, None] - b[None], axis=2).mean()

    assert energy_distance(x, y) == pytest.approx(2 * mean(x, y) - mean(x, x) - mean(y, y), rel=1e-9)
    assert energy_distance(x, np.tile(x, (3, 1))) == pytest.approx(0, abs=1e-9)      # one distribution
    assert energy_distance(x, y) == pytest.approx(energy_distance(y, x))


def test_report_tells_good_from_bad():
    data = [make_moons(1000, generator(0, "data", k)) for k in range(8)]
    good, bad = (moons_report([x + shift for x in data[:2]], data[2:]) for shift in (0, 0.3))
    low, typical, high = good["energy_distance_data"]
    assert low < typical < high and bad["energy_distance_data"] == [low, typical, high]
    assert good["off_arcs"] == good["off_arcs_data"] == 0 and good["energy_distance"] < high
    assert bad["off_arcs"] > 0.3 and bad["energy_distance"] > 10 * high
    np.testing.assert_allclose(good["mean"], np.concatenate(data[:2]).mean(0))
    np.testing.assert_allclose(bad["mean"] - good["mean"], 0.3)
    assert tuple(good["mean_data"]) == MEAN


class OffBy:
    """The best possible network, plus a constant."""

    def __init__(self, recipe, constant):
        self.best = oracle_of(recipe.data).predict(recipe.make_schedule(), recipe.prediction_type)
        self.constant = constant

    def predict(self, x, t, labels=None):
        return self.best(x, t) + self.constant


@pytest.mark.slow
@pytest.mark.parametrize(
    "prediction_type, loss_weight",
    [("epsilon", "simple"), ("v_prediction", "simple"), ("sample", "min_snr"), ("flow_prediction", "vlb")],
)
def test_a_loss_is_its_floor_and_the_distance_from_the_best(prediction_type, loss_weight):
    recipe = replace(
        MOONS, schedule="rescaled_linear", prediction_type=prediction_type, loss_weight=loss_weight
    )
    schedule, backend = recipe.make_schedule(), NumpyBackend(dtype="float64")
    floor = bayes_floor(oracle_of("moons"), schedule, prediction_type, loss_weight)
    by_t = recipe_floor(recipe)
    assert by_t[1:].mean() == floor and np.isnan(by_t[0])
    assert recipe_floor(SHAPES) is None
    weight = loss_weights(schedule, prediction_type, loss_weight)[1:].mean()
    for constant in (0.0, 0.1, np.array([0.1, 0.3])):
        loss, lowest = loss_above_floor(OffBy(recipe, constant), backend, recipe, 0)
        assert lowest == floor
        assert loss == pytest.approx(floor + weight * np.mean(np.square(constant)), rel=1e-9)
    edges, losses = loss_by_t(OffBy(recipe, 0.0), backend, recipe, 0, buckets=4)
    expected = [by_t[i + 1:j + 1].mean() for i, j in zip(edges[:-1], edges[1:])]
    np.testing.assert_allclose(losses, expected, rtol=0.15)


class Scaled:
    """A network that answers x_t times a constant."""

    def __init__(self, scale):
        self.scale = scale

    def predict(self, x, t, labels=None):
        return self.scale * x


def test_loss_by_t_of_a_known_answer():
    """The target is the noise. An answer of 0 has its variance as the loss, 1 at every t. The answer x_t has
    more than 1 where x_t is mostly data, and nearly 0 where x_t is noise.
    """
    backend = NumpyBackend()
    edges, losses = loss_by_t(Scaled(0.0), backend, MOONS, 0)
    assert list(edges) == list(range(0, 201, 20)) and losses == pytest.approx(np.ones(10), abs=0.25)
    _, losses = loss_by_t(Scaled(1.0), backend, MOONS, 0)
    assert losses[0] > 1.5 and losses[-1] < 0.01


def test_diversity_is_the_mean_distance_within_a_class():
    rng = np.random.default_rng(0)
    images, labels = rng.standard_normal((9, 1, 4, 4)), np.array([0, 0, 0, 2, 2, 2, 2, 5, 5])

    def within(k):
        of_class = images[labels == k]
        pairs = [(i, j) for i in range(len(of_class)) for j in range(i)]
        return np.mean([np.linalg.norm(of_class[i] - of_class[j]) for i, j in pairs])

    expected = np.mean([within(k) for k in (0, 2, 5)])
    assert diversity(images, labels) == pytest.approx(expected, rel=1e-6)
    assert diversity(np.ones((4, 3)), np.array([0, 0, 1, 1])) == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="class 7 has 1 image"):
        diversity(images[:3], np.array([0, 0, 7]))


# Samples with nan or inf.

@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite_are_refused(wrong):
    """A comparison with nan is false, so such points would not count as far from the arcs."""
    good = make_moons(50, generator(0, "data"))
    bad = good.copy()
    bad[[3, 7], [0, 1]] = wrong
    for measure in (
        lambda: distance_to_arcs(bad),
        lambda: off_arcs(bad),
        lambda: energy_distance(bad, good),
        lambda: energy_distance(good, bad),
        lambda: moons_report([bad], [good, good]),
        lambda: diversity(bad, np.zeros(50, int)),
        lambda: precision_recall(bad, good),
        lambda: precision_recall(good, bad),
        lambda: check_finite(bad),
    ):
        with pytest.raises(ValueError, match="2 of 50 samples hold nan or inf; every value must be finite"):
            measure()
    check_finite(good)
    images = np.zeros((5, 1, 28, 28))
    images[2, 0, 3, 4] = wrong
    with pytest.raises(ValueError, match="nan or inf"):
        quality(images, images, images)


# Frechet distance.

def covariance(d, seed=0):
    A = np.random.default_rng(seed).standard_normal((d, d + 2))
    return A @ A.T / d


def test_frechet_distance_of_known_gaussians():
    m, C = np.array([1.0, -2.0, 0.5]), covariance(3)
    assert frechet_distance(m, C, m, C) == pytest.approx(0, abs=1e-12)
    assert frechet_distance(m, C, m + [3, 4, 0], C) == pytest.approx(25)
    # the same axes, other standard deviations: the sum of (s - s')^2
    s, other = np.array([1.0, 2.0, 0.0]), np.array([4.0, 2.0, 1.0])
    axes, _ = np.linalg.qr(np.random.default_rng(1).standard_normal((3, 3)))
    pair = axes * s ** 2 @ axes.T, axes * other ** 2 @ axes.T
    assert frechet_distance(m, pair[0], m, pair[1]) == pytest.approx(10)
    assert frechet_distance([1.0], [[4.0]], [3.0], [[9.0]]) == pytest.approx(5)
    # no spread at all: the distance to a point
    assert frechet_distance(m, C, 0 * m, 0 * C) == pytest.approx(m @ m + np.trace(C))


def test_frechet_distance_against_the_root_of_the_product():
    """Covariances with different axes. Heusel et al. take the trace of (C C_data)^(1/2): the sum of the roots
    of the eigenvalues of C C_data.
    """
    m, n, C, D = np.zeros(6), np.ones(6), covariance(6), covariance(6, 1)
    roots = np.emath.sqrt(np.linalg.eigvals(C @ D)).real.sum()
    expected = 6 + np.trace(C) + np.trace(D) - 2 * roots
    assert frechet_distance(m, C, n, D) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(n, D, m, C) == pytest.approx(expected, rel=1e-9)
    # the best linear map from one to the other carries X to a Y with this mean square distance
    S = square_root(C)
    np.testing.assert_allclose(S @ S, C, atol=1e-12)
    np.testing.assert_allclose(S, S.T, atol=1e-12)
    A = np.linalg.inv(S) @ square_root(S @ D @ S) @ np.linalg.inv(S)
    np.testing.assert_allclose(A @ C @ A.T, D, atol=1e-9)
    move = A - np.eye(6)
    assert np.trace(move @ C @ move.T) + 6 == pytest.approx(expected, rel=1e-9)


# Precision and recall.

def brute_force(points, others, k):
    apart = np.linalg.norm(others[:, None] - others, axis=2)
    reach = np.sort(apart, axis=1)[:, k]
    return (np.linalg.norm(points[:, None] - others, axis=2) <= reach).any(1).mean()


@pytest.mark.parametrize("k", [1, 3])
def test_precision_and_recall_against_their_definition(k):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((150, 4)), 0.7 * rng.standard_normal((90, 4)) + 0.5
    precision, recall = precision_recall(x, y, k)
    assert precision == brute_force(x, y, k) and recall == brute_force(y, x, k)
    assert 0 < precision < 1 and 0 < recall < 1 and precision != recall
    assert precision_recall(y, x, k) == (recall, precision)


def test_precision_and_recall_of_known_sets():
    rng = np.random.default_rng(0)
    data, same = rng.standard_normal((2, 300, 3))
    assert precision_recall(data, data) == (1, 1)
    assert min(precision_recall(same, data)) > 0.85
    assert precision_recall(same + 100, data) == (0, 0)
    # far better than the data in one place: precision without recall
    precision, recall = precision_recall(0.1 * same, data)
    assert precision > 0.99 and recall < 0.1
    # twice as wide: recall without precision
    precision, recall = precision_recall(3 * same, data)
    assert precision < 0.5 and recall > 0.9
    with pytest.raises(ValueError, match="3 samples and 300 of the data; .* at least 4 of each"):
        precision_recall(data[:3], data)


def test_a_lost_mode_lowers_recall_and_not_precision():
    rng = np.random.default_rng(0)

    def modes(n):
        return rng.standard_normal((n, 2)) + 20 * rng.integers(0, 4, (n, 1))

    data, fresh = modes(400), modes(400)
    lost = fresh[fresh[:, 0] > 10]
    whole, without = precision_recall(fresh, data), precision_recall(lost, data)
    assert without[0] == pytest.approx(whole[0], abs=0.03) and whole[0] > 0.85
    assert without[1] == pytest.approx(0.75 * whole[1], abs=0.06)
    # a mode that the data lacks lowers precision and not recall
    added = precision_recall(np.concatenate([fresh, rng.standard_normal((100, 2)) - 50]), data)
    assert added[0] == pytest.approx(0.8 * whole[0], abs=0.02) and added[1] == whole[1]


def test_quality_compares_in_the_features_of_the_judge():
    rng = np.random.default_rng(0)
    data, fresh, samples = rng.uniform(-1, 1, (3, 60, 1, 28, 28))
    samples = samples.round()
    report = quality(samples, data, fresh)
    seen = [judge.features(images).astype(np.float64) for images in (samples, data, fresh)]
    for name, x in (("", seen[0]), ("_data", seen[2])):
        moments = x.mean(0), np.cov(x.T), seen[1].mean(0), np.cov(seen[1].T)
        assert report[f"frechet{name}"] == pytest.approx(frechet_distance(*moments))
        assert (report[f"precision{name}"], report[f"recall{name}"]) == precision_recall(x, seen[1])
    assert report["frechet"] > 2 * report["frechet_data"]
    # 32 x 32 images are seen without their margin, and samples beyond [-1, 1] are held there
    margin = [(0, 0), (0, 0), (2, 2), (2, 2)]
    padded = [np.pad(images, margin, constant_values=-1) for images in (samples, data, fresh)]
    assert quality(*padded) == report
    assert quality(np.where(samples == 1, 7, samples), data, fresh) == report


@needs_data
def test_quality_of_real_images_and_of_spoilt_ones():
    (training, test), _ = judge.real_images(real_digest(), 0, 300, REAL)
    noise = np.random.default_rng(0).standard_normal(test.shape)
    noise, one_kind = quality(noise, training, test), quality(test[:30].repeat(10, 0), training, test)
    assert noise["frechet_data"] == one_kind["frechet_data"] < 0.1 * noise["frechet"]
    assert one_kind["frechet"] > noise["frechet_data"]
    assert min(noise["precision_data"], noise["recall_data"]) > 0.75
    assert noise["precision"] < 0.5 * noise["precision_data"] and noise["recall"] < 0.1 and noise["n"] == 300
    assert one_kind["precision"] > 0.7 > 0.4 > one_kind["recall"]
