"""NumPy against torch: the gradients of MLPs, many training steps, samples, and what a state needs.

The image networks are in test_parity_images.py.
"""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from gradient_checks import random_params
from parity import DEVICES, SMALL_SHAPES, both_backends, error, errors

from npdiff import nn
from npdiff.app.checkpoint import sampling_weights
from npdiff.backends import load_backend
from npdiff.data import load_data
from npdiff.diffusion import LOSS_WEIGHTS, PREDICTION_TYPES
from npdiff.models import mlp
from npdiff.recipes import MOONS, TEXTBOOK_MOONS, Recipe
from npdiff.rng import generator
from npdiff.samplers import SAMPLERS
from npdiff.sampling import Sampling, sample
from npdiff.training import Batch, batches, new_denoiser, train
from npdiff.verify.compare import compare_gradients, compare_operations, drift
from npdiff.verify.gradcheck import tensor_error

CONFIGS = 200


def random_recipe(rng):
    """Any depth, width, batch, embedding, schedule and prediction type."""
    model = mlp.Config(
        hidden=tuple(int(rng.integers(1, 20)) for _ in range(rng.integers(1, 5))),
        time_dim=2 * int(rng.integers(1, 10)),
        max_period=float(rng.uniform(10, 10000)),
        fourier_features=int(rng.integers(0, 6)),
        fourier_scale=float(rng.uniform(0.5, 2)),
    )
    return Recipe(
        name="random",
        data="moons",
        model=model,
        schedule=str(rng.choice(["linear", "rescaled_linear", "cosine", "sigmoid", "karras"])),
        num_train_timesteps=int(rng.integers(2, 1000)),
        batch_size=int(rng.integers(1, 40)),
        steps=1,
        lr=1e-3,
        prediction_type=str(rng.choice(list(PREDICTION_TYPES))),
        loss_weight=str(rng.choice(LOSS_WEIGHTS)),
        ema_decay=float(rng.choice([0, 0.99])),
    )


def input_gradients(ours, theirs, x, t, rng):
    """The gradient with respect to x of sum(y * dy), dy random: NumPy's and torch's, as NumPy arrays."""
    y, cache = mlp.forward(ours.params, x, t, ours.config)
    dy = rng.standard_normal(y.shape)
    dx, _ = mlp.backward(dy, cache, ours.config)
    backend = theirs.backend
    x = backend.asarray(x).requires_grad_()
    their_y = theirs.module(x, torch.from_numpy(t))
    (their_dx,) = torch.autograd.grad(their_y, x, backend.asarray(dy))
    return dx, backend.to_numpy(their_dx)


@DEVICES
def test_forward_and_every_gradient_of_random_networks(device):
    """float64, to 1e-12: the output, the loss, the gradient of every parameter and of the input."""
    numpy, reference = both_backends("float64", device)
    seen = set()
    for seed in range(CONFIGS):
        recipe = random_recipe(np.random.default_rng(seed))
        seen.add((recipe.prediction_type, recipe.loss_weight))
        ours, theirs = (new_denoiser(backend, recipe, seed) for backend in (numpy, reference))
        batch = next(batches(recipe, numpy, seed))
        x_t, target = reference.asarray(batch.x_t), reference.asarray(batch.target)
        their_y = reference.to_numpy(theirs.predict(x_t, batch.t))
        assert tensor_error(their_y, ours.predict(batch.x_t, batch.t)) <= 1e-12
        loss, grads = ours.loss_and_grads(batch)
        their_loss, their_grads = theirs.loss_and_grads(batch._replace(x_t=x_t, target=target))
        their_grads = {name: reference.to_numpy(g) for name, g in their_grads.items()}
        assert abs(loss - their_loss) <= 1e-12 * loss
        assert max(errors(their_grads, grads).values()) <= 1e-12, seed
        dx, their_dx = input_gradients(ours, theirs, batch.x_t, batch.t, np.random.default_rng(seed))
        assert error(their_dx, dx) <= 1e-12, seed
    assert seen == set(product(PREDICTION_TYPES, LOSS_WEIGHTS))


@DEVICES
def test_divergence_of_random_networks(device):
    """float64, to 1e-12: the answer and the trace of its Jacobian, for 1 to 5 coordinates."""
    numpy, reference = both_backends("float64", device)
    for seed in range(60):
        rng = np.random.default_rng(seed)
        config = replace(random_recipe(rng).model, data_dim=1 + seed % 5)
        params = mlp.init(config, rng)
        x, t = rng.standard_normal((7, config.data_dim)), rng.integers(1, 1001, 7)
        ours = numpy.make_denoiser(config, params).divergence(x, t)
        theirs = reference.make_denoiser(config, params).divergence(reference.asarray(x), t)
        assert not any(array.requires_grad for array in theirs)
        for array, other in zip(ours, theirs, strict=True):
            assert error(reference.to_numpy(other), array) <= 1e-12, seed


BOTH_MOONS = pytest.mark.parametrize("recipe", [MOONS, TEXTBOOK_MOONS], ids=lambda recipe: recipe.name)


@DEVICES
@BOTH_MOONS
@pytest.mark.slow
def test_a_thousand_steps_in_float64(recipe, device):
    backends = both_backends("float64", device)
    for _, (ours, theirs), distance in drift(backends, replace(recipe, steps=1000), seed=0):
        assert abs(ours - theirs) <= 1e-9 * ours
    assert distance <= 1e-9


@DEVICES
@BOTH_MOONS
def test_one_step_in_float32(recipe, device):
    backends = both_backends("float32", device)
    assert max(compare_gradients(backends, recipe, 0).values()) <= 1e-5
    [(_, (ours, theirs), distance)] = drift(backends, replace(recipe, steps=1), seed=0)
    assert abs(ours - theirs) <= 1e-5 * ours and distance <= 1e-5


def test_operations_line_up():
    recipe = replace(MOONS, batch_size=8)
    rows = compare_operations(both_backends("float64"), recipe, 0)
    hidden = [name for k in (1, 2, 3) for name in (f"linear{k}", f"linear{k}.silu")]
    assert list(rows) == ["time", "fourier", *hidden, "linear4"]
    sizes = {"time": 8 * 32, "fourier": 8 * 32, **dict.fromkeys(hidden, 8 * 128), "linear4": 8 * 2}
    assert {name: size for name, (_, size, _) in rows.items()} == sizes
    for differing, _, ulps in rows.values():
        assert (differing > 0) == (ulps > 0)
    _, _, ulps = rows["time"]
    assert ulps <= 2


def test_operations_find_the_layer_that_is_wrong(monkeypatch):
    right = nn.silu_forward
    monkeypatch.setattr(nn, "silu_forward", lambda x: right(x * (1 + 1e-9)))
    rows = compare_operations(both_backends("float64"), replace(TEXTBOOK_MOONS, batch_size=8), 0)
    _, _, before = rows["linear1"]
    differing, size, after = rows["linear1.silu"]
    assert before < 1e5 < 1e6 < after and differing > 0.9 * size


@pytest.mark.parametrize("first, second", [("numpy", "torch"), ("torch", "numpy")])
def test_a_run_changes_backend_half_way(first, second):
    """30 steps on one, 30 on the other, as 60 on one: parameters, average and Adam's state all travel."""
    recipe = replace(MOONS, steps=60)
    backends = {name: load_backend(name, dtype="float64") for name in (first, second)}
    whole = new_denoiser(backends[first], recipe, 0)
    for step, _ in train(whole, backends[first], recipe, 0):
        if step == 30:
            other = new_denoiser(backends[second], recipe, 9)
            other.load(whole.export())
    assert other.step == 30
    for _ in train(other, backends[second], recipe, 0, first_step=31):
        pass
    ours, theirs = whole.export(), other.export()
    assert set(ours) == set(theirs) and ours["step"] == theirs["step"] == 60
    for name in ours:
        assert tensor_error(theirs[name], ours[name]) <= 1e-11, name
        assert theirs[name].flags.c_contiguous


@DEVICES
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_runs_unchanged_on_torch(sampler, device):
    """The same chain to 1e-9, with labels, guidance, clipping, few steps and a start at noised data."""
    recipe = replace(SMALL_SHAPES, num_train_timesteps=20)
    eta = 0.5 if sampler == "ddim" else 0.0
    sampling = Sampling(sampler, steps=7, eta=eta, clip=1.0, guidance=2.5, start="data")
    x0, labels = load_data("shapes").draw(3, generator(0, "data"))
    params = random_params(recipe.model, np.random.default_rng(0), scale=0.1)

    def chain(backend):
        denoiser = backend.make_denoiser(recipe.model, params)
        stops = sample(denoiser, backend, recipe, 3, 1, labels=labels, sampling=sampling, x0=x0)
        return [backend.to_numpy(x) for _, x in stops]

    backends = both_backends("float64", device)
    denoiser = backends[0].make_denoiser(recipe.model, params)
    assert (denoiser.predict(x0, 5) != denoiser.predict(x0, 5, labels)).any()      # so guidance has an effect
    ours, theirs = map(chain, backends)
    assert len(ours) == 8 and ours[-1].shape == (3, 1, 28, 28)
    for x, their_x in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(their_x, x, rtol=0, atol=1e-9)


def test_weights_reach_every_shard():
    """20 images are three shards, of 8, 8 and 4; each image's error counts as its weight says."""
    numpy, reference = both_backends("float64")
    rng = np.random.default_rng(0)
    params = random_params(SMALL_SHAPES.model, rng)
    ours, theirs = (backend.make_denoiser(SMALL_SHAPES.model, params) for backend in (numpy, reference))
    x, target = rng.standard_normal((2, 20, 1, 28, 28))
    weight, t = rng.uniform(0, 3, 20), rng.integers(1, 201, 20)
    batch = Batch(1, x, t, target, None, weight)
    their_batch = batch._replace(x_t=reference.asarray(x), target=reference.asarray(target))
    loss, grads = ours.loss_and_grads(batch)
    squared_error = ((ours.predict(x, t) - target) ** 2).mean((1, 2, 3))            # (N,)
    assert loss == pytest.approx((weight * squared_error).mean(), rel=1e-12)
    their_loss, their_grads = theirs.loss_and_grads(their_batch)
    assert their_loss == pytest.approx(loss, rel=1e-12)
    for name, g in grads.items():
        assert tensor_error(reference.to_numpy(their_grads[name]), g) <= 1e-12, name
    for denoiser, right in ((ours, batch), (theirs, their_batch)):
        with pytest.raises(ValueError, match=r"t has shape \(20,\); weight has shape \(3,\)"):
            denoiser.loss_and_grads(right._replace(weight=weight[:3]))


@pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-9), ("float32", 1e-3)])
def test_the_same_noise_gives_the_same_samples(dtype, tolerance):
    recipe = replace(MOONS, steps=200)
    numpy, reference = both_backends(dtype)
    trained = new_denoiser(numpy, recipe, 0)
    for _ in train(trained, numpy, recipe, 0):
        pass
    weights = sampling_weights(trained.export())

    def samples(backend):
        denoiser = backend.make_denoiser(recipe.model, weights)
        *_, (_, x) = sample(denoiser, backend, recipe, 100, seed=3)
        return backend.to_numpy(x)

    ours, theirs = samples(numpy), samples(reference)
    assert ours.dtype == theirs.dtype == dtype
    assert abs(ours - theirs).max() <= tolerance


@pytest.mark.parametrize("spoil", [
    lambda state: state.pop("ema/linear1.W"),
    lambda state: state.update(more=np.zeros(1)),
    lambda state: state.update({"adam_m/linear1.W": np.zeros((2, 2))}),
], ids=["missing", "unknown", "shape"])
def test_torch_refuses_a_state_that_does_not_fit(tiny, spoil):
    _, _, recipe = tiny
    denoiser = new_denoiser(load_backend("torch"), recipe, 0)
    before, state = denoiser.export(), denoiser.export()
    spoil(state)
    with pytest.raises(ValueError, match="the state's arrays (lack|hold)"):
        denoiser.load(state)
    after = denoiser.export()
    assert {name: array.tobytes() for name, array in after.items()} == {
        name: array.tobytes() for name, array in before.items()}


@pytest.mark.parametrize(
    "device, dtype, message",
    [("abacus", "float32", "device is 'abacus'"), ("cpu", "float16", "dtype is 'float16'")],
)
def test_torch_refuses_what_is_not_there(device, dtype, message):
    with pytest.raises(ValueError, match=message):
        load_backend("torch", device, dtype)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_absent_cuda_is_one_clear_line():
    with pytest.raises(ValueError, match="^device is 'cuda': .+$"):
        load_backend("torch", "cuda")


def test_everything_stays_on_the_backends_device():
    """No path names a device itself: torch's `meta` device computes shapes alone, and refuses arrays of the
    CPU.
    """
    backend = load_backend("torch")
    backend.device = torch.device("meta")
    denoiser = new_denoiser(backend, replace(MOONS, batch_size=4), 0)
    x = backend.asarray(np.zeros((4, 2)))
    answers = denoiser.predict(x, 3), *denoiser.divergence(x, 3)
    parameters = *denoiser.parameters.values(), *denoiser.average.module.parameters()
    assert {array.device.type for array in (*answers, *parameters)} == {"meta"}
