"""What a data set is to the rest of the project."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class DataSet(NamedTuple):
    """Draws of clean data x_0, and what is known of it. The user's units are shift + scale x_0."""
    draw: Callable                          # draw(n, rng) -> x0 (n, ...), labels integers (n,) or None
    class_names: tuple[str, ...] = ()       # what the labels 0, 1, ... mean; () without labels
    digest: str | None = None               # SHA-256 of the content; None for data that a rule draws
    data_shape: tuple[int, ...] | None = None       # of one sample, where the file decides it, else None
    shift: np.ndarray | float = 0.0         # float or (D,)
    scale: np.ndarray | float = 1.0         # float or (D,)

