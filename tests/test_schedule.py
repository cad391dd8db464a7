"""Schedules, compared with the formulas that define them in 50 digits, and what they refuse."""

from decimal import Decimal, localcontext

import numpy as np
import pytest

from npdiff.schedule import (
    SCHEDULES,
    Schedule,
    cosine,
    linear,
    make_schedule,
    rescaled_linear,
    zero_terminal_snr,
)

D = Decimal
PI = D("3.14159265358979323846264338327950288419716939937510582097494")


def line(first, last, T):
    """T numbers from first to last in equal steps."""
    return [first + (last - first) * i / (T - 1) for i in range(T)]


def product(betas, clip=D("0.999")):
    """alpha_bar of these betas, each at most `clip`."""
    table = [D(1)]
    for beta in betas:
        table.append(table[-1] * (1 - min(beta, clip)))
    return table


def cosine_of(x):
    """cos x by its power series."""
    term, total, k = D(1), D(1), 0
    while abs(term) > D("1e-55"):
        k += 2
        term = -term * x * x / (k * (k - 1))
        total += term
    return total


# alpha_bar of each schedule by its definition, in as many digits as the context has: lists of T + 1.

def exact_linear(T):
    return product(line(D("1e-4"), D("0.02"), T))


def exact_rescaled_linear(T):
    return product([beta * 1000 / T for beta in line(D("1e-4"), D("0.02"), T)])


def exact_scaled_linear(T):
    return product([root ** 2 * 1000 / T for root in line(D("0.00085").sqrt(), D("0.012").sqrt(), T)])


def exact_sigmoid(T):
    shares = [1 / (1 + (-x).exp()) for x in line(D(-6), D(6), T)]
    return product([(D("1e-4") + D("0.0199") * share) * 1000 / T for share in shares])


def exact_cosine(T):
    f = [cosine_of((D(t) / T + D("0.008")) / D("1.008") * PI / 2) ** 2 for t in range(T + 1)]
    return product([1 - now / before for before, now in zip(f, f[1:])])


def exact_karras(T):
    roots = line(D("0.002") ** (D(1) / 7), D(80) ** (D(1) / 7), T)                  # of u = sigma / a
    return [D(1)] + [1 / (1 + root ** 14) for root in roots]


def exact_straight(T):
    return [D(T - t) ** 2 / (D(T - t) ** 2 + D(t) ** 2) for t in range(T + 1)]


def exact_zero_snr_linear(T):
    a = [alpha_bar.sqrt() for alpha_bar in exact_rescaled_linear(T)]
    return [D(1)] + [((x - a[-1]) * a[1] / (a[1] - a[-1])) ** 2 for x in a[1:]]


EXACT = {
    "linear": exact_linear,
    "rescaled_linear": exact_rescaled_linear,
    "scaled_linear": exact_scaled_linear,
    "cosine": exact_cosine,
    "sigmoid": exact_sigmoid,
    "karras": exact_karras,
    "straight": exact_straight,
    "zero_snr_linear": exact_zero_snr_linear,
}


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("T", [10, 50, 200, 300, 600, 1000])
def test_alpha_bar_in_50_digits(name, T):
    schedule = make_schedule(name, T)
    with localcontext() as context:
        context.prec = 50
        exact = EXACT[name](T)
        pairs = zip(map(float, schedule.alpha_bar), exact, strict=True)
        errors = [abs(D(ours) - theirs) / theirs if theirs else abs(ours) for ours, theirs in pairs]
    assert max(errors) < 1e-13


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("T", [2, 10, 50, 200, 1000])
def test_tables(name, T):
    schedule = make_schedule(name, T)
    assert {table.shape for table in vars(schedule).values() if isinstance(table, np.ndarray)} == {(T + 1,)}
    assert schedule.alpha_bar[0] == 1 and schedule.beta[0] == 0
    assert (np.diff(schedule.alpha_bar) < 0).all() and (np.diff(schedule.snr) < 0).all()
    beta, posterior = schedule.beta, schedule.posterior_variance
    assert posterior[0] == posterior[1] == 0
    assert (posterior[2:] > 0).all() and (posterior[1:] < beta[1:]).all()
    np.testing.assert_allclose(schedule.a ** 2 + schedule.sigma ** 2, 1, rtol=1e-15)


def test_zero_terminal_snr_keeps_the_first_step():
    for schedule in (linear(200), cosine(50)):
        mended = zero_terminal_snr(schedule)
        assert mended.alpha_bar[-1] == 0
        assert mended.alpha_bar[1] == pytest.approx(schedule.alpha_bar[1], rel=1e-14)


def test_straight_is_a_straight_line():
    """x_t divided by a + sigma is (1 - tau) x_0 + tau eps, with tau = t / T."""
    schedule = make_schedule("straight", 10)
    tau = schedule.sigma / (schedule.a + schedule.sigma)
    np.testing.assert_allclose(tau, np.arange(11) / 10, atol=1e-15)


@pytest.mark.parametrize("T, terminal", [(200, 0.132), (300, 0.048), (600, 0.0023), (1000, 0.00004)])
def test_linear_leaves_signal_at_small_T(T, terminal):
    assert linear(T).alpha_bar[-1] == pytest.approx(terminal, rel=0.02)
    assert rescaled_linear(T).alpha_bar[-1] < 5e-5


def test_betas():
    assert linear(1000).beta[1] == 1e-4 and linear(1000).beta[-1] == 0.02
    assert rescaled_linear(200).beta[1] == pytest.approx(5e-4)
    assert rescaled_linear(200).beta[-1] == pytest.approx(0.1)
    assert cosine(1000).beta[-1] == 0.999                                   # the largest that is allowed
    t = np.arange(0, 900)
    f = np.cos((t / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
    np.testing.assert_allclose(cosine(1000).alpha_bar[:900], f / f[0], rtol=1e-12)


@pytest.mark.parametrize("T", [1, 0, -5, 2.0, True, "10"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_refuses_T(name, T):
    with pytest.raises(ValueError, match="num_train_timesteps is .*at least 2"):
        make_schedule(name, T)


def test_refuses_name():
    with pytest.raises(ValueError, match="schedule is 'cubic'; it must be one of linear"):
        make_schedule("cubic", 10)


@pytest.mark.parametrize(
    "beta, message",
    [
        ([0.1, 0.0], "beta at t = 2 is 0"),
        ([1.0, 0.1], "beta at t = 1 is 1; .* only the last may be 1"),
        ([0.1, -0.1], "t = 2 is -0.1"),
        ([np.nan, 0.1], "t = 1 is nan"),
        ([0.1], "T >= 2"),
        ([[0.1, 0.1]], "shape"),
    ],
)
def test_refuses_betas(beta, message):
    with pytest.raises(ValueError, match=message):
        Schedule(beta)


@pytest.mark.parametrize("t", [0, 11, -1, np.array([1, 11]), np.array([0, 3]), 1.5, np.array([1.0])])
def test_refuses_t(t):
    with pytest.raises(ValueError, match="1..10"):
        linear(10).check_t(t)


@pytest.mark.parametrize("T", [np.int64(10), np.uint8(10), np.array(10)])
def test_whatever_has_index_is_a_number_of_timesteps(T):
    assert type(linear(T).T) is int and linear(T).alpha_bar.tobytes() == linear(10).alpha_bar.tobytes()


def test_scales():
    """Python floats for one t of 0..T, arrays for many, and the same refusals as everywhere."""
    schedule, x = linear(10), np.ones((3, 2), np.float32)
    for t in (0, 3, 10, np.uint8(3), np.array(3)):
        a, sigma = schedule.scales(t, x)
        assert type(a) is type(sigma) is float and (a, sigma) == (schedule.a[int(t)], schedule.sigma[int(t)])
    a, sigma = schedule.scales([0, 3, 10], x)
    assert a.shape == sigma.shape == (3, 1) and a.dtype == sigma.dtype == np.float32
    for t in (-1, 11, [0, -1, 3]):
        with pytest.raises(ValueError, match=r"t is (-1|11); it must lie in 0\.\.10"):
            schedule.scales(t, x)
    for t in (2.0, True, [1, 2], np.ones(3)):
        with pytest.raises(ValueError, match=r"it must be an int or \(3,\) integers in 0\.\.10"):
            schedule.scales(t, x)
