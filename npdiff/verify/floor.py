"""The Bayes floor: the smallest loss that any network can have, computed from the exact denoiser."""

import math
from functools import cache

import numpy as np

from npdiff.diffusion import loss_weights, squared_error_ratio
from npdiff.verify.oracle import oracle_of

NODES_PER_E = 3         # points of mmse_by_snr's interpolation for each factor e of the snr, to begin with
TAIL = 1e-5             # it is good to 1e-4 when its last coefficients are smaller than this


def floor_by_t(oracle, schedule, prediction_type="epsilon", loss_weight="simple"):
    """The Bayes floor at each t: the smallest loss of any network, float64 (T + 1,), nan at t = 0.

    It is per coordinate. The best answer is that of E[x_0 | x_t]. Its error in x_0 is MMSE(snr_t), and
    squared_error_ratio turns this into an error of the prediction. For epsilon
        floor_t = snr_t MMSE(snr_t) / D
    Where x_t is all noise, the noise is known and the floor is 0. Where the noise is too weak to be told from
    the data's own spread, the floor is 1. Good to 1e-4, relative.
    """
    snr = schedule.snr[1:]  # (T,)
    weights = loss_weights(schedule, prediction_type, loss_weight)
    ratio = squared_error_ratio(schedule, prediction_type)
    scale = (weights * ratio)[1:]
    return np.concatenate([[np.nan], scale * mmse_by_snr(oracle, snr) / oracle.dim])


def bayes_floor(oracle, schedule, prediction_type="epsilon", loss_weight="simple"):
    """The smallest possible loss, a float: the mean of floor_by_t over t = 1..T, as training draws t."""
    return float(floor_by_t(oracle, schedule, prediction_type, loss_weight)[1:].mean())


def mmse_by_snr(oracle, snr):
    """oracle.mmse at many snr (T,), by interpolation; the relative error is at most about 1e-4.

    log MMSE is a smooth function of log snr, so a polynomial through Chebyshev points replaces it (Trefethen
    2013, chapter 8). Its degree is doubled until its last coefficients are small, unless it is less work to
    compute every snr. It ends where MMSE is within 1e-5 of the data's variance.
    """
    low = max(snr.min(), min(1e-5 / oracle.mmse(0), snr.max() / 2))
    domain = np.log([low, snr.max()])
    degree = math.ceil(NODES_PER_E * (domain[1] - domain[0]))
    while degree + 1 < len(snr):
        log_mmse = np.polynomial.Chebyshev.interpolate(
            lambda log_snr: np.log(oracle.mmse(np.exp(log_snr))), degree, domain
        )
        if abs(log_mmse.coef[-4:]).max() < TAIL:
            return np.exp(log_mmse(np.log(np.maximum(snr, low))))
        degree *= 2
    return oracle.mmse(snr)


@cache
def recipe_floor(recipe):
    """The Bayes floor of the recipe's loss at each t, (T + 1,), nan at t = 0.

    None where the distribution of the data is not known.
    """
    oracle = oracle_of(recipe.data)
    return (
        None
        if oracle is None
        else floor_by_t(oracle, recipe.make_schedule(), recipe.prediction_type, recipe.loss_weight)
    )


def lowest_loss(recipe):
    """The smallest loss that any network can have, a float: the mean of recipe_floor over t = 1..T.

    None where it is not known.
    """
    floor = recipe_floor(recipe)
    return None if floor is None else float(floor[1:].mean())
