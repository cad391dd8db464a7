"""The torch backend. It mirrors npdiff/backends/numpy.py: the Protocols Backend and Denoiser.

Docstrings that are missing here stand in npdiff/backends/protocols.py.
"""

import os

import numpy as np
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from npdiff.backends import in_short
from npdiff.backends.machine import host_peak_memory
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
from npdiff.models import model_name
from npdiff.optim import warmed_up
from npdiff_torch.convnet import ConvNet
from npdiff_torch.layout import channels_last, from_numpy_layout, named_parameters, to_numpy_layout
from npdiff_torch.mlp import MLP
from npdiff_torch.modes import undisturbed
from npdiff_torch.unet import UNet

MODULES = {"mlp": MLP, "convnet": ConvNet, "unet": UNet}
DTYPES = {"float32": torch.float32, "float64": torch.float64}


class TorchBackend(Backend):
    """torch on one device in one dtype.

    A reference is there to be compared with. Whatever modes and flags of torch the caller has set, it
    computes in this dtype, without TF32 and with deterministic algorithms, and leaves the flags as they were.
    `threads`, if given, is the number of torch's CPU threads, for the whole process. Raises ValueError for a
    device or dtype that torch does not have, and for threads below 1.
    """

    def __init__(self, device="cpu", dtype="float32", threads=None, options=None):
        if dtype not in DTYPES:
            raise ValueError(f"dtype is {dtype!r}; the torch backend has {' and '.join(DTYPES)}")
        self.dtype, self.dtype_name = DTYPES[dtype], dtype
        try:
            self.device = torch.device(device)
            with undisturbed():
                torch.zeros(1, dtype=self.dtype, device=self.device).cpu()      # can it compute, and answer?
        except Exception as error:          # every kind of device has its own
            raise ValueError(f"device is {device!r}: the torch backend cannot use it: "
                             f"{in_short(error)}") from error
        if threads is not None and threads < 1:
            raise ValueError(f"threads is {threads}; it must be at least 1")
        if threads is not None:
            torch.set_num_threads(threads)
        if self.device.type == "cuda":
            # cuBLAS needs this to be deterministic
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

    def asarray(self, x):
        with undisturbed():
            return self.tensor("x", x, copy=True)

    def tensor(self, name, x, copy=False):
        """x, of NumPy or torch, as a tensor in the backend's dtype on its device. Unless copy, x itself if it
        is one.
        """
        if not isinstance(x, torch.Tensor):
            x, copy = torch.from_numpy(np.array(numbers(name, x), self.dtype_name, order="C")), False
        elif x.is_complex():
            raise ValueError(f"{name} has dtype {x.dtype}; it must hold floats or integers")
        return x.detach().to(self.device, self.dtype, copy=copy or x.is_inference())

    def to_numpy(self, x):
        with undisturbed():
            return x.detach().cpu().numpy().copy()

    def about(self):
        where = str(self.device)
        if self.device.type == "cuda":
            where = f"{torch.cuda.get_device_name(self.device)}, CUDA {torch.version.cuda}"
        return f"torch {torch.__version__}, {where}, {torch.get_num_threads()} thread(s)"

    def peak_memory(self):
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return host_peak_memory()

    def make_denoiser(self, config, params, ema_decay=0.0):
        return TorchDenoiser(self, config, params, ema_decay)


class TorchDenoiser(Denoiser):
    """A torch module under the parameter names and layout of npdiff.models."""

    def __init__(self, backend, config, params, ema_decay):
        self.backend, self.config, self.ema_decay, self.step = backend, config, ema_decay, 0
        # torch draws weights for a new module, which are not used
        with undisturbed(), torch.random.fork_rng(devices=[]):
            self.module = MODULES[model_name(config)](config).to(backend.device, backend.dtype)
            self.parameters = named_parameters(self.module)     # npdiff's name -> torch's parameter
            for name, tensor in self.tensors(params, "the parameters").items():
                self.parameters[name].data.copy_(tensor)
            self.optimiser = torch.optim.Adam(self.parameters.values())
            self.average = AveragedModel(self.module, multi_avg_fn=self.average_parameters)
            # so the average begins with the untrained parameters
            self.average.n_averaged.fill_(1)
        self.average_of = named_parameters(self.average.module)

    def __reduce__(self):
        """A copy or a pickle is made anew and takes over the state: it learns alone, and under any mode."""
        return restored, (type(self), self.backend, self.config, self.ema_decay, self.export())

    def tensors(self, arrays, what):
        """Arrays under the parameters' names as tensors in torch's layout.

        Raises ValueError for other names or shapes, and for nan or inf.
        """
        needed = {name: to_numpy_layout(name, p) for name, p in self.parameters.items()}
        check_arrays(arrays, needed, what)
        with np.errstate(over="ignore"):                                # what is too large becomes inf
            tensors = {name: self.backend.tensor(name, arrays[name]) for name in needed}
        every = torch.cat([tensor.flatten() for tensor in tensors.values()])
        if not every.is_meta and not every.isfinite().all():            # a meta tensor has a shape alone
            check_finite({name: self.backend.to_numpy(tensor) for name, tensor in tensors.items()}, what)
        return {name: from_numpy_layout(name, tensor) for name, tensor in tensors.items()}

    def average_parameters(self, average, current, step):
        """One step of npdiff.optim.ema with its warm-up; step is 1 at the first update."""
        get_ema_multi_avg_fn(warmed_up(self.ema_decay, int(step)))(average, current, step)

    def output(self, x, t, labels):
        """The module's answer. Raises ValueError for wrong inputs before it is asked.

        After a label out of range on CUDA, the process could not use the device any more.
        """
        inputs = [torch.from_numpy(integers).to(self.backend.device)
                  for integers in check_inputs(self.config, x, t, labels) if integers is not None]
        return self.module(x, *inputs)

    def predict(self, x, t, labels=None):
        with undisturbed():
            return self.output(self.backend.tensor("x", x), t, labels)

    def divergence(self, x, t, labels=None):
        with undisturbed(grad=True):
            x = self.backend.tensor("x", x).detach().requires_grad_()
            y = self.output(x, t, labels)
            check_vectors(x)
            # d y[n,d] / d x[n,:], each (N, D)
            rows = [torch.autograd.grad(y[:, d].sum(), x, retain_graph=True)[0] for d in range(y.shape[1])]
            return y.detach(), sum(row[:, d] for d, row in enumerate(rows))

    def loss_and_grads(self, batch):
        with undisturbed(grad=True):
            x, target = self.backend.tensor("x", batch.x_t), self.backend.tensor("target", batch.target)
            answer = self.output(x, batch.t, batch.labels)
            check_same_shape(x_t=x, target=target)
            error = torch.nn.functional.mse_loss(answer, target, reduction="none")
            if batch.weight is not None:
                weight = self.backend.tensor("weight", batch.weight)
                check_same_shape(t=x[(slice(None), *[0] * (x.ndim - 1))], weight=weight)
                error = weight.reshape(-1, *[1] * (error.ndim - 1)) * error
            loss = error.mean()
            grads = torch.autograd.grad(loss, list(self.parameters.values()))
            named = zip(self.parameters, grads, strict=True)
            return loss.item(), {name: to_numpy_layout(name, g) for name, g in named}

    def train_step(self, batch, lr):
        with undisturbed():                 # once for the whole step
            return super().train_step(batch, lr)

    def update(self, grads, lr):
        with undisturbed():
            for name, g in self.tensors(grads, "the gradients").items():
                self.parameters[name].grad = g
            self.step += 1
            self.optimiser.param_groups[0]["lr"] = lr
            self.optimiser.step()
            self.optimiser.zero_grad()      # the arrays of grads are the caller's
            if self.ema_decay:
                self.average.update_parameters(self.module)

    def operations(self, x, t, labels=None):
        names = {layer: name.replace("_silu", ".silu") for name, layer in self.module.named_modules()}
        outputs = {}                                                        # under npdiff's names

        def note(layer, inputs, y):
            outputs[names[layer]] = channels_last(y)

        leaves = [layer for layer in names if not list(layer.children())]
        hooks = [layer.register_forward_hook(note) for layer in leaves]
        try:
            self.predict(x, t, labels)
        finally:
            for hook in hooks:
                hook.remove()
        return outputs

    def groups(self):
        """The tensors of the state, in torch's layout: "params", "adam_m", ... -> npdiff's name -> tensor."""

        def moments(key):
            """Adam's running means, which torch makes at the first step: zeros before it."""
            return {name: self.optimiser.state.get(p, {}).get(key, torch.zeros_like(p))
                    for name, p in self.parameters.items()}

        groups = {"params": self.parameters, "adam_m": moments("exp_avg"), "adam_v": moments("exp_avg_sq")}
        if self.ema_decay:
            groups["ema"] = self.average_of
        return groups

    def export(self):
        state = {}
        with undisturbed():
            for group, tensors in self.groups().items():
                for name, tensor in tensors.items():
                    array = to_numpy_layout(name, tensor).detach().cpu().numpy()
                    state[f"{group}/{name}"] = np.array(array, order="C")
        return state | {"step": np.array(self.step)}

    def load(self, state):
        check_arrays(state, self.export(), "the state's arrays")
        step = check_step(state["step"])
        with undisturbed():
            loaded = {group: self.tensors({name: state[f"{group}/{name}"] for name in self.parameters},
                                          f"the state's {group}")
                      for group in self.groups()}
            self.step = step
            for name, p in self.parameters.items():
                p.data.copy_(loaded["params"][name])
                self.optimiser.state[p] = {
                    "step": torch.tensor(float(step), dtype=torch.float32),
                    "exp_avg": loaded["adam_m"][name].clone(),
                    "exp_avg_sq": loaded["adam_v"][name].clone(),
                }
                if self.ema_decay:
                    self.average_of[name].data.copy_(loaded["ema"][name])
            self.average.n_averaged.fill_(step + 1)


def restored(denoiser_class, backend, config, ema_decay, state):
    """The denoiser with this exported state."""
    group = "params/"
    params = {name.removeprefix(group): array for name, array in state.items() if name.startswith(group)}
    denoiser = denoiser_class(backend, config, params, ema_decay)
    denoiser.load(state)
    return denoiser
