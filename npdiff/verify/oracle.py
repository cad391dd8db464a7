"""The oracle: the exact denoiser, for data whose distribution is known.

With it a sampler can be checked without a network, and a loss can be compared with the smallest possible one.

N points, D coordinates. x_t = a x_0 + sigma eps with a = sqrt(alpha_bar), sigma = sqrt(1 - alpha_bar), and
p_t is the density of x_t. Of all functions of x_t, the posterior mean E[x_0 | x_t] has the smallest mean
squared error. An oracle knows it, and so knows the best answer of a network that predicts eps:

    eps* = E[eps | x] = (x - a E[x_0 | x]) / sigma
    score = ∂/∂x log p_t(x) = -eps* / sigma               (Tweedie's formula; Efron 2011)

The error of eps* itself is the Bayes floor: no network has a smaller loss.
Source: [Efron 2011](https://doi.org/10.1198/jasa.2011.tm11181).
"""

import math

import numpy as np

from npdiff.data.moons import JITTER, MEAN, SCALE, make_moons
from npdiff.diffusion import prediction_target

# numbers in one array: points are worked on in blocks, so that the arrays in between stay in the processor's
# cache
BLOCK = 2**13
REACH = 6.0         # standard deviations that a lattice reaches beyond the data
MAX_LATTICE = 2**21     # points of a lattice


class Oracle:
    """What every oracle answers, derived from what its subclass gives:

        dim, terms              D, and the numbers that moments works with for each point
        moments(x, alpha_bar)   x (N, D), alpha_bar (N, 1) -> log p_t(x) (N,), mean E[x_0 | x] (N, D), and
                                the trace of the covariance of x_0 given x (N,)
        lattice(alpha_bar)      points (M, D) of a lattice: a sum over them replaces the integral over p_t
        sample(n, rng)          n points of the data

    x is a NumPy array (N, D), alpha_bar a float or an array (N,), one for each point. All is computed and
    answered in float64; where x is complex the analytic continuation is answered in complex128, so that the
    complex step works. Raises ValueError for x of another shape or not finite, for alpha_bar outside 0..1,
    and for 1 where the answer needs noise (eps, score). At alpha_bar = 0, x is all noise: x0 is the mean of
    the data and eps is x.
    """

    def posterior(self, x, alpha_bar):
        """What x_t = x says of x_0: log p_t(x) (N,), the mean E[x_0 | x] (N, D), and the trace of the
        covariance of x_0 given x (N,).
        """
        x = np.asarray(x)
        x = x.astype(np.complex128 if x.dtype.kind == "c" else np.float64, copy=False)
        if x.ndim != 2 or x.shape[1] != self.dim:
            raise ValueError(f"x has shape {x.shape}; this oracle takes (N, {self.dim})")
        if not np.isfinite(x).all():
            raise ValueError(f"x holds {x[~np.isfinite(x)][0]}; every value must be finite")
        alpha_bar = np.asarray(alpha_bar, np.float64)
        if alpha_bar.shape not in ((), (len(x),)):
            raise ValueError(
                f"alpha_bar has shape {alpha_bar.shape}; for {len(x)} points it must be a float or "
                f"({len(x)},)"
            )
        if not ((alpha_bar >= 0) & (alpha_bar <= 1)).all():
            raise ValueError(f"alpha_bar is {alpha_bar}; it must lie in 0..1")
        alpha_bar = np.broadcast_to(alpha_bar, len(x))[:, None]                                     # (N, 1)
        rows = max(1, BLOCK // self.terms)
        blocks = [self.moments(x[i:i + rows], alpha_bar[i:i + rows]) for i in range(0, max(1, len(x)), rows)]
        return tuple(np.concatenate(parts) for parts in zip(*blocks))

    def log_density(self, x, alpha_bar):
        """log p_t(x) in nats, (N,): the density of x_t; at alpha_bar = 1 that of the data."""
        return self.posterior(x, alpha_bar)[0]

    def x0(self, x, alpha_bar):
        """E[x_0 | x_t = x], (N, D)."""
        return self.posterior(x, alpha_bar)[1]

    def eps(self, x, alpha_bar):
        """E[eps | x_t = x] = (x - a E[x_0 | x]) / sigma, (N, D): what the best network for prediction_type
        epsilon answers.
        """
        x0, alpha_bar = self.x0(x, alpha_bar), column(alpha_bar)
        if (alpha_bar == 1).any():
            raise ValueError("alpha_bar is 1; there is no noise to predict in clean data")
        return (x - alpha_bar ** 0.5 * x0) / (1 - alpha_bar) ** 0.5

    def score(self, x, alpha_bar):
        """The gradient of log p_t at x, (N, D): -eps / sigma."""
        return -self.eps(x, alpha_bar) / (1 - column(alpha_bar)) ** 0.5

    def mmse(self, snr):
        """The smallest mean squared error of an estimate of x_0 from x_t, E|x_0 - E[x_0 | x_t]|^2 (all
        coordinates together), in the shape of snr.

        It is the mean over p_t of the variance of x_0 given x, and depends on snr = alpha_bar / (1 -
        alpha_bar) alone, as x_t may be divided by sigma (Guo, Shamai and Verdu 2005). Of a smooth function
        that vanishes towards the border, a plain sum over a lattice is an integral nearly to rounding
        (Trefethen and Weideman 2014); here it is good to 3e-5, relative. Raises ValueError unless snr is
        finite and not negative, and where a mixture is so wide, or its parts so narrow or of so many
        coordinates, that the sum would have more than MAX_LATTICE terms.
        """
        snr = np.asarray(snr, np.float64)
        if not (np.isfinite(snr) & (snr >= 0)).all():
            raise ValueError(f"snr is {snr}; it must be finite and not negative")

        def one(alpha_bar):
            log_p, _, variance = self.posterior(self.lattice(alpha_bar), alpha_bar)
            p = np.exp(log_p - log_p.max())
            return (p * variance).sum() / p.sum()

        return np.array([one(s / (1 + s)) for s in snr.flat]).reshape(snr.shape)

    def predict(self, schedule, prediction_type="epsilon"):
        """The oracle in the place of a network: a function (x, t) -> the best answer to x_t = x of this
        prediction_type, in x's shape and dtype, t an int or integers (N,) in 1..T. Every target is linear in
        (x_0, eps), so its mean is the target of their means."""

        def predict(x, t):
            schedule.check_t(t)
            alpha_bar = schedule.alpha_bar[t]
            return prediction_target(
                self.x0(x, alpha_bar), t, self.eps(x, alpha_bar), schedule, prediction_type
            ).astype(x.dtype)

        return predict


class GaussianMixture(Oracle):
    """Data drawn from component k with probability weights[k], then from N(means[k], covariances[k]).

    weights (K,) positive with sum 1, means (K, D), covariances (K, D, D) symmetric and positive definite.
    Raises ValueError otherwise.
    """

    def __init__(self, weights, means, covariances):
        self.weights, self.means, self.covariances = (
            np.asarray(array, np.float64) for array in (weights, means, covariances)
        )
        check_mixture(self.weights, self.means, self.covariances)
        self.dim, self.terms = self.means.shape[1], self.means.size
        # (K, D) and (K, D, D): covariance = axes diag(variances) axes^T
        self.variances, axes = np.linalg.eigh(self.covariances)
        # (D, K D): x @ self.axes has the coordinates along all K sets of axes
        self.axes = axes.transpose(1, 0, 2).reshape(self.dim, -1)
        # (K, D): the means, along their own axes
        self.centres = np.einsum("kd,kde->ke", self.means, axes)

    def moments(self, x, alpha_bar):
        """The law of total expectation and variance, over the components k.

        Take the coordinates along the principal axes of covariance_k: y_0 of x_0, y of x_t. In component k
        they are independent of each other, y_0 has the mean `centre` and the variance `variance`, and y = a
        y_0 + sigma eps has the mean a centre and the variance v = alpha_bar variance + sigma^2. Their
        covariance is a variance. For two jointly normal numbers, E[y_0 | y] = E[y_0] + cov(y_0, y) / var(y)
        (y - E[y]):
            E[y_0 | y, k] = centre + a variance / v (y - a centre)
            var(y_0 | y, k) = variance - (a variance)^2 / v = variance sigma^2 / v
        E[x_0 | x] is the mean of these over k, each with its posterior probability. The variance of x_0 given
        x is the mean of the variances, plus the variance of the means.
        """
        a, sigma2, shape = (
            alpha_bar[:, :, None] ** 0.5,
            1 - alpha_bar[:, :, None],
            (len(x), *self.means.shape),
        )
        v = a ** 2 * self.variances + sigma2                                                    # (N, K, D)
        y = (x @ self.axes).reshape(shape) - a * self.centres                                   # (N, K, D)
        log_joint = np.log(self.weights) - 0.5 * (y * y / v + np.log(2 * np.pi * v)).sum(2)         # (N, K)
        log_p, share = normalise(log_joint, 1.0)
        y0 = self.centres + a * self.variances / v * y                                          # (N, K, D)
        mean = (share[:, :, None] * y0).reshape(len(x), self.terms) @ self.axes.T               # (N, D)
        # (N, K)
        spread = (self.variances * sigma2 / v + (y0 - (mean @ self.axes).reshape(shape)) ** 2).sum(2)
        return log_p, mean, (share * spread).sum(1)

    def lattice(self, alpha_bar):
        """A lattice over all components (see Oracle), in fifths of the narrowest's standard deviation: x_t
        changes allegiance between two that are d such deviations apart within 1/d of one, and up to d = 10
        their confusion is more than a 1e-5th of MMSE."""
        v = alpha_bar * np.diagonal(self.covariances, axis1=1, axis2=2) + 1 - alpha_bar  # (K, D)
        return box(
            alpha_bar**0.5 * self.means, v, 0.2 * (alpha_bar * self.variances.min() + 1 - alpha_bar) ** 0.5
        )

    def sample(self, n, rng):
        """n points of the data, float64 (n, D). rng is a numpy Generator."""
        k = rng.choice(len(self.weights), n, p=self.weights)                                        # (n,)
        y = self.centres[k] + self.variances[k] ** 0.5 * rng.standard_normal((n, self.dim))         # (n, D)
        return np.einsum("dne,ne->nd", self.axes.reshape(self.dim, *self.means.shape)[:, k], y)


NODES, HEIGHTS = np.polynomial.legendre.leggauss(32)
NODES, HEIGHTS = (NODES + 1) / 2, HEIGHTS / 2       # on 0..1
# exp(-38) is 3e-17: nothing that float64 would notice beside 1
NEGLIGIBLE = 38.0
# (4,) the two pieces of the upper moon, then those of the lower
SIGN = np.array([1, 1, -1, -1])
CENTRE = np.array([[0, 0], [0, 0], [1, 0.5], [1, 0.5]])     # (4, 2)
# (4,) the end of the half circle that the piece reaches to
END = np.array([-1, 1, -1, 1]) * np.pi / 2


class Moons(Oracle):
    """The two moons of data/moons.py: N(SCALE c(tau), s^2 I) with s = SCALE JITTER, c(tau) uniform on two
    half circles.

    One is c(tau) = m +- (-sin tau, cos tau) for tau in -pi/2..pi/2, with + and m = 0 for the upper moon, -
    and m = (1, 1/2) for the lower.
    """

    dim, terms = 2, 4 * len(NODES)
    variance = (SCALE * JITTER) ** 2

    def moments(self, x, alpha_bar):
        """As in the mixture, with a component for every tau: mean SCALE c(tau), covariance s^2 I.

        With v = alpha_bar s^2 + sigma^2
            p_t(x) = 1/(2 pi) int N(x; a SCALE c, v I) dtau
            E[x_0 | x, c] = SCALE c + a s^2 / v (x - a SCALE c) = (sigma^2 SCALE c + a s^2 x) / v
        The integral over tau becomes a sum over quadrature nodes. In the exponent, |x - a SCALE c|^2 is
        multiplied out and |x|^2, which is the same for all c, is added at the end: far from the data it is so
        large that the differences between the c would be lost in rounding.
        """
        a, sigma2 = alpha_bar ** 0.5, 1 - alpha_bar
        v = alpha_bar * self.variance + sigma2                                                      # (N, 1)
        # (N, M) each, c times SCALE
        cx, cy, dtau = self.nodes(x.real, a, v)
        log_joint = a / v * (cx * (x[:, :1] - a / 2 * cx) + cy * (x[:, 1:] - a / 2 * cy))           # (N, M)
        log_p, share = normalise(log_joint, dtau)
        mx, my = (share * cx).sum(1, keepdims=True), (share * cy).sum(1, keepdims=True)             # (N, 1)
        mean = (sigma2 * np.concatenate([mx, my], axis=1) + a * self.variance * x) / v              # (N, 2)
        spread = (share * ((cx - mx) ** 2 + (cy - my) ** 2)).sum(1)                                 # (N,)
        sigma2, v = sigma2[:, 0], v[:, 0]
        log_p = log_p - (x * x).sum(1) / (2 * v) - np.log(4 * np.pi ** 2 * v)
        return log_p, mean, 2 * self.variance * sigma2 / v + (sigma2 / v) ** 2 * spread

    def nodes(self, x, a, v):
        """Quadrature nodes for the integrand seen from each x (N, 2): the coordinates of SCALE c, two arrays
        (N, M), and their shares of dtau (N, M).

        In polar coordinates of x about an arc's centre, r and phi (from the arc's middle), the integrand is
        exp(kappa cos(tau - phi)) times a factor without tau, where kappa = a SCALE r / v. An arc is half a
        turn, so it holds either the largest value, at tau = phi, or the smallest, opposite. The arc is cut
        there into two pieces, and on each the integrand only falls. It starts at psi = |tau - phi|, and an
        angle w further it has fallen by the factor exp(-NEGLIGIBLE) if

            cos(psi) - cos(psi + w) = NEGLIGIBLE / kappa
            sin^2((psi + w)/2) = sin^2(psi/2) + q         with q = NEGLIGIBLE / (2 kappa)

        What lies beyond w is lost in rounding. On the rest 32 Gauss-Legendre nodes are exact to rounding.
        The nodes are those of u = tan(tau/2), as no sine is needed then: with g = 2 / (1 + u^2)
            sin tau = u g      cos tau = g - 1      dtau = g du
        """
        y = SIGN[:, None] * (x[:, None] - (a * SCALE)[:, None] * CENTRE)                        # (N, 4, 2)
        phi = np.arctan2(-y[..., 0], y[..., 1])                                                     # (N, 4)
        # at most 1: more is beyond the trough
        q = NEGLIGIBLE * v / np.maximum(2 * a * SCALE * np.hypot(y[..., 0], y[..., 1]), NEGLIGIBLE * v)
        summit = abs(phi) <= np.pi / 2
        # the summit or the trough, in -pi/2..pi/2
        cut = np.where(summit, phi, phi - np.copysign(np.pi, phi))
        high, low = np.where(summit, cut, END), np.where(summit, END, cut)
        width = np.minimum(abs(low - high), reach(np.sin((high - phi) / 2) ** 2, q))                # (N, 4)
        start, stop = np.tan(high / 2), np.tan((high + np.copysign(width, low - high)) / 2)
        u = start[..., None] + (stop - start)[..., None] * NODES                                # (N, 4, 32)
        g = 2 / (1 + u * u)
        cx = SCALE * (CENTRE[:, :1] - SIGN[:, None] * u * g)
        cy = SCALE * (CENTRE[:, 1:] + SIGN[:, None] * (g - 1))
        return [
            array.reshape(len(x), self.terms)
            for array in (cx, cy, abs(stop - start)[..., None] * HEIGHTS * g)
        ]

    def lattice(self, alpha_bar):
        """A lattice over the arcs (see Oracle), in halves of the standard deviation.

        Of it the upper half, as half a turn about the mean changes nothing.
        """
        a, v = alpha_bar ** 0.5, alpha_bar * self.variance + 1 - alpha_bar
        # the corners of both arcs
        points = box(a * SCALE * np.array([[-1, -0.5], [2, 1]]), v, 0.5 * v ** 0.5)
        return points[points[:, 1] > a * MEAN[1]]

    def sample(self, n, rng):
        """n points of the data, float64 (n, 2). rng is a numpy Generator."""
        return make_moons(n, rng)


def box(centres, variances, step):
    """A lattice (M, D) of that step over the box that holds the centres (K, D) and REACH standard deviations
    around each, of variances (K, D).

    It lies symmetrically in the box, no point on the middle of any side. Raises ValueError if it has more
    than MAX_LATTICE points.
    """
    low, high = (centres - REACH * variances ** 0.5).min(0), (centres + REACH * variances ** 0.5).max(0)
    # (D,) points on each side of the middle
    half = np.ceil((high - low) / (2 * step))
    if np.prod(2 * half) > MAX_LATTICE:
        raise ValueError(
            f"the lattice of mmse, {high - low} in steps of {step:g}, has {np.prod(2 * half):.2g} points; it "
            f"must have at most {MAX_LATTICE}"
        )
    axes = [middle + step * (np.arange(-n, n) + 0.5) for middle, n in zip((low + high) / 2, half)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, centres.shape[1])


def reach(s, q):
    """The angle w with sin^2(psi/2 + w/2) = s + q where s = sin^2(psi/2), or up to psi + w = pi where s + q
    exceeds 1.

    sin(w/2) is the sine of a difference, sqrt((s + q) (1 - s)) - sqrt(s (1 - s - q)); times the sum over
    itself, so that nothing cancels, it is q / (sqrt((s + q) (1 - s)) + sqrt(s (1 - s - q))).
    """
    q = np.minimum(q, 1 - s)
    total = ((s + q) * (1 - s)) ** 0.5 + (s * (1 - s - q)) ** 0.5
    return 2 * np.arcsin(q / np.maximum(total, np.finfo(float).tiny))       # 0 / 0 at s = 1 is 0


def normalise(log_joint, factor):
    """log sum(factor exp(log_joint)) (N,) and every term's share of the sum, (N, M).

    The largest real part is taken out first: no overflow, no 0/0.
    """
    peak = log_joint.real.max(1, keepdims=True)                             # (N, 1)
    terms = factor * np.exp(log_joint - peak)                               # (N, M)
    total = terms.sum(1, keepdims=True)                                     # (N, 1)
    return (np.log(total) + peak)[:, 0], terms / total


def column(alpha_bar):
    """A float as it is, (N,) as (N, 1): ready to multiply (N, D)."""
    return np.asarray(alpha_bar, np.float64)[..., None]


def check_mixture(weights, means, covariances):
    """Raise ValueError unless the three describe one Gaussian mixture."""
    if (
        weights.ndim != 1
        or means.ndim != 2
        or covariances.shape != (*means.shape, means.shape[-1])
        or len(weights) != len(means)
        or not means.size
    ):
        raise ValueError(
            f"weights, means and covariances have shapes {weights.shape}, {means.shape} and "
            f"{covariances.shape}; "
            "they must be (K,), (K, D) and (K, D, D)"
        )
    for name, array in (("weights", weights), ("means", means), ("covariances", covariances)):
        if not np.isfinite(array).all():
            raise ValueError(f"{name} are {array}; they must be finite")
    if (weights <= 0).any() or not math.isclose(weights.sum(), 1, rel_tol=1e-9):
        raise ValueError(f"weights are {weights}; they must be positive and sum to 1")
    for k, covariance in enumerate(covariances):
        if (
            abs(covariance - covariance.T).max() > 1e-9 * abs(covariance).max()
            or np.linalg.eigvalsh(covariance)[0] <= 0
        ):
            raise ValueError(
                f"covariances[{k}] is {covariance.tolist()}; it must be symmetric and positive definite"
            )


def oracle_of(data):
    """The oracle of the data set called `data`, or None where its law is not known (images)."""
    return Moons() if data == "moons" else None
