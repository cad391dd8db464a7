"""The command line as a user meets it: what it writes, that the same seed gives the same bytes, and that
every mistake ends in one line and status 2.
"""

import csv
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from toy_backend import ToyBackend

from npdiff import backends, nn, recipes
from npdiff.app import pictures
from npdiff.app.cli import main, parse
from npdiff.app.commands import backend_of
from npdiff.app.run import Run
from npdiff.diffusion import LOSS_WEIGHTS, PREDICTION_TYPES
from npdiff.schedule import SCHEDULES
from npdiff.verify import compare

PICTURES = ["filmstrip.png", "loss.png", "loss_by_t.png", "samples.gif", "samples.png", "schedule.png"]
CHECKPOINT = "checkpoints/step-00000120.safetensors"
# The command without the pictures of a run, which take most of its time.
WITHOUT_PICTURES = """
import sys
from npdiff.app import cli, pictures

pictures.draw_pictures = lambda *_: []
cli.main(sys.argv[1:])
"""
# The same as Ctrl-C at step 47 of 120.
INTERRUPTED = """
import os, signal
from npdiff.app import checkpoint, cli

add = checkpoint.MetricsLog.add

def add_and_interrupt(self, step, *rest):
    add(self, step, *rest)
    if step == 47:
        os.kill(os.getpid(), signal.SIGINT)

checkpoint.MetricsLog.add = add_and_interrupt
cli.main(["train", "moons", "--steps", "120", "--out", "run", "--quiet"])
"""


def python(*arguments, cwd):
    """Run Python in a process of its own."""
    arguments = [sys.executable, *map(str, arguments)]
    return subprocess.run(arguments, cwd=cwd, capture_output=True, text=True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of `moons` with 120 steps -> its folder, the finished process."""
    folder = tmp_path_factory.mktemp("runs")
    done = python("-m", "npdiff", "train", "moons", "--steps", 120, "--out", "run", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "run", done


@pytest.fixture(scope="module")
def run(trained):
    """The folder of that run."""
    folder, _ = trained
    return folder


@pytest.fixture
def no_pictures(monkeypatch):
    """main trains without drawing the pictures of a run."""
    monkeypatch.setattr(pictures, "draw_pictures", lambda *_: [])


def config_of(run):
    return json.loads((run / "config.json").read_text())


def logged_steps(run):
    """The steps in metrics.csv."""
    return [row["step"] for row in csv.DictReader((run / "metrics.csv").read_text().splitlines())]


def test_train_writes_and_announces(trained):
    run, done = trained
    for name in PICTURES:
        assert f"run/{name}" in done.stdout and (run / name).stat().st_size > 5000
    files = sorted(path.name for path in run.iterdir())
    assert files == sorted([*PICTURES, "checkpoints", "config.json", "metrics.csv"])
    config = config_of(run)
    assert config["recipe"]["steps"] == 120 and config["seed"] == 0
    assert "thread" in config["history"][0]["library"]
    assert logged_steps(run) == ["100", "120"]
    assert "steps/s" in done.stderr and " s left" in done.stderr and "\r" not in done.stderr


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes(run, tmp_path, monkeypatch, no_pictures):
    """In another process, too. Another seed gives other bytes."""
    monkeypatch.chdir(tmp_path)
    again = ["train", "moons", "--steps", 120, "--out", "again"]
    assert python("-c", WITHOUT_PICTURES, *again, cwd=tmp_path).returncode == 0
    main(["train", "moons", "--steps", "120", "--seed", "1", "--out", "other", "--quiet"])
    expected = (run / CHECKPOINT).read_bytes()
    assert Path("again", CHECKPOINT).read_bytes() == expected != Path("other", CHECKPOINT).read_bytes()
    sample = ["sample", "again", "--n", "100", "--out", "a.npz"]
    assert python("-c", WITHOUT_PICTURES, *sample, cwd=tmp_path).returncode == 0
    main(["sample", str(run), "--n", "100", "--out", "b.npz"])
    assert Path("a.npz").read_bytes() == Path("b.npz").read_bytes()


def test_sample(run, tmp_path, capsys):
    out = tmp_path / "new" / "x.npz"
    main(["sample", str(run), "--steps", "10", "--n", "64", "--out", str(out)])
    x = np.load(out)["samples"]
    assert x.shape == (64, 2) and x.dtype == np.float32 and np.isfinite(x).all()
    assert out.with_suffix(".png").stat().st_size > 5000
    assert capsys.readouterr().out.split() == [str(out), str(out.with_suffix(".png"))]


def test_default_names_never_collide(run, tmp_path, monkeypatch, no_pictures):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run, "run")
    flow = ["--schedule", "straight", "--prediction-type", "flow_prediction"]
    for _ in range(2):
        main(["train", "textbook-moons", "--steps", "20", "--quiet", *flow, "--num-train-timesteps", "50"])
        main(["sample", "run", "--steps", "2", "--n", "8"])
    assert sorted(path.name for path in Path("runs").iterdir()) == ["textbook-moons", "textbook-moons-2"]
    recipe = config_of(Path("runs/textbook-moons"))["recipe"]
    assert recipe["schedule"] == "straight" and recipe["prediction_type"] == "flow_prediction"
    assert recipe["num_train_timesteps"] == 50
    drawn = sorted(path.name for path in Path("run").glob("drawn*"))
    assert drawn == ["drawn-2.npz", "drawn-2.png", "drawn.npz", "drawn.png"]


def test_textbook_moons_says_what_is_wrong_with_it(tmp_path, capsys, no_pictures):
    """A textbook's DDPM chapter: two moons, T = 200, betas 1e-4..0.02, an 18-128-128-2 network."""
    main(["train", "textbook-moons", "--steps", "20", "--quiet", "--out", str(tmp_path / "run")])
    assert "alpha_bar[200] = 0.132 leaves signal in x_T" in capsys.readouterr().out


def test_evaluate(run, capsys):
    main(["evaluate", str(run), "--n", "200", "--steps", "10", "--sampler", "heun", "--likelihood"])
    out = capsys.readouterr().out
    for words in (
        "above the floor 0.296",
        "log-likelihood of fresh data, nats",
        "variational bound, bits/dim",
        "energy distance to fresh data",
        "training loss, last 120 steps",
        "farther than 0.2 from the arcs",
    ):
        assert words in out


def test_what_is_wrong_is_said_by_every_command_that_samples(tmp_path, capsys):
    """train warns of its own pictures' sampling, sample and evaluate of the sampling that is asked for."""
    folder = str(tmp_path / "run")
    main(["train", "moons", "--schedule", "cosine", "--num-train-timesteps", "20", "--steps", "20", "--quiet",
          "--no-pictures", "--out", folder])
    assert "note: " not in capsys.readouterr().out              # ancestral, every timestep
    few = ["--sampler", "ddim", "--steps", "10", "--n", "20", "--quiet"]
    for command in ("sample", "evaluate"):
        main([command, folder, *few])
        notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
        assert len(notes) == 1 and "it is multiplied by 62 in the jump to t = 18" in notes[0]
        assert "; change: --sampler ancestral --steps 20 (then by " in notes[0]
        main([command, folder, "--n", "20", "--steps", "11", "--timestep-spacing", "leading", "--quiet",
              *(["--out", str(tmp_path / "y.npz")] if command == "sample" else [])])
        assert "note: sampling starts at t = 11, and N(0, I) is taken for x_11" in capsys.readouterr().out


def test_evaluate_refuses_samples_that_are_not_finite(run, capsys, monkeypatch):
    chain = Run.chain

    def spoilt(*arguments):
        for t, x in chain(*arguments):
            x = x.copy()
            x[4] = np.nan
            yield t, x

    monkeypatch.setattr(Run, "chain", spoilt)
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", str(run), "--n", "20", "--steps", "5", "--quiet"])
    said = capsys.readouterr()
    assert stop.value.code == 2 and "5 of 100 samples hold nan or inf" in said.err and "arcs" not in said.out


GRADCHECK = {       # what is asked: words that the answer has, and words that it does not have
    "mlp": (["fourier.B", "linear3.b", "every gradient is right", "checked: 1 network (mlp)"], ["pair"]),
    "conv2d": (["every gradient is right", "checked: 1 pair in 20 random shapes"], ["mlp", "network"]),
    "all": (["attention", "cross_entropy", "mse", "unet, plain blocks, labels, attention",
             "every gradient is right", "13 pairs in 20 random shapes each", "4 networks (mlp; convnet,"],
            ["linear1.W"]),
}


@pytest.mark.parametrize("what", GRADCHECK)
def test_gradcheck(what, capsys):
    main(["gradcheck"] + [what] * (what != "all"))                  # all unless given
    out, (words, others) = capsys.readouterr().out, GRADCHECK[what]
    assert all(word in out for word in words), out
    assert not any(word in out for word in others), out


@pytest.mark.parametrize("what, message", [
    ("silu", "a gradient of silu is wrong: that of x"),
    ("mlp", "wrong: the first wrong function on the way back is nn.silu_backward, in linear2.silu"),
    ("all", "silu_backward ("),
])
def test_gradcheck_names_a_wrong_gradient(what, message, monkeypatch, capsys):
    right = nn.silu_backward
    monkeypatch.setattr(nn, "silu_backward", lambda dy, cache: right(dy, cache) * 1.0005)
    with pytest.raises(SystemExit) as stop:
        main(["gradcheck", what])
    out, err = capsys.readouterr()
    assert stop.value.code == 2 and err.startswith("error: ") and err.count("\n") == 1 and message in err
    assert "test_cli.py:" in err and "is right" not in out


def files_and_times(*folders):
    return sorted((path, path.stat().st_mtime_ns) for folder in folders for path in folder.rglob("*"))


TWO_RECIPES = ["compare", "moons,textbook-moons", "--backends", "numpy,torch"]
WIDE_SPACING = "timestep_spacing is 'wide'; it must be one of leading, linspace, trailing"
NO_WEIGHT = "loss_weight is 'none'; it must be one of simple, min_snr, vlb"
RESUMED_WITH_CHANGES = "schedule given with --resume"


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["train", "suns"], "recipe is 'suns'; it must be one of moons, textbook-moons"),
        (["train", "moons", "--steps", "0"], "steps is 0; it must be at least 1"),
        (["train", "moons", "--steps", "-5"], "steps is -5; it must be at least 1"),
        (["train", "moons", "--steps", "many"], "Error parsing --steps"),
        (["train", "moons", "--seed", "-1"], "seed is -1"),
        (["train", "moons", "--backend", "abacus"], "backend is 'abacus'; it must be one of numpy, torch"),
        (["train", "moons", "--device", "cuda"], "device is 'cuda'; the numpy backend has only cpu"),
        (["train", "moons", "--out", "taken"], "taken exists; give another --out"),
        (["train", "moons", "--out", "file/run"], "file: "),
        (["train", "moons", "--colour"], "--colour"),
        (["train"], "Missing from npdiff train"),
        (["paint"], "paint"),
        ([], "Expected one of"),
        (["sample", "nowhere"], "nowhere/config.json is missing"),
        (["evaluate", "taken"], "taken/config.json is missing"),
        (["sample", "RUN", "--n", "0"], "n is 0; it must be at least 1"),
        (["sample", "RUN", "--steps", "201"], "steps is 201; a sampler of this schedule takes 1..200"),
        (["sample", "RUN", "--variance", "none"], "variance is 'none'"),
        (["sample", "RUN", "--sampler", "none"], "sampler is 'none'"),
        (["sample", "RUN", "--sampler", "ddim", "--eta", "2"], "eta is 2.0; it must lie in [0, 1]"),
        (["sample", "RUN", "--timestep-spacing", "wide"], WIDE_SPACING),
        (["sample", "RUN", "--timestep-spacing", "linspace", "--steps", "1"], "linspace visits both"),
        (["sample", "RUN", "--clip", "-1"], "clip is -1.0"),
        (["sample", "RUN", "--guidance", "2"], "guidance is 2.0; moons takes no labels"),
        (["sample", "RUN", "--start", "zero"], "start is 'zero'; it must be noise or data"),
        (["sample", "RUN", "--out", "x.png"], "it must end in .npz"),
        (["sample", "RUN", "--out", "old.npz"], "old.npz exists"),
        (["sample", "RUN", "--out", "file/x.npz"], "file is no folder"),
        (["train", "moons", "--schedule", "cubic"], "schedule is 'cubic'; it must be one of linear"),
        (["train", "moons", "--schedule", "straight"], "prediction_type is 'epsilon', but alpha_bar_T is 0"),
        (["train", "moons", "--prediction-type", "noise"], "prediction_type is 'noise'"),
        (["train", "moons", "--loss-weight", "none"], NO_WEIGHT),
        (["train", "moons", "--num-train-timesteps", "1"], "num_train_timesteps is 1"),
        (["train", "moons", "--resume", "--out", "RUN", "--schedule", "cosine"], RESUMED_WITH_CHANGES),
        (["train", "moons", "--resume"], "runs/moons/config.json is missing"),
        (["train", "moons", "--resume", "--out", "RUN"], "is complete at step 120; give more --steps"),
        (["train", "textbook-moons", "--resume", "--out", "RUN"], "is a run of moons, not of textbook-moons"),
        (["train", "moons", "--backend", "torch", "--device", "abacus"], "device is 'abacus'"),
        (["compare", "moons", "--backends", "numpy"], "it must name at least two"),
        (["compare", "moons", "--backends", "numpy,abacus"], "backend is 'abacus'"),
        (["compare", "moons", "--backends", "numpy,torch:abacus"], "device is 'abacus'"),
        (["compare", "moons", "--backends", "numpy,torch", "--dtype", "float16"], "dtype is 'float16'"),
        (["compare", "moons", "--backends", "numpy,torch", "--steps", "0"], "steps is 0"),
        (["compare", "moons,suns", "--backends", "numpy,torch"], "recipe is 'suns'"),
        ([*TWO_RECIPES, "--out", "x.png"], "--out is x.png; it names the picture of one recipe"),
        (["doctor", "suns"], "recipe is 'suns'"),
        (["doctor", "moons", "--schedule", "cubic"], "schedule is 'cubic'"),
        (["doctor", "moons", "--schedule", "straight"], "alpha_bar_T is 0"),
        (["gradcheck", "cnn"], "pair or model is 'cnn'; it must be one of mlp, convnet, unet, linear, "),
    ],
)
def test_mistakes(run, tmp_path, monkeypatch, capsys, arguments, message):
    """One line on stderr, status 2, and no file is written or changed."""
    monkeypatch.chdir(tmp_path)
    Path("taken").mkdir()
    Path("file").write_text("x")
    Path("old.npz").write_text("x")
    before = files_and_times(tmp_path, run)
    with pytest.raises(SystemExit) as stop:
        main([str(run) if argument == "RUN" else argument for argument in arguments])
    err = capsys.readouterr().err
    assert stop.value.code == 2
    assert err.startswith("error: ") and err.count("\n") == 1 and message in err
    assert files_and_times(tmp_path, run) == before


@pytest.mark.parametrize(
    "name, message",
    [
        ("config.json", "config.json is missing"),
        (CHECKPOINT, "holds no checkpoint"),
        ("metrics.csv", "metrics.csv is missing"),
    ],
)
def test_a_run_directory_that_lacks_a_file(run, tmp_path, capsys, name, message):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    (copy / name).unlink()
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", str(copy), "--n", "10"])
    assert stop.value.code == 2 and message in capsys.readouterr().err


def test_a_loss_that_stops_being_finite(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(recipes.RECIPES, "moons", replace(recipes.MOONS, lr=1e30))
    with pytest.raises(SystemExit) as stop:
        main(["train", "moons", "--quiet", "--out", str(tmp_path / "run")])
    err = capsys.readouterr().err
    assert stop.value.code == 2 and err.count("\n") == 1 and "at step" in err
    kept = tmp_path / "run" / "checkpoints" / "step-00000000.safetensors"
    assert f"the last good checkpoint is {kept}" in err and kept.exists()


def test_interrupted_then_resumed_is_as_if_never_stopped(run, tmp_path, monkeypatch, no_pictures):
    """Ctrl-C lets the step finish and saves. --resume then ends in the same bytes as a run that was not
    interrupted, and metrics.csv has every row.
    """
    monkeypatch.chdir(tmp_path)
    done = python("-c", INTERRUPTED, cwd=tmp_path)
    assert done.returncode == 130
    advice = "error: interrupted at step 47; to go on: npdiff train moons --resume --out run"
    assert advice in done.stderr
    assert [path.name for path in Path("run/checkpoints").iterdir()] == ["step-00000047.safetensors"]
    main(["train", "moons", "--resume", "--out", "run", "--quiet"])
    assert Path("run", CHECKPOINT).read_bytes() == (run / CHECKPOINT).read_bytes()
    assert logged_steps(Path("run")) == ["47", "100", "120"]
    assert [entry["first_step"] for entry in config_of(Path("run"))["history"]] == [1, 48]


def test_resume_on_the_other_backend(run, tmp_path, monkeypatch, capsys, no_pictures):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run, "run")
    main(["train", "moons", "--resume", "--steps", "150", "--backend", "torch", "--out", "run"])
    assert "steps 121 to 150" in capsys.readouterr().out
    libraries = [entry["library"] for entry in config_of(Path("run"))["history"]]
    assert [library.split()[0] for library in libraries] == ["numpy", "torch"]
    for backend in ("numpy", "torch"):
        main(["sample", "run", "--backend", backend, "--n", "50", "--out", f"{backend}.npz"])
    ours, theirs = (np.load(f"{backend}.npz")["samples"] for backend in ("numpy", "torch"))
    assert abs(ours - theirs).max() < 1e-3


@pytest.mark.slow
def test_compare(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(compare, "time_in_turns", partial(compare.time_in_turns, seconds=0.001))
    main([*TWO_RECIPES, "--dtype", "float64", "--steps", "20", "--quiet"])
    out = capsys.readouterr().out
    for words in (
        "  time ",
        "  linear4 ",
        "fourier.B",
        "the first layer whose outputs differ",
        "over 20 training steps",
        "peak memory",
        "textbook-moons, torch",
        "moons, the floor",
    ):
        assert words in out
    for name in ("moons", "textbook-moons"):
        assert Path(f"runs/compare-{name}.png").stat().st_size > 20_000


FLAGS = {
    "train": "RECIPE --backend --device --steps --seed --out --quiet --resume",
    "sample": "RUN --sampler --steps --timestep-spacing --eta --clip --guidance --start --n --seed --out",
    "evaluate": "RUN --n --sampler --likelihood",
    "doctor": "RECIPE --schedule --num-train-timesteps",
    "gradcheck": "PAIR MODEL all --seed",
}


@pytest.mark.parametrize("command", FLAGS)
def test_help_names_every_flag(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    out = capsys.readouterr().out
    assert stop.value.code == 0
    words = set(re.findall(r"[\w-]+", out))
    assert set(FLAGS[command].split()) <= words
    if "--schedule" in out:
        assert {*SCHEDULES, *PREDICTION_TYPES, *LOSS_WEIGHTS} <= set(re.findall(r"\w+", out))


def test_the_options_of_a_backend_are_flags(monkeypatch, capsys):
    """They come from the backend that --backend names. No file in npdiff names them."""
    points = [SimpleNamespace(name="toy", load=lambda: ToyBackend)]
    monkeypatch.setattr(backends, "entry_points", lambda group: points)
    command = parse(["train", "moons", "--backend", "toy", "--weight-decay", "0.5"])
    assert backend_of(command).options.weight_decay == 0.5
    assert backend_of(parse(["sample", "runs/moons", "--backend=toy"])).options.weight_decay == 0.0
    with pytest.raises(SystemExit):
        parse(["train", "--help", "--backend", "toy"])
    assert "--weight-decay" in capsys.readouterr().out


def test_a_flag_of_another_backend_is_refused():
    with pytest.raises(ValueError, match="weight-decay"):
        parse(["train", "moons", "--weight-decay", "0.5"])
