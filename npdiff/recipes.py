"""Recipes: everything that defines a training run but its seed, by name."""

import math
from dataclasses import dataclass

from npdiff.models import mlp


@dataclass(frozen=True)
class Recipe:
    """One training run: data, network, noise schedule and optimiser."""
    name: str
    data: str
    model: mlp.Config
    schedule: str
    num_train_timesteps: int
    batch_size: int
    steps: int
    lr: float
    lr_schedule: str = "constant"
    ema_decay: float = 0.0
    variance: str = "posterior"


TEXTBOOK_MOONS = Recipe(
    name="textbook-moons", data="moons", model=mlp.Config(hidden=(128, 128), time_dim=16, max_period=math.exp(8)),
    schedule="linear", num_train_timesteps=200, batch_size=256, steps=3000, lr=1e-3, variance="beta")
MOONS = Recipe(
    name="moons", data="moons", model=mlp.Config(hidden=(128, 128, 128), time_dim=32, max_period=10000.0, fourier_features=16, fourier_scale=1.0),
    schedule="rescaled_linear", num_train_timesteps=200, batch_size=256, steps=20000, lr=2e-3, lr_schedule="cosine", ema_decay=0.999)
