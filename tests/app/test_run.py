"""A run as an object: train, load, sample, measure and see it in a few lines. Who writes, and whose data."""

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.image import imread

import npdiff
from npdiff.app.cli import main
from npdiff.app.pictures import SHOWN
from npdiff.app.report import training_loss
from npdiff.app.run import held_back_interrupt, new_run
from npdiff.backends.numpy import NumpyBackend
from npdiff.models import mlp
from npdiff.recipes import MOONS
from npdiff.sampling import Sampling

SMALL = {"steps": 40, "hidden": (8, 8), "fourier_features": 2, "quiet": True}


@pytest.fixture
def spiral(tmp_path):
    """The path of 300 points on a spiral, far from 0 and with unequal scales."""
    angle = np.linspace(0, 9, 300)
    points = np.column_stack([500 + 10 * angle * np.cos(angle), angle * np.sin(angle)])
    np.save(tmp_path / "spiral.npy", points)
    return tmp_path / "spiral.npy"


def test_a_run_in_a_few_lines(tmp_path, capsys):
    run = npdiff.train("moons", out=tmp_path / "run", **SMALL)
    assert run.recipe.model.hidden == (8, 8) and run.denoiser.step == 40
    x = run.sample(50, sampler="ddim", steps=5, quiet=True)
    assert x.shape == (50, 2) and x.dtype == np.float32
    assert npdiff.train(run.recipe, out=tmp_path / "same", quiet=True).loss[-1] == run.loss[-1]
    numbers = run.evaluate(n=100, steps=5, likelihood=True, quiet=True)
    names = {"off_arcs", "energy_distance", "mean", "loss", "loss_floor", "loss_by_t", "log_likelihood"}
    assert names <= set(numbers)
    assert len(run.steps) == len(run.loss) == 1 and run.steps[0] == 40 and run.loss[0] > 0.3
    again = npdiff.load(tmp_path / "run")
    np.testing.assert_array_equal(again.sample(50, sampler="ddim", steps=5, quiet=True), x)
    assert "moons, step 40 of 40" in repr(again)
    printed = capsys.readouterr()
    assert printed.out == printed.err == ""


def test_figures_show_themselves(tmp_path):
    run = npdiff.train("moons", out=tmp_path / "run", **SMALL)
    for figure in (run.loss_figure(), run.samples_figure(20, steps=5, quiet=True),
                   run.filmstrip(20, steps=10, quiet=True)):
        png = figure._repr_png_()
        (tmp_path / "shown.png").write_bytes(png)
        assert png[:4] == b"\x89PNG" and imread(tmp_path / "shown.png").std() > 0.05


def test_the_rest_is_found_by_completion_and_imported_when_used():
    assert {"train", "load", "nn", "models", "gradcheck", "schedule"} <= set(dir(npdiff))
    lines = ["import sys, npdiff",
             "assert not {'npdiff.app', 'npdiff.verify', 'matplotlib', 'tqdm'} & set(sys.modules)",
             "npdiff.nn.linear_forward, npdiff.models.mlp, npdiff.gradcheck.complex_step",
             "npdiff.train, npdiff.load"]
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True)
    with pytest.raises(AttributeError, match="'npdiff' has no attribute 'trian'"):
        getattr(npdiff, "trian")            # noqa: B009


def test_wrong_fields_are_refused_in_words(tmp_path):
    for fields, message in [
        ({"widht": 3}, "widht: not known; the fields of a recipe are name, data"),
        ({"steps": 10.5}, "steps is 10.5; it must be an integer"),
        ({"steps": True}, "steps is True; it must be an integer"),
        ({"batch_size": 2.5}, "batch_size is 2.5; it must be an integer"),
        ({"lr": float("nan")}, "lr is nan; it must be a finite number"),
        ({"model": None}, "model is None"),
        ({"schedule": 3}, "schedule is 3; it must be text"),
        ({"num_train_timesteps": 99_999_999_999}, "num_train_timesteps is 99999999999; it must be at most"),
        ({"sampling_steps": 201}, "sampling_steps is 201; it must lie in 1..200"),
        ({"sampler": "magic"}, "sampler is 'magic'"),
        ({"sampling_clip": -1.0}, "sampling_clip is -1.0; it must be a positive number"),
        ({"hidden": 8}, "hidden is 8; it must be a list of integers"),
        ({"sampling_steps": "5"}, "sampling_steps is '5'; it must be an integer or None"),
        ({"batch_size": 10**11}, "batch_size is 100000000000; it must be at most 1,000,000"),
        ({"seed": 1.5}, "seed is 1.5; it must be an integer"),
        ({"seed": "0"}, "seed is '0'; it must be an integer"),
        ({"seed": True}, "seed is True; it must be an integer"),
        ({"seed": None}, "seed is None; it must be an integer"),
        ({"data": np.zeros((5, 2))}, "data is of type ndarray; it must be the path"),
    ]:
        with pytest.raises(ValueError, match=message):
            npdiff.train("moons", out=tmp_path / "run", **fields)
    assert not (tmp_path / "run").exists()


def test_any_integer_is_a_seed_and_a_number_of_samples(tmp_path):
    run = npdiff.train("moons", out=tmp_path / "run", seed=np.int64(3), **SMALL | {"steps": np.int16(2)})
    assert json.loads((tmp_path / "run" / "config.json").read_text())["seed"] == 3
    assert npdiff.load(tmp_path / "run").sample(np.int64(5), steps=np.int8(3), quiet=True).shape == (5, 2)
    for n in (5.0, "5", True, [5]):
        with pytest.raises(ValueError, match="n is .*; it must be an integer"):
            run.sample(n, quiet=True)
        with pytest.raises(ValueError, match="n is .*; it must be an integer"):
            run.evaluate(n, quiet=True)
    for settings, message in [
        ({"sampler": ["ddim"]}, "sampler is .*; it must be text"),
        ({"steps": 2.5}, "steps is 2.5; it must be an integer or None"),
        ({"sampler": "ddim", "eta": "a"}, "eta is 'a'; it must be a finite number"),
        ({"clip": "1"}, "clip is '1'; it must be a finite number or None"),
        ({"guidance": None}, "guidance is None; it must be a finite number"),
        ({"seed": 1.5}, "seed is 1.5; it must be an integer"),
    ]:
        with pytest.raises(ValueError, match=message):
            run.sample(4, quiet=True, **settings)


def test_labels_are_integers_and_samples_are_finite(tmp_path, capsys):
    tiny = {"widths": (4, 8), "groups": 2, "heads": 2, "time_dim": 4, "embedding_dim": 4, "batch_size": 2}
    run = npdiff.train("shapes", out=tmp_path / "run", steps=1, quiet=True, **tiny)
    for label in (True, 1.5, "1", [1, 2], np.array([1, 2])):
        with pytest.raises(ValueError, match="label is .*; it must be an integer in 0..7"):
            run.sample(2, label=label, quiet=True)
    with pytest.raises(ValueError, match="2 of 2 samples hold nan or inf"):
        run.sample(2, guidance=1e300, sampler="ddim", steps=2, quiet=True)
    with pytest.raises(SystemExit):
        main(["sample", str(tmp_path / "run"), "--guidance", "1e300", "--steps", "2", "--n", "2", "--quiet"])
    assert "Warning" not in capsys.readouterr().err and not list((tmp_path / "run").glob("drawn*"))


def test_a_path_may_begin_with_the_home_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    npdiff.train("moons", "~/run", **SMALL)
    assert npdiff.load("~/run").denoiser.step == 40
    main(["sample", "~/run", "--steps", "3", "--n", "4", "--out=~/x.npz", "--quiet"])
    main(["sample", "~/run", "--steps", "3", "--n", "4", "--quiet"])
    assert (tmp_path / "home" / "x.npz").is_file() and (tmp_path / "home/run/drawn.npz").is_file()
    assert not (tmp_path / "~").exists()


def test_pictures_ask_for_the_data_before_the_first_is_drawn(tmp_path, spiral, capsys):
    npdiff.train("points", tmp_path / "run", spiral, **SMALL)
    spiral.rename(tmp_path / "moved.npy")
    with pytest.raises(SystemExit):
        main(["pictures", str(tmp_path / "run")])
    assert "no such file" in capsys.readouterr().err and not list((tmp_path / "run").glob("*.png"))


def test_own_points_come_back_in_their_units(tmp_path, spiral):
    run = npdiff.train("points", data=spiral, out=tmp_path / "run", **SMALL)
    *_, (_, x) = run.chain(20, None, Sampling.of(run.recipe))
    expected = np.load(spiral).mean(0) + np.load(spiral).std(0) * x
    np.testing.assert_allclose(run.sample(20, quiet=True), expected, rtol=1e-12)
    numbers = run.evaluate(n=50, quiet=True)
    assert abs(numbers["mean_data"] - np.load(spiral).mean(0)).max() < 10 and "off_arcs" not in numbers
    kept = json.loads((tmp_path / "run" / "config.json").read_text())["data"]
    np.testing.assert_allclose(kept["shift"], np.load(spiral).mean(0))
    np.testing.assert_allclose(kept["scale"], np.load(spiral).std(0))
    assert kept["path"] == str(spiral) and len(kept["sha256"]) == 64


def test_a_run_goes_on_with_its_own_data_alone(tmp_path, spiral, capsys):
    run = npdiff.train("points", data=spiral, out=tmp_path / "run", **SMALL)
    np.save(tmp_path / "other.npy", np.load(spiral)[::-1])
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    path, other = str(tmp_path / "run"), str(tmp_path / "other.npy")
    for command in (["train", "points", "--resume", "--steps", "60", "--out", path, "--data", other],
                    ["evaluate", path, "--n", "10", "--data", other],
                    ["sample", path, "--start", "data", "--data", other]):
        with pytest.raises(SystemExit) as stop:
            main(command)
        err = capsys.readouterr().err
        assert stop.value.code == 2 and "was trained on data of SHA-256" in err and err.count("\n") == 1
    spiral.rename(tmp_path / "moved.npy")
    assert npdiff.load(path).sample(5, quiet=True).shape == (5, 2)           # needs no data
    with pytest.raises(FileNotFoundError, match="spiral.npy"):
        npdiff.load(path).evaluate(n=10, quiet=True)
    assert npdiff.load(path, data=tmp_path / "moved.npy").evaluate(n=10, quiet=True)["n"] == 10
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before
    assert run.path == tmp_path / "run"


@pytest.mark.slow
def test_own_images_with_labels(tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "images.npy", rng.integers(0, 256, (20, 8, 8, 3), np.uint8))
    np.save(tmp_path / "labels.npy", np.arange(20) % 2)
    main(["train", "images", "--data", str(tmp_path / "images.npy"), "--steps", "2", "--batch-size", "4",
          "--model.widths", "16", "16", "--num-train-timesteps", "4", "--out", str(tmp_path / "run"),
          "--quiet"])
    run = npdiff.load(tmp_path / "run")
    assert run.recipe.model.data_shape == (3, 8, 8) and run.recipe.model.classes == 2
    assert run.sample(3, label=1, quiet=True).shape == (3, 3, 8, 8)
    assert abs(run.sample(3, quiet=True)).max() <= 1                        # the recipe holds x_0 there
    assert run.evaluate(n=8, quiet=True)["within_class"] > 0
    for name in ("diffusion_samples.png", "samples_by_class.png", "denoising_filmstrip.png", "samples.gif"):
        assert (tmp_path / "run" / name).stat().st_size > 2000


def test_a_state_that_is_not_finite_is_never_kept(tmp_path):
    """One step with lr = 1e300: the loss before it is finite, the parameters after it are not."""
    with pytest.raises(ValueError, match="the state at step 1 hold .* finite; the last good checkpoint is"):
        npdiff.train("moons", out=tmp_path / "run", **SMALL | {"steps": 1, "lr": 1e300})
    (kept,) = (tmp_path / "run" / "checkpoints").iterdir()
    assert kept.name == "step-00000000.safetensors"
    assert np.isfinite(npdiff.load(tmp_path / "run").denoiser.theta).all()


class Helper(NumpyBackend):
    """A backend whose process may not write."""
    writes = False


def test_where_writes_is_false_nothing_is_written_or_printed(tmp_path, capsys):
    recipe = replace(MOONS, model=mlp.Config(hidden=(8,), time_dim=4), steps=5, batch_size=8)
    run = new_run(recipe, Helper(), tmp_path / "run")
    before = run.denoiser.theta.copy()
    run.train()
    assert run.denoiser.step == 5 and (run.denoiser.theta != before).any()
    printed = capsys.readouterr()
    assert not list(tmp_path.iterdir()) and printed.out == printed.err == ""


def test_ctrl_c_is_held_back_in_the_main_thread_alone():
    """Another thread may train too: it may not set a handler, and the one that is there stays."""
    before, failed = signal.getsignal(signal.SIGINT), []

    def other():
        try:
            with held_back_interrupt() as seen:
                assert seen == [] and signal.getsignal(signal.SIGINT) is before
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert not failed
    with held_back_interrupt() as seen:
        os.kill(os.getpid(), signal.SIGINT)
        assert seen == [True]
    assert signal.getsignal(signal.SIGINT) is before


def test_the_filmstrip_of_the_lab():
    """With T = 300 it shows x_t at 300, 200, 120, 60, 20 and 0. A textbook's Fashion-MNIST lab, which counts
    from 0, begins at 299 and shows the same t after that.
    """
    assert [round(share * 300) for share in SHOWN] == [300, 200, 120, 60, 20, 0]


def test_the_loss_of_one_step_is_called_that():
    assert training_loss(MOONS, [1], [0.5]).startswith("training loss, 1 step  ")
    assert training_loss(MOONS, [2], [0.5]).startswith("training loss, last 2 steps  ")
