"""Gradient checks: derivatives computed from a forward alone, to compare hand-derived backwards with.

Every check differentiates one scalar, L = sum(y * dy). y is the output of the forward, and dy is a random
array of its shape (a cotangent). For this L, ∂L/∂y is dy, so ∂L/∂input is what the backward returns for dy.
(With dy all ones, errors that cancel in the sum would stay hidden.) Arrays are float64.
"""

from functools import partial

import numpy as np


def complex_step(L, x, h=1e-30):
    """∂L/∂x, every element, to machine precision: an array like x.

        L(x + ih) = L(x) + ih L'(x) + O(h^2)      so      L'(x) = Im L(x + ih) / h

    Unlike in a finite difference nothing is subtracted, so h can be far below rounding. L takes a complex
    array like x. It must be built from analytic operations: no abs, conj, max or real part of what is
    differentiated. Source: [Squire and Trapp 1998](https://doi.org/10.1137/S003614459631241X).
    """
    z = x.astype(np.complex128)
    gradient = np.empty(x.shape)
    for index in np.ndindex(x.shape):
        z[index] += 1j * h
        gradient[index] = L(z).imag / h
        z[index] = x[index]
    return gradient


def central_difference(L, x, h=1e-5):
    """∂L/∂x, every element, as (L(x + h) - L(x - h)) / 2h: an array like x, relative error about 1e-9.

    For any L, analytic or not.
    """
    z = x.copy()
    gradient = np.empty(x.shape)
    for index in np.ndindex(x.shape):
        z[index] = x[index] + h
        above = L(z)
        z[index] = x[index] - h
        gradient[index] = (above - L(z)) / (2 * h)
        z[index] = x[index]
    return gradient


def tensor_error(gradient, exact):
    """The error of a whole tensor, a float:   ||gradient - exact|| / ||exact||   (Euclidean norms).

    0 if both are zero.
    """
    return ratio(np.linalg.norm(gradient - exact), np.linalg.norm(exact))


def element_error(gradient, exact):
    """The worst element's error, relative to the largest element:   max|gradient - exact| / max|exact|

    A float; 0 if both are zero.
    """
    return ratio(abs(gradient - exact).max(initial=0), abs(exact).max(initial=0))


def ratio(error, size):
    """error / size, a float. 0 / 0 is 0, and error / 0 is inf. A nan becomes inf, because every comparison
    with nan is false.
    """
    if np.isnan(error) or error > 0 and size == 0:
        return np.inf
    return float(error / size) if size > 0 else 0.0


def check_gradients(forward, backward, inputs, rng, derivative=complex_step):
    """Compare a backward with the derivative of its forward, for each input, with a random cotangent.

    forward(**inputs) -> (y, cache); backward(dy, cache) -> gradients, a dict with the names of inputs or of
    some of them. inputs is a dict of float64 arrays. Returns {name: (tensor_error, element_error)}. Raises
    ValueError if a gradient has another shape than its input.
    """
    y, cache = forward(**inputs)
    dy = rng.standard_normal(np.shape(y))

    def loss_of(name, x):
        y, _ = forward(**inputs | {name: x})
        return (y * dy).sum()

    errors = {}
    for name, gradient in backward(dy, cache).items():
        if gradient.shape != inputs[name].shape:
            raise ValueError(f"the gradient of {name} has shape {gradient.shape}; "
                             f"its input has {inputs[name].shape}")
        exact = derivative(partial(loss_of, name), inputs[name])
        errors[name] = tensor_error(gradient, exact), element_error(gradient, exact)
    return errors


def check_model(model, config, params, x, t, rng, derivative=complex_step):
    """check_gradients of a whole network, for its input x and every parameter.

    model is a module of npdiff.models, x (N, ...), t (N,).
    """

    def forward(x, **params):
        return model.forward(params, x, t, config)

    def backward(dy, cache):
        dx, grads = model.backward(dy, cache, config)
        return {"x": dx} | grads

    return check_gradients(forward, backward, {"x": x} | params, rng, derivative)
