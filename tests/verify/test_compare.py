"""compare of backends with other layers and parameters: it pairs what it can and names what it cannot."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_recipes import TINY_MOONS
from toy_backend import Rows, ToyBackend, ToyDenoiser

from npdiff.backends.numpy import NumpyBackend, NumpyDenoiser
from npdiff.training import new_denoiser
from npdiff.verify.compare import compare_gradients, compare_operations, drift, parameter_distance

TESTS = Path(__file__).parent.parent


class Fewer(NumpyBackend):
    """NumPy's numbers, but it lists fewer layers, one of them flat, and one under a name of its own."""

    def make_denoiser(self, config, params, ema_decay=0.0):
        return FewerDenoiser(config, params, ema_decay, self.dtype, self.threads)


class FewerDenoiser(NumpyDenoiser):
    def operations(self, x, t, labels=None):
        seen = super().operations(x, t, labels)
        return {"linear2": seen["linear2"], "own": seen["time"], "linear1": seen["linear1"].ravel()}


def test_layers_are_paired_by_name_and_the_others_are_named():
    table = compare_operations((NumpyBackend(), Fewer()), TINY_MOONS, 0)
    compared = {name: row for name, row in table.items() if "left out" not in name}
    assert list(compared) == ["linear2"] and compared["linear2"][::2] == (0, 0.0)
    left_out = {name: row for name, row in table.items() if "left out" in name}
    assert {"linear1 (left out: other shapes)", "time (left out: first only)",
            "own (left out: second only)"} <= set(left_out)
    assert all(row[:2] == (0, 0) and np.isnan(row[2]) for row in left_out.values())
    listed = new_denoiser(NumpyBackend(), TINY_MOONS, 0).operations(np.ones((1, 2)), 1)
    assert len(table) == len(listed) + 1


def test_equal_layers_leave_nothing_out():
    backends = NumpyBackend(), NumpyBackend()
    assert not [name for name in compare_operations(backends, TINY_MOONS, 0) if "left out" in name]
    assert set(compare_gradients(backends, TINY_MOONS, 0).values()) == {0.0}


class Rounding(NumpyBackend):
    """NumPy's numbers, but the gradient of linear1.b is zero by cancellation, so it is rounding alone."""

    def __init__(self, seed):
        super().__init__(dtype="float64")
        self.seed = seed

    def make_denoiser(self, config, params, ema_decay=0.0):
        denoiser = super().make_denoiser(config, params, ema_decay)
        exact, rng = denoiser.loss_and_grads, np.random.default_rng(self.seed)

        def loss_and_grads(batch):
            loss, grads = exact(batch)
            return loss, grads | {"linear1.b": 1e-17 * rng.standard_normal(grads["linear1.b"].shape)}

        denoiser.loss_and_grads = loss_and_grads
        return denoiser


def test_rounding_in_the_place_of_zero_is_no_difference():
    differences = compare_gradients((Rounding(0), Rounding(1)), TINY_MOONS, 0)
    assert 0 < differences["linear1.b"] < 1e-12
    assert compare_gradients((Rounding(0), NumpyBackend(dtype="float64")), TINY_MOONS, 0)["linear1.b"] > 0.1


def test_a_backend_with_its_own_parameters_is_compared_as_far_as_it_goes():
    backends, recipe = (NumpyBackend(), ToyBackend()), replace(TINY_MOONS, steps=3, batch_size=8)
    assert "linear (left out: second only)" in compare_operations(backends, recipe, 0)
    gradients = compare_gradients(backends, recipe, 0)
    assert gradients["loss"] > 0
    assert np.isnan(gradients["w (left out: second only)"])
    assert np.isnan(gradients["linear1.W (left out: first only)"])
    steps = list(drift(backends, recipe, 0))
    assert [step for step, *_ in steps] == [1, 2, 3] and all(np.isnan(d) for *_, d in steps)
    toys = [ToyDenoiser(2, ToyBackend.Options()) for _ in range(2)]
    assert parameter_distance(*toys) == 0
    toys[0].w, toys[1].w = Rows([Rows([1.0, 1.0])] * 4), Rows([Rows([1.5, 1.5])] * 4)
    assert parameter_distance(*toys) == 0.5


@pytest.mark.slow
def test_the_command_compares_with_an_installed_third_backend(tmp_path):
    """Its package is a folder on the path, with the entry point that an installation would write."""
    info = tmp_path / "toy-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[npdiff.backends]\ntoy = toy_backend:ToyBackend\n")
    path = os.pathsep.join([str(tmp_path), str(TESTS), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "npdiff", "compare", "textbook-moons", "--backends", "numpy,toy",
               "--dtype", "float64", "--steps", "2", "--out", str(tmp_path / "picture.png"), "--quiet"]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "linear (left out: second only)" in done.stdout and (tmp_path / "picture.png").is_file()
