"""Data sets: draws of clean data x_0."""

from npdiff.data.moons import make_moons

DATA = {"moons": make_moons}        # name -> function (n, rng) -> x0 (n, ...) float64
