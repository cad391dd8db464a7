"""The oracle: the exact denoiser, for data whose distribution is known.

With it a sampler can be checked without a network, and a loss can be compared with the smallest possible one.

N points, D coordinates. x_t = a x_0 + sigma eps with a = sqrt(alpha_bar), sigma = sqrt(1 - alpha_bar), and
p_t is the density of x_t. Of all functions of x_t, the posterior mean E[x_0 | x_t] has the smallest mean
squared error. An oracle knows it, and so knows the best answer of a network that predicts eps:

    eps* = E[eps | x] = (x - a E[x_0 | x]) / sigma
    score = ∂/∂x log p_t(x) = -eps* / sigma               Tweedie's formula, derived in Oracle.score

The mean squared error of eps* is the Bayes floor: no network has a smaller loss.
Source: [Efron 2011](https://doi.org/10.1198/jasa.2011.tm11181).
"""

import math
from typing import NamedTuple

import numpy as np

from npdiff.data.moons import JITTER, MEAN, SCALE, make_moons
from npdiff.diffusion import prediction_target

BLOCK = 2**13           # numbers in one array: points are computed in blocks that fit the processor's cache
REACH = 6.0             # standard deviations that a lattice reaches beyond the data
MAX_LATTICE = 2**21     # points of a lattice


class Posterior(NamedTuple):
    """What x_t = x says about x_0, for points x (N, D)."""
    log_p: np.ndarray       # (N,) log p_t(x), in nats
    mean: np.ndarray        # (N, D) E[x_0 | x]
    variance: np.ndarray    # (N,) E[|x_0 - E[x_0 | x]|^2 | x], the trace of the covariance of x_0 given x


class Oracle:
    """What every oracle answers. It is derived from what the subclass gives:

        dim, terms              D, and how many numbers `moments` computes with for each point
        moments(x, alpha_bar)   x (N, D), alpha_bar (N, 1) -> Posterior
        lattice(alpha_bar)      points (M, D) of a lattice: a sum over them replaces the integral over x_t
        sample(n, rng)          n points of the data

    x is a NumPy array (N, D). alpha_bar is a float, or an array (N,) with one value for each point. Answers
    are float64. For complex x they are complex128, the analytic continuation, so that the complex step works.
    At alpha_bar = 0, x is all noise: x0 is the mean of the data, and eps is x. Raises ValueError for x of
    another shape or not finite, for alpha_bar outside 0..1, and for alpha_bar = 1 where the answer needs
    noise (eps, score).
    """

    def posterior(self, x, alpha_bar):
        """What x_t = x says about x_0: a Posterior."""
        x = np.asarray(x)
        x = x.astype(np.complex128 if x.dtype.kind == "c" else np.float64, copy=False)
        alpha_bar = np.asarray(alpha_bar, np.float64)
        check_points(x, alpha_bar, self.dim)
        alpha_bar = np.broadcast_to(alpha_bar, len(x))[:, None]                                 # (N, 1)
        rows = max(1, BLOCK // self.terms)
        blocks = [self.moments(x[i:i + rows], alpha_bar[i:i + rows]) for i in range(0, max(1, len(x)), rows)]
        return Posterior(*(np.concatenate(parts) for parts in zip(*blocks)))

    def log_density(self, x, alpha_bar):
        """log p_t(x) in nats, (N,): the density of x_t. At alpha_bar = 1 it is the density of the data."""
        return self.posterior(x, alpha_bar).log_p

    def x0(self, x, alpha_bar):
        """E[x_0 | x_t = x], (N, D)."""
        return self.posterior(x, alpha_bar).mean

    def eps(self, x, alpha_bar):
        """E[eps | x_t = x], (N, D): the best answer of a network that predicts eps.

        Given x, eps = (x - a x_0) / sigma is linear in x_0, so   E[eps | x] = (x - a E[x_0 | x]) / sigma
        """
        x0, alpha_bar = self.x0(x, alpha_bar), column(alpha_bar)
        if (alpha_bar == 1).any():
            raise ValueError("alpha_bar is 1; there is no noise to predict in clean data")
        return (x - alpha_bar ** 0.5 * x0) / (1 - alpha_bar) ** 0.5

    def score(self, x, alpha_bar):
        """The gradient of log p_t at x, (N, D): -eps / sigma (Tweedie's formula).

        Let p(x_0) be the density of the data. Then p_t(x) = ∫ p(x_0) N(x; a x_0, sigma^2 I) dx_0, and
            ∂p_t/∂x = ∫ p(x_0) N(x; a x_0, sigma^2 I) (a x_0 - x) / sigma^2 dx_0
        Divide by p_t(x). On the left is the gradient of log p_t, on the right a mean over x_0 given x:
            score = (a E[x_0 | x] - x) / sigma^2 = -E[eps | x] / sigma
        """
        return -self.eps(x, alpha_bar) / (1 - column(alpha_bar)) ** 0.5

    def mmse(self, snr):
        """The smallest mean squared error of an estimate of x_0 from x_t, E|x_0 - E[x_0 | x_t]|^2, summed
        over the coordinates. Floats, in the shape of snr; relative error at most 3e-5.

        It is the mean over x_t of Posterior.variance. It depends only on snr = alpha_bar / (1 - alpha_bar):
        x_t / sigma = sqrt(snr) x_0 + eps says the same about x_0 as x_t does
        ([Guo, Shamai and Verdu 2005](https://arxiv.org/abs/cs/0412108)). A sum over a lattice replaces the
        integral over x_t. For a smooth function that is nearly zero at the border, both are equal almost to
        rounding ([Trefethen and Weideman 2014](https://doi.org/10.1137/130932132)).

        Raises ValueError unless snr is finite and not negative, and where the sum would have more than
        MAX_LATTICE terms: for a mixture that is wide, has narrow components, or has many coordinates.
        """
        snr = np.asarray(snr, np.float64)
        if not (np.isfinite(snr) & (snr >= 0)).all():
            raise ValueError(f"snr is {snr}; it must be finite and not negative")

        def mmse_at(alpha_bar):
            log_p, _, variance = self.posterior(self.lattice(alpha_bar), alpha_bar)
            p = np.exp(log_p - log_p.max())
            return (p * variance).sum() / p.sum()

        return np.array([mmse_at(s / (1 + s)) for s in snr.flat]).reshape(snr.shape)

    def predict(self, schedule, prediction_type="epsilon"):
        """The oracle in the place of a network: a function (x, t) -> the best answer (N, D), in x's dtype.

        t is an int or integers (N,) in 1..T. Every target is linear in (x_0, eps), so the mean of the target
        is the target of the means.
        """

        def best_answer(x, t):
            schedule.check_t(t)
            alpha_bar = schedule.alpha_bar[t]
            x0, eps = self.x0(x, alpha_bar), self.eps(x, alpha_bar)
            return prediction_target(x0, t, eps, schedule, prediction_type).astype(x.dtype)

        return best_answer


class GaussianMixture(Oracle):
    """Data drawn from component k with probability weights[k], then from N(means[k], covariances[k]).

    weights (K,) positive with sum 1, means (K, D), covariances (K, D, D) symmetric and positive definite.
    Raises ValueError otherwise.
    """

    def __init__(self, weights, means, covariances):
        self.weights = np.asarray(weights, np.float64)
        self.means = np.asarray(means, np.float64)
        self.covariances = np.asarray(covariances, np.float64)
        check_mixture(self.weights, self.means, self.covariances)
        self.dim, self.terms = self.means.shape[1], self.means.size
        # covariance = axes diag(variances) axes^T
        self.variances, axes = np.linalg.eigh(self.covariances)                 # (K, D), (K, D, D)
        # x @ self.axes holds the coordinates of x along all K sets of axes
        self.axes = axes.transpose(1, 0, 2).reshape(self.dim, -1)               # (D, K D)
        # the means, each in the coordinates of its own axes
        self.centres = np.einsum("kd,kde->ke", self.means, axes)                # (K, D)

    def moments(self, x, alpha_bar):
        """The posterior of a Gaussian, for each component; then its mean and variance over the components.

        One component, one coordinate. Take coordinates along the principal axes of covariance_k. They are
        independent of each other: y_0 of x_0, with mean `centre` and variance `variance`, and
            y = a y_0 + sigma eps      mean a centre      v = var(y) = alpha_bar variance + sigma^2
        Split y_0 into a part that y determines and a rest, with a factor g:
            y_0 = centre + g (y - a centre) + rest
        Choose g so that  cov(rest, y) = cov(y_0, y) - g v  is 0. As cov(y_0, y) = a variance, g is
        a variance / v. The rest has mean 0. It is jointly normal with y and not correlated with it, so the
        two are independent, and y says nothing about the rest:
            E[y_0 | y, k] = centre + a variance / v (y - a centre)
            var(y_0 | y, k) = var(rest) = variance - g^2 v = variance (v - alpha_bar variance) / v
                            = variance sigma^2 / v
        All components. Each has its posterior probability, `share`. E[x_0 | x] is the mean of E[x_0 | x, k].
        The variance of x_0 given x is the mean of the components' variances plus the variance of their means.
        """
        a, sigma2 = alpha_bar[:, :, None] ** 0.5, 1 - alpha_bar[:, :, None]                     # (N, 1, 1)
        shape = (len(x), *self.means.shape)
        v = a ** 2 * self.variances + sigma2                                                    # (N, K, D)
        y = (x @ self.axes).reshape(shape) - a * self.centres                                   # (N, K, D)
        log_joint = np.log(self.weights) - 0.5 * (y * y / v + np.log(2 * np.pi * v)).sum(2)     # (N, K)
        log_p, share = normalise(log_joint, 1.0)
        y0 = self.centres + a * self.variances / v * y                                          # (N, K, D)
        mean = (share[:, :, None] * y0).reshape(len(x), self.terms) @ self.axes.T               # (N, D)
        from_mean = y0 - (mean @ self.axes).reshape(shape)                                      # (N, K, D)
        spread = (self.variances * sigma2 / v + from_mean ** 2).sum(2)                          # (N, K)
        return Posterior(log_p, mean, (share * spread).sum(1))

    def lattice(self, alpha_bar):
        """A lattice over all components (see Oracle), in steps of a fifth of the smallest standard deviation.

        Where the means of two components are d such standard deviations apart, their posterior probabilities
        change from 0 to 1 over about 1/d of one. The steps need not show this change for d above 10: both
        components are then likely on so little of the space that it adds less than 1e-5 of MMSE.
        """
        v = alpha_bar * np.diagonal(self.covariances, axis1=1, axis2=2) + 1 - alpha_bar         # (K, D)
        narrowest = (alpha_bar * self.variances.min() + 1 - alpha_bar) ** 0.5
        return box(alpha_bar ** 0.5 * self.means, v, 0.2 * narrowest)

    def sample(self, n, rng):
        """n points of the data, float64 (n, D). rng is a numpy Generator."""
        k = rng.choice(len(self.weights), n, p=self.weights)                                    # (n,)
        y = self.centres[k] + self.variances[k] ** 0.5 * rng.standard_normal((n, self.dim))     # (n, D)
        axes = self.axes.reshape(self.dim, *self.means.shape)                                   # (D, K, D)
        return np.einsum("dne,ne->nd", axes[:, k], y)


NODES, HEIGHTS = np.polynomial.legendre.leggauss(32)
NODES, HEIGHTS = (NODES + 1) / 2, HEIGHTS / 2               # on 0..1
NEGLIGIBLE = 38.0                                           # exp(-38) is 3e-17: added to 1 it changes nothing
# Each moon is cut into two pieces: first those of the upper moon, then those of the lower.
SIGN = np.array([1, 1, -1, -1])                             # (4,)
CENTRE = np.array([[0, 0], [0, 0], [1, 0.5], [1, 0.5]])     # (4, 2)
END = np.array([-1, 1, -1, 1]) * np.pi / 2                  # (4,) the end of the arc in this piece


class Moons(Oracle):
    """The two moons of data/moons.py: N(SCALE c(tau), s^2 I) with s = SCALE JITTER, c uniform on two arcs.

        upper moon   c(tau) =            (-sin tau, cos tau)        tau in -pi/2..pi/2
        lower moon   c(tau) = (1, 1/2) - (-sin tau, cos tau)
    """

    dim, terms = 2, 4 * len(NODES)
    variance = (SCALE * JITTER) ** 2

    def moments(self, x, alpha_bar):
        """As in the mixture, with a component for every tau: mean SCALE c(tau), covariance s^2 I.

        With v = alpha_bar s^2 + sigma^2, and the integral over both arcs,
            p_t(x) = 1/(2 pi) ∫ N(x; a SCALE c, v I) dtau
            E[x_0 | x, c] = SCALE c + a s^2 / v (x - a SCALE c) = (sigma^2 SCALE c + a s^2 x) / v
        The integral becomes a sum over quadrature nodes. In the exponent, |x - a SCALE c|^2 is multiplied
        out. |x|^2 is the same for all c and is added at the end: far from the data it is so large that the
        differences between the c would be lost in rounding.
        """
        a, sigma2 = alpha_bar ** 0.5, 1 - alpha_bar
        v = alpha_bar * self.variance + sigma2                                                  # (N, 1)
        cx, cy, dtau = self.nodes(x.real, a, v)                                                 # (N, M) each
        log_joint = a / v * (cx * (x[:, :1] - a / 2 * cx) + cy * (x[:, 1:] - a / 2 * cy))       # (N, M)
        log_p, share = normalise(log_joint, dtau)
        mx = (share * cx).sum(1, keepdims=True)                                                 # (N, 1)
        my = (share * cy).sum(1, keepdims=True)                                                 # (N, 1)
        mean = (sigma2 * np.concatenate([mx, my], axis=1) + a * self.variance * x) / v          # (N, 2)
        spread = (share * ((cx - mx) ** 2 + (cy - my) ** 2)).sum(1)                             # (N,)
        sigma2, v = sigma2[:, 0], v[:, 0]
        log_p = log_p - (x * x).sum(1) / (2 * v) - np.log(4 * np.pi ** 2 * v)
        return Posterior(log_p, mean, 2 * self.variance * sigma2 / v + (sigma2 / v) ** 2 * spread)

    def nodes(self, x, a, v):
        """Quadrature nodes for the integral over tau, chosen for each x (N, 2): three arrays (N, M), the two
        coordinates of SCALE c, and the weights dtau.

        Let r and phi be the polar coordinates of x about the centre a SCALE m of an arc, m = (0, 0) or
        (1, 1/2), with phi = 0 towards the arc's middle. The integrand is exp(kappa cos(tau - phi)) times a
        factor without tau, where kappa = a SCALE r / v. An arc is half a turn, so it holds the maximum, at
        tau = phi, or the minimum, on the other side. The arc is cut there into two pieces, and from one end
        of a piece to the other the integrand only falls. Let psi = |tau - phi| at the high end. An angle w
        further, the integrand has fallen by the factor exp(-NEGLIGIBLE) if

            cos(psi) - cos(psi + w) = NEGLIGIBLE / kappa
            sin^2((psi + w)/2) = sin^2(psi/2) + q         with q = NEGLIGIBLE / (2 kappa)

        What lies beyond w is lost in rounding. On the rest, 32 Gauss-Legendre nodes are exact to rounding.
        The nodes are those of u = tan(tau/2), as no sine is needed then: with g = 2 / (1 + u^2)
            sin tau = u g      cos tau = g - 1      dtau = g du
        """
        y = SIGN[:, None] * (x[:, None] - (a * SCALE)[:, None] * CENTRE)                        # (N, 4, 2)
        r = np.hypot(y[..., 0], y[..., 1])                                                      # (N, 4)
        phi = np.arctan2(-y[..., 0], y[..., 1])                                                 # (N, 4)
        # at most 1, which already reaches beyond the minimum
        q = NEGLIGIBLE * v / np.maximum(2 * a * SCALE * r, NEGLIGIBLE * v)                      # (N, 4)
        holds_maximum = abs(phi) <= np.pi / 2
        # the place of the maximum or of the minimum, in -pi/2..pi/2
        cut = np.where(holds_maximum, phi, phi - np.copysign(np.pi, phi))                       # (N, 4)
        high, low = np.where(holds_maximum, cut, END), np.where(holds_maximum, END, cut)        # (N, 4) each
        width = np.minimum(abs(low - high), reach(np.sin((high - phi) / 2) ** 2, q))            # (N, 4)
        start, stop = np.tan(high / 2), np.tan((high + np.copysign(width, low - high)) / 2)
        u = start[..., None] + (stop - start)[..., None] * NODES                                # (N, 4, 32)
        g = 2 / (1 + u * u)
        cx = SCALE * (CENTRE[:, :1] - SIGN[:, None] * u * g)
        cy = SCALE * (CENTRE[:, 1:] + SIGN[:, None] * (g - 1))
        dtau = abs(stop - start)[..., None] * HEIGHTS * g
        return [array.reshape(len(x), self.terms) for array in (cx, cy, dtau)]

    def lattice(self, alpha_bar):
        """A lattice over the arcs (see Oracle), in steps of half the standard deviation.

        Only its upper half is returned. Half a turn about the mean maps the moons to themselves, so the lower
        half has the same sums.
        """
        a, v = alpha_bar ** 0.5, alpha_bar * self.variance + 1 - alpha_bar
        corners = a * SCALE * np.array([[-1, -0.5], [2, 1]])        # of the box that holds both arcs
        points = box(corners, v, 0.5 * v ** 0.5)
        return points[points[:, 1] > a * MEAN[1]]

    def sample(self, n, rng):
        """n points of the data, float64 (n, 2). rng is a numpy Generator."""
        return make_moons(n, rng)


def box(centres, variances, step):
    """A lattice (M, D) with this step, over a box: it holds REACH standard deviations around each centre.

    centres (K, D), variances (K, D) or a float. The lattice is symmetric about the middle of the box, and no
    point has a coordinate of the middle. Raises ValueError if it has more than MAX_LATTICE points.
    """
    low, high = (centres - REACH * variances ** 0.5).min(0), (centres + REACH * variances ** 0.5).max(0)
    half = np.ceil((high - low) / (2 * step))           # (D,) points on each side of the middle
    size = np.prod(2 * half)
    if size > MAX_LATTICE:
        raise ValueError(f"the lattice of mmse, {high - low} in steps of {step:g}, has {size:.2g} points; "
                         f"it must have at most {MAX_LATTICE}")
    axes = [middle + step * (np.arange(-n, n) + 0.5) for middle, n in zip((low + high) / 2, half)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, centres.shape[1])


def reach(s, q):
    """The angle w with sin^2((psi + w)/2) = s + q, where s = sin^2(psi/2). Where s + q is above 1, the angle
    up to psi + w = pi.

    As w/2 = (psi + w)/2 - psi/2, the formula for the sine of a difference gives
        sin(w/2) = sqrt((s + q) (1 - s)) - sqrt(s (1 - s - q))
    Two nearly equal numbers would lose digits here. The difference times the sum of the same two roots is
        (s + q) (1 - s) - s (1 - s - q) = q
    so   sin(w/2) = q / (sqrt((s + q) (1 - s)) + sqrt(s (1 - s - q))).
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


def check_points(x, alpha_bar, dim):
    """Raise ValueError unless x is finite and (N, dim), and alpha_bar lies in 0..1 and is one number or N."""
    if x.ndim != 2 or x.shape[1] != dim:
        raise ValueError(f"x has shape {x.shape}; this oracle takes (N, {dim})")
    if not np.isfinite(x).all():
        raise ValueError(f"x holds {x[~np.isfinite(x)][0]}; every value must be finite")
    if alpha_bar.shape not in ((), (len(x),)):
        raise ValueError(f"alpha_bar has shape {alpha_bar.shape}; "
                         f"for {len(x)} points it must be a float or ({len(x)},)")
    if not ((alpha_bar >= 0) & (alpha_bar <= 1)).all():
        raise ValueError(f"alpha_bar is {alpha_bar}; it must lie in 0..1")


def check_mixture(weights, means, covariances):
    """Raise ValueError unless the three describe one Gaussian mixture."""
    fit = (
        weights.ndim == 1
        and means.ndim == 2
        and len(weights) == len(means)
        and covariances.shape == (*means.shape, means.shape[1])
        and means.size
    )
    if not fit:
        raise ValueError(f"weights, means and covariances have shapes {weights.shape}, {means.shape} and "
                         f"{covariances.shape}; they must be (K,), (K, D) and (K, D, D)")
    for name, array in (("weights", weights), ("means", means), ("covariances", covariances)):
        if not np.isfinite(array).all():
            raise ValueError(f"{name} are {array}; they must be finite")
    if (weights <= 0).any() or not math.isclose(weights.sum(), 1, rel_tol=1e-9):
        raise ValueError(f"weights are {weights}; they must be positive and sum to 1")
    for k, covariance in enumerate(covariances):
        asymmetry = abs(covariance - covariance.T).max()
        if asymmetry > 1e-9 * abs(covariance).max() or np.linalg.eigvalsh(covariance)[0] <= 0:
            raise ValueError(f"covariances[{k}] is {covariance.tolist()}; "
                             "it must be symmetric and positive definite")


def oracle_of(data):
    """The oracle of the data set called `data`, or None where its distribution is not known (images)."""
    return Moons() if data == "moons" else None
