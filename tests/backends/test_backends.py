"""The seam: states travel whole or not at all, and wrong values are refused where they enter."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from toy_backend import ToyBackend

from npdiff.backends import load_backend
from npdiff.backends import numpy as backend_module
from npdiff.backends.numpy import NumpyBackend
from npdiff.models import convnet, mlp
from npdiff.recipes import MOONS
from npdiff.rng import generator
from npdiff.sampling import sample
from npdiff.training import Batch, train
from npdiff.verify.gradcheck import element_error, tensor_error


def test_state_travels(tiny):
    denoiser, backend, recipe = tiny
    list(train(denoiser, backend, recipe, 0))
    state = denoiser.export()
    other = backend.make_denoiser(recipe.model, mlp.init(recipe.model, generator(9, "init")), recipe.ema_decay)
    other.load(state)
    assert {name: array.tobytes() for name, array in other.export().items()} == {name: array.tobytes() for name, array in state.items()}
    state["params/linear1.W"][:] = 0                                    # an export is a copy
    assert denoiser.params["linear1.W"].any()


@pytest.mark.parametrize("spoil, message", [
    (lambda state: state.pop("adam_v/linear2.b"), "the state's arrays lack adam_v/linear2.b"),
    (lambda state: state.update(extra=np.zeros(1)), "the state's arrays hold extra, which this network does not have"),
    (lambda state: state.update({"params/linear1.W": np.zeros((3, 3))}), r"hold params/linear1.W of shape \(3, 3\); this network needs")])
def test_a_wrong_state_changes_nothing(tiny, spoil, message):
    denoiser, backend, recipe = tiny
    other = backend.make_denoiser(recipe.model, mlp.init(recipe.model, generator(9, "init")), recipe.ema_decay)
    state = other.export()
    spoil(state)
    before = denoiser.theta.tobytes()
    with pytest.raises(ValueError, match=message):
        denoiser.load(state)
    assert denoiser.theta.tobytes() == before


def test_prediction_takes_one_t_or_many(tiny):
    denoiser, backend, recipe = tiny
    x = backend.asarray(np.random.default_rng(0).standard_normal((3, 2)))
    np.testing.assert_array_equal(denoiser.predict(x, 7), denoiser.predict(x, np.array([7, 7, 7])))
    assert denoiser.predict(x, 7).dtype == np.float32


def test_divergence_is_the_trace_of_the_complex_step():
    """60 random networks, each with 1 to 5 coordinates: the answer is predict's, and the trace that of the Jacobian column by column."""
    for seed in range(60):
        rng = np.random.default_rng(seed)
        D, N, h = 1 + seed % 5, int(rng.integers(1, 9)), 1e-30
        config = mlp.Config(data_dim=D, hidden=tuple(rng.integers(1, 20, rng.integers(1, 4)).tolist()), time_dim=2 * int(rng.integers(1, 6)),
                            fourier_features=int(rng.integers(0, 5)) if seed % 2 else 0)
        denoiser = load_backend("numpy", dtype="float64").make_denoiser(config, mlp.init(config, rng))
        x, t = rng.standard_normal((N, D)), rng.integers(1, 1001, N)
        y, trace = denoiser.divergence(x, t)
        np.testing.assert_array_equal(y, denoiser.predict(x, t))
        diagonal = [mlp.forward(denoiser.params, x + 1j * h * e_d, t, config)[0][:, d].imag / h for d, e_d in enumerate(np.eye(D))]       # (D, N)
        assert trace.shape == (N,) and trace.dtype == np.float64
        assert element_error(trace, sum(diagonal)) <= 1e-12 and tensor_error(trace, sum(diagonal)) <= 1e-12, seed


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
    with pytest.raises(ValueError, match=r"x has shape \(3, 1, 4, 4\); the trace of a Jacobian is for vectors"):
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


@pytest.mark.parametrize("arguments, message", [(("jax",), "backend is 'jax'; it must be one of .*numpy"), (("numpy", "cuda"), "device is 'cuda'"),
                                                (("numpy", "cpu", "float16"), "dtype is 'float16'")])
def test_refuses_what_is_not_there(arguments, message):
    with pytest.raises(ValueError, match=message):
        load_backend(*arguments)


def test_dtype_is_kept():
    for dtype in ("float32", "float64"):
        backend = load_backend("numpy", dtype=dtype)
        denoiser = backend.make_denoiser(mlp.Config(), mlp.init(mlp.Config(), generator(0, "init")))
        assert isinstance(backend, NumpyBackend) and denoiser.export()["params/linear1.W"].dtype == dtype


class FakeEntryPoint:
    def __init__(self, name, load):
        self.name, self.load = name, load


def missing():
    raise ModuleNotFoundError("No module named 'slate'", name="slate")


@pytest.fixture
def toy(monkeypatch):
    """The toy backend, and one whose package is missing, found as entry points are."""
    points = [FakeEntryPoint("toy", lambda: ToyBackend), FakeEntryPoint("slate", missing)]
    monkeypatch.setattr(backend_module, "entry_points", lambda group: points if group == "npdiff.backends" else [])


def test_a_third_backend_trains_and_samples(toy):
    """The same training and sampler: the loss of the best linear denoiser is well below that of predicting nothing (1), the samples have the data's mean."""
    recipe = replace(MOONS, schedule="rescaled_linear", steps=150, batch_size=64)
    backend = load_backend("toy")
    denoiser = backend.make_denoiser(recipe.model, {})
    losses = [loss for _, loss in train(denoiser, backend, recipe, 0)]
    assert denoiser.step == 150 and np.mean(losses[-50:]) < 0.6 < np.mean(losses[:3])
    *_, (t, x) = sample(denoiser, backend, recipe, 200, 0)
    assert t == 0 and backend.to_numpy(x).shape == (200, 2) and abs(backend.to_numpy(x).mean(0) - (0.75, 0.375)).max() < 0.4


def test_the_toy_is_small():
    assert len((Path(__file__).parent / "toy_backend.py").read_text().splitlines()) <= 80


def test_a_backend_whose_package_is_missing(toy):
    with pytest.raises(ValueError, match=r'backend slate needs the package slate, which is not installed: pip install "npdiff\[slate\]"'):
        load_backend("slate")


@pytest.mark.parametrize("spoil, message", [(lambda params: params.pop("linear2.b"), "the parameters lack linear2.b"),
                                            (lambda params: params.update(extra=np.zeros(1)), "the parameters hold extra"),
                                            (lambda params: params.update({"linear1.b": np.zeros(3)}), r"hold linear1.b of shape \(3,\); this network needs")])
@pytest.mark.parametrize("name", ["numpy", "torch"])
def test_wrong_parameters_are_refused(tiny, name, spoil, message):
    _, _, recipe = tiny
    params = mlp.init(recipe.model, generator(0, "init"))
    spoil(params)
    with pytest.raises(ValueError, match=message):
        load_backend(name).make_denoiser(recipe.model, params)
