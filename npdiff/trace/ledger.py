"""The gradient ledger: one real training step and one sampling step of a tiny network, number by number.

The functions that train compute on arrays of Numbers. The interpreter's profiler tells when each ends, with
its variables. So the ledger knows every result by its name, the function that made it, the equation, the
derivation and the code, and from the Numbers themselves what each was made of.
"""

import inspect
import sys
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import NamedTuple
from unittest import mock

import numpy as np

from npdiff import diffusion, nn, optim
from npdiff.backends import load_backend
from npdiff.models import layers, mlp
from npdiff.models.checks import of_kind
from npdiff.recipes import Recipe
from npdiff.rng import generator
from npdiff.samplers import ancestral, to_x0_eps
from npdiff.schedule import Schedule
from npdiff.trace.number import Number, indexed, kept, lifted, numbers, values
from npdiff.trace.source import Line, code_lines, equations
from npdiff.training import Batch, draw_block
from npdiff.verify.gradcheck import central_difference, complex_step, tensor_error

# One point, two coordinates, one sine and one cosine of the timestep, three hidden units.
TINY = Recipe(name="tiny", data="moons", model=mlp.Config(hidden=(3,), time_dim=2), schedule="cosine",
              num_train_timesteps=10, batch_size=1, steps=1, lr=0.01)
LARGEST = 100.0         # of a coordinate


def usual_adam(p, m, v, step, lr, beta1, beta2, eps):
    """Adam's new parameter in the usual form, with corrected copies of m and v. p stays as it is.

        m_hat = m / (1 - beta1^step)
        v_hat = v / (1 - beta2^step)
        p = p - lr m_hat / (sqrt(v_hat) + eps)
    """
    m_hat = m / (1 - beta1 ** step)
    v_hat = v / (1 - beta2 ** step)
    return p - lr * m_hat / (v_hat ** 0.5 + eps)


class Told(NamedTuple):
    """How the ledger tells of a function that is no layer."""
    title: str
    name: str               # of its result in the ledger
    symbol: str             # of its result in its docstring


TOLD = {
    diffusion.q_sample: Told("noise is added to the point", "x_t", "x_t"),
    diffusion.prediction_target: Told("what the network should answer", "target", "target"),
    nn.mse_forward: Told("the loss", "loss", "loss"),
    nn.mse_backward: Told("the gradient of the loss with respect to the answer", "loss.dy", "dy"),
    optim.adam: Told("Adam", "new", "p"),
    usual_adam: Told("Adam in the usual form", "usual", "p"),
    diffusion.x0_from_prediction: Told("the clean point that the answer stands for", "x0_hat", "x_0"),
    diffusion.eps_from_x0: Told("the noise that belongs to it (not used here)", "eps_hat", "eps"),
    diffusion.posterior_mean: Told("the mean of the next point", "mean", "mean"),
    diffusion.posterior_variance: Told("the variance of the next point", "variance", "variance"),
}
LAYERS = [function for function in vars(nn).values() if callable(function)]


class Result(NamedTuple):
    """One array that a function made."""
    name: str               # of the array; its numbers are name[0,1], ...
    shape: tuple
    equations: list[str]    # of one number, of the array: from the docstrings of the function and its partner
    derivation: list[str]   # the docstrings' lines in which they stand
    code: list[Line]        # the lines that compute it
    numbers: list[int]      # the ids of its numbers, row by row


class Entry(NamedTuple):
    """One function's part of the story."""
    name: str               # unique
    title: str
    function: str           # "npdiff.nn.linear.linear_forward"; "" for what is given
    derivation: str         # its docstring
    symbols: dict           # the function's names for what others made: {"x": "x_t, time", ...}
    results: list[Result]


class Ledger(NamedTuple):
    """One step. numbers[id] is {id, value, op, parents, name, terms}: parents and terms are ids.

    Parents stand before what they make. The terms are the numbers whose sum it is: itself, if it is no sum.
    names also holds the names by which a function knows the results of others: linear1.x is x_t and time.
    gradients holds the relative error of each against a derivative or a backend, or why there is none. adam
    holds the relative difference of each new parameter from Adam's usual form.
    """
    settings: dict
    entries: list[Entry]
    numbers: list[dict]
    names: dict[str, int]
    gradients: dict[str, dict]
    adam: dict[str, float]

    def as_dict(self):
        """For JSON: dicts and lists instead of named tuples."""
        return plain(self)


def plain(value):
    """Named tuples as dicts, all the way down."""
    if hasattr(value, "_asdict"):
        return {name: plain(one) for name, one in value._asdict().items()}
    return [plain(one) for one in value] if isinstance(value, list | tuple) else value


def make_ledger(seed=0, point=None, t=4, noise=None, confirm=True):
    """The Ledger of one step of TINY. A point or noise that is not given is drawn as in training.

    confirm holds the gradients against others, for which it loads the other backends.

    Raises ValueError for a seed, a point, a timestep or noise that cannot be.
    """
    drawn_x0, _, _, drawn_noise = draw_block(TINY, seed, 0, 1)
    t = TINY.make_schedule().check_t(t)
    if not isinstance(t, int):
        raise ValueError(f"t is {t}; it must be one integer")
    x0, noise = vector("point", point, drawn_x0), vector("noise", noise, drawn_noise)
    params = mlp.init(TINY.model, generator(seed, "init"))
    fresh = generator(seed, "sample", t - 1).standard_normal(x0.shape)
    story = Story()
    with kept():
        step = training_step(story, params, x0, t, noise)
        sampling_step(story, *step, t, fresh)
    settings = {"seed": seed, "point": x0[0].tolist(), "t": t, "noise": noise[0].tolist(), "lr": TINY.lr,
                "num_train_timesteps": TINY.num_train_timesteps, "schedule": TINY.schedule,
                "prediction_type": TINY.prediction_type, "variance": TINY.variance,
                "widths": list(TINY.model.widths)}
    found = {name: values(array) for name, array in story.arrays.items()}
    usual = {name: tensor_error(found[f"{name}.new"], found[f"{name}.usual"]) for name in params}
    return Ledger(settings, *story.finished(), confirmed(params, found, t) if confirm else {}, usual)


def vector(name, given, drawn):
    """The given point, or the drawn one, float64 (1, 2). Raises ValueError for another."""
    D = drawn.shape[1]
    if given is None:
        return drawn.astype(np.float64)
    if (not isinstance(given, tuple | list | np.ndarray) or len(given) != D
            or not all(of_kind(x, float) is not None and abs(x) <= LARGEST for x in given)):
        raise ValueError(f"{name} is {given}; it must be {D} numbers from {-LARGEST:g} to {LARGEST:g}")
    return np.array([given], np.float64)


def training_step(story, params, x0, t, noise):
    """Algorithm 1 of Ho et al. 2020, and Adam. -> the schedule, x_t and the network's answer"""
    t = np.array([t])
    beta = numbers(TINY.make_schedule().beta, "beta")[1:]
    schedule = Schedule(beta)
    x0, noise = numbers(x0, "x0"), numbers(noise, "noise")
    params = {name: numbers(array, name) for name, array in params.items()}
    adams = {name: one.default for name, one in inspect.signature(optim.adam).parameters.items()
             if one.default is not one.empty}
    settings = {name: Number(value, name=name) for name, value in {"lr": TINY.lr, **adams}.items()}
    story.given(x0=x0, noise=noise, beta=schedule.beta, **params, **settings)
    story.add(Schedule.__init__, "the schedule, from beta of each timestep", "schedule",
              {name: (getattr(schedule, name), name) for name in ("alpha", "alpha_bar", "a", "sigma")},
              of="schedule", documented=[Schedule])
    with story:
        x_t = diffusion.q_sample(x0, t, noise, schedule)
        target = diffusion.prediction_target(x0, t, noise, schedule, TINY.prediction_type)
        y, cache = mlp.forward(params, x_t, t, TINY.model)
        _, loss_cache = nn.mse_forward(y, target)
        _, grads = mlp.backward(nn.mse_backward(loss_cache), cache, TINY.model)
    story.given(**{"time.w": story.arrays["time.w"]})
    for name, p in params.items():
        p, m, v = p.copy(), *(numbers(np.zeros(p.shape), f"{name}.{moment}_before") for moment in "mv")
        story.given(**{f"{name}.m_before": m, f"{name}.v_before": v})
        before = p.copy()
        with story.about(name):
            optim.adam(p, grads[name], m, v, 1, **settings)
            usual_adam(before, m, v, 1, **settings)
    return schedule, x_t, y


def sampling_step(story, schedule, x_t, y, t, fresh):
    """One jump of the ancestral sampler, t -> t - 1. y is the network's answer to x_t and t."""
    fresh = numbers(fresh, "fresh_noise")
    story.given(fresh_noise=fresh)
    with story:
        denoise = to_x0_eps(lambda x, t: y, schedule, TINY.prediction_type)
        *_, (_, x_s) = ancestral(denoise, x_t, schedule, lambda s: fresh, [(t, t - 1)], TINY.variance)
    story.add(ancestral, "one step of the ancestral sampler, from x_t to x_s, s = t - 1", "x_s",
              {"x_s": (x_s, "x")}, documented=[ancestral])


class Story:
    """The entries as they come. `with story:` tells of each call of a function of TOLD or npdiff.nn."""

    def __init__(self):
        self.entries, self.names, self.arrays, self.of = [], {}, {}, ""
        self.inputs = []
        self.known = {function.__code__: function for function in [*LAYERS, *TOLD]}

    def about(self, name):
        """The story, for functions that are called for this parameter."""
        self.of = name
        return self

    def __enter__(self):
        self.calls, self.profile = [], sys.getprofile()
        sys.setprofile(self.note)

    def __exit__(self, *error):
        sys.setprofile(self.profile)
        for call in [] if any(error) else self.calls:
            self.tell(*call)
        self.of = ""

    def note(self, frame, event, returned):
        """Called by the interpreter. What another of the known functions calls is a part of that one."""
        caller = frame.f_back
        if event == "return" and frame.f_code in self.known and caller.f_code not in self.known:
            layer = caller.f_globals["__name__"] == layers.__name__
            of = caller.f_locals["name"] if layer else self.of
            self.calls.append((self.known[frame.f_code], of, dict(frame.f_locals), returned))

    def tell(self, function, of, variables, returned):
        """The entry of one call: of a function of TOLD, of a layer's backward, or of its forward."""
        returned = returned if isinstance(returned, tuple) else (returned,)
        if function in TOLD:
            title, ending, symbol = TOLD[function]
            name, title = (f"{of}.{ending}", f"{title}: {of}") if of else (ending, title)
            of = of or name.removesuffix(".dy")
            made = {name: (variables[symbol] if function is optim.adam else returned[0], symbol)}
        elif function.__name__.endswith("_backward"):
            name, title = f"{of}.backward", f"layer {of}, backward"
            made = {f"{of}.{symbol}": (value, symbol) for symbol, value in variables.items()
                    if any(value is gradient for gradient in returned)}
        else:
            name, title, made = of, f"layer {of}, forward", {of: (returned[0], "y")}
        self.add(function, title, name, made, of, variables)

    def given(self, **arrays):
        """What no function made."""
        for name, array in arrays.items():
            self.name(name, array)
            self.inputs.append(Result(name, np.shape(array), [], [], [], list(np.ravel(array))))

    def add(self, function, title, name, made, of="", variables=MappingProxyType({}), documented=None):
        """An entry with what was made, {name: (array, its symbol in the docstring)}, and new variables."""
        docs = [inspect.getdoc(one) for one in documented or [function, *partner(function)]]
        for key, (array, _) in made.items():
            self.name(key, array)
        made, symbols = dict(made), {}
        for symbol, value in variables.items():
            if symbol == "cache":
                continue
            if self.name(f"{of}.{symbol}", value):
                made[f"{of}.{symbol}"] = value, symbol
            elif f"{of}.{symbol}" in self.arrays and not any(value is array for array, _ in made.values()):
                symbols[symbol] = origin(value)
        in_order = sorted(made.items(), key=lambda item: np.ravel(item[1][0])[0].order)
        results = [self.result(function, docs, key, *item) for key, item in in_order]
        place = f"{function.__module__}.{function.__qualname__}"
        symbols = {symbol: other for symbol, other in symbols.items() if symbol != other}
        self.entries.append(Entry(name, title, place, docs[0], symbols, results))

    def result(self, function, docs, name, array, symbol):
        """The Result of an array; its numbers are still the Numbers themselves."""
        found = [pair for doc in docs for pair in equations(doc, symbol)]
        texts, lines = (list(dict.fromkeys(part)) for part in zip(*found)) if found else ([], [])
        code = code_lines(function, symbol)
        return Result(name, np.shape(array), texts, lines, code, list(np.ravel(array)))

    def name(self, name, array):
        """Name an array's Numbers. -> whether one of them had no name before."""
        if not (isinstance(array, Number) or getattr(array, "dtype", float) == np.dtype(object)):
            return False
        new, array = False, np.asarray(array)
        self.arrays[name] = array
        for index in np.ndindex(array.shape):
            number = array[index] = lifted(array[index])            # a float in it is a constant
            full = indexed(name, index)
            self.names.setdefault(full, number)
            new = new or number.name is None
            number.name = number.name or full
        return new

    def finished(self):
        """The entries, the numbers and the names, with ids for Numbers."""
        reached, ahead = {}, list(self.names.values())
        while ahead:
            number = ahead.pop()
            if number.order not in reached:
                reached[number.order] = number
                ahead.extend(number.parents)
        ids = {order: id for id, order in enumerate(sorted(reached))}

        def ids_of(several):
            return [ids[number.order] for number in several]

        def in_ids(result):
            return result._replace(numbers=ids_of(result.numbers))

        table = [{"id": ids[order], "value": number.value, "op": number.op, "parents": ids_of(number.parents),
                  "name": number.name, "terms": ids_of(terms(number))}
                 for order, number in sorted(reached.items())]
        entries = [Entry("given", "what is given", "", "", {}, self.inputs), *self.entries]
        entries = [entry._replace(results=list(map(in_ids, entry.results))) for entry in entries]
        return entries, table, {name: ids[number.order] for name, number in self.names.items()}


def origin(array):
    """The names of the results that an array is put together from; of one number, its own name."""
    names = [number.name for number in np.ravel(array)]
    return names[0] if len(names) == 1 else ", ".join(dict.fromkeys(name.partition("[")[0] for name in names))


def terms(number):
    """The Numbers whose sum it is. A sum within is one of them only if it has a name of its own."""
    if number.op != "+":
        return [number]
    return [term for parent in number.parents
            for term in (terms(parent) if parent.name is None else [parent])]


def partner(function):
    """[the other of a forward and its backward], or []: it names variables that both have."""
    pair, _, end = function.__name__.rpartition("_")
    other = {"forward": "backward", "backward": "forward"}.get(end)
    return [getattr(inspect.getmodule(function), f"{pair}_{other}")] if other else []


def confirmed(params, found, t):
    """Each gradient against three others. -> {its name: {the other: relative error, or why there is none}}

    found holds the ledger's arrays by name. The others are the complex step and central differences of the
    forward and the loss, and every backend but numpy that is installed and computes in float64.
    """
    t, x_t, target = np.array([t]), found["x_t"], found["target"]
    data = found["linear1.dx"][:, :TINY.model.data_dim]
    known = {"linear1.dx, of x_t": (data, lambda x: loss(params, x, t, target), x_t)}
    for name, p in params.items():
        known[name.replace(".", ".d")] = (
            found[name.replace(".", ".d")], lambda p, name=name: loss(params | {name: p}, x_t, t, target), p)
    for name, dy in found.items():
        layer = name.removesuffix(".dy")
        if layer != name and layer in found and layer != "loss":
            known[name] = (dy, lambda y, layer=layer: loss(params, x_t, t, target, {layer: y}), found[layer])
    checks = {name: {derivative.__name__: tensor_error(gradient, derivative(L, at))
                     for derivative in (complex_step, central_difference)}
              for name, (gradient, L, at) in known.items()}
    for other in sorted({point.name for point in entry_points(group="npdiff.backends")} - {"numpy"}):
        try:
            backend = load_backend(other, dtype="float64", threads=1)
        except ValueError as error:
            checks = {name: check | {other: str(error)} for name, check in checks.items()}
            continue
        batch = Batch(1, backend.asarray(x_t), t, backend.asarray(target))
        _, grads = backend.make_denoiser(TINY.model, params).loss_and_grads(batch)
        for name, gradient in grads.items():
            name = name.replace(".", ".d")
            checks[name][other] = tensor_error(found[name], backend.to_numpy(gradient))
    return checks


def loss(params, x, t, target, outputs=MappingProxyType({})):
    """The loss of the network, where some layers give these outputs instead of their own."""
    def kept_output(cache, name, returned):
        return outputs.get(name, returned[0])

    with mock.patch.object(layers, "keep", kept_output):
        y, _ = mlp.forward(params, x, t, TINY.model)
    return nn.mse_forward(y, target)[0]
