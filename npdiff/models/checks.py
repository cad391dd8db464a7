"""What is asked of every network's config, and the checks of configs and input."""

import math
from numbers import Real

from npdiff.schedule import whole


def check_at_least(config, smallest, *names):
    """Raise ValueError unless these fields of a config are integers of at least `smallest`."""
    for name in names:
        value = getattr(config, name)
        if whole(value) is None or whole(value) < smallest:
            raise ValueError(f"{name} is {value!r}; it must be an integer of at least {smallest}")
        object.__setattr__(config, name, whole(value))      # a file of settings knows Python's ints only


def check_widths(config, name):
    """Raise ValueError unless this field of a config holds at least one integer, each at least 1."""
    values = getattr(config, name)
    ints = [whole(value) for value in values] if isinstance(values, (tuple, list)) else []
    if not ints or None in ints or min(ints) < 1:
        raise ValueError(f"{name} is {values!r}; it must be a tuple of at least one integer, each at least 1")
    object.__setattr__(config, name, tuple(ints))


def check_positive(config, *names):
    """Raise ValueError unless these fields of a config are finite numbers above 0."""
    for name in names:
        value = getattr(config, name)
        if isinstance(value, bool) or not isinstance(value, Real) or not 0 < value < math.inf:
            raise ValueError(f"{name} is {value!r}; it must be a positive number")


def check_time(config):
    """Raise ValueError unless a config's time_dim is even and at least 2, and its max_period positive."""
    check_at_least(config, 1, "time_dim")
    check_positive(config, "max_period")
    if config.time_dim % 2:
        raise ValueError(f"time_dim is {config.time_dim}; it must be even: half sines, half cosines")


def check_image(x, config):
    """Raise ValueError unless x is a batch of images of the config's shape."""
    if tuple(x.shape[1:]) != config.data_shape:
        raise ValueError(f"the images have shape {x.shape[1:]}; this network takes {config.data_shape}")


def is_image(config):
    """Whether the network is for images (N, C, H, W). Otherwise it is for points (N, D)."""
    return len(config.data_shape) == 3


def label_count(config):
    """How many labels the network knows: its classes and "no label", or 0 if it takes no labels."""
    classes = getattr(config, "classes", 0)
    return classes + 1 if classes else 0
