"""Metrics: how close samples are to the data, and how close a loss is to the smallest possible one."""


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

    Each expectation is the mean over all pairs, and a point also makes a pair with itself. It is zero only if
    the distributions are equal. For two draws of n points from one distribution it is about 2/n E|X - X'|, so
    compare it with that of fresh data. Source: [Szekely and Rizzo
    2013](https://doi.org/10.1016/j.jspi.2013.03.018), eq. 2.1, as a V-statistic.
    """
    return 2 * mean_distance(x, y) - mean_distance(x, x) - mean_distance(y, y)


def mean_distance(x, y, rows=64):
    """Mean Euclidean distance over all pairs of x (n, d) and y (m, d), a float.

    |x - y|^2 = -2 x y + |x|^2 + |y|^2 is one product of the rows (-2x, |x|^2, 1) and (y, 1, |y|^2). It is
    computed for `rows` of x at a time, which fit in the processor's cache.
    """
    left = np.concatenate([-2 * x, (x * x).sum(1, keepdims=True), np.ones((len(x), 1))], axis=1)  # (n, d + 2)
    # (d + 2, m)
    right = np.concatenate([y, np.ones((len(y), 1)), (y * y).sum(1, keepdims=True)], axis=1).T.copy()
    total = 0.0
    for i in range(0, len(x), rows):
        squared = left[i:i + rows] @ right                                                      # (rows, m)
        total += np.sqrt(np.maximum(squared, 0, out=squared), out=squared).sum()
    return float(total / (len(x) * len(y)))


def distance_to_arcs(points):
    """How far each point lies from the nearer of the moons' two noiseless arcs.   (n, 2) -> (n,)"""
    x, y = points[:, 0], points[:, 1]
    upper = distance_to_half_circle(x, y)
    # the lower arc is the upper one after half a turn
    lower = distance_to_half_circle(SCALE - x, SCALE / 2 - y)
    return np.minimum(upper, lower)


def distance_to_half_circle(x, y):
    """Distance of (x, y) to the upper half of the circle of radius SCALE about 0.

    Above its ends it is the distance to the circle, below them the distance to the nearer end.
    """
    return np.where(y >= 0, abs(np.hypot(x, y) - SCALE), np.hypot(abs(x) - SCALE, y))


# a sample farther than this from the arcs is one that the data (jitter 0.045) would never draw
OFF_ARCS = 0.2


def off_arcs(points):
    """The fraction of points (n, 2) farther than OFF_ARCS from the arcs, a float."""
    return float((distance_to_arcs(points) > OFF_ARCS).mean())


def diversity(images, labels):
    """The mean distance within a class: how different samples of one class are, a float in the images' units.

    images (n, ...), labels (n,) integers. It is the mean Euclidean distance over all pairs of different
    images of a class, then the mean over classes. Samples that are alike make it small, however good they
    are. Compare it with that of real data. Raises ValueError unless every class that occurs has at least two
    images.
    """
    classes, counts = np.unique(labels, return_counts=True)
    if counts.min() < 2:
        raise ValueError(
            f"class {classes[counts.argmin()]} has 1 image; a distance takes at least 2 of each class"
        )
    flat = np.asarray(images, np.float64).reshape(len(images), -1)                              # (n, pixels)
    # an image's distance to itself, 0, does not count
    of_class = [mean_distance(x, x) * len(x) / (len(x) - 1) for x in (flat[labels == k] for k in classes)]
    return float(np.mean(of_class))


def moons_report(draws, fresh):
    """How good samples of the moons are, beside fresh data.

    draws is a list of arrays of samples (n, 2), fresh a list of at least as many arrays of fresh data (m, 2).
    -> dict:
        off_arcs, off_arcs_data     fractions farther than OFF_ARCS from the arcs
        energy_distance             mean over the draws, each against one of fresh
        energy_distance_data        the 2.5 %, 50 % and 97.5 % points of that distance over all pairs of fresh
        mean, mean_data             (2,) of all samples, and of the data, exact
    """
    samples = np.concatenate(draws)
    within = [mean_distance(x, x) for x in fresh]
    between = [
        2 * mean_distance(fresh[i], fresh[j]) - within[i] - within[j]
        for i in range(len(fresh))
        for j in range(i)
    ]
    return {
        "off_arcs": off_arcs(samples),
        "off_arcs_data": off_arcs(np.concatenate(fresh)),
        "energy_distance": float(np.mean([energy_distance(x, y) for x, y in zip(draws, fresh)])),
        "energy_distance_data": np.percentile(between, [2.5, 50, 97.5]).tolist(),
        "mean": samples.mean(0),
        "mean_data": np.array(MEAN),
    }


def loss_by_t(denoiser, backend, recipe, seed, data_dir=None, buckets=10):
    """The mean loss in buckets of timesteps, on fresh data and noise -> edges (buckets + 1,), losses
    (buckets,)

    Bucket i holds edges[i] < t <= edges[i + 1].
    """
    x0, x_t, t, noise, answer = answers(
        denoiser, backend, recipe, seed, 256 if is_image(recipe.model) else 5000, data_dir
    )
    schedule = recipe.make_schedule()
    error = (answer - prediction_target(x0, t, noise, schedule, recipe.prediction_type)) ** 2
    # (n,)
    per_sample = loss_weights(schedule, recipe.prediction_type, recipe.loss_weight)[t] * error.reshape(
        len(t), -1
    ).mean(1)
    edges = np.linspace(0, schedule.T, min(buckets, schedule.T) + 1).round().astype(int)
    bucket = np.searchsorted(edges, t) - 1
    return edges, np.bincount(bucket, per_sample, len(edges) - 1) / np.bincount(
        bucket, minlength=len(edges) - 1
    )


def answers(denoiser, backend, recipe, seed, n, data_dir=None):
    """A network's answers to n fresh noised samples -> x0, x_t (n, ...), t (n,), noise, answer (n, ...),
    NumPy arrays.

    The timesteps are spread evenly over 1..T.
    """
    # an address that no draw of data has
    rng = generator(seed, "data", 2**32)
    x0, labels = load_data(recipe.data, data_dir)(n, rng)
    t = (1 + np.arange(n) * recipe.num_train_timesteps // n).astype(np.int64)           # 1..T, each as often
    noise = rng.standard_normal(x0.shape, x0.dtype)
    x_t = q_sample(x0, t, noise, recipe.make_schedule())
    answer = backend.to_numpy(
        denoiser.predict(backend.asarray(x_t), t, labels if recipe.conditional else None)
    )
    return x0, x_t, t, noise, answer


def loss_above_floor(denoiser, backend, recipe, seed):
    """A network's expected loss, and the floor: two floats. For data whose distribution is known.

    The error of an answer is the error of the best answer, the conditional mean, plus the distance between
    both. These two are uncorrelated, so
        E|answer - target|^2 = E|best - target|^2 + E|answer - best|^2
    The first term is the floor, which is known exactly. Only the second, which is small, is a mean over 5,000
    draws.
    """
    schedule, oracle = recipe.make_schedule(), oracle_of(recipe.data)
    _, x_t, t, _, answer = answers(denoiser, backend, recipe, seed, 5000)
    distance = ((answer - oracle.predict(schedule, recipe.prediction_type)(x_t, t)) ** 2).mean(1)  # (n,)
    floor = lowest_loss(recipe)
    return floor + float(
        (loss_weights(schedule, recipe.prediction_type, recipe.loss_weight)[t] * distance).mean()
    ), floor
