"""What several test files share."""

from dataclasses import replace

import pytest

from npdiff.backend import NumpyBackend
from npdiff.models import mlp
from npdiff.recipes import MOONS
from npdiff.rng import generator


@pytest.fixture
def tiny():
    """-> (denoiser, backend, recipe): a small untrained network of the moons family on 20 steps."""
    recipe = replace(MOONS, model=mlp.Config(hidden=(8, 8), time_dim=4, fourier_features=2), steps=20, batch_size=16)
    backend = NumpyBackend()
    return backend.make_denoiser(recipe.model, mlp.init(recipe.model, generator(0, "init")), recipe.ema_decay), backend, recipe
