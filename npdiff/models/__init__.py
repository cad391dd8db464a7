"""Networks: each module has a Config, init(config, rng) -> params, forward(params, x, t, config) -> y, cache and backward(dy, cache) -> dx, grads.

Image networks take labels as a last, optional argument of forward. Their blocks are in blocks.py.
"""

from npdiff.models import convnet, mlp, unet

MODELS = {"mlp": mlp, "convnet": convnet, "unet": unet}


def model_name(config):
    """The key of MODELS whose Config this is."""
    return next(name for name, module in MODELS.items() if isinstance(config, module.Config))
