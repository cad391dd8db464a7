"""Metrics: how close samples are to the data, without a network's opinion."""

import numpy as np

from npdiff.data import load_data
from npdiff.data.moons import MEAN, SCALE
from npdiff.diffusion import prediction_target, q_sample
from npdiff.rng import generator
from npdiff.schedule import make_schedule


def energy_distance(x, y):
    """Energy distance between two samples, x (n, d) and y (m, d): a float >= 0 (Szekely and Rizzo 2013, eq. 2.1, as a V-statistic).

        2 E|X - Y| - E|X - X'| - E|Y - Y'|

    with every expectation the mean over all pairs, a point with itself included. It is zero only for equal distributions; for two draws of n
    points from one distribution it is about 2/n E|X - X'|, so compare it with that of fresh data.
    """
    return 2 * mean_distance(x, y) - mean_distance(x, x) - mean_distance(y, y)


def mean_distance(x, y, rows=512):
    """Mean Euclidean distance over all pairs of x (n, d) and y (m, d), `rows` of x at a time so that memory stays small."""
    y2 = (y * y).sum(1)                                                    # (m,)
    total = 0.0
    for i in range(0, len(x), rows):
        block = x[i:i + rows]                                              # (rows, d)
        squared = (block * block).sum(1)[:, None] + y2 - 2 * block @ y.T   # (rows, m)
        total += np.sqrt(squared.clip(0)).sum()
    return float(total / (len(x) * len(y)))


def distance_to_arcs(points):
    """How far each point lies from the nearer of the moons' two noiseless arcs.   (n, 2) -> (n,)"""
    x, y = points[:, 0], points[:, 1]
    upper = distance_to_half_circle(x, y)
    lower = distance_to_half_circle(SCALE - x, SCALE / 2 - y)              # the lower arc is the upper one after half a turn
    return np.minimum(upper, lower)


def distance_to_half_circle(x, y):
    """Distance of (x, y) to the upper half of the circle of radius SCALE about 0: radially above its ends, else to the nearer end."""
    return np.where(y >= 0, abs(np.hypot(x, y) - SCALE), np.hypot(abs(x) - SCALE, y))


OFF_ARCS = 0.2      # a sample farther than this from the arcs is one that the data (jitter 0.045) would never draw


def off_arcs(points):
    """The fraction of points (n, 2) farther than OFF_ARCS from the arcs, a float."""
    return float((distance_to_arcs(points) > OFF_ARCS).mean())


def diversity(images, labels):
    """How far apart samples of one class lie: the mean Euclidean distance over all pairs of different images with the same label, then over the classes.

    images (n, ...), labels (n,) integers -> a float, in the images' own units. Alike samples, however good, make it small; compare it with that of data.
    Raises ValueError unless every class that occurs occurs at least twice.
    """
    classes, counts = np.unique(labels, return_counts=True)
    if counts.min() < 2:
        raise ValueError(f"class {classes[counts.argmin()]} has 1 image; a distance takes at least 2 of each class")
    flat = np.asarray(images, np.float64).reshape(len(images), -1)                                     # (n, pixels)
    of_class = [mean_distance(x, x) * len(x) / (len(x) - 1) for x in (flat[labels == k] for k in classes)]     # an image's distance to itself, 0, does not count
    return float(np.mean(of_class))


def moons_report(draws, fresh, others):
    """How good moons are: three lists of as many (n, 2) arrays; samples, fresh data to compare them with, and more fresh data to compare that with.

    -> dict: off_arcs and off_arcs_data (fractions farther than OFF_ARCS from the arcs), energy_distance (mean over the draws, samples to fresh data),
    energy_distance_data (the same, fresh data to fresh data), mean (2,) of all samples, mean_data (2,), exact.
    """
    samples = np.concatenate(draws)
    return {
        "off_arcs": off_arcs(samples),
        "off_arcs_data": off_arcs(np.concatenate(fresh)),
        "energy_distance": float(np.mean([energy_distance(x, y) for x, y in zip(draws, fresh, strict=True)])),
        "energy_distance_data": float(np.mean([energy_distance(x, y) for x, y in zip(others, fresh, strict=True)])),
        "mean": samples.mean(0),
        "mean_data": np.array(MEAN),
    }


def loss_by_t(denoiser, backend, recipe, seed, data_dir=None, buckets=10, samples=2000):
    """Where the loss comes from: the mean squared error in equal buckets of timesteps, on fresh noise.   -> edges (buckets + 1,), losses (buckets,)

    Bucket i holds edges[i] < t <= edges[i + 1]. `samples` numbers t in all, evenly spread; images are fewer, 256.
    """
    schedule = make_schedule(recipe.schedule, recipe.num_train_timesteps)
    n = samples if len(recipe.model.data_shape) == 1 else 256
    rng = generator(seed, "data", 2**32)                                                # an address that no draw of data has
    x0, labels = load_data(recipe.data, data_dir)(n, rng)
    t = (1 + np.arange(n) * schedule.T // n).astype(np.int64)                           # 1..T, each as often
    noise = rng.standard_normal(x0.shape, x0.dtype)
    x_t = backend.asarray(q_sample(x0, t, noise, schedule))
    answer = backend.to_numpy(denoiser.predict(x_t, t, labels if recipe.conditional else None))
    error = (answer - prediction_target(x0, t, noise, schedule, recipe.prediction_type)) ** 2
    edges = np.linspace(0, schedule.T, min(buckets, schedule.T) + 1).round().astype(int)
    bucket = np.searchsorted(edges, t) - 1
    per_sample = error.reshape(n, -1).mean(1)                                           # (n,)
    return edges, np.bincount(bucket, per_sample, len(edges) - 1) / np.bincount(bucket, minlength=len(edges) - 1)
