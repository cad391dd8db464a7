"""Networks. Each module has a Config and three functions:

    init(config, rng) -> params
    forward(params, x, t, config, labels) -> y, cache
    backward(dy, cache, config) -> dx, grads

cache is a dict: under each layer's name it holds what the layer returned, its output and what its backward
needs. grads has the names of params. The layers by name are in layers.py, the blocks of image networks in
blocks.py.
"""

from npdiff.models import convnet, mlp, unet
from npdiff.models.checks import is_image, label_count

__all__ = ["MODELS", "convnet", "is_image", "label_count", "mlp", "model_name", "unet"]

MODELS = {"mlp": mlp, "convnet": convnet, "unet": unet}


def model_name(config):
    """The key of MODELS whose Config this is."""
    return next(name for name, module in MODELS.items() if isinstance(config, module.Config))
