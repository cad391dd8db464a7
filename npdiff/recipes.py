"""Recipes: everything that defines a training run except its seed, by name."""

import math
from dataclasses import asdict, dataclass, fields

from npdiff.data import DATA
from npdiff.diffusion import check_prediction_type
from npdiff.models import MODELS, mlp, model_name
from npdiff.optim import learning_rate
from npdiff.samplers import check_variance
from npdiff.schedule import make_schedule


@dataclass(frozen=True)
class Recipe:
    """One training run: data, network, noise schedule, optimiser. Raises ValueError for values that cannot be trained."""
    name: str
    data: str
    """A key of npdiff.data.DATA."""
    model: mlp.Config
    schedule: str
    """A key of npdiff.schedule.SCHEDULES."""
    num_train_timesteps: int
    batch_size: int
    steps: int
    lr: float
    """Adam's step size; the peak of lr_schedule."""
    lr_schedule: str = "constant"
    ema_decay: float = 0.0
    """Decay of the weights' average that samples are drawn with; 0 keeps none."""
    prediction_type: str = "epsilon"
    """What the network predicts: epsilon, sample or v_prediction."""
    variance: str = "posterior"
    """The variance of the ancestral sampler, beta or posterior."""

    def __post_init__(self):
        make_schedule(self.schedule, self.num_train_timesteps)
        learning_rate(self.lr_schedule, 1, 1, self.lr)
        check_prediction_type(self.prediction_type)
        check_variance(self.variance)
        if self.data not in DATA:
            raise ValueError(f"data is {self.data!r}; it must be one of {', '.join(DATA)}")
        for name in ("steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise ValueError(f"lr is {self.lr}; it must be a positive number")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay is {self.ema_decay}; it must lie in [0, 1)")


TEXTBOOK_MOONS = Recipe(
    name="textbook-moons", data="moons", model=mlp.Config(hidden=(128, 128), time_dim=16, max_period=math.exp(8)),
    schedule="linear", num_train_timesteps=200, batch_size=256, steps=3000, lr=1e-3, variance="beta")
MOONS = Recipe(
    name="moons", data="moons", model=mlp.Config(hidden=(128, 128, 128), time_dim=32, fourier_features=16),
    schedule="rescaled_linear", num_train_timesteps=200, batch_size=256, steps=20000, lr=2e-3, lr_schedule="cosine", ema_decay=0.999)

RECIPES = {recipe.name: recipe for recipe in (MOONS, TEXTBOOK_MOONS)}


def get_recipe(name):
    """The recipe called `name`. Raises ValueError if there is none."""
    if name not in RECIPES:
        raise ValueError(f"recipe is {name!r}; it must be one of {', '.join(RECIPES)}")
    return RECIPES[name]


def recipe_to_dict(recipe):
    """The recipe as a JSON-ready dict; the network's entry names its module."""
    return asdict(recipe) | {"model": {"name": model_name(recipe.model)} | asdict(recipe.model)}


def recipe_from_dict(values):
    """The recipe that recipe_to_dict described. Raises ValueError for missing, unknown or refused values."""
    values = dict(values)
    model = dict(values.pop("model", {}))
    name = model.pop("name", None)
    if name not in MODELS:
        raise ValueError(f"model name is {name!r}; it must be one of {', '.join(MODELS)}")
    return construct(Recipe, values | {"model": construct(MODELS[name].Config, model)})


def construct(config_class, values):
    """config_class(**values), its tuples restored from JSON lists. Raises ValueError where names or types do not fit."""
    known = {field.name for field in fields(config_class)}
    if unknown := set(values) - known:
        raise ValueError(f"{', '.join(sorted(unknown))}: not known; the fields are {', '.join(sorted(known))}")
    try:
        return config_class(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})
    except TypeError as error:
        raise ValueError(str(error)) from error
