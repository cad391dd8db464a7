"""The gradient check itself: what it refuses, its measures of error, and right code in many styles."""

import math

import numpy as np
import pytest

from npdiff import nn
from npdiff.models import unet
from npdiff.verify.gradcheck import (
    central_difference,
    check_gradients,
    check_model,
    complex_step,
    element_error,
    is_wrong,
    tensor_error,
)

X = np.random.default_rng(1).standard_normal((3, 4))


def check(forward, backward, derivative=complex_step, data=(), **inputs):
    """check_gradients with a fixed cotangent."""
    return check_gradients(forward, backward, inputs or {"x": X}, np.random.default_rng(0), derivative, data)


def linear_without(*names):
    """The backward of the linear layer, without the gradients of these names."""

    def backward(dy, cache):
        gradients = dict(zip(("x", "W", "b"), nn.linear_backward(dy, cache)))
        return {name: gradient for name, gradient in gradients.items() if name not in names}

    return backward


LINEAR = {"x": np.ones((2, 3)), "W": np.ones((3, 4)), "b": np.ones(4)}


def test_wrong_shape_is_refused():
    with pytest.raises(ValueError, match="gradient of W has shape"):
        check(nn.linear_forward, lambda dy, cache: {"W": np.ones((4, 3))}, **LINEAR)


def test_what_is_left_out_is_named():
    with pytest.raises(ValueError, match="leaves out the gradient of x, b;"):
        check(nn.linear_forward, linear_without("x", "b"), **LINEAR)
    with pytest.raises(ValueError, match="leaves out the gradient of b;"):
        check(nn.linear_forward, linear_without("x", "b"), data=["x"], **LINEAR)
    errors = check(nn.linear_forward, linear_without("x"), data=["x"], **LINEAR)
    assert set(errors) == {"W", "b"} and not any(map(is_wrong, errors.values()))
    with pytest.raises(ValueError, match="leaves out the gradient of x;"):
        check(lambda x: (2 * x, None), lambda dy, cache: {"x": None})
    with pytest.raises(ValueError, match="a gradient of z; only inputs"):
        check(lambda x: (2 * x, None), lambda dy, cache: {"x": 2 * dy, "z": dy})


def test_a_network_that_leaves_out_a_gradient():
    class Model:
        forward = staticmethod(unet.forward)

        @staticmethod
        def backward(dy, cache, config):
            dx, grads = unet.backward(dy, cache, config)
            return dx, {name: gradient for name, gradient in grads.items() if name != "conv_in.b"}

    config, rng = unet.SMALL, np.random.default_rng(0)
    params, x = unet.init(config, rng), rng.standard_normal((1, *config.data_shape))
    with pytest.raises(ValueError, match="leaves out the gradient of conv_in.b;"):
        check_model(Model, config, params, x, np.array([3]), rng)


def test_labels_and_timesteps_are_left_out_by_nature():
    labels, table = np.array([1, 0, 1]), np.ones((2, 3))

    def backward(dy, cache):
        return {"table": nn.embedding_lookup_backward(dy, cache)}

    assert set(check(nn.embedding_lookup_forward, backward, labels=labels, table=table)) == {"table"}


def test_integers_are_refused_and_float32_is_taken_as_float64():
    def forward(x):
        return x ** 2, x

    def backward(dy, x):
        return {"x": 2 * x * dy}

    with pytest.raises(ValueError, match="no input is an array of floats: x;"):
        check(forward, backward, x=np.arange(4))
    with pytest.raises(ValueError, match="a gradient of k; only inputs that are float arrays have one: x"):
        check(lambda x, k: (k * x, k), lambda dy, k: {"x": k * dy, "k": dy}, x=X, k=np.full(4, 3))
    for derivative, bound in ((complex_step, 1e-15), (central_difference, 1e-9)):
        (tensor, _), = check(forward, backward, derivative, x=X.astype(np.float32)).values()
        assert tensor < bound
    slopes = central_difference(lambda x: (x ** 2).sum(), np.arange(3))
    np.testing.assert_allclose(slopes, [0, 2, 4], atol=1e-9)


# B: a wrong gradient may not pass, and a right one may not fail, where the forward is not analytic.

def relu(x):
    return np.maximum(x, 0), x


def in_a_real_buffer(x):
    y = np.zeros(x.shape)
    y[...] = x * x
    return y, x


NOT_ANALYTIC = {
    "abs": (lambda x: (np.abs(x), x), lambda x: np.sign(x)),
    "norm": (lambda x: (np.linalg.norm(x, keepdims=True), x), lambda x: x / np.linalg.norm(x)),
    "var": (lambda x: (x.var(keepdims=True), x), lambda x: 2 / x.size * (x - x.mean())),
    "real part": (lambda x: (x.real ** 2, x), lambda x: 2 * x),
    "real buffer": (in_a_real_buffer, lambda x: 2 * x),
    "math": (lambda x: (np.array([math.sin(v) for v in x.ravel()]), x), lambda x: np.cos(x)),
    "hypot": (lambda x: (np.hypot(x, 1), x), lambda x: x / np.hypot(x, 1)),
    "real fft": (lambda x: (np.fft.irfft(np.fft.rfft(x), 4), x), lambda x: 1),
    "conj": (lambda x: ((x * x.conj()).real, x), lambda x: 2 * x),
    "log of abs": (lambda x: (np.log(np.abs(x)), x), lambda x: 1 / x),
}


@pytest.mark.parametrize("name", NOT_ANALYTIC)
def test_a_forward_that_is_not_analytic(name):
    """By complex step right and wrong are refused in words. By central difference they are told apart."""
    forward, slope = NOT_ANALYTIC[name]

    def right(dy, x):
        return {"x": dy.reshape(-1)[:x.size].reshape(x.shape if dy.size == x.size else dy.shape) * slope(x)}

    def wrong(dy, x):
        return {"x": 0 * x}

    for backward in (right, wrong):
        with pytest.raises(ValueError, match="cannot be checked by complex step.*central_difference"):
            check(forward, backward)
    (tensor, _), = check(forward, right, central_difference).values()
    assert tensor < 1e-7
    (tensor, _), = check(forward, wrong, central_difference).values()
    assert tensor > 0.9


def test_one_element_that_is_not_analytic_is_noticed():
    def forward(x):
        y = x ** 3
        y.flat[5] = 1e-3 * abs(x.flat[5])
        return y, x

    def backward(dy, x):
        slope = 3 * x ** 2
        slope.flat[5] = 0
        return {"x": slope * dy}

    with pytest.raises(ValueError, match="central_difference"):
        check(forward, backward)


@pytest.mark.parametrize("derivative", [complex_step, central_difference])
@pytest.mark.parametrize("kink", [0.0, 1e-7])
def test_a_kink_at_the_point_is_named(derivative, kink):
    x = X.copy()
    x[1, 2] = kink
    with pytest.raises(ValueError, match="kink"):
        check(relu, lambda dy, x: {"x": dy * (x > 0)}, derivative, x=x)


def test_rounding_to_float32_is_named():
    def right(dy, x):
        return {"x": 2 * x * dy}

    for forward in (lambda x: (x.astype(np.float32) ** 2, x),
                    lambda x: (x.astype(np.float32).astype(np.float64) ** 2, x)):
        with pytest.raises(ValueError, match="float64"):
            check(forward, right, central_difference)
    with pytest.raises(ValueError, match="float32"):
        check(lambda x: (x ** 2, x), lambda dy, x: {"x": (2 * x * dy).astype(np.float32)})


def test_other_forwards_that_have_no_gradient_are_named():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="two answers"):
        check(lambda x: (x * (rng.random(x.shape) < 0.5), x), lambda dy, x: {"x": dy})
    with pytest.raises(ValueError, match="complex128"):
        check(lambda x: (np.fft.fft(x), x), lambda dy, x: {"x": dy})
    with pytest.raises(ValueError, match="nan or inf"), np.errstate(invalid="ignore"):
        check(lambda x: (np.log(x), x), lambda dy, x: {"x": dy / x})
    with pytest.raises(ValueError, match="must return a dict"):
        check(lambda x: (x, x), lambda dy, x: dy)
    with pytest.raises(ValueError, match="may be rounding alone"):
        check(lambda x: ((x - x.mean()).sum(keepdims=True), x), lambda dy, x: {"x": 0 * x})


# Zero by cancellation.

def test_a_gradient_that_is_zero_by_cancellation():
    """A bias before a normalisation of its channel alone: both gradients are rounding, neither is wrong."""
    rng = np.random.default_rng(0)

    def forward(x, b, gamma, beta):
        return nn.group_norm_forward(x + b, gamma, beta, 4)

    def backward(dy, cache):
        dx, dgamma, dbeta = nn.group_norm_backward(dy, cache)
        return {"x": dx, "b": dx.sum((0, 1, 2)), "gamma": dgamma, "beta": dbeta}

    inputs = {"x": rng.standard_normal((2, 3, 3, 4)), "b": rng.standard_normal(4),
              "gamma": rng.standard_normal(4), "beta": rng.standard_normal(4)}
    for derivative, bound in ((complex_step, 1e-13), (central_difference, 1e-7)):
        errors = check(forward, backward, derivative, **inputs)
        assert max(errors["b"]) < bound and max(errors["x"]) < bound
    wrong = check(forward, lambda dy, cache: backward(dy, cache) | {"b": np.full(4, 1e-8)}, **inputs)
    assert [name for name in wrong if is_wrong(wrong[name])] == ["b"]


@pytest.mark.parametrize("x", [-9.0, -15.0, -1.27846])
def test_a_gradient_that_is_small_by_itself(x):
    """SiLU is flat at these x. Its sigmoid is right to 1e-16, and so is its gradient, however small."""

    def backward(dy, cache):
        return {"x": nn.silu_backward(dy, cache)}

    assert not is_wrong(check(nn.silu_forward, backward, x=np.array([x]))["x"])


@pytest.mark.parametrize("derivative", [complex_step, central_difference])
@pytest.mark.parametrize("unit", [1e-30, 1e-20, 1e-14, 1e-12, 1e-10, 1e-8, 1e-6, 1e-4, 1e6, 1e20])
def test_the_unit_of_the_output_hides_no_error(unit, derivative):
    """A wrong factor is seen in every unit, or the check refuses in words to answer."""
    try:
        errors = check(lambda x: (unit * x ** 2, x), lambda dy, x: {"x": 2.001 * unit * x * dy}, derivative)
    except ValueError as error:
        assert unit <= 1e-6 and "the forward must be scaled" in str(error)
    else:
        assert errors["x"][0] > (1e-13 if derivative is complex_step else 1e-7)


def test_the_softmax_always_sums_to_one():
    def forward(x):
        e = np.exp(x)
        return (e / e.sum(1, keepdims=True)).sum(1), x

    assert not is_wrong(check(forward, lambda dy, x: {"x": 0 * x})["x"])
    assert is_wrong(check(forward, lambda dy, x: {"x": 1e-9 + 0 * x})["x"])


def test_the_two_errors():
    """Of (3, 4) the norm is 5 and the largest entry 4; (0, 0.5) is wrong."""
    gradient, exact = np.array([3.0, 4.5]), np.array([3.0, 4.0])
    assert tensor_error(gradient, exact) == 0.1 and element_error(gradient, exact) == 0.125
    assert tensor_error(gradient, exact, 500) == 0.1 and element_error(gradient, exact, 400) == 0.125
    assert tensor_error(gradient, exact, 1000) == 0.05 and element_error(gradient, exact, 1000) == 0.05


def test_errors_of_nothing_and_of_nan():
    zero = np.zeros(3)
    assert tensor_error(zero, zero) == element_error(zero, zero) == 0
    assert tensor_error(np.ones(3), zero) == element_error(np.full(3, np.nan), np.ones(3)) == np.inf
    assert tensor_error(np.full(3, np.nan), zero, 1.0) == np.inf


def test_a_norm_that_overflows_is_an_error():
    with np.errstate(all="ignore"):
        assert tensor_error(np.full(3, 2e200), np.full(3, 1e200)) == np.inf
        assert tensor_error(np.full(3, np.inf), np.full(3, np.inf)) == np.inf


@pytest.mark.parametrize("forward", [lambda x: x * 2, lambda x: None, lambda x: (x, x, x)])
def test_a_forward_returns_a_pair(forward):
    """x has two rows: unpacked, they would be y and cache."""
    with pytest.raises(ValueError, match=r"the forward returns \w+; it must return \(y, cache\)"):
        check_gradients(forward, lambda dy, cache: {"x": 2 * dy}, {"x": np.ones((2, 3))},
                        np.random.default_rng(0))


@pytest.mark.parametrize("error", [tensor_error, element_error])
def test_errors_of_unequal_shapes_are_refused(error):
    with pytest.raises(ValueError, match=r"shape \(3, 1\), the exact one \(3,\)"):
        error(np.ones((3, 1)), np.ones(3))


# Right code as people write it. None of it may be called wrong without a reason in words.

def loop(x):
    y = np.empty_like(x)
    for n in range(x.shape[0]):
        for k in range(x.shape[1]):
            y[n, k] = x[n, k] * x[n, k - 1]
    return y, x


def loop_back(dy, x):
    dx = np.zeros_like(x)
    for n in range(x.shape[0]):
        for k in range(x.shape[1]):
            dx[n, k] += dy[n, k] * x[n, k - 1]
            dx[n, k - 1] += dy[n, k] * x[n, k]
    return {"x": dx}


def scalar_loop(x):
    total = 0.0
    for row in x:
        for value in row:
            total += value ** 3
    return total, x


def in_place(x):
    x *= 2
    x += 1
    np.exp(x, out=x)
    return x, x


def in_place_back(dy, y):
    dy *= y
    dy *= 2
    return {"x": dy}


def softmax(x):
    p = np.exp(x - x.real.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    return p, p


def softmax_by_jacobian(dy, p):
    return {"x": np.stack([(np.diag(row) - np.outer(row, row)) @ d for row, d in zip(p, dy)])}


def layer_norm(x):
    centred = x - x.mean(1, keepdims=True)
    rstd = ((centred ** 2).mean(1, keepdims=True) + 1e-5) ** -0.5
    return centred * rstd, (centred * rstd, rstd)


def layer_norm_back(dy, cache):
    xhat, rstd = cache
    return {"x": rstd * (dy - dy.mean(1, keepdims=True) - xhat * (dy * xhat).mean(1, keepdims=True))}


def log_sum_exp(x):
    top = x.real.max(1, keepdims=True)
    e = np.exp(x - top)
    return np.log(e.sum(1)) + top[:, 0], e / e.sum(1, keepdims=True)


def sort_back(dy, x):
    dx = np.empty_like(x)
    np.put_along_axis(dx, x.argsort(1), dy, 1)
    return {"x": dx}


def largest_back(dy, x):
    dx = np.zeros_like(x)
    dx[np.arange(len(x)), x.argmax(1)] = dy
    return {"x": dx}


def windows(x):
    return np.lib.stride_tricks.sliding_window_view(x, 2, axis=1).sum(2), x.shape


def windows_back(dy, shape):
    dx = np.zeros(shape)
    dx[:, :-1] += dy
    dx[:, 1:] += dy
    return {"x": dx}


def gelu(x):
    c = np.sqrt(2 / np.pi)
    t = np.tanh(c * (x + 0.044715 * x ** 3))
    return 0.5 * x * (1 + t), (x, t, c)


def gelu_back(dy, cache):
    x, t, c = cache
    return {"x": dy * (0.5 * (1 + t) + 0.5 * x * (1 - t ** 2) * c * (1 + 3 * 0.044715 * x ** 2))}


def inverse(x):
    y = np.linalg.inv(x[:, :3] + 4 * np.eye(3))
    return y, y


def inverse_back(dy, y):
    dx = np.zeros((3, 4))
    dx[:, :3] = -y.T @ dy @ y.T
    return {"x": dx}


def filtered(x):
    return np.fft.ifft(np.fft.fft(x) * [1, 0.5, 0.25, 0.5]), None      # an even filter: its own adjoint


def real_filtered(x):
    y, _ = filtered(x)
    return y.real, None


def batched(x):
    return x.reshape(3, 2, 2) @ x.reshape(3, 2, 2), x.reshape(3, 2, 2)


def batched_back(dy, x):
    return {"x": (dy @ x.swapaxes(1, 2) + x.swapaxes(1, 2) @ dy).reshape(3, 4)}


def leaky(x):
    return np.where(x.real > 0, x, 0.1 * x), x


def float32_inside(x):
    return x.astype(np.float32) * np.float32(2), x


POSITIVE = np.abs(X) + 0.1
C, B = complex_step, central_difference
STYLES = {      # forward, backward, input, the ways to check that give an answer; the other refuses in words
    "loop": (loop, loop_back, X, [C, B]),
    "loop over scalars": (scalar_loop, lambda dy, x: {"x": 3 * dy * x ** 2}, X, [C, B]),
    "in place": (in_place, in_place_back, X, [C, B]),
    "real buffer": (in_a_real_buffer, lambda dy, x: {"x": 2 * x * dy}, X, [B]),
    "view": (lambda x: (x.T[::-1], None), lambda dy, _: {"x": dy[::-1].T}, X, [C, B]),
    "slices": (lambda x: (x[:, ::2] * x[:, 1::2], x),
               lambda dy, x: {"x": np.stack([dy * x[:, 1::2], dy * x[:, ::2]], 2).reshape(3, 4)}, X, [C, B]),
    "einsum": (lambda x: (np.einsum("nk,mk->nm", x, x), x), lambda dy, x: {"x": (dy + dy.T) @ x}, X, [C, B]),
    "batched matmul": (batched, batched_back, X, [C, B]),
    "keepdims": (lambda x: (x - x.mean(0, keepdims=True), None),
                 lambda dy, _: {"x": dy - dy.mean(0, keepdims=True)}, X, [C, B]),
    "broadcasting": (lambda x: (x[:, None] * x[None], x),
                     lambda dy, x: {"x": (dy * x[None]).sum(1) + (dy * x[:, None]).sum(0)}, X, [C, B]),
    "softmax": (softmax, lambda dy, p: {"x": p * (dy - (dy * p).sum(1, keepdims=True))}, X, [C, B]),
    "softmax by Jacobian": (softmax, softmax_by_jacobian, X, [C, B]),
    "softmax of large numbers": (softmax, softmax_by_jacobian, 300 * X, [C, B]),
    "log-sum-exp": (log_sum_exp, lambda dy, p: {"x": dy[:, None] * p}, X, [C, B]),
    "log-sum-exp shifted by max": (lambda x: (np.log(np.exp(x - x.max()).sum(1)) + x.max(), x), lambda dy, x:
                                   {"x": dy[:, None] * softmax(x)[0]}, X, [C, B]),
    "layer norm": (layer_norm, layer_norm_back, X, [C, B]),
    "layer norm of small numbers": (layer_norm, layer_norm_back, 1e-3 * X, [C]),
    "variance": (lambda x: (x.var(1), x), lambda dy, x:
                 {"x": dy[:, None] * (x - x.mean(1, keepdims=True)) / 2}, X, [B]),
    "norm": (lambda x: (np.linalg.norm(x, axis=1), x), lambda dy, x:
             {"x": dy[:, None] * x / np.linalg.norm(x, axis=1, keepdims=True)}, X, [B]),
    "norm by square root": (lambda x: ((x ** 2).sum(1) ** 0.5, x), lambda dy, x:
                            {"x": dy[:, None] * x / (x ** 2).sum(1, keepdims=True) ** 0.5}, X, [C, B]),
    "abs": (lambda x: (abs(x), x), lambda dy, x: {"x": dy * np.sign(x)}, X, [B]),
    "relu": (relu, lambda dy, x: {"x": dy * (x > 0)}, X, [C, B]),
    "relu at its kink": (relu, lambda dy, x: {"x": dy * (x > 0)}, np.round(X), []),
    "leaky relu by where": (leaky, lambda dy, x: {"x": dy * np.where(x > 0, 1, 0.1)}, X, [C, B]),
    "clip": (lambda x: (x.clip(-0.5, 0.5), x), lambda dy, x: {"x": dy * (abs(x) < 0.5)}, X, [C, B]),
    "max of rows": (lambda x: (x.max(1), x), largest_back, X, [C, B]),
    "max of equal numbers": (lambda x: (x.max(1), x), largest_back, np.ones((3, 4)), []),
    "sort": (lambda x: (np.sort(x, 1), x), sort_back, X, [C, B]),
    "cumsum": (lambda x: (x.cumsum(1), None), lambda dy, _: {"x": dy[:, ::-1].cumsum(1)[:, ::-1]}, X, [C, B]),
    "product": (lambda x: (x.prod(1), x), lambda dy, x: {"x": (dy * x.prod(1))[:, None] / x}, X, [C, B]),
    "power": (lambda x: (x ** 2.5, x), lambda dy, x: {"x": 2.5 * dy * x ** 1.5}, POSITIVE, [C, B]),
    "logarithm": (lambda x: (np.log(x), x), lambda dy, x: {"x": dy / x}, POSITIVE, [C, B]),
    "logarithm near 0": (lambda x: (np.log(x), x), lambda dy, x: {"x": dy / x}, POSITIVE / 1e3, [C]),
    "sliding windows": (windows, windows_back, X, [C, B]),
    "pad": (lambda x: (np.pad(x, 1) ** 2, x), lambda dy, x: {"x": 2 * x * dy[1:-1, 1:-1]}, X, [C, B]),
    "roll and concatenate": (lambda x: (np.concatenate([x, np.roll(x, 1, 1)], 1), None), lambda dy, _:
                             {"x": dy[:, :4] + np.roll(dy[:, 4:], -1, 1)}, X, [C, B]),
    "gelu": (gelu, gelu_back, X, [C, B]),
    "inverse": (inverse, inverse_back, X, [C, B]),
    "complex output": (filtered, lambda dy, _: {"x": filtered(dy)[0].real}, X, []),
    "fft": (real_filtered, lambda dy, _: {"x": filtered(dy)[0].real}, X, [B]),
    "float32 inside": (float32_inside, lambda dy, x: {"x": 2 * dy}, X, []),
    "float32 input": (lambda x: (x ** 2, x), lambda dy, x: {"x": 2 * x * dy}, X.astype(np.float32), [C, B]),
    "scalar input": (lambda x: (np.sin(x), x), lambda dy, x: {"x": dy * np.cos(x)}, 0.7, [C, B]),
    "nothing": (lambda x: (2 * x, x), lambda dy, x: {"x": 2 * dy}, np.ones((0, 3)), [C, B]),
    "high frequency": (lambda x: (np.sin(500 * x), x), lambda dy, x: {"x": 500 * dy * np.cos(500 * x)}, X,
                       [C]),
    "large numbers": (lambda x: (x ** 2, x), lambda dy, x: {"x": 2 * x * dy}, 1e6 * X, [C, B]),
    "a large constant": (lambda x: (x ** 2 + 1e6, x), lambda dy, x: {"x": 2 * x * dy}, X, [C]),
    "small numbers": (lambda x: (x ** 2, x), lambda dy, x: {"x": 2 * x * dy}, 1e-4 * X, [C, B]),
}
BOUNDS = {C: (1e-13, 1e-10), B: (1e-7, 1e-7)}


@pytest.mark.parametrize("derivative", [C, B])
@pytest.mark.parametrize("name", STYLES)
def test_right_code_is_right_or_refused_in_words(name, derivative):
    forward, backward, x, answers = STYLES[name]
    if derivative not in answers:
        with pytest.raises(ValueError, match="cannot be checked|to be checked"):
            check(forward, backward, derivative, x=x)
        return
    errors = check(forward, backward, derivative, x=x)["x"]
    assert all(error <= bound for error, bound in zip(errors, BOUNDS[derivative])), errors


WITHOUT_GRADIENT = ("nothing", "softmax of large numbers")      # the second is 1e-22 beside an output of 1


@pytest.mark.parametrize("name", [name for name in STYLES if name not in WITHOUT_GRADIENT])
def test_the_same_code_with_a_wrong_factor_is_wrong(name):
    forward, backward, x, answers = STYLES[name]
    for derivative in answers:
        spoilt = check(forward, lambda dy, cache: {"x": 1.0005 * backward(dy, cache)["x"]}, derivative, x=x)
        tensor, element = spoilt["x"]
        assert tensor > BOUNDS[derivative][0] and element > BOUNDS[derivative][1], derivative
