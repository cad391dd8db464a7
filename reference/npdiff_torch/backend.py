"""The torch backend. It mirrors npdiff/backends/numpy.py: the Protocols Backend and Denoiser.

Docstrings that are missing here stand in npdiff/backends/protocols.py.
"""

import os

import numpy as np
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from npdiff.backends.machine import host_peak_memory
from npdiff.backends.protocols import Backend, Denoiser, check_arrays, check_inputs, check_vectors
from npdiff.diffusion import check_same_shape
from npdiff.models import model_name
from npdiff.optim import warmed_up
from npdiff_torch.convnet import ConvNet
from npdiff_torch.layout import channels_last, from_numpy_layout, named_parameters, to_numpy_layout
from npdiff_torch.mlp import MLP
from npdiff_torch.unet import UNet

MODULES = {"mlp": MLP, "convnet": ConvNet, "unet": UNet}
DTYPES = {"float32": torch.float32, "float64": torch.float64}


class TorchBackend(Backend):
    """torch on one device in one dtype.

    A reference is there to be compared with, so TF32 is off and algorithms are deterministic. `threads`, if
    given, is the number of torch's CPU threads. These settings hold for the whole process. Raises ValueError
    for a device or dtype that torch does not have, and for threads below 1.
    """

    def __init__(self, device="cpu", dtype="float32", threads=None, options=None):
        if dtype not in DTYPES:
            raise ValueError(f"dtype is {dtype!r}; the torch backend has {' and '.join(DTYPES)}")
        try:
            self.device = torch.device(device)
            torch.empty(0, device=self.device)
        except (RuntimeError, AssertionError) as error:
            raise ValueError(f"device is {device!r}: {str(error).splitlines()[0]}") from None
        if threads is not None and threads < 1:
            raise ValueError(f"threads is {threads}; it must be at least 1")
        self.dtype = DTYPES[dtype]
        if threads is not None:
            torch.set_num_threads(threads)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        # cuBLAS needs this to be deterministic
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)

    def asarray(self, x):
        return torch.tensor(np.asarray(x), dtype=self.dtype, device=self.device)

    def to_numpy(self, x):
        return x.detach().cpu().numpy()

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
        self.module = MODULES[model_name(config)](config).to(backend.device, backend.dtype)
        self.parameters = named_parameters(self.module)         # npdiff's name -> torch's parameter
        needed = {name: to_numpy_layout(name, p) for name, p in self.parameters.items()}
        check_arrays(params, needed, "the parameters")
        for name, p in self.parameters.items():
            p.data.copy_(from_numpy_layout(name, backend.asarray(params[name])))
        self.optimiser = torch.optim.Adam(self.parameters.values())
        self.average = AveragedModel(self.module, multi_avg_fn=self.average_parameters)
        # so the average begins with the untrained parameters
        self.average.n_averaged.fill_(1)
        self.average_of = named_parameters(self.average.module)

    def average_parameters(self, average, current, step):
        """One step of npdiff.optim.ema with its warm-up; step is 1 at the first update."""
        get_ema_multi_avg_fn(warmed_up(self.ema_decay, int(step)))(average, current, step)

    def timesteps(self, t, n):
        """t, an int or integers (N,), as a tensor (N,) on the device."""
        return torch.tensor(np.broadcast_to(t, (n,)).copy(), device=self.backend.device)

    def output(self, x, t, labels):
        """The module's answer. Raises ValueError for wrong inputs before it is asked.

        After a label out of range on CUDA, the process could not use the device any more.
        """
        check_inputs(self.config, x, t, labels)
        t = self.timesteps(t, len(x))
        if labels is None:
            return self.module(x, t)
        labels = torch.tensor(np.asarray(labels), dtype=torch.long, device=self.backend.device)
        return self.module(x, t, labels)

    def predict(self, x, t, labels=None):
        with torch.no_grad():
            return self.output(x, t, labels)

    def divergence(self, x, t, labels=None):
        check_vectors(x)
        x = x.detach().requires_grad_()
        y = self.output(x, t, labels)
        # d y[n,d] / d x[n,:], each (N, D)
        rows = [torch.autograd.grad(y[:, d].sum(), x, retain_graph=True)[0] for d in range(y.shape[1])]
        return y.detach(), sum(row[:, d] for d, row in enumerate(rows))

    def loss_and_grads(self, batch):
        check_same_shape(x_t=batch.x_t, target=batch.target)
        answer = self.output(batch.x_t, batch.t, batch.labels)
        error = torch.nn.functional.mse_loss(answer, batch.target, reduction="none")
        if batch.weight is not None:
            check_same_shape(t=batch.t, weight=batch.weight)
            weight = self.backend.asarray(batch.weight).reshape(-1, *[1] * (error.ndim - 1))
            error = weight * error
        loss = error.mean()
        grads = torch.autograd.grad(loss, list(self.parameters.values()))
        named = zip(self.parameters, grads, strict=True)
        return loss.item(), {name: to_numpy_layout(name, g) for name, g in named}

    def update(self, grads, lr):
        self.step += 1
        for name, p in self.parameters.items():
            p.grad = from_numpy_layout(name, grads[name])
        self.optimiser.param_groups[0]["lr"] = lr
        self.optimiser.step()
        if self.ema_decay:
            self.average.update_parameters(self.module)

    def operations(self, x, t, labels=None):
        names = {layer: name.replace("_silu", ".silu") for name, layer in self.module.named_modules()}
        outputs = {}                                                        # under npdiff's names

        def note(layer, inputs, y):
            outputs[names[layer]] = channels_last(y)

        leaves = [layer for layer in names if not list(layer.children())]
        hooks = [layer.register_forward_hook(note) for layer in leaves]
        self.predict(x, t, labels)
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
        for group, tensors in self.groups().items():
            for name, tensor in tensors.items():
                array = self.backend.to_numpy(to_numpy_layout(name, tensor))
                state[f"{group}/{name}"] = np.array(array, order="C")
        return state | {"step": np.array(self.step)}

    def load(self, state):
        check_arrays(state, self.export(), "the state's arrays")
        tensors = {
            name: from_numpy_layout(name, self.backend.asarray(array)) for name, array in state.items()
        }
        self.step = int(state["step"])
        for name, p in self.parameters.items():
            p.data.copy_(tensors[f"params/{name}"])
            self.optimiser.state[p] = {
                "step": torch.tensor(float(self.step)),
                "exp_avg": tensors[f"adam_m/{name}"].clone(),
                "exp_avg_sq": tensors[f"adam_v/{name}"].clone(),
            }
            if self.ema_decay:
                self.average_of[name].data.copy_(tensors[f"ema/{name}"])
        self.average.n_averaged.fill_(self.step + 1)
