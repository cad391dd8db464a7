"""Run directories: what is written comes back, and what is wrong is named."""

import json

import numpy as np
import pytest

from npdiff.app import checkpoint
from npdiff.app.checkpoint import RunConfig
from npdiff.recipes import MOONS


def as_bytes(state):
    return {name: array.tobytes() for name, array in state.items()}


def test_config_and_checkpoint_come_back(tmp_path, tiny):
    denoiser, _, recipe = tiny
    run = checkpoint.create_run(tmp_path / "a" / "run", RunConfig(recipe, 7, {"path": "x"}, []))
    assert checkpoint.load_config(run) == (recipe, 7, {"path": "x"}, [])
    denoiser.step = 5
    checkpoint.save_checkpoint(run, denoiser.export())
    denoiser.step = 10
    newest = checkpoint.save_checkpoint(run, denoiser.export())
    assert newest.name == "step-00000010.safetensors"
    assert list((run / "checkpoints").iterdir()) == [newest]
    state = checkpoint.load_checkpoint(run)
    assert as_bytes(state) == as_bytes(denoiser.export())
    np.testing.assert_array_equal(checkpoint.sampling_weights(state)["linear1.W"], state["ema/linear1.W"])


def test_metrics_come_back(tmp_path, tiny):
    *_, recipe = tiny
    run = checkpoint.create_run(tmp_path / "run", RunConfig(recipe, 0, {}, []))
    with checkpoint.MetricsLog(run, 100) as log:
        for step in range(1, 251):
            log.add(step, float(step), 0.0)
    assert checkpoint.load_metrics(run) == ([100, 200, 250], [50.5, 150.5, 225.5])
    # training goes on after step 200: the rows behind it are written again
    with checkpoint.MetricsLog(run, 100, resumed_from=200) as log:
        for step in range(201, 301):
            log.add(step, 1.0, 0.0)
    assert checkpoint.load_metrics(run) == ([100, 200, 300], [50.5, 150.5, 1.0])


def test_an_existing_directory_is_left_alone(tmp_path):
    (tmp_path / "run").mkdir()
    with pytest.raises(FileExistsError, match="run exists"):
        checkpoint.create_run(tmp_path / "run", RunConfig(MOONS, 0, {}, []))
    assert not list((tmp_path / "run").iterdir())


def edited(change):
    """A function that changes the content of a run's config.json."""
    def spoil(run):
        path = run / "config.json"
        config = json.loads(path.read_text())
        change(config)
        path.write_text(json.dumps(config))
    return spoil


def with_values(**values):
    return edited(lambda config: config["recipe"].update(values))


@pytest.mark.parametrize(
    "spoil, error, message",
    [
        (lambda run: (run / "config.json").unlink(), FileNotFoundError, "config.json is missing"),
        (lambda run: (run / "config.json").write_text("{"), ValueError, "config.json: "),
        (edited(lambda config: config["recipe"].pop("steps")), ValueError, "config.json: .*steps"),
        (with_values(colour=1), ValueError, "config.json: colour: not known"),
        (with_values(steps="many"), ValueError, "config.json: "),
        (with_values(num_train_timesteps=1), ValueError, "num_train_timesteps is 1"),
        (with_values(model={"name": "cnn"}), ValueError, "model name is 'cnn'"),
        (edited(lambda config: config.pop("seed")), ValueError, "config.json: 'seed'"),
    ],
)
def test_damaged_config(tmp_path, spoil, error, message):
    run = checkpoint.create_run(tmp_path / "run", RunConfig(MOONS, 0, {}, []))
    spoil(run)
    with pytest.raises(error, match=message):
        checkpoint.load_config(run)


def test_damaged_checkpoint_and_metrics(tmp_path, tiny):
    denoiser, _, recipe = tiny
    run = checkpoint.create_run(tmp_path / "run", RunConfig(recipe, 0, {}, []))
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
