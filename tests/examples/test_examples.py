"""Examples 00 to 09: each runs, writes its picture and offers its flags, and its numbers are right."""

import runpy
import sys
from dataclasses import replace

import numpy as np
import pytest
from example_pictures import (
    check_data,
    check_file,
    check_without_colour,
    check_words,
    curves,
    legend_names,
    panels,
    points,
)
from example_scripts import ALPHA_BAR, FASHION_MNIST, FILES, NO_FLAGS, SCRIPTS, TINY, load

from npdiff.data.fashion_mnist import CLASS_NAMES
from npdiff.rng import generator

QUICK = "04"                                                # scripts from this number on take longer
NAMES = [pytest.param(name, marks=[pytest.mark.slow] * (name >= QUICK))
         for name in SCRIPTS if name < "10"]                # the others are in test_examples_samplers.py


def test_the_tables_name_scripts():
    """A table with a wrong name would have no effect."""
    for table in (TINY, FILES, NO_FLAGS, FASHION_MNIST):
        assert set(table) <= set(SCRIPTS)


def test_the_tour_names_every_script():
    tour = (SCRIPTS["00_moons"].parent / "README.md").read_text()
    for path in SCRIPTS.values():
        assert f"`{path.name}`" in tour, path.name


@pytest.mark.parametrize("name", NAMES)
def test_writes_a_picture_and_prints_its_path(run, name):
    _, out, printed = run(name)
    path = out / f"{name}.png"
    assert printed.splitlines()[-1] == str(path)
    assert set(out.iterdir()) == {path, *(out / file for file in FILES.get(name, ()))}
    figure, = run.figures[name]
    check_file(path, figure)


@pytest.mark.parametrize("name", NAMES)
def test_the_picture_says_what_it_shows(run, name):
    run(name)
    figure, = run.figures[name]
    check_words(figure)
    check_data(figure)
    check_without_colour(figure)


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
    # at t = 0 there is no noise: a division by 64 in the place of 63 would show
    assert (abs(numbers["mean"] - exact) <= 5 * deviation + 1e-12).all()
    assert numbers["one_walk"].shape == (1001,)
    assert numbers["mean"][1000, 0] > 4 * numbers["mean"][0, 0]
    assert numbers["mean"][1000, 1] < 0.7 * numbers["mean"][0, 1]


def test_forward_chain_draws_the_variances(run):
    numbers, _, _ = run("01_forward_chain")
    *images, curve = panels(numbers["figure"])
    assert [axes.get_title().split(",")[0] for axes in images] == [
        "$x_{0}$", "$x_{50}$", "$x_{200}$", "$x_{500}$", "$x_{1000}$"]
    for axes, t in zip(images, (0, 50, 200, 500, 1000), strict=True):
        variance = axes.images[0].get_array().var(ddof=1)
        assert variance == pytest.approx(numbers["one_walk"][t], rel=1e-12)
    drawn = curves(curve)
    walk, low, exact, high = drawn.values()
    np.testing.assert_array_equal(walk.get_ydata(), numbers["one_walk"])
    np.testing.assert_array_equal(np.stack([low.get_ydata(), high.get_ydata()], 1), numbers["mean"])
    np.testing.assert_array_equal(exact.get_ydata(), numbers["exact"][:, 0])
    assert legend_names(curve) == list(drawn) and "linear schedule" in numbers["figure"].get_suptitle()


def test_q_sample_at_the_four_indices(run):
    numbers, _, printed = run("02_q_sample")
    x0, noise, x_t = numbers["x0"], numbers["noise"], numbers["x_t"]
    assert x0.shape == noise.shape == x_t.shape == (4, 1, 8, 8) and "(4, 1, 8, 8)" in printed
    assert x0.dtype == x_t.dtype == np.float32
    assert set(np.unique(x0)) == {-1, 1} and len(np.unique(x0.reshape(4, 64), axis=0)) == 4
    alpha_bar = ALPHA_BAR[[10, 250, 600, 999]].reshape(4, 1, 1, 1)
    np.testing.assert_allclose(x_t, alpha_bar ** 0.5 * x0 + (1 - alpha_bar) ** 0.5 * noise, rtol=0, atol=1e-6)
    assert abs(noise.mean()) < 5 / 256 ** 0.5 and abs(noise.var() - 1) < 5 * (2 / 256) ** 0.5


def test_q_sample_draws_the_four_images(run):
    numbers, _, _ = run("02_q_sample")
    above, below = np.reshape(panels(numbers["figure"]), (2, 4))
    alpha_bar = ALPHA_BAR[[10, 250, 600, 999]]
    for n in range(4):
        np.testing.assert_array_equal(above[n].images[0].get_array(), numbers["x0"][n, 0])
        np.testing.assert_array_equal(below[n].images[0].get_array(), numbers["x_t"][n, 0])
        assert f"t = {numbers['t'][n]}$" in above[n].get_title()
        a, sigma = alpha_bar[n] ** 0.5, (1 - alpha_bar[n]) ** 0.5
        assert below[n].get_title() == rf"$x_t = {a:.3f}\,x_0 + {sigma:.3f}\,\epsilon$"


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

    first, *clouds = panels(numbers["figure"])
    diamond = curves(first)["$x_t$, the sum of both arrows"]
    np.testing.assert_allclose([diamond.get_xdata()[0], diamond.get_ydata()[0]], expected[0], rtol=1e-12)
    arrows = [text for text in first.texts if not text.get_text()]
    assert len(arrows) == 2                                     # each from xyann to xy
    np.testing.assert_array_equal(arrows[0].xyann, [0, 0])
    np.testing.assert_array_equal(arrows[0].xy, arrows[1].xyann)
    np.testing.assert_allclose(arrows[1].xy, expected[0], rtol=1e-12)
    assert len(clouds) == 4 and all(len(curves(axes)["$x_t$"].get_xdata()) == 3 for axes in clouds)


@pytest.mark.slow
def test_one_leap_is_an_average_and_the_chain_is_not(run):
    numbers, _, _ = run("04_blunder")
    leap, chain = "one leap from t = 200", "the whole chain"
    assert numbers["off"]["data"] == 0
    assert numbers["off"][leap] > 2 * numbers["off"][chain] and numbers["off"][leap] > 0.5
    assert (numbers["std"][leap] < 0.7 * numbers["std"][chain]).all()
    assert (abs(numbers["std"][chain] - (1.30, 0.74)) < 0.15).all()         # the data's own


@pytest.mark.slow
def test_the_blunder_is_drawn_beside_the_chain(run):
    numbers, _, _ = run("04_blunder")
    drawn = panels(numbers["figure"])
    assert [axes.get_title().split("\n")[0] for axes in drawn] == list(numbers["clouds"])
    for axes, (name, cloud) in zip(drawn, numbers["clouds"].items(), strict=True):
        _, answers = points(axes).values()
        np.testing.assert_allclose(answers, cloud, rtol=1e-6)
        assert axes.get_title().endswith(f"{numbers['off'][name]:.0%} off the arcs")
    title = numbers["figure"].get_suptitle()
    assert "linear schedule, T = 200" in title and "ancestral sampler" in title


@pytest.mark.slow
def test_one_leap_without_signal_explodes(tmp_path):
    """At alpha_bar_T = 3e-5 the leap divides the network's error by 0.0055."""
    numbers = load("04_blunder").main(steps=500, samples=200, schedule="rescaled_linear", out=tmp_path)
    assert (numbers["std"]["one leap from t = 200"] > 3 * numbers["std"]["the whole chain"]).all()


@pytest.mark.slow
def test_two_backends_agree(run):
    numbers, _, _ = run("05_two_backends")
    assert numbers["loss_gap"] < 1e-11 and numbers["sample_gap"].max() < 1e-7
    losses = numbers["losses"]["torch"]
    assert len(losses) == 300 and losses[-50:].mean() < 0.5 * losses[0]
    curve, cloud = panels(numbers["figure"])
    assert legend_names(curve) == legend_names(cloud) == ["numpy", "torch"]
    assert all(len(x) == 100 for x in points(cloud).values())
    assert "ancestral sampler, 200 steps" in cloud.get_title()


@pytest.mark.slow
def test_fashion_lab_learns_from_the_real_data(run):
    numbers, _, printed = run("06_fashion_lab")
    losses, strip = numbers["losses"], numbers["strip"]
    assert losses.shape == (4,) and losses[0] == pytest.approx(1, abs=0.05) and losses[-1] < 0.97 * losses[0]
    # a block is a sixth of the steps, here one
    assert f"{losses[3]:.3f}" in printed.splitlines()[-2] and (numbers["means"] == losses).all()
    assert list(strip) == [300, 200, 120, 60, 20, 0] and numbers["samples"].shape == (1, 1, 28, 28)
    noise = generator(0, "sample", 300).standard_normal((1, 1, 28, 28)).astype(np.float32)
    np.testing.assert_array_equal(strip[300], noise)            # the picture of x_300 is pure noise
    np.testing.assert_array_equal(strip[0].clip(-1, 1), numbers["samples"])


@pytest.mark.slow
def test_fashion_lab_draws_the_claim_beside_the_truth(run):
    numbers, _, _ = run("06_fashion_lab")
    curve, samples, *strip = panels(numbers["figure"])
    np.testing.assert_array_equal(curve.lines[0].get_ydata(), numbers["losses"])
    steps, claim = curve.patches
    np.testing.assert_array_equal(steps.get_data().values, numbers["means"])
    assert (claim.get_y(), claim.get_y() + claim.get_height()) == pytest.approx((0.04, 0.06))
    assert curve.lines[1].get_ydata()[0] == 0.122 and "measured in epoch 8: 0.122" in legend_names(curve)
    assert samples.get_title() == "1 samples after 4 training steps"
    assert [axes.get_title() for axes in strip] == [f"$x_{{{t}}}$" for t in (300, 200, 120, 60, 20, 0)]


def idx(array):
    """An array of bytes as an IDX file."""
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes() + array.tobytes()


@pytest.mark.slow
def test_fashion_lab_full_and_its_frames(tmp_path, capsys):
    """--full with small epochs, on small data of the same format.

    The sampler is replaced by one whose x_t holds t / 300, so each frame must hold its own name.
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
    truth = "0.274 0.175 0.151 0.140 0.134 0.129 0.125 0.122".split()
    assert [line.split()[-1] for line in table] == truth
    assert [line.split()[-2] for line in table] == [f"{mean:.3f}" for mean in numbers["means"]]


def test_fashion_lab_without_data(tmp_path, monkeypatch, capsys):
    arguments = ["--data", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["06_fashion_lab.py", *arguments])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(SCRIPTS["06_fashion_lab"]), run_name="__main__")
    err = capsys.readouterr().err
    assert stop.value.code == 2
    assert err.startswith("error: ") and "nowhere" in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_colour_is_one_number(run):
    numbers, _, printed = run("07_colour")
    grey, colour = numbers["count"]["grey"], numbers["count"]["colour"]
    assert colour - grey == 2 * 9 * 16 + 16 * 2 * 9 + 2         # two more channels in, two more out
    assert f"{grey:,} parameters" in printed and f"{colour:,} parameters" in printed
    assert numbers["data"].shape == numbers["samples"].shape == (2, 3, 28, 28)
    assert abs(numbers["samples"]).max() <= 1
    assert numbers["losses"][-5:].mean() < 0.85 * numbers["losses"][0]
    share = numbers["share"]
    assert share["data"] == pytest.approx(1, abs=1e-5) and share["noise x_T"] < 0.8
    data, samples = panels(numbers["figure"])
    assert f"{share['data']:.1%}" in data.get_title() and f"{share['samples']:.1%}" in samples.get_title()
    assert [text.get_text() for text in samples.get_xticklabels()] == ["circle", "square"]
    assert "ancestral sampler, 200 steps" in numbers["figure"].get_suptitle()


def test_share_of_one_colour():
    one_colour, light = load("07_colour").one_colour, np.zeros((1, 3, 4, 4))
    # equal amounts of red, green and blue, each in its own row
    light[0, 0, 0], light[0, 1, 1], light[0, 2, 2] = 1, 1, 1
    assert one_colour(light - 1) == pytest.approx(1 / 3)
    orange = np.array([1, 0.5, 0])[:, None, None] * np.random.default_rng(0).random((1, 1, 4, 4))
    assert one_colour(orange - 1) == pytest.approx(1)
    assert one_colour(np.concatenate([orange, light]) - 1) == pytest.approx(2 / 3)


@pytest.mark.slow
def test_skips_carry_the_noise(run):
    numbers, _, printed = run("08_skips")
    with_skips, without = (numbers["losses"][name] for name in ("with skips", "without"))
    # both answer 0 at first, so the loss is the mean square of the noise: both see the same noise
    assert with_skips[0] == pytest.approx(without[0], rel=1e-5)
    assert with_skips[-10:].mean() < 0.6 * without[-10:].mean()
    assert (numbers["by_t"]["with skips"] < 0.8 * numbers["by_t"]["without"]).all()
    assert list(numbers["edges"]) == [0, 40, 80, 120, 160, 200]
    assert (np.array(numbers["error"]["with skips"]) < 0.8 * np.array(numbers["error"]["without"])).all()
    # skips add inputs to the first block of up2 (16 from level 2) and of up1 (8): to its norm, its 3x3
    # convolution and its shortcut
    assert numbers["count"]["with skips"] - numbers["count"]["without"] >= 16 * 16 * 9 + 8 * 8 * 9
    assert f"{numbers['count']['without']:,}" in printed


@pytest.mark.slow
def test_skips_are_drawn_beside_their_absence(run):
    numbers, _, _ = run("08_skips")
    loss, by_t, *images = panels(numbers["figure"])
    assert legend_names(loss) == legend_names(by_t) == ["with skips", "without"]
    heights = [bar.get_height() for bar in by_t.patches]
    np.testing.assert_allclose(heights, np.concatenate(list(numbers["by_t"].values())))
    assert {bar.get_hatch() for bar in by_t.patches} == {None, "///"}
    for axes, t in zip(images, (20, 80), strict=True):
        rows = [text.get_text() for text in axes.get_yticklabels()]
        assert rows == ["$x_0$", f"$x_{{{t}}}$", "with skips", "without"]


@pytest.mark.slow
def test_the_judge_learns(run):
    """After 38 steps it is far better than chance, though far from what 5,622 steps reach."""
    numbers, out, printed = run("09_train_judge")
    confusion, losses = numbers["confusion"], numbers["losses"]
    assert len(losses) == 38 and abs(losses[0] - np.log(10)) < 1 and np.mean(losses[-5:]) < losses[0] - 0.5
    assert (confusion.sum(1) == 1000).all()
    assert numbers["accuracy"] == confusion.trace() / 10000 > 0.35
    assert f"test accuracy {numbers['accuracy']:.2%}" in printed
    assert (out / "09_train_judge.safetensors").stat().st_size < 500_000


@pytest.mark.slow
def test_the_judge_draws_its_mistakes(run):
    numbers, _, _ = run("09_train_judge")
    table, = panels(numbers["figure"])
    percent = numbers["confusion"] / 10                         # of 1,000 images of each class
    expected = {(j, i): f"{percent[i, j]:.0f}" for i, j in np.argwhere(percent >= 1)}
    assert {text.get_position(): text.get_text() for text in table.texts} == expected
    assert [text.get_text() for text in table.get_xticklabels()] == list(CLASS_NAMES)
    assert [text.get_text() for text in table.get_yticklabels()] == list(CLASS_NAMES)
    assert f"{numbers['accuracy']:.1%}" in table.get_title()


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
            if (padded[n, i:i + 28, j:j + 28][:, ::way] == augmented[n]).all()
        ]
        assert len(fits) == 1
        seen.add(fits[0])
    assert augmented.dtype == np.uint8 and len(seen) == 18


@pytest.mark.parametrize("epochs", [0, -1.0])
def test_the_judge_needs_steps(monkeypatch, tmp_path, epochs):
    script = load("09_train_judge")
    black = np.zeros((256, 28, 28), np.uint8), np.zeros(256, int)
    monkeypatch.setattr(script, "load_bytes", lambda split, data: black)
    with pytest.raises(ValueError, match=f"epochs is {epochs} with 256 images"):
        script.main(epochs=epochs, out=tmp_path)
