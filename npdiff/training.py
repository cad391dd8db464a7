"""Training: algorithm 1 of Ho et al. 2020, as a generator that the caller loops over."""

import math

import numpy as np

from npdiff.data import load_data
from npdiff.diffusion import loss_weights, prediction_target, q_sample
from npdiff.optim import learning_rate
from npdiff.rng import generator


BLOCK_SIZE = 2**14      # numbers in one draw: a small draw costs mostly its call, so points are drawn for many steps at once, images for one


def draw_block(recipe, seed, block, steps, data_dir=None):
    """The random numbers of `steps` training steps, drawn on the host: x0 (M, ...), labels (M,) or None, t (M,) uniform on 1..T, noise (M, ...),
    with M = steps * batch_size; x0 and noise of one float dtype, t int64.

    They depend on (seed, block) alone, so every backend and every resumed run sees the same. Raises ValueError if the data is not finite.
    """
    rng = generator(seed, "train", block)
    x0, labels = load_data(recipe.data, data_dir)(steps * recipe.batch_size, rng)
    if not np.isfinite(x0).all():
        raise ValueError(f"data: steps {block * steps + 1}..{(block + 1) * steps} draw nan or inf from {recipe.data}; every value must be finite")
    t = rng.integers(1, recipe.num_train_timesteps, len(x0), endpoint=True)
    noise = rng.standard_normal(x0.shape, x0.dtype)
    if not recipe.conditional:
        return x0, None, t, noise
    dropped = rng.random(len(x0)) < recipe.label_dropout
    return x0, np.where(dropped, recipe.model.classes, labels), t, noise       # the label `classes` means "no label"


def batches(recipe, backend, seed, first_step=1, data_dir=None):
    """The training problem, step by step: yields (step, x_t, t, target, labels, weight), x_t and target as the backend's arrays (N, ...), t as integers (N,),
    labels as integers (N,) for a conditional recipe, weight as floats (N,) where the loss is weighted; else None."""
    schedule = recipe.make_schedule()
    weights = None if recipe.loss_weight == "simple" else loss_weights(schedule, recipe.prediction_type, recipe.loss_weight)
    N = recipe.batch_size
    steps = max(1, BLOCK_SIZE // (N * math.prod(recipe.model.data_shape)))
    for block in range((first_step - 1) // steps, math.ceil(recipe.steps / steps)):
        x0, labels, t, noise = draw_block(recipe, seed, block, steps, data_dir)
        x_t = backend.asarray(q_sample(x0, t, noise, schedule))
        target = backend.asarray(prediction_target(x0, t, noise, schedule, recipe.prediction_type))
        for k in range(steps):
            step, rows = block * steps + k + 1, slice(k * N, (k + 1) * N)
            if first_step <= step <= recipe.steps:
                yield (step, x_t[rows], t[rows], target[rows], None if labels is None else labels[rows],
                       None if weights is None else weights[t[rows]])


def train(denoiser, backend, recipe, seed, first_step=1, data_dir=None):
    """Train in place; yields (step, loss) after each of the steps first_step..recipe.steps. data_dir is where the data's files lie, if it has any.

    Each step shows the network fresh data, noised to random timesteps, and moves its prediction towards the target. Raises FloatingPointError, naming
    the step and before touching the parameters, when the loss is not finite.
    """
    for step, x_t, t, target, labels, weight in batches(recipe, backend, seed, first_step, data_dir):
        loss, grads = denoiser.loss_and_grads(x_t, t, target, labels, weight)
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss} at step {step}")
        denoiser.update(grads, learning_rate(recipe.lr_schedule, step, recipe.steps, recipe.lr))
        yield step, loss
