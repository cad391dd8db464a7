"""The seam: what the project asks of a library that computes, and NumPy's answer to it.

A backend owns arrays and one kind of object, the denoiser: a network with its gradients and its optimiser. Everything else (schedule, closed forms,
samplers, training) is written once and only calls what stands here. A third library needs the seven methods of Denoiser and the five of Backend,
an afternoon's work, and an entry point in the group `npdiff.backends` to be found by name; tests/toy_backend.py is one of 80 lines.
"""

import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from importlib.metadata import entry_points
from pathlib import Path
from typing import Protocol
from unittest import mock

import numpy as np
from threadpoolctl import ThreadpoolController, threadpool_info

from npdiff.diffusion import check_same_shape
from npdiff.likelihood import check_vectors, jacobian_trace
from npdiff.models import MODELS, blocks, model_name
from npdiff.nn import mse_backward, mse_forward
from npdiff.optim import adam, ema, warmed_up
from npdiff.rng import generator

SHARD = 8       # images that one thread works on at a time: small enough for its cache, and the same for any number of cores
THREADS = ThreadPoolExecutor(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
BLAS = ThreadpoolController()


class Denoiser(Protocol):
    """A network that predicts from (x_t, t), with its gradients and its optimiser. "array" means the backend's own kind."""

    step: int
    """Updates made so far."""

    def predict(self, x, t, labels=None):
        """array (N, ...), t an int or NumPy integers (N,), labels NumPy integers (N,) or None for no label -> array (N, ...), the network's output."""

    def divergence(self, x, t, labels=None):
        """Like predict, for vectors x (N, D): the output (N, D) and the trace of each sample's Jacobian d output / d x, (N,). ValueError for images."""

    def loss_and_grads(self, x_t, t, target, labels=None, weight=None):
        """arrays (N, ...), t NumPy integers (N,), labels as in predict, weight NumPy floats (N,) or None for 1
        -> the mean of weight times squared error (a float) and its gradient, a dict of arrays with the parameters' names."""

    def update(self, grads, lr):
        """One step of Adam with the gradients of loss_and_grads, then one of the exponential moving average where the denoiser keeps one."""

    def operations(self, x, t, labels=None):
        """Like predict, but returns every layer's output in the order of computation: a list of (name, array), images channels-last."""

    def export(self):
        """The whole state as a dict of NumPy arrays, in the layout of npdiff.models: params/NAME, ema/NAME where kept, adam_m/NAME, adam_v/NAME, step."""

    def load(self, state):
        """Take over a state from any backend's export. Raises ValueError, and changes nothing, if an array is missing, extra or misshapen."""


class Backend(Protocol):
    """A library on one device in one dtype."""

    def asarray(self, x):
        """NumPy array -> array, in the backend's dtype and on its device."""

    def to_numpy(self, x):
        """array -> NumPy array, dtype kept."""

    def make_denoiser(self, config, params, ema_decay=0.0):
        """A Denoiser of the network that config describes, from a dict of NumPy parameters (ValueError if one is missing, extra or misshapen).
        ema_decay 0 keeps no average."""

    def about(self):
        """The library, its version, the device and the threads, in words."""

    def peak_memory(self):
        """The most memory, in bytes, that this process has used on the device."""


class NumpyBackend:
    """The hand-derived gradients of npdiff.models, on NumPy arrays."""

    def __init__(self, device="cpu", dtype="float32"):
        if device != "cpu":
            raise ValueError(f"device is {device!r}; the numpy backend has only cpu")
        if dtype not in ("float32", "float64"):
            raise ValueError(f"dtype is {dtype!r}; the numpy backend has float32 and float64")
        self.dtype = np.dtype(dtype)
        np.empty(2**25 - 2**16, np.uint8)       # freed at once; glibc then keeps freed arrays up to this size for reuse, which saves a page fault per 4 KB

    def asarray(self, x):
        return np.asarray(x, self.dtype)

    def to_numpy(self, x):
        return x

    def about(self):
        return f"numpy {np.__version__}, {blas_in_words()}"

    def peak_memory(self):
        return host_peak_memory()

    def make_denoiser(self, config, params, ema_decay=0.0):
        return NumpyDenoiser(config, params, ema_decay, self.dtype)


class NumpyDenoiser:
    """All parameters live in one vector, theta, so that Adam and the average are a few long operations; self.params are its named views."""

    def __init__(self, config, params, ema_decay, dtype):
        self.config, self.ema_decay = config, ema_decay
        self.model = MODELS[model_name(config)]
        check_arrays(params, self.model.init(config, generator(0, "init")), "the parameters")
        self.theta = np.concatenate([array.ravel() for array in params.values()], dtype=dtype)
        self.shapes = {name: array.shape for name, array in params.items()}
        self.params = self.views(self.theta)
        self.average = self.theta.copy()
        self.m, self.v = np.zeros_like(self.theta), np.zeros_like(self.theta)
        self.step = 0

    def views(self, vector):
        """A dict of named, shaped views into a vector of all parameters."""
        views, start = {}, 0
        for name, shape in self.shapes.items():
            size = int(np.prod(shape))
            views[name] = vector[start:start + size].reshape(shape)
            start += size
        return views

    def predict(self, x, t, labels=None):
        check_inputs(self.config, x, t, labels)
        t = np.full(len(x), t)
        return np.concatenate(self.in_shards(lambda rows: self.forward(x, t, labels, rows)[0], len(x)))

    def divergence(self, x, t, labels=None):
        check_vectors(x)
        check_inputs(self.config, x, t, labels)
        y, cache = self.forward(x, np.full(len(x), t), labels, slice(None))
        return y, jacobian_trace(y, lambda dy: self.model.backward(dy, cache)[0])

    def loss_and_grads(self, x_t, t, target, labels=None, weight=None):
        """The loss is a mean, so that of a batch is the weighted mean of its shards', and so is its gradient."""
        check_inputs(self.config, x_t, t, labels)
        check_same_shape(x_t=x_t, target=target)
        if weight is not None:
            check_same_shape(t=t, weight=weight)
            weight = weight.astype(self.theta.dtype)

        def shard_loss_and_grads(rows):
            with np.errstate(all="ignore"):             # a loss that is not finite is reported once, by whoever trains
                share = len(x_t[rows]) / len(x_t)
                y, cache = self.forward(x_t, t, labels, rows)
                loss, loss_cache = mse_forward(y, target[rows], None if weight is None else weight[rows])
                dy = share * mse_backward(loss_cache)
                _, grads = self.model.backward(dy, cache)
            return share * float(loss), grads

        (loss, grads), *others = self.in_shards(shard_loss_and_grads, len(x_t))
        for other_loss, other_grads in others:          # always in this order, so that the sum does not depend on timing
            loss += other_loss
            for name, g in other_grads.items():
                grads[name] += g
        return loss, grads

    def forward(self, x, t, labels, rows):
        """The model's forward of some rows of a batch."""
        arguments = [self.params, x[rows], t[rows], self.config]
        return self.model.forward(*arguments) if labels is None else self.model.forward(*arguments, labels[rows])

    def in_shards(self, function, N):
        """[function(rows) for the slices that make up N rows]: points all at once, images SHARD at a time, over all cores.

        NumPy lets go of Python's lock inside its loops and products, so threads really run side by side, each with its own shard in its core's cache.
        """
        if len(self.config.data_shape) == 1:
            return [function(slice(0, N))]
        with BLAS.limit(limits=1, user_api="blas"):     # one thread a product: the shards already keep every core busy
            return list(THREADS.map(function, [slice(i, i + SHARD) for i in range(0, N, SHARD)]))

    def update(self, grads, lr):
        self.step += 1
        g = np.concatenate([grads[name].ravel() for name in self.params])
        adam(self.theta, g, self.m, self.v, self.step, lr)
        if self.ema_decay:
            ema(self.average, self.theta, warmed_up(self.ema_decay, self.step))

    def operations(self, x, t, labels=None):
        """Runs a forward with the model's layers replaced by ones that also note what they return."""
        done = []

        def noting(name, layer):
            def wrapper(*arguments):
                result = layer(*arguments)
                done.append((name.removesuffix("_forward"), result[0] if isinstance(result, tuple) else result))
                return result
            return wrapper

        with ExitStack() as stack:
            for module in (self.model, blocks):
                layers = {name: value for name, value in vars(module).items() if getattr(value, "__module__", "").startswith("npdiff.nn.")}
                stack.enter_context(mock.patch.multiple(module, **{name: noting(name, layer) for name, layer in layers.items()}))
            self.forward(x, np.full(len(x), t), labels, slice(None))
        return done

    def groups(self):
        """The vectors that make up the state, by the prefix they carry in export."""
        groups = {"params": self.theta, "adam_m": self.m, "adam_v": self.v}
        return groups | {"ema": self.average} if self.ema_decay else groups

    def export(self):
        state = {f"{group}/{name}": view.copy() for group, vector in self.groups().items() for name, view in self.views(vector).items()}
        return state | {"step": np.array(self.step)}

    def load(self, state):
        check_arrays(state, self.export(), "the state's arrays")
        for group, vector in self.groups().items():
            for name, view in self.views(vector).items():
                view[...] = state[f"{group}/{name}"]
        self.step = int(state["step"])


def check_inputs(config, x, t, labels):
    """Raise ValueError unless x is a batch of what the network takes, t one timestep or one per sample, and labels None or, for a network with classes, one per sample."""
    if tuple(x.shape[1:]) != config.data_shape:
        raise ValueError(f"x has shape {tuple(x.shape)}; this network takes (N, {', '.join(map(str, config.data_shape))})")
    if np.shape(t) not in ((), (len(x),)):
        raise ValueError(f"t has shape {np.shape(t)}; for {len(x)} samples it must be an int or ({len(x)},)")
    blocks.check_labels_fit(labels, config, len(x))


def check_arrays(arrays, expected, what):
    """Raise ValueError unless the two dicts of arrays have the same names and shapes; `what` names the first in the message."""
    for name in expected:
        if name not in arrays:
            raise ValueError(f"{what} lack {name}")
    for name, array in arrays.items():
        if name not in expected:
            raise ValueError(f"{what} hold {name}, which this network does not have")
        if array.shape != tuple(expected[name].shape):
            raise ValueError(f"{what} hold {name} of shape {array.shape}; this network needs {tuple(expected[name].shape)}")


def host_peak_memory():
    """The most memory that this process has had resident, in bytes."""
    if sys.platform == "linux":                     # getrusage would count what the parent had before it started this process
        status = Path("/proc/self/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024
    import resource
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def blas_in_words():
    """The BLAS that NumPy multiplies matrices with, its version and its threads."""
    return ", ".join(f"{pool['internal_api']} {pool['version']} ({pool.get('architecture', 'unknown')}), {pool['num_threads']} thread(s)"
                     for pool in threadpool_info() if pool["user_api"] == "blas")


def load_backend(name, device="cpu", dtype="float32"):
    """The backend called `name`: numpy, or one that an installed package offers under the entry point group `npdiff.backends`. ValueError if there is none."""
    found = {point.name: point for point in entry_points(group="npdiff.backends")}
    if name not in found:
        raise ValueError(f"backend is {name!r}; it must be one of {', '.join(sorted(found))}")
    try:
        backend = found[name].load()
    except ModuleNotFoundError as error:
        raise ValueError(f"backend {name} needs the package {error.name}, which is not installed: pip install \"npdiff[{name}]\"") from None
    return backend(device=device, dtype=dtype)
