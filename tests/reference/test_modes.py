"""torch's modes and flags: the caller's change no bit of the reference's numbers, and it changes none."""

import contextlib
import copy
import functools
import pickle
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from gradient_checks import random_params
from parity import SMALL_SHAPES

from npdiff.backends import load_backend
from npdiff.models import mlp
from npdiff.sampling import Sampling, sample
from npdiff.training import Batch

CASES = pytest.mark.parametrize("config, dtype", [
    (mlp.SMALL, "float32"), (mlp.SMALL, "float64"), (replace(SMALL_SHAPES.model, size=8), "float32"),
], ids=["mlp", "mlp in float64", "unet"])


@contextlib.contextmanager
def called(change, *back):
    """Within, what change() did; then each of `back` is called."""
    change()
    try:
        yield
    finally:
        for call in back:
            call()


B = torch.backends
PLACES = [("generic", "all"), ("cuda", "all"), ("mkldnn", "all"), ("cuda", "matmul"), ("cuda", "conv"),
          ("cuda", "rnn"), ("mkldnn", "matmul"), ("mkldnn", "conv"), ("mkldnn", "rnn")]
read, write = torch._C._get_fp32_precision_getter, torch._C._set_fp32_precision_setter


def write_all(values):
    """Each of the new flags of float32 precision: one value, or one for each."""
    for place, value in zip(PLACES, [values] * len(PLACES) if isinstance(values, str) else values):
        write(*place, value)


def raw_precisions():
    """What each flag itself says: not what it takes over from those above it."""
    raw = []
    for place in PLACES:
        raw.append(read(*place))
        write(*place, "none")
    write_all(raw)
    return raw


def answer(read):
    """What a reader of a flag returns; the start of its message where torch refuses to read mixed flags."""
    try:
        return read()
    except RuntimeError as error:
        return str(error)[:60]


def settings():
    """Every setting of torch that a caller may have made, by name."""
    return {
        "grad": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "autocast": [(device, torch.is_autocast_enabled(device), torch.get_autocast_dtype(device))
                     for device in ("cpu", "cuda")],
        "autocast cache": torch.is_autocast_cache_enabled(),
        "default dtype": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "function modes": torch._C._len_torch_function_stack(),
        "deterministic": (torch.are_deterministic_algorithms_enabled(),
                          torch.is_deterministic_algorithms_warn_only_enabled(),
                          torch.get_deterministic_debug_mode()),
        "fill": torch.utils.deterministic.fill_uninitialized_memory,
        "anomaly": (torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()),
        "precisions": raw_precisions(),
        "matmul": answer(torch.get_float32_matmul_precision),
        "old matmul": answer(lambda: B.cuda.matmul.allow_tf32),
        "old cudnn": answer(lambda: B.cudnn.allow_tf32),
        "reduced": (B.cuda.matmul.allow_fp16_reduced_precision_reduction,
                    B.cuda.matmul.allow_bf16_reduced_precision_reduction),
        "cudnn": (B.cudnn.enabled, B.cudnn.benchmark, B.cudnn.deterministic),
        "mkldnn": (B.mkldnn.enabled, B.mkldnn.deterministic),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "random": torch.get_rng_state().tolist(),
        "numpy random": np.random.get_state()[1].tolist(),
        "multithreading": torch.autograd.is_multithreading_enabled(),
    }


MODES = {
    "no mode": contextlib.nullcontext,
    "no_grad": torch.no_grad,
    "enable_grad": torch.enable_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "autocast float16": lambda: torch.autocast("cpu", dtype=torch.float16),
    "autocast and inference_mode": lambda: both(
        torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16)),
    "default dtype float64": lambda: called(
        lambda: torch.set_default_dtype(torch.float64), lambda: torch.set_default_dtype(torch.float32)),
    "default dtype bfloat16": lambda: called(
        lambda: torch.set_default_dtype(torch.bfloat16), lambda: torch.set_default_dtype(torch.float32)),
    "default device meta": lambda: called(
        lambda: torch.set_default_device("meta"), lambda: torch.set_default_device(None)),
    "default device cpu": lambda: called(
        lambda: torch.set_default_device("cpu"), lambda: torch.set_default_device(None)),
    "with device meta": lambda: torch.device("meta"),
    "deterministic": lambda: called(
        lambda: torch.use_deterministic_algorithms(True), lambda: torch.use_deterministic_algorithms(False)),
    "deterministic, warn only": lambda: called(
        lambda: torch.use_deterministic_algorithms(True, warn_only=True),
        lambda: torch.use_deterministic_algorithms(False)),
    "anomaly": lambda: torch.autograd.set_detect_anomaly(True),
    "anomaly without nan": lambda: torch.autograd.set_detect_anomaly(True, check_nan=False),
    "matmul high": lambda: restored(lambda: torch.set_float32_matmul_precision("high")),
    "matmul medium": lambda: restored(lambda: torch.set_float32_matmul_precision("medium")),
    "all tf32": lambda: restored(lambda: setattr(B, "fp32_precision", "tf32")),
    "all ieee": lambda: restored(lambda: setattr(B, "fp32_precision", "ieee")),
    "each tf32": lambda: restored(lambda: write_all("tf32")),
    "old flags": lambda: restored(lambda: setattr(B.cuda.matmul, "allow_tf32", True)),
    "old and new flags": lambda: restored(
        lambda: torch.set_float32_matmul_precision("high"),
        lambda: setattr(B.cuda.matmul, "fp32_precision", "ieee"),
        lambda: write("mkldnn", "conv", "bf16")),
}


@contextlib.contextmanager
def both(first, second):
    """Within both."""
    with first, second:
        yield


@contextlib.contextmanager
def restored(*changes):
    """Within, what the changes of float32 precision did; then all as before."""
    begun = raw_precisions()
    try:
        for change in changes:
            change()
        yield
    finally:
        write_all("ieee")
        torch.set_float32_matmul_precision("highest")
        write_all(begun)


def use(config, dtype):
    """Everything that a backend has, once or twice: a list of (what was done, the numbers that came out)."""
    rng = np.random.default_rng(0)
    params = random_params(config, rng)
    x, target = rng.standard_normal((2, 3, *config.data_shape))
    t, weight = np.array([1, 500, 1000]), rng.random(3)
    labels = np.array([0, 1, 2]) if getattr(config, "classes", 0) else None
    backend = load_backend("torch", dtype=dtype)
    yield "load_backend", [backend.asarray(1.0)]
    denoiser = backend.make_denoiser(config, params, 0.9)
    x, target = backend.asarray(x), backend.asarray(target)
    yield "make_denoiser", denoiser.export().values()
    yield "predict", [denoiser.predict(x, t, labels), denoiser.predict(x, 5)]
    if x.ndim == 2:
        yield "divergence", denoiser.divergence(x, t)
    batch = Batch(1, x[:], t, target[:], labels, weight)            # slices that the caller's mode made
    loss, grads = denoiser.loss_and_grads(batch)
    yield "loss_and_grads", [loss, *grads.values()]
    denoiser.update(grads, 0.1)
    yield "update", denoiser.export().values()
    yield "train_step", [denoiser.train_step(batch._replace(x_t=1.0 * x), 0.1) for _ in range(2)]
    state = denoiser.export()
    yield "export", state.values()
    other = backend.make_denoiser(config, params, 0.9)
    other.load(state)
    yield "load", [other.train_step(batch, 0.1), *other.export().values()]
    for how in (copy.copy, copy.deepcopy, lambda other: pickle.loads(pickle.dumps(other))):
        made = how(other)
        yield "copy", [made.train_step(batch, 0.1), *made.export().values()]
    yield "operations", denoiser.operations(x, t, labels).values()
    with np.errstate(all="ignore"):
        yield "nan", [denoiser.train_step(batch._replace(target=target * float("nan")), 0.1)]
    yield "to_numpy", [backend.to_numpy(denoiser.predict(x, t, labels))]


def used(config, dtype):
    """-> the bytes of all numbers, by step of use. Checks that no step changes a setting."""
    numbers, before = {}, settings()
    for k, (name, arrays) in enumerate(use(config, dtype)):
        after = settings()
        changed = [setting for setting in before if after[setting] != before[setting]]
        assert not changed, f"{name} changed {changed}"
        numbers[f"{k} {name}"] = [np.asarray(a).tobytes() for a in map(detached, arrays)]
    return numbers


without_modes = functools.cache(used)


def detached(a):
    return a.detach().numpy() if isinstance(a, torch.Tensor) else a


@pytest.mark.slow
@CASES
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.filterwarnings("ignore:.*old way of setting:UserWarning", "ignore:Anomaly Detection:UserWarning",
                            "ignore:Please use the new API:UserWarning")
def test_no_mode_changes_a_bit_and_none_is_changed(config, dtype, mode):
    begun = settings()
    right = without_modes(config, dtype)
    with MODES[mode]():
        numbers = used(config, dtype)
    assert settings() == begun
    for name, arrays in right.items():
        assert numbers[name] == arrays, name


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.filterwarnings("ignore:.*old way of setting:UserWarning", "ignore:Anomaly Detection:UserWarning",
                            "ignore:Please use the new API:UserWarning")
def test_a_chain_is_the_same_in_every_mode(mode):
    def chain():
        backend = load_backend("torch")
        denoiser = backend.make_denoiser(mlp.Config(), random_params(mlp.Config(), np.random.default_rng(0)))
        from npdiff.recipes import TEXTBOOK_MOONS as recipe
        stops = sample(denoiser, backend, recipe, 5, 0, sampling=Sampling("ddim", steps=10, clip=1.0))
        return [backend.to_numpy(x).tobytes() for _, x in stops]

    right = chain()
    with MODES[mode]():
        assert chain() == right


def test_the_users_own_flags_can_still_be_read():
    """torch refuses to read flags that were partly written the old way and partly the new way."""
    with restored(lambda: torch.set_float32_matmul_precision("high")):
        load_backend("torch")
        assert torch.get_float32_matmul_precision() == "high"
    with restored(lambda: setattr(B, "fp32_precision", "tf32")):
        load_backend("torch")
        assert B.fp32_precision == B.mkldnn.conv.fp32_precision == "tf32"
        B.fp32_precision = "ieee"                                   # what took it over still does
        assert B.mkldnn.conv.fp32_precision == "ieee"


def test_within_a_step_the_flags_are_those_of_exact_numbers():
    """Read by a layer while it computes, with TF32 asked for by the caller."""
    seen = []
    backend = load_backend("torch")
    denoiser = backend.make_denoiser(mlp.SMALL, random_params(mlp.SMALL, np.random.default_rng(0)))

    def note(*_):
        seen.append(([read(*place) for place in PLACES], torch.get_float32_matmul_precision(),
                     torch.are_deterministic_algorithms_enabled(), torch.is_anomaly_enabled()))

    denoiser.module.linear1.register_forward_hook(note)
    with restored(lambda: torch.set_float32_matmul_precision("medium"), lambda: write_all("tf32")):
        denoiser.predict(backend.asarray(np.ones((2, 2))), 5)
        denoiser.train_step(Batch(1, np.ones((2, 2)), 5, np.ones((2, 2))), 0.1)
    assert seen == [(["ieee"] * len(PLACES), "highest", True, False)] * 2


def test_threads_that_predict_and_train_leave_the_flags():
    """They enter and leave in any order; the last to leave restores the flags. The numbers are those of one
    thread.
    """
    begun, backend = settings(), load_backend("torch")
    params = random_params(mlp.SMALL, np.random.default_rng(0))
    x = backend.asarray(np.random.default_rng(1).standard_normal((8, 2)))

    def run():
        denoiser = backend.make_denoiser(mlp.SMALL, params)
        losses = [denoiser.train_step(Batch(1, x, 5, x), 0.01) for _ in range(30)]
        return losses, backend.to_numpy(denoiser.predict(x, 5)).tobytes()

    right, answers = run(), []
    threads = [threading.Thread(target=lambda: answers.append(run())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    after = settings()
    assert answers == [right] * 4
    assert {name for name in begun if after[name] != begun[name]} <= {"random"}
