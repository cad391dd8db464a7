"""Recipes: everything that defines a training run except its seed, by name."""

import math
from dataclasses import asdict, dataclass, fields, replace

from npdiff.data import DATA
from npdiff.diffusion import check_loss_weight, check_prediction_type, check_signal
from npdiff.models import MODELS, convnet, is_image, mlp, model_name, unet
from npdiff.models.checks import check_types
from npdiff.optim import learning_rate
from npdiff.samplers import SAMPLERS, check_variance
from npdiff.schedule import make_schedule

MAX_TIMESTEPS, MAX_BATCH = 100_000, 1_000_000


@dataclass(frozen=True)
class Recipe:
    """One training run: data, network, noise schedule, optimiser. Raises ValueError for wrong values."""
    name: str
    data: str                                           # a key of npdiff.data.DATA
    model: mlp.Config | convnet.Config | unet.Config    # the network's sizes
    # linear, rescaled_linear, scaled_linear, zero_snr_linear, cosine, sigmoid, karras or straight
    schedule: str
    num_train_timesteps: int                            # T
    batch_size: int                                     # samples in each step
    steps: int                                          # training steps
    lr: float                                           # Adam's step size; the peak of lr_schedule
    lr_schedule: str = "constant"                       # constant or cosine
    ema_decay: float = 0.0                              # of the averaged weights, for sampling; 0: none
    label_dropout: float = 0.0                          # share of labels hidden in training, for guidance
    prediction_type: str = "epsilon"                    # epsilon, sample, v_prediction, flow_prediction
    loss_weight: str = "simple"                         # simple, min_snr or vlb: what a timestep counts
    sampler: str = "ancestral"                          # how samples are drawn unless asked otherwise
    sampling_steps: int | None = None                   # jumps from noise to data; None: every timestep
    sampling_clip: float | None = None                  # hold each estimate of x_0 in [-clip, clip]
    variance: str = "posterior"                         # of the ancestral sampler: beta or posterior
    log_every: int = 100                                # steps that a row of metrics.csv takes together

    @property
    def conditional(self):
        """Whether the network is told the labels."""
        return getattr(self.model, "classes", 0) > 0

    def make_schedule(self):
        """The Schedule that the recipe names."""
        return make_schedule(self.schedule, self.num_train_timesteps)

    def __post_init__(self):
        check_types(self)
        for name, most in (("num_train_timesteps", MAX_TIMESTEPS), ("batch_size", MAX_BATCH)):
            if getattr(self, name) > most:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at most {most:,}")
        schedule = self.make_schedule()
        learning_rate(self.lr_schedule, 1, 1, self.lr)
        check_prediction_type(self.prediction_type)
        check_signal(schedule, self.prediction_type)
        check_loss_weight(self.loss_weight)
        check_variance(self.variance)
        if self.data not in DATA:
            raise ValueError(f"data is {self.data!r}; it must be one of {', '.join(DATA)}")
        if self.sampler not in SAMPLERS:
            raise ValueError(f"sampler is {self.sampler!r}; it must be one of {', '.join(SAMPLERS)}")
        if self.sampling_steps is not None and not 1 <= self.sampling_steps <= schedule.T:
            raise ValueError(f"sampling_steps is {self.sampling_steps}; it must lie in 1..{schedule.T}")
        if self.sampling_clip is not None and self.sampling_clip <= 0:
            raise ValueError(f"sampling_clip is {self.sampling_clip}; it must be a positive number")
        for name in ("steps", "batch_size", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise ValueError(f"lr is {self.lr}; it must be a positive number")
        for name in ("ema_decay", "label_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must lie in [0, 1)")


# A textbook's chapter on DDPM: two moons, T = 200, betas 1e-4 .. 0.02, a 18-128-128-2 network.
TEXTBOOK_MOONS = Recipe(
    name="textbook-moons", data="moons",
    model=mlp.Config(hidden=(128, 128), time_dim=16, max_period=math.exp(8)),
    schedule="linear", num_train_timesteps=200, variance="beta",
    batch_size=256, steps=3000, lr=1e-3)
MOONS = Recipe(
    name="moons", data="moons",
    model=mlp.Config(hidden=(128, 128, 128), time_dim=32, fourier_features=16),
    schedule="sigmoid", num_train_timesteps=200,
    batch_size=256, steps=20000, lr=2e-3, lr_schedule="cosine", ema_decay=0.999)

EPOCH = 469         # steps in which batches of 128 show as many images as Fashion-MNIST has

# The same textbook's Fashion-MNIST lab: three convolutions, T = 300.
LAB_FASHION = Recipe(
    name="lab-fashion", data="fashion-mnist",
    model=convnet.Config(features=64),
    schedule="linear", num_train_timesteps=300, variance="beta",
    batch_size=128, steps=8 * EPOCH, lr=2e-4, log_every=EPOCH)
# A lecture on DDPM as regression over the noise: 32 x 32 images, T = 600, a U-Net of 64-128-256 channels.
LECTURE_UNET = Recipe(
    name="lecture-unet", data="fashion-mnist-32",
    model=unet.Config(size=32, widths=(64, 128, 256), block_kind="plain", attention_levels=0),
    schedule="linear", num_train_timesteps=600, sampling_steps=100,
    batch_size=128, steps=25 * EPOCH, lr=1e-3, log_every=EPOCH)
FASHION = Recipe(
    name="fashion", data="fashion-mnist",
    model=unet.Config(widths=(32, 64, 128), classes=10),
    schedule="linear", num_train_timesteps=1000, sampling_steps=100, label_dropout=0.1,
    batch_size=64, steps=8500, lr=1e-3, lr_schedule="cosine", ema_decay=0.999)
SHAPES = Recipe(
    name="shapes", data="shapes",
    model=unet.Config(widths=(16, 32, 32), classes=8),
    schedule="rescaled_linear", num_train_timesteps=200, label_dropout=0.1,
    batch_size=32, steps=4000, lr=2e-3, lr_schedule="cosine", ema_decay=0.999)

COLOUR_SHAPES = replace(
    SHAPES, name="colour-shapes", data="colour-shapes", model=replace(SHAPES.model, channels=3))

# For your own data, given with --data. fitted sets the network's sizes that the data decides.
POINTS = replace(MOONS, name="points", data="points")
# A small network's samples of colour images drift out of [-1, 1] where x_0 is not held there.
IMAGES = replace(SHAPES, name="images", data="images", sampling_clip=1.0,
                 model=unet.Config(size=64, widths=(32, 64, 64)))

ALL = (MOONS, TEXTBOOK_MOONS, SHAPES, COLOUR_SHAPES, FASHION, LAB_FASHION, LECTURE_UNET, POINTS, IMAGES)
RECIPES = {recipe.name: recipe for recipe in ALL}


def get_recipe(name):
    """The recipe called `name`; a Recipe is returned as it is. Raises ValueError if there is none."""
    if isinstance(name, Recipe):
        return name
    if not isinstance(name, str) or name not in RECIPES:
        raise ValueError(f"recipe is {name!r}; it must be one of {', '.join(RECIPES)}")
    return RECIPES[name]


def varied(recipe, **changes):
    """The recipe with other values of its fields, or of its network's fields. Raises ValueError."""
    own, of_model = ([field.name for field in fields(config)] for config in (recipe, recipe.model))
    if unknown := [name for name in changes if name not in (*own, *of_model)]:
        raise ValueError(f"{', '.join(unknown)}: not known; the fields of a recipe are {', '.join(own)}, "
                         f"and those of its network {', '.join(of_model)}")
    model = {name: tuple(value) if isinstance(value, list) else value
             for name, value in changes.items() if name in of_model}
    changes = {name: value for name, value in changes.items() if name in own}
    return replace(recipe, **{"model": replace(recipe.model, **model)} | changes)


def fitted(recipe, data):
    """The recipe with the sizes of its network that a DataSet decides. Raises ValueError for other sizes.

    Only the recipes for your own data change: those of other data have the sizes already.
    """
    if data.data_shape is None:
        return recipe
    if is_image(recipe.model) != (len(data.data_shape) == 3):
        raise ValueError(f"a sample has the shape {data.data_shape}; {model_name(recipe.model)} takes others")
    sizes = {"data_dim": data.data_shape[0]}
    if is_image(recipe.model):
        C, H, _ = data.data_shape
        sizes = {"channels": C, "size": H, "classes": len(data.class_names)}
    unasked = get_recipe(recipe.name).model     # another size than this recipe's was asked for
    for name, size in sizes.items():
        if getattr(recipe.model, name) not in (size, getattr(unasked, name)):
            raise ValueError(f"{name} is {getattr(recipe.model, name)}; the data has {size}")
    return replace(recipe, model=replace(recipe.model, **sizes))


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
    """config_class(**values), with tuples for lists. Raises ValueError for names or types that do not fit."""
    known = {field.name for field in fields(config_class)}
    if unknown := set(values) - known:
        names = ", ".join(sorted(unknown))
        raise ValueError(f"{names}: not known; the fields are {', '.join(sorted(known))}")
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    try:
        return config_class(**values)
    except TypeError as error:
        raise ValueError(str(error)) from error
