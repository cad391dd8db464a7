"""npdiff: denoising diffusion from scratch in NumPy, every gradient derived by hand.

examples/00_moons.py is the whole path in one file. In the package read schedule, diffusion, nn, models.mlp,
optim, training, samplers, in this order. backends, verify, evaluation and app compute, check, measure and run
what these define.
"""

from npdiff import diffusion, samplers, schedule

__version__ = "0.1.0"
