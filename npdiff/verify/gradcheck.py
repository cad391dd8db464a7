"""Gradient checks: derivatives computed from a forward alone, to compare hand-derived backwards with.

Every check differentiates one scalar, L = sum(y * dy). y is the output of the forward, and dy is a random
array of its shape (a cotangent). For this L, ∂L/∂y is dy, so ∂L/∂input is what the backward returns for dy.
(With dy all ones, errors that cancel in the sum would stay hidden.) Arrays are float64.
"""

import warnings
from functools import partial

import numpy as np

TENSOR, ELEMENT = 1e-13, 1e-10          # errors of a right gradient: of a whole tensor, of its worst element
FLOOR = 0.01            # an error is relative to at least this part of the size of the whole check
AGREE = 1e-7            # relative difference allowed between a derivative and the slopes along a direction
AHEAD = np.array([-25, 48, -36, 16, -3]) / 12       # h L'(x) from L(x), L(x + h), ... L(x + 4h)


def complex_step(L, x, h=1e-30):
    """∂L/∂x, every element, to machine precision: a float64 array like x.

        L(x + ih) = L(x) + ih L'(x) + O(h^2)      so      L'(x) = Im L(x + ih) / h

    Unlike in a finite difference nothing is subtracted, so h can be far below rounding. L takes a complex
    array like x. It must be built from analytic operations: no abs, conj or real part of what is
    differentiated. This function cannot see whether it is; check_gradients can.
    Source: [Squire and Trapp 1998](https://doi.org/10.1137/S003614459631241X).
    """
    z = x.astype(np.complex128)
    gradient = np.empty(x.shape)
    for index in np.ndindex(x.shape):
        z[index] += 1j * h
        gradient[index] = L(z).imag / h
        z[index] = x[index]
    return gradient


def central_difference(L, x, h=1e-5):
    """∂L/∂x, every element, as (L(x + h) - L(x - h)) / 2h: a float64 array like x, relative error about 1e-9.

    For any L that is smooth within h of x and computes in float64, analytic or not. For |x| > 1, h is h |x|.
    """
    x = x.astype(np.float64)
    z = x.copy()
    gradient = np.empty(x.shape)
    for index in np.ndindex(x.shape):
        step = h * max(1.0, abs(x[index]))
        z[index] = x[index] + step
        above = L(z)
        z[index] = x[index] - step
        gradient[index] = (above - L(z)) / (2 * step)
        z[index] = x[index]
    return gradient


def tensor_error(gradient, exact, size=0.0):
    """The error of a whole tensor, a float:   ||gradient - exact|| / max(||exact||, FLOOR size)

    Norms are Euclidean. size is that of all gradients that are computed together: the norm of all of them.
    It matters where the terms of a gradient cancel, as for a bias before a normalisation. The gradient is
    zero, and what is computed is rounding of about 1e-16 size. Relative to itself its error would be about 1;
    relative to FLOOR size it is about 1e-14. A wrong gradient is still far above that.

    0 if nothing differs, inf for nan. Raises ValueError for unequal shapes.
    """
    check_shapes(gradient, exact)
    return ratio(np.linalg.norm(gradient - exact), max(np.linalg.norm(exact), FLOOR * size))


def element_error(gradient, exact, size=0.0):
    """The worst element's error, a float:   max|gradient - exact| / max(max|exact|, FLOOR size)

    All else is as in tensor_error.
    """
    check_shapes(gradient, exact)
    return ratio(abs(gradient - exact).max(initial=0), max(abs(exact).max(initial=0), FLOOR * size))


def check_shapes(gradient, exact):
    """Raise ValueError unless the shapes are equal. (NumPy would stretch (3, 1) beside (3,) to (3, 3).)"""
    if np.shape(gradient) != np.shape(exact):
        raise ValueError(f"the gradient has shape {np.shape(gradient)}, the exact one {np.shape(exact)}; "
                         "they must be equal")


def ratio(error, size):
    """error / size, a float. 0 / 0 is 0, and error / 0 is inf. A nan or a norm that overflows becomes inf,
    because every comparison with nan is false.
    """
    if not np.isfinite(error) or not np.isfinite(size) or error > 0 and size == 0:
        return np.inf
    return float(error / size) if size > 0 else 0.0


def is_wrong(errors):
    """Whether a (tensor_error, element_error) is above what rounding explains, TENSOR and ELEMENT."""
    tensor, element = errors
    return tensor > TENSOR or element > ELEMENT


def check_gradients(forward, backward, inputs, rng, derivative=complex_step, data=()):
    """Compare a backward with the derivative of its forward, for each input, with a random cotangent.

    forward(**inputs) -> (y, cache); backward(dy, cache) -> gradients, a dict with the names of inputs. inputs
    is a dict of arrays. All float arrays are differentiated, as float64, but those that `data` names. Others,
    such as integer labels, are only handed on. forward and backward get copies, so they may write into them.

    Returns {name: (tensor_error, element_error)}. The size in these is the norm of all gradients, or ||dy||
    if that is larger: where a forward is flat, all gradients are rounding of numbers of about 1.

    Raises ValueError, with the reason, where numbers would mean nothing: a gradient is missing, or is not
    float64 in the shape of its input; the forward is random, rounds to float32, or has a kink here; or it is
    not analytic, and derivative is complex_step.
    """
    inputs = {name: np.array(x, np.float64) if is_float(x) else x for name, x in inputs.items()}
    if not named(inputs, is_float):
        raise ValueError(f"no input is an array of floats: {', '.join(inputs)}; "
                         "only floats can be differentiated")

    def run(**changed):
        answer = forward(**{name: x.copy() if isinstance(x, np.ndarray) else x
                            for name, x in (inputs | changed).items()})
        if not isinstance(answer, tuple) or len(answer) != 2:
            raise ValueError(f"the forward returns {type(answer).__name__}; it must return (y, cache)")
        return answer

    y, cache = run()
    y = np.array(y)                     # a copy: the backward may write into what the forward made
    check_output(y, run()[0])
    dy = rng.standard_normal(y.shape)
    gradients = check_answer(backward(dy.copy(), cache), inputs, data)

    def loss_of(name, x):
        return (run(**{name: x})[0] * dy).sum()

    terms, given = np.linalg.norm(y * dy), {name: inputs[name] for name in gradients}
    exact = {name: differentiated(partial(loss_of, name), x, derivative, name) for name, x in given.items()}
    largest, size = max(norm_of_all(exact), terms), max(norm_of_all(exact), np.linalg.norm(dy))
    if 0 < largest < (1e-10 if derivative is complex_step else 1e-5) * size:
        raise ValueError(f"outputs and gradients are at most {largest:.0e}, which may be rounding alone; "
                         "to be checked, the forward must be scaled so that its output is about 1")
    if derivative is central_difference and terms > 1e4 * size * (1 + norm_of_all(given)):
        raise ValueError("the output is so large beside its gradients that differences of it are rounding; "
                         "to be checked, it must be without the constant in it, or by complex_step")
    for name, x in given.items():
        check_slopes(partial(loss_of, name), x, exact[name], terms, derivative, name)
    return {name: (tensor_error(gradient, exact[name], size), element_error(gradient, exact[name], size))
            for name, gradient in gradients.items()}


def is_float(x):
    """Whether x is real floating-point numbers: what can be differentiated."""
    return np.asarray(x).dtype.kind == "f"


def norm_of_all(arrays):
    """The Euclidean norm of all arrays of a dict together."""
    return float(np.sqrt(sum((array ** 2).sum() for array in arrays.values())))


def check_output(y, again):
    """Raise ValueError unless a forward gave finite float64 numbers, and the same ones again."""
    if y.dtype != np.float64 or not np.isfinite(y).all():
        raise ValueError(f"the forward gives {y.dtype} for float64 inputs, or nan or inf; "
                         "to be checked it must compute finite numbers in float64")
    if not np.array_equal(y, again):
        raise ValueError("the forward gives two answers for the same inputs; fix its random numbers")


def check_answer(gradients, inputs, data):
    """The gradients that a backward returned, by name. Raises ValueError unless each float input has one."""
    if not isinstance(gradients, dict):
        raise ValueError(f"the backward returns {type(gradients).__name__}; it must return a dict by input")
    gradients = {name: np.asarray(gradient) for name, gradient in gradients.items() if gradient is not None}
    for name, gradient in gradients.items():
        if name not in inputs or not is_float(inputs[name]):
            raise ValueError(f"the backward returns a gradient of {name}; "
                             f"only inputs that are float arrays have one: {named(inputs, is_float)}")
        if gradient.shape != inputs[name].shape:
            raise ValueError(f"the gradient of {name} has shape {gradient.shape}; "
                             f"its input has {inputs[name].shape}")
        if gradient.dtype.kind not in "iuf" or is_float(gradient) and gradient.dtype != np.float64:
            raise ValueError(f"the gradient of {name} is {gradient.dtype} for float64 inputs; "
                             "it must be float64, or rounding alone makes it differ")
    if missing := named(inputs, lambda x: is_float(x), but={*gradients, *data}):
        raise ValueError(f"the backward leaves out the gradient of {missing}; "
                         "if an input is data, name it in the argument data")
    return gradients


def named(inputs, chosen, but=()):
    """The names of the inputs that are chosen, as words."""
    return ", ".join(name for name, x in inputs.items() if chosen(x) and name not in but)


def differentiated(L, x, derivative, name):
    """derivative(L, x). Raises ValueError if L does not take complex numbers, and complex_step asks it to."""
    if derivative is not complex_step:
        return derivative(L, x)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", np.exceptions.ComplexWarning)
            return complex_step(L, x)
    except Exception as error:
        raise ValueError(f"the forward cannot be checked by complex step: for complex {name} it raises "
                         f"{type(error).__name__}: {error}; {OTHERWISE}") from error


OTHERWISE = ("it must take complex numbers and keep their imaginary parts; for a forward that does not, "
             "pass derivative=central_difference")


def check_slopes(L, x, gradient, terms, derivative, name):
    """Raise ValueError unless gradient is the slope of L along a random direction, on both sides of x.

    The slopes are one-sided differences of five points, with an error of about h^4. One h that agrees is
    enough. terms is the norm of the terms of the sum L. Their rounding is about 1e-11 terms in these slopes
    and 1e-10 terms in a central_difference.
    """
    rng = np.random.default_rng(0)
    reach = np.maximum(abs(x), 0.01 * np.linalg.norm(x) / max(x.size, 1) ** 0.5 or 1.0)
    v = reach * rng.choice([-1, 1], x.shape) * rng.uniform(0.5, 1, x.shape)
    rounding = (1e-10 if derivative is complex_step else 1e-9) * terms
    slope, allowed = (gradient * v).sum(), AGREE * np.linalg.norm(gradient * v) + rounding
    here = L(x)
    for h in (1e-3, 1e-4, 1e-5):
        with np.errstate(all="ignore"):
            ahead, behind = (AHEAD @ [here, *(L(x + k * step * v) for k in range(1, 5))] / step
                             for step in (h, -h))
        if abs(ahead - slope) <= allowed and abs(behind - slope) <= allowed:
            return
    method = derivative.__name__.replace("_", " ")
    reason = f"it is not analytic (abs, conj, a norm, a variance, a real part or a real buffer); {OTHERWISE}"
    if not abs(ahead - behind) <= 1e-3 * abs(ahead):
        reason = ("it has a kink or a jump at this point (abs, max, clip), or it rounds to float32: "
                  "choose another point, or compute in float64")
    elif derivative is not complex_step:
        reason = f"it bends too fast for the step of {method}: scale {name} down"
    raise ValueError(f"the forward cannot be checked by {method} here: in a random direction of {name} the "
                     f"derivative is {slope:.4g}, and the slopes are {ahead:.4g} ahead, {behind:.4g} behind; "
                     f"{reason}")


def check_model(model, config, params, x, t, rng, derivative=complex_step, labels=None):
    """check_gradients of a whole network, for its input x and every parameter.

    model is a module of npdiff.models, x (N, ...), t (N,), labels (N,) or None.
    """

    def forward(x, **params):
        return model.forward(params, x, t, config, *([] if labels is None else [labels]))

    def backward(dy, cache):
        dx, grads = model.backward(dy, cache, config)
        return {"x": dx} | grads

    return check_gradients(forward, backward, {"x": x} | params, rng, derivative)
