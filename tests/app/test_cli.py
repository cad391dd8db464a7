"""The command line as a user meets it: what it writes, that it repeats to the byte, and that every mistake
ends in one line and status 2.
"""

import csv
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from toy_backend import ToyBackend

from npdiff import backends
from npdiff.app.cli import main, parse
from npdiff.app.commands import backend_of

PICTURES = ["filmstrip.png", "loss.png", "loss_by_t.png", "samples.gif", "samples.png", "schedule.png"]


def npdiff(*arguments, cwd):
    """Run the command in its own process."""
    return subprocess.run(
        [sys.executable, "-m", "npdiff.app.cli", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short run of `moons`."""
    folder = tmp_path_factory.mktemp("runs")
    done = npdiff("train", "moons", "--steps", 120, "--out", folder / "run", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "run", done


def test_train_writes_and_announces(run):
    run, done = run
    for name in PICTURES:
        assert str(run / name) in done.stdout and (run / name).stat().st_size > 5000
    assert sorted(path.name for path in run.iterdir()) == sorted(
        [*PICTURES, "checkpoints", "config.json", "metrics.csv"]
    )
    config = json.loads((run / "config.json").read_text())
    assert (
        config["recipe"]["steps"] == 120
        and config["seed"] == 0
        and "thread" in config["history"][0]["library"]
    )
    rows = list(csv.DictReader((run / "metrics.csv").read_text().splitlines()))
    assert [row["step"] for row in rows] == ["100", "120"]
    assert "steps/s" in done.stderr and " s left" in done.stderr and "\r" not in done.stderr


def test_the_same_seed_gives_the_same_bytes(run, tmp_path):
    run, _ = run
    assert npdiff("train", "moons", "--steps", 120, "--out", "again", cwd=tmp_path).returncode == 0
    assert (
        npdiff("train", "moons", "--steps", 120, "--seed", 1, "--out", "other", cwd=tmp_path).returncode == 0
    )
    name = "checkpoints/step-00000120.safetensors"
    assert (
        (tmp_path / "again" / name).read_bytes()
        == (run / name).read_bytes()
        != (tmp_path / "other" / name).read_bytes()
    )
    for source, out in ((run, "a.npz"), (tmp_path / "again", "b.npz")):
        assert npdiff("sample", source, "--n", 100, "--out", out, cwd=tmp_path).returncode == 0
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_sample(run, tmp_path, capsys):
    run, _ = run
    out = tmp_path / "new" / "x.npz"
    main(["sample", str(run), "--steps", "10", "--n", "64", "--out", str(out)])
    x = np.load(out)["samples"]
    assert x.shape == (64, 2) and x.dtype == np.float32 and np.isfinite(x).all()
    assert out.with_suffix(".png").stat().st_size > 5000
    assert capsys.readouterr().out.split() == [str(out), str(out.with_suffix(".png"))]


@pytest.mark.slow
def test_default_names_never_collide(run, tmp_path, monkeypatch):
    run, _ = run
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        main(
            [
                "train",
                "textbook-moons",
                "--steps",
                "20",
                "--quiet",
                "--schedule",
                "straight",
                "--prediction-type",
                "flow_prediction",
                "--num-train-timesteps",
                "50",
            ]
        )
        main(["sample", str(run), "--steps", "2", "--n", "8"])
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == [
        "textbook-moons",
        "textbook-moons-2",
    ]
    recipe = json.loads((tmp_path / "runs" / "textbook-moons" / "config.json").read_text())["recipe"]
    assert (recipe["schedule"], recipe["prediction_type"], recipe["num_train_timesteps"]) == (
        "straight",
        "flow_prediction",
        50,
    )
    assert {"drawn.npz", "drawn.png", "drawn-2.npz", "drawn-2.png"} <= {path.name for path in run.iterdir()}
    for path in run.glob("drawn*"):
        path.unlink()


def test_textbook_moons_says_what_is_wrong_with_it(tmp_path, capsys):
    main(["train", "textbook-moons", "--steps", "20", "--quiet", "--out", str(tmp_path / "run")])
    assert "alpha_bar[200] = 0.132 leaves signal in x_T" in capsys.readouterr().out


def test_evaluate_and_gradcheck(run, capsys):
    main(["evaluate", str(run[0]), "--n", "200", "--steps", "10", "--sampler", "heun", "--likelihood"])
    out = capsys.readouterr().out
    assert (
        "above the floor 0.296" in out
        and "log-likelihood of fresh data, nats" in out
        and "variational bound, bits/dim" in out
    )
    assert (
        "energy distance to fresh data" in out
        and "training loss, last 500 steps" in out
        and "farther than 0.2 from the arcs" in out
    )
    main(["gradcheck"])
    out = capsys.readouterr().out
    assert "fourier.B" in out and "every gradient is right" in out


def test_gradcheck_fails_on_a_wrong_gradient(monkeypatch, capsys):
    from npdiff import nn
    right = nn.silu_backward
    monkeypatch.setattr(nn, "silu_backward", lambda dy, cache: right(dy, cache) * 1.0005)
    with pytest.raises(SystemExit) as stop:
        main(["gradcheck", "mlp"])
    assert stop.value.code == 2 and "error: a gradient of mlp is wrong" in capsys.readouterr().err


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
        (
            ["sample", "RUN", "--timestep-spacing", "wide"],
            "timestep_spacing is 'wide'; it must be one of leading, linspace, trailing",
        ),
        (["sample", "RUN", "--timestep-spacing", "linspace", "--steps", "1"], "linspace visits both"),
        (["sample", "RUN", "--clip", "-1"], "clip is -1.0"),
        (["sample", "RUN", "--guidance", "2"], "guidance is 2.0; moons takes no labels"),
        (["sample", "RUN", "--start", "zero"], "start is 'zero'; it must be noise or data"),
        (["sample", "RUN", "--out", "x.png"], "it must end in .npz"),
        (["sample", "RUN", "--out", "old.npz"], "old.npz exists"),
        (["sample", "RUN", "--out", "file/x.npz"], "file: "),
        (["train", "moons", "--schedule", "cubic"], "schedule is 'cubic'; it must be one of linear"),
        (["train", "moons", "--schedule", "straight"], "prediction_type is 'epsilon', but alpha_bar_T is 0"),
        (["train", "moons", "--prediction-type", "noise"], "prediction_type is 'noise'"),
        (
            ["train", "moons", "--loss-weight", "none"],
            "loss_weight is 'none'; it must be one of simple, min_snr, vlb",
        ),
        (["train", "moons", "--num-train-timesteps", "1"], "num_train_timesteps is 1"),
        (
            ["train", "moons", "--resume", "--out", "RUN", "--schedule", "cosine"],
            "schedule given with --resume",
        ),
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
        (
            ["compare", "moons,textbook-moons", "--backends", "numpy,torch", "--out", "x.png"],
            "--out is x.png; it names the picture of one recipe",
        ),
        (["doctor", "suns"], "recipe is 'suns'"),
        (["doctor", "moons", "--schedule", "cubic"], "schedule is 'cubic'"),
        (["doctor", "moons", "--schedule", "straight"], "alpha_bar_T is 0"),
        (["gradcheck", "cnn"], "model is 'cnn'; it must be one of mlp"),
    ],
)
def test_mistakes(run, tmp_path, monkeypatch, capsys, arguments, message):
    run, _ = run
    monkeypatch.chdir(tmp_path)
    Path("taken").mkdir()
    Path("file").write_text("x")
    Path("old.npz").write_text("x")
    before = sorted(
        (path, path.stat().st_mtime_ns) for folder in (tmp_path, run) for path in folder.rglob("*")
    )
    with pytest.raises(SystemExit) as stop:
        main([str(run) if argument == "RUN" else argument for argument in arguments])
    captured = capsys.readouterr()
    assert stop.value.code == 2
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1 and message in captured.err
    assert (
        sorted((path, path.stat().st_mtime_ns) for folder in (tmp_path, run) for path in folder.rglob("*"))
        == before
    )


def test_a_run_directory_that_lacks_a_file(run, tmp_path, capsys):
    import shutil

    for name, message in [
        ("config.json", "config.json is missing"),
        ("checkpoints/step-00000120.safetensors", "holds no checkpoint"),
        ("metrics.csv", "metrics.csv is missing"),
    ]:
        copy = tmp_path / "copy"
        shutil.copytree(run[0], copy)
        (copy / name).unlink()
        with pytest.raises(SystemExit) as stop:
            main(["evaluate", str(copy), "--n", "10"])
        assert stop.value.code == 2 and message in capsys.readouterr().err
        shutil.rmtree(copy)


def test_a_loss_that_stops_being_finite(tmp_path, monkeypatch, capsys):
    from dataclasses import replace

    from npdiff import recipes
    monkeypatch.setitem(recipes.RECIPES, "moons", replace(recipes.MOONS, lr=1e30))
    with pytest.raises(SystemExit) as stop:
        main(["train", "moons", "--quiet", "--out", str(tmp_path / "run")])
    err = capsys.readouterr().err
    assert stop.value.code == 2 and err.count("\n") == 1 and "at step" in err
    kept = tmp_path / "run" / "checkpoints" / "step-00000000.safetensors"
    assert f"the last good checkpoint is {kept}" in err and kept.exists()


def test_interrupted_then_resumed_is_as_if_never_stopped(run, tmp_path):
    """Ctrl-C lets the step finish and saves; --resume then ends in the very bytes of an uninterrupted run,
    and metrics.csv has no gap.
    """
    code = (
        "import signal, os\nfrom npdiff.app import checkpoint, cli\nadd = checkpoint.MetricsLog.add\n"
        "def spy(self, step, *rest):\n    add(self, step, *rest)\n    if step == 47: os.kill(os.getpid(), "
        "signal.SIGINT)\n"
        "checkpoint.MetricsLog.add = spy\ncli.main(['train', 'moons', '--steps', '120', '--out', 'run', "
        "'--quiet'])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert (
        done.returncode == 130
        and "error: interrupted at step 47; to go on: npdiff train moons --resume --out run" in done.stderr
    )
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == [
        "step-00000047.safetensors"
    ]
    assert npdiff("train", "moons", "--resume", "--out", "run", cwd=tmp_path).returncode == 0
    name = "checkpoints/step-00000120.safetensors"
    assert (tmp_path / "run" / name).read_bytes() == (run[0] / name).read_bytes()
    assert [
        row["step"] for row in csv.DictReader((tmp_path / "run" / "metrics.csv").read_text().splitlines())
    ] == ["47", "100", "120"]
    assert [
        entry["first_step"] for entry in json.loads((tmp_path / "run" / "config.json").read_text())["history"]
    ] == [1, 48]


def test_resume_on_the_other_backend(run, tmp_path, capsys):
    import shutil
    shutil.copytree(run[0], tmp_path / "run")
    main(
        [
            "train",
            "moons",
            "--resume",
            "--steps",
            "150",
            "--backend",
            "torch",
            "--out",
            str(tmp_path / "run"),
            "--quiet",
        ]
    )
    assert "steps 121 to 150" in capsys.readouterr().out
    assert [
        entry["backend"] for entry in json.loads((tmp_path / "run" / "config.json").read_text())["history"]
    ] == ["numpy", "torch"]
    for backend in ("numpy", "torch"):
        main(
            [
                "sample",
                str(tmp_path / "run"),
                "--backend",
                backend,
                "--n",
                "50",
                "--out",
                str(tmp_path / f"{backend}.npz"),
            ]
        )
    ours, theirs = (np.load(tmp_path / f"{backend}.npz")["samples"] for backend in ("numpy", "torch"))
    assert abs(ours - theirs).max() < 1e-3


def test_compare(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main(
        [
            "compare",
            "moons,textbook-moons",
            "--backends",
            "numpy,torch",
            "--dtype",
            "float64",
            "--steps",
            "20",
            "--quiet",
        ]
    )
    out = capsys.readouterr().out
    for text in (
        "  time ",
        "  linear4 ",
        "fourier.B",
        "the first layer whose outputs differ",
        "over 20 training steps",
        "peak memory",
        "textbook-moons, torch",
        "moons, the floor",
    ):
        assert text in out
    assert all(
        (tmp_path / "runs" / f"compare-{name}.png").stat().st_size > 20_000
        for name in ("moons", "textbook-moons")
    )


def test_help_names_every_flag():
    for command, flags in {
        "train": ["RECIPE", "--backend", "--device", "--steps", "--seed", "--out", "--quiet", "--resume"],
        "sample": [
            "RUN",
            "--sampler",
            "--steps",
            "--timestep-spacing",
            "--eta",
            "--clip",
            "--guidance",
            "--start",
            "--n",
            "--seed",
            "--out",
        ],
        "evaluate": ["RUN", "--n", "--sampler", "--likelihood"],
        "doctor": ["RECIPE", "--schedule", "--num-train-timesteps"],
        "gradcheck": ["MODEL"],
    }.items():
        done = npdiff(command, "--help", cwd=".")
        assert done.returncode == 0 and all(flag in done.stdout for flag in flags), command


def test_the_options_of_a_backend_are_flags(monkeypatch, capsys):
    """Nothing in npdiff names them: they come from the backend that --backend names."""
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
