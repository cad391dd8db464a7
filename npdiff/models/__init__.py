"""Networks. Each module has a Config, init(config, rng) -> params, forward(params, x, t, config, labels) ->
y, cache and backward(dy, cache) -> dx, grads.

cache is a dict: under each layer's name it holds what the layer returned, its output and what its backward
needs. grads has the names of params. The layers by name are in layers.py, the blocks of image networks in
blocks.py.
"""

from npdiff.models import convnet, mlp, unet

MODELS = {"mlp": mlp, "convnet": convnet, "unet": unet}


def model_name(config):
    """The key of MODELS whose Config this is."""
    return next(name for name, module in MODELS.items() if isinstance(config, module.Config))


def is_image(config):
    """Whether the network is for images (N, C, H, W). Otherwise it is for points (N, D)."""
    return len(config.data_shape) == 3


def label_count(config):
    """How many labels the network knows: its classes and "no label", or 0 if it takes no labels."""
    classes = getattr(config, "classes", 0)
    return classes + 1 if classes else 0
