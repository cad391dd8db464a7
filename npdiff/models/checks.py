"""What is asked of every network's config, and the checks of configs and input."""

import math
from types import UnionType
from typing import get_args, get_origin, get_type_hints


def check_types(config):
    """Raise ValueError unless each field of a dataclass holds what its annotation says.

    A float must be finite, and an int will do for it. A bool is no number.
    """
    for name, kind in get_type_hints(type(config)).items():
        if not fits(value := getattr(config, name), kind):
            raise ValueError(f"{name} is {value!r}; it must be {getattr(kind, '__name__', kind)}")


def fits(value, kind):
    """Whether a value is of a kind: a type, a union of kinds, or tuple[kind, ...]."""
    if get_origin(kind) is UnionType:
        return any(fits(value, one) for one in get_args(kind))
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(fits(item, get_args(kind)[0]) for item in value)
    if kind is float:
        return fits(value, int) or isinstance(value, float) and math.isfinite(value)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def check_at_least(config, smallest, *names):
    """Raise ValueError unless these fields of a config are at least `smallest`."""
    for name in names:
        if getattr(config, name) < smallest:
            raise ValueError(f"{name} is {getattr(config, name)}; it must be at least {smallest}")


def check_time_dim(config):
    """Raise ValueError unless a config's time_dim is even."""
    if config.time_dim % 2:
        raise ValueError(f"time_dim is {config.time_dim}; it must be even: half sines, half cosines")


def check_image(x, config):
    """Raise ValueError unless x is a batch of images of the config's shape."""
    if x.shape[1:] != config.data_shape:
        raise ValueError(f"the images have shape {x.shape[1:]}; this network takes {config.data_shape}")


def is_image(config):
    """Whether the network is for images (N, C, H, W). Otherwise it is for points (N, D)."""
    return len(config.data_shape) == 3


def label_count(config):
    """How many labels the network knows: its classes and "no label", or 0 if it takes no labels."""
    classes = getattr(config, "classes", 0)
    return classes + 1 if classes else 0
