"""Eight labelled shapes, drawn by formula: an image data set that needs no download.

Each shape is a signed distance d(u, v), a function of the plane: negative inside, positive outside, and near
the edge as large as the distance to it. The union of two shapes is the minimum of their distances, the
intersection the maximum; to remove a shape is to intersect with minus its distance. A pixel's coverage is
1/2 - d, with d in pixels, clipped to 0..1; this makes smooth edges. All shapes fit in the circle of radius 1.
v points up.
"""

import math

import numpy as np

from npdiff.nn.embedding import check_labels

SIDE = 28               # pixels
RADIUS = (6.0, 12.0)    # pixels; of the circle around the shape
TILT = np.pi / 12       # radians; the largest rotation, either way
BRIGHTNESS = (0.5, 1.0)
CHUNK = 64              # images drawn at once: their coordinates stay in cache


def length(u, v):
    """Distance from the origin."""
    return (u * u + v * v) ** 0.5


def box(u, v, a, b):
    """A rectangle of 2a by 2b."""
    return np.maximum(abs(u) - a, abs(v) - b)


def lines(u, v, k, first, apothem):
    """Signed distances to k lines around the origin, each `apothem` away, the first at the angle `first`."""
    for i in range(k):
        angle = first + 2 * math.pi * i / k
        yield u * math.cos(angle) + v * math.sin(angle) - apothem


def circle(u, v):
    """A disc."""
    return length(u, v) - 0.9


def square(u, v):
    """As wide as high."""
    return box(u, v, 0.7, 0.7)


def triangle(u, v):
    """Inside all three of its lines."""
    left, bottom, right = lines(u, v, 3, math.pi * 5 / 6, 0.5)
    return np.maximum(np.maximum(left, right), bottom)


def cross(u, v):
    """Two bars."""
    return np.minimum(box(u, v, 0.95, 0.3), box(u, v, 0.3, 0.95))


def ring(u, v):
    """What lies within 0.2 of a circle's line."""
    return abs(length(u, v) - 0.72) - 0.2


def star(u, v):
    """Five points. Inside, at most one of five lines is crossed, so the distance is the second largest of the
    five.
    """
    largest = second = -np.inf
    for side in lines(u, v, 5, math.pi / 2, math.cos(2 * math.pi / 5)):
        second = np.maximum(second, np.minimum(largest, side))
        largest = np.maximum(largest, side)
    return second


def heart(u, v):
    """A square on its corner, and a disc on each of its two upper sides."""
    u, v, half = abs(u), v + 0.1, 0.5
    middle = half / 2 ** 0.5
    return np.minimum((u + abs(v)) * (0.5 ** 0.5) - half, length(u - middle, v - middle) - half)


def crescent(u, v):
    """A disc without a second disc, which lies to its right."""
    return np.maximum(length(u, v) - 0.95, 0.75 - length(u - 0.45, v))


SHAPES = (circle, square, triangle, cross, ring, star, heart, crescent)
CLASS_NAMES = tuple(shape.__name__ for shape in SHAPES)


def make_shapes(n, rng):
    """n images of shapes, (n, 1, 28, 28) float32 in [-1, 1], and their labels, (n,) int64 in 0..7, uniform.

    rng is a numpy Generator.
    """
    labels = rng.integers(len(SHAPES), size=n)                                 # (n,)
    return draw(labels, rng), labels


def make_colour_shapes(n, rng):
    """n images of shapes in colour, (n, 3, 28, 28) float32 in [-1, 1], red, green, blue, and their labels,
    (n,) int64 in 0..7. rng is a numpy Generator.

    They are the images that make_shapes draws, each in one colour of the rainbow, its hue uniform: the light
    of every pixel times (r, g, b).
    """
    images, labels = make_shapes(n, rng)                                       # (n, 1, 28, 28)
    colours = saturated(rng.random(n)).astype(np.float32)                      # (n, 3)
    return (images + 1) * colours[:, :, None, None] - 1, labels                # (n, 3, 28, 28)


def saturated(hue):
    """The full colour of each hue, (n,) in [0, 1) -> red, green and blue, (n, 3) in [0, 1], the largest 1 and
    the smallest 0.

    Over a turn, each channel is full for a third, rises or falls for a sixth, and is dark for a third: red
    around hue 0, green 1/3, blue 2/3.
    """
    # (n, 3) the way around to the channel's own hue, at most 1/2
    away = abs((hue[:, None] - np.array([0, 1, 2]) / 3 + 0.5) % 1 - 0.5)
    return (2 - 6 * away).clip(0, 1)


def draw(labels, rng):
    """One image for each label, (n,) integers -> (n, 1, 28, 28) float32: a light shape on a black ground
    (-1).

    Uniform and independent: the radius, the tilt, the brightness, and the place, as far as the shape lies
    inside the image. rng is a numpy Generator. Raises ValueError unless labels are integers (n,) in 0..7.
    """
    labels = check_labels(labels, len(labels), len(SHAPES))
    uniform = rng.random((5, len(labels)))
    radius = RADIUS[0] + (RADIUS[1] - RADIUS[0]) * uniform[0]                  # (n,)
    tilt = TILT * (2 * uniform[1] - 1)
    brightness = BRIGHTNESS[0] + (BRIGHTNESS[1] - BRIGHTNESS[0]) * uniform[2]
    # centres; half a pixel is for the soft edge
    x, y = (SIDE / 2 - 0.5 - radius) * (2 * uniform[3:] - 1)
    place = np.stack([radius, tilt, brightness, x, y])                         # (5, n)

    images = np.empty((len(labels), SIDE, SIDE), np.float32)
    for label, shape in enumerate(SHAPES):
        rows = np.flatnonzero(labels == label)
        for start in range(0, len(rows), CHUNK):
            some = rows[start:start + CHUNK]
            images[some] = draw_shape(shape, *place[:, some])
    return images[:, None]                                                     # (n, 1, 28, 28)


def draw_shape(shape, radius, tilt, brightness, x, y):
    """The same shape m times: five arrays (m,) -> (m, 28, 28) float32 in [-1, 1].

    A pixel at (px, py) has, in the shape's own coordinates,
        u + i v = ((px - x) + i (py - y)) exp(-i tilt) / radius
    """
    # (28,)   the middle of the image is (0, 0)
    px = np.arange(SIDE) - (SIDE - 1) / 2
    # (28, 1) rows run down, y runs up
    py = -px[:, None]
    # (m, 1, 1)
    radius, tilt, brightness, x, y = (array[:, None, None] for array in (radius, tilt, brightness, x, y))
    c, s = np.cos(tilt) / radius, np.sin(tilt) / radius                        # (m, 1, 1)
    f32 = np.float32
    # (m, 1, 28) + (m, 28, 1) -> (m, 28, 28)
    u = (c * (px - x)).astype(f32) + (s * (py - y)).astype(f32)
    v = (c * (py - y)).astype(f32) - (s * (px - x)).astype(f32)
    d = shape(u, v)
    d *= radius.astype(f32)                                                    # in pixels
    coverage = (0.5 - d).clip(0, 1)
    return coverage * (2 * brightness).astype(f32) - 1                         # (m, 28, 28)
