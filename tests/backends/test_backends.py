"""Backends: a state is loaded whole or not at all, wrong values are refused, and a third backend works."""

from dataclasses import replace

import numpy as np
import pytest
from toy_backend import ToyBackend

from npdiff import backends
from npdiff.backends import load_backend
from npdiff.backends.numpy import NumpyBackend
from npdiff.models import convnet, mlp
from npdiff.optim import adam
from npdiff.recipes import MOONS
from npdiff.rng import generator
from npdiff.sampling import sample
from npdiff.training import Batch, new_denoiser, train
from npdiff.verify.gradcheck import central_difference, element_error, tensor_error


def bytes_of(state):
    """The bytes of every array of a state, by name."""
    return {name: array.tobytes() for name, array in state.items()}


def test_a_state_is_loaded_as_it_was_exported(tiny):
    denoiser, backend, recipe = tiny
    list(train(denoiser, backend, recipe, 0))
    state = denoiser.export()
    other = new_denoiser(backend, recipe, 9)
    other.load(state)
    assert bytes_of(other.export()) == bytes_of(state)
    state["params/linear1.W"][:] = 0                                    # an export is a copy
    assert denoiser.params["linear1.W"].any() and other.params["linear1.W"].any()


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda state: state.pop("adam_v/linear2.b"), "the state's arrays lack adam_v/linear2.b"),
        (
            lambda state: state.update(extra=np.zeros(1)),
            "the state's arrays hold extra, which this network does not have",
        ),
        (
            lambda state: state.update({"params/linear1.W": np.zeros((3, 3))}),
            r"hold params/linear1.W of shape \(3, 3\); this network needs",
        ),
    ],
)
def test_a_wrong_state_changes_nothing(tiny, spoil, message):
    denoiser, backend, recipe = tiny
    state = new_denoiser(backend, recipe, 9).export()
    spoil(state)
    before = bytes_of(denoiser.export())
    with pytest.raises(ValueError, match=message):
        denoiser.load(state)
    assert bytes_of(denoiser.export()) == before


def test_prediction_takes_one_t_or_many(tiny):
    denoiser, backend, recipe = tiny
    x = backend.asarray(np.random.default_rng(0).standard_normal((3, 2)))
    np.testing.assert_array_equal(denoiser.predict(x, 7), denoiser.predict(x, np.array([7, 7, 7])))
    assert denoiser.predict(x, 7).dtype == np.float32


def test_divergence_is_the_trace_of_the_complex_step():
    """60 random networks of 1 to 5 coordinates. The answer is predict's; the Jacobian is taken by column."""
    h = 1e-30
    for seed in range(60):
        rng = np.random.default_rng(seed)
        D, N = 1 + seed % 5, int(rng.integers(1, 9))
        config = mlp.Config(
            data_dim=D,
            hidden=tuple(rng.integers(1, 20, rng.integers(1, 4)).tolist()),
            time_dim=2 * int(rng.integers(1, 6)),
            fourier_features=int(rng.integers(0, 5)) if seed % 2 else 0,
        )
        denoiser = load_backend("numpy", dtype="float64").make_denoiser(config, mlp.init(config, rng))
        x, t = rng.standard_normal((N, D)), rng.integers(1, 1001, N)
        y, trace = denoiser.divergence(x, t)
        np.testing.assert_array_equal(y, denoiser.predict(x, t))
        exact = np.zeros(N)
        for d in range(D):
            stepped, _ = mlp.forward(denoiser.params, x + 1j * h * np.eye(D)[d], t, config)
            exact += stepped[:, d].imag / h
        assert trace.shape == (N,) and trace.dtype == np.float64
        assert element_error(trace, exact) <= 1e-12 and tensor_error(trace, exact) <= 1e-12, seed


@pytest.mark.parametrize("name", ["numpy", "torch"])
def test_divergence_keeps_float32_and_takes_vectors_alone(name):
    backend = load_backend(name)
    denoiser = backend.make_denoiser(mlp.SMALL, mlp.init(mlp.SMALL, generator(0, "init")))
    x = backend.asarray(np.random.default_rng(0).standard_normal((3, 2)))
    assert {backend.to_numpy(array).dtype.name for array in denoiser.divergence(x, 7)} == {"float32"}
    one, many = (backend.to_numpy(denoiser.divergence(x, t)[1]) for t in (7, np.array([7, 7, 7])))
    np.testing.assert_array_equal(one, many)
    config = convnet.Config(size=4, features=2)
    of_images = backend.make_denoiser(config, convnet.init(config, generator(0, "init")))
    message = r"x has shape \(3, 1, 4, 4\); the trace of a Jacobian is for vectors"
    with pytest.raises(ValueError, match=message):
        of_images.divergence(backend.asarray(np.zeros((3, 1, 4, 4))), 1)
    with pytest.raises(ValueError, match=r"x has shape \(3, 4\); this network takes \(N, 2\)"):
        denoiser.divergence(backend.asarray(np.zeros((3, 4))), 1)


@pytest.mark.parametrize("x, t, target, message", [
    (np.ones((3, 4)), np.ones(3, int), np.ones((3, 4)), r"x has shape \(3, 4\); this network takes \(N, 2\)"),
    (np.ones((3, 2)), np.ones(2, int), np.ones((3, 2)), r"t has shape \(2,\)"),
    (np.ones((3, 2)), np.ones(3, int), np.ones((2, 2)), "target has shape")])
def test_mismatched_shapes_are_refused(tiny, x, t, target, message):
    denoiser, backend, _ = tiny
    with pytest.raises(ValueError, match=message):
        denoiser.loss_and_grads(Batch(1, backend.asarray(x), t, backend.asarray(target)))


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("jax",), "backend is 'jax'; it must be one of .*numpy"),
        (("numpy", "cuda"), "device is 'cuda'"),
        (("numpy", "cpu", "float16"), "dtype is 'float16'"),
    ],
)
def test_refuses_what_is_not_there(arguments, message):
    with pytest.raises(ValueError, match=message):
        load_backend(*arguments)


def test_the_numpy_backend_has_no_options():
    with pytest.raises(ValueError, match="weight_decay is no option of backend numpy; it has none"):
        load_backend("numpy", weight_decay=0.5)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dtype_is_kept(dtype):
    backend = load_backend("numpy", dtype=dtype)
    assert isinstance(backend, NumpyBackend)
    denoiser = new_denoiser(backend, replace(MOONS, steps=1), 0)
    _, grads = denoiser.loss_and_grads(next(backend.batches(replace(MOONS, steps=1), 0)))
    state = denoiser.export()
    state.pop("step")
    assert {array.dtype.name for array in (*state.values(), *grads.values())} == {dtype}


class FakeEntryPoint:
    def __init__(self, name, load):
        self.name, self.load, self.dist = name, load, None


def missing():
    raise ModuleNotFoundError("No module named 'slate'", name="slate")


@pytest.fixture
def toy(monkeypatch):
    """The toy backend, and one whose package is missing, found as entry points are."""
    points = [FakeEntryPoint("toy", lambda: ToyBackend), FakeEntryPoint("slate", missing)]
    monkeypatch.setattr(backends, "entry_points", lambda group: points if group == "npdiff.backends" else [])


def test_a_third_backend_trains_and_samples(toy):
    """The same training and sampler run on it.

    The loss of the answer 0 is 1; the best linear denoiser's is far below. Its samples have the data's mean.
    """
    recipe = replace(
        MOONS, schedule="rescaled_linear", steps=300, batch_size=64, lr=0.02, lr_schedule="constant"
    )
    backend = load_backend("toy")
    denoiser = backend.make_denoiser(recipe.model, {})
    losses = [loss for _, loss in train(denoiser, backend, recipe, 0)]
    assert denoiser.step == 300 and np.mean(losses[-50:]) < 0.6 < np.mean(losses[:3])
    *_, (t, x) = sample(denoiser, backend, recipe, 200, 0)
    assert t == 0 and backend.to_numpy(x).shape == (200, 2)
    assert abs(backend.to_numpy(x).mean(0) - (0.75, 0.375)).max() < 0.4


def test_the_gradient_and_adam_of_the_template_are_right(toy):
    """Compared with central differences and with npdiff.optim.adam, with a weight for each sample."""
    rng = np.random.default_rng(0)
    backend = load_backend("toy")
    denoiser = backend.make_denoiser(mlp.SMALL, {})
    w = rng.standard_normal((4, 2))
    denoiser.w = backend.asarray(w)
    x_t, t = rng.standard_normal((5, 2)), rng.integers(1, 1001, 5)
    target, weight = rng.standard_normal((5, 2)), rng.random(5)
    batch = Batch(1, backend.asarray(x_t), t, backend.asarray(target), None, weight)

    def loss_at(w):
        denoiser.w = backend.asarray(w)
        return denoiser.loss_and_grads(batch)[0]

    exact = central_difference(loss_at, w)
    denoiser.w = backend.asarray(w)
    _, grads = denoiser.loss_and_grads(batch)
    assert tensor_error(np.array(grads["w"]), exact) < 1e-8
    m, v = np.zeros_like(w), np.zeros_like(w)
    for step in (1, 2):
        denoiser.update(grads, 0.1)
        adam(w, np.array(grads["w"]), m, v, step, 0.1)
        np.testing.assert_allclose(np.array(denoiser.w), w, rtol=1e-6)


def test_options_belong_to_the_backend(toy):
    assert load_backend("toy", weight_decay=0.5).options.weight_decay == 0.5
    with pytest.raises(ValueError, match="depth is no option of backend toy; it has weight_decay"):
        load_backend("toy", depth=3)


def test_a_backend_may_bring_its_own_step_and_its_own_batches(tiny):
    """train calls batches and train_step and nothing else of a backend."""
    denoiser, _, recipe = tiny
    seen = []

    class Fused(NumpyBackend):
        def batches(self, recipe, seed, first_step=1, data_dir=None):
            for batch in super().batches(recipe, seed, first_step, data_dir):
                yield batch._replace(target=2 * batch.target)

    def train_step(batch, lr):
        seen.append((batch.step, lr, batch.target))
        return 0.25

    denoiser.train_step = train_step
    plain = list(NumpyBackend().batches(recipe, 0))
    assert list(train(denoiser, Fused(), recipe, 0)) == [(step, 0.25) for step in range(1, 21)]
    steps, rates, targets = zip(*seen)
    assert steps == tuple(range(1, 21)) and rates[0] == recipe.lr > rates[-1]
    np.testing.assert_array_equal(targets[3], 2 * plain[3].target)


def test_a_loss_that_is_not_finite_changes_nothing(tiny):
    denoiser, backend, recipe = tiny
    batch = next(backend.batches(recipe, 0))
    batch.target[0, 0] = np.nan
    before = bytes_of(denoiser.export())
    assert np.isnan(denoiser.train_step(batch, 0.1))
    assert bytes_of(denoiser.export()) == before


def test_a_backend_whose_package_is_missing(toy):
    with pytest.raises(ValueError, match="^backend slate needs the package slate, which is not installed$"):
        load_backend("slate")


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda params: params.pop("linear2.b"), "the parameters lack linear2.b"),
        (lambda params: params.update(extra=np.zeros(1)), "the parameters hold extra"),
        (
            lambda params: params.update({"linear1.b": np.zeros(3)}),
            r"hold linear1.b of shape \(3,\); this network needs",
        ),
    ],
)
@pytest.mark.parametrize("name", ["numpy", "torch"])
def test_wrong_parameters_are_refused(tiny, name, spoil, message):
    _, _, recipe = tiny
    params = mlp.init(recipe.model, generator(0, "init"))
    spoil(params)
    with pytest.raises(ValueError, match=message):
        load_backend(name).make_denoiser(recipe.model, params)
