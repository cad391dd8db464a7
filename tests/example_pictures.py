"""What every picture of examples/ must show, read from the figure itself."""

import numpy as np
from matplotlib.image import imread

DPI = 120               # of npdiff.app.figures.save, and of the two files 00


def check_file(path, figure):
    """The file is a valid image, as large as the figure, and not blank."""
    picture = imread(path)[..., :3]                             # (height, width, 3) in 0..1
    width, height = figure.get_size_inches() * DPI
    assert abs(picture.shape[0] - height) <= 1 and abs(picture.shape[1] - width) <= 1
    assert min(picture.shape[:2]) >= 300 and picture.std() > 0.05


def check_words(figure):
    """Every panel has a title or stands under one, and names what its axes measure.

    In a grid of panels the label of one panel counts for its whole row (y) or column (x).
    """
    for axes in figure.axes:
        spec = axes.get_subplotspec()
        if spec is None:                                        # a colour bar
            assert axes.get_ylabel(), axes
            continue
        same_grid = [other for other in figure.axes if other.get_subplotspec() is not None
                     and other.get_subplotspec().get_gridspec() is spec.get_gridspec()]
        row = [other for other in same_grid if other.get_subplotspec().rowspan == spec.rowspan]
        column = [other for other in same_grid if other.get_subplotspec().colspan == spec.colspan]
        assert axes.get_title() or figure.get_suptitle(), axes
        if axes.images:
            named = axes.get_title() or axes.get_xlabel() or any(other.get_ylabel() for other in row)
            assert named, axes
        else:
            assert any(other.get_xlabel() for other in column), axes
            assert any(other.get_ylabel() for other in row), axes


def check_data(figure):
    """Every panel shows numbers. They are finite, but for a curve that ends at infinity."""
    for axes in figure.axes:
        assert axes.lines or axes.collections or axes.images or axes.patches, axes
        for line in axes.lines:
            assert np.isfinite(np.asarray(line.get_ydata(), float)).any(), axes
        for collection in axes.collections:
            assert np.isfinite(collection.get_offsets()).all(), axes
        for image in axes.images:
            assert np.isfinite(image.get_array()).all(), axes


def check_without_colour(figure):
    """The curves that a panel names differ in line, marker or width, not in colour alone."""
    for axes in figure.axes:
        looks = [(line.get_linestyle(), line.get_marker(), line.get_linewidth())
                 for line in axes.lines if not line.get_label().startswith("_")]
        assert len(set(looks)) == len(looks), looks


def curves(axes):
    """label -> line, of the lines that have a label."""
    return {line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}


def points(axes):
    """label -> points (n, 2), of the scatters that have a label."""
    return {artist.get_label(): np.asarray(artist.get_offsets()) for artist in axes.collections}


def panels(figure):
    """The figure's axes without colour bars."""
    return [axes for axes in figure.axes if axes.get_subplotspec() is not None]


def legend_names(axes):
    """The names in the legend of a panel."""
    return [text.get_text() for text in axes.get_legend().get_texts()]
