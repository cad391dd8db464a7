"""Training: algorithm 1 of Ho et al. 2020, as a generator that the caller loops over."""

import math
from typing import Any, NamedTuple

import numpy as np

from npdiff.data import load_data
from npdiff.diffusion import loss_weights, prediction_target, q_sample
from npdiff.models import MODELS, model_name
from npdiff.optim import learning_rate
from npdiff.rng import generator

BLOCK_SIZE = 2**14      # numbers in one draw: small draws are slow, so points are drawn for many steps


class Batch(NamedTuple):
    """What one training step works on. N samples; "array" is the backend's own kind."""
    step: int                           # 1, 2, ...
    x_t: Any                            # array (N, ...), the noised data
    t: np.ndarray                       # integers (N,) in 1..T
    target: Any                         # array (N, ...), what the network should answer
    labels: np.ndarray | None = None    # integers (N,) for a conditional recipe; `classes` means "no label"
    weight: np.ndarray | None = None    # floats (N,) where the loss is weighted


def new_denoiser(backend, recipe, seed):
    """An untrained denoiser of the recipe. Its parameters are the same on every backend."""
    params = MODELS[model_name(recipe.model)].init(recipe.model, generator(seed, "init"))
    return backend.make_denoiser(recipe.model, params, recipe.ema_decay)


def train(denoiser, backend, recipe, seed, first_step=1, data_dir=None):
    """Train in place. Yields (step, loss) after each of the steps first_step..recipe.steps.

    Each step takes fresh data, adds noise of random timesteps, and moves the network's answer towards the
    target. data_dir is where the files of the data lie, if it has any. Raises FloatingPointError, with the
    step, where the loss is not finite; the parameters are then those of the step before.
    """
    for batch in backend.batches(recipe, seed, first_step, data_dir):
        lr = learning_rate(recipe.lr_schedule, batch.step, recipe.steps, recipe.lr)
        loss = denoiser.train_step(batch, lr)
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss} at step {batch.step}")
        yield batch.step, loss


def batches(recipe, backend, seed, first_step=1, data_dir=None):
    """The training problem, step by step: yields the Batch of each of the steps first_step..recipe.steps.

    The numbers depend on the recipe and the seed alone: every backend and every resumed run sees the same.
    """
    schedule = recipe.make_schedule()
    weights = loss_weights(schedule, recipe.prediction_type, recipe.loss_weight)       # (T+1,)
    N = recipe.batch_size
    steps = max(1, BLOCK_SIZE // (N * math.prod(recipe.model.data_shape)))
    for block in range((first_step - 1) // steps, math.ceil(recipe.steps / steps)):
        x0, labels, t, noise = draw_block(recipe, seed, block, steps, data_dir)
        x_t = backend.asarray(q_sample(x0, t, noise, schedule))
        target = backend.asarray(prediction_target(x0, t, noise, schedule, recipe.prediction_type))
        weight = None if recipe.loss_weight == "simple" else weights[t]
        for k in range(steps):
            step, rows = block * steps + k + 1, slice(k * N, (k + 1) * N)
            if first_step <= step <= recipe.steps:
                yield Batch(step, x_t[rows], t[rows], target[rows],
                            None if labels is None else labels[rows],
                            None if weight is None else weight[rows])


def draw_block(recipe, seed, block, steps, data_dir=None):
    """The random numbers of `steps` training steps, drawn on the host, at the address (seed, block).

    -> x0 (M, ...), labels (M,) or None, t (M,) int64, uniform on 1..T, and noise (M, ...), with
    M = steps * batch_size. x0 and noise have one float dtype. Raises ValueError if the data is not finite.
    """
    rng = generator(seed, "train", block)
    x0, labels = load_data(recipe.data, data_dir).draw(steps * recipe.batch_size, rng)
    if not np.isfinite(x0).all():
        raise ValueError(f"data: steps {block * steps + 1}..{(block + 1) * steps} draw nan or inf "
                         f"from {recipe.data}; every value must be finite")
    t = rng.integers(1, recipe.num_train_timesteps, len(x0), endpoint=True)
    noise = rng.standard_normal(x0.shape, x0.dtype)
    if not recipe.conditional:
        return x0, None, t, noise
    dropped = rng.random(len(x0)) < recipe.label_dropout
    return x0, np.where(dropped, recipe.model.classes, labels), t, noise
