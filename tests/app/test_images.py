"""The image path: shards that change nothing, labels, the pictures, and the commands on a small U-Net."""

import contextlib
import io
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from npdiff.app import figures
from npdiff.app.cli import main
from npdiff.app.runs import SHOWN
from npdiff.backends.numpy import NumpyBackend
from npdiff.data import load_data
from npdiff.diffusion import prior_kl
from npdiff.evaluation.likelihood import data_likelihood
from npdiff.evaluation.metrics import loss_by_t
from npdiff.models import MODELS, model_name, unet
from npdiff.nn import mse_backward, mse_forward
from npdiff.recipes import LAB_FASHION, LECTURE_UNET, MOONS, RECIPES, SHAPES
from npdiff.rng import generator
from npdiff.training import batches, draw_block, new_denoiser, train

TINY = replace(
    SHAPES,
    model=unet.Config(widths=(4, 8), groups=2, heads=2, time_dim=4, embedding_dim=8, classes=8),
    num_train_timesteps=10,
    batch_size=10,
    schedule="linear",
    steps=3,
)
REAL = Path(os.environ.get("NPDIFF_DATA", Path(__file__).parents[3] / "shared" / "data" / "fashion-mnist"))
needs_data = pytest.mark.skipif(
    not (REAL / "train-images-idx3-ubyte.gz").exists(), reason=f"no Fashion-MNIST at {REAL}"
)


def moved(denoiser):
    """The denoiser, with every parameter moved off its start, where whole branches are zero."""
    denoiser.theta += 0.05 * np.random.default_rng(1).standard_normal(denoiser.theta.shape)
    return denoiser


@pytest.mark.parametrize("N", [1, 7, 8, 9, 20])
def test_shards_change_nothing(N):
    """The loss and gradients of a sharded batch are those of the batch in one piece."""
    backend, recipe = NumpyBackend(dtype="float64"), replace(TINY, batch_size=N)
    denoiser = moved(new_denoiser(backend, recipe, 0))
    batch = next(batches(recipe, backend, 0))
    loss, grads = denoiser.loss_and_grads(batch)
    y, cache = unet.forward(denoiser.params, batch.x_t, batch.t, recipe.model, batch.labels)
    whole_loss, loss_cache = mse_forward(y, batch.target)
    _, whole = unet.backward(mse_backward(loss_cache), cache, recipe.model)
    assert loss == pytest.approx(whole_loss, rel=1e-13)
    for name, g in grads.items():
        np.testing.assert_allclose(
            g, whole[name], rtol=0, atol=1e-13 * abs(whole[name]).max() + 1e-18, err_msg=name
        )
    np.testing.assert_allclose(denoiser.predict(batch.x_t, batch.t, batch.labels), y, rtol=1e-12, atol=1e-14)


def test_the_number_of_threads_changes_no_byte():
    states = []
    for threads in (1, 2, 5):
        backend = NumpyBackend(threads=threads)
        denoiser = new_denoiser(backend, replace(TINY, batch_size=40), 0)
        for _ in train(denoiser, backend, replace(TINY, batch_size=40), 0):
            pass
        states.append({name: array.tobytes() for name, array in denoiser.export().items()})
    assert states[0] == states[1] == states[2]


def test_labels_reach_the_network_and_some_are_dropped():
    recipe = replace(TINY, batch_size=4000, label_dropout=0.25)
    _, labels, _, _ = draw_block(recipe, 0, 0, 1)
    assert labels.max() == recipe.model.classes and (labels == recipe.model.classes).mean() == pytest.approx(
        0.25, abs=0.03
    )
    assert (np.bincount(labels)[:-1] > 0).all()
    assert draw_block(replace(recipe, model=replace(recipe.model, classes=0)), 0, 0, 1)[1] is None
    denoiser, backend = moved(new_denoiser(NumpyBackend(), TINY, 0)), NumpyBackend()
    x = backend.asarray(np.random.default_rng(0).standard_normal((2, 1, 28, 28)))
    first, second = denoiser.predict(x, 3, np.array([0, 1])), denoiser.predict(x, 3, np.array([0, 2]))
    assert (first[0] == second[0]).all() and (first[1] != second[1]).any()
    # no label is the label `classes`
    assert (denoiser.predict(x, 3) == denoiser.predict(x, 3, np.array([8, 8]))).all()


def test_loss_by_t_of_an_answer_that_is_known():
    """A network that answers 0 has the noise's variance as its loss, 1 at every t; one that answers x_t has
    more where x_t is mostly data.
    """
    backend = NumpyBackend()

    class Answers:
        def __init__(self, scale):
            self.scale = scale

        def predict(self, x, t, labels=None):
            return self.scale * x

    edges, losses = loss_by_t(Answers(0.0), backend, MOONS, 0)
    assert list(edges) == list(range(0, 201, 20)) and losses == pytest.approx(np.ones(10), abs=0.25)
    _, losses = loss_by_t(Answers(1.0), backend, MOONS, 0)
    assert losses[0] > 1.5 > 0.01 > losses[-1]


def test_tiles():
    images = np.stack([np.full((1, 2, 3), v) for v in (-1.0, 0.0, 1.0, 7.0, -7.0)])
    sheet = figures.tiles(images, 2)
    assert sheet.shape == (3 * 3 - 1, 2 * 4 - 1, 3)
    assert [sheet[r, c, 0] for r, c in ((0, 0), (0, 4), (3, 0), (3, 4), (6, 0))] == [0, 0.5, 1, 1, 0]
    colour = np.zeros((1, 3, 2, 2))
    colour[0, 1] = 1
    assert figures.tiles(colour, 1)[0, 0] == pytest.approx([0.5, 1, 0.5])


def test_the_labs_filmstrip_times():
    """SOURCES, S2: 299, 200, 120, 60, 20, 0 of 300, where ours starts at the pure noise, x_300."""
    assert [round(share * 300) for share in SHOWN] == [300, 200, 120, 60, 20, 0]


def test_the_sources_networks():
    def count(recipe):
        return sum(
            array.size
            for array in MODELS[model_name(recipe.model)].init(recipe.model, generator(0, "init")).values()
        )

    assert count(LAB_FASHION) == 46_465 and LAB_FASHION.steps == 8 * 469 and LAB_FASHION.batch_size == 128
    assert (
        LECTURE_UNET.model.data_shape == (1, 32, 32)
        and LECTURE_UNET.model.widths == (64, 128, 256)
        and LECTURE_UNET.steps == 25 * 469
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """-> a trained run of the tiny recipe, and what the command printed."""
    folder, printed = tmp_path_factory.mktemp("runs") / "run", io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setitem(RECIPES, "shapes", TINY)
        main(["train", "shapes", "--out", str(folder), "--quiet"])
    return folder, printed.getvalue()


def test_commands(run, tmp_path, capsys):
    run, out = run
    for name in (
        "loss.png",
        "loss_by_t.png",
        "schedule.png",
        "diffusion_samples.png",
        "denoising_filmstrip.png",
        "samples_by_class.png",
        "samples.gif",
    ):
        assert str(run / name) in out and (run / name).stat().st_size > 5000
    assert len(np.unique(imread(run / "diffusion_samples.png")[..., 0])) > 50
    main(["sample", str(run), "--n", "5", "--label", "3", "--out", str(tmp_path / "x.npz")])
    drawn = np.load(tmp_path / "x.npz")
    assert drawn["samples"].shape == (5, 1, 28, 28) and (drawn["labels"] == 3).all()
    main(["evaluate", str(run), "--n", "16", "--guidance", "2"])
    out = capsys.readouterr().out
    assert "loss by timestep (0, 1] .. (9, 10]" in out and "mean distance within a class" in out


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["sample", "RUN", "--label", "8"], "label is 8; it must lie in 0..7"),
        (["sample", "RUN", "--n", "0"], "n is 0"),
        (["evaluate", "RUN", "--likelihood"], "likelihood is asked of shapes"),
        (["data", "imagenet"], "data set is 'imagenet'"),
        (["data", "fashion-mnist", "--data", "nowhere"], "nowhere"),
        (["train", "lab-fashion", "--data", "nowhere"], "nowhere"),
    ],
)
def test_mistakes(run, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    before = sorted(run[0].rglob("*"))
    with pytest.raises(SystemExit) as stop:
        main([str(run[0]) if argument == "RUN" else argument for argument in arguments])
    err = capsys.readouterr().err
    assert stop.value.code == 2 and err.count("\n") == 1 and err.startswith("error: ") and message in err
    assert sorted(run[0].rglob("*")) == before and not list(tmp_path.iterdir())


@needs_data
def test_the_lab_learns_from_the_real_data(capsys):
    main(["data", "fashion-mnist", "--data", str(REAL), "--quiet"])
    assert "60,000 images of 28 x 28, content verified" in capsys.readouterr().out
    x0, labels = load_data("fashion-mnist-32", REAL)(3, generator(0, "data"))
    assert x0.shape == (3, 1, 32, 32) and (x0[:, :, :2] == -1).all() and labels.shape == (3,)
    recipe, backend = replace(LAB_FASHION, steps=12, batch_size=32), NumpyBackend()
    losses = [loss for _, loss in train(new_denoiser(backend, recipe, 0), backend, recipe, 0, data_dir=REAL)]
    assert losses[0] == pytest.approx(1, abs=0.05) and losses[-1] < 0.98 * losses[0]


@needs_data
def test_bits_per_dimension_of_images():
    """An untrained network answers 0, so x_0 is x_t / a: every term is a KL divergence or a probability's
    logarithm, and the first jump's is known.
    """
    recipe, backend = (
        replace(TINY, data="fashion-mnist", model=replace(TINY.model, classes=10)),
        NumpyBackend(),
    )
    log_p, exact, terms = data_likelihood(new_denoiser(backend, recipe, 0), backend, recipe, 0, REAL)
    T, schedule = recipe.num_train_timesteps, recipe.make_schedule()
    assert log_p is None and exact is None and terms.shape == (T + 1,) and (terms >= 0).all()
    x0, _ = load_data("fashion-mnist", REAL)(16, generator(0, "data"))
    assert terms[-1] == pytest.approx(prior_kl(x0.astype(np.float64), schedule) / np.log(2), rel=1e-5)
    s_q, s_p = float(schedule.posterior_variance[T]), float(schedule.beta[T])
    # of x_0 - x_t / a = -sigma / a eps
    missed = (schedule.alpha_bar[T - 1] ** 0.5 * s_p / (1 - schedule.alpha_bar[T])) ** 2 * (
        1 / schedule.snr[T]
    )
    expected = (np.log(s_p / s_q) + s_q / s_p - 1 + missed / s_p) / 2 / np.log(2)
    # eps has mean square 1 over 12,544 pixels
    assert terms[T - 1] == pytest.approx(expected, rel=0.05)
