"""The numbers of the examples on schedules, samplers and guidance."""

import inspect
import runpy
import sys

import numpy as np
import pytest
from example_scripts import ALPHA_BAR, SCRIPTS, load
from matplotlib.image import imsave

from npdiff.app.checkpoint import create_run, save_checkpoint
from npdiff.backends.numpy import NumpyBackend
from npdiff.recipes import MOONS, SHAPES
from npdiff.rng import generator
from npdiff.samplers import SAMPLERS, ancestral, time_pairs, to_x0_eps
from npdiff.schedule import SCHEDULES, make_schedule
from npdiff.training import new_denoiser
from npdiff.verify.oracle import Moons


def test_alpha_bar_falls_where_the_text_says(run):
    falls, _, printed = run("10_alpha_bar")
    text = load("10_alpha_bar").__doc__
    assert set(falls) == set(SCHEDULES) and all(
        (fall["alpha_bar"] > 0).all() and (fall["log_snr"] > 0).all() for fall in falls.values()
    )
    fall = falls["linear"]
    np.testing.assert_allclose(
        fall["alpha_bar"], [1 - ALPHA_BAR[0], *(ALPHA_BAR[:-1] - ALPHA_BAR[1:])], rtol=0, atol=1e-15
    )
    assert fall["alpha_bar"].argmax() + 1 == 220 and "t = 220" in text
    assert 0.92 < 1 - ALPHA_BAR[499] < 0.925 and "92%" in text and "92.1%" in printed
    # (1000,), entry i is t = i + 1
    log_snr = np.log(ALPHA_BAR / (1 - ALPHA_BAR))
    assert np.diff(log_snr).argmax() + 2 == 350 and "t = 350" in text             # the smallest fall
    assert fall["log_snr"].argmax() + 2 == 2 and (np.diff(fall["log_snr"])[:300] < 0).all()
    cosine = np.cos((np.array([0, 500, 1000]) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
    assert falls["cosine"]["alpha_bar"][:500].sum() == pytest.approx(1 - cosine[1] / cosine[0], rel=1e-9)
    assert falls["straight"]["log_snr"][-1] == np.inf
    # the two values have changed places
    beta = 1 - ALPHA_BAR[498] / ALPHA_BAR[499]
    assert beta < 0 and f"a rise: beta at t = 500 is {beta:g}" in printed


def test_photo_has_the_variance_expected(run):
    numbers, _, printed = run("11_photo")
    photo, x_t = numbers["photo"], numbers["x_t"]
    assert (
        photo.shape == (64, 64)
        and x_t.shape == (5, 64, 64)
        and -1 <= photo.min() < -0.8
        and 0.8 < photo.max() <= 1
    )
    signal, v = ALPHA_BAR[[0, 50, 200, 500, 999]], photo.var(ddof=1)
    np.testing.assert_allclose(numbers["exact"], signal * v + 1 - signal, rtol=1e-12)
    deviation = (2 * (1 - signal) * (1 - signal + 2 * signal * v) / 4095) ** 0.5
    assert (abs(numbers["variance"] - numbers["exact"]) < 4 * deviation).all()
    np.testing.assert_allclose(numbers["variance"], [x.var(ddof=1) for x in x_t], rtol=1e-12)
    assert f"{numbers['variance'][2]:.4f}" in printed and v < 0.5 < numbers["exact"][4]
    # each image's own, standard normal
    noise = (x_t - signal[:, None, None] ** 0.5 * photo) / (1 - signal[:, None, None]) ** 0.5
    assert (abs(np.corrcoef(noise.reshape(5, -1)) - np.eye(5)) < 5 / 64).all() and (
        abs(noise.var((1, 2)) - 1) < 0.12
    ).all()


def test_photo_is_cut_from_the_middle_and_averaged(tmp_path):
    """140 x 200 pixels hold a square of 128 from row 6 and column 36 on; its blocks of 2 x 2 become pixels.

    The rest is red, and must not be seen.
    """
    pixels = np.tile(np.array([255, 0, 0], np.uint8), (140, 200, 1))
    pixels[6:134, 36:164] = 0
    pixels[6:70, 36:100] = 255                                  # the upper left quarter white
    pixels[70:134:2, 100:164] = (0, 255, 0)                     # in the lower right every other line green
    imsave(tmp_path / "photo.png", pixels)
    np.testing.assert_allclose(
        load("11_photo").load_photo(tmp_path / "photo.png"),
        np.kron([[1, -1], [-1, 0.587 - 1]], np.ones((32, 32))),
        atol=1e-6,
    )


@pytest.mark.parametrize(
    "name, said",
    [
        ("none.png", "does not exist"),
        ("text.png", "cannot be read"),
        ("text.jpg", "cannot be read"),
        ("cut.png", "cannot be read"),
        ("small.png", "has 80x63 pixels; it must have at least 64x64"),
    ],
)
def test_photo_refuses_what_is_no_photo(tmp_path, monkeypatch, capsys, name, said):
    imsave(tmp_path / "small.png", np.random.default_rng(0).random((63, 80, 3)))
    (tmp_path / "cut.png").write_bytes((tmp_path / "small.png").read_bytes()[:3000])
    for text in ("text.png", "text.jpg"):
        (tmp_path / text).write_text("not a picture")
    monkeypatch.setattr(
        sys, "argv", ["11_photo.py", "--image", str(tmp_path / name), "--out", str(tmp_path / "out")]
    )
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(SCRIPTS["11_photo"]), run_name="__main__")
    err = capsys.readouterr().err
    assert (
        stop.value.code == 2
        and err.startswith(f"error: image: {tmp_path / name} ")
        and said in err
        and err.count("\n") == 1
        and not (tmp_path / "out").exists()
    )


def test_skipping_hurts_and_ddim_does_not(run):
    numbers, _, _ = run("12_skipping")
    off, mean = numbers["off"], numbers["mean"]
    assert [off["naive", k] for k in (1, 2, 5, 20)] == sorted(off["naive", k] for k in (1, 2, 5, 20))
    assert off["naive", 1] < 0.01 and off["naive", 5] > 0.3 and off["naive", 20] > 0.6
    assert max(off["DDIM", k] for k in (1, 2, 5)) < 0.02 and off["DDIM", 20] < 0.25
    assert np.hypot(*mean["naive", 20]) < 0.25 and all(
        np.hypot(*(mean["DDIM", k] - (0.75, 0.375))) < 0.25 for k in (1, 2, 5, 20)
    )
    # with k = 1 nothing is skipped: it is the ancestral sampler with variance beta
    schedule = make_schedule("rescaled_linear", 200)
    *_, (_, x) = ancestral(
        to_x0_eps(Moons().predict(schedule), schedule),
        generator(0, "sample", 200).standard_normal((300, 2)),
        schedule,
        lambda t: generator(0, "sample", t).standard_normal((300, 2)),
        time_pairs(200),
        "beta",
    )
    np.testing.assert_allclose(mean["naive", 1], x.mean(0), rtol=1e-9)


@pytest.mark.slow
def test_plateau_is_the_networks_own_error(run):
    numbers, _, printed = run("13_plateau")
    off, exact = numbers["off"], numbers["off"]["exact, ddim"]
    assert exact[5] > 0.4 and exact[10] < 0.3 and exact[100] == exact[200] == 0
    # 300 steps make no good network
    assert all(off[name][200] > 0.2 for name in set(SAMPLERS) - {"naive_skip"})
    assert all(curve[200] < 0.8 * curve[5] for curve in numbers["distance"].values())
    # one equation, solved well by all three
    ends = [off[name][200] for name in ("ddim", "dpm_solver_pp", "heun")]
    assert max(ends) - min(ends) < 0.03
    assert f"{exact[10]:.1%}" in printed and f"fresh data {numbers['floor']:.4f}" in printed


def test_plateau_begins_where_nothing_improves_any_more():
    module = load("13_plateau")
    at = lambda *shares: dict(zip((5, 10, 15, 25, 50, 100, 200), shares, strict=True))
    assert module.plateau(at(0.6, 0.2, 0.1, 0.06, 0.05, 0.05, 0.05), 1000) == 25              # chance is 0.02
    assert module.plateau(at(0.6, 0.2, 0.1, 0.06, 0.05, 0.05, 0.05), 100000) == 50
    # one lucky count is no plateau
    assert module.plateau(at(0.6, 0.06, 0.1, 0.06, 0.05, 0.05, 0.05), 1000) == 25
    assert module.plateau(at(0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0), 1000) == 200


@pytest.mark.parametrize("name", sorted(set(SAMPLERS) - {"naive_skip"}))
def test_plateau_counts_the_calls_of_the_network(name):
    asked, schedule = [], make_schedule("rescaled_linear", 20)
    for _ in SAMPLERS[name](
        lambda x, t: (asked.append(t), (0 * x, x))[1],
        np.ones((1, 2)),
        schedule,
        lambda t: np.zeros((1, 2)),
        time_pairs(20, 5),
    ):
        pass
    assert load("13_plateau").calls(name, 5) == len(asked)


def test_small_steps_turn_an_average_into_a_sample(run):
    numbers, _, _ = run("14_small_steps")
    said, still_open, answers = numbers["said"], numbers["open"], numbers["answers"]
    assert list(numbers["stops"]) == list(range(200, 0, -1)) and answers.shape == (200, 300, 2)
    # the data's variance: 3/4 in x, 5/8 - 1/pi - 1/16 in y, and the jitter's
    total = 2.25 * (21 / 16 - 1 / np.pi + 2 * 0.03 ** 2)
    assert said[0] < 1e-3 and still_open[0] == pytest.approx(total, rel=1e-3) and still_open[-1] < 0.01
    # three standard deviations of 300 points' variance
    assert (abs(said + still_open - total) < 0.3).all()
    assert (
        (abs(answers[0] - (0.75, 0.375)) < 0.1).all() and numbers["off"][0] == 1 and numbers["off"][-1] < 0.01
    )
    # the last answer is the sample
    np.testing.assert_array_equal(answers[-1], numbers["samples"])
    assert 0.6 < numbers["off"][115] < 0.9                      # t = 85: some averages lie on an arc


def test_small_steps_taken_too_large_lose_variance(run, tmp_path):
    few = load("14_small_steps").main(samples=300, steps=10, out=tmp_path)
    assert (
        list(few["stops"]) == list(range(200, 0, -20))
        and few["said"][-1] < 0.85 * run("14_small_steps")[0]["said"][-1]
    )


@pytest.mark.slow
def test_losses_of_two_schedules_do_not_compare(run):
    numbers, _, printed = run("15_schedules")
    losses, excess = numbers["losses"], numbers["excess"]
    floors = {name: floor[1:].mean() for name, floor in numbers["floors"].items()}
    for name in ("linear", "rescaled_linear", "cosine"):
        last = losses[name][-20:].mean()
        assert last > floors[name] + 0.02 and last == pytest.approx(floors[name] + excess[name], abs=0.05)
        assert f"{floors[name]:.4f}  {excess[name]:.4f}" in printed
    assert (
        floors["rescaled_linear"] < floors["cosine"] - 0.1
        and losses["rescaled_linear"][-20:].mean() < losses["cosine"][-20:].mean() - 0.1
    )
    assert numbers["distance"]["cosine", "unclipped"] > 5 * numbers["distance"]["cosine", "DDIM"]
    assert numbers["distance"]["linear", "unclipped"] == pytest.approx(
        numbers["distance"]["linear", "DDIM"], rel=0.1
    )


def test_a_scheduler_library_draws_the_same(run):
    numbers, _, printed = run("16_scheduler_library")
    assert list(numbers["gaps"]) == ["ancestral and DDPMScheduler", "ddim and DDIMScheduler"]
    for name, (a, b) in numbers["twins"].items():
        assert (
            a.shape == b.shape == (300, 2)
            and numbers["gaps"][name] == abs(a - b).max() < 1e-3
            and f"{numbers['gaps'][name]:.1e}" in printed
        )
        # not one point drawn 300 times
        assert (a.std(0) > 0.5).all()
    assert (
        abs(numbers["as_it_comes"]).max() <= 1 < abs(numbers["twins"]["ancestral and DDPMScheduler"][1]).max()
    )


def test_lines_of_code():
    module = load("16_scheduler_library")
    for function in (module.with_npdiff, module.with_diffusers):
        # all but the docstring
        assert module.code_lines(function) == inspect.getsource(function).count("\n") - 1
    # nor the comment beside a line
    assert module.code_lines(module.code_lines) == 4


def test_a_scheduler_library_that_is_not_there(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(SCRIPTS["16_scheduler_library"]), run_name="__main__")
    assert stop.value.code == 2
    assert (
        capsys.readouterr().err
        == "error: this example needs the package diffusers, which is not installed: "
        'pip install "npdiff[test]"\n'
    )


def test_guidance_trades_diversity_for_the_class(run):
    numbers, _, printed = run("17_guidance")
    right, diversity = ([numbers[w][key] for w in (0, 1, 3)] for key in ("right", "diversity"))
    assert abs(right[0] - 1 / 3) < 0.07 and 0.8 < right[1] < 0.92 and right[2] > 0.98
    assert diversity[0] > 1.3 * diversity[1] > 1.6 * diversity[2]
    data = load("17_guidance").CLASSES[0].sample(2000, np.random.default_rng(0))
    # class 0, not exaggerated: the data's own mean and spread
    asked = numbers[1]["x"][::3]
    np.testing.assert_allclose(asked.mean(0), data.mean(0), atol=0.2)
    np.testing.assert_allclose(asked.std(0), data.std(0), rtol=0.2)
    assert f"{right[1]:.1%}" in printed


@pytest.mark.slow
def test_guidance_of_a_trained_run(tmp_path):
    untrained = create_run(tmp_path / "run", SHAPES, 0)
    save_checkpoint(untrained, new_denoiser(NumpyBackend(), SHAPES, 0).export())
    numbers = load("17_guidance").main(run=tmp_path / "run", out=tmp_path)
    assert (
        all(numbers[w]["x"].shape == (16, 1, 28, 28) for w in (0, 1, 3))
        and (tmp_path / "17_guidance.png").stat().st_size > 10_000
    )


def test_guidance_refuses_a_run_without_labels(tmp_path, monkeypatch, capsys):
    create_run(tmp_path / "run", MOONS, 0)
    monkeypatch.setattr(
        sys, "argv", ["17_guidance.py", "--run", str(tmp_path / "run"), "--out", str(tmp_path / "out")]
    )
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(SCRIPTS["17_guidance"]), run_name="__main__")
    err = capsys.readouterr().err
    assert (
        stop.value.code == 2
        and err.startswith("error: run is ")
        and "moons, which takes no labels" in err
        and not (tmp_path / "out").exists()
    )
