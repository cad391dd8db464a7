"""The NumPy backend on images: shards and threads change nothing, and labels reach the network."""

from dataclasses import replace

import numpy as np
import pytest
from tiny_recipes import TINY_SHAPES, moved

from npdiff.backends.numpy import NumpyBackend
from npdiff.models import unet
from npdiff.nn import mse_backward, mse_forward
from npdiff.training import batches, new_denoiser, train


@pytest.mark.parametrize("N", [1, 7, 8, 9, 20])
def test_shards_change_nothing(N):
    """The loss and the gradients are those of the whole batch in one piece."""
    backend, recipe = NumpyBackend(dtype="float64"), replace(TINY_SHAPES, batch_size=N)
    denoiser = moved(new_denoiser(backend, recipe, 0), np.random.default_rng(1))
    batch = next(batches(recipe, backend, 0))
    loss, grads = denoiser.loss_and_grads(batch)
    y, cache = unet.forward(denoiser.params, batch.x_t, batch.t, recipe.model, batch.labels)
    whole_loss, loss_cache = mse_forward(y, batch.target)
    _, whole = unet.backward(mse_backward(loss_cache), cache, recipe.model)
    assert loss == pytest.approx(whole_loss, rel=1e-13)
    assert set(grads) == set(whole)
    for name, g in grads.items():
        atol = 1e-13 * abs(whole[name]).max() + 1e-18
        np.testing.assert_allclose(g, whole[name], rtol=0, atol=atol, err_msg=name)
    answer = denoiser.predict(batch.x_t, batch.t, batch.labels)
    np.testing.assert_allclose(answer, y, rtol=1e-12, atol=1e-14)


def test_the_number_of_threads_changes_no_byte():
    recipe, states = replace(TINY_SHAPES, batch_size=40), []
    for threads in (1, 2, 5):
        backend = NumpyBackend(threads=threads)
        denoiser = new_denoiser(backend, recipe, 0)
        assert len(list(train(denoiser, backend, recipe, 0))) == recipe.steps
        states.append({name: array.tobytes() for name, array in denoiser.export().items()})
    assert states[0] == states[1] == states[2]


def test_labels_reach_the_network():
    backend, rng = NumpyBackend(), np.random.default_rng(0)
    denoiser = moved(new_denoiser(backend, TINY_SHAPES, 0), np.random.default_rng(1))
    x = backend.asarray(rng.standard_normal((2, 1, 28, 28)))
    first, second = denoiser.predict(x, 3, np.array([0, 1])), denoiser.predict(x, 3, np.array([0, 2]))
    assert (first[0] == second[0]).all() and (first[1] != second[1]).any()
    # no labels at all is the same as the label `classes` for each image
    assert (denoiser.predict(x, 3) == denoiser.predict(x, 3, np.array([8, 8]))).all()
