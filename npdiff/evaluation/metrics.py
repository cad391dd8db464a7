"""Metrics: how close samples are to the data, and how close a loss is to the smallest possible one.

Samples that hold nan or inf are refused: a comparison with nan is false, so they would count as good.
"""

from typing import NamedTuple

import numpy as np

from npdiff.data import load_data
from npdiff.data.moons import MEAN, SCALE
from npdiff.diffusion import loss_weights, prediction_target, q_sample
from npdiff.evaluation import judge
from npdiff.models import is_image
from npdiff.rng import generator
from npdiff.verify.floor import lowest_loss
from npdiff.verify.oracle import oracle_of


def energy_distance(x, y):
    """Energy distance between two samples, x (n, d) and y (m, d), a float >= 0.

        2 E|X - Y| - E|X - X'| - E|Y - Y'|

    Every expectation is the mean over all pairs, a point with itself included. The distance of two
    distributions is zero only if they are equal. For two draws of n points from one distribution it is about
    2/n E|X - X'|, so compare it with the distance of fresh data. Raises ValueError for nan or inf.
    Source: [Szekely and Rizzo 2013](https://doi.org/10.1016/j.jspi.2013.03.018), eq. 2.1, as a V-statistic.
    """
    return 2 * mean_distance(x, y) - mean_distance(x, x) - mean_distance(y, y)


def mean_distance(x, y, rows=64):
    """Mean Euclidean distance over all pairs of x (n, d) and y (m, d), a float. Raises ValueError for nan or
    inf.
    """
    total = sum(np.sqrt(squared, out=squared).sum() for squared in squared_distances(x, y, rows))
    return float(total / (len(x) * len(y)))


def squared_distances(x, y, rows=64):
    """|x_i - y_j|^2 for all pairs of x (n, d) and y (m, d): yields blocks (rows, m), from the first x on.

    |x - y|^2 = -2 x y + |x|^2 + |y|^2 is one product of the rows (-2x, |x|^2, 1) and (y, 1, |y|^2). It is
    computed for `rows` rows of x at a time, so that it fits the processor's cache.
    Raises ValueError for nan or inf.
    """
    check_finite(x)
    check_finite(y)
    x_squared, y_squared = (x * x).sum(1, keepdims=True), (y * y).sum(1, keepdims=True)     # (n, 1), (m, 1)
    left = np.concatenate([-2 * x, x_squared, np.ones((len(x), 1))], axis=1)                # (n, d + 2)
    right = np.concatenate([y, np.ones((len(y), 1)), y_squared], axis=1).T.copy()           # (d + 2, m)
    for i in range(0, len(x), rows):
        squared = left[i:i + rows] @ right                                                  # (rows, m)
        yield np.maximum(squared, 0, out=squared)


def check_finite(samples):
    """Raise ValueError if samples (n, ...) hold nan or inf; it says in how many of the n."""
    wrong = (~np.isfinite(samples)).reshape(len(samples), -1).any(1).sum()
    if wrong:
        raise ValueError(f"{wrong:,} of {len(samples):,} samples hold nan or inf; every value must be finite")


def distance_to_arcs(points):
    """How far each point lies from the nearer of the moons' two noiseless arcs.   (n, 2) -> (n,)

    Raises ValueError for nan or inf.
    """
    check_finite(points)
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


def frechet_distance(mean, covariance, mean_data, covariance_data):
    """How far two normal distributions are apart, given their means (d,) and covariances (d, d): a float.

        |m - m_data|^2 + tr(C) + tr(C_data) - 2 tr(K)

    It is the smallest E|X - Y|^2 over all ways to draw the pair X, Y with these two distributions. The means
    give the first term, and K is the covariance of X with Y. Let S = C^(1/2), symmetric. Then X = S u and
    Y = S_data Q u with u standard normal have the right covariances for every orthogonal Q, and
        tr(K) = tr(S Q^T S_data) = tr(Q^T S_data S)
    With the singular value decomposition  S_data S = U diag(s) V^T  this is largest for Q = U V^T: the sum of
    s. In one dimension the distance is (m - m_data)^2 + (S - S_data)^2.
    Source: [Dowson and Landau 1982](https://doi.org/10.1016/0047-259X(82)90077-X); for the features of
    images, [Heusel et al. 2017](https://arxiv.org/abs/1706.08500), eq. 6. (The root there, of C C_data, has
    the same trace: its eigenvalues are the s.)
    """
    roots = [square_root(np.asarray(C, np.float64)) for C in (covariance, covariance_data)]
    overlap = np.linalg.svd(roots[1] @ roots[0], compute_uv=False).sum()
    apart = ((np.asarray(mean) - np.asarray(mean_data)) ** 2).sum()
    return float(apart + np.trace(covariance) + np.trace(covariance_data) - 2 * overlap)


def square_root(C):
    """C^(1/2) of a covariance C (d, d): symmetric, and its square is C.

        C = A diag(v) A^T, with the principal axes as A's columns     C^(1/2) = A diag(sqrt(v)) A^T
    """
    v, A = np.linalg.eigh(C)
    return A * v.clip(0) ** 0.5 @ A.T                       # rounding can make a variance of 0 negative


def precision_recall(samples, data, k=3):
    """The fraction of samples (n, d) that lie among the data (m, d), and the reverse: two floats.

    A point lies among a set if it is no farther from one of its points than that point's k-th nearest
    neighbour in the set (the k-th other point). Precision is small if samples look like no data. Recall is
    small if samples do not look like all of the data. Raises ValueError for nan or inf, and for sets of k
    points or fewer.
    Source: [Kynkaanniemi et al. 2019](https://arxiv.org/abs/1904.06991), eq. 1 and 2, with their k = 3.
    """
    if min(len(samples), len(data)) <= k:
        raise ValueError(f"there are {len(samples)} samples and {len(data)} of the data; "
                         f"with k = {k}, precision and recall take at least {k + 1} of each")
    return among(samples, data, k), among(data, samples, k)


def among(points, others, k):
    """The fraction of points (n, d) that lie among others (m, d), as precision_recall says."""
    # entry k of a sorted row, as entry 0 is the point itself
    reach = np.concatenate([np.partition(squared, k)[:, k] for squared in squared_distances(others, others)])
    inside = [(squared <= reach).any(1) for squared in squared_distances(points, others)]
    return float(np.concatenate(inside).mean())


ENOUGH = 1000           # images that quality takes for numbers that mean something


def quality(samples, data, fresh):
    """How samples of images compare with data, in the features of the judge (npdiff.evaluation.judge): a
    dict. All three are (n, 1, H, W); fresh is other data, which samples can be as good as, hardly better.

        frechet, frechet_data       frechet_distance of samples and data; of fresh and data
        precision, precision_data   precision_recall of samples and data; of fresh and data
        recall, recall_data

        n

    The numbers depend on n, so n must be the same in a comparison. Below ENOUGH they are rough: images that
    are unlike all others reach far, and with n = 200 half of pure noise counts as precise, with 1,000 7%.
    They are not the numbers that other networks' features give (FID). Raises ValueError for nan or inf and
    for fewer than 4 images.
    """
    check_finite(samples)                                   # before they are held in [-1, 1], which hides inf
    samples, data, fresh = (judge.features(middle(images)).astype(np.float64)
                            for images in (samples, data, fresh))                           # (n, 64) each
    report = {"n": len(samples)}
    for name, x in (("", samples), ("_data", fresh)):
        precision, recall = precision_recall(x, data)
        moments = (x.mean(0), np.cov(x.T), data.mean(0), np.cov(data.T))
        report |= {f"frechet{name}": frechet_distance(*moments),
                   f"precision{name}": precision, f"recall{name}": recall}
    return report


def middle(images):
    """The middle 28 x 28 pixels of images (N, 1, H, W), the size that the judge takes, held in [-1, 1]."""
    _, height, width = judge.Config().data_shape
    top, left = (images.shape[2] - height) // 2, (images.shape[3] - width) // 2
    return images[:, :, top:top + height, left:left + width].clip(-1, 1)


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
    """The mean loss in buckets of timesteps, on fresh data and noise.

    -> edges (buckets + 1,), losses (buckets,)

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
