"""The likelihood along the probability flow, compared with a density in closed form point by point, and with
the Jacobian of the map.
"""

import itertools
import math

import numpy as np
import pytest
from known_mixture import mixture, mixture_divergence, points
from toy_backend import ToyBackend

from npdiff.backends.numpy import NumpyBackend
from npdiff.diffusion import PREDICTION_TYPES, eps_from_x0, prediction_target
from npdiff.evaluation.likelihood import log_likelihood, to_noise, velocity_coefficients
from npdiff.models import mlp
from npdiff.rng import generator
from npdiff.schedule import cosine, linear, make_schedule, rescaled_linear, zero_terminal_snr


@pytest.mark.parametrize(
    "name, T, tolerance", [("rescaled_linear", 1000, 1e-3), ("cosine", 1000, 1e-4), ("cosine", 999, 1e-4)]
)
def test_the_flow_finds_the_mixtures_density(name, T, tolerance):
    schedule, x = make_schedule(name, T), points(200)
    exact, _, _ = mixture(x, 1.0)
    assert exact.min() < -40 and exact.max() > 1
    assert abs(log_likelihood(mixture_divergence(schedule), x, schedule) - exact).max() < tolerance


def test_the_flow_is_right_where_its_end_is_not():
    """alpha_bar_T = 0.13. log_likelihood takes x_T for standard normal, and so is wrong by nats.

    With the mixture's own density at T in its place, only the error of 200 steps is left.
    """
    schedule, x = linear(200), points(200)
    exact, _, _ = mixture(x, 1.0)
    x_T, log_det = to_noise(mixture_divergence(schedule), x, schedule)
    own_density, _, _ = mixture(x_T, schedule.alpha_bar[-1])
    assert abs(own_density + log_det - exact).max() < 5e-3
    assert abs(log_likelihood(mixture_divergence(schedule), x, schedule) - exact).max() > 1


def test_more_steps_make_the_error_smaller():
    """Twice the steps, less than a quarter of the error."""
    schedule, x = cosine(960), points(100)
    exact, _, _ = mixture(x, 1.0)

    def error(steps):
        return np.median(abs(log_likelihood(mixture_divergence(schedule), x, schedule, steps=steps) - exact))

    errors = [error(steps) for steps in (30, 60, 120, 240)]
    assert all(coarse > 4 * fine for coarse, fine in zip(errors, errors[1:]))


@pytest.mark.parametrize(
    "schedule", [cosine(100), zero_terminal_snr(cosine(100))], ids=["cosine", "no signal at T"]
)
def test_all_predictions_have_one_flow(schedule):
    x, no_signal = points(50), schedule.alpha_bar[-1] == 0
    kinds = [kind for kind in PREDICTION_TYPES if not (kind == "epsilon" and no_signal)]
    by_type = {kind: log_likelihood(mixture_divergence(schedule, kind), x, schedule, kind) for kind in kinds}
    assert len(by_type) >= 3 and abs(by_type["v_prediction"] - mixture(x, 1.0)[0]).max() < 0.02
    for result in by_type.values():
        np.testing.assert_allclose(result, by_type["v_prediction"], rtol=1e-7)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_velocity_coefficients(prediction_type):
    """The velocity of an x_0 and its noise, computed again from what a network would have answered."""
    schedule, (x, x0) = rescaled_linear(50), np.random.default_rng(0).standard_normal((2, 3, 2))
    for t in (1, 20, 50):
        eps = eps_from_x0(x, t, x0, schedule)
        prediction = prediction_target(x0, t, eps, schedule, prediction_type)
        velocity = prediction_target(x0, t, eps, schedule, "v_prediction")
        of_x, of_prediction = velocity_coefficients(t, schedule, prediction_type)
        assert type(of_x) is type(of_prediction) is float
        np.testing.assert_allclose(of_x * x + of_prediction * prediction, velocity, rtol=1e-9, atol=1e-9)


def test_a_networks_density_integrates_to_one():
    """For any network: the flow is invertible whatever the network predicts.

    The grid is as wide as N(0, I) needs, and log_det varies much on it.
    """
    config, schedule = mlp.Config(hidden=(16, 16), time_dim=4, fourier_features=2), rescaled_linear(40)
    rng = generator(0, "init")
    params = {name: array + 0.1 * rng.standard_normal(array.shape)
              for name, array in mlp.init(config, rng).items()}
    denoiser = NumpyBackend(dtype="float64").make_denoiser(config, params)
    side, step = np.linspace(-7, 7, 41, retstep=True)
    grid = np.array(list(itertools.product(side, side)))
    _, log_det = to_noise(denoiser.divergence, grid, schedule, "v_prediction")
    assert np.ptp(log_det) > 1
    density = np.exp(log_likelihood(denoiser.divergence, grid, schedule, "v_prediction"))
    assert density.sum() * step ** 2 == pytest.approx(1, abs=1e-4)


def test_the_determinant_is_that_of_the_map():
    """The map of an affine network is affine, so three points give its Jacobian.

    On the toy backend, whose arrays are lists.
    """
    backend, schedule = ToyBackend(), cosine(200)
    denoiser = backend.make_denoiser(mlp.Config(), {})
    denoiser.w = [[0.3, -0.2], [0.1, 0.4], [0.5, 0.1], [0.2, -0.3]]

    def end_of(x):
        x_T, _ = to_noise(denoiser.divergence, backend.asarray(x), schedule, "v_prediction")
        return backend.to_numpy(x_T)

    origin, *corners = end_of([[0, 0], [1, 0], [0, 1]])
    jacobian = np.array(corners) - origin                   # row i is what the unit vector e_i adds
    [end] = end_of([[2, -1]])
    np.testing.assert_allclose(end, origin + np.array([2, -1]) @ jacobian, rtol=1e-12)
    log_p = log_likelihood(denoiser.divergence, backend.asarray([[2, -1]]), schedule, "v_prediction")
    expected = math.log(np.linalg.det(jacobian)) - (end ** 2).sum() / 2 - math.log(2 * math.pi)
    np.testing.assert_allclose(backend.to_numpy(log_p), [expected], rtol=1e-6)


@pytest.mark.parametrize("function", [log_likelihood, to_noise])
def test_what_the_flow_refuses(function):
    divergence = mixture_divergence(linear(10))
    for wrong, message in [
        ({"steps": 5}, "steps is 5; .* must be even"),
        ({"steps": 12}, "takes 1..10"),
        ({"steps": 0}, "takes 1..10"),
        ({"x0": np.ones((2, 1, 4, 4))}, r"x has shape \(2, 1, 4, 4\); .* vectors"),
        ({"prediction_type": "noise"}, "prediction_type is 'noise'"),
        ({"schedule": zero_terminal_snr(linear(10))}, "prediction_type is 'epsilon', but alpha_bar_T is 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            function(**{"divergence": divergence, "x0": np.ones((2, 2)), "schedule": linear(10)} | wrong)
