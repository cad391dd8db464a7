"""The Bayes floor: the smallest loss that any network can have, computed from the exact denoiser."""

import math
from functools import cache

import numpy as np

from npdiff.diffusion import loss_weights, squared_error_ratio
from npdiff.verify.oracle import oracle_of

NODES_PER_E = 3         # points of mmse_by_snr's polynomial for each factor e of the snr, at first
TAIL = 1e-5             # the polynomial is good to 1e-4 when its last coefficients are smaller than this


def floor_by_t(oracle, schedule, prediction_type="epsilon", loss_weight="simple"):
    """The Bayes floor: the smallest loss that any network can have at each t, per coordinate.

    -> float64 (T + 1,), nan at t = 0, which is never trained; relative error at most 1e-4. The best answer
    follows from E[x_0 | x_t], whose squared error is MMSE(snr_t). squared_error_ratio turns an error of x_0
    into one of the prediction. For epsilon   floor_t = snr_t MMSE(snr_t) / D.   It is 0 where x_t is all
    noise, as x_t is then the answer. It is near 1 where the noise is much smaller than the details of the
    data: x_t then says nothing about the noise.
    """
    weight = loss_weights(schedule, prediction_type, loss_weight)[1:]                   # (T,)
    ratio = squared_error_ratio(schedule, prediction_type)[1:]                          # (T,)
    floor = weight * ratio * mmse_by_snr(oracle, schedule.snr[1:]) / oracle.dim         # (T,)
    return np.concatenate([[np.nan], floor])


def bayes_floor(oracle, schedule, prediction_type="epsilon", loss_weight="simple"):
    """The smallest possible loss: the mean of floor_by_t over t = 1..T, as training draws t, a float."""
    return float(floor_by_t(oracle, schedule, prediction_type, loss_weight)[1:].mean())


def mmse_by_snr(oracle, snr):
    """oracle.mmse at many snr (T,), by interpolation: (T,), relative error at most about 1e-4.

    log MMSE is a smooth function of log snr. A polynomial through its values at Chebyshev points replaces it
    ([Trefethen 2019](https://doi.org/10.1137/1.9781611975949), chapter 8). Its degree is doubled until its
    last coefficients are small. If it needed as many values as there are snr, oracle.mmse computes each snr
    instead. Below snr = 1e-5 / MMSE(0), MMSE is the variance of the data, MMSE(0), to 1e-5 relative, so the
    polynomial starts there.
    """
    low = max(snr.min(), min(1e-5 / oracle.mmse(0), snr.max() / 2))
    domain = np.log([low, snr.max()])
    degree = math.ceil(NODES_PER_E * (domain[1] - domain[0]))

    def log_mmse(log_snr):
        return np.log(oracle.mmse(np.exp(log_snr)))

    while degree + 1 < len(snr):
        polynomial = np.polynomial.Chebyshev.interpolate(log_mmse, degree, domain)
        if abs(polynomial.coef[-4:]).max() < TAIL:
            return np.exp(polynomial(np.log(np.maximum(snr, low))))
        degree *= 2
    return oracle.mmse(snr)


@cache
def recipe_floor(recipe):
    """The Bayes floor of the recipe's loss at each t, (T + 1,), nan at t = 0.

    None where the distribution of the data is not known.
    """
    oracle = oracle_of(recipe.data)
    if oracle is None:
        return None
    return floor_by_t(oracle, recipe.make_schedule(), recipe.prediction_type, recipe.loss_weight)


def lowest_loss(recipe):
    """The smallest loss that any network can have, a float: the mean of recipe_floor over t = 1..T, as
    training draws t. None where it is not known.
    """
    floor = recipe_floor(recipe)
    return None if floor is None else float(floor[1:].mean())
