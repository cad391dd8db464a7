"""Recipes and run directories: what is written comes back, and what is wrong is named."""

import json
from dataclasses import replace

import numpy as np
import pytest

from npdiff.app import checkpoint
from npdiff.data import files
from npdiff.data.files import write_bytes
from npdiff.models import mlp
from npdiff.recipes import MOONS, RECIPES, get_recipe, recipe_from_dict, recipe_to_dict
from npdiff.schedule import make_schedule


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_survive_json(name):
    assert recipe_from_dict(json.loads(json.dumps(recipe_to_dict(get_recipe(name))))) == get_recipe(name)


def test_our_moons_end_in_noise():
    assert make_schedule(MOONS.schedule, MOONS.num_train_timesteps).alpha_bar[-1] < 1e-4


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("steps", 0, "steps is 0"),
        ("steps", -3, "steps is -3"),
        ("batch_size", 0, "batch_size is 0"),
        ("lr", 0.0, "lr is 0.0"),
        ("lr", float("nan"), "lr is nan"),
        ("num_train_timesteps", 1, "num_train_timesteps is 1"),
        ("schedule", "x", "schedule is 'x'"),
        ("data", "suns", "data is 'suns'"),
        ("lr_schedule", "x", "lr_schedule is 'x'"),
        ("ema_decay", 1.0, "ema_decay is 1.0"),
        ("variance", "x", "variance is 'x'"),
        ("prediction_type", "x", "prediction_type is 'x'"),
    ],
)
def test_recipe_refuses(field, value, message):
    with pytest.raises(ValueError, match=message):
        replace(MOONS, **{field: value})


@pytest.mark.parametrize(
    "values, message",
    [
        ({"hidden": ()}, "hidden is"),
        ({"hidden": (0,)}, "hidden is"),
        ({"time_dim": 3}, "time_dim is 3"),
        ({"time_dim": 0}, "time_dim is 0"),
        ({"fourier_features": -1}, "fourier_features is -1"),
        ({"data_dim": 0}, "data_dim is 0"),
    ],
)
def test_mlp_config_refuses(values, message):
    with pytest.raises(ValueError, match=message):
        mlp.Config(**values)


def test_unknown_recipe():
    with pytest.raises(ValueError, match="recipe is 'suns'; it must be one of moons, textbook-moons, shapes"):
        get_recipe("suns")


def test_run_directory_round_trip(tmp_path, tiny):
    denoiser, _, recipe = tiny
    run = checkpoint.create_run(tmp_path / "a" / "run", recipe, 7)
    assert checkpoint.load_config(run) == (recipe, 7, [])
    denoiser.step = 5
    checkpoint.save_checkpoint(run, denoiser.export())
    denoiser.step = 10
    newest = checkpoint.save_checkpoint(run, denoiser.export())
    assert (
        [path.name for path in (run / "checkpoints").iterdir()]
        == [newest.name]
        == ["step-00000010.safetensors"]
    )
    state = checkpoint.load_checkpoint(run)
    assert {name: array.tobytes() for name, array in state.items()} == {
        name: array.tobytes() for name, array in denoiser.export().items()
    }
    np.testing.assert_array_equal(checkpoint.sampling_weights(state)["linear1.W"], state["ema/linear1.W"])
    with checkpoint.MetricsLog(run, 100) as log:
        for step in range(1, 251):
            log.add(step, float(step), 0.0)
    assert checkpoint.load_metrics(run) == ([100, 200, 250], [50.5, 150.5, 225.5])
    # what came after step 200 is made again
    with checkpoint.MetricsLog(run, 100, resumed_from=200) as log:
        for step in range(201, 301):
            log.add(step, 1.0, 0.0)
    assert checkpoint.load_metrics(run) == ([100, 200, 300], [50.5, 150.5, 1.0])


def test_an_existing_directory_is_left_alone(tmp_path):
    (tmp_path / "run").mkdir()
    with pytest.raises(FileExistsError, match="run exists"):
        checkpoint.create_run(tmp_path / "run", MOONS, 0)
    assert not list((tmp_path / "run").iterdir())


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_bytes(path, b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["file"]


def edit(run, change):
    path = run / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


@pytest.mark.parametrize(
    "spoil, error, message",
    [
        (lambda run: (run / "config.json").unlink(), FileNotFoundError, "config.json is missing"),
        (lambda run: (run / "config.json").write_text("{"), ValueError, "config.json: "),
        (lambda run: edit(run, lambda c: c["recipe"].pop("steps")), ValueError, "config.json: .*steps"),
        (
            lambda run: edit(run, lambda c: c["recipe"].update(colour=1)),
            ValueError,
            "config.json: colour: not known",
        ),
        (lambda run: edit(run, lambda c: c["recipe"].update(steps="many")), ValueError, "config.json: "),
        (
            lambda run: edit(run, lambda c: c["recipe"].update(num_train_timesteps=1)),
            ValueError,
            "num_train_timesteps is 1",
        ),
        (
            lambda run: edit(run, lambda c: c["recipe"]["model"].update(name="cnn")),
            ValueError,
            "model name is 'cnn'",
        ),
        (lambda run: edit(run, lambda c: c.pop("seed")), ValueError, "config.json: 'seed'"),
    ],
)
def test_damaged_config(tmp_path, spoil, error, message):
    run = checkpoint.create_run(tmp_path / "run", MOONS, 0)
    spoil(run)
    with pytest.raises(error, match=message):
        checkpoint.load_config(run)


def test_damaged_checkpoint_and_metrics(tmp_path, tiny):
    denoiser, _, recipe = tiny
    run = checkpoint.create_run(tmp_path / "run", recipe, 0)
    with pytest.raises(FileNotFoundError, match="holds no checkpoint"):
        checkpoint.load_checkpoint(run)
    with pytest.raises(FileNotFoundError, match="metrics.csv is missing"):
        checkpoint.load_metrics(run)
    path = checkpoint.save_checkpoint(run, denoiser.export())
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match="is damaged"):
        checkpoint.load_checkpoint(run)
    (run / "metrics.csv").write_text("step,loss\n1,abc\n")
    with pytest.raises(ValueError, match="metrics.csv: "):
        checkpoint.load_metrics(run)
