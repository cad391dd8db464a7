"""The terminal and the user's settings: no work is lost at its end, and one line says what is wrong."""

import json
import os
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest

import npdiff
from npdiff.app import figures
from npdiff.app.cli import main

TRAIN = ["train", "moons", "--steps", "20", "--model.hidden", "8", "--sampling-steps", "5"]


def npdiff_command(*arguments, cwd, settings=None, stdout=subprocess.PIPE):
    """`python -m npdiff` in a process of its own, with other environment variables."""
    return subprocess.run([sys.executable, "-m", "npdiff", *map(str, arguments)], cwd=cwd, text=True,
                          stdout=stdout, stderr=subprocess.PIPE, env=os.environ | (settings or {}))


def test_version(tmp_path, capsys):
    done = npdiff_command("--version", cwd=tmp_path)
    assert done.returncode == 0 and done.stdout == f"npdiff {npdiff.__version__}\n"
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0 and capsys.readouterr().out == done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["module://matplotlib_inline.backend_that_is_not_there", "nonsense", ""])
def test_a_backend_for_windows_that_is_not_installed_stops_no_picture(tmp_path, backend):
    settings = {"MPLBACKEND": backend}
    done = npdiff_command(*TRAIN, "--out", "run", cwd=tmp_path, settings=settings)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "samples.gif").stat().st_size > 5000


def test_the_users_matplotlib_settings_change_nothing_and_stay(tmp_path):
    def png():
        return figures.schedule_curves(npdiff.schedule.make_schedule("linear", 20), "title")._repr_png_()

    expected = png()
    strange = {"figure.facecolor": "red", "font.size": 30, "savefig.bbox": "tight", "axes.grid": True,
               "savefig.dpi": 10, "lines.linewidth": 9}
    with matplotlib.rc_context(strange):
        assert png() == expected
        assert {name: matplotlib.rcParams[name] for name in strange} == strange


@pytest.mark.slow
def test_a_reader_that_goes_away_ends_no_training(tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    done = npdiff_command(*TRAIN, "--out", "run", cwd=tmp_path, stdout=writer)
    os.close(writer)
    assert done.returncode == 0 and "error" not in done.stderr and "Traceback" not in done.stderr
    assert (tmp_path / "run" / "samples.gif").exists()


@pytest.mark.slow
@pytest.mark.parametrize("closed", [">&-", ">&- 2>&-"])
def test_a_closed_output_ends_no_training(tmp_path, closed):
    command = ["sh", "-c", f'"$@" {closed}', "sh", sys.executable, "-m", "npdiff", *TRAIN, "--out", "run"]
    done = subprocess.run(command, cwd=tmp_path, stderr=subprocess.PIPE)
    assert done.returncode == 0 and b"Traceback" not in done.stderr
    assert (tmp_path / "run" / "samples.gif").exists()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full is needed")
def test_a_full_disk_ends_no_training_but_is_said(tmp_path):
    with open("/dev/full", "w") as full:
        done = npdiff_command(*TRAIN, "--out", "run", "--quiet", cwd=tmp_path, stdout=full)
    assert (tmp_path / "run" / "samples.gif").exists()
    assert done.returncode == 2 and done.stderr == "error: stdout: No space left on device\n"


@pytest.mark.slow
def test_matplotlib_settings_that_cannot_be_read_stop_no_picture(tmp_path):
    (tmp_path / "settings").mkdir()
    (tmp_path / "settings" / "matplotlibrc").write_bytes(b"\xff\xfe\0")
    settings = {"MPLCONFIGDIR": str(tmp_path / "settings")}
    done = npdiff_command(*TRAIN, "--out", "run", cwd=tmp_path, settings=settings)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "samples.gif").exists()


def test_a_listing_whose_reader_goes_away_ends_quietly(tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    done = npdiff_command("doctor", "moons", cwd=tmp_path, stdout=writer)
    os.close(writer)
    assert done.returncode == 0 and done.stderr == ""


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_a_wrong_flag_is_one_line_with_a_suggestion_in_any_encoding(tmp_path, encoding):
    settings = {"PYTHONIOENCODING": encoding}
    done = npdiff_command("train", "moons", "--stps", "3", cwd=tmp_path, settings=settings)
    assert done.returncode == 2
    said = "error: Unrecognized options: --stps, 3; perhaps you meant --steps; see npdiff --help\n"
    assert done.stderr == said


@pytest.mark.parametrize("arguments, said", [
    ("train moons --step 3", "Unrecognized options: --step, 3; perhaps you meant --steps"),
    ("--quiet train moons", "Unrecognized or misplaced options: --quiet (applied to npdiff)"),
    ("train moons --model.hidden", "hidden is (); it must hold at least one number, each at least 1"),
    ("train moons --model.max-period 0", "max_period is 0.0; it must be a positive number"),
])
def test_a_wrong_flag_is_said_in_plain_words(capsys, arguments, said):
    with pytest.raises(SystemExit):
        main(arguments.split())
    assert capsys.readouterr().err == f"error: {said}; see npdiff --help\n"


def test_names_that_the_terminal_cannot_show_are_escaped(tmp_path):
    done = npdiff_command(*TRAIN, "--out", "läufe", "--no-pictures", cwd=tmp_path,
                          settings={"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0 and "l\\xe4ufe/checkpoints" in done.stdout
    assert (tmp_path / "läufe" / "metrics.csv").exists()


def one_error(arguments, capsys):
    """The one line with which a command ends."""
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    err = capsys.readouterr().err
    assert stop.value.code == 2 and err.startswith("error: ") and err.count("\n") == 1
    return err


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main([*TRAIN, "--out", "run", "--no-pictures", "--quiet"])
    capsys.readouterr()
    return Path("run")


@pytest.mark.slow
def test_quiet_prints_what_is_written_and_what_is_wrong(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["train", "textbook-moons", "--steps", "20", "--model.hidden", "8", "--out", "run", "--quiet"])
    printed = capsys.readouterr()
    paths = [line for line in printed.out.splitlines() if not line.startswith("note: ")]
    assert printed.err == "" and len(paths) == 7 and all(Path(path).is_file() for path in paths)
    assert "leaves signal in x_T" in printed.out


@pytest.mark.slow
def test_pictures_can_be_drawn_later(run, capsys):
    assert not list(run.glob("*.png"))
    main(["pictures", "run", "--quiet"])
    drawn = capsys.readouterr().out.split()
    assert len(drawn) == 6 and all(Path(path).stat().st_size > 5000 for path in drawn)


def test_a_refused_command_leaves_no_folder_behind(run, capsys):
    nothing = ["sample", "run", "--n", "0", "--out", "a/b/o.npz"]
    assert "n is 0; it must be at least 1" in one_error(nothing, capsys)
    assert not Path("a").exists()


def test_numbers_that_no_machine_has_room_for(run, capsys):
    many = ["sample", "run", "--n", "1000000000000"]
    assert "n is 1,000,000,000,000; it must be" in one_error(many, capsys)
    huge = ["train", "moons", "--num-train-timesteps", "99999999999", "--out", "new"]
    assert "num_train_timesteps is 99999999999; it must be at most" in one_error(huge, capsys)
    wide = ["train", "moons", "--model.hidden", "4000000000", "4000000000", "--out", "new"]
    assert "not enough memory" in one_error(wide, capsys)
    assert not Path("new").exists()


def test_a_config_that_is_too_deep(run, capsys):
    (run / "config.json").write_text("[" * 100_000)
    assert "config.json: " in one_error(["sample", "run"], capsys)


def test_weights_that_are_not_finite_draw_no_samples(run, capsys):
    from safetensors.numpy import load_file, save_file
    (path,) = (run / "checkpoints").iterdir()
    state = load_file(path)
    state["ema/linear1.W"][0, 0] = np.nan
    save_file(state, path)
    resume = ["train", "moons", "--resume", "--steps", "30", "--out", "run"]
    for command in (["sample", "run"], ["evaluate", "run"], resume):
        assert "its arrays hold ema/linear1.W with the value nan" in one_error(command, capsys)


@pytest.mark.parametrize("arguments, message", [
    (["train", "moons", "--data", "nowhere"], "this recipe's data is drawn by a rule"),
    (["sample", "run", "--eta", "0.5"], "eta is 0.5; it is for the sampler ddim, not for ancestral"),
    (["sample", "run", "--sampler", "heun", "--variance", "beta"], "it is for the sampler ancestral"),
    (["evaluate", "run", "--eta", "0.5"], "eta is 0.5"),
    (["doctor", "moons", "--eta", "0.5"], "eta is 0.5"),
    (["sample", "run", "--label", "3"], "label is 3; moons takes no labels"),
    (["sample", "run", "--data", "nowhere"], "this recipe's data is drawn by a rule"),
    (["train", "moons", "--resume", "--seed", "5", "--steps", "30", "--out", "run"], "was begun with 0"),
    (["train", "moons", "--resume", "--lr", "1", "--steps", "30", "--out", "run"], "lr given with --resume"),
    (["train", "moons", "--model.widths", "3"], "--model.widths"),
])
def test_a_flag_that_nothing_reads_is_refused(run, capsys, arguments, message):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert message in one_error(arguments, capsys)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_more_steps_than_planned_are_said_to_be_another_run(run, capsys):
    main(["train", "moons", "--resume", "--steps", "40", "--out", "run", "--no-pictures", "--quiet"])
    out = capsys.readouterr().out
    assert "note: the learning rate goes from 1.2e-05 to 0.001" in out and "train anew with --steps 40" in out
    assert json.loads((run / "config.json").read_text())["recipe"]["steps"] == 40


def test_any_field_of_a_recipe_or_network_is_a_flag(tmp_path):
    out = tmp_path / "run"
    main(["train", "moons", "--steps", "3", "--lr", "1e-4", "--batch-size", "16", "--model.hidden", "7", "5",
          "--model.time-dim", "8", "--ema-decay", "0", "--no-pictures", "--out", str(out), "--quiet"])
    recipe = json.loads((out / "config.json").read_text())["recipe"]
    assert recipe["lr"] == 1e-4 and recipe["batch_size"] == 16 and recipe["ema_decay"] == 0
    assert recipe["model"]["hidden"] == [7, 5] and recipe["model"]["time_dim"] == 8


def test_doctor_takes_a_run_and_the_same_flags(run, capsys):
    main(["doctor", "run"])
    assert "in 5 jumps" in capsys.readouterr().out                          # the run's own sampling_steps
    main(["doctor", "moons", "--model.time-dim", "2", "--model.max-period", "2"])
    assert "look more alike" in capsys.readouterr().out
