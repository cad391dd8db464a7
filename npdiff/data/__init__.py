"""Data sets: draws of clean data x_0, with labels where the data has them."""

from functools import lru_cache
from os import PathLike

import numpy as np

from npdiff.data import fashion_mnist, moons, own, shapes
from npdiff.data.dataset import DataSet


def load_fashion_mnist(directory, padding=0):
    """Fashion-MNIST's training images, drawn with replacement, with `padding` black pixels around them."""
    images, labels = fashion_mnist.load_bytes("train", directory)      # (60000, 28, 28) bytes, (60000,)

    def draw(n, rng):
        rows = rng.integers(0, len(images), n)
        x0 = fashion_mnist.to_float(images[rows])  # (n, 1, 28, 28)
        margins = [(0, 0), (0, 0), (padding, padding), (padding, padding)]
        return np.pad(x0, margins, constant_values=-1), labels[rows]

    digest = fashion_mnist.digest(images, labels)
    numbers = tuple(map(str, range(len(fashion_mnist.CLASS_NAMES))))        # of another set in this format
    names = fashion_mnist.CLASS_NAMES if digest == fashion_mnist.real_digest() else numbers
    return DataSet(draw, names, digest)


def by_rule(draw, class_names=()):
    """A loader of data that a rule draws: it needs no files, and refuses a place where they should be."""

    def load(directory):
        if directory is not None:
            raise ValueError(f"data is {str(directory)!r}; this recipe's data is drawn by a rule, "
                             "and takes no files")
        return DataSet(draw, class_names)

    return load


DATA = {
    "moons": by_rule(lambda n, rng: (moons.make_moons(n, rng), None)),
    "shapes": by_rule(shapes.make_shapes, shapes.CLASS_NAMES),
    "colour-shapes": by_rule(shapes.make_colour_shapes, shapes.CLASS_NAMES),
    "fashion-mnist": load_fashion_mnist,
    # black margins make 32 x 32, which halves twice more
    "fashion-mnist-32": lambda directory: load_fashion_mnist(directory, padding=2),
    "points": own.load_points,
    "images": own.load_images,
}


def load_data(name, directory=None):
    """The DataSet called `name`, a key of DATA.

    directory is where its files lie; for Fashion-MNIST None looks in the usual places. Files are read once,
    and again when they have changed. Raises ValueError for an unknown name, bad files, or a directory given
    for data without files; OSError where none are found.
    """
    if name not in DATA:
        raise ValueError(f"data is {name!r}; it must be one of {', '.join(DATA)}")
    if directory is not None and not isinstance(directory, str | PathLike):
        raise ValueError(f"data is of type {type(directory).__name__}; it must be the path of a file or "
                         "folder: numpy.save writes an array to one")
    return load_version(name, directory, version(name, directory))


def version(name, directory):
    """What differs when the files of a data set are changed; None for data without files."""
    if name.startswith("fashion-mnist"):
        return fashion_mnist.version(directory)
    return own.version(directory) if name in ("points", "images") else None


@lru_cache(maxsize=8)
def load_version(name, directory, version):
    """load_data, kept for each version of the files."""
    return DATA[name](directory)
