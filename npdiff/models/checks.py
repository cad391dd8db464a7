"""What is asked of every network's config, and the checks of configs and input."""

import math
from numbers import Real
from types import NoneType, UnionType
from typing import get_args, get_origin, get_type_hints

from npdiff.schedule import whole

WORDS = {int: "an integer", float: "a finite number", str: "text", bool: "True or False", NoneType: "None",
         tuple[int, ...]: "a list of integers"}


def check_types(config):
    """Raise ValueError unless each field of a dataclass holds what its annotation says.

    A float must be finite; a bool is no number. Integers of any kind become ints, numbers floats, and lists
    tuples, because a file of settings knows no others.
    """
    for name, kind in get_type_hints(type(config)).items():
        value = getattr(config, name)
        if (taken := of_kind(value, kind)) is None and (value is not None or NoneType not in get_args(kind)):
            raise ValueError(f"{name} is {value!r}; it must be {in_words(kind)}")
        object.__setattr__(config, name, taken)


def of_kind(value, kind):
    """The value as this kind: a type, a union, or tuple[kind, ...]. None where it is of another kind."""
    if get_origin(kind) is UnionType:
        return next((taken for one in get_args(kind) if (taken := of_kind(value, one)) is not None), None)
    if get_origin(kind) is tuple:
        values = value if isinstance(value, tuple | list) else [None]
        items = [of_kind(item, get_args(kind)[0]) for item in values]
        return None if None in items else tuple(items)
    if kind is int:
        return whole(value)
    if kind is float:
        number = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
        return float(value) if number else None
    return value if isinstance(value, kind) else None


def in_words(kind):
    """What an annotation asks for."""
    either = " or ".join(map(in_words, get_args(kind))) if get_origin(kind) is UnionType else None
    return WORDS.get(kind) or either or f"a {kind.__module__}.{kind.__name__}"


def check_at_least(config, smallest, *names):
    """Raise ValueError unless these fields of a config are at least `smallest`."""
    for name in names:
        if getattr(config, name) < smallest:
            raise ValueError(f"{name} is {getattr(config, name)}; it must be at least {smallest}")


def check_widths(config, name):
    """Raise ValueError unless this field of a config holds at least one number, each at least 1."""
    values = getattr(config, name)
    if not values or min(values) < 1:
        raise ValueError(f"{name} is {values}; it must hold at least one number, each at least 1")


def check_time(config):
    """Raise ValueError unless a config's time_dim is even and at least 2, and its max_period positive."""
    check_at_least(config, 1, "time_dim")
    if config.time_dim % 2:
        raise ValueError(f"time_dim is {config.time_dim}; it must be even: half sines, half cosines")
    check_positive(config, "max_period")


def check_positive(config, *names):
    """Raise ValueError unless these fields of a config are above 0."""
    for name in names:
        if getattr(config, name) <= 0:
            raise ValueError(f"{name} is {getattr(config, name)}; it must be a positive number")


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
