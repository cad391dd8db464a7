"""Every script of examples/ runs, writes a real picture and offers its flags; and the numbers of the first
nine agree with the closed form.
"""

import runpy
import sys
from dataclasses import replace

import numpy as np
import pytest
from example_scripts import ALPHA_BAR, FILES, NO_FLAGS, SCRIPTS, TINY, load
from matplotlib.image import imread

from npdiff.rng import generator


def test_the_table_names_scripts():
    assert len(SCRIPTS) >= 4 and set(TINY) | NO_FLAGS <= set(SCRIPTS)


@pytest.mark.parametrize("name", SCRIPTS)
def test_writes_a_real_picture_and_prints_its_path(run, name):
    _, out, printed = run(name)
    path = out / f"{name}.png"
    assert printed.splitlines()[-1] == str(path)
    assert set(out.iterdir()) == {path, *(out / file for file in FILES.get(name, ()))}
    picture = imread(path)[..., :3]                             # (height, width, 3) in 0..1
    assert min(picture.shape[:2]) >= 300
    ink = (picture < 0.95).any(2)
    assert ink.mean() > 0.02 and len(np.unique(picture.reshape(-1, 3), axis=0)) > 50
    halves = ink[:, :ink.shape[1] // 2], ink[:, ink.shape[1] // 2:]
    assert min(half.mean() for half in halves) > 0.01


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_picture_shows_finite_data_and_says_what_it_is(run, name):
    """Read from the figure itself: every panel shows something, all of it finite, and there are titles."""
    run(name)
    figure, = run.figures[name]
    for axes in figure.axes:
        shown = [*axes.lines, *axes.collections, *axes.images, *axes.patches, *axes.texts]
        assert shown, axes
        for line in axes.lines:
            assert np.isfinite(np.asarray(line.get_ydata(), float)).any(), axes
        for image in axes.images:
            assert np.ptp(image.get_array()) > 0 or len(figure.axes) > 1, axes
    titles = [axes.get_title() for axes in figure.axes] + [figure.get_suptitle()]
    assert any(titles)
    plots = [axes for axes in figure.axes if axes.lines and len(axes.get_xticks())]
    assert not plots or any(axes.get_xlabel() for axes in plots)


@pytest.mark.parametrize("name", sorted(set(SCRIPTS) - NO_FLAGS))
def test_runs_as_a_command(monkeypatch, capsys, name):
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(SCRIPTS[name]), run_name="__main__")
    printed = capsys.readouterr().out
    assert stop.value.code == 0
    assert "--out" in printed and load(name).__doc__.splitlines()[0] in printed


def test_forward_chain_follows_the_expectation(run):
    numbers, _, _ = run("01_forward_chain")
    alpha_bar = np.concatenate([[1], ALPHA_BAR])[:, None]       # (1001, 1)
    var_x0 = 16 * 48 / 64 / 63 * np.array([1, 9])               # 16 ones among 64 pixels, at contrast 1 and 3
    exact = alpha_bar * var_x0 + 1 - alpha_bar                  # (1001, 2)
    np.testing.assert_allclose(numbers["exact"], exact, rtol=1e-12)
    # the variance over 64 pixels, an image of variance v plus noise of variance n, itself varies from walk to
    # walk with variance 2 n (n + 2 v) / 63
    n, v = 1 - alpha_bar, alpha_bar * var_x0
    deviation = (2 * n * (n + 2 * v) / 63 / TINY["01_forward_chain"]["walks"]) ** 0.5
    # at t = 0 it is exact, and tells a division by 63 from one by 64
    assert (abs(numbers["mean"] - exact) <= 5 * deviation + 1e-12).all()
    assert numbers["one_walk"].shape == (1001,)
    assert (
        numbers["mean"][1000, 0] > 4 * numbers["mean"][0, 0]
        and numbers["mean"][1000, 1] < 0.7 * numbers["mean"][0, 1]
    )


def test_q_sample_at_the_four_indices(run):
    numbers, _, printed = run("02_q_sample")
    x0, noise, x_t = numbers["x0"], numbers["noise"], numbers["x_t"]
    assert x0.shape == noise.shape == x_t.shape == (4, 1, 8, 8) and "(4, 1, 8, 8)" in printed
    assert x0.dtype == x_t.dtype == np.float32
    assert set(np.unique(x0)) == {-1, 1} and len(np.unique(x0.reshape(4, 64), axis=0)) == 4
    alpha_bar = ALPHA_BAR[[10, 250, 600, 999]].reshape(4, 1, 1, 1)
    np.testing.assert_allclose(x_t, alpha_bar ** 0.5 * x0 + (1 - alpha_bar) ** 0.5 * noise, rtol=0, atol=1e-6)
    assert abs(noise.mean()) < 5 / 256 ** 0.5 and abs(noise.var() - 1) < 5 * (2 / 256) ** 0.5


@pytest.mark.parametrize("wanted", [0.35, 0.9, 0.0])
def test_one_point_is_the_sum_of_signal_and_noise(tmp_path, wanted):
    numbers = load("03_one_point").main(alpha_bar=wanted, draws=3, out=tmp_path)
    index = min(range(1000), key=lambda i: abs(ALPHA_BAR[i] - wanted))
    assert numbers["t"] == index + 1
    assert numbers["alpha_bar"] == pytest.approx(ALPHA_BAR[index], rel=1e-12)
    assert numbers["x0"].shape == numbers["x_t"].shape == (1, 2)
    np.testing.assert_array_equal(numbers["target"], numbers["noise"])
    expected = ALPHA_BAR[index] ** 0.5 * numbers["x0"] + (1 - ALPHA_BAR[index]) ** 0.5 * numbers["noise"]
    np.testing.assert_allclose(numbers["x_t"], expected, rtol=1e-12)


def test_one_leap_is_an_average_and_the_chain_is_not(run):
    numbers, _, _ = run("04_blunder")
    leap, chain = "one leap from t = 200", "the whole chain"
    assert numbers["off"]["data"] == 0
    assert numbers["off"][leap] > 2 * numbers["off"][chain] and numbers["off"][leap] > 0.5
    assert (numbers["std"][leap] < 0.7 * numbers["std"][chain]).all()
    assert (abs(numbers["std"][chain] - (1.30, 0.74)) < 0.15).all()         # the data's own


def test_one_leap_without_signal_explodes(tmp_path):
    """At alpha_bar_T = 3e-5 the leap divides the network's error by 0.0055."""
    numbers = load("04_blunder").main(steps=500, samples=200, schedule="rescaled_linear", out=tmp_path)
    assert (numbers["std"]["one leap from t = 200"] > 3 * numbers["std"]["the whole chain"]).all()


def test_two_backends_agree(run):
    numbers, _, _ = run("05_two_backends")
    assert numbers["loss_gap"] < 1e-11 and numbers["sample_gap"].max() < 1e-7
    assert (
        len(numbers["losses"]["torch"]) == 300
        and numbers["losses"]["torch"][-50:].mean() < 0.5 * numbers["losses"]["torch"][0]
    )


def test_fashion_lab_learns_from_the_real_data(run):
    numbers, _, printed = run("06_fashion_lab")
    losses, strip = numbers["losses"], numbers["strip"]
    assert losses.shape == (4,) and losses[0] == pytest.approx(1, abs=0.05) and losses[-1] < 0.97 * losses[0]
    # a stretch is a sixth of the steps, here one
    assert f"{losses[3]:.3f}" in printed.splitlines()[-2] and (numbers["means"] == losses).all()
    assert list(strip) == [300, 200, 120, 60, 20, 0] and numbers["samples"].shape == (1, 1, 28, 28)
    # pure noise, nothing after it
    np.testing.assert_array_equal(
        strip[300], generator(0, "sample", 300).standard_normal((1, 1, 28, 28)).astype(np.float32)
    )
    np.testing.assert_array_equal(strip[0].clip(-1, 1), numbers["samples"])


def idx(array):
    """An array of bytes as an IDX file."""
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes() + array.tobytes()


def test_fashion_lab_full_and_its_frames(tmp_path, capsys):
    """--full as it is but for the size of an epoch, on a set of the same format; and a sampler whose x_t says
    its t, which must be the frame's name.
    """
    module, rng = load("06_fashion_lab"), np.random.default_rng(0)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(rng.integers(0, 256, (20, 28, 28), np.uint8)))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(rng.integers(0, 10, 20).astype(np.uint8)))
    assert module.LAB_FASHION.steps == 8 * module.LAB_FASHION.log_every
    module.LAB_FASHION = replace(module.LAB_FASHION, batch_size=2, steps=16, log_every=2)
    module.sample = lambda denoiser, backend, recipe, n, seed: (
        (t, np.full((n, 1, 28, 28), t / 300)) for t in range(300, -1, -1)
    )
    numbers = module.main(full=True, data=tmp_path, out=tmp_path / "out")
    assert {t: set(x.ravel()) for t, x in numbers["strip"].items()} == {
        t: {t / 300} for t in (300, 200, 120, 60, 20, 0)
    }
    assert numbers["samples"].shape == (64, 1, 28, 28)
    np.testing.assert_allclose(numbers["means"], numbers["losses"].reshape(8, 2).mean(1))
    table = capsys.readouterr().out.splitlines()[-9:-1]
    assert [line.split()[-1] for line in table] == [
        "0.274",
        "0.175",
        "0.151",
        "0.140",
        "0.134",
        "0.129",
        "0.125",
        "0.122",
    ]
    assert [line.split()[-2] for line in table] == [f"{mean:.3f}" for mean in numbers["means"]]


def test_fashion_lab_without_data(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        sys,
        "argv",
        ["06_fashion_lab.py", "--data", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")],
    )
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(SCRIPTS["06_fashion_lab"]), run_name="__main__")
    err = capsys.readouterr().err
    assert (
        stop.value.code == 2
        and err.startswith("error: ")
        and "nowhere" in err
        and err.count("\n") == 1
        and not (tmp_path / "out").exists()
    )


def test_colour_is_one_number(run):
    numbers, _, printed = run("07_colour")
    # two more channels in, two more out
    assert numbers["count"]["colour"] - numbers["count"]["grey"] == 2 * 9 * 16 + 16 * 2 * 9 + 2
    assert (
        f"{numbers['count']['grey']:,} parameters" in printed
        and f"{numbers['count']['colour']:,} parameters" in printed
    )
    assert (
        numbers["data"].shape == numbers["samples"].shape == (2, 3, 28, 28)
        and abs(numbers["samples"]).max() <= 1
    )
    assert numbers["losses"][-5:].mean() < 0.85 * numbers["losses"][0]
    assert numbers["share"]["data"] == pytest.approx(1, abs=1e-5) and numbers["share"]["noise x_T"] < 0.8


def test_share_of_one_colour():
    one_colour, light = load("07_colour").one_colour, np.zeros((1, 3, 4, 4))
    # as much red as green as blue, nowhere two at once
    light[0, 0, 0], light[0, 1, 1], light[0, 2, 2] = 1, 1, 1
    assert one_colour(light - 1) == pytest.approx(1 / 3)
    orange = np.array([1, 0.5, 0])[:, None, None] * np.random.default_rng(0).random((1, 1, 4, 4))
    assert one_colour(orange - 1) == pytest.approx(1)
    assert one_colour(np.concatenate([orange, light]) - 1) == pytest.approx(2 / 3)


def test_skips_carry_the_noise(run):
    numbers, _, printed = run("08_skips")
    with_skips, without = (numbers["losses"][name] for name in ("with skips", "without"))
    # both answer 0 at first: the loss is the noise's, and so the same noise
    assert with_skips[0] == pytest.approx(without[0], rel=1e-5)
    assert with_skips[-10:].mean() < 0.6 * without[-10:].mean()
    assert (numbers["by_t"]["with skips"] < 0.8 * numbers["by_t"]["without"]).all() and list(
        numbers["edges"]
    ) == [0, 40, 80, 120, 160, 200]
    assert (np.array(numbers["error"]["with skips"]) < 0.8 * np.array(numbers["error"]["without"])).all()
    # of the parameters, skips add inputs to the first block of up2 (16 from level 2) and of up1 (8): to its
    # norm, its 3x3 and its shortcut
    assert numbers["count"]["with skips"] - numbers["count"]["without"] >= 16 * 16 * 9 + 8 * 8 * 9
    assert f"{numbers['count']['without']:,}" in printed


def test_the_judge_learns(run):
    """In 38 steps, far from what 5,622 reach and far from chance."""
    numbers, out, printed = run("09_train_judge")
    confusion, losses = numbers["confusion"], numbers["losses"]
    assert len(losses) == 38 and abs(losses[0] - np.log(10)) < 1 and np.mean(losses[-5:]) < losses[0] - 0.5
    assert (confusion.sum(1) == 1000).all() and numbers["accuracy"] == confusion.trace() / 10000 > 0.35
    assert f"test accuracy {numbers['accuracy']:.2%}" in printed
    assert (out / "09_train_judge.safetensors").stat().st_size < 500_000


def test_the_judge_sees_images_moved_by_a_pixel_and_mirrored():
    images = np.random.default_rng(0).integers(1, 256, (300, 28, 28), dtype=np.uint8)
    augmented = load("09_train_judge").augment(images, np.random.default_rng(1))
    padded, seen = np.pad(images, ((0, 0), (1, 1), (1, 1))), set()
    for n in range(300):
        fits = [
            (i, j, way)
            for i in range(3)
            for j in range(3)
            for way in (1, -1)
            if (padded[n, i : i + 28, j : j + 28][:, ::way] == augmented[n]).all()
        ]
        assert len(fits) == 1
        seen.add(fits[0])
    assert augmented.dtype == np.uint8 and len(seen) == 18


@pytest.mark.parametrize("epochs", [0, -1.0])
def test_the_judge_needs_steps(monkeypatch, tmp_path, epochs):
    script = load("09_train_judge")
    monkeypatch.setattr(
        script, "load_bytes", lambda split, data: (np.zeros((256, 28, 28), np.uint8), np.zeros(256, int))
    )
    with pytest.raises(ValueError, match=f"epochs is {epochs} with 256 images"):
        script.main(epochs=epochs, out=tmp_path)
