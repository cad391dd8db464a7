"""Two backends side by side, with the same recipe, weights, data and noise.

Where do their numbers differ first? How far do they part in training? How fast are they, and how much memory
do they use?
"""

import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from npdiff.backends import load_backend
from npdiff.backends.numpy import SHARD, NumpyBackend
from npdiff.models import is_image
from npdiff.recipes import Recipe
from npdiff.sampling import labels_in_turn, sample
from npdiff.training import new_denoiser, train
from npdiff.verify.gradcheck import tensor_error


def load(spec, dtype, threads=None):
    """The backend that NAME or NAME:DEVICE describes."""
    name, _, device = spec.partition(":")
    return load_backend(name, device or "cpu", dtype, threads)


def ulps(a, b):
    """The distance of two arrays of one float dtype, by element, in units of the larger's last place."""
    return abs(a - b) / np.spacing(np.maximum(abs(a), abs(b)))


def compare_operations(backends, recipe, seed):
    """The forward of the first training step, layer by layer, for two backends.

    -> {name of the layer: (elements that differ, elements, largest difference in ULPs)}. A layer that has no
    partner is at the end with (0, 0, nan), and its name says why.
    """
    first, second = (operations_of_first_step(backend, recipe, seed) for backend in backends)
    names, left_out = pairs(first, second)
    compared = {name: (int((first[name] != second[name]).sum()), first[name].size,
                       float(ulps(first[name], second[name]).max())) for name in names}
    return compared | {name: (0, 0, np.nan) for name in left_out}


def pairs(first, second):
    """Two dicts of arrays -> the names that both have, with equal shapes; a phrase for each other name."""
    names = [name for name in first if name in second and first[name].shape == second[name].shape]
    left_out = [f"{name} (left out: other shapes)" for name in first if name in second and name not in names]
    left_out += [f"{name} (left out: first only)" for name in first if name not in second]
    return names, left_out + [f"{name} (left out: second only)" for name in second if name not in first]


def operations_of_first_step(backend, recipe, seed):
    """Denoiser.operations on the batch of training step 1, as NumPy arrays."""
    batch = next(backend.batches(recipe, seed))
    operations = new_denoiser(backend, recipe, seed).operations(batch.x_t, batch.t, batch.labels)
    return {name: backend.to_numpy(y) for name, y in operations.items()}


def compare_gradients(backends, recipe, seed):
    """The loss and every gradient of the first training step for two backends, in the order of computation.

    -> {name: relative difference of the whole tensor}. What has no partner is at the end with nan, and its
    name says why.
    """
    results = []
    for backend in backends:
        loss, grads = new_denoiser(backend, recipe, seed).loss_and_grads(next(backend.batches(recipe, seed)))
        results.append({"loss": np.array(loss)} | {name: backend.to_numpy(g) for name, g in grads.items()})
    first, second = ({name: g.astype(np.float64) for name, g in result.items()} for result in results)
    names, left_out = pairs(first, second)
    size = np.linalg.norm([np.linalg.norm(first[name]) for name in names if name != "loss"])
    differences = {name: tensor_error(second[name], first[name], size) for name in names}
    return differences | dict.fromkeys(left_out, np.nan)


def drift(backends, recipe, seed):
    """Train one denoiser on each of two backends, step by step: yields (step, the two losses, distance).

    distance is the relative distance of all parameters. It is taken at 100 of the steps and at the last, and
    is nan at the others.
    """
    denoisers = [new_denoiser(backend, recipe, seed) for backend in backends]
    both = zip(*(train(denoiser, backend, recipe, seed)
                 for denoiser, backend in zip(denoisers, backends, strict=True)), strict=True)
    every = max(1, recipe.steps // 100)
    for (step, a), (_, b) in both:
        taken = step % every == 0 or step == recipe.steps
        yield step, (a, b), parameter_distance(*denoisers) if taken else np.nan


def parameter_distance(first, second):
    """The relative distance of two denoisers' parameters, all together. They are matched by name and shape;
    nan where none match.
    """
    ours, theirs = first.export(), second.export()
    names = [name for name in pairs(ours, theirs)[0] if name.startswith("params/")]
    if not names:
        return np.nan

    def vector(state):
        return np.concatenate([state[name].ravel() for name in names], dtype=np.float64)

    return tensor_error(vector(theirs), vector(ours))


def training_step(backend, recipe, seed):
    """-> a function that makes the next training step: draw, noise, forward, backward, Adam."""
    steps = train(new_denoiser(backend, recipe, seed), backend, replace(recipe, steps=10**9), seed)
    return lambda: next(steps)


def sampling_step(backend, recipe, seed):
    """-> a function that makes the next jump of the ancestral sampler, for batch_size samples."""
    denoiser, n = new_denoiser(backend, recipe, seed), recipe.batch_size

    def jumps():
        while True:
            yield from sample(denoiser, backend, recipe, n, seed, labels=labels_in_turn(recipe, n))

    chain = jumps()
    return lambda: next(chain)


def floor_step(recipe, seed, dtype, threads=None):
    """-> a function that makes the matrix products and exponentials of a NumPy training step, and nothing
    else.

    They are y, dW and dx of every linear layer and convolution, and the exponential of every SiLU, in the
    shards of the step.
    """
    backend = NumpyBackend(dtype=dtype, threads=threads)
    denoiser = new_denoiser(backend, recipe, seed)
    batch = next(backend.batches(recipe, seed))
    rows = slice(0, SHARD if is_image(recipe.model) else None)
    labels = None if batch.labels is None else batch.labels[rows]
    operations = denoiser.operations(batch.x_t[rows], batch.t[rows], labels)
    products = []                                                           # x (M, K), W (K, O), y (M, O)
    for name, W in denoiser.params.items():
        if name.endswith(".W"):
            W = W.reshape(-1, W.shape[-1])
            y = operations[name.removesuffix(".W")].reshape(-1, W.shape[1])
            products.append((np.ones((len(y), len(W)), dtype), W, y))
    activations = [y for name, y in operations.items() if name.endswith("silu")]

    def shard(rows):
        for x, W, y in products:
            x @ W, x.T @ y, y @ W.T
        for y in activations:
            np.exp(y)

    return lambda: denoiser.in_shards(shard, recipe.batch_size)


def time_in_turns(functions, seconds=0.1):
    """Milliseconds per call of each function: the median over rounds in which all take turns.

    So a slow moment of the machine falls on all of them. A round calls each for about `seconds`, at least
    once. There are 15 rounds, or 5 where a round takes more than 3 seconds.
    """
    calls = []
    for function in functions:
        function()                                                          # the first call is slower
        calls.append(max(1, round(seconds / seconds_of(function, 1))))
    rounds, begun = [], time.perf_counter()
    while len(rounds) < 15:
        rounds.append([1000 * seconds_of(function, count)
                       for function, count in zip(functions, calls, strict=True)])
        if len(rounds) >= 5 and (time.perf_counter() - begun) / len(rounds) > 3:
            break
    return np.median(rounds, axis=0).tolist()


def seconds_of(function, count):
    """Seconds per call, over `count` calls."""
    start = time.perf_counter()
    for _ in range(count):
        function()
    return (time.perf_counter() - start) / count


class Speed(NamedTuple):
    """What a recipe costs; the lists have one entry for each backend."""
    recipe: Recipe
    training: list[float]       # milliseconds of a training step
    sampling: list[float]       # milliseconds of a sampling step
    floor: float                # milliseconds of floor_step
    memory: list[int]           # bytes, the peak


def speed(specs, backends, recipe, dtype, seed, threads=None):
    """The Speed of a recipe. Steps are timed in turns; each backend's memory in a process of its own."""
    steps = [training_step(backend, recipe, seed) for backend in backends]
    *training, floor = time_in_turns([*steps, floor_step(recipe, seed, dtype, threads)])
    sampling = time_in_turns([sampling_step(backend, recipe, seed) for backend in backends])
    memory = [peak_memory(spec, dtype, recipe, seed, threads) for spec in specs]
    return Speed(recipe, training, sampling, floor, memory)


def peak_memory(*arguments):
    """The bytes that a process of its own needs for use_memory(*arguments)."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(use_memory, *arguments).result()


def use_memory(spec, dtype, recipe, seed, threads=None):
    """Import the backend, make 5 training steps and 5 sampling steps. Returns the peak memory in bytes."""
    backend = load(spec, dtype, threads)
    for make in (training_step, sampling_step):
        step = make(backend, recipe, seed)
        for _ in range(5):
            step()
    return backend.peak_memory()
