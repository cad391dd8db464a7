"""The two moons: where they lie, how wide they are, and that both are drawn evenly."""

import numpy as np
import pytest

from npdiff.data.moons import JITTER, MEAN, SCALE, make_moons
from npdiff.evaluation.metrics import distance_to_arcs, distance_to_half_circle, off_arcs
from npdiff.rng import generator


def test_moons_are_arcs_with_jitter():
    n = 100_000
    points = make_moons(n, generator(0, "data"))
    assert points.shape == (n, 2) and points.dtype == np.float64
    np.testing.assert_allclose(points.mean(0), MEAN, atol=4 * points.std(0).max() / n ** 0.5)
    # c_x is cos(theta) on one arc and 1 + cos(theta) on the other: variance 1/2 within, 1/4 between
    assert points[:, 0].var() == pytest.approx(SCALE ** 2 * (0.75 + JITTER ** 2), abs=0.03)
    distance = distance_to_arcs(points)
    assert (distance ** 2).mean() == pytest.approx((SCALE * JITTER) ** 2, rel=0.03)
    assert off_arcs(points) == 0


def test_both_moons_are_drawn_evenly():
    x, y = make_moons(100_000, generator(0, "data")).T
    upper = distance_to_half_circle(x, y) < distance_to_half_circle(SCALE - x, SCALE / 2 - y)
    assert upper.mean() == pytest.approx(0.5, abs=0.01)
    angle = np.arctan2(y[upper], x[upper]) / np.pi              # uniform along the arc
    assert abs(np.histogram(angle, 10, (0, 1))[0] / upper.sum() - 0.1).max() < 0.01
