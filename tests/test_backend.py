"""The seam: states travel whole or not at all, and wrong values are refused where they enter."""

import numpy as np
import pytest

from npdiff.backend import NumpyBackend, load_backend
from npdiff.models import mlp
from npdiff.rng import generator
from npdiff.training import train


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
    (lambda state: state.pop("adam_v/linear2.b"), "the state lacks adam_v/linear2.b"),
    (lambda state: state.update(extra=np.zeros(1)), "the state has extra, which this network does not"),
    (lambda state: state.update({"params/linear1.W": np.zeros((3, 3))}), r"params/linear1.W has shape \(3, 3\); this network needs")])
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


@pytest.mark.parametrize("x, t, target, message", [
    (np.ones((3, 4)), np.ones(3, int), np.ones((3, 4)), r"x has shape \(3, 4\); this network takes \(N, 2\)"),
    (np.ones((3, 2)), np.ones(2, int), np.ones((3, 2)), r"t has shape \(2,\)"),
    (np.ones((3, 2)), np.ones(3, int), np.ones((2, 2)), "target has shape")])
def test_mismatched_shapes_are_refused(tiny, x, t, target, message):
    denoiser, backend, _ = tiny
    with pytest.raises(ValueError, match=message):
        denoiser.loss_and_grads(backend.asarray(x), t, backend.asarray(target))


@pytest.mark.parametrize("arguments, message", [(("jax",), "backend is 'jax'; installed here: .*numpy"), (("numpy", "cuda"), "device is 'cuda'"),
                                                (("numpy", "cpu", "float16"), "dtype is 'float16'")])
def test_refuses_what_is_not_there(arguments, message):
    with pytest.raises(ValueError, match=message):
        load_backend(*arguments)


def test_dtype_is_kept():
    for dtype in ("float32", "float64"):
        backend = load_backend("numpy", dtype=dtype)
        denoiser = backend.make_denoiser(mlp.Config(), mlp.init(mlp.Config(), generator(0, "init")))
        assert isinstance(backend, NumpyBackend) and denoiser.export()["params/linear1.W"].dtype == dtype
