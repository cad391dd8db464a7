"""npdiff: denoising diffusion from scratch in NumPy, every gradient derived by hand.

examples/00_moons.py is the whole path in one file. In the package read schedule, diffusion, nn, models.mlp,
optim, training, samplers, in this order. backends, verify, evaluation and app compute, check, measure and run
what these define.

    run = npdiff.train("moons", steps=2000)         a new run directory, runs/moons
    run = npdiff.load("runs/moons")                 one that is there
    run.sample(500), run.evaluate(), run.loss       arrays and numbers; run.samples_figure() shows itself
"""

from importlib import import_module

from npdiff import diffusion, samplers, schedule

__version__ = "0.1.0"
LAZY = {            # what a user finds here, imported when it is first used: (module, name in it)
    "nn": ("npdiff.nn", None),
    "models": ("npdiff.models", None),
    "gradcheck": ("npdiff.verify.gradcheck", None),
    "train": ("npdiff.app.run", "train"),
    "load": ("npdiff.app.run", "load"),
}


def __getattr__(name):
    if name not in LAZY:
        raise AttributeError(f"module 'npdiff' has no attribute {name!r}")
    module, entry = LAZY[name]
    return getattr(import_module(module), entry) if entry else import_module(module)


def __dir__():
    return sorted([*globals(), *LAZY])
