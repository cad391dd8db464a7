"""The closed forms against the chain they summarise, and against Bayes' rule worked out by brute force."""

import numpy as np
import pytest

from npdiff import diffusion
from npdiff.schedule import cosine, linear, straight


def test_chain_and_closed_form_agree_exactly():
    """Walking forward_step with noises e_1..e_t is q_sample with one noise, the right weighted sum of them.
    """
    schedule, rng = linear(50), np.random.default_rng(0)
    x0 = rng.standard_normal((4, 3))
    x, combined = x0, np.zeros_like(x0)
    for t in range(1, 51):
        e = rng.standard_normal(x0.shape)
        x = diffusion.forward_step(x, t, e, schedule)
        combined = schedule.alpha[t] ** 0.5 * combined + schedule.beta[t] ** 0.5 * e
        noise = combined / (1 - schedule.alpha_bar[t]) ** 0.5
        np.testing.assert_allclose(x, diffusion.q_sample(x0, t, noise, schedule), rtol=1e-11, atol=1e-12)


def test_marginal_moments():
    schedule, rng = linear(1000), np.random.default_rng(0)
    for t in (1, 100, 500, 1000):
        x = diffusion.q_sample(np.full((100_000, 1), 2.0), t, rng.standard_normal((100_000, 1)), schedule)
        assert x.mean() == pytest.approx(2 * schedule.alpha_bar[t] ** 0.5, abs=0.02)
        assert x.var() == pytest.approx(1 - schedule.alpha_bar[t], rel=0.03)


def test_one_t_per_sample():
    """The source's four images at four noise levels in one call; each as if alone."""
    schedule, rng = linear(1000), np.random.default_rng(0)
    x0, noise = rng.standard_normal((2, 4, 1, 8, 8))
    t = np.array([11, 251, 601, 1000])
    x_t = diffusion.q_sample(x0, t, noise, schedule)
    assert x_t.shape == (4, 1, 8, 8)
    for i in range(4):
        np.testing.assert_array_equal(x_t[i], diffusion.q_sample(x0[i], int(t[i]), noise[i], schedule))


def test_x0_and_eps_are_two_views_of_one_thing():
    schedule, rng = cosine(100), np.random.default_rng(0)
    x0, noise = rng.standard_normal((2, 6, 2))
    for t in (1, 50, 99, np.arange(1, 7) * 15):
        x_t = diffusion.q_sample(x0, t, noise, schedule)
        np.testing.assert_allclose(diffusion.x0_from_prediction(x_t, t, noise, schedule), x0, atol=1e-10)
        np.testing.assert_allclose(diffusion.eps_from_x0(x_t, t, x0, schedule), noise, atol=1e-10)


@pytest.mark.parametrize("prediction_type", diffusion.PREDICTION_TYPES)
def test_every_target_leads_back_to_x0(prediction_type):
    schedule, rng = cosine(100), np.random.default_rng(0)
    x0, noise = rng.standard_normal((2, 6, 2))
    for t in (1, 50, 99, np.arange(1, 7) * 15):
        x_t = diffusion.q_sample(x0, t, noise, schedule)
        target = diffusion.prediction_target(x0, t, noise, schedule, prediction_type)
        np.testing.assert_allclose(
            diffusion.x0_from_prediction(x_t, t, target, schedule, prediction_type), x0, atol=1e-10
        )


def test_velocity_is_the_derivative_along_the_circle():
    """With alpha_bar = cos^2 phi, x_t = cos(phi) x_0 + sin(phi) eps and v = dx_t / dphi."""
    schedule, rng = linear(10), np.random.default_rng(0)
    x0, noise = rng.standard_normal((2, 3, 2))
    phi = np.arccos(schedule.alpha_bar[4] ** 0.5)
    derivative = -np.sin(phi) * x0 + np.cos(phi) * noise
    np.testing.assert_allclose(
        diffusion.prediction_target(x0, 4, noise, schedule, "v_prediction"), derivative, rtol=1e-12
    )


@pytest.mark.parametrize("prediction_type", diffusion.PREDICTION_TYPES)
def test_an_error_in_x0_seen_in_the_prediction(prediction_type):
    """Move x_0 and keep x_t: the target moves by squared_error_ratio, and both weightings of the error, on
    x_0 and on the prediction, agree.
    """
    schedule, rng = cosine(100), np.random.default_rng(0)
    x_t, x0, moved = rng.standard_normal((3, 99, 2))
    t = np.arange(1, 100)
    first, second = (
        diffusion.prediction_target(
            x, t, diffusion.eps_from_x0(x_t, t, x, schedule), schedule, prediction_type
        )
        for x in (x0, moved)
    )
    error, error_x0 = ((first - second) ** 2).sum(1), ((x0 - moved) ** 2).sum(1)
    np.testing.assert_allclose(
        error, diffusion.squared_error_ratio(schedule, prediction_type)[t] * error_x0, rtol=1e-9
    )
    for name, of_x0 in [
        ("min_snr", np.minimum(schedule.snr, 5)[t]),
        ("vlb", schedule.snr[t] * schedule.beta[t] / (2 * schedule.alpha[t] * (1 - schedule.alpha_bar[t]))),
    ]:
        np.testing.assert_allclose(
            diffusion.loss_weights(schedule, prediction_type, name)[t] * error, of_x0 * error_x0, rtol=1e-9
        )
    assert (diffusion.loss_weights(schedule, prediction_type, "simple")[1:] == 1).all()


@pytest.mark.parametrize("prediction_type", ["sample", "v_prediction", "flow_prediction"])
def test_no_signal_at_the_end(prediction_type):
    """alpha_bar_T = 0: x_T is the noise; every target but the noise still leads to x_0, and every weight is
    finite.
    """
    schedule, rng = straight(10), np.random.default_rng(0)
    x0, noise = rng.standard_normal((2, 3, 2))
    x_t = diffusion.q_sample(x0, 10, noise, schedule)
    np.testing.assert_array_equal(x_t, noise)
    target = diffusion.prediction_target(x0, 10, noise, schedule, prediction_type)
    np.testing.assert_allclose(
        diffusion.x0_from_prediction(x_t, 10, target, schedule, prediction_type), x0, atol=1e-14
    )
    for name in diffusion.LOSS_WEIGHTS:
        assert np.isfinite(diffusion.loss_weights(schedule, prediction_type, name)).all()
    for t in (10, np.array([1, 5, 10])):
        with pytest.raises(ValueError, match="alpha_bar_T is 0"):
            diffusion.x0_from_prediction(x_t, t, noise, schedule, "epsilon")


def test_unknown_loss_weight():
    with pytest.raises(ValueError, match="loss_weight is 'plain'; it must be one of simple, min_snr, vlb"):
        diffusion.loss_weights(linear(10), "epsilon", "plain")


@pytest.mark.parametrize("function", [diffusion.prediction_target, diffusion.x0_from_prediction])
def test_unknown_prediction_type(function):
    with pytest.raises(
        ValueError,
        match="prediction_type is 'noise'; it must be one of epsilon, sample, v_prediction, flow_prediction",
    ):
        function(np.ones((3, 2)), 1, np.ones((3, 2)), linear(10), "noise")


@pytest.mark.parametrize("t, s", [(1, 0), (2, 1), (30, 29), (50, 49), (50, 10), (7, 0)])
def test_posterior_is_bayes_rule(t, s):
    """q(x_s | x_t, x_0) from the product q(x_s | x_0) q(x_t | x_s) on a grid."""
    schedule = linear(50, 1e-3, 0.3)
    x0, x_t = 0.7, -0.4
    mean = diffusion.posterior_mean(np.array(x_t), np.array(x0), t, s, schedule)
    variance = diffusion.posterior_variance(t, s, schedule)
    if s == 0:
        assert mean == pytest.approx(x0, abs=1e-12) and variance == 0
        return
    ab_t, ab_s = schedule.alpha_bar[t], schedule.alpha_bar[s]
    x_s = np.linspace(-12, 12, 400_001)
    log_density = -((x_s - ab_s**0.5 * x0) ** 2) / (2 * (1 - ab_s)) - (
        x_t - (ab_t / ab_s) ** 0.5 * x_s
    ) ** 2 / (2 * (1 - ab_t / ab_s))
    weight = np.exp(log_density - log_density.max())
    weight /= weight.sum()
    exact_mean = (weight * x_s).sum()
    assert mean == pytest.approx(exact_mean, abs=1e-8)
    assert variance == pytest.approx((weight * (x_s - exact_mean) ** 2).sum(), rel=1e-6)


def test_one_step_posterior_is_the_papers():
    """With s = t - 1 the variance is the schedule's table, and the mean with x_0 from eps is eq. 11: (x -
    beta / sqrt(1 - alpha_bar) eps) / sqrt(alpha).
    """
    schedule, rng = linear(200), np.random.default_rng(0)
    x, eps = rng.standard_normal((2, 5, 2))
    for t in (1, 2, 100, 200):
        x0 = diffusion.x0_from_prediction(x, t, eps, schedule)
        mean = (x - schedule.beta[t] / (1 - schedule.alpha_bar[t]) ** 0.5 * eps) / schedule.alpha[t] ** 0.5
        np.testing.assert_allclose(
            diffusion.posterior_mean(x, x0, t, t - 1, schedule), mean, rtol=1e-9, atol=1e-10
        )
        assert diffusion.posterior_variance(t, t - 1, schedule) == pytest.approx(
            schedule.posterior_variance[t], rel=1e-9
        )
        assert diffusion.transition_beta(t, t - 1, schedule) == pytest.approx(schedule.beta[t], rel=1e-9)


@pytest.mark.parametrize("t", [7, np.array([1, 5, 9])])
def test_float32_stays_float32(t):
    schedule = linear(10)
    x, noise = np.ones((3, 2), np.float32), np.ones((3, 2), np.float32)
    for result in (
        diffusion.q_sample(x, t, noise, schedule),
        diffusion.forward_step(x, t, noise, schedule),
        diffusion.x0_from_prediction(x, t, noise, schedule),
        diffusion.eps_from_x0(x, t, noise, schedule),
    ):
        assert result.dtype == np.float32
    assert diffusion.posterior_mean(x, noise, 7, 3, schedule).dtype == np.float32


@pytest.mark.parametrize("function", [diffusion.x0_from_prediction, diffusion.eps_from_x0])
def test_inversion_refuses_t(function):
    for t in (0, -1, 11):
        with pytest.raises(ValueError, match="1..10"):
            function(np.ones((3, 2)), t, np.ones((3, 2)), linear(10))


@pytest.mark.parametrize("function", [diffusion.q_sample, diffusion.forward_step])
def test_refusals(function):
    schedule = linear(10)
    with pytest.raises(ValueError, match=r"has shape \(3, 2\); noise has shape \(2, 3\); they must be equal"):
        function(np.ones((3, 2)), 1, np.ones((2, 3)), schedule)
    for t in (0, 11, np.array([1, 2, 11])):
        with pytest.raises(ValueError, match="1..10"):
            function(np.ones((3, 2)), t, np.ones((3, 2)), schedule)
    with pytest.raises(ValueError, match=r"t has shape \(2,\)"):
        function(np.ones((3, 2)), np.array([1, 2]), np.ones((3, 2)), schedule)
