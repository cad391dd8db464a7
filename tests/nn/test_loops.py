"""Every pair of npdiff.nn equals its plain loops (tests/loops.py): output and gradients, 200 shapes."""

import loops
import numpy as np
import pytest

from npdiff import nn

SHAPES, TOLERANCE = 200, 1e-12


def normal(rng, *shape):
    return rng.standard_normal(shape)


def linear(rng, N, I, O):
    return normal(rng, N, I), normal(rng, I, O), normal(rng, O)


def conv2d(rng, N, I, O):
    H, W, stride = (int(size) for size in rng.integers(1, 5, 3))
    kh, kw = rng.choice([1, 3, 5], 2, p=[0.4, 0.5, 0.1])
    return normal(rng, N, H, W, I), normal(rng, kh, kw, I, O), normal(rng, O), min(stride, 3)


def group_norm(rng, N, groups, size):
    C = groups * size
    H, W = rng.integers(2, 4, 2)        # 4 entries in a group: of 2, the gradient is 0 but for rounding
    return normal(rng, N, H, W, C), normal(rng, C), normal(rng, C), int(groups)


def images(rng, N, *channels, multiple=1):
    H, W = multiple * rng.integers(1, 4, 2)
    return [normal(rng, N, H, W, C) for C in channels]


def mse(rng, N, A, B):
    y, target = normal(rng, 2, N, A, B)
    return y, target, rng.random(N) if rng.integers(2) else None


def attention(rng, N, P, heads):
    d = rng.integers(1, 4)
    return normal(rng, N, P, 3 * heads * d), int(heads)


PAIRS = {
    "linear": linear,
    "silu": lambda rng, *sizes: (3 * normal(rng, *sizes),),
    "fourier": lambda rng, N, D, F: (normal(rng, N, D), normal(rng, D, F)),
    "embedding_lookup": lambda rng, N, D, K: (rng.integers(0, K, N), normal(rng, K, D)),
    "mse": mse,
    "cross_entropy": lambda rng, N, K, _: (normal(rng, N, K + 1), rng.integers(0, K + 1, N)),
    "conv2d": conv2d,
    "group_norm": group_norm,
    "avg_pool": lambda rng, N, C, _: images(rng, N, C, multiple=2),
    "upsample": lambda rng, N, C, _: images(rng, N, C),
    "add_channels": lambda rng, N, C, _: (*images(rng, N, C), normal(rng, N, C)),
    "concat": lambda rng, N, A, B: images(rng, N, A, B),
    "attention": attention,
}
LOSSES = {"mse", "cross_entropy"}


def as_tuple(value):
    return value if isinstance(value, tuple) else (value,)


def results(module, name, seed):
    """The output and every gradient of one random case, from npdiff.nn or from the loops."""
    rng = np.random.default_rng(seed)
    inputs = PAIRS[name](rng, *rng.integers(1, 4, 3))
    y, cache = getattr(module, f"{name}_forward")(*inputs)
    arguments = (cache,) if name in LOSSES else (normal(rng, *y.shape), cache)
    return y, *as_tuple(getattr(module, f"{name}_backward")(*arguments))


def largest_error(ours, theirs):
    """The largest difference, relative to each tensor's largest entry; NaN if there is one in any tensor."""
    assert [np.shape(a) for a in ours] == [np.shape(b) for b in theirs]
    return np.max([abs(a - b).max() / max(abs(b).max(), 1e-300) for a, b in zip(ours, theirs, strict=True)])


def test_every_pair_is_here():
    assert set(PAIRS) == {name.removesuffix("_forward") for name in dir(nn) if name.endswith("_forward")}


@pytest.mark.parametrize("name", PAIRS)
def test_a_pair_is_its_loops(name):
    for seed in range(SHAPES):
        assert largest_error(results(nn, name, seed), results(loops, name, seed)) <= TOLERANCE, seed


def test_the_embedding_of_timesteps_is_its_loops():
    for seed in range(SHAPES):
        rng = np.random.default_rng(seed)
        t, dim = rng.integers(1, 1001, 4), 2 * int(rng.integers(1, 9))
        max_period = float(rng.choice([100, 1e4]))
        ours = nn.sinusoidal_embedding(t, dim, max_period, np.float64)
        theirs = loops.sinusoidal_embedding(t, dim, max_period)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("factor", [1.0005, np.nan])
@pytest.mark.parametrize("name", PAIRS)
def test_a_planted_error_is_seen(name, factor):
    """One tensor at a time is wrong, the output or a gradient: that is far outside the tolerance."""
    ours, right = results(nn, name, 3), results(loops, name, 3)
    for wrong in range(len(right)):
        theirs = [factor * a if k == wrong else a for k, a in enumerate(right)]
        assert not largest_error(ours, theirs) <= 1e-4, wrong
