"""Run directories: what a training run keeps on disk, each file written whole or not at all.

    config.json      the recipe, the seed, the data and what computed it
    metrics.csv      a row for recipe.log_every steps: the last step, their mean loss, seconds since the start
    checkpoints/     step-NNNNNNNN.safetensors, the denoiser's whole state; the newest stays
"""

import csv
import json
from pathlib import Path
from typing import NamedTuple

from npdiff.backends.protocols import check_finite
from npdiff.data.files import write_bytes
from npdiff.recipes import Recipe, recipe_from_dict, recipe_to_dict


class RunConfig(NamedTuple):
    """What config.json holds."""
    recipe: Recipe
    seed: int
    data: dict          # path, sha256, class_names, shift, scale: see npdiff.data.dataset; {} in older runs
    history: list       # a dict for each time that training began: the first step, and what computed it


def create_run(out, config):
    """Make the run directory `out`. Raises FileExistsError if it exists, and other OSErrors."""
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        out.mkdir()
    except FileExistsError:
        raise FileExistsError(f"{out} exists; give another --out, or remove it") from None
    (out / "checkpoints").mkdir()
    save_config(out, config)
    return out


def save_config(run, config):
    """Write config.json."""
    entries = {"recipe": recipe_to_dict(config.recipe), "seed": config.seed,
               "data": config.data, "history": config.history}
    write_bytes(Path(run) / "config.json", json.dumps(entries, indent=2).encode() + b"\n")


def load_config(run):
    """The RunConfig of a run directory.

    Raises FileNotFoundError if it is not one, ValueError if its config.json makes no sense.
    """
    path = Path(run) / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; a run directory has one")
    try:
        entries = json.loads(path.read_text())
        return RunConfig(recipe_from_dict(entries["recipe"]), int(entries["seed"]),
                         dict(entries.get("data", {})), list(entries["history"]))   # older runs: no data
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def save_checkpoint(run, state):
    """Write a denoiser's exported state, then remove older checkpoints. Returns the path.

    Raises ValueError, and keeps the older ones, if the state is not finite.
    """
    from safetensors.numpy import save
    check_finite(state, f"the arrays of the state at step {int(state['step'])}")
    path = Path(run) / "checkpoints" / f"step-{int(state['step']):08d}.safetensors"
    write_bytes(path, save(state))
    for old in path.parent.glob("step-*.safetensors"):
        if old.name < path.name:
            old.unlink()
    return path


def newest_checkpoint(run):
    """The path of the newest checkpoint. Raises FileNotFoundError if there is none."""
    folder = Path(run) / "checkpoints"
    found = sorted(folder.glob("step-*.safetensors"))
    if not found:
        raise FileNotFoundError(f"{folder} holds no checkpoint; a run directory has one")
    return found[-1]


def load_checkpoint(run):
    """The state in the newest checkpoint, a dict of named NumPy arrays.

    Raises FileNotFoundError if there is none, ValueError if it is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load
    path = newest_checkpoint(run)
    try:
        state = load(path.read_bytes())
        check_finite(state, "its arrays")
        return state
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def sampling_weights(state):
    """The parameters to sample with, by name: their moving average where the state keeps one."""
    group = "ema/" if any(name.startswith("ema/") for name in state) else "params/"
    return {name.removeprefix(group): array for name, array in state.items() if name.startswith(group)}


class MetricsLog:
    """Appends a row to metrics.csv for every so many steps, and for the last steps.

    Where training is resumed, rows after the step it is resumed from are dropped.
    """

    def __init__(self, run, every, resumed_from=0):
        path = Path(run) / "metrics.csv"
        rows = ["step,loss,seconds"]
        if resumed_from:
            steps, _ = load_metrics(run)
            rows = path.read_text().splitlines()[:1 + sum(step <= resumed_from for step in steps)]
        write_bytes(path, "\n".join(rows + [""]).encode())
        self.file = open(path, "a", newline="")
        self.writer = csv.writer(self.file, lineterminator="\n")
        self.losses, self.every = [], every

    def add(self, step, loss, seconds):
        """Take in one step's loss."""
        self.step, self.seconds = step, seconds
        self.losses.append(loss)
        if step % self.every == 0:
            self.flush()

    def flush(self):
        """Write what has come in since the last row."""
        if self.losses:
            self.writer.writerow(
                [self.step, f"{sum(self.losses) / len(self.losses):.6f}", f"{self.seconds:.2f}"]
            )
            self.file.flush()
            self.losses = []

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.flush()
        self.file.close()


def load_metrics(run):
    """-> (steps, losses), two lists, from metrics.csv. Raises FileNotFoundError or ValueError."""
    path = Path(run) / "metrics.csv"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; a run directory has one")
    try:
        with open(path, newline="") as file:
            rows = list(csv.DictReader(file))
        return [int(row["step"]) for row in rows], [float(row["loss"]) for row in rows]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error!r}") from error
