"""The oracle: the exact denoiser of data whose law is known, so that a sampler can be proved without a network.   N points, D coordinates

x_t = a x_0 + sigma eps with a = sqrt(alpha_bar), sigma = sqrt(1 - alpha_bar). Of all functions of x_t the posterior mean E[x_0 | x_t] comes closest to
x_0 in mean square. An oracle knows it for every x and alpha_bar, and with it (Tweedie's formula; Robbins 1956, Efron 2011)

    score = d/dx log p_t(x) = (a E[x_0 | x] - x) / sigma^2        eps* = E[eps | x] = -sigma score = (x - a E[x_0 | x]) / sigma
"""

import math

import numpy as np

from npdiff.data.moons import JITTER, SCALE, make_moons

ROWS = 1024         # points that are worked on at a time, so that memory stays small


class Oracle:
    """What every oracle answers, derived from one method of its subclass:

        moments(x, alpha_bar)   x (N, D), alpha_bar (N, 1) -> log p_t(x) (N,), E[x_0 | x] (N, D), E|x_0 - E[x_0 | x]|^2 given x (N,)

    x is a NumPy array (N, D), alpha_bar a float or an array (N,), one for each point. All is computed and answered in float64; where x is complex the
    analytic continuation is answered in complex128, so that the complex step works. Raises ValueError for x of another shape, for alpha_bar outside
    0..1, and where an answer needs noise (score, eps), for alpha_bar = 1. At alpha_bar = 0, x is all noise: x0 is the mean of the data and eps is x.
    """

    def posterior(self, x, alpha_bar):
        """What x_t = x says of x_0: log p_t(x) (N,), the mean E[x_0 | x] (N, D), and the trace of the covariance of x_0 given x (N,)."""
        x = np.asarray(x)
        x = x.astype(np.complex128 if x.dtype.kind == "c" else np.float64, copy=False)
        if x.ndim != 2 or x.shape[1] != self.dim:
            raise ValueError(f"x has shape {x.shape}; this oracle takes (N, {self.dim})")
        alpha_bar = np.asarray(alpha_bar, np.float64)
        if alpha_bar.shape not in ((), (len(x),)):
            raise ValueError(f"alpha_bar has shape {alpha_bar.shape}; for {len(x)} points it must be a float or ({len(x)},)")
        if not ((alpha_bar >= 0) & (alpha_bar <= 1)).all():
            raise ValueError(f"alpha_bar is {alpha_bar}; it must lie in 0..1")
        alpha_bar = np.broadcast_to(alpha_bar, len(x))[:, None]                                     # (N, 1)
        blocks = [self.moments(x[i:i + ROWS], alpha_bar[i:i + ROWS]) for i in range(0, max(1, len(x)), ROWS)]
        return tuple(np.concatenate(parts) for parts in zip(*blocks))

    def log_density(self, x, alpha_bar):
        """log p_t(x) in nats, (N,): the density of x_t; at alpha_bar = 1 that of the data."""
        return self.posterior(x, alpha_bar)[0]

    def x0(self, x, alpha_bar):
        """E[x_0 | x_t = x], (N, D)."""
        return self.posterior(x, alpha_bar)[1]

    def eps(self, x, alpha_bar):
        """E[eps | x_t = x] = (x - a E[x_0 | x]) / sigma, (N, D): what the best network for prediction_type epsilon answers."""
        x0, alpha_bar = self.x0(x, alpha_bar), column(alpha_bar)
        if (alpha_bar == 1).any():
            raise ValueError("alpha_bar is 1; there is no noise to predict in clean data")
        return (x - alpha_bar ** 0.5 * x0) / (1 - alpha_bar) ** 0.5

    def score(self, x, alpha_bar):
        """The gradient of log p_t at x, (N, D): -eps / sigma."""
        return -self.eps(x, alpha_bar) / (1 - column(alpha_bar)) ** 0.5

    def predict(self, schedule):
        """The oracle in the place of a network: a function (x, t) -> eps*(x, t) in x's shape and dtype, t an int or integers (N,) in 1..T."""

        def predict(x, t):
            schedule.check_t(t)
            return self.eps(x, schedule.alpha_bar[t]).astype(x.dtype)

        return predict


class GaussianMixture(Oracle):
    """Data drawn from component k with probability weights[k], then from N(means[k], covariances[k]).

    weights (K,) positive with sum 1, means (K, D), covariances (K, D, D) symmetric and positive definite. Raises ValueError otherwise.
    """

    def __init__(self, weights, means, covariances):
        self.weights, self.means, self.covariances = (np.asarray(array, np.float64) for array in (weights, means, covariances))
        check_mixture(self.weights, self.means, self.covariances)
        self.dim = self.means.shape[1]
        self.variances, self.axes = np.linalg.eigh(self.covariances)            # (K, D) and (K, D, D): covariance = axes diag(variances) axes^T

    def moments(self, x, alpha_bar):
        """x_t of component k is N(a mean_k, alpha_bar covariance_k + sigma^2 I): along the axes of covariance_k its coordinates y are independent, of
        variance v = alpha_bar variance + sigma^2. So are those of x_0, and cov(y_0, y) = a variance:

            E[y_0 | y, k] = a variance / v y          var(y_0 | y, k) = variance - (a variance)^2 / v = variance sigma^2 / v

        Over the components, the mean is weighted with their posterior probabilities, and their own means add to the spread.
        """
        a, sigma2 = alpha_bar ** 0.5, 1 - alpha_bar
        v = alpha_bar[:, :, None] * self.variances + sigma2[:, :, None]                             # (N, K, D)
        y = np.einsum("nkd,kde->nke", x[:, None] - a[:, :, None] * self.means, self.axes)           # (N, K, D)
        log_joint = np.log(self.weights) - 0.5 * (y * y / v + np.log(2 * np.pi * v)).sum(2)         # (N, K)
        log_p, share = normalise(log_joint, 1.0)
        means = self.means + np.einsum("nke,kde->nkd", a[:, :, None] * self.variances / v * y, self.axes)   # (N, K, D)
        mean = np.einsum("nk,nkd->nd", share, means)
        spread = (self.variances * sigma2[:, :, None] / v).sum(2) + ((means - mean[:, None]) ** 2).sum(2)   # (N, K)
        return log_p, mean, (share * spread).sum(1)

    def sample(self, n, rng):
        """n points of the data, float64 (n, D). rng is a numpy Generator."""
        k = rng.choice(len(self.weights), n, p=self.weights)                                        # (n,)
        y = self.variances[k] ** 0.5 * rng.standard_normal((n, self.dim))                           # (n, D)
        return self.means[k] + np.einsum("nde,ne->nd", self.axes[k], y)


NODES, HEIGHTS = np.polynomial.legendre.leggauss(24)
NODES, HEIGHTS = (NODES + 1) / 2, HEIGHTS / 2       # on 0..1
NEGLIGIBLE = 38.0                                   # exp(-38) is 3e-17: nothing that float64 would notice beside 1


class Moons(Oracle):
    """The two moons of data/moons.py: N(SCALE c(theta), s^2 I) with s = SCALE JITTER, theta uniform on the two half circles.

    A half circle about m, with +1 for the upper moon and -1 for the lower, is c(tau) = m +- (-sin tau, cos tau) for tau in -pi/2..pi/2.
    """

    dim = 2
    variance = (SCALE * JITTER) ** 2
    arcs = ((1, np.array([0.0, 0.0])), (-1, np.array([1.0, 0.5])))

    def moments(self, x, alpha_bar):
        """Given theta all is Gaussian, as in the mixture with covariance s^2 I and v = alpha_bar s^2 + sigma^2; the sum over components is an integral
        over theta, and becomes a sum over the quadrature's nodes:

            p_t(x) = 1/(2 pi) int N(x; a SCALE c(theta), v I) dtheta        E[x_0 | x, theta] = (sigma^2 SCALE c(theta) + a s^2 x) / v
        """
        a, sigma2 = alpha_bar ** 0.5, 1 - alpha_bar
        v = alpha_bar * self.variance + sigma2                                                      # (N, 1)
        cx, cy, length = (np.concatenate(parts, axis=1) for parts in zip(*(self.nodes(x.real, a, v, *arc) for arc in self.arcs)))    # (N, M)
        log_joint = -0.5 * ((x[:, :1] - a * cx) ** 2 + (x[:, 1:] - a * cy) ** 2) / v                # (N, M)
        log_p, share = normalise(log_joint, length)
        mx, my = (share * cx).sum(1, keepdims=True), (share * cy).sum(1, keepdims=True)             # (N, 1)
        mean = (sigma2 * np.concatenate([mx, my], axis=1) + a * self.variance * x) / v              # (N, 2)
        spread = (share * ((cx - mx) ** 2 + (cy - my) ** 2)).sum(1)                                 # (N,)
        sigma2, v = sigma2[:, 0], v[:, 0]
        return log_p - np.log(4 * np.pi ** 2 * v), mean, 2 * self.variance * sigma2 / v + (sigma2 / v) ** 2 * spread

    def nodes(self, x, a, v, sign, m):
        """Quadrature nodes on one arc for the integrand seen from each x: SCALE c (two arrays (N, M)) and their shares of dtheta (N, M).

        In polar coordinates of x about the arc's centre, r and phi (from the arc's middle), the integrand is exp(kappa cos(tau - phi)) up to a factor
        without tau, with the concentration kappa = a SCALE r / v. As the arc is half a turn it holds either the summit, tau = phi, or the
        trough opposite, and cut there it makes two pieces on which the integrand only falls: from psi = |tau - phi| at its high end, by exp(-q) after

            cos(psi) - cos(psi + w) = q / kappa,   that is   sin^2((psi + w)/2) = sin^2(psi/2) + q/(2 kappa)

        What lies beyond w for q = 38 is lost in rounding. On what is left, however narrow, 24 Gauss-Legendre nodes are exact to rounding.
        """
        y = sign * (x - a * SCALE * m)                                                              # (N, 2)
        phi = np.arctan2(-y[:, :1], y[:, 1:])                                                       # (N, 1)
        q = NEGLIGIBLE * v / np.maximum(2 * a * SCALE * np.hypot(y[:, :1], y[:, 1:]), NEGLIGIBLE * v)   # at most 1: more is beyond the trough
        summit = abs(phi) <= np.pi / 2
        cut = np.where(summit, phi, phi - np.copysign(np.pi, phi))                                  # the summit or the trough, in -pi/2..pi/2
        pieces = []
        for end in (-np.pi / 2, np.pi / 2):
            high, low = np.where(summit, cut, end), np.where(summit, end, cut)
            width = np.minimum(abs(low - high), reach(np.sin((high - phi) / 2) ** 2, q))
            tau = high + np.copysign(width, low - high) * NODES                                     # (N, 24)
            pieces.append((SCALE * (m[0] - sign * np.sin(tau)), SCALE * (m[1] + sign * np.cos(tau)), width * HEIGHTS))
        return [np.concatenate(parts, axis=1) for parts in zip(*pieces)]

    def sample(self, n, rng):
        """n points of the data, float64 (n, 2). rng is a numpy Generator."""
        return make_moons(n, rng)


def reach(s, q):
    """The angle w with sin^2(psi/2 + w/2) = s + q where s = sin^2(psi/2), or up to psi + w = pi where s + q exceeds 1.

    sin(w/2) is the sine of a difference, sqrt((s + q) (1 - s)) - sqrt(s (1 - s - q)); times the sum over itself, so that nothing cancels, it is
    q / (sqrt((s + q) (1 - s)) + sqrt(s (1 - s - q))).
    """
    q = np.minimum(q, 1 - s)
    total = ((s + q) * (1 - s)) ** 0.5 + (s * (1 - s - q)) ** 0.5
    return 2 * np.arcsin(q / np.maximum(total, np.finfo(float).tiny))       # 0 / 0 at s = 1 is 0


def normalise(log_joint, factor):
    """log sum(factor exp(log_joint)) (N,) and every term's share of the sum, (N, M). The largest term's real part is taken out first: no overflow, no 0/0."""
    peak = log_joint.real.max(1, keepdims=True)                             # (N, 1)
    terms = factor * np.exp(log_joint - peak)                               # (N, M)
    total = terms.sum(1, keepdims=True)                                     # (N, 1)
    return (np.log(total) + peak)[:, 0], terms / total


def column(alpha_bar):
    """A float as it is, (N,) as (N, 1): ready to multiply (N, D)."""
    return np.asarray(alpha_bar, np.float64)[..., None]


def check_mixture(weights, means, covariances):
    """Raise ValueError unless the three describe one Gaussian mixture."""
    if weights.ndim != 1 or means.ndim != 2 or covariances.shape != (*means.shape, means.shape[-1]) or len(weights) != len(means) or not means.size:
        raise ValueError(f"weights, means and covariances have shapes {weights.shape}, {means.shape} and {covariances.shape}; "
                         "they must be (K,), (K, D) and (K, D, D)")
    for name, array in (("weights", weights), ("means", means), ("covariances", covariances)):
        if not np.isfinite(array).all():
            raise ValueError(f"{name} are {array}; they must be finite")
    if (weights <= 0).any() or not math.isclose(weights.sum(), 1, rel_tol=1e-9):
        raise ValueError(f"weights are {weights}; they must be positive and sum to 1")
    for k, covariance in enumerate(covariances):
        if not np.allclose(covariance, covariance.T, rtol=1e-9, atol=0) or np.linalg.eigvalsh(covariance)[0] <= 0:
            raise ValueError(f"covariances[{k}] is {covariance.tolist()}; it must be symmetric and positive definite")


def oracle_of(data):
    """The oracle of the data set called `data`, or None where its law is not known (images)."""
    return {"moons": Moons}.get(data, lambda: None)()
