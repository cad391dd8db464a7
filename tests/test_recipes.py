"""Recipes: they come back from JSON, they have the published sizes, and wrong values are refused."""

import json
from dataclasses import replace

import pytest

from npdiff.models import MODELS, model_name
from npdiff.recipes import (
    LAB_FASHION,
    LECTURE_UNET,
    MOONS,
    RECIPES,
    get_recipe,
    recipe_from_dict,
    recipe_to_dict,
)
from npdiff.rng import generator


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_comes_back_from_json(name):
    recipe = get_recipe(name)
    assert recipe_from_dict(json.loads(json.dumps(recipe_to_dict(recipe)))) == recipe


def test_the_moons_end_in_noise():
    assert MOONS.make_schedule().alpha_bar[-1] < 1e-4


def test_networks_as_published():
    """LAB_FASHION is a textbook's lab: three convolutions on Fashion-MNIST, T = 300. LECTURE_UNET is from a
    lecture: a U-Net for images of 32 x 32, T = 600.
    """
    model = LAB_FASHION.model
    params = MODELS[model_name(model)].init(model, generator(0, "init"))
    assert sum(array.size for array in params.values()) == 46_465
    assert LAB_FASHION.steps == 8 * 469 and LAB_FASHION.batch_size == 128
    model = LECTURE_UNET.model
    assert model.data_shape == (1, 32, 32) and model.widths == (64, 128, 256)
    assert LECTURE_UNET.steps == 25 * 469


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("steps", 0, "steps is 0"),
        ("steps", -3, "steps is -3"),
        ("batch_size", 0, "batch_size is 0"),
        ("lr", 0.0, "lr is 0.0"),
        ("lr", float("nan"), "lr is nan"),
        ("num_train_timesteps", 1, "num_train_timesteps is 1"),
        ("schedule", "x", "schedule is 'x'"),
        ("data", "suns", "data is 'suns'"),
        ("lr_schedule", "x", "lr_schedule is 'x'"),
        ("ema_decay", 1.0, "ema_decay is 1.0"),
        ("variance", "x", "variance is 'x'"),
        ("prediction_type", "x", "prediction_type is 'x'"),
    ],
)
def test_recipe_refuses(field, value, message):
    with pytest.raises(ValueError, match=message):
        replace(MOONS, **{field: value})


def test_unknown_recipe():
    with pytest.raises(ValueError, match="recipe is 'suns'; it must be one of moons, textbook-moons, shapes"):
        get_recipe("suns")
