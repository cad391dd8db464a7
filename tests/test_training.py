"""Training: what a step draws, what the network learns, how a run goes on, and how it stops."""

import math
from dataclasses import replace

import numpy as np
import pytest
from fashion import REAL, needs_data
from tiny_recipes import TINY_SHAPES

from npdiff import training
from npdiff.backends.numpy import NumpyBackend
from npdiff.data.dataset import DataSet
from npdiff.diffusion import q_sample
from npdiff.recipes import LAB_FASHION, MOONS, TEXTBOOK_MOONS
from npdiff.training import batches, draw_block, new_denoiser, train


def test_batches_are_noised_data_with_uniform_t():
    recipe, backend = replace(MOONS, steps=40), NumpyBackend(dtype="float64")
    x0, labels, t, noise = draw_block(recipe, 3, 0, 32)
    assert labels is None and x0.shape == noise.shape == (32 * 256, 2)
    assert x0.dtype == noise.dtype == np.float64
    seen = list(batches(recipe, backend, 3))
    assert [batch.step for batch in seen] == list(range(1, 41))
    x_t = np.concatenate([batch.x_t for batch in seen[:32]])
    np.testing.assert_array_equal(x_t, q_sample(x0, t, noise, recipe.make_schedule()))
    assert t.min() == 1 and t.max() == 200
    assert abs(np.bincount(t)[1:] / len(t) - 1 / 200).max() < 0.003
    assert abs(noise.mean()) < 0.03 and noise.std() == pytest.approx(1, abs=0.02)
    correlation = np.corrcoef(np.concatenate([x0, noise], axis=1).T)                # (4, 4)
    assert abs(correlation[:2, 2:]).max() < 0.04


@pytest.mark.parametrize("first_step", [2, 17, 32, 33, 40])
def test_a_step_needs_no_history(first_step):
    recipe, backend = replace(MOONS, steps=40), NumpyBackend()
    whole = list(batches(recipe, backend, 0))[first_step - 1:]
    for one, other in zip(whole, batches(recipe, backend, 0, first_step), strict=True):
        assert one.step == other.step
        for name in ("x_t", "t", "target"):
            assert getattr(one, name).tobytes() == getattr(other, name).tobytes()


def test_some_labels_are_hidden():
    recipe = replace(TINY_SHAPES, batch_size=4000, label_dropout=0.25)
    classes = recipe.model.classes
    _, labels, _, _ = draw_block(recipe, 0, 0, 1)
    assert set(labels.tolist()) == set(range(classes + 1))              # `classes` means "no label"
    assert (labels == classes).mean() == pytest.approx(0.25, abs=0.03)
    without_classes = replace(recipe, model=replace(recipe.model, classes=0))
    assert draw_block(without_classes, 0, 0, 1)[1] is None


def test_resuming_gives_the_same_bytes(tiny):
    denoiser, backend, recipe = tiny
    losses = []
    for step, loss in train(denoiser, backend, recipe, 0):
        losses.append(loss)
        if step == 11:
            middle = denoiser.export()
    other = new_denoiser(backend, recipe, 5)
    other.load(middle)
    assert [loss for _, loss in train(other, backend, recipe, 0, first_step=12)] == losses[11:]
    assert all(array.tobytes() == other.export()[name].tobytes() for name, array in denoiser.export().items())


@pytest.mark.slow
def test_textbook_recipe_ends_where_it_was_measured():
    """A textbook's DDPM chapter (two moons, T = 200, betas 1e-4..0.02, an 18-128-128-2 network) promises a
    loss of 0.3. It ends at 0.525.
    """
    backend = NumpyBackend()
    denoiser = new_denoiser(backend, TEXTBOOK_MOONS, 0)
    losses = [loss for _, loss in train(denoiser, backend, TEXTBOOK_MOONS, 0)]
    assert np.mean(losses[-500:]) == pytest.approx(0.525, abs=0.01)


@needs_data
def test_the_lab_learns_from_the_real_data():
    recipe, backend = replace(LAB_FASHION, steps=12, batch_size=32), NumpyBackend()
    losses = [loss for _, loss in train(new_denoiser(backend, recipe, 0), backend, recipe, 0, data_dir=REAL)]
    assert losses[0] == pytest.approx(1, abs=0.05) and losses[-1] < 0.98 * losses[0]


def test_a_loss_that_is_not_finite_stops_before_the_update():
    recipe, backend = replace(TEXTBOOK_MOONS, lr=1e30, steps=10), NumpyBackend()
    denoiser = new_denoiser(backend, recipe, 0)
    good, step = None, 0
    with pytest.raises(FloatingPointError, match=r"the loss is (inf|nan) at step \d+"):
        for step, loss in train(denoiser, backend, recipe, 0):
            good = denoiser.theta.copy()
    assert 1 <= step < 10 and math.isfinite(loss)
    assert denoiser.theta.tobytes() == good.tobytes() and denoiser.step == step


def test_data_that_is_not_finite_is_refused(monkeypatch, tiny):
    denoiser, backend, recipe = tiny

    def spoilt(n, rng):
        x = rng.standard_normal((n, 2))
        x[-1] = np.nan
        return x, None

    monkeypatch.setattr(training, "load_data", lambda name, directory: DataSet(spoilt))
    with pytest.raises(ValueError, match="draw nan or inf from moons"):
        next(train(denoiser, backend, recipe, 0))


def test_the_moving_average_follows_its_formula(tiny):
    denoiser, backend, recipe = tiny
    average = denoiser.theta.astype(np.float64)
    for step, _ in train(denoiser, backend, recipe, 0):
        decay = min(0.999, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * denoiser.theta
    np.testing.assert_allclose(denoiser.average, average, rtol=1e-5)
