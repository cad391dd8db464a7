"""Which function of a network's backward is the first that is wrong, on the way back.

One wrong formula spoils every gradient after it. So each function is asked alone: are the gradients that it
returned those of its own forward, for the dy that it was given? A function ends after those that it calls.
So the first to end with a wrong answer is the one to mend. It is a pair of npdiff.nn or, if all pairs are
right, the function of npdiff.models that joins them: a skip's gradient is not added, or two lines have the
wrong order.
"""

import re
import sys
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from npdiff import nn
from npdiff.models import MODELS, blocks, convnet, label_count, layers, mlp, model_name, unet
from npdiff.rng import generator
from npdiff.verify.gradcheck import check_model, is_float, is_wrong, norm_of_all
from npdiff.verify.pairs import as_tuple, place

# Small enough to check every gradient: labels, attention, both kinds of blocks, one and two in a stage.
TINY = replace(unet.SMALL, widths=(2, 4), groups=1, embedding_dim=3)
NETWORKS = {"mlp": [mlp.SMALL], "convnet": [convnet.SMALL],
            "unet": [TINY, replace(TINY, widths=(2, 2), block_kind="plain", blocks=2)]}


def check_network(config, seed):
    """check_model with random parameters, input, timesteps and labels. -> {name: (shape, errors)}

    Raises ValueError if a gradient is wrong, with the first function on the way back that is wrong.
    """
    name = model_name(config)
    model, rng = MODELS[name], generator(seed, "gradcheck")
    params = {key: array + 0.3 * rng.standard_normal(array.shape)       # also what starts at zero
              for key, array in model.init(config, rng).items()}
    x, t = rng.standard_normal((2, *config.data_shape)), rng.integers(1, 1001, 2)
    labels = rng.integers(0, label_count(config), 2) if label_count(config) else None

    def step():
        y, cache = model.forward(params, x, t, config, *([] if labels is None else [labels]))
        model.backward(rng.standard_normal(y.shape), cache, config)

    if call := first_wrong(model, step):
        raise ValueError(f"a gradient of {name} is wrong: the first wrong function on the way back is "
                         f"{call.name}{call.of and f', in {call.of}'} ({place(call.function)})")
    try:
        errors = check_model(model, config, params, x, t, rng, labels=labels)
    except Exception as error:
        raise ValueError(f"{name}: {error if isinstance(error, ValueError) else repr(error)}") from error
    for key in filter(lambda key: is_wrong(errors[key]), errors):
        raise ValueError(f"a gradient of {name} is wrong: that of {key} is off by {errors[key][0]:.0e}, "
                         "too little to say which function is wrong")
    return {key: (array.shape, errors[key]) for key, array in ({"x": x} | params).items()}


class Call(NamedTuple):
    """One call of a function: its arguments by name when it began, and what it returned."""
    name: str
    function: object
    of: str                     # the layer, block or stage that it was called for; "" for the whole network
    arguments: dict
    returned: object

    def is_backward(self):
        return self.name.endswith(("back", "backward"))

    def pair(self):
        """The same for a forward and its backward."""
        room, name = self.name.split(".")
        return room == "nn", re.sub("_?(forward|backward|back)$", "", name), self.of


def calls_in(model, step):
    """Call step(). -> a Call for each function of nn, layers, blocks and the model, by their ends.

    The interpreter's profiler tells of the calls, so no function has to know. A step that raises an error
    ends there: the functions that it was in return None.
    """
    functions = {function.__code__: (f"{room or function.__module__.split('.')[-1]}.{name}", function)
                 for room, module in (("nn", nn), ("", layers), ("", blocks), ("", model))
                 for name, function in vars(module).items() if hasattr(function, "__code__")}
    begun, ended = [], []

    def note(frame, event, returned):
        if frame.f_code not in functions or event not in ("call", "return"):
            return
        if event == "call":
            of = frame.f_locals.get("name", begun[-1][0] if begun else "")
            begun.append((of, {name: copied(value) for name, value in frame.f_locals.items()}))
            return
        of, arguments = begun.pop()
        before = arguments.get("grads", {})
        arguments["added"] = {name: copied(gradient) for name, gradient
                              in frame.f_locals.get("grads", {}).items() if name not in before}
        ended.append(Call(*functions[frame.f_code], of, arguments, copied(returned)))

    profile = sys.getprofile()
    sys.setprofile(note)
    try:
        step()
    except Exception:
        pass                    # what it was in is wrong, or check_model raises the same error
    finally:
        sys.setprofile(profile)
    return ended


def copied(value):
    """Arrays as they are now; a dict with what it holds now."""
    if isinstance(value, tuple):
        return tuple(map(copied, value))
    return value.copy() if isinstance(value, np.ndarray | dict) else value


def first_wrong(model, step):
    """The first Call of a backward to end with wrong gradients, or None."""
    calls = calls_in(model, step)
    forwards = {call.pair(): call for call in calls if not call.is_backward()}
    return next((call for call in calls if call.is_backward() and disagrees(forwards.get(call.pair()), call)),
                None)


def disagrees(forward, backward):
    """Whether a backward returned other gradients than its forward's, by the slope in a random direction.

    The direction moves all inputs and parameters at once. The slope is taken by complex step and, where that
    disagrees, also by difference, as a forward need not be analytic. A dy of another shape than y is the
    caller's mistake.
    """
    if forward is None:
        return False
    dy, y = next(iter(backward.arguments.values())), as_tuple(forward.returned)[0]
    if np.shape(dy) != np.shape(y):
        return False
    inputs = {name: x for name, x in forward.arguments.items() if isinstance(x, np.ndarray) and is_float(x)}
    params, grads = forward.arguments.get("params", {}), backward.arguments["added"]
    returned = [dx for dx in as_tuple(backward.returned) if isinstance(dx, np.ndarray)]
    gradients, point = dict(zip(inputs, returned)) | grads, inputs | params
    if len(returned) != len(inputs) or any(np.shape(gradient) != np.shape(point.get(name))
                                           for name, gradient in gradients.items()):
        return True
    rng = np.random.default_rng(0)
    v = {name: rng.standard_normal(x.shape) for name, x in point.items()}

    def L(h):
        moved = {name: x + h * v[name] for name, x in point.items()}
        changed = {name: moved[name] for name in inputs} | {"params": moved, "cache": {}}
        arguments = {name: changed.get(name, value) for name, value in forward.arguments.items()
                     if name != "added"}
        return (as_tuple(forward.function(**arguments))[0] * dy).sum()

    terms = {name: gradient * v[name] for name, gradient in gradients.items()}
    slope, size = sum(term.sum() for term in terms.values()), norm_of_all(terms) + np.linalg.norm(y * dy)
    try:
        if abs(L(1e-30j).imag / 1e-30 - slope) <= 1e-10 * size:
            return False
    except Exception:
        pass                    # it does not take complex numbers
    return not abs((L(1e-5) - L(-1e-5)) / 2e-5 - slope) <= 1e-5 * size
