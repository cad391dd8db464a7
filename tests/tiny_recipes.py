"""Recipes that train in a moment."""

from dataclasses import replace

from npdiff.models import mlp, unet
from npdiff.recipes import MOONS, SHAPES

TINY_MOONS = replace(
    MOONS,
    model=mlp.Config(hidden=(8, 8), time_dim=4, fourier_features=2),
    steps=20,
    batch_size=16,
)
TINY_SHAPES = replace(
    SHAPES,
    model=unet.Config(widths=(4, 8), groups=2, heads=2, time_dim=4, embedding_dim=8, classes=8),
    num_train_timesteps=10,
    schedule="linear",
    steps=3,
    batch_size=10,
)


def moved(denoiser, rng):
    """The same denoiser, each parameter moved off its start value: at the start whole branches are zero."""
    denoiser.theta += 0.05 * rng.standard_normal(denoiser.theta.shape)
    return denoiser
