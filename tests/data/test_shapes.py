"""The drawn shapes: the range of their values, labels, areas that are known in closed form, and speed."""

import colorsys
import math
import time

import numpy as np
import pytest

from npdiff.data import load_data, shapes

AREA = {        # of each shape, for radius 1
    "circle": math.pi * 0.9**2,
    "square": 1.4**2,
    "triangle": 3 * math.sqrt(3) / 4,
    "cross": 2 * 1.9 * 0.6 - 0.6**2,
    "ring": math.pi * (0.92**2 - 0.52**2),
    # ten triangles, each with one corner in the centre, one at a tip and one between two tips
    "star": 10 * math.cos(math.radians(72)) * math.sin(math.radians(36)) / math.cos(math.radians(36)) / 2,
    # a square of side 1, two half discs of radius 1/2
    "heart": 0.5**2 * (4 + math.pi),
}


def test_images_and_labels():
    images, labels = shapes.make_shapes(4000, np.random.default_rng(0))
    assert images.shape == (4000, 1, 28, 28) and images.dtype == np.float32
    assert labels.shape == (4000,) and labels.dtype == np.int64
    assert images.min() == -1 and 0.99 < images.max() <= 1
    assert len(shapes.CLASS_NAMES) == 8 and set(labels.tolist()) == set(range(8))
    # uniform: within five standard deviations
    assert abs(np.bincount(labels) - 500).max() < 5 * math.sqrt(500)


def test_same_rng_same_images():
    first, second, other = (shapes.make_shapes(50, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first[0].tobytes() == second[0].tobytes() and first[1].tobytes() == second[1].tobytes()
    assert first[0].tobytes() != other[0].tobytes()


def test_colour_is_the_grey_image_times_one_saturated_colour():
    grey, grey_labels = shapes.make_shapes(600, np.random.default_rng(2))
    images, labels = shapes.make_colour_shapes(600, np.random.default_rng(2))
    assert images.shape == (600, 3, 28, 28) and images.dtype == np.float32 and (labels == grey_labels).all()
    assert images.min() == -1 and images.max() <= 1
    # the largest channel is the grey image
    np.testing.assert_allclose(images.max(1, keepdims=True), grey, atol=1e-6)
    # the smallest is black, so the colour is saturated
    assert (images.min(1) < -1 + 1e-6).all()
    light = (images.astype(np.float64) + 1).reshape(600, 3, -1)
    colours = light.sum(2) / light.sum(2).max(1, keepdims=True)                         # (600, 3)
    # one colour per image
    np.testing.assert_allclose(light, colours[:, :, None] * light.max(1, keepdims=True), atol=1e-5)
    sixths = np.bincount([int(6 * colorsys.rgb_to_hsv(*colour)[0]) % 6 for colour in colours], minlength=6)
    # uniform: within five standard deviations
    assert abs(sixths - 100).max() < 5 * math.sqrt(100 * 5 / 6)


def test_saturated_colours_are_those_of_the_hue():
    hue = np.concatenate([np.arange(6) / 6, np.random.default_rng(0).random(200)])
    np.testing.assert_allclose(shapes.saturated(hue), [colorsys.hsv_to_rgb(h, 1, 1) for h in hue], atol=1e-12)


def test_colour_shapes_by_name():
    images, labels = load_data("colour-shapes").draw(3, np.random.default_rng(1))
    expected, _ = shapes.make_colour_shapes(3, np.random.default_rng(1))
    assert (images == expected).all() and load_data("colour-shapes").class_names == shapes.CLASS_NAMES


def test_every_image_is_new():
    images = shapes.draw(np.repeat(np.arange(8), 200), np.random.default_rng(3))
    assert len(np.unique(images.reshape(1600, -1), axis=0)) == 1600


@pytest.mark.parametrize("n", [0, 1, 2])
def test_few(n):
    images, labels = shapes.make_shapes(n, np.random.default_rng(0))
    assert images.shape == (n, 1, 28, 28) and labels.shape == (n,)


def test_the_border_stays_black():
    """Every shape lies inside the image. Only the soft edge of a shape may reach the outermost pixels."""
    images = shapes.draw(np.repeat(np.arange(8), 500), np.random.default_rng(4))[:, 0]
    edges = np.concatenate([images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]], axis=1)
    assert edges.max() < 1e-4                                           # a value of 0 is half covered
    assert (edges > -1).mean() < 0.01


@pytest.mark.parametrize("name", AREA)
def test_area(name):
    """The sum of all pixels is the shape's area, whatever its place and its angle."""
    rng = np.random.default_rng(5)
    radius, tilt = rng.uniform(8, 12, 40), rng.uniform(-0.3, 0.3, 40)
    images = shapes.draw_shape(getattr(shapes, name), radius, tilt, np.ones(40), *rng.uniform(-1, 1, (2, 40)))
    area = (images.astype(np.float64) + 1).sum(axis=(1, 2)) / 2
    np.testing.assert_allclose(area, AREA[name] * radius**2, rtol=0.03)


@pytest.mark.parametrize("shape", shapes.SHAPES)
def test_signed_distance(shape):
    """|grad d| = 1 wherever one edge alone is the nearest. The shape lies inside the circle of radius 1."""
    u, v = np.random.default_rng(6).uniform(-1.2, 1.2, (2, 4000))
    h = 1e-6
    slope = np.hypot(shape(u + h, v) - shape(u - h, v), shape(u, v + h) - shape(u, v - h)) / (2 * h)
    assert (abs(slope - 1) < 1e-4).mean() > 0.99
    angle = np.linspace(0, 2 * np.pi, 3000)
    assert shape(1.001 * np.cos(angle), 1.001 * np.sin(angle)).min() > 0


def drawn(shape, radius=8.0, tilt=0.0, x=0.0, y=0.0):
    """One white image (28, 28) of the shape."""
    [image] = shapes.draw_shape(shape, *np.array([[radius], [tilt], [1.0], [x], [y]]))
    return image


def test_upright():
    """Row 0 is the top: a triangle is wide below, a heart above, and the crescent opens to the right."""
    for name, heavy in {"triangle": "bottom", "heart": "top", "crescent": "left"}.items():
        image = drawn(getattr(shapes, name), radius=12.0) + 1
        weight = {
            "top": image[:14].sum(),
            "bottom": image[14:].sum(),
            "left": image[:, :14].sum(),
            "right": image[:, 14:].sum(),
        }
        opposite = {"top": "bottom", "bottom": "top", "left": "right"}[heavy]
        assert weight[heavy] > 1.2 * weight[opposite], name
    star = drawn(shapes.star, radius=12.0)
    top, *_ = np.flatnonzero(star.max(axis=1) > -0.8)
    assert set(np.flatnonzero(star[top] > -0.8)) <= {13, 14}           # one tip above, in the middle


def test_moved_and_turned():
    """x moves to the right, y moves up, and a positive tilt turns anticlockwise."""
    centre = drawn(shapes.heart)
    moved, turned = drawn(shapes.heart, x=2.0, y=3.0), drawn(shapes.heart, tilt=math.pi / 2)
    np.testing.assert_allclose(moved, np.roll(centre, (-3, 2), (0, 1)), atol=1e-5)
    np.testing.assert_allclose(turned, np.rot90(centre), atol=1e-5)


@pytest.mark.parametrize("bad", [-1, 8])
def test_bad_label(bad):
    with pytest.raises(ValueError, match=f"a label is {bad}; it must lie in 0..7"):
        shapes.draw([0, bad, 3], np.random.default_rng(0))


@pytest.mark.parametrize("labels", [[0.0, 1.5], [True, False], [[1, 2]], ["1", "2"]])
def test_labels_are_integers(labels):
    with pytest.raises(ValueError, match="they must be .* integers in 0..7"):
        shapes.draw(labels, np.random.default_rng(0))
    assert shapes.draw([], np.random.default_rng(0)).shape == (0, 1, 28, 28)


def centred(images):
    """Images (n, 1, 28, 28) moved so that the mean of their light is in the middle: (n, 1024), largest 1."""
    light = np.pad(images[:, 0] + 1, ((0, 0), (2, 2), (2, 2)))                  # (n, 32, 32)
    light = light / light.max(axis=(1, 2), keepdims=True)
    total, pixels = light.sum(axis=(1, 2)), np.arange(32)
    row, column = (np.rint(light.sum(axis) @ pixels / total).astype(int) for axis in (2, 1))    # (n,) each
    rows, columns = (pixels + row[:, None] - 16) % 32, (pixels + column[:, None] - 16) % 32     # (n, 32) each
    n = np.arange(len(light))
    return light[n[:, None, None], rows[:, :, None], columns[:, None, :]].reshape(len(light), -1)


def test_one_class_each():
    """The labels are right: among images of known class the nearest one has the same label, nearly always."""
    images, labels = shapes.make_shapes(4000, np.random.default_rng(7))
    x = centred(images)
    known, fresh = x[:2000], x[2000:]
    distance = (fresh ** 2).sum(1)[:, None] + (known ** 2).sum(1) - 2 * fresh @ known.T     # (2000, 2000)
    nearest = labels[:2000][distance.argmin(1)]
    assert (nearest == labels[2000:]).mean() > 0.97


def test_speed():
    """The aim is 20,000 images a second. A tenth of that must be reached, also on a busy machine."""
    rng = np.random.default_rng(8)
    best = math.inf
    for _ in range(3):
        start = time.perf_counter()
        shapes.make_shapes(2000, rng)
        best = min(best, time.perf_counter() - start)
    assert 2000 / best > 2000
