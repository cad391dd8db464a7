"""The NumPy backend: the hand-derived gradients of npdiff.models, on arrays."""

import numpy as np

from npdiff.backends.machine import blas_in_words, cores, host_peak_memory, one_blas_thread, thread_pool
from npdiff.backends.protocols import (
    Backend,
    Denoiser,
    check_arrays,
    check_finite,
    check_inputs,
    check_step,
    check_vectors,
    numbers,
)
from npdiff.diffusion import check_same_shape
from npdiff.models import MODELS, is_image, model_name
from npdiff.nn import mse_backward, mse_forward
from npdiff.optim import adam, ema, warmed_up
from npdiff.rng import generator

SHARD = 8       # images that a thread works on at a time: few enough for its cache


class NumpyBackend(Backend):
    """NumPy on the CPU, float32 or float64. threads work on images side by side; all cores unless given."""

    def __init__(self, device="cpu", dtype="float32", threads=None, options=None):
        if device != "cpu":
            raise ValueError(f"device is {device!r}; the numpy backend has only cpu")
        if dtype not in ("float32", "float64"):
            raise ValueError(f"dtype is {dtype!r}; the numpy backend has float32 and float64")
        if threads is not None and threads < 1:
            raise ValueError(f"threads is {threads}; it must be at least 1")
        self.dtype, self.threads = np.dtype(dtype), threads or cores()
        keep_freed_arrays()

    def asarray(self, x):
        return np.array(numbers("x", x), self.dtype, order="C")         # a copy, as it is on every device

    def to_numpy(self, x):
        return np.array(x)

    def make_denoiser(self, config, params, ema_decay=0.0):
        return NumpyDenoiser(config, params, ema_decay, self.dtype, self.threads)

    def about(self):
        return f"numpy {np.__version__}, {blas_in_words()}, {self.threads} thread(s)"

    def peak_memory(self):
        return host_peak_memory()


class NumpyDenoiser(Denoiser):
    """A network with its optimiser. All parameters lie in one vector, theta; self.params are its named views.

    So Adam and the moving average are a few operations on long vectors.
    """

    def __init__(self, config, params, ema_decay, dtype, threads):
        self.config, self.ema_decay, self.threads, self.dtype = config, ema_decay, threads, dtype
        self.model = MODELS[model_name(config)]
        expected = self.model.init(config, generator(0, "init"))
        self.shapes = {name: array.shape for name, array in expected.items()}
        self.theta = self.vector(params, expected, "the parameters")
        self.params = self.views(self.theta)
        self.average = self.theta.copy()
        self.m, self.v = np.zeros_like(self.theta), np.zeros_like(self.theta)
        self.step = 0

    def __getstate__(self):
        """What a copy or a pickle takes along."""
        return {name: value for name, value in vars(self).items() if name not in ("model", "params")}

    def __setstate__(self, state):
        """A copy has vectors of its own, and its params are views of them: so it learns, and alone."""
        for name, value in state.items():
            setattr(self, name, value.copy() if isinstance(value, np.ndarray) else value)
        self.model, self.params = MODELS[model_name(self.config)], self.views(self.theta)

    def vector(self, arrays, expected, what):
        """Named arrays as one vector. Raises ValueError for other names or shapes, and for nan or inf."""
        if {name: np.shape(array) for name, array in arrays.items()} != self.shapes:
            check_arrays(arrays, expected, what)
        with np.errstate(over="ignore"):                    # a number too large for this dtype becomes inf
            vector = np.concatenate([numbers(name, arrays[name]).ravel() for name in expected])
            vector = vector.astype(self.dtype, copy=False)
        if not np.isfinite(vector).all():
            check_finite(self.views(vector), what)
        return vector

    def views(self, vector):
        """Named, shaped views into a vector of all parameters."""
        views, start = {}, 0
        for name, shape in self.shapes.items():
            size = int(np.prod(shape))
            views[name] = vector[start:start + size].reshape(shape)
            start += size
        return views

    def inputs(self, x, t, labels):
        """x, t and labels as the model takes them. Raises ValueError for wrong ones."""
        x = self.array("x", x)
        return x, *check_inputs(self.config, x, t, labels)

    def array(self, name, x):
        """x in the backend's dtype: x itself if it has it."""
        return np.asarray(numbers(name, x), self.dtype)

    def predict(self, x, t, labels=None):
        x, t, labels = self.inputs(x, t, labels)
        return np.concatenate(self.in_shards(lambda rows: self.forward(x, t, labels, rows)[0], len(x)))

    def divergence(self, x, t, labels=None):
        x, t, labels = self.inputs(x, t, labels)
        check_vectors(x)
        with one_blas_thread:
            y, cache = self.forward(x, t, labels, slice(None))
            return y, jacobian_trace(y, lambda dy: self.model.backward(dy, cache, self.config)[0])

    def loss_and_grads(self, batch):
        """The loss is a mean: that of a batch is the weighted mean of its shards', and so is its gradient."""
        x, t, labels = self.inputs(batch.x_t, batch.t, batch.labels)
        target = self.array("target", batch.target)
        check_same_shape(x_t=x, target=target)
        weights = None if batch.weight is None else self.array("weight", batch.weight)
        if weights is not None:
            check_same_shape(t=t, weight=weights)

        def shard_loss_and_grads(rows):
            with np.errstate(all="ignore"):             # train reports a loss that is not finite
                share = len(x[rows]) / len(x)
                y, cache = self.forward(x, t, labels, rows)
                weight = None if weights is None else weights[rows]
                loss, loss_cache = mse_forward(y, target[rows], weight)
                dy = share * mse_backward(loss_cache)
                _, grads = self.model.backward(dy, cache, self.config)
            return share * float(loss), grads

        (loss, grads), *others = self.in_shards(shard_loss_and_grads, len(x))
        for other_loss, other_grads in others:          # in this order always: no sum depends on timing
            loss += other_loss
            for name, g in other_grads.items():
                grads[name] += g
        return loss, grads

    def forward(self, x, t, labels, rows):
        """The model's forward of some rows of a batch."""
        with_labels = {} if labels is None else {"labels": labels[rows]}
        return self.model.forward(self.params, x[rows], t[rows], self.config, **with_labels)

    def in_shards(self, function, N):
        """[function(rows)] for the slices that make up N rows: points all at once, images SHARD at a time.

        The shards run on all threads. NumPy releases Python's lock inside its loops and products, so threads
        really run side by side, each with its own shard in its core's cache.
        """
        with one_blas_thread:
            if not is_image(self.config):
                return [function(slice(0, N))]
            shards = [slice(i, i + SHARD) for i in range(0, N, SHARD)]
            return list(thread_pool(self.threads).map(function, shards))

    def update(self, grads, lr):
        g = self.vector(grads, self.params, "the gradients")
        self.step += 1
        adam(self.theta, g, self.m, self.v, self.step, lr)
        if self.ema_decay:
            ema(self.average, self.theta, warmed_up(self.ema_decay, self.step))

    def operations(self, x, t, labels=None):
        x, t, labels = self.inputs(x, t, labels)
        with one_blas_thread:
            _, cache = self.forward(x, t, labels, slice(None))
        return {name: output for name, (output, _) in cache.items()}

    def groups(self):
        """The vectors that make up the state, by the prefix that they have in export."""
        groups = {"params": self.theta, "adam_m": self.m, "adam_v": self.v}
        return groups | {"ema": self.average} if self.ema_decay else groups

    def export(self):
        state = {f"{group}/{name}": view.copy()
                 for group, vector in self.groups().items() for name, view in self.views(vector).items()}
        return state | {"step": np.array(self.step)}

    def load(self, state):
        check_arrays(state, self.export(), "the state's arrays")
        step, loaded = check_step(state["step"]), {}
        for group in self.groups():
            arrays = {name: state[f"{group}/{name}"] for name in self.params}
            loaded[group] = self.vector(arrays, self.params, f"the state's {group}")
        for group, vector in self.groups().items():
            vector[:] = loaded[group]
        self.step = step


def jacobian_trace(y, backward):
    """tr(dy/dx) of each sample, exact: y (N, D) -> (N,), for y = f(x) whose samples do not mix.

    backward(c) -> dx (N, D) is f's backward for this y: for a cotangent c it sums over all outputs,
        dx[n,i] = sum_o c[n,o] ∂y[n,o]/∂x[n,i]
    With c[n,o] = 1 for o = d, else 0, one term is left: row d of every sample's Jacobian
        dx[n,i] = ∂y[n,d]/∂x[n,i]
    The trace takes i = d of row d:   trace[n] = sum_d ∂y[n,d]/∂x[n,d]
    """
    trace = np.zeros_like(y[:, 0])                     # (N,)
    for d in range(y.shape[1]):
        c = np.zeros_like(y)                           # (N, D)
        c[:, d] = 1
        trace += backward(c)[:, d]
    return trace


def keep_freed_arrays():
    """Let the C library keep freed arrays of up to this size for reuse: that saves a page fault for every 4
    KB.

    glibc raises its threshold to the largest block that was freed, so one is freed here, at once.
    """
    np.empty(2**25 - 2**16, np.uint8)
