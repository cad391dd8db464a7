"""torch's modes and flags: within `undisturbed` none of the caller's has an effect, and after it all are as
they were.

It mirrors no file of npdiff. Modes belong to one thread (grad, inference, autocast, default device). Flags
belong to the process (float32 precision, determinism, anomaly detection), so threads share them.
"""

import contextlib

import torch

from npdiff.backends.machine import HeldSetting

# What may compute float32 in fewer digits. One that says "none" does what those above it say. They are not
# written as torch.backends.mkldnn.fp32_precision and so on: torch 2.13 writes that one to another place.
PRECISIONS = (("generic", "all"), ("cuda", "all"), ("mkldnn", "all"),
              ("cuda", "matmul"), ("cuda", "conv"), ("cuda", "rnn"),
              ("mkldnn", "matmul"), ("mkldnn", "conv"), ("mkldnn", "rnn"))
read_precision, write_precision = torch._C._get_fp32_precision_getter, torch._C._set_fp32_precision_setter
AUTOCASTS = ("cpu", "cuda", "mps", "xpu")


def make_exact():
    """Set the process's flags for exact and reproducible numbers. Returns a function that restores them.

    A precision is read from the top down, each with those above it at "none": so it is read itself, and not
    what it takes over. The old flag, `highest`, and the new ones, `ieee`, must agree: where they contradict
    each other, torch raises an error.
    """
    precisions = []
    for place in PRECISIONS:
        precisions.append(read_precision(*place))
        write_precision(*place, "none")
    for place in PRECISIONS:
        write_precision(*place, "ieee")
    matmul = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True)
    anomaly = torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()
    torch.set_anomaly_enabled(False)

    def restore():
        torch.set_anomaly_enabled(*anomaly)
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        torch.set_float32_matmul_precision(matmul)
        for place, precision in zip(PRECISIONS, precisions, strict=True):
            write_precision(*place, precision)

    return restore


exact = HeldSetting(make_exact)


@contextlib.contextmanager
def undisturbed(grad=False):
    """Within, torch computes as if the caller had set no mode and no flag. grad: whether it notes gradients.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(exact)
        stack.enter_context(torch._C.DisableTorchFunction())        # the default device is such a function
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.set_grad_enabled(grad))
        for device in AUTOCASTS:
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield
