"""Every hand-derived backward against the complex step, every element, on random shapes; and the checker
against planted errors.
"""

import numpy as np
import pytest

from npdiff import nn
from npdiff.models import mlp
from npdiff.verify.gradcheck import (
    central_difference,
    check_gradients,
    check_model,
    element_error,
    tensor_error,
)

CASES = 200
TENSOR, ELEMENT = 1e-13, 1e-10


def shape(rng, *largest):
    """A random shape with each side between 1 and its largest."""
    return tuple(int(rng.integers(1, side, endpoint=True)) for side in largest)


def linear_case(rng):
    N, I, O = shape(rng, 6, 7, 7)
    inputs = {"x": rng.standard_normal((N, I)), "W": rng.standard_normal((I, O)), "b": rng.standard_normal(O)}
    return nn.linear_forward, nn.linear_backward, inputs


def silu_case(rng):
    return (
        nn.silu_forward,
        nn.silu_backward,
        {"x": 4 * rng.standard_normal(shape(rng, 5, 6, 3)[: rng.integers(1, 4)])},
    )


def fourier_case(rng):
    N, D, F = shape(rng, 5, 4, 6)
    return (
        nn.fourier_forward,
        nn.fourier_backward,
        {"x": rng.standard_normal((N, D)), "B": 2 * rng.standard_normal((D, F))},
    )


def mse_case(rng):
    y = rng.standard_normal(shape(rng, 6, 4))
    target = rng.standard_normal(y.shape)
    weight = None if rng.random() < 0.5 else rng.uniform(0, 3, len(y))
    return (
        lambda y: nn.mse_forward(y, target, weight),
        lambda dy, cache: dy * nn.mse_backward(cache),
        {"y": y},
    )


def cross_entropy_case(rng):
    N, K = shape(rng, 6, 7)
    # with one class the loss is 0 whatever the logit is
    K += 1
    labels = rng.integers(0, K, N)
    inputs = {"logits": rng.standard_normal((N, K))}
    return (
        lambda logits: nn.cross_entropy_forward(logits, labels),
        lambda dy, cache: dy * nn.cross_entropy_backward(cache),
        inputs,
    )


PAIRS = {
    "linear": linear_case,
    "silu": silu_case,
    "fourier": fourier_case,
    "mse": mse_case,
    "cross_entropy": cross_entropy_case,
}


def named(backward, inputs):
    """The backward with its gradients as a dict under the names of the forward's inputs."""

    def named_backward(dy, cache):
        gradients = backward(dy, cache)
        return dict(zip(inputs, gradients if isinstance(gradients, tuple) else (gradients,), strict=True))

    return named_backward


def mlp_case(rng):
    config = mlp.Config(
        data_dim=int(rng.integers(1, 4)),
        hidden=shape(rng, *[6] * rng.integers(1, 4)),
        time_dim=2 * int(rng.integers(1, 4)),
        max_period=float(rng.uniform(10, 10000)),
        fourier_features=int(rng.integers(0, 4)),
    )
    N = int(rng.integers(1, 5))
    return config, mlp.init(config, rng), rng.standard_normal((N, config.data_dim)), rng.integers(1, 1001, N)


@pytest.mark.parametrize("pair", PAIRS)
def test_pair(pair):
    for seed in range(CASES):
        rng = np.random.default_rng(seed)
        forward, backward, inputs = PAIRS[pair](rng)
        errors = check_gradients(forward, named(backward, inputs), inputs, rng)
        assert set(errors) == set(inputs)
        for name, (tensor, element) in errors.items():
            assert tensor <= TENSOR and element <= ELEMENT, (pair, seed, name, tensor, element)


def test_mlp():
    for seed in range(CASES):
        rng = np.random.default_rng(seed)
        config, params, x, t = mlp_case(rng)
        errors = check_model(mlp, config, params, x, t, rng)
        assert set(errors) == {"x", *params}
        for name, (tensor, element) in errors.items():
            assert tensor <= TENSOR and element <= ELEMENT, (seed, config, name, tensor, element)


def test_central_difference_agrees():
    """A second opinion that shares nothing with the complex step."""
    rng = np.random.default_rng(0)
    config, params, x, t = mlp_case(rng)
    assert (
        max(tensor for tensor, _ in check_model(mlp, config, params, x, t, rng, central_difference).values())
        < 1e-7
    )


def test_float32_stays_float32():
    rng = np.random.default_rng(0)
    config = mlp.Config(fourier_features=4)
    params = {name: array.astype(np.float32) for name, array in mlp.init(config, rng).items()}
    y, cache = mlp.forward(params, rng.standard_normal((5, 2)).astype(np.float32), np.arange(1, 6), config)
    loss, loss_cache = nn.mse_forward(y, np.zeros_like(y))
    dx, grads = mlp.backward(nn.mse_backward(loss_cache), cache, config)
    assert {array.dtype for array in [y, loss, dx, *grads.values()]} == {np.dtype(np.float32)}


# Planted errors: each takes the right gradient of one tensor and spoils it in one of the ways in which
# hand-derived gradients go wrong.

def scaled(gradient):
    return gradient * 1.0005


def smallest_zeroed(gradient):
    spoilt = gradient.copy()
    spoilt.flat[abs(gradient).argmin()] = 0
    return spoilt


def smallest_flipped(gradient):
    spoilt = gradient.copy()
    spoilt.flat[abs(gradient).argmin()] *= -1
    return spoilt


def reversed_axis(gradient):
    return gradient[::-1].copy()


def shifted(gradient):
    return np.roll(gradient, 1)


SPOILERS = [scaled, smallest_zeroed, smallest_flipped, reversed_axis, shifted]


@pytest.mark.parametrize("spoil", SPOILERS)
@pytest.mark.parametrize("name", ["x", "fourier.B", "linear1.W", "linear1.b", "linear2.W", "linear2.b"])
def test_planted_error_in_a_tensor(name, spoil):
    """30 spoilt tensors of the whole network; each is far outside what test_mlp allows, and only in that
    tensor.
    """
    rng = np.random.default_rng(7)
    config = mlp.Config(data_dim=2, hidden=(5,), time_dim=4, fourier_features=3)
    params = mlp.init(config, rng)
    params["linear1.b"] *= 1e-4                                        # small entries must not hide

    class Spoilt:
        forward = staticmethod(mlp.forward)

        @staticmethod
        def backward(dy, cache, config):
            dx, grads = mlp.backward(dy, cache, config)
            gradients = {"x": dx} | grads
            gradients[name] = spoil(gradients[name])
            return gradients.pop("x"), gradients

    errors = check_model(Spoilt, config, params, rng.standard_normal((4, 2)), rng.integers(1, 200, 4), rng)
    assert [key for key, (tensor, _) in errors.items() if tensor > TENSOR] == [name]


def linear_transposed(dy, cache):
    x, W = cache
    return dy @ W, x.T @ dy, dy.sum(0)                                 # W where W^T belongs


def linear_mean_bias(dy, cache):
    x, W = cache
    return dy @ W.T, x.T @ dy, dy.mean(0)


def silu_missing_term(dy, cache):
    s, y = cache
    return dy * s                                                      # y (1 - s) forgotten


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
    return dy * nn.cross_entropy_backward(cache) * len(cache[0])       # of the sum, not of the mean


def cross_entropy_without_label(dy, cache):
    logits, _ = cache
    # the 1 of the label's own logit forgotten
    return dy * nn.loss.softmax(logits) / len(logits)


def cross_entropy_unnormalised(dy, cache):
    logits, labels = cache
    chosen = np.eye(logits.shape[1])[labels]
    return dy * (np.exp(logits) - chosen) / len(logits)


@pytest.mark.parametrize(
    "pair, wrong",
    [
        ("linear", linear_transposed),
        ("linear", linear_mean_bias),
        ("silu", silu_missing_term),
        ("silu", silu_wrong_sign),
        ("fourier", fourier_missing_minus),
        ("fourier", fourier_swapped),
        ("mse", mse_missing_two),
        ("cross_entropy", cross_entropy_sum),
        ("cross_entropy", cross_entropy_without_label),
        ("cross_entropy", cross_entropy_unnormalised),
    ],
)
def test_planted_error_in_a_formula(pair, wrong):
    rng = np.random.default_rng(3)
    forward, _, inputs = PAIRS[pair](rng)
    # square, so that the transposed matrix fits
    if pair == "linear":
        inputs = {
            "x": rng.standard_normal((4, 3)),
            "W": rng.standard_normal((3, 3)),
            "b": rng.standard_normal(3),
        }
    errors = check_gradients(forward, named(wrong, inputs), inputs, rng)
    assert max(tensor for tensor, _ in errors.values()) > 1e-3


def test_cross_entropy_of_known_rows():
    """Equal logits tell nothing: log K. Far-off ones: exp would overflow without the shift, and the loss is
    their distance.
    """
    loss, _ = nn.cross_entropy_forward(np.zeros((3, 5)), np.array([0, 2, 4]))
    assert loss == pytest.approx(np.log(5), rel=1e-14)
    logits = np.array([[1e4, 0, -1e4], [0, 1e4, 0]])
    loss, cache = nn.cross_entropy_forward(logits, np.array([2, 1]))
    np.testing.assert_array_equal(nn.cross_entropy_backward(cache), [[0.5, 0, -0.5], [0, 0, 0]])
    assert loss == 1e4


def test_cross_entropy_values():
    torch = pytest.importorskip("torch")
    for seed in range(CASES):
        rng = np.random.default_rng(seed)
        _, _, inputs = cross_entropy_case(rng)
        logits, labels = (
            10 * inputs["logits"],
            rng.integers(0, inputs["logits"].shape[1], len(inputs["logits"])),
        )
        expected = torch.nn.functional.cross_entropy(
            torch.from_numpy(logits), torch.from_numpy(labels)
        ).item()
        assert nn.cross_entropy_forward(logits, labels)[0] == pytest.approx(expected, rel=1e-12, abs=1e-12), (
            seed
        )


@pytest.mark.parametrize(
    "labels, message",
    [
        ([0, 3], "a label is 3; it must lie in 0..2"),
        ([-1, 0], "a label is -1"),
        ([0], r"shape \(1,\).* for 2 samples"),
        ([0.0, 1.0], "dtype float64"),
    ],
)
def test_bad_labels_are_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        nn.cross_entropy_forward(np.zeros((2, 3)), np.array(labels))


def test_wrong_shape_is_refused():
    inputs = {"x": np.ones((2, 3)), "W": np.ones((3, 4)), "b": np.ones(4)}
    with pytest.raises(ValueError, match="gradient of W has shape"):
        check_gradients(
            nn.linear_forward, lambda dy, cache: {"W": np.ones((4, 3))}, inputs, np.random.default_rng(0)
        )


def test_errors_of_nothing_and_of_nan():
    zero = np.zeros(3)
    assert tensor_error(zero, zero) == element_error(zero, zero) == 0
    assert tensor_error(np.ones(3), zero) == element_error(np.full(3, np.nan), np.ones(3)) == np.inf
