"""Every backward of npdiff.nn against the complex step: every element, random shapes, planted errors."""

import numpy as np
import pytest
from gradient_checks import CASES, assert_exact, worst

from npdiff import nn
from npdiff.nn import conv
from npdiff.verify.gradcheck import central_difference
from npdiff.verify.pairs import PAIRS, as_tuple, check_pair

BLOCKS = [1, 500, 2000, 2**20]          # bytes; with them small images are split in every way


def test_every_pair_has_a_case():
    assert set(PAIRS) == {name.removesuffix("_forward") for name in dir(nn) if name.endswith("_forward")}


@pytest.mark.parametrize("name", PAIRS)
def test_pair(name, monkeypatch):
    for seed in range(CASES):
        monkeypatch.setattr(conv, "BLOCK_BYTES", BLOCKS[seed % len(BLOCKS)])
        rng = np.random.default_rng(seed)
        pair = PAIRS[name](rng)
        errors = check_pair(pair, rng)
        assert set(errors) == set(pair.inputs)
        assert_exact(errors, seed)


def test_cases_reach_the_corners():
    """One image, one channel, one group, odd sizes, every stride: the random shapes hold them all."""
    convs = [PAIRS["conv2d"](np.random.default_rng(seed)) for seed in range(CASES)]
    for stride in (1, 2, 3):
        cases = [pair.inputs for pair in convs if pair.arguments["stride"] == stride]
        x_shapes, W_shapes = ([case[name].shape for case in cases] for name in ("x", "W"))
        assert 1 in {N for N, _, _, _ in x_shapes}
        assert {(H % 2, W % 2) for _, H, W, _ in x_shapes} == {(0, 0), (0, 1), (1, 0), (1, 1)}
        assert {(kh, kw) for kh, kw, _, _ in W_shapes} == {(3, 3), (1, 1), (1, 3), (5, 3)}
        assert 1 in {I for _, _, I, _ in W_shapes} and 1 in {O for _, _, _, O in W_shapes}
    norms = [PAIRS["group_norm"](np.random.default_rng(seed)) for seed in range(CASES)]
    assert {pair.arguments["groups"] for pair in norms} == {1, 2, 3}
    assert 1 in {pair.inputs["gamma"].size for pair in norms}
    assert 1 in {len(pair.inputs["x"]) for pair in norms}


@pytest.mark.parametrize("name", PAIRS)
def test_central_difference_agrees(name):
    """A second derivative of the forward, which shares nothing with the complex step."""
    rng = np.random.default_rng(4)
    assert worst(check_pair(PAIRS[name](rng), rng, central_difference)) < 1e-7


def in_float32(arrays):
    """The float64 arrays of a dict as float32; all else as it is."""
    return {name: value.astype(np.float32) if getattr(value, "dtype", None) == np.float64 else value
            for name, value in arrays.items()}


@pytest.mark.parametrize("name", PAIRS)
def test_float32_stays_float32(name):
    pair = PAIRS[name](np.random.default_rng(0))
    y, cache = pair.forward(**in_float32(pair.inputs), **in_float32(pair.arguments))
    gradients = as_tuple(pair.backward(y, cache))
    assert {array.dtype for array in (y, *gradients)} == {np.dtype(np.float32)}


# Planted errors: the ways in which these formulas go wrong when a person derives them.

def linear_transposed(dy, cache):
    x, W = cache
    return dy @ W, x.T @ dy, dy.sum(0)                                 # W in the place of W^T


def linear_mean_bias(dy, cache):
    x, W = cache
    return dy @ W.T, x.T @ dy, dy.mean(0)


def silu_missing_term(dy, cache):
    s, y = cache
    return dy * s                                                      # without y (1 - s)


def silu_wrong_sign(dy, cache):
    s, y = cache
    return dy * (s - y * (1 - s))


def fourier_missing_minus(dy, cache):
    x, B, y = cache
    F = B.shape[1]
    dangle = dy[:, :F] * y[:, F:] + dy[:, F:] * y[:, :F]
    return dangle @ B.T, x.T @ dangle


def fourier_swapped(dy, cache):
    x, B, y = cache
    F = B.shape[1]
    dangle = dy[:, :F] * y[:, :F] - dy[:, F:] * y[:, F:]
    return dangle @ B.T, x.T @ dangle


def mse_missing_two(dy, cache):
    return dy * cache / cache.size


def cross_entropy_sum(dy, cache):
    logits, _ = cache
    return dy * nn.cross_entropy_backward(cache) * len(logits)         # of the sum, not of the mean


def cross_entropy_without_label(dy, cache):
    logits, _ = cache
    return dy * nn.loss.softmax(logits) / len(logits)                  # without the 1 of the label's logit


def cross_entropy_unnormalised(dy, cache):
    logits, labels = cache
    chosen = np.eye(logits.shape[1])[labels]
    return dy * (np.exp(logits) - chosen) / len(logits)


def conv2d_not_turned(dy, cache):
    x, W, stride = cache
    dx, _, _ = nn.conv2d_backward(dy, (x, W[::-1, ::-1], stride))
    _, dW, db = nn.conv2d_backward(dy, cache)
    return dx, dW, db


def conv2d_weights_turned(dy, cache):
    dx, dW, db = nn.conv2d_backward(dy, cache)
    return dx, dW[::-1, ::-1], db


def conv2d_one_image_bias(dy, cache):
    dx, dW, _ = nn.conv2d_backward(dy, cache)
    return dx, dW, dy.sum((1, 2))[0]


def group_norm_without(term):
    """The backward without one of the three terms of dx."""

    def backward(dy, cache):
        centred, rstd, gamma, groups = cache
        xhat = centred * rstd
        _, dgamma, dbeta = nn.group_norm_backward(dy, cache)
        flat = dy.reshape(xhat.shape)

        def mean(sums):
            return nn.norm.group_mean(sums, xhat.shape[1], groups)

        average = mean((flat * gamma).sum(1)) * (term != "average")
        overlap = mean((flat * gamma * xhat).sum(1)) * (term != "overlap")
        dxhat = flat if term == "gamma" else flat * gamma
        dx = rstd * (dxhat - average - xhat * overlap)
        return dx.reshape(dy.shape), dgamma, dbeta

    return backward


def group_norm_swapped(dy, cache):
    dx, dgamma, dbeta = nn.group_norm_backward(dy, cache)
    return dx, dbeta, dgamma


def avg_pool_undivided(dy, cache):
    return 4 * nn.avg_pool_backward(dy, cache)


def upsample_mean(dy, cache):
    return nn.upsample_backward(dy, cache) / 4


def attention_without_row_sum(dy, cache):
    q, k, v, a, scale = cache
    N, heads, P, d = q.shape
    dqkv = nn.attention_backward(dy, cache)
    dz = dy.reshape(N, P, heads, d).transpose(0, 2, 1, 3)
    dscore = scale * a * (dz @ v.swapaxes(2, 3))
    dqkv[..., :dy.shape[2]] = (dscore @ k).transpose(0, 2, 1, 3).reshape(dy.shape)
    return dqkv


def attention_swapped(dy, cache):
    dq, dk, dv = np.split(nn.attention_backward(dy, cache), 3, axis=2)
    return np.concatenate([dk, dq, dv], axis=2)


def attention_unscaled(dy, cache):
    q, k, v, a, scale = cache
    dq, dk, dv = np.split(nn.attention_backward(dy, cache), 3, axis=2)
    return np.concatenate([dq / scale, dk / scale, dv], axis=2)


def embedding_lookup_last_wins(dy, cache):
    labels, K = cache
    dtable = np.zeros((K, dy.shape[1]))
    dtable[labels] = dy                                                # = in the place of +=
    return dtable


def add_channels_mean(dy, cache):
    return dy, dy.mean((1, 2))


def concat_exchanged(dy, cache):
    return dy[..., -cache:], dy[..., :-cache]


PLANTED = {
    "linear": [linear_transposed, linear_mean_bias],
    "silu": [silu_missing_term, silu_wrong_sign],
    "fourier": [fourier_missing_minus, fourier_swapped],
    "mse": [mse_missing_two],
    "cross_entropy": [cross_entropy_sum, cross_entropy_without_label, cross_entropy_unnormalised],
    "conv2d": [conv2d_not_turned, conv2d_weights_turned, conv2d_one_image_bias],
    "group_norm": [
        group_norm_without("average"),
        group_norm_without("overlap"),
        group_norm_without("gamma"),
        group_norm_swapped,
    ],
    "avg_pool": [avg_pool_undivided],
    "upsample": [upsample_mean],
    "attention": [attention_without_row_sum, attention_swapped, attention_unscaled],
    "embedding_lookup": [embedding_lookup_last_wins],
    "add_channels": [add_channels_mean],
    "concat": [concat_exchanged],
}


def case_with_room(name):
    """A case with more than one of everything, so that each wrong formula gives other numbers."""
    rng = np.random.default_rng(3)
    normal = rng.standard_normal
    pair = PAIRS[name](rng)
    cases = {
        # square, so that W fits where W^T belongs
        "linear": ({"x": normal((4, 3)), "W": normal((3, 3)), "b": normal(3)}, {}),
        "conv2d": ({"x": normal((2, 4, 5, 2)), "W": normal((3, 3, 2, 3)), "b": normal(3)}, {"stride": 2}),
        "group_norm": ({"x": normal((2, 3, 2, 4)), "gamma": normal(4), "beta": normal(4)}, {"groups": 2}),
        "avg_pool": ({"x": normal((2, 4, 4, 2))}, {}),
        "upsample": ({"x": normal((2, 2, 3, 2))}, {}),
        "attention": ({"qkv": normal((2, 4, 12))}, {"heads": 2}),
        "embedding_lookup": ({"table": normal((3, 2))}, {"labels": np.array([1, 0, 1])}),
        "add_channels": ({"x": normal((2, 3, 2, 2)), "e": normal((2, 2))}, {}),
        "concat": ({"x": normal((2, 3, 2, 2)), "skip": normal((2, 3, 2, 2))}, {}),
    }
    inputs, arguments = cases.get(name, (pair.inputs, pair.arguments))
    return pair._replace(inputs=inputs, arguments=arguments)


@pytest.mark.parametrize("name", PAIRS)
def test_planted_error_in_a_formula(name):
    """The right formula passes the check, and each wrong one is far outside it."""
    rng, pair = np.random.default_rng(5), case_with_room(name)
    assert_exact(check_pair(pair, rng))
    for wrong in PLANTED[name]:
        assert worst(check_pair(pair._replace(backward=wrong), rng)) > 1e-3, wrong
