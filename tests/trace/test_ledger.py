"""The gradient ledger: every number recomputed without npdiff, every link, every function on the path."""

import json
import re
import subprocess
import sys
from functools import partial
from inspect import isfunction
from pathlib import Path

import numpy as np
import pytest
import textbook_step

from npdiff import diffusion, nn, optim, samplers, schedule
from npdiff.backends.numpy import NumpyBackend
from npdiff.models import mlp
from npdiff.rng import generator
from npdiff.samplers import ancestral, to_x0_eps
from npdiff.trace import ledger as trace
from npdiff.trace import text
from npdiff.trace.number import Number, kept, numbers, values
from npdiff.trace.source import ROOT, code_lines, equations
from npdiff.training import Batch

STEPS = {"drawn": {}, "another seed": {"seed": 7}, "first": {"t": 1}, "last": {"t": 10},
         "chosen": {"point": (-1.5, 0.25), "noise": (0.5, -2.0), "t": 2}}


@pytest.fixture(scope="module", params=STEPS)
def ledger(request):
    """A ledger without its comparison of gradients."""
    return trace.make_ledger(**STEPS[request.param], confirm=False)


@pytest.fixture(scope="module")
def confirmed():
    """A ledger with everything."""
    return trace.make_ledger()


def test_every_number_is_recomputed_without_npdiff(ledger):
    read = json.loads(json.dumps(ledger.as_dict()))
    computed, inputs = textbook_step.recompute(read)
    assert computed + inputs == len(ledger.numbers) and computed > 600
    given = {id for result in ledger.entries[0].results for id in result.numbers}
    assert {number["id"] for number in ledger.numbers if number["op"] == "given"} <= given


def test_every_result_is_what_the_textbooks_formulas_give(ledger):
    checked = textbook_step.compare_with_textbook(json.loads(json.dumps(ledger.as_dict())))
    assert checked == sum(len(result.numbers) for entry in ledger.entries[1:] for result in entry.results)


def test_the_script_counts_all_numbers_and_sees_a_wrong_one(confirmed):
    script = Path(textbook_step.__file__)
    assert "import npdiff" not in script.read_text() and "from npdiff" not in script.read_text()
    read = confirmed.as_dict()

    def run():
        return subprocess.run([sys.executable, "-I", str(script)], input=json.dumps(read), text=True,
                              capture_output=True)

    assert f"{len(confirmed.numbers)} numbers:" in run().stdout
    made = next(number for number in read["numbers"] if number["op"] == "*" and number["value"])
    made["value"] *= 1 + 1e-12
    assert run().returncode != 0


def test_the_terms_of_every_number_sum_to_it(ledger):
    for number in ledger.numbers:
        total = sum(ledger.numbers[term]["value"] for term in number["terms"])
        assert total == pytest.approx(number["value"], rel=1e-15, abs=1e-16)
        assert len(number["terms"]) > 1 or number["op"] != "+"
    sums = [number for number in ledger.numbers if len(number["terms"]) > 3]
    assert len(sums) >= 3               # the three hidden units: four inputs and a bias each


def test_every_link_leads_to_the_number_it_names(ledger):
    for name, id in ledger.names.items():
        assert ledger.numbers[id]["id"] == id and ledger.numbers[id]["name"] in ledger.names
        assert next(text.opened(ledger, name, 1)).startswith(f"{name} = ")
    for number in ledger.numbers:
        if number["name"]:
            assert ledger.names[number["name"]] == number["id"]
        for part in text.named_parts(ledger, number["id"]):
            assert ledger.numbers[part]["name"] in "\n".join(text.number_lines(ledger, number, None))
    for entry in ledger.entries:
        for result in entry.results:
            for place, id in enumerate(result.numbers):
                index = np.unravel_index(place, result.shape) if result.shape else ()
                full = f"{result.name}[{','.join(map(str, index))}]" if index else result.name
                assert ledger.names[full] == id


def test_the_way_back_from_a_new_weight_ends_at_the_point_and_the_weights(ledger):
    *lines, = text.opened(ledger, "linear1.W.new[0,1]", 99)
    given = {line.split(" = ")[0] for line in lines if line.endswith("given")}
    assert {"x0[0,0]", "x0[0,1]", "noise[0,0]", "linear1.W[0,1]", "linear2.W[1,0]", "linear2.b[0]",
            "beta[1]", "lr", "beta1"} <= given
    assert "more numbers" not in lines[-1]


def array_of(ledger, name):
    """A result of the ledger as float64."""
    result = next(result for entry in ledger.entries for result in entry.results if result.name == name)
    return np.array([ledger.numbers[id]["value"] for id in result.numbers]).reshape(result.shape)


def test_values_are_those_of_the_float64_engine(ledger):
    get, t = partial(array_of, ledger), np.array([ledger.settings["t"]])
    plain = trace.TINY.make_schedule()
    x0, noise = get("x0"), get("noise")
    params = mlp.init(trace.TINY.model, generator(ledger.settings["seed"], "init"))
    x_t = diffusion.q_sample(x0, t, noise, plain)
    target = diffusion.prediction_target(x0, t, noise, plain, "epsilon")
    denoiser = NumpyBackend(dtype="float64").make_denoiser(trace.TINY.model, params)
    y, layers = denoiser.predict(x_t, t), denoiser.operations(x_t, t)
    loss, grads = denoiser.loss_and_grads(Batch(1, x_t, t, target))
    denoiser.update(grads, trace.TINY.lr)
    chain = ancestral(to_x0_eps(lambda x, t: y, plain), x_t, plain, lambda s: get("fresh_noise"),
                      [(int(t[0]), int(t[0]) - 1)], trace.TINY.variance)
    *_, (_, x_s) = chain
    right = layers | {name.replace(".", ".d"): grad for name, grad in grads.items()} | {
        f"{name}.new": p for name, p in denoiser.params.items()}
    right |= {"x_t": x_t, "target": target, "loss": loss, "x_s": x_s, "alpha_bar": plain.alpha_bar}
    assert len(right) == 4 + 4 + 4 + 5
    for name, array in right.items():
        np.testing.assert_allclose(get(name), array, rtol=1e-13, atol=1e-13 * np.max(np.abs(array)))


def test_gradients_agree_with_derivatives_and_with_other_backends(confirmed):
    assert {"linear1.dW", "linear1.db", "linear2.dW", "linear2.db", "linear1.dy", "linear1.silu.dy",
            "linear2.dy", "linear1.dx, of x_t"} == set(confirmed.gradients)
    for check in confirmed.gradients.values():
        errors = {other: error for other, error in check.items() if isinstance(error, float)}
        assert errors.pop("central_difference") < 1e-8
        assert "complex_step" in errors and max(errors.values()) < 1e-14
    assert max(confirmed.adam.values()) < 1e-14


def test_a_backend_that_does_not_load_is_named_with_its_reason(monkeypatch):
    def load_backend(name, **options):
        raise ValueError(f"backend {name} needs the package some_library")

    point = type("Point", (), {"name": "other"})
    monkeypatch.setattr(trace, "entry_points", lambda group: [point])
    monkeypatch.setattr(trace, "load_backend", load_backend)
    made = trace.make_ledger()
    assert all("some_library" in check["other"] for check in made.gradients.values())
    assert "   other: not compared: backend other needs the package some_library" in list(text.story(made))


def test_a_wrong_gradient_shows_against_the_complex_step(monkeypatch):
    def wrong(dy, cache):
        s, y = cache
        dx = dy * s
        return dx

    monkeypatch.setattr(nn, "silu_backward", wrong)
    monkeypatch.setattr(sys.modules["npdiff.nn.activation"], "silu_backward", wrong)
    monkeypatch.setattr(trace, "LAYERS", [*trace.LAYERS, wrong])
    monkeypatch.setattr(trace, "code_lines", lambda function, symbol: [])
    monkeypatch.setattr(trace, "partner", lambda function: [])
    wrong.__doc__ = "dx = dy s"
    checks = trace.make_ledger().gradients
    assert checks["linear2.dW"]["complex_step"] < 1e-14 < 1e-3 < checks["linear1.dW"]["complex_step"]


# What lies on the path and has no entry: checks, and what only hands numbers on.
HELPERS = {"whole", "timesteps", "check_data", "check_same_shape", "check_signal", "check_prediction_type",
           "check_jump", "check_jumps", "check_arrays", "check_variance", "coefficient", "frequencies",
           "to_x0_eps", "sigmoid", "fourier_forward", "transition_beta"}


def functions_called(step):
    """The functions of nn and of the engine that a step calls."""
    rooms = [module for name, module in sys.modules.items() if name.startswith("npdiff.nn.")]
    rooms += [diffusion, optim, samplers, schedule]
    known = {one.__code__: one for room in rooms for one in vars(room).values()
             if isfunction(one) and one.__module__ == room.__name__}
    called = set()

    def note(frame, event, _):
        if event == "call" and frame.f_code in known:
            called.add(known[frame.f_code])

    profile = sys.getprofile()
    sys.setprofile(note)
    try:
        step()
    finally:
        sys.setprofile(profile)
    return called


def plain_step():
    """One training step and one sampling step in float64, as the ledger's. The betas are given there."""
    plain, t, rng = schedule.Schedule(np.linspace(0.1, 0.5, 10)), np.array([4]), generator(0, "init")
    params, x0, noise = mlp.init(trace.TINY.model, rng), *rng.standard_normal((2, 1, 2))
    x_t = diffusion.q_sample(x0, t, noise, plain)
    y, cache = mlp.forward(params, x_t, t, trace.TINY.model)
    _, loss_cache = nn.mse_forward(y, diffusion.prediction_target(x0, t, noise, plain, "epsilon"))
    _, grads = mlp.backward(nn.mse_backward(loss_cache), cache, trace.TINY.model)
    for name, p in params.items():
        optim.adam(p, grads[name], np.zeros_like(p), np.zeros_like(p), 1, 0.01)
    list(ancestral(to_x0_eps(lambda x, t: y, plain), x_t, plain, lambda s: noise, [(4, 3)]))


def test_every_function_on_the_path_has_an_entry(confirmed):
    called = {function for function in functions_called(plain_step) if function.__name__ not in HELPERS}
    told = {entry.function for entry in confirmed.entries}
    assert len(called) >= 14
    assert {f"{function.__module__}.{function.__qualname__}" for function in called} <= told


def untold(ledger):
    """The names of results without an equation, a derivation or code, or whose code is not in its file."""
    for entry in ledger.entries[1:]:
        assert entry.results and entry.derivation
        for result in entry.results:
            if not result.equations or not result.derivation or not result.code:
                yield result.name
            for code in result.code:
                line = (ROOT / code.file).read_text().splitlines()[code.line - 1]
                assert code.text.startswith(line.split("#")[0].strip()[:20])


def test_every_result_has_its_equation_its_derivation_and_its_code(ledger):
    assert not list(untold(ledger))


@pytest.mark.parametrize("function", [nn.silu_backward, diffusion.q_sample, optim.adam])
def test_a_function_that_loses_its_equation_is_noticed(function, monkeypatch):
    monkeypatch.setattr(function, "__doc__", "It computes something.")
    assert list(untold(trace.make_ledger(confirm=False)))


def test_every_pair_has_an_equation_and_code_for_each_gradient():
    """Also those that are not on this path."""
    pairs = {name: function for name, function in vars(nn).items() if name.endswith("ward")}
    assert len(pairs) >= 24
    parts = {"dqkv": ["dq", "dk", "dv"]}                # of one image and head, in attention
    made = {"mse_forward": "loss", "cross_entropy_forward": "loss", "attention_forward": "z"}
    for name, function in pairs.items():
        first, *_ = function.__doc__.splitlines()
        if name.endswith("_forward"):
            assert equations(function.__doc__, made.get(name, "y")), name
            assert code_lines(function, "y"), name
            continue
        symbols = re.findall(r"\bd\w+(?= \(| in)", first.partition("->")[2])
        assert symbols, name
        for symbol in [part for gradient in symbols for part in parts.get(gradient, [gradient])]:
            assert equations(function.__doc__, symbol), (name, symbol)
            assert symbol in code_lines(function, symbol)[0].text, (name, symbol)


def test_equations_are_found_where_they_stand():
    doc = nn.linear_backward.__doc__
    assert [equation for equation, _ in equations(doc, "db")] == ["db[o] = sum_n dy[n,o]",
                                                                  "db = column sums of dy"]
    assert [equation for equation, _ in equations(doc, "dW")] == ["dW[i,o] = sum_n x[n,i] dy[n,o]",
                                                                  "dW = x^T dy"]
    assert equations(doc, "d") == []
    assert equations(schedule.Schedule.__doc__, "alpha")[0][0] == "alpha = 1 - beta"


def test_a_number_computes_as_a_float_does():
    a, b = Number(3.0, name="a"), Number(-0.5, name="b")
    array, plain = np.array([a, b], object), np.array([3.0, -0.5])
    for compute in (lambda x: 2 * x + 1, lambda x: 1 - x / 4, lambda x: (2 / x) ** 2, lambda x: -x * x,
                    lambda x: np.exp(x) - np.sin(x) * np.cos(x), lambda x: np.tanh(x) / 3, lambda x: x @ x,
                    lambda x: x.sum(0), np.conj):
        np.testing.assert_allclose(values(compute(array)), compute(plain), rtol=1e-15)
    assert np.sqrt(a).value == 3 ** 0.5 and np.log(a).value == np.log(3.0)
    assert a > b and a >= 3 and b < a and b <= -0.5 and not a < b
    assert (a * b).parents == (a, b) and (a * b).op == "*"


def test_kept_leaves_the_engine_as_it_was():
    embedding = sys.modules["npdiff.nn.embedding"]
    rooms = {module: dict(vars(module)) for module in (schedule, diffusion, optim, embedding)}
    with pytest.raises(ZeroDivisionError), kept():
        assert isinstance(diffusion.float(Number(1.0)), Number) and diffusion.float(np.float64(2)) == 2.0
        assert type(diffusion.float(np.float64(2))) is float
        raise ZeroDivisionError
    for module, names in rooms.items():
        assert dict(vars(module)) == names
    assert numbers(np.zeros((1, 2)), "x")[0, 1].name == "x[0,1]"


@pytest.mark.parametrize("wrong, message", [
    (dict(t=0), "t is 0; it must lie in 1..10"), (dict(t=11), "t is 11; it must lie in 1..10"),
    (dict(t=[4]), "t is [4]; it must be one integer"), (dict(t=2.5), "it must be an int"),
    (dict(point=(1, 2, 3)), "point is (1, 2, 3); it must be 2 numbers"),
    (dict(point=(float("nan"), 0)), "point is (nan, 0)"), (dict(seed=-1), "seed is -1"),
    (dict(noise=(0, float("inf"))), "noise is (0, inf)"), (dict(point=(True, 0)), "point is (True, 0)"),
    (dict(point=("a", "b")), "point is ('a', 'b')"), (dict(point=[[1, 2]]), "point is [[1, 2]]"),
    (dict(point=((1, 2), 3)), "point is ((1, 2), 3)"), (dict(point=7), "point is 7"), (dict(t="4"), "t ")])
def test_wrong_values_are_refused(wrong, message):
    with pytest.raises(ValueError) as error:
        trace.make_ledger(**wrong)
    assert message in str(error.value)


def test_the_largest_points_have_finite_numbers():
    for sign in (-1, 1):
        made = trace.make_ledger(point=(100, sign * 100), noise=(-100, sign * 100), t=10, confirm=False)
        assert np.isfinite([number["value"] for number in made.numbers]).all()
        textbook_step.recompute(made.as_dict())
