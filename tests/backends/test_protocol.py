"""protocols.Array lists all that the shared code does with a backend's arrays.

The arrays of this backend have what it lists, and nothing else.
"""

from dataclasses import replace
from typing import Protocol

import numpy as np
import pytest
from tiny_recipes import TINY_MOONS, TINY_SHAPES

from npdiff.backends.numpy import NumpyBackend, NumpyDenoiser
from npdiff.backends.protocols import Array
from npdiff.data.dataset import DataSet
from npdiff.evaluation.likelihood import data_likelihood
from npdiff.evaluation.metrics import loss_above_floor, loss_by_t
from npdiff.samplers import SAMPLERS
from npdiff.sampling import Sampling, labels_in_turn, sample
from npdiff.training import new_denoiser, train
from npdiff.verify.compare import compare_gradients, compare_operations

OF_EVERY_CLASS = set(vars(type("Empty", (Protocol,), {})))
LISTED = [name for name, member in vars(Array).items() if callable(member) and name not in OF_EVERY_CLASS]


class Only:
    """A NumPy array of which only what protocols.Array lists can be used."""
    __slots__ = ("hidden",)
    __array_ufunc__ = __array__ = None          # NumPy must not take it for one of its own

    def __init__(self, array):
        self.hidden = array

    @property
    def shape(self):
        return self.hidden.shape


def method(name):
    """The method of this name, which takes and returns Only where NumPy's takes and returns an array."""

    def call(self, *arguments, **options):
        bare = [a.hidden if isinstance(a, Only) else a for a in arguments]
        for a in bare:
            assert isinstance(a, (float, int, slice)) or np.shape(a) == self.hidden.shape
            assert not isinstance(a, np.generic)                # its dtype would win over the array's
        answer = getattr(self.hidden, name)(*bare, **options)
        assert answer is not NotImplemented
        return Only(answer) if isinstance(answer, np.ndarray) else answer

    return call


for name in LISTED:
    setattr(Only, name, method(name))


class OnlyBackend(NumpyBackend):
    def asarray(self, x):
        return Only(super().asarray(x))

    def to_numpy(self, x):
        return x.hidden.copy()

    def make_denoiser(self, config, params, ema_decay=0.0):
        return OnlyDenoiser(config, params, ema_decay, self.dtype, self.threads)


class OnlyDenoiser(NumpyDenoiser):
    def predict(self, x, t, labels=None):
        return Only(super().predict(x.hidden, t, labels))

    def divergence(self, x, t, labels=None):
        return tuple(map(Only, super().divergence(x.hidden, t, labels)))

    def loss_and_grads(self, batch):
        bare = batch._replace(x_t=batch.x_t.hidden, target=batch.target.hidden)
        loss, grads = super().loss_and_grads(bare)
        return loss, {name: Only(g) for name, g in grads.items()}

    def update(self, grads, lr):
        super().update({name: g.hidden for name, g in grads.items()}, lr)

    def operations(self, x, t, labels=None):
        return {name: Only(y) for name, y in super().operations(x.hidden, t, labels).items()}


def test_the_listed_methods():
    assert set(LISTED) == {
        "__add__", "__radd__", "__sub__", "__rsub__", "__mul__", "__rmul__", "__truediv__", "__neg__",
        "__len__", "__getitem__", "clip", "sum", "mean"}
    with pytest.raises(AttributeError):
        Only(np.ones(3)).reshape(3, 1)


@pytest.mark.parametrize("recipe", [TINY_MOONS, replace(TINY_SHAPES, num_train_timesteps=10)],
                         ids=["moons", "shapes"])
def test_all_shared_code_uses_the_listed_methods_alone(recipe):
    """Training, every sampler with clipping, guidance and a start at data, losses by timestep, comparison.
    The bytes are those on NumPy's own arrays.
    """
    results = []
    for backend in (NumpyBackend(), OnlyBackend()):
        denoiser = new_denoiser(backend, recipe, 0)
        numbers = [loss for _, loss in train(denoiser, backend, replace(recipe, steps=3), 0)]
        labels = labels_in_turn(recipe, 3)
        for sampler in SAMPLERS:
            for start in ("noise", "data"):
                sampling = Sampling(sampler, steps=5, clip=1.0, eta=0.5 if sampler == "ddim" else 0.0,
                                    start=start, guidance=2.0 if recipe.conditional else 1.0)
                x0 = np.ones((3, *recipe.model.data_shape))
                stops = sample(denoiser, backend, recipe, 3, 0, labels=labels, sampling=sampling, x0=x0)
                numbers += [backend.to_numpy(x).tobytes() for _, x in stops]
        numbers += [array.tobytes() for array in loss_by_t(denoiser, backend, recipe, 0)]
        if not recipe.conditional:
            numbers += loss_above_floor(denoiser, backend, recipe, 0)
            likelihood = data_likelihood(denoiser, backend, recipe, 0)
            numbers += [likelihood.log_p, likelihood.exact, likelihood.terms.tobytes()]
        results.append(numbers)
    assert results[0] == results[1] and len(results[0]) > 60
    pair = NumpyBackend(), OnlyBackend()
    assert {differ for differ, *_ in compare_operations(pair, recipe, 0).values()} == {0}
    assert set(compare_gradients(pair, recipe, 0).values()) == {0.0}


def test_the_bound_of_images_uses_the_listed_methods_alone(monkeypatch):
    """Images of 8 bits, as those of Fashion-MNIST."""
    recipe = replace(TINY_SHAPES, num_train_timesteps=4)
    terms = []
    for backend in (NumpyBackend(), OnlyBackend()):
        def load_data(name, data_dir=None):
            shape, classes = recipe.model.data_shape, recipe.model.classes
            return DataSet(lambda n, rng: ((2 * rng.integers(0, 256, (n, *shape)) - 255) / 255,
                                           rng.integers(0, classes, n)))

        monkeypatch.setattr("npdiff.evaluation.likelihood.load_data", load_data)
        denoiser = new_denoiser(backend, recipe, 0)
        terms.append(data_likelihood(denoiser, backend, recipe, 0).terms.tobytes())
    assert terms[0] == terms[1]
