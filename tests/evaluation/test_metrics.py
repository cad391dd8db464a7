"""The moons, the random numbers behind them, and the rulers that samples are measured with."""

from dataclasses import replace

import numpy as np
import pytest

from npdiff.backends.numpy import NumpyBackend
from npdiff.data.moons import JITTER, MEAN, SCALE, make_moons
from npdiff.diffusion import loss_weights
from npdiff.evaluation.metrics import (
    distance_to_arcs,
    distance_to_half_circle,
    diversity,
    energy_distance,
    loss_above_floor,
    loss_by_t,
    moons_report,
    off_arcs,
)
from npdiff.recipes import MOONS, SHAPES
from npdiff.rng import STREAMS, generator
from npdiff.verify.floor import bayes_floor, recipe_floor
from npdiff.verify.oracle import oracle_of


def arcs(n=20_001):
    """A dense walk along both noiseless arcs, as the source defines them."""
    theta = np.linspace(0, np.pi, n)
    upper = np.stack([np.cos(theta), np.sin(theta)], axis=1)
    lower = np.stack([1 - np.cos(theta), 0.5 - np.sin(theta)], axis=1)
    return SCALE * np.concatenate([upper, lower])


def test_moons_are_the_sources_arcs_with_jitter():
    points = make_moons(100_000, generator(0, "data"))
    assert points.shape == (100_000, 2) and points.dtype == np.float64
    np.testing.assert_allclose(points.mean(0), MEAN, atol=4 * points.std(0).max() / 100_000 ** 0.5)
    assert points[:, 0].var() == pytest.approx(1.69, abs=0.03)                   # SOURCES, no. 10
    distance = distance_to_arcs(points)
    assert (distance ** 2).mean() == pytest.approx((SCALE * JITTER) ** 2, rel=0.03)
    assert off_arcs(points) == 0
    x, y = points.T
    upper = distance_to_half_circle(x, y) < distance_to_half_circle(SCALE - x, SCALE / 2 - y)
    assert upper.mean() == pytest.approx(0.5, abs=0.01)
    angle = np.arctan2(y[upper], x[upper]) / np.pi                               # uniform along the arc
    assert abs(np.histogram(angle, 10, (0, 1))[0] / upper.sum() - 0.1).max() < 0.01


def test_distance_to_arcs_against_a_dense_walk():
    points = np.random.default_rng(0).uniform(-4, 5, (300, 2))
    brute = np.linalg.norm(points[:, None] - arcs()[None], axis=2).min(1)
    np.testing.assert_allclose(distance_to_arcs(points), brute, atol=3e-4)


def test_energy_distance_against_its_definition():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((70, 3)), rng.standard_normal((1100, 3)) + 0.5

    def mean(a, b):
        return np.linalg.norm(a[:, None] - b[None], axis=2).mean()

    assert energy_distance(x, y) == pytest.approx(2 * mean(x, y) - mean(x, x) - mean(y, y), rel=1e-9)
    assert energy_distance(x, x) == pytest.approx(0, abs=1e-12)
    assert energy_distance(x, y) == pytest.approx(energy_distance(y, x))


def test_report_tells_good_from_bad():
    data = [make_moons(1000, generator(0, "data", k)) for k in range(8)]
    good, bad = (moons_report([x + shift for x in data[:2]], data[2:]) for shift in (0, 0.3))
    low, typical, high = good["energy_distance_data"]
    assert low < typical < high and bad["energy_distance_data"] == [low, typical, high]
    assert good["off_arcs"] == 0 and good["energy_distance"] < high
    assert bad["off_arcs"] > 0.3 and bad["energy_distance"] > 10 * high
    np.testing.assert_allclose(bad["mean"] - good["mean"], 0.3)


class OffBy:
    """The best network there is, plus a constant."""

    def __init__(self, recipe, constant):
        self.best, self.constant = (
            oracle_of(recipe.data).predict(recipe.make_schedule(), recipe.prediction_type),
            constant,
        )

    def predict(self, x, t, labels=None):
        return self.best(x, t) + self.constant


@pytest.mark.parametrize(
    "prediction_type, loss_weight",
    [("epsilon", "simple"), ("v_prediction", "simple"), ("sample", "min_snr"), ("flow_prediction", "vlb")],
)
def test_a_loss_is_its_floor_and_the_distance_from_the_best(prediction_type, loss_weight):
    recipe, backend = (
        replace(MOONS, schedule="rescaled_linear", prediction_type=prediction_type, loss_weight=loss_weight),
        NumpyBackend(dtype="float64"),
    )
    schedule = recipe.make_schedule()
    floor = bayes_floor(oracle_of("moons"), schedule, prediction_type, loss_weight)
    assert (
        recipe_floor(recipe)[1:].mean() == floor
        and np.isnan(recipe_floor(recipe)[0])
        and recipe_floor(SHAPES) is None
    )
    weight = loss_weights(schedule, prediction_type, loss_weight)[1:].mean()
    for constant in (0.0, 0.1, np.array([0.1, 0.3])):
        loss, lowest = loss_above_floor(OffBy(recipe, constant), backend, recipe, 0)
        assert lowest == floor and loss == pytest.approx(
            floor + weight * np.mean(np.square(constant)), rel=1e-9
        )
    edges, losses = loss_by_t(OffBy(recipe, 0.0), backend, recipe, 0, buckets=4)
    np.testing.assert_allclose(
        losses, [recipe_floor(recipe)[i + 1 : j + 1].mean() for i, j in zip(edges[:-1], edges[1:])], rtol=0.15
    )


def test_addresses_are_independent_and_repeat():
    assert generator(1, "train", 2).random(5).tobytes() == generator(1, "train", 2).random(5).tobytes()
    draws = {
        generator(seed, stream, step).random() for seed in (0, 1) for stream in STREAMS for step in (0, 1)
    }
    assert len(draws) == 4 * len(STREAMS)


@pytest.mark.parametrize(
    "address, message",
    [
        ((-1, "train"), "seed is -1"),
        ((2**64, "train"), "seed is"),
        ((0, "train", -1), "step is -1"),
        ((0, "dreams"), "stream is 'dreams'"),
    ],
)
def test_refuses_addresses(address, message):
    with pytest.raises(ValueError, match=message):
        generator(*address)


def test_diversity_is_the_mean_distance_within_a_class():
    rng = np.random.default_rng(0)
    images, labels = rng.standard_normal((9, 1, 4, 4)), np.array([0, 0, 0, 2, 2, 2, 2, 5, 5])
    pairs = {
        k: [
            np.linalg.norm(images[i] - images[j])
            for i in range(9)
            for j in range(i)
            if labels[i] == labels[j] == k
        ]
        for k in (0, 2, 5)
    }
    assert diversity(images, labels) == pytest.approx(
        np.mean([np.mean(distances) for distances in pairs.values()]), rel=1e-6
    )
    assert diversity(np.ones((4, 3)), np.array([0, 0, 1, 1])) == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="class 7 has 1 image"):
        diversity(images[:3], np.array([0, 0, 7]))
