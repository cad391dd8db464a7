"""The two moons: half circles that reach into each other, the smallest data set with a shape that a Gaussian
cannot have.
"""

import numpy as np

SCALE = 1.5
JITTER = 0.03       # standard deviation around the arcs, before scaling
# of the data, exactly: SCALE * (1/2, 1/4); the half turns' sines, mean 2/pi and -2/pi, cancel
MEAN = (0.75, 0.375)


def make_moons(n, rng):
    """n points of the two moons, float64 (n, 2).

    theta is uniform on a whole turn. Its first half draws the upper moon, (cos theta, sin theta); its second
    half is a half circle that hangs down, and moves by (1, 1/2) to become the lower. Normal jitter of 0.03 is
    added, and everything is multiplied by 1.5. rng is a numpy Generator.
    """
    theta = rng.random(n) * (2 * np.pi)                                        # (n,)
    points = np.stack([np.cos(theta), np.sin(theta)], axis=1)                  # (n, 2)
    points[theta >= np.pi] += (1, 0.5)
    points += JITTER * rng.standard_normal((n, 2))
    return SCALE * points
