"""Two backends side by side: the same recipe, weights, data and noise; where their numbers part, how far they drift, how fast they are."""

import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from npdiff.backends import load_backend
from npdiff.backends.numpy import SHARD, NumpyBackend
from npdiff.models import is_image
from npdiff.recipes import Recipe
from npdiff.sampling import labels_in_turn, sample
from npdiff.training import new_denoiser, train
from npdiff.verify.gradcheck import tensor_error


def load(spec, dtype):
    """The backend that NAME or NAME:DEVICE describes."""
    name, _, device = spec.partition(":")
    return load_backend(name, device or "cpu", dtype)


def ulps(a, b):
    """The distance of two arrays of one float dtype, element by element, in units of the last place of the larger."""
    return abs(a - b) / np.spacing(np.maximum(abs(a), abs(b)))


def compare_operations(backends, recipe, seed):
    """The forward of the first training step, layer by layer, for two backends.

    -> {name of the layer: (elements that differ, elements, largest difference in ULPs)}. Raises ValueError where the
    backends' layers have other names.
    """
    first, second = (operations_of_first_step(backend, recipe, seed) for backend in backends)
    if list(first) != list(second):
        raise ValueError(f"the backends have other layers: {', '.join(first)}; {', '.join(second)}")
    return {name: (int((a != second[name]).sum()), a.size, float(ulps(a, second[name]).max()))
            for name, a in first.items()}


def operations_of_first_step(backend, recipe, seed):
    """Denoiser.operations on the batch of training step 1, as NumPy arrays."""
    batch = next(backend.batches(recipe, seed))
    operations = new_denoiser(backend, recipe, seed).operations(batch.x_t, batch.t, batch.labels)
    return {name: backend.to_numpy(y) for name, y in operations.items()}


def compare_gradients(backends, recipe, seed):
    """The loss and every gradient of the first training step for two backends, in the order of computation.

    -> {name: relative difference of the whole tensor}
    """
    results = []
    for backend in backends:
        loss, grads = new_denoiser(backend, recipe, seed).loss_and_grads(next(backend.batches(recipe, seed)))
        results.append({"loss": np.array(loss)} | {name: backend.to_numpy(g) for name, g in grads.items()})
    first, second = results
    return {name: tensor_error(second[name].astype(np.float64), first[name].astype(np.float64)) for name in first}


def drift(backends, recipe, seed):
    """Train one denoiser on each of two backends in step: yields (step, the two losses, relative distance of all parameters).

    The distance is taken at 100 of the steps and at the last; it is nan at the others.
    """
    denoisers = [new_denoiser(backend, recipe, seed) for backend in backends]
    every = max(1, recipe.steps // 100)
    for (step, a), (_, b) in zip(*(train(denoiser, backend, recipe, seed) for denoiser, backend in zip(denoisers, backends)), strict=True):
        distance = parameter_distance(*denoisers) if step % every == 0 or step == recipe.steps else np.nan
        yield step, (a, b), distance


def parameter_distance(first, second):
    """The relative distance of two denoisers' parameters, taken together name by name: backends may list them in different orders."""
    ours, theirs = first.export(), second.export()
    names = [name for name in ours if name.startswith("params/")]
    return tensor_error(*(np.concatenate([state[name].ravel() for name in names], dtype=np.float64) for state in (theirs, ours)))


def training_step(backend, recipe, seed):
    """-> a function that makes the next training step: draw, noise, forward, backward, Adam."""
    steps = train(new_denoiser(backend, recipe, seed), backend, replace(recipe, steps=10**9), seed)
    return lambda: next(steps)


def sampling_step(backend, recipe, seed):
    """-> a function that makes the next jump of the ancestral sampler for batch_size samples, from t = T again after t = 0."""
    denoiser = new_denoiser(backend, recipe, seed)

    def jumps():
        while True:
            yield from sample(denoiser, backend, recipe, recipe.batch_size, seed, labels=labels_in_turn(recipe, recipe.batch_size))

    chain = jumps()
    return lambda: next(chain)


def floor_step(recipe, seed, dtype, threads=None):
    """-> a function that makes the matrix products and exponentials of a NumPy training step, and nothing else.

    They are y, dW and dx of every linear layer and convolution, and the exponential of every SiLU, in the shards of
    the step.
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
    """Milliseconds per call of each function, the median over rounds in which all take turns, so that a slow moment of the machine falls on all.

    A round calls each for about `seconds`, at least once; there are 15 rounds, or 5 where one takes more than 3 seconds.
    """
    calls = []
    for function in functions:
        function()                                                          # warms up
        start = time.perf_counter()
        function()
        calls.append(max(1, round(seconds / (time.perf_counter() - start))))
    times, rounds, begun = [[] for _ in functions], 15, time.perf_counter()
    while len(times[0]) < rounds:
        for function, count, mine in zip(functions, calls, times):
            start = time.perf_counter()
            for _ in range(count):
                function()
            mine.append((time.perf_counter() - start) / count * 1000)
        if (time.perf_counter() - begun) / len(times[0]) > 3:
            rounds = 5
    return [float(np.median(mine)) for mine in times]


class Speed(NamedTuple):
    """Milliseconds of a recipe's training and sampling step and bytes of peak memory, one entry for each backend; floor is floor_step's milliseconds."""
    recipe: Recipe
    training: list[float]
    sampling: list[float]
    floor: float
    memory: list[int]


def speed(specs, backends, recipe, dtype, seed):
    """Time and memory of a recipe on all backends, timed in turns, each in a process of its own for memory."""
    *training, floor = time_in_turns([*(training_step(backend, recipe, seed) for backend in backends), floor_step(recipe, seed, dtype)])
    sampling = time_in_turns([sampling_step(backend, recipe, seed) for backend in backends])
    return Speed(recipe, training, sampling, floor, [peak_memory(spec, dtype, recipe, seed) for spec in specs])


def peak_memory(spec, dtype, recipe, seed):
    """Bytes that a process of its own needs to import the backend, make 5 training steps and 5 sampling steps."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(use_memory, spec, dtype, recipe, seed).result()


def use_memory(spec, dtype, recipe, seed):
    """What peak_memory runs in its process."""
    with threadpool_limits(1, user_api="blas"):
        backend = load(spec, dtype)
        for make in (training_step, sampling_step):
            step = make(backend, recipe, seed)
            for _ in range(5):
                step()
        return backend.peak_memory()
