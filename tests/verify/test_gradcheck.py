"""The gradient check itself: what it refuses, and its measures of error."""

import numpy as np
import pytest

from npdiff import nn
from npdiff.verify.gradcheck import check_gradients, element_error, tensor_error


def test_wrong_shape_is_refused():
    inputs = {"x": np.ones((2, 3)), "W": np.ones((3, 4)), "b": np.ones(4)}

    def backward(dy, cache):
        return {"W": np.ones((4, 3))}

    with pytest.raises(ValueError, match="gradient of W has shape"):
        check_gradients(nn.linear_forward, backward, inputs, np.random.default_rng(0))


def test_the_two_errors():
    """Of (3, 4) the norm is 5 and the largest entry 4; (0, 0.5) is wrong."""
    gradient, exact = np.array([3.0, 4.5]), np.array([3.0, 4.0])
    assert tensor_error(gradient, exact) == 0.1 and element_error(gradient, exact) == 0.125


def test_errors_of_nothing_and_of_nan():
    zero = np.zeros(3)
    assert tensor_error(zero, zero) == element_error(zero, zero) == 0
    assert tensor_error(np.ones(3), zero) == element_error(np.full(3, np.nan), np.ones(3)) == np.inf
