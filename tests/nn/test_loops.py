"""Every pair of npdiff.nn equals its plain loops (tests/loops.py): output and gradients, 200 shapes."""

import loops
import numpy as np
import pytest
from gradient_checks import as_tuple

from npdiff import nn
from npdiff.verify.gradcheck import element_error

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
    H, W = rng.integers(2, 4, 2)        # 4 entries in a group: of 2 the gradient is rounding alone
    return normal(rng, N, H, W, C), normal(rng, C), normal(rng, C), int(groups)


def images(rng, N, *channels):
    H, W = 2 * rng.integers(1, 3, 2)
    return [normal(rng, N, H, W, C) for C in channels]


def mse(rng, N, A, B):
    y, target = normal(rng, 2, N, A, B)
    return y, target, rng.random(N) if rng.integers(2) else None


PAIRS = {
    "linear": linear,
    "silu": lambda rng, *sizes: (3 * normal(rng, *sizes),),
    "fourier": lambda rng, N, D, F: (normal(rng, N, D), normal(rng, D, F)),
    "embedding_lookup": lambda rng, N, D, K: (rng.integers(0, K, N), normal(rng, K, D)),
    "mse": mse,
    "cross_entropy": lambda rng, N, K, _: (normal(rng, N, K + 1), rng.integers(0, K + 1, N)),
    "conv2d": conv2d,
    "group_norm": group_norm,
    "avg_pool": lambda rng, N, C, _: images(rng, N, C),
    "upsample": lambda rng, N, C, _: images(rng, N, C),
    "add_channels": lambda rng, N, C, _: (*images(rng, N, C), normal(rng, N, C)),
    "concat": lambda rng, N, A, B: images(rng, N, A, B),
    "attention": lambda rng, N, P, heads: (normal(rng, N, P, 3 * 2 * heads), int(heads)),
}
LOSSES = {"mse", "cross_entropy"}


def largest_error(name, theirs, inputs, dy):
    """The largest difference from the loops, of output and gradients, each relative to its largest entry."""
    results = []
    for module in (nn, theirs):
        forward, backward = (getattr(module, f"{name}_{way}") for way in ("forward", "backward"))
        y, cache = forward(*inputs)
        gradients = backward(cache) if name in LOSSES else backward(dy(np.shape(y)), cache)
        results.append((y, *as_tuple(gradients)))
    ours, plain = results
    assert [np.shape(a) for a in ours] == [np.shape(b) for b in plain]
    return max(element_error(np.asarray(a), np.asarray(b)) for a, b in zip(ours, plain))


def cotangent(seed):
    """-> a function that draws dy of a shape, the same for each caller"""
    return lambda shape: np.random.default_rng(seed).standard_normal(shape)


def error_of_case(name, seed, theirs=loops):
    rng = np.random.default_rng(seed)
    inputs = PAIRS[name](rng, *rng.integers(1, 4, 3))
    return largest_error(name, theirs, inputs, cotangent(seed))


def test_every_pair_is_here():
    assert set(PAIRS) == {name.removesuffix("_forward") for name in dir(nn) if name.endswith("_forward")}


@pytest.mark.parametrize("name", PAIRS)
def test_a_pair_is_its_loops(name):
    for seed in range(SHAPES):
        assert error_of_case(name, seed) <= TOLERANCE, seed


def test_the_embedding_of_timesteps_is_its_loops():
    for seed in range(SHAPES):
        rng = np.random.default_rng(seed)
        t, dim = rng.integers(1, 1001, 4), 2 * int(rng.integers(1, 9))
        max_period = float(rng.choice([100, 1e4]))
        ours = nn.sinusoidal_embedding(t, dim, max_period, np.float64)
        theirs = loops.sinusoidal_embedding(t, dim, max_period)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", PAIRS)
def test_a_planted_error_is_seen(name):
    """Loops whose gradients are multiplied by 1.0005 are far outside the tolerance."""

    class Wrong:
        def __getattr__(self, function):
            right = getattr(loops, function)
            if not function.endswith("_backward"):
                return right
            return lambda *arguments: tuple(1.0005 * g for g in as_tuple(right(*arguments)))

    assert error_of_case(name, 3, Wrong()) > 1e-4
