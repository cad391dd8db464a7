"""one_step.npz holds one training step made by torch; NumPy matches every number of it."""

import subprocess
import sys
from pathlib import Path

import make_one_step
import numpy as np
import pytest
import read_one_step

from npdiff.models import MODELS
from npdiff.nn import mse_backward, mse_forward
from npdiff.optim import adam

TOLERANCE = 1e-12
NUMBERS = {"x_t", "t", "target", "lr", "prediction", "loss"}
GROUPS = {"params", "activation", "grads", "adam_m", "adam_v", "updated"}


@pytest.fixture(scope="module")
def step():
    with np.load(make_one_step.FILE, allow_pickle=False) as file:
        return dict(file)


def of(step, prefix):
    """The arrays whose names begin so, without the prefix."""
    return {name.removeprefix(prefix): array for name, array in step.items() if name.startswith(prefix)}


def assert_equal(ours, theirs, extra_for_updated=0.0):
    assert set(ours) == set(theirs)
    for name, array in theirs.items():
        extra = extra_for_updated if "/updated/" in name else 0.0
        assert np.shape(ours[name]) == array.shape, name
        assert abs(ours[name] - array).max() <= TOLERANCE * abs(array).max() + extra, name


def test_the_file_holds_these_names_and_no_others(step):
    names = NUMBERS | GROUPS
    assert {"/".join(name.split("/")[:2]) for name in step} == {
        *(f"mlp/{name}" for name in names), *(f"unet/{name}" for name in names | {"labels"})}


@pytest.mark.parametrize("model", ["mlp", "unet"])
def test_numpy_matches_every_number(step, model):
    module, step = MODELS[model], of(step, f"{model}/")
    params = of(step, "params/")
    labels = [step["labels"]] if "labels" in step else []
    prediction, cache = module.forward(params, step["x_t"], step["t"], module.SMALL, *labels)
    loss, loss_cache = mse_forward(prediction, step["target"])
    _, grads = module.backward(mse_backward(loss_cache), cache, module.SMALL)
    assert_equal({"prediction": prediction}, {"prediction": step["prediction"]})
    assert loss == pytest.approx(float(step["loss"]), rel=TOLERANCE)
    assert_equal({name: output for name, (output, _) in cache.items()}, of(step, "activation/"))
    assert_equal(grads, of(step, "grads/"))
    # Adam divides a gradient by its own size. The bias of a key adds one number to a whole row of scores, so
    # its gradient is zero but for rounding. Therefore Adam is given the file's gradients.
    grads, updated, m, v = of(step, "grads/"), {}, {}, {}
    for name, p in params.items():
        updated[name], m[name], v[name] = p.copy(), np.zeros_like(p), np.zeros_like(p)
        adam(updated[name], grads[name], m[name], v[name], 1, float(step["lr"]))
    for prefix, ours in (("adam_m/", m), ("adam_v/", v), ("updated/", updated)):
        assert_equal(ours, of(step, prefix))
    assert set(params) == set(module.init(module.SMALL, np.random.default_rng(0)))
    assert min(abs(g).max() for g in grads.values()) > 1e-6


def test_the_script_makes_the_file_again(step):
    pytest.importorskip("torch", reason="torch is not installed: the file is not made again")
    again = make_one_step.one_step("mlp", 0) | make_one_step.one_step("unet", 1)
    rounding = 1e-17 / 1e-8                     # Adam divides a gradient that is zero but for rounding by eps
    assert_equal(again, step, extra_for_updated=make_one_step.LR * rounding)


def test_the_reader_prints_every_array(step):
    script = Path(read_one_step.__file__)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == list(step)
    assert "npdiff" not in script.read_text() and len(script.read_text().splitlines()) <= 25
