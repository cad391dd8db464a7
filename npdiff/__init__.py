"""npdiff: denoising diffusion from scratch in NumPy, every gradient derived by hand.

Read the rooms in this order: schedule, diffusion, nn, models.mlp, optim, training, samplers.
"""

from npdiff import diffusion, samplers, schedule

__version__ = "0.1.0"
