"""The two moons: two half circles of points that reach into each other."""

import numpy as np

SCALE = 1.5
JITTER = 0.03       # standard deviation around the arcs, before scaling
# The mean of the data: SCALE * (1/2, 1/4), as the mean sines of the two half turns, 2/pi and -2/pi, cancel
MEAN = (0.75, 0.375)


def make_moons(n, rng):
    """n points of the two moons, float64 (n, 2).

    theta is uniform on a whole turn. (cos theta, sin theta) of the first half turn is the upper moon. The
    second half turn, moved by (1, 1/2), is the lower moon. Normal noise of standard deviation 0.03 is added,
    and everything is multiplied by 1.5. rng is a NumPy Generator.
    """
    theta = rng.random(n) * (2 * np.pi)                                        # (n,)
    points = np.stack([np.cos(theta), np.sin(theta)], axis=1)                  # (n, 2)
    points[theta >= np.pi] += (1, 0.5)
    points += JITTER * rng.standard_normal((n, 2))
    return SCALE * points
