"""Every script of examples/ runs, writes a real picture and offers its flags; and each one's numbers agree with the closed form."""

import contextlib
import importlib.util
import io
import os
import runpy
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread, imsave

from npdiff.oracle import Moons
from npdiff.rng import generator
from npdiff.samplers import SAMPLERS, ancestral, split, time_pairs
from npdiff.schedule import SCHEDULES, make_schedule

SCRIPTS = {path.stem: path for path in sorted((Path(__file__).parents[1] / "examples").glob("*.py"))}
REAL = Path(os.environ.get("NPDIFF_DATA", Path(__file__).parents[2] / "shared" / "data" / "fashion-mnist"))
TINY = {                        # arguments that make a script quick; one without an entry runs with its defaults
    "01_forward_chain": {"walks": 100},
    "04_blunder": {"steps": 1000, "samples": 500},
    "05_two_backends": {"steps": 300, "samples": 100, "dtype": "float64"},
    "06_fashion_lab": {"steps": 4, "samples": 1},
    "07_colour": {"steps": 20, "batch_size": 8, "samples": 2},
    "08_skips": {"steps": 30},
    "09_train_judge": {"epochs": 0.04},
    "12_skipping": {"samples": 300},
    "13_plateau": {"steps": 300, "samples": 200},
    "14_small_steps": {"samples": 300},
    "15_schedules": {"steps": 200, "samples": 100, "num_train_timesteps": 100},
}
FILES = {"09_train_judge": {"09_train_judge.safetensors"}}      # what a script writes beside its picture
FASHION_MNIST = {"06_fashion_lab", "09_train_judge"}            # scripts that take --data
ALPHA_BAR = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))       # of the linear schedule with T = 1000; entry i is t = i + 1


def load(name):
    """The script as a module, not as __main__."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", SCRIPTS[name])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """run(name) -> what main returned, the folder it wrote to, what it printed; each script runs once."""
    runs = {}

    def run(name):
        if name not in runs:
            out, printed, arguments = tmp_path_factory.mktemp(name) / "new" / "folder", io.StringIO(), TINY.get(name, {})
            if name in FASHION_MNIST:
                if not REAL.is_dir():
                    pytest.skip(f"no Fashion-MNIST at {REAL}; set NPDIFF_DATA to a directory that holds it")
                arguments = arguments | {"data": REAL}
            with contextlib.redirect_stdout(printed):
                numbers = load(name).main(**arguments, out=out)
            runs[name] = numbers, out, printed.getvalue()
        return runs[name]

    return run


def test_the_table_names_scripts():
    assert len(SCRIPTS) >= 4 and set(TINY) <= set(SCRIPTS)


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


@pytest.mark.parametrize("name", ["01_forward_chain", "03_one_point", "04_blunder", "05_two_backends", "06_fashion_lab", "08_skips", "10_alpha_bar", "11_photo",
                                  "12_skipping", "13_plateau", "14_small_steps", "15_schedules"])
def test_draws_what_it_is_about(run, name):
    """Its blue and its orange, not only the axes and the grey data behind them."""
    picture = imread(run(name)[1] / f"{name}.png")[..., :3]
    for colour in ("tab:blue", "tab:orange"):
        assert (abs(picture - to_rgb(colour)).max(2) < 0.02).sum() > 500


@pytest.mark.parametrize("name", SCRIPTS)
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
    # the variance over 64 pixels, an image of variance v plus noise of variance n, itself varies from walk to walk with variance 2 n (n + 2 v) / 63
    n, v = 1 - alpha_bar, alpha_bar * var_x0
    deviation = (2 * n * (n + 2 * v) / 63 / TINY["01_forward_chain"]["walks"]) ** 0.5
    assert (abs(numbers["mean"] - exact) <= 5 * deviation + 1e-12).all()         # at t = 0 it is exact, and tells a division by 63 from one by 64
    assert numbers["one_walk"].shape == (1001,)
    assert numbers["mean"][1000, 0] > 4 * numbers["mean"][0, 0] and numbers["mean"][1000, 1] < 0.7 * numbers["mean"][0, 1]


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
    assert len(numbers["losses"]["torch"]) == 300 and numbers["losses"]["torch"][-50:].mean() < 0.5 * numbers["losses"]["torch"][0]


def test_fashion_lab_learns_from_the_real_data(run):
    numbers, _, printed = run("06_fashion_lab")
    losses, strip = numbers["losses"], numbers["strip"]
    assert losses.shape == (4,) and losses[0] == pytest.approx(1, abs=0.05) and losses[-1] < 0.97 * losses[0]
    assert f"{losses[3]:.3f}" in printed.splitlines()[-2] and (numbers["means"] == losses).all()        # a stretch is a sixth of the steps, here one
    assert list(strip) == [300, 200, 120, 60, 20, 0] and numbers["samples"].shape == (1, 1, 28, 28)
    np.testing.assert_array_equal(strip[300], generator(0, "sample", 300).standard_normal((1, 1, 28, 28)).astype(np.float32))    # pure noise, nothing after it
    np.testing.assert_array_equal(strip[0].clip(-1, 1), numbers["samples"])


def idx(array):
    """An array of bytes as an IDX file."""
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes() + array.tobytes()


def test_fashion_lab_full_and_its_frames(tmp_path, capsys):
    """--full as it is but for the size of an epoch, on a set of the same format; and a sampler whose x_t says its t, which must be the frame's name."""
    module, rng = load("06_fashion_lab"), np.random.default_rng(0)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(rng.integers(0, 256, (20, 28, 28), np.uint8)))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(rng.integers(0, 10, 20).astype(np.uint8)))
    assert module.LAB_FASHION.steps == 8 * module.LAB_FASHION.log_every
    module.LAB_FASHION = replace(module.LAB_FASHION, batch_size=2, steps=16, log_every=2)
    module.sample = lambda denoiser, backend, recipe, n, seed: ((t, np.full((n, 1, 28, 28), t / 300)) for t in range(300, -1, -1))
    numbers = module.main(full=True, data=tmp_path, out=tmp_path / "out")
    assert {t: set(x.ravel()) for t, x in numbers["strip"].items()} == {t: {t / 300} for t in (300, 200, 120, 60, 20, 0)}
    assert numbers["samples"].shape == (64, 1, 28, 28)
    np.testing.assert_allclose(numbers["means"], numbers["losses"].reshape(8, 2).mean(1))
    table = capsys.readouterr().out.splitlines()[-9:-1]
    assert [line.split()[-1] for line in table] == ["0.274", "0.175", "0.151", "0.140", "0.134", "0.129", "0.125", "0.122"]
    assert [line.split()[-2] for line in table] == [f"{mean:.3f}" for mean in numbers["means"]]


def test_fashion_lab_without_data(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["06_fashion_lab.py", "--data", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(SCRIPTS["06_fashion_lab"]), run_name="__main__")
    err = capsys.readouterr().err
    assert stop.value.code == 2 and err.startswith("error: ") and "nowhere" in err and err.count("\n") == 1 and not (tmp_path / "out").exists()


def test_colour_is_one_number(run):
    numbers, _, printed = run("07_colour")
    assert numbers["count"]["colour"] - numbers["count"]["grey"] == 2 * 9 * 16 + 16 * 2 * 9 + 2         # two more channels in, two more out
    assert f"{numbers['count']['grey']:,} parameters" in printed and f"{numbers['count']['colour']:,} parameters" in printed
    assert numbers["data"].shape == numbers["samples"].shape == (2, 3, 28, 28) and abs(numbers["samples"]).max() <= 1
    assert numbers["losses"][-5:].mean() < 0.85 * numbers["losses"][0]
    assert numbers["share"]["data"] == pytest.approx(1, abs=1e-5) and numbers["share"]["noise x_T"] < 0.8


def test_share_of_one_colour():
    one_colour, light = load("07_colour").one_colour, np.zeros((1, 3, 4, 4))
    light[0, 0, 0], light[0, 1, 1], light[0, 2, 2] = 1, 1, 1                    # as much red as green as blue, nowhere two at once
    assert one_colour(light - 1) == pytest.approx(1 / 3)
    orange = np.array([1, 0.5, 0])[:, None, None] * np.random.default_rng(0).random((1, 1, 4, 4))
    assert one_colour(orange - 1) == pytest.approx(1)
    assert one_colour(np.concatenate([orange, light]) - 1) == pytest.approx(2 / 3)


def test_skips_carry_the_noise(run):
    numbers, _, printed = run("08_skips")
    with_skips, without = (numbers["losses"][name] for name in ("with skips", "without"))
    assert with_skips[0] == pytest.approx(without[0], rel=1e-5)                 # both answer 0 at first: the loss is the noise's, and so the same noise
    assert with_skips[-10:].mean() < 0.6 * without[-10:].mean()
    assert (numbers["by_t"]["with skips"] < 0.8 * numbers["by_t"]["without"]).all() and list(numbers["edges"]) == [0, 40, 80, 120, 160, 200]
    assert (np.array(numbers["error"]["with skips"]) < 0.8 * np.array(numbers["error"]["without"])).all()
    # of the parameters, skips add inputs to the first block of up2 (16 from level 2) and of up1 (8): to its norm, its 3x3 and its shortcut
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
        fits = [(i, j, way) for i in range(3) for j in range(3) for way in (1, -1) if (padded[n, i:i + 28, j:j + 28][:, ::way] == augmented[n]).all()]
        assert len(fits) == 1
        seen.add(fits[0])
    assert augmented.dtype == np.uint8 and len(seen) == 18


@pytest.mark.parametrize("epochs", [0, -1.0])
def test_the_judge_needs_steps(monkeypatch, tmp_path, epochs):
    script = load("09_train_judge")
    monkeypatch.setattr(script, "load_bytes", lambda split, data: (np.zeros((256, 28, 28), np.uint8), np.zeros(256, int)))
    with pytest.raises(ValueError, match=f"epochs is {epochs} with 256 images"):
        script.main(epochs=epochs, out=tmp_path)


def test_alpha_bar_falls_where_the_text_says(run):
    falls, _, printed = run("10_alpha_bar")
    text = load("10_alpha_bar").__doc__
    assert set(falls) == set(SCHEDULES) and all((fall["alpha_bar"] > 0).all() and (fall["log_snr"] > 0).all() for fall in falls.values())
    fall = falls["linear"]
    np.testing.assert_allclose(fall["alpha_bar"], [1 - ALPHA_BAR[0], *(ALPHA_BAR[:-1] - ALPHA_BAR[1:])], rtol=0, atol=1e-15)
    assert fall["alpha_bar"].argmax() + 1 == 220 and "t = 220" in text
    assert 0.92 < 1 - ALPHA_BAR[499] < 0.925 and "92%" in text and "92.1%" in printed
    log_snr = np.log(ALPHA_BAR / (1 - ALPHA_BAR))                                 # (1000,), entry i is t = i + 1
    assert np.diff(log_snr).argmax() + 2 == 350 and "t = 350" in text             # the smallest fall
    assert fall["log_snr"].argmax() + 2 == 2 and (np.diff(fall["log_snr"])[:300] < 0).all()
    cosine = np.cos((np.array([0, 500, 1000]) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
    assert falls["cosine"]["alpha_bar"][:500].sum() == pytest.approx(1 - cosine[1] / cosine[0], rel=1e-9)
    assert falls["straight"]["log_snr"][-1] == np.inf
    beta = 1 - ALPHA_BAR[498] / ALPHA_BAR[499]                                    # the two values have changed places
    assert beta < 0 and f"a rise: beta at t = 500 is {beta:g}" in printed


def test_photo_has_the_variance_expected(run):
    numbers, _, printed = run("11_photo")
    photo, x_t = numbers["photo"], numbers["x_t"]
    assert photo.shape == (64, 64) and x_t.shape == (5, 64, 64) and -1 <= photo.min() < -0.8 and 0.8 < photo.max() <= 1
    signal, v = ALPHA_BAR[[0, 50, 200, 500, 999]], photo.var(ddof=1)
    np.testing.assert_allclose(numbers["exact"], signal * v + 1 - signal, rtol=1e-12)
    deviation = (2 * (1 - signal) * (1 - signal + 2 * signal * v) / 4095) ** 0.5
    assert (abs(numbers["variance"] - numbers["exact"]) < 4 * deviation).all()
    np.testing.assert_allclose(numbers["variance"], [x.var(ddof=1) for x in x_t], rtol=1e-12)
    assert f"{numbers['variance'][2]:.4f}" in printed and v < 0.5 < numbers["exact"][4]
    noise = (x_t - signal[:, None, None] ** 0.5 * photo) / (1 - signal[:, None, None]) ** 0.5       # each image's own, standard normal
    assert (abs(np.corrcoef(noise.reshape(5, -1)) - np.eye(5)) < 5 / 64).all() and (abs(noise.var((1, 2)) - 1) < 0.12).all()


def test_photo_is_cut_from_the_middle_and_averaged(tmp_path):
    """140 x 200 pixels hold a square of 128 from row 6 and column 36 on; its blocks of 2 x 2 become pixels. The rest is red, and must not be seen."""
    pixels = np.tile(np.array([255, 0, 0], np.uint8), (140, 200, 1))
    pixels[6:134, 36:164] = 0
    pixels[6:70, 36:100] = 255                                  # the upper left quarter white
    pixels[70:134:2, 100:164] = (0, 255, 0)                     # in the lower right every other line green
    imsave(tmp_path / "photo.png", pixels)
    np.testing.assert_allclose(load("11_photo").load_photo(tmp_path / "photo.png"), np.kron([[1, -1], [-1, 0.587 - 1]], np.ones((32, 32))), atol=1e-6)


@pytest.mark.parametrize("name, said", [("none.png", "does not exist"), ("text.png", "cannot be read"), ("text.jpg", "cannot be read"),
                                        ("cut.png", "cannot be read"), ("small.png", "has 80x63 pixels; it must have at least 64x64")])
def test_photo_refuses_what_is_no_photo(tmp_path, monkeypatch, capsys, name, said):
    imsave(tmp_path / "small.png", np.random.default_rng(0).random((63, 80, 3)))
    (tmp_path / "cut.png").write_bytes((tmp_path / "small.png").read_bytes()[:3000])
    for text in ("text.png", "text.jpg"):
        (tmp_path / text).write_text("not a picture")
    monkeypatch.setattr(sys, "argv", ["11_photo.py", "--image", str(tmp_path / name), "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(SCRIPTS["11_photo"]), run_name="__main__")
    err = capsys.readouterr().err
    assert stop.value.code == 2 and err.startswith(f"error: image: {tmp_path / name} ") and said in err and err.count("\n") == 1 and not (tmp_path / "out").exists()


def test_skipping_hurts_and_ddim_does_not(run):
    numbers, _, _ = run("12_skipping")
    off, mean = numbers["off"], numbers["mean"]
    assert [off["naive", k] for k in (1, 2, 5, 20)] == sorted(off["naive", k] for k in (1, 2, 5, 20))
    assert off["naive", 1] < 0.01 and off["naive", 5] > 0.3 and off["naive", 20] > 0.6
    assert max(off["DDIM", k] for k in (1, 2, 5)) < 0.02 and off["DDIM", 20] < 0.25
    assert np.hypot(*mean["naive", 20]) < 0.25 and all(np.hypot(*(mean["DDIM", k] - (0.75, 0.375))) < 0.25 for k in (1, 2, 5, 20))
    # with k = 1 nothing is skipped: it is the ancestral sampler with variance beta
    schedule = make_schedule("rescaled_linear", 200)
    *_, (_, x) = ancestral(split(Moons().predict(schedule), schedule), generator(0, "sample", 200).standard_normal((300, 2)), schedule,
                           lambda t: generator(0, "sample", t).standard_normal((300, 2)), time_pairs(200), "beta")
    np.testing.assert_allclose(mean["naive", 1], x.mean(0), rtol=1e-9)


def test_plateau_is_the_networks_own_error(run):
    numbers, _, printed = run("13_plateau")
    off, exact = numbers["off"], numbers["off"]["exact, ddim"]
    assert exact[5] > 0.4 and exact[10] < 0.3 and exact[100] == exact[200] == 0
    assert all(off[name][200] > 0.2 for name in set(SAMPLERS) - {"naive_skip"})   # 300 steps make no good network
    assert all(curve[200] < 0.7 * curve[5] for curve in numbers["distance"].values())
    ends = [off[name][200] for name in ("ddim", "dpm_solver_pp", "heun")]         # one equation, solved well by all three
    assert max(ends) - min(ends) < 0.03
    assert f"{exact[10]:.1%}" in printed and f"fresh data {numbers['floor']:.4f}" in printed


def test_plateau_begins_where_nothing_improves_any_more():
    module = load("13_plateau")
    at = lambda *shares: dict(zip((5, 10, 15, 25, 50, 100, 200), shares, strict=True))
    assert module.plateau(at(0.6, 0.2, 0.1, 0.06, 0.05, 0.05, 0.05), 1000) == 25              # chance is 0.02
    assert module.plateau(at(0.6, 0.2, 0.1, 0.06, 0.05, 0.05, 0.05), 100000) == 50
    assert module.plateau(at(0.6, 0.06, 0.1, 0.06, 0.05, 0.05, 0.05), 1000) == 25             # one lucky count is no plateau
    assert module.plateau(at(0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0), 1000) == 200


@pytest.mark.parametrize("name", sorted(set(SAMPLERS) - {"naive_skip"}))
def test_plateau_counts_the_calls_of_the_network(name):
    asked, schedule = [], make_schedule("rescaled_linear", 20)
    for _ in SAMPLERS[name](lambda x, t: (asked.append(t), (0 * x, x))[1], np.ones((1, 2)), schedule, lambda t: np.zeros((1, 2)), time_pairs(20, 5)):
        pass
    assert load("13_plateau").calls(name, 5) == len(asked)


def test_small_steps_turn_an_average_into_a_sample(run):
    numbers, _, _ = run("14_small_steps")
    said, still_open, answers = numbers["said"], numbers["open"], numbers["answers"]
    assert list(numbers["stops"]) == list(range(200, 0, -1)) and answers.shape == (200, 300, 2)
    total = 2.25 * (21 / 16 - 1 / np.pi + 2 * 0.03 ** 2)        # the data's variance: 3/4 in x, 5/8 - 1/pi - 1/16 in y, and the jitter's
    assert said[0] < 1e-3 and still_open[0] == pytest.approx(total, rel=1e-3) and still_open[-1] < 0.01
    assert (abs(said + still_open - total) < 0.3).all()         # three standard deviations of 300 points' variance
    assert (abs(answers[0] - (0.75, 0.375)) < 0.1).all() and numbers["off"][0] == 1 and numbers["off"][-1] < 0.01
    np.testing.assert_array_equal(answers[-1], numbers["samples"])              # the last answer is the sample
    assert 0.6 < numbers["off"][115] < 0.9                      # t = 85: some averages lie on an arc


def test_small_steps_taken_too_large_lose_variance(run, tmp_path):
    few = load("14_small_steps").main(samples=300, steps=10, out=tmp_path)
    assert list(few["stops"]) == list(range(200, 0, -20)) and few["said"][-1] < 0.85 * run("14_small_steps")[0]["said"][-1]


def test_losses_of_two_schedules_do_not_compare(run):
    numbers, _, printed = run("15_schedules")
    losses, excess = numbers["losses"], numbers["excess"]
    floors = {name: floor[1:].mean() for name, floor in numbers["floors"].items()}
    for name in ("linear", "rescaled_linear", "cosine"):
        last = losses[name][-20:].mean()
        assert last > floors[name] + 0.02 and last == pytest.approx(floors[name] + excess[name], abs=0.05)
        assert f"{floors[name]:.4f}  {excess[name]:.4f}" in printed
    assert floors["rescaled_linear"] < floors["cosine"] - 0.1 and losses["rescaled_linear"][-20:].mean() < losses["cosine"][-20:].mean() - 0.1
    assert numbers["distance"]["cosine", "unclipped"] > 5 * numbers["distance"]["cosine", "DDIM"]
    assert numbers["distance"]["linear", "unclipped"] == pytest.approx(numbers["distance"]["linear", "DDIM"], rel=0.1)


def test_excess_is_what_a_network_adds_to_the_floor():
    """A network that is off by 0.1 in x and 0.3 in y everywhere, (0.01 + 0.09) / 2 too much."""
    schedule = make_schedule("rescaled_linear", 50)
    wrong = SimpleNamespace(predict=lambda x, t: Moons().predict(schedule)(x, t) + (0.1, 0.3))
    assert load("15_schedules").excess_loss(wrong, schedule, 0, n=100) == pytest.approx(0.05, rel=1e-9)
