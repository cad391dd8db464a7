"""Recipes: everything that defines a training run except its seed, by name."""

import math
from dataclasses import asdict, dataclass, fields

from npdiff.data import DATA
from npdiff.diffusion import check_loss_weight, check_prediction_type, check_signal
from npdiff.models import MODELS, convnet, mlp, model_name, unet
from npdiff.optim import learning_rate
from npdiff.samplers import check_variance
from npdiff.schedule import make_schedule


@dataclass(frozen=True)
class Recipe:
    """One training run: data, network, noise schedule, optimiser. Raises ValueError for values that cannot be trained."""
    name: str
    data: str
    """A key of npdiff.data.DATA."""
    model: mlp.Config | convnet.Config | unet.Config
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
    label_dropout: float = 0.0
    """The share of labels that a conditional network is not told, so that it also learns to do without (Ho and Salimans 2022)."""
    prediction_type: str = "epsilon"
    """What the network predicts: epsilon, sample, v_prediction or flow_prediction."""
    loss_weight: str = "simple"
    """How much each timestep's error counts: simple, min_snr or vlb."""
    variance: str = "posterior"
    """The variance of the ancestral sampler, beta or posterior."""
    log_every: int = 100
    """Steps that a row of metrics.csv takes together."""

    @property
    def conditional(self):
        """Whether the network is told the labels."""
        return getattr(self.model, "classes", 0) > 0

    def make_schedule(self):
        """The Schedule that the recipe names."""
        return make_schedule(self.schedule, self.num_train_timesteps)

    def __post_init__(self):
        schedule = self.make_schedule()
        learning_rate(self.lr_schedule, 1, 1, self.lr)
        check_prediction_type(self.prediction_type)
        check_signal(schedule, self.prediction_type)
        check_loss_weight(self.loss_weight)
        check_variance(self.variance)
        if self.data not in DATA:
            raise ValueError(f"data is {self.data!r}; it must be one of {', '.join(DATA)}")
        for name in ("steps", "batch_size", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise ValueError(f"lr is {self.lr}; it must be a positive number")
        for name in ("ema_decay", "label_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must lie in [0, 1)")


TEXTBOOK_MOONS = Recipe(
    name="textbook-moons", data="moons", model=mlp.Config(hidden=(128, 128), time_dim=16, max_period=math.exp(8)),
    schedule="linear", num_train_timesteps=200, batch_size=256, steps=3000, lr=1e-3, variance="beta")
MOONS = Recipe(
    name="moons", data="moons", model=mlp.Config(hidden=(128, 128, 128), time_dim=32, fourier_features=16),
    schedule="sigmoid", num_train_timesteps=200, batch_size=256, steps=20000, lr=2e-3, lr_schedule="cosine", ema_decay=0.999)

EPOCH = 469         # steps in which batches of 128 show as many images as Fashion-MNIST has
LAB_FASHION = Recipe(
    name="lab-fashion", data="fashion-mnist", model=convnet.Config(features=64),
    schedule="linear", num_train_timesteps=300, batch_size=128, steps=8 * EPOCH, lr=2e-4, variance="beta", log_every=EPOCH)
LECTURE_UNET = Recipe(
    name="lecture-unet", data="fashion-mnist-32", model=unet.Config(size=32, widths=(64, 128, 256), block_kind="plain", attention_levels=0),
    schedule="linear", num_train_timesteps=600, batch_size=128, steps=25 * EPOCH, lr=1e-3, log_every=EPOCH)
FASHION = Recipe(
    name="fashion", data="fashion-mnist", model=unet.Config(widths=(32, 64, 128), classes=10),
    schedule="linear", num_train_timesteps=1000, batch_size=64, steps=8500, lr=1e-3, lr_schedule="cosine", ema_decay=0.999, label_dropout=0.1)
SHAPES = Recipe(
    name="shapes", data="shapes", model=unet.Config(widths=(16, 32, 32), classes=8),
    schedule="rescaled_linear", num_train_timesteps=200, batch_size=32, steps=4000, lr=2e-3, lr_schedule="cosine", ema_decay=0.999, label_dropout=0.1)

RECIPES = {recipe.name: recipe for recipe in (MOONS, TEXTBOOK_MOONS, SHAPES, FASHION, LAB_FASHION, LECTURE_UNET)}


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
