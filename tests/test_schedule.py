"""Schedules against 40-digit arithmetic, and what they refuse."""

from decimal import Decimal, localcontext

import numpy as np
import pytest

from npdiff.schedule import SCHEDULES, Schedule, cosine, linear, make_schedule, rescaled_linear


def exact_alpha_bar(beta):
    """alpha_bar in 40 digits, from float64 betas."""
    with localcontext() as context:
        context.prec = 40
        product, table = Decimal(1), [Decimal(1)]
        for b in beta:
            product *= 1 - Decimal(float(b))
            table.append(product)
        return table


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("T", [2, 10, 50, 200, 300, 600, 1000])
def test_tables(name, T):
    schedule = make_schedule(name, T)
    assert {table.shape for table in vars(schedule).values() if isinstance(table, np.ndarray)} == {(T + 1,)}
    assert schedule.alpha_bar[0] == 1 and schedule.beta[0] == 0 and schedule.posterior_variance[0] == 0 == schedule.posterior_variance[1]
    assert (np.diff(schedule.alpha_bar) < 0).all() and (np.diff(schedule.snr) < 0).all()
    exact = exact_alpha_bar(schedule.beta[1:])
    assert max(abs(Decimal(float(a)) / e - 1) for a, e in zip(schedule.alpha_bar, exact)) < Decimal("1e-13")
    assert (schedule.posterior_variance[2:] > 0).all() and (schedule.posterior_variance[1:] < schedule.beta[1:]).all()
    np.testing.assert_allclose(schedule.sqrt_alpha_bar ** 2 + schedule.sqrt_one_minus_alpha_bar ** 2, 1, rtol=1e-15)


@pytest.mark.parametrize("T, terminal", [(200, 0.132), (300, 0.048), (600, 0.0023), (1000, 0.00004)])
def test_linear_leaves_signal_at_small_T(T, terminal):
    assert linear(T).alpha_bar[-1] == pytest.approx(terminal, rel=0.02)
    assert rescaled_linear(T).alpha_bar[-1] < 5e-5


def test_betas():
    assert linear(1000).beta[1] == 1e-4 and linear(1000).beta[-1] == 0.02
    assert rescaled_linear(200).beta[1] == pytest.approx(5e-4) and rescaled_linear(200).beta[-1] == pytest.approx(0.1)
    assert cosine(1000).beta[-1] == 0.999                                   # the clip
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


@pytest.mark.parametrize("beta, message", [([0.1, 0.0], "beta at t = 2 is 0"), ([1.0, 0.1], "beta at t = 1 is 1"), ([0.1, -0.1], "t = 2 is -0.1"),
                                           ([np.nan, 0.1], "t = 1 is nan"), ([0.1], "T >= 2"), ([[0.1, 0.1]], "shape")])
def test_refuses_betas(beta, message):
    with pytest.raises(ValueError, match=message):
        Schedule(beta)


@pytest.mark.parametrize("t", [0, 11, -1, np.array([1, 11]), np.array([0, 3]), 1.5, np.array([1.0])])
def test_refuses_t(t):
    with pytest.raises(ValueError, match="1..10"):
        linear(10).check_t(t)
