"""What npdiff asks of an array library: its border to npdiff, and the checks that every backend makes.

A backend owns arrays and one kind of object, the denoiser: a network with its gradients and its optimiser.
Everything else (schedule, closed forms, samplers, training) is written once and calls only what stands here.
A new backend subclasses the two Protocols Denoiser and Backend; what has a body here is a default that it may
keep. An entry point in the group `npdiff.backends` gives it a name. tests/toy_backend.py is a template.
"""

from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import numpy as np

from npdiff.models import label_count
from npdiff.nn.embedding import check_labels
from npdiff.recipes import MAX_TIMESTEPS, Recipe
from npdiff.schedule import timesteps
from npdiff.training import Batch, batches

Params = dict[str, np.ndarray]          # by name, in the layout of npdiff.models
Timesteps = int | np.ndarray            # one for the whole batch, or integers (N,)
Labels = np.ndarray | None              # integers (N,), or None for "no label"


class Array(Protocol):
    """What the shared code does with a backend's arrays. NumPy's arrays can do all of it.

    The other operand of an operator is an array of the same shape or a Python float. dtype is kept.
    """

    shape: tuple[int, ...]

    def __add__(self, other: Self | float) -> Self: ...
    def __radd__(self, other: float) -> Self: ...
    def __sub__(self, other: Self | float) -> Self: ...
    def __rsub__(self, other: float) -> Self: ...
    def __mul__(self, other: Self | float) -> Self: ...
    def __rmul__(self, other: float) -> Self: ...
    def __truediv__(self, other: Self | float) -> Self: ...
    def __neg__(self) -> Self: ...
    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice) -> Self:
        """Some samples of a batch."""

    def clip(self, low: float, high: float) -> Self:
        """Every element held in [low, high]."""

    def sum(self, axis: int) -> Self:
        """The sum along an axis. Likelihoods need it."""

    def mean(self) -> Any:
        """The mean of all elements, to be passed to float(). Likelihoods need it."""


class Denoiser(Protocol):
    """A network that predicts from (x_t, t), with its gradients and its optimiser."""

    step: int
    """Updates made so far."""

    @abstractmethod
    def predict(self, x: Array, t: Timesteps, labels: Labels = None) -> Array:
        """The network's answer.   x (N, ...), t an int or integers (N,), labels integers (N,) -> (N, ...)

        labels None means "no label". Here and below x may also be a NumPy array, of floats or integers: they
        are computed in the backend's dtype. Raises ValueError for other x, t or labels, and for N = 0.
        """

    @abstractmethod
    def divergence(self, x: Array, t: Timesteps, labels: Labels = None) -> tuple[Array, Array]:
        """The answer (N, D) to vectors x (N, D), and for each sample the trace of ∂answer/∂x, (N,).

        Raises ValueError for images.
        """

    @abstractmethod
    def loss_and_grads(self, batch: Batch) -> tuple[float, dict[str, Array]]:
        """The loss, the mean of weight times squared error, and its gradients under the parameters' names."""

    @abstractmethod
    def update(self, grads: dict[str, Array], lr: float) -> None:
        """One step of Adam, then one of the moving average of the parameters where the denoiser keeps one.

        Raises ValueError, and changes nothing, if a gradient is missing, unknown, of another shape or not
        finite.
        """

    def train_step(self, batch: Batch, lr: float) -> float:
        """A whole training step. Returns the loss; if that is not finite, nothing has changed.

        A backend that fuses, compiles or distributes the step brings its own.
        """
        loss, grads = self.loss_and_grads(batch)
        if np.isfinite(loss):
            self.update(grads, lr)
        return loss

    @abstractmethod
    def operations(self, x: Array, t: Timesteps, labels: Labels = None) -> dict[str, Array]:
        """Every layer's output in the order of computation, by name. Images are channels-last."""

    @abstractmethod
    def export(self) -> Params:
        """The whole state: params/NAME, ema/NAME where kept, adam_m/NAME, adam_v/NAME, step."""

    @abstractmethod
    def load(self, state: Params) -> None:
        """Take over a state from any backend's export.

        Raises ValueError, and changes nothing, if an array is missing, unknown, of another shape or not
        finite.
        """


class Backend(Protocol):
    """A library on one device in one dtype. Its constructor takes (device, dtype, threads, options)."""

    Options: ClassVar[type | None] = None
    """A dataclass of the backend's own settings, all with defaults. Each is a flag of the command line."""

    writes: bool = True
    """Whether this process writes files. False on processes that only help another one."""

    @abstractmethod
    def asarray(self, x: np.ndarray) -> Array:
        """A copy of a NumPy array as the backend's kind, in its dtype and on its device."""

    @abstractmethod
    def to_numpy(self, x: Array) -> np.ndarray:
        """The reverse, a copy too. The dtype is kept."""

    @abstractmethod
    def make_denoiser(self, config: Any, params: Params, ema_decay: float = 0.0) -> Denoiser:
        """A Denoiser of the network that config describes. ema_decay 0 keeps no average.

        Raises ValueError if a parameter is missing, unknown or of another shape.
        """

    def batches(self, recipe: Recipe, seed: int, first_step: int = 1,
                data_dir: Path | None = None) -> Iterator[Batch]:
        """The batches of training. The default is shared, and drawn on the host.

        A backend that draws on its device brings its own; its numbers then differ from the other backends'.
        """
        return batches(recipe, self, seed, first_step, data_dir)

    @abstractmethod
    def about(self) -> str:
        """The library, its version, the device and the threads, in words."""

    @abstractmethod
    def peak_memory(self) -> int:
        """The most memory that this process has used on the device, in bytes."""


def numbers(name, x):
    """x as a NumPy array. Raises ValueError unless it holds floats, integers or bools."""
    x = np.asarray(x)
    if x.dtype.kind not in "fiub":
        raise ValueError(f"{name} has dtype {x.dtype}; it must hold floats or integers")
    return x


def check_inputs(config, x, t, labels):
    """-> t, labels, each as int64 (N,), labels None where they are None.

    Raises ValueError unless x is a batch (N, *config.data_shape), t one timestep or N of them, labels None or
    N of them.
    """
    if tuple(x.shape[1:]) != config.data_shape or not len(x.shape):
        takes = ", ".join(map(str, config.data_shape))
        raise ValueError(f"x has shape {tuple(x.shape)}; this network takes (N, {takes})")
    if not len(x):
        raise ValueError(f"x has shape {tuple(x.shape)}; it must hold at least one sample")
    t = timesteps(t, (len(x),))
    if not 1 <= np.min(t) <= np.max(t) <= MAX_TIMESTEPS:
        wrong = np.min(t) if np.min(t) < 1 else np.max(t)
        raise ValueError(f"t is {wrong}; timesteps are integers from 1 on, at most {MAX_TIMESTEPS:,}")
    t = np.full(len(x), t, np.int64)
    if labels is not None:
        labels = check_labels(labels, len(x), label_count(config)).astype(np.int64)
    return t, labels


def check_arrays(arrays, expected, what):
    """Raise ValueError unless two dicts of arrays have equal names and shapes. Messages begin with `what`."""
    for name in expected:
        if name not in arrays:
            raise ValueError(f"{what} lack {name}")
    for name, array in arrays.items():
        if name not in expected:
            raise ValueError(f"{what} hold {name}, which this network does not have")
        shape, needed = tuple(np.shape(array)), tuple(expected[name].shape)
        if shape != needed:
            raise ValueError(f"{what} hold {name} of shape {shape}; this network needs {needed}")


def check_finite(arrays, what):
    """Raise ValueError, with the name, unless every number of the named NumPy arrays is finite."""
    for name, array in arrays.items():
        wrong = array[~np.isfinite(array)]
        if wrong.size:
            raise ValueError(f"{what} hold {name} with the value {wrong[0]}; every value must be finite")


def check_step(step):
    """The step of a state, an int. Raises ValueError unless it is an integer of at least 0."""
    step = np.asarray(step)
    if step.dtype.kind not in "iu" or step < 0:
        raise ValueError(f"the state's arrays hold step {step}; it must be an integer of at least 0")
    return int(step)


def check_vectors(x):
    """Raise ValueError unless x is a batch of vectors (N, D)."""
    if len(x.shape) != 2:
        raise ValueError(f"x has shape {tuple(x.shape)}; the trace of a Jacobian is for vectors (N, D): "
                         "it takes one backward pass for each of their D numbers")
