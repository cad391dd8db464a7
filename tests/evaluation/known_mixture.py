"""A mixture of three round Gaussians in the plane, with its density and the perfect denoiser in closed form.

Its mean is 0 and its covariance is nearly I, so what alpha_bar_T leaves of it in x_T changes little.
"""

import numpy as np

from npdiff.diffusion import prediction_target

WEIGHTS = np.array([0.5, 0.3, 0.2])
MEANS = np.array([[-0.9, 0.3], [1.2, 0.7], [0.45, -1.8]])
VARIANCES = np.array([0.04, 0.25, 0.01])


def mixture(x, alpha_bar):
    """Of the noised mixture, at x (N, 2): the log density (N,), its gradient (N, 2), its Laplacian (N,)."""
    variance = alpha_bar * VARIANCES + 1 - alpha_bar                                        # (3,)
    offset = x[:, None] - alpha_bar ** 0.5 * MEANS                                          # (N, 3, 2)
    log_weight = np.log(WEIGHTS / (2 * np.pi * variance))                                   # (3,)
    log_terms = log_weight - (offset ** 2).sum(2) / (2 * variance)                          # (N, 3)
    log_density = np.logaddexp.reduce(log_terms, axis=1)                                    # (N,)
    share = np.exp(log_terms - log_density[:, None])                                        # (N, 3)
    pull = -offset / variance[:, None]                                                      # (N, 3, 2)
    score = (share[..., None] * pull).sum(1)                                                # (N, 2)
    laplacian = (share * ((pull ** 2).sum(2) - 2 / variance)).sum(1) - (score ** 2).sum(1)  # (N,)
    return log_density, score, laplacian


def mixture_divergence(schedule, prediction_type="epsilon"):
    """The perfect denoiser's divergence(x, t).

    Its eps is -sigma score, and x_0 follows from eps. Every answer is linear in the two, and so is its trace
    in their traces.
    """

    def divergence(x, t):
        _, score, laplacian = mixture(x, schedule.alpha_bar[t])
        a, sigma = float(schedule.a[t]), float(schedule.sigma[t])
        x0, x0_trace = 0 * x, 0 * laplacian             # at a = 0 the best x_0 is the data's mean
        if a:
            x0, x0_trace = (x + sigma ** 2 * score) / a, (2 + sigma ** 2 * laplacian) / a
        return (prediction_target(x0, t, -sigma * score, schedule, prediction_type),
                prediction_target(x0_trace, t, -sigma * laplacian, schedule, prediction_type))

    return divergence


def points(n):
    """Half of them drawn from the mixture, half from a square much larger than it."""
    rng = np.random.default_rng(0)
    k = rng.choice(3, n // 2, p=WEIGHTS)
    drawn = MEANS[k] + VARIANCES[k, None] ** 0.5 * rng.standard_normal((n // 2, 2))
    return np.concatenate([drawn, rng.uniform(-3, 3, (n - n // 2, 2))])
