"""The metrics against their definitions; that they tell good samples from bad, and a loss from its floor."""

from dataclasses import replace

import numpy as np
import pytest

from npdiff.backends.numpy import NumpyBackend
from npdiff.data.moons import MEAN, SCALE, make_moons
from npdiff.diffusion import loss_weights
from npdiff.evaluation.metrics import (
    distance_to_arcs,
    diversity,
    energy_distance,
    loss_above_floor,
    loss_by_t,
    moons_report,
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
