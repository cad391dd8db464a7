"""Planted errors: the ways in which hand-derived gradients go wrong, one list for all who need wrong code.

The list is mutants.toml. Every entry replaces a text that stands once in a file of the package. `test` is a
test that then fails, `says` the function that `npdiff gradcheck` names.
"""

import importlib
import tomllib
from contextlib import contextmanager
from pathlib import Path
from types import FunctionType
from typing import NamedTuple

PACKAGE = Path(__file__).parents[1]


class Mutant(NamedTuple):
    """One planted error, with the keys of its entry in mutants.toml."""
    name: str
    file: str                   # in the package, such as nn/linear.py
    old: str                    # what is right
    new: str                    # what stands there instead
    test: str                   # a pytest node
    says: str                   # a pair's backward, or module.function of npdiff.models


def load_mutants():
    """Every Mutant of mutants.toml, in its order."""
    entries = tomllib.loads((PACKAGE / "verify" / "mutants.toml").read_text())["mutant"]
    return [Mutant(**entry) for entry in entries]


def mutated(mutant, source):
    """The text of the mutant's file with the error in it. Raises ValueError unless `old` is in it once."""
    if source.count(mutant.old) != 1:
        raise ValueError(f"{mutant.old!r} of mutant {mutant.name} is {source.count(mutant.old)} times in "
                         f"{mutant.file}; it must be there once")
    return source.replace(mutant.old, mutant.new)


@contextmanager
def planted(mutant):
    """Within, the functions of the running package have the error. No file is written."""
    path = PACKAGE / mutant.file
    module = importlib.import_module("npdiff." + mutant.file.removesuffix(".py").replace("/", "."))
    wrong = {"__name__": module.__name__}
    exec(compile(mutated(mutant, path.read_text()), str(path), "exec"), wrong)
    right = {function: function.__code__ for function in vars(module).values()
             if isinstance(function, FunctionType) and function.__module__ == module.__name__}
    try:
        for function in right:
            function.__code__ = wrong[function.__name__].__code__
        yield
    finally:
        for function, code in right.items():
            function.__code__ = code
