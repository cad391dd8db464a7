"""A number that remembers which numbers made it. Arrays of it go through the engine like arrays of floats.

An object array hands every operator, and every np.exp, np.sin ..., to its elements. So the functions that
train compute with Numbers too, and what comes out knows its way back to the data and the weights.
"""

import math
import operator
from contextlib import ExitStack, contextmanager
from itertools import count
from types import SimpleNamespace
from unittest import mock

import numpy as np

from npdiff import diffusion, optim, schedule
from npdiff.nn import embedding

MADE = count()


class Number:
    """A float, the operation that made it, and the Numbers that this took (its parents).

    op is one of  given constant + - * / neg ^k sqrt exp log sin cos tanh,  k an exponent as Python writes it.
    order counts the Numbers as they are made: parents come before what they make.
    """

    __slots__ = ("value", "op", "parents", "name", "order")

    def __init__(self, value, op="given", parents=(), name=None):
        self.value, self.op, self.parents, self.name = float(value), op, parents, name
        self.order = next(MADE)

    def __pow__(self, exponent):
        return Number(self.value ** exponent, f"^{exponent!r}", (self,))

    def __neg__(self):
        return Number(-self.value, "neg", (self,))

    def __float__(self):
        return self.value

    def __repr__(self):
        return f"{self.value:.4g}"

    def conjugate(self):
        """Itself: np.conj and complex products ask for it."""
        return self


def function(name):
    """math.NAME as a method: NumPy calls it for np.NAME of an object array."""
    return lambda a: Number(getattr(math, name)(a.value), name, (a,))


def operation(op, compute):
    """An operator of two numbers as a method. An array answers for itself."""
    def method(a, b):
        if isinstance(b, np.ndarray):
            return NotImplemented
        a, b = lifted(a), lifted(b)
        return Number(compute(a.value, b.value), op, (a, b))

    return method


def comparison(compare):
    """A comparison as a method. It is no part of any sum."""
    return lambda a, b: compare(float(a), float(b))


for name in ("sqrt", "exp", "log", "sin", "cos", "tanh"):
    setattr(Number, name, function(name))
for op, name in {"+": "add", "-": "sub", "*": "mul", "/": "truediv"}.items():
    method = operation(op, getattr(operator, name))
    setattr(Number, f"__{name}__", method)
    setattr(Number, f"__r{name}__", lambda a, b, method=method: method(b, a))
for name in ("lt", "gt", "le", "ge"):
    setattr(Number, f"__{name}__", comparison(getattr(operator, name)))


def lifted(x):
    """x as a Number: a number that stands in the code is a constant."""
    return x if isinstance(x, Number) else Number(x, "constant")


def numbers(array, name):
    """An array as an object array of given Numbers, each with its name and index: "x0[0,1]"."""
    array = np.asarray(array)
    made = np.empty(array.shape, object)
    for index in np.ndindex(array.shape):
        made[index] = Number(array[index], name=indexed(name, index))
    return made


def indexed(name, index):
    """The name of one element of an array; of a scalar, the name alone."""
    return f"{name}[{','.join(map(str, index))}]" if index else name


def values(array):
    """An object array of Numbers as float64."""
    return np.asarray(array).astype(np.float64)


class LikeFloat(type):
    """The type of KeptFloat: what it does when it is called, and which values are its instances."""

    def __call__(cls, x):
        return x if isinstance(x, Number) else float(x)

    def __instancecheck__(cls, x):
        return isinstance(x, float | Number)


class KeptFloat(metaclass=LikeFloat):
    """Stands for float where a Number shall stay one."""


@contextmanager
def kept():
    """Within, no Number becomes a float on its way through the engine.

    The engine makes floats of its coefficients: float(x), math.sqrt(x), an array as np.float64. Where it
    reads these names it finds here ones that let a Number pass; every line of its code stays as it is. The
    frequencies of the timestep's embedding become given Numbers.
    """
    def kept_sqrt(x):
        return x.sqrt() if isinstance(x, Number) else math.sqrt(x)

    def frequencies(dim, max_period, original=embedding.frequencies):
        return numbers(original(dim, max_period), "time.w")

    kept_np = SimpleNamespace(**vars(np) | {"float64": object})
    kept_math = SimpleNamespace(**vars(math) | {"sqrt": kept_sqrt})
    with ExitStack() as stack:
        for module, name, stand_in in (
            (schedule, "float", KeptFloat), (diffusion, "float", KeptFloat), (schedule, "np", kept_np),
            (embedding, "np", kept_np), (embedding, "frequencies", frequencies), (optim, "math", kept_math),
        ):
            stack.enter_context(mock.patch.object(module, name, stand_in, create=True))
        yield
