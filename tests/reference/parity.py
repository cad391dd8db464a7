"""What the parity tests share: devices, a pair of backends, a small recipe, and measures of error."""

from dataclasses import replace

import pytest
import torch

from npdiff.backends import load_backend
from npdiff.models import unet
from npdiff.recipes import SHAPES
from npdiff.verify.gradcheck import element_error, tensor_error

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
DEVICES = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=CUDA)])

# images drawn by formula, 8 classes, and a network small enough for a test
SMALL_SHAPES = replace(SHAPES, model=replace(unet.SMALL, classes=8, size=28, widths=(4, 8, 8)))


def both_backends(dtype, device="cpu"):
    """-> (numpy, torch)"""
    return load_backend("numpy", dtype=dtype), load_backend("torch", device, dtype)


def error(theirs, ours):
    """The larger of the two relative errors of an array: of the whole tensor and of the worst element."""
    return max(tensor_error(theirs, ours), element_error(theirs, ours))


def errors(theirs, ours):
    """The error of each array of two dicts with the same names."""
    assert set(theirs) == set(ours)
    return {name: error(theirs[name], array) for name, array in ours.items()}
