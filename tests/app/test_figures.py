"""The pictures: images in rows and columns."""

import numpy as np
import pytest

from npdiff.app import figures


def test_tiles():
    images = np.stack([np.full((1, 2, 3), v) for v in (-1.0, 0.0, 1.0, 7.0, -7.0)])
    sheet = figures.tiles(images, 2)
    assert sheet.shape == (3 * 3 - 1, 2 * 4 - 1, 3)
    corners = [sheet[row, column, 0] for row, column in ((0, 0), (0, 4), (3, 0), (3, 4), (6, 0))]
    assert corners == [0, 0.5, 1, 1, 0]


def test_tiles_in_colour():
    colour = np.zeros((1, 3, 2, 2))
    colour[0, 1] = 1
    assert figures.tiles(colour, 1)[0, 0] == pytest.approx([0.5, 1, 0.5])
