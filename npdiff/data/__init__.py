"""Data sets: draws of clean data x_0, with labels where the data has them."""

from functools import lru_cache

import numpy as np

from npdiff.data import fashion_mnist, moons, shapes


def load_moons(directory):
    """The two moons, without labels; they need no files."""
    return lambda n, rng: (moons.make_moons(n, rng), None)


def load_shapes(directory):
    """The procedural shapes; they need no files."""
    return shapes.make_shapes


def load_colour_shapes(directory):
    """The procedural shapes, each in one colour; they need no files."""
    return shapes.make_colour_shapes


def load_fashion_mnist(directory, padding=0):
    """Fashion-MNIST's training images, drawn with replacement, with `padding` black pixels around them."""
    images, labels = fashion_mnist.load_bytes("train", directory)      # (60000, 28, 28) bytes, (60000,)

    def draw(n, rng):
        rows = rng.integers(0, len(images), n)
        x0 = fashion_mnist.to_float(images[rows])  # (n, 1, 28, 28)
        margins = [(0, 0), (0, 0), (padding, padding), (padding, padding)]
        return np.pad(x0, margins, constant_values=-1), labels[rows]

    return draw


DATA = {
    "moons": load_moons,
    "shapes": load_shapes,
    "colour-shapes": load_colour_shapes,
    "fashion-mnist": load_fashion_mnist,
    # black margins make 32 x 32, which halves twice more
    "fashion-mnist-32": lambda directory: load_fashion_mnist(directory, padding=2),
}
CLASS_NAMES = {"shapes": shapes.CLASS_NAMES, "colour-shapes": shapes.CLASS_NAMES,
               "fashion-mnist": fashion_mnist.CLASS_NAMES, "fashion-mnist-32": fashion_mnist.CLASS_NAMES}


def load_data(name, directory=None):
    """The data set called `name`, a key of DATA: a function draw(n, rng) -> x0 (n, ...), labels (n,) or None.

    directory is where its files lie; None looks in the usual places. They are read once, and again when they
    have changed. Raises ValueError for an unknown name or bad files, OSError where none are found.
    """
    if name not in DATA:
        raise ValueError(f"data is {name!r}; it must be one of {', '.join(DATA)}")
    return load_version(name, directory, version(name, directory))


def version(name, directory):
    """What differs when the files of a data set are changed; None for data without files."""
    return fashion_mnist.version(directory) if has_files(name) else None


def has_files(name):
    """Whether a data set is read from files in the format of Fashion-MNIST."""
    return name.startswith("fashion-mnist")


@lru_cache(maxsize=8)
def load_version(name, directory, version):
    """load_data, kept for each version of the files."""
    return DATA[name](directory)


@lru_cache(maxsize=8)
def digest_of_version(directory, version):
    """fashion_mnist.digest, kept for each version of the files."""
    return fashion_mnist.digest(directory)


def data_digest(name, directory=None):
    """What the files of a data set hold, a string that differs for other content; None for data without
    files. Errors as those of load_data.
    """
    return digest_of_version(directory, version(name, directory)) if has_files(name) else None


def is_real(name, digest):
    """Whether data_digest says that the files are those that the data set is named after."""
    return not has_files(name) or digest == fashion_mnist.real_digest()


def class_names(name, digest):
    """The names of the classes; the labels 0..9 where the files, by data_digest, are not Fashion-MNIST's."""
    names = CLASS_NAMES[name]
    return names if is_real(name, digest) else tuple(map(str, range(len(names))))
