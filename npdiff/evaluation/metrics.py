"""Metrics: how close samples are to the data, and how close a loss is to the smallest possible one. No other
network is needed.
"""

from typing import NamedTuple

import numpy as np

from npdiff.data import load_data
from npdiff.data.moons import MEAN, SCALE
from npdiff.diffusion import loss_weights, prediction_target, q_sample
from npdiff.models import is_image
from npdiff.rng import generator
from npdiff.verify.floor import lowest_loss
from npdiff.verify.oracle import oracle_of


def energy_distance(x, y):
    """Energy distance between two samples, x (n, d) and y (m, d), a float >= 0.

        2 E|X - Y| - E|X - X'| - E|Y - Y'|

    Every expectation is the mean over all pairs, a point with itself included. The distance of two
    distributions is zero only if they are equal. For two draws of n points from one distribution it is about
    2/n E|X - X'|, so compare it with the distance of fresh data.
    Source: [Szekely and Rizzo 2013](https://doi.org/10.1016/j.jspi.2013.03.018), eq. 2.1, as a V-statistic.
    """
    return 2 * mean_distance(x, y) - mean_distance(x, x) - mean_distance(y, y)


def mean_distance(x, y, rows=64):
    """Mean Euclidean distance over all pairs of x (n, d) and y (m, d), a float.

    |x - y|^2 = -2 x y + |x|^2 + |y|^2 is one product of the rows (-2x, |x|^2, 1) and (y, 1, |y|^2). It is
    computed for `rows` rows of x at a time, so that it fits the processor's cache.
    """
    x_squared, y_squared = (x * x).sum(1, keepdims=True), (y * y).sum(1, keepdims=True)     # (n, 1), (m, 1)
    left = np.concatenate([-2 * x, x_squared, np.ones((len(x), 1))], axis=1)                # (n, d + 2)
    right = np.concatenate([y, np.ones((len(y), 1)), y_squared], axis=1).T.copy()           # (d + 2, m)
    total = 0.0
    for i in range(0, len(x), rows):
        squared = left[i:i + rows] @ right                                                  # (rows, m)
        np.maximum(squared, 0, out=squared)
        total += np.sqrt(squared, out=squared).sum()
    return float(total / (len(x) * len(y)))


def distance_to_arcs(points):
    """How far each point lies from the nearer of the moons' two noiseless arcs.   (n, 2) -> (n,)"""
    x, y = points[:, 0], points[:, 1]
    upper = distance_to_half_circle(x, y)
    # half a turn maps the lower arc to the upper one
    lower = distance_to_half_circle(SCALE - x, SCALE / 2 - y)
    return np.minimum(upper, lower)


def distance_to_half_circle(x, y):
    """Distance of (x, y) to the upper half of the circle of radius SCALE about 0.

    For y >= 0 the nearest point of the half circle lies in the direction of (x, y), else it is an end.
    """
    return np.where(y >= 0, abs(np.hypot(x, y) - SCALE), np.hypot(abs(x) - SCALE, y))


OFF_ARCS = 0.2          # no data lies farther than this from the arcs: its jitter, 0.045, is much smaller


def off_arcs(points):
    """The fraction of points (n, 2) farther than OFF_ARCS from the arcs, a float."""
    return float((distance_to_arcs(points) > OFF_ARCS).mean())


def diversity(images, labels):
    """How different the samples of a class are: the mean Euclidean distance over all pairs of different
    images with the same label; then the mean over the classes.

    images (n, ...), labels (n,) integers -> a float, in the images' own units. It is small if all samples of
    a class are alike, even if each is good; compare it with that of data. Raises ValueError unless every
    class that occurs occurs at least twice.
    """
    classes, counts = np.unique(labels, return_counts=True)
    if counts.min() < 2:
        alone = classes[counts.argmin()]
        raise ValueError(f"class {alone} has 1 image; a distance takes at least 2 of each class")
    flat = np.asarray(images, np.float64).reshape(len(images), -1)                          # (n, pixels)
    of_class = []
    for k in classes:
        x = flat[labels == k]
        # all pairs but those of an image with itself
        of_class.append(mean_distance(x, x) * len(x) / (len(x) - 1))
    return float(np.mean(of_class))


def points_report(draws, fresh):
    """How good samples of points are: a dict.

    draws is a list of samples, arrays (n, D). fresh is a list of fresh data to compare them with, at least as
    many arrays (m, D).

        energy_distance         the mean over the draws, each compared with one of fresh
        energy_distance_data    the 2.5%, 50% and 97.5% points of the distance over all pairs of fresh
        mean, mean_data         (D,) each: of all samples, and of all fresh data
    """
    within = [mean_distance(x, x) for x in fresh]
    between = [2 * mean_distance(fresh[i], fresh[j]) - within[i] - within[j]
               for i in range(len(fresh)) for j in range(i)]
    return {
        "energy_distance": float(np.mean([energy_distance(x, y) for x, y in zip(draws, fresh)])),
        "energy_distance_data": np.percentile(between, [2.5, 50, 97.5]).tolist(),
        "mean": np.concatenate(draws).mean(0),
        "mean_data": np.concatenate(fresh).mean(0),
    }


def moons_report(draws, fresh):
    """points_report for the moons, which have arcs to be off and an exact mean: also a dict with

        off_arcs, off_arcs_data     the fraction farther than OFF_ARCS from the arcs
    """
    return points_report(draws, fresh) | {
        "off_arcs": off_arcs(np.concatenate(draws)),
        "off_arcs_data": off_arcs(np.concatenate(fresh)),
        "mean_data": np.array(MEAN),
    }


def loss_by_t(denoiser, backend, recipe, seed, data_dir=None, buckets=10):
    """The mean loss in buckets of timesteps, on fresh data and noise -> edges (buckets + 1,), losses
    (buckets,)

    Bucket i holds edges[i] < t <= edges[i + 1].
    """
    n = 256 if is_image(recipe.model) else 5000
    x0, _, t, noise, answer = answers_on_fresh_data(denoiser, backend, recipe, seed, n, data_dir)
    schedule = recipe.make_schedule()
    target = prediction_target(x0, t, noise, schedule, recipe.prediction_type)              # (n, ...)
    squared = ((answer - target) ** 2).reshape(n, -1).mean(1)                               # (n,)
    losses = loss_weights(schedule, recipe.prediction_type, recipe.loss_weight)[t] * squared
    edges = np.linspace(0, schedule.T, min(buckets, schedule.T) + 1).round().astype(int)
    bucket, count = np.searchsorted(edges, t) - 1, len(edges) - 1
    return edges, np.bincount(bucket, losses, count) / np.bincount(bucket, minlength=count)


class Answers(NamedTuple):
    """n fresh noised samples and what a network says to them; NumPy arrays, all (n, ...) but t (n,)."""
    x0: np.ndarray
    x_t: np.ndarray
    t: np.ndarray           # evenly spread over 1..T
    noise: np.ndarray
    answer: np.ndarray


def answers_on_fresh_data(denoiser, backend, recipe, seed, n, data_dir=None):
    """Ask a network about n fresh noised samples: Answers."""
    rng = generator(seed, "data", 2**32)                # a step of this stream that no other draw uses
    x0, labels = load_data(recipe.data, data_dir).draw(n, rng)
    t = (1 + np.arange(n) * recipe.num_train_timesteps // n).astype(np.int64)
    noise = rng.standard_normal(x0.shape, x0.dtype)
    x_t = q_sample(x0, t, noise, recipe.make_schedule())
    answer = denoiser.predict(backend.asarray(x_t), t, labels if recipe.conditional else None)
    return Answers(x0, x_t, t, noise, backend.to_numpy(answer))


def loss_above_floor(denoiser, backend, recipe, seed):
    """A network's expected loss and the smallest that any can have: two floats. For data whose distribution
    is known.

    The best answer is the mean of the target, given x_t. So target - best has mean 0 whatever x_t is, and is
    not correlated with answer - best, a function of x_t:
        E|answer - target|^2 = E|best - target|^2 + E|answer - best|^2
    The first term is the floor, and exact. Only the second, which is small, is averaged over 5,000 draws.
    """
    schedule, oracle = recipe.make_schedule(), oracle_of(recipe.data)
    _, x_t, t, _, answer = answers_on_fresh_data(denoiser, backend, recipe, seed, 5000)
    best = oracle.predict(schedule, recipe.prediction_type)(x_t, t)                         # (n, D)
    distance = ((answer - best) ** 2).mean(1)                                               # (n,)
    weight = loss_weights(schedule, recipe.prediction_type, recipe.loss_weight)[t]          # (n,)
    floor = lowest_loss(recipe)
    return floor + float((weight * distance).mean()), floor
