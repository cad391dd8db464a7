"""The closed forms, compared with the chain of single steps, their definitions, and Bayes' rule on a grid."""

import numpy as np
import pytest

from npdiff import diffusion
from npdiff.schedule import SCHEDULES, Schedule, cosine, linear, make_schedule, straight


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


def forms(schedule):
    """Every closed form as a function of (t, first array, second array)."""
    return {
        "forward_step": lambda t, x, y: diffusion.forward_step(x, t, y, schedule),
        "q_sample": lambda t, x, y: diffusion.q_sample(x, t, y, schedule),
        "eps_from_x0": lambda t, x, y: diffusion.eps_from_x0(x, t, y, schedule),
        "prediction_target": lambda t, x, y: diffusion.prediction_target(x, t, y, schedule, "v_prediction"),
        "x0_from_prediction": lambda t, x, y: diffusion.x0_from_prediction(x, t, y, schedule),
        "posterior_mean": lambda t, x, y: diffusion.posterior_mean(x, y, t, 1, schedule),
    }


FORMS = list(forms(linear(10)))
OF_ARRAYS = [name for name in FORMS if name != "posterior_mean"]


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("dtype", [int, np.uint8, bool])
def test_data_of_integers_is_refused(name, dtype):
    form, floats = forms(linear(10))[name], np.ones((3, 2))
    for x, y in ((floats.astype(dtype), floats), (floats, floats.astype(dtype))):
        with pytest.raises(ValueError, match=f"is {np.dtype(dtype)}; it must be an array of floats"):
            form(5, x, y)
    for x in (1, [[1.0, 2.0]]):
        with pytest.raises(ValueError, match=f"is {type(x).__name__}; it must be an array of floats"):
            form(5, x, floats)


@pytest.mark.parametrize("name", FORMS)
def test_unequal_shapes_are_refused(name):
    with pytest.raises(ValueError, match=r"shape \(3, 2\); .* shape \(1, 2\); they must be equal"):
        forms(linear(10))[name](5, np.ones((3, 2)), np.ones((1, 2)))


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("dtype", [np.complex128, ">f8", object])
def test_complex_numbers_objects_and_foreign_bytes_are_data(name, dtype):
    form, (x, y) = forms(linear(10))[name], np.random.default_rng(0).standard_normal((2, 3, 2))
    for t in (5,) if name == "posterior_mean" else (5, np.array([2, 5, 9])):
        answer = form(t, x.astype(dtype), y.astype(dtype))
        np.testing.assert_allclose(answer.astype(complex), form(t, x, y), rtol=1e-14)


def test_a_float_stands_for_an_array():
    schedule, x = linear(10), np.ones((3, 2))
    mean = diffusion.posterior_mean(0.0, x, 5, 3, schedule)
    np.testing.assert_array_equal(mean, diffusion.posterior_mean(0 * x, x, 5, 3, schedule))


class Foreign:
    """An array of another library: its dtype has no name but its text."""
    shape = (3, 2)

    def __init__(self, dtype):
        self.dtype = dtype

    def __rmul__(self, factor):
        return self

    __add__ = __sub__ = __truediv__ = __rmul__


@pytest.mark.parametrize("name", FORMS)
def test_arrays_of_other_libraries(name):
    form, right = forms(linear(10))[name], Foreign("library.float32")
    assert form(5, right, right) is right
    for dtype in ("library.int64", "library.bool"):
        with pytest.raises(ValueError, match=f"is {dtype}; it must be an array of floats"):
            form(5, right, Foreign(dtype))


class Index:
    """Something that is an integer to Python."""

    def __index__(self):
        return 7


SEVENS = [np.int64(7), np.uint8(7), np.int16(7), np.array(7), np.array(7, np.uint32), Index()]


@pytest.mark.parametrize("name", FORMS)
def test_whatever_has_index_is_one_timestep(name):
    form, (x, y) = forms(linear(10))[name], np.random.default_rng(0).standard_normal((2, 3, 2)).astype("f4")
    for t in SEVENS:
        answer = form(t, x, y)
        assert answer.dtype == np.float32 and answer.tobytes() == form(7, x, y).tobytes()


@pytest.mark.parametrize("name", OF_ARRAYS)
def test_integers_of_every_width_are_timesteps(name):
    form, (x, y) = forms(linear(10))[name], np.random.default_rng(0).standard_normal((2, 3, 2)).astype("f4")
    expected = form(np.array([1, 5, 10]), x, y).tobytes()
    for dtype in (np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.uint64, ">i8"):
        assert form(np.array([1, 5, 10], dtype), x, y).tobytes() == expected
    assert form([1, 5, 10], x, y).tobytes() == form((1, np.int64(5), 10), x, y).tobytes() == expected


@pytest.mark.parametrize("name", FORMS)
def test_no_samples(name):
    for t in (5,) if name == "posterior_mean" else (5, [], np.ones(0, np.uint8)):
        assert forms(linear(10))[name](t, np.ones((0, 2)), np.ones((0, 2))).shape == (0, 2)


NO_TIMESTEPS = [
    2.0, np.float32(2), True, np.True_, np.array(True), "2", None, np.array([1.0, 2, 3]), [True] * 3,
    [1.0, 2, 3], np.ones(3, bool), [1, 2], np.array([1, 2]), np.array([[1], [2], [3]]), [1, 2, 3, 4],
]


@pytest.mark.parametrize("name", OF_ARRAYS)
@pytest.mark.parametrize("t", NO_TIMESTEPS, ids=repr)
def test_all_else_is_no_timestep_in_the_same_words(name, t):
    words = r"^t has shape .* and dtype .*; it must be an int or \(3,\) integers in [01]\.\.10$"
    with pytest.raises(ValueError, match=words):
        forms(linear(10))[name](t, np.ones((3, 2)), np.ones((3, 2)))


@pytest.mark.parametrize("name", OF_ARRAYS)
def test_timesteps_outside_the_schedule_are_refused(name):
    arrays = np.array([1, 0, 3]), np.array([1, -1, 3], np.int8), np.array([1, 11, 3], np.uint8)
    for t, value in zip((0, -1, 11, *arrays), (0, -1, 11, 0, -1, 11), strict=True):
        with pytest.raises(ValueError, match=rf"^t is {value}; it must lie in 1\.\.10"):
            forms(linear(10))[name](t, np.ones((3, 2)), np.ones((3, 2)))


@pytest.mark.parametrize("t, s", [(5, 5), (5, 10), (5, -1), (0, 0), (11, 3), (-1, -2), (5.0, 3), (5, True)])
def test_jumps_that_do_not_lead_down_are_refused(t, s):
    schedule, x = linear(10), np.ones((3, 2))
    for function in (
        lambda: diffusion.transition_beta(t, s, schedule),
        lambda: diffusion.posterior_variance(t, s, schedule),
        lambda: diffusion.posterior_mean(x, x, t, s, schedule),
    ):
        message = f"^t is {t} and s is {s}; they must be integers, 0 <= s < t <= 10"
        with pytest.raises(ValueError, match=message):
            function()


def test_the_divergence_of_bytes_is_refused():
    """The square of a byte would wrap round."""
    with pytest.raises(ValueError, match="x0 is uint8; it must be an array of floats"):
        diffusion.prior_kl(np.full((3, 2), 200, np.uint8), linear(10))


@pytest.mark.parametrize("prediction_type", diffusion.PREDICTION_TYPES)
def test_loss_weights_where_no_signal_is_left(prediction_type):
    """alpha_bar_T = 0, and tables that go to it: the weights at T go to those of alpha_bar_T = 0."""
    for name, at_zero in {"min_snr": prediction_type == "epsilon", "simple": 1}.items():
        weights = diffusion.loss_weights(straight(10), prediction_type, name)
        assert np.isfinite(weights).all() and weights[10] == at_zero
        for beta_T in (1 - 1e-12, 1 - 2 ** -53):
            close = Schedule(np.append(straight(10).beta[1:-1], beta_T))
            weight = diffusion.loss_weights(close, prediction_type, name)[10]
            assert weight == pytest.approx(float(at_zero), abs=1e-10)
    vlb = diffusion.loss_weights(straight(10), prediction_type, "vlb")
    assert np.isfinite(vlb[:10]).all() and np.isinf(vlb[10]) == (prediction_type == "epsilon")
