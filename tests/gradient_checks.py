"""What the tests of gradients share: random parameters, planted errors, and the errors allowed."""

from types import SimpleNamespace

from npdiff.models import MODELS, model_name
from npdiff.verify.gradcheck import ELEMENT, TENSOR

CASES = 200                             # random shapes of each pair


def random_params(config, rng, scale=0.3):
    """Parameters of a network, by name: the initial ones plus normal noise, because zeros hide errors."""
    params = MODELS[model_name(config)].init(config, rng)
    return {name: array + scale * rng.standard_normal(array.shape) for name, array in params.items()}


def labelled(model, labels):
    """The model as one that takes no labels: its forward is called with these."""

    def forward(params, x, t, config):
        return model.forward(params, x, t, config, labels)

    return SimpleNamespace(forward=forward, backward=model.backward)


def spoilt(model, name, spoil):
    """The model with one wrong gradient: `spoil` changes the one of parameter `name`, or of the input "x"."""

    def backward(dy, cache, config):
        dx, grads = model.backward(dy, cache, config)
        gradients = {"x": dx} | grads
        gradients[name] = spoil(gradients[name])
        return gradients.pop("x"), gradients

    return SimpleNamespace(forward=model.forward, backward=backward)


def assert_exact(errors, *where):
    """Every error of a check is within TENSOR and ELEMENT. `where` is printed if one is not."""
    for name, (tensor, element) in errors.items():
        assert tensor <= TENSOR and element <= ELEMENT, (*where, name, tensor, element)


def worst(errors):
    """The largest tensor error of a check."""
    return max(tensor for tensor, _ in errors.values())


def wrong_tensors(errors):
    """The names of the tensors whose error is above TENSOR."""
    return [name for name, (tensor, _) in errors.items() if tensor > TENSOR]
