"""The commands on images, with a small U-Net."""

import contextlib
import io
from dataclasses import replace

import numpy as np
import pytest
from fashion import REAL, idx, needs_data, random_set, write_set
from matplotlib.image import imread
from tiny_recipes import TINY_SHAPES

from npdiff.app.cli import main
from npdiff.models import convnet
from npdiff.recipes import LAB_FASHION, RECIPES


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """-> the folder of a trained run of TINY_SHAPES, and what the command printed."""
    folder, printed = tmp_path_factory.mktemp("runs") / "run", io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setitem(RECIPES, "shapes", TINY_SHAPES)
        main(["train", "shapes", "--out", str(folder), "--quiet"])
    return folder, printed.getvalue()


PICTURES = ["loss.png", "loss_by_t.png", "schedule.png", "diffusion_samples.png", "denoising_filmstrip.png",
            "samples_by_class.png", "samples.gif"]


def test_train_writes_pictures(run):
    run, out = run
    for name in PICTURES:
        assert str(run / name) in out and (run / name).stat().st_size > 5000
    assert len(np.unique(imread(run / "diffusion_samples.png")[..., 0])) > 50


def test_sample_one_class(run, tmp_path):
    run, _ = run
    main(["sample", str(run), "--n", "5", "--label", "3", "--out", str(tmp_path / "x.npz")])
    drawn = np.load(tmp_path / "x.npz")
    assert drawn["samples"].shape == (5, 1, 28, 28) and (drawn["labels"] == 3).all()


def test_evaluate(run, capsys):
    run, _ = run
    main(["evaluate", str(run), "--n", "16", "--guidance", "2"])
    out = capsys.readouterr().out
    assert "loss by timestep (0, 1] .. (9, 10]" in out and "mean distance within a class" in out


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["sample", "RUN", "--label", "8"], "label is 8; it must be an integer in 0..7"),
        (["sample", "RUN", "--n", "0"], "n is 0"),
        (["evaluate", "RUN", "--likelihood"], "likelihood is asked of shapes"),
        (["data", "imagenet"], "data set is 'imagenet'"),
        (["data", "fashion-mnist", "--data", "nowhere"], "nowhere"),
        (["train", "lab-fashion", "--data", "nowhere"], "nowhere"),
    ],
)
def test_mistakes(run, tmp_path, monkeypatch, capsys, arguments, message):
    """One line on stderr, status 2, and nothing written."""
    run, _ = run
    monkeypatch.chdir(tmp_path)
    before = sorted(run.rglob("*"))
    with pytest.raises(SystemExit) as stop:
        main([str(run) if argument == "RUN" else argument for argument in arguments])
    err = capsys.readouterr().err
    assert stop.value.code == 2 and err.count("\n") == 1 and err.startswith("error: ") and message in err
    assert sorted(run.rglob("*")) == before and not list(tmp_path.iterdir())


@needs_data
def test_the_real_data_is_verified(capsys):
    main(["data", "fashion-mnist", "--data", str(REAL), "--quiet"])
    out = capsys.readouterr().out
    assert "train: 60,000 images of 28 x 28, content verified" in out
    assert "test: 10,000 images of 28 x 28, content verified" in out


@pytest.mark.slow
@needs_data
def test_quality_of_fashion_mnist_alone(tmp_path, monkeypatch, capsys):
    tiny = replace(LAB_FASHION, model=convnet.Config(features=4), schedule="rescaled_linear",
                   num_train_timesteps=10, batch_size=4, steps=2)
    monkeypatch.setitem(RECIPES, "lab-fashion", tiny)
    run, other = str(tmp_path / "run"), tmp_path / "other"
    main(["train", "lab-fashion", "--data", str(REAL), "--quiet", "--out", run])
    capsys.readouterr()
    main(["evaluate", run, "--data", str(REAL), "--n", "12", "--quiet"])
    out = capsys.readouterr().out
    assert "Frechet distance  " in out and "this project's classifier features; these three are rough" in out
    assert "precision  " in out and "recall  " in out and "no judge" not in out
    other.mkdir()
    write_set(other, *map(idx, random_set(30)))
    main(["train", "lab-fashion", "--data", str(other), "--quiet", "--no-pictures", "--out", f"{run}-2"])
    main(["evaluate", f"{run}-2", "--n", "12", "--quiet"])
    out = capsys.readouterr().out
    assert "Frechet" not in out and out.count("no judge: it knows the images of Fashion-MNIST") == 1
