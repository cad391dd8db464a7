"""Networks: each module has a Config, init(config, rng) -> params, forward(params, x, t, config) -> y, cache and backward(dy, cache) -> dx, grads."""

from npdiff.models import mlp

MODELS = {"mlp": mlp}


def model_name(config):
    """The key of MODELS whose Config this is."""
    return next(name for name, module in MODELS.items() if isinstance(config, module.Config))
