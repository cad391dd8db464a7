"""Fashion-MNIST for the tests: where the real files lie, and small files in the same format."""

import os
from pathlib import Path

import numpy as np
import pytest

REAL = Path(os.environ.get("NPDIFF_DATA") or Path(__file__).parents[2] / "shared" / "data" / "fashion-mnist")
NO_DATA = f"no Fashion-MNIST at {REAL}; set NPDIFF_DATA to a directory that holds it"
needs_data = pytest.mark.skipif(not REAL.is_dir(), reason=NO_DATA)

IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"       # the names of two of the files


def idx(array):
    """The content of an IDX file that holds this array of bytes."""
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return header + array.astype(np.uint8).tobytes()


def random_set(n=5, seed=0):
    """n random images and labels: (n, 28, 28) uint8, (n,) uint8."""
    rng = np.random.default_rng(seed)
    return rng.integers(256, size=(n, 28, 28), dtype=np.uint8), rng.integers(10, size=n, dtype=np.uint8)


def write_set(directory, images, labels, suffix="", prefix="train"):
    """Write the bytes of an image file and of a label file into a directory. None: that file is not written.

    Returns the directory.
    """
    for name, content in ((f"{prefix}-images-idx3-ubyte", images), (f"{prefix}-labels-idx1-ubyte", labels)):
        if content is not None:
            (directory / (name + suffix)).write_bytes(content)
    return directory
