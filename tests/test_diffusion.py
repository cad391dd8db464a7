"""The closed forms, compared with the chain of single steps, their definitions, and Bayes' rule on a grid."""

import numpy as np
import pytest

from npdiff import diffusion
from npdiff.schedule import SCHEDULES, cosine, linear, make_schedule, straight


def test_the_chain_leads_to_the_closed_form():
    """t steps of forward_step with the noises e_1..e_t end where q_sample does with their weighted sum."""
    schedule, rng = linear(50), np.random.default_rng(0)
    x0 = rng.standard_normal((4, 3))
    x, combined = x0, np.zeros_like(x0)
    for t in range(1, 51):
        e = rng.standard_normal(x0.shape)
        x = diffusion.forward_step(x, t, e, schedule)
        combined = schedule.alpha[t] ** 0.5 * combined + schedule.beta[t] ** 0.5 * e
        noise = combined / (1 - schedule.alpha_bar[t]) ** 0.5
        np.testing.assert_allclose(x, diffusion.q_sample(x0, t, noise, schedule), rtol=1e-11, atol=1e-12)


def test_mean_and_variance_of_x_t():
    schedule, rng, x0 = linear(1000), np.random.default_rng(0), np.full((100_000, 1), 2.0)
    for t in (1, 100, 500, 1000):
        x = diffusion.q_sample(x0, t, rng.standard_normal(x0.shape), schedule)
        assert x.mean() == pytest.approx(2 * schedule.alpha_bar[t] ** 0.5, abs=0.02)
        assert x.var() == pytest.approx(1 - schedule.alpha_bar[t], rel=0.03)


def test_one_t_per_sample():
    """Four images at four noise levels in one call. Each is as if it were alone."""
    schedule, rng = linear(1000), np.random.default_rng(0)
    x0, noise = rng.standard_normal((2, 4, 1, 8, 8))
    t = np.array([11, 251, 601, 1000])
    x_t = diffusion.q_sample(x0, t, noise, schedule)
    assert x_t.shape == (4, 1, 8, 8)
    for i in range(4):
        np.testing.assert_array_equal(x_t[i], diffusion.q_sample(x0[i], int(t[i]), noise[i], schedule))


def test_x0_and_eps_follow_from_each_other():
    schedule, rng = cosine(100), np.random.default_rng(0)
    x0, noise = rng.standard_normal((2, 6, 2))
    for t in (1, 50, 99, np.arange(1, 7) * 15):
        x_t = diffusion.q_sample(x0, t, noise, schedule)
        np.testing.assert_allclose(diffusion.x0_from_prediction(x_t, t, noise, schedule), x0, atol=1e-10)
        np.testing.assert_allclose(diffusion.eps_from_x0(x_t, t, x0, schedule), noise, atol=1e-10)


SETTINGS = [("linear", 1000), ("rescaled_linear", 200), ("scaled_linear", 1000), ("cosine", 1000),
            ("sigmoid", 200), ("karras", 50), ("straight", 300), ("zero_snr_linear", 200)]


@pytest.mark.parametrize("name, T", SETTINGS)
@pytest.mark.parametrize("prediction_type", diffusion.PREDICTION_TYPES)
def test_every_target_leads_back_to_x0(prediction_type, name, T):
    """At every t of the schedule: as an array of timesteps, one for each sample, and one by one."""
    schedule, rng = make_schedule(name, T), np.random.default_rng(0)
    last = T - (prediction_type == "epsilon" and schedule.alpha_bar[T] == 0)       # there x_0 cannot be known
    t = np.arange(1, last + 1)
    x0, noise = rng.standard_normal((2, last, 3))
    x_t = diffusion.q_sample(x0, t, noise, schedule)
    target = diffusion.prediction_target(x0, t, noise, schedule, prediction_type)
    answer = diffusion.x0_from_prediction(x_t, t, target, schedule, prediction_type)
    np.testing.assert_allclose(answer, x0, rtol=0, atol=1e-9)
    for i in range(0, last, 7):
        alone = diffusion.x0_from_prediction(x_t[i], int(t[i]), target[i], schedule, prediction_type)
        np.testing.assert_array_equal(alone, answer[i])


RATIOS = {                          # r^2 in closed form
    "epsilon": lambda snr: snr,
    "sample": lambda snr: np.ones_like(snr),
    "v_prediction": lambda snr: snr + 1,
    "flow_prediction": lambda snr: (snr ** 0.5 + 1) ** 2,
}


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("prediction_type", diffusion.PREDICTION_TYPES)
def test_squared_error_ratio_in_closed_form(prediction_type, name):
    schedule = make_schedule(name, 200)
    ratio = diffusion.squared_error_ratio(schedule, prediction_type)
    assert ratio.shape == (201,) and np.isnan(ratio[0])
    np.testing.assert_allclose(ratio[1:], RATIOS[prediction_type](schedule.snr[1:]), rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name, T", SETTINGS)
def test_x0_from_epsilon_is_the_papers_to_the_byte(name, T, dtype):
    """(x_t - sigma eps) / a, eq. 15 of Ho et al. 2020. With p = 0, q = 1 the general formula rounds alike."""
    schedule, rng = make_schedule(name, T), np.random.default_rng(0)
    t = np.arange(1, T + (schedule.alpha_bar[T] > 0))
    x_t, eps = rng.standard_normal((2, len(t), 3)).astype(dtype)
    a, sigma = schedule.a[t, None].astype(dtype), schedule.sigma[t, None].astype(dtype)
    answer = diffusion.x0_from_prediction(x_t, t, eps, schedule, "epsilon")
    assert answer.dtype == dtype and answer.tobytes() == ((x_t - sigma * eps) / a).tobytes()
    for k in (1, len(t)):
        a, sigma = float(schedule.a[k]), float(schedule.sigma[k])
        alone = diffusion.x0_from_prediction(x_t, k, eps, schedule, "epsilon")
        assert alone.dtype == dtype and alone.tobytes() == ((x_t - sigma * eps) / a).tobytes()


def test_velocity_is_the_derivative_along_the_circle():
    """With alpha_bar = cos^2 phi, x_t = cos(phi) x_0 + sin(phi) eps and v = dx_t / dphi."""
    schedule, rng = linear(10), np.random.default_rng(0)
    x0, noise = rng.standard_normal((2, 3, 2))
    phi = np.arccos(schedule.alpha_bar[4] ** 0.5)
    derivative = -np.sin(phi) * x0 + np.cos(phi) * noise
    v = diffusion.prediction_target(x0, 4, noise, schedule, "v_prediction")
    np.testing.assert_allclose(v, derivative, rtol=1e-12)


@pytest.mark.parametrize("prediction_type", diffusion.PREDICTION_TYPES)
def test_an_error_of_x0_is_an_error_of_the_prediction(prediction_type):
    """Another x_0 with the same x_t has another target. The squared distance of the targets is
    squared_error_ratio times that of the x_0, and a weighted error is the same for both.
    """
    schedule, rng = cosine(100), np.random.default_rng(0)
    x_t, x0, moved = rng.standard_normal((3, 99, 2))
    t = np.arange(1, 100)

    def target(x):
        eps = diffusion.eps_from_x0(x_t, t, x, schedule)
        return diffusion.prediction_target(x, t, eps, schedule, prediction_type)

    error, error_x0 = ((target(x0) - target(moved)) ** 2).sum(1), ((x0 - moved) ** 2).sum(1)
    ratio = diffusion.squared_error_ratio(schedule, prediction_type)[t]
    np.testing.assert_allclose(error, ratio * error_x0, rtol=1e-9)
    beta, alpha, sigma2 = schedule.beta[t], schedule.alpha[t], 1 - schedule.alpha_bar[t]
    of_x0 = {"min_snr": np.minimum(schedule.snr[t], 5), "vlb": schedule.snr[t] * beta / (2 * alpha * sigma2)}
    for name, weight_x0 in of_x0.items():
        weight = diffusion.loss_weights(schedule, prediction_type, name)
        assert weight.shape == (101,) and weight[0] == 0
        np.testing.assert_allclose(weight[t] * error, weight_x0 * error_x0, rtol=1e-9)
    simple = diffusion.loss_weights(schedule, prediction_type, "simple")
    assert simple[0] == 0 and (simple[1:] == 1).all()


@pytest.mark.parametrize("prediction_type", ["sample", "v_prediction", "flow_prediction"])
def test_no_signal_at_the_end(prediction_type):
    """x_T is the noise. Every other target still leads to x_0, and all weights are finite."""
    schedule, rng = straight(10), np.random.default_rng(0)
    x0, noise = rng.standard_normal((2, 3, 2))
    x_t = diffusion.q_sample(x0, 10, noise, schedule)
    np.testing.assert_array_equal(x_t, noise)
    target = diffusion.prediction_target(x0, 10, noise, schedule, prediction_type)
    answer = diffusion.x0_from_prediction(x_t, 10, target, schedule, prediction_type)
    np.testing.assert_allclose(answer, x0, atol=1e-14)
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
    message = "prediction_type is 'noise'; it must be one of epsilon, sample, v_prediction, flow_prediction"
    with pytest.raises(ValueError, match=message):
        function(np.ones((3, 2)), 1, np.ones((3, 2)), linear(10), "noise")


@pytest.mark.parametrize("t, s", [(2, 1), (30, 29), (50, 49), (50, 10)])
def test_posterior_is_bayes_rule(t, s):
    """q(x_s | x_t, x_0) is proportional to q(x_s | x_0) q(x_t | x_s): mean and variance of that on a grid."""
    schedule = linear(50, 1e-3, 0.3)
    x0, x_t = 0.7, -0.4
    alpha_bar = schedule.alpha_bar[s]
    alpha = schedule.alpha_bar[t] / alpha_bar                                       # from s to t
    x_s = np.linspace(-12, 12, 400_001)
    log_prior = -(x_s - alpha_bar ** 0.5 * x0) ** 2 / (2 * (1 - alpha_bar))
    log_likelihood = -(x_t - alpha ** 0.5 * x_s) ** 2 / (2 * (1 - alpha))
    log_density = log_prior + log_likelihood
    weight = np.exp(log_density - log_density.max())
    weight /= weight.sum()
    exact_mean = (weight * x_s).sum()
    exact_variance = (weight * (x_s - exact_mean) ** 2).sum()
    mean = diffusion.posterior_mean(np.array(x_t), np.array(x0), t, s, schedule)
    assert mean == pytest.approx(exact_mean, abs=1e-8)
    assert diffusion.posterior_variance(t, s, schedule) == pytest.approx(exact_variance, rel=1e-6)


@pytest.mark.parametrize("t", [1, 7])
def test_the_posterior_of_clean_data_is_the_data(t):
    schedule = linear(50, 1e-3, 0.3)
    mean = diffusion.posterior_mean(np.array(-0.4), np.array(0.7), t, 0, schedule)
    assert mean == pytest.approx(0.7, abs=1e-12) and diffusion.posterior_variance(t, 0, schedule) == 0


def test_one_step_posterior_is_the_papers():
    """With s = t - 1 the variance is the schedule's table. With x_0 from eps the mean is eq. 11 of
    [Ho et al. 2020](https://arxiv.org/abs/2006.11239):   (x - beta / sqrt(1 - alpha_bar) eps) / sqrt(alpha)
    """
    schedule, rng = linear(200), np.random.default_rng(0)
    x, eps = rng.standard_normal((2, 5, 2))
    for t in (1, 2, 100, 200):
        x0 = diffusion.x0_from_prediction(x, t, eps, schedule)
        expected = (x - schedule.beta[t] / schedule.sigma[t] * eps) / schedule.alpha[t] ** 0.5
        mean = diffusion.posterior_mean(x, x0, t, t - 1, schedule)
        np.testing.assert_allclose(mean, expected, rtol=1e-9, atol=1e-10)
        variance = diffusion.posterior_variance(t, t - 1, schedule)
        assert variance == pytest.approx(schedule.posterior_variance[t], rel=1e-9)
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
        *(diffusion.prediction_target(x, t, noise, schedule, name) for name in diffusion.PREDICTION_TYPES),
    ):
        assert result.dtype == np.float32
    assert diffusion.posterior_mean(x, noise, 7, 3, schedule).dtype == np.float32


@pytest.mark.parametrize("function", [diffusion.x0_from_prediction, diffusion.eps_from_x0])
def test_inversion_refuses_t(function):
    for t in (0, -1, 11):
        with pytest.raises(ValueError, match="1..10"):
            function(np.ones((3, 2)), t, np.ones((3, 2)), linear(10))


@pytest.mark.parametrize("function", [diffusion.q_sample, diffusion.forward_step])
def test_refuses_shapes_and_t(function):
    schedule = linear(10)
    with pytest.raises(ValueError, match=r"has shape \(3, 2\); noise has shape \(2, 3\); they must be equal"):
        function(np.ones((3, 2)), 1, np.ones((2, 3)), schedule)
    for t in (0, 11, np.array([1, 2, 11])):
        with pytest.raises(ValueError, match="1..10"):
            function(np.ones((3, 2)), t, np.ones((3, 2)), schedule)
    with pytest.raises(ValueError, match=r"t has shape \(2,\)"):
        function(np.ones((3, 2)), np.array([1, 2]), np.ones((3, 2)), schedule)
