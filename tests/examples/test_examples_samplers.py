"""Examples 10 to 18: each runs and writes its picture, and its numbers are right."""

import inspect
import runpy
import sys

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
from example_scripts import ALPHA_BAR, FILES, SCRIPTS, load
from matplotlib.image import imsave

from npdiff.app.checkpoint import RunConfig, create_run, save_checkpoint
from npdiff.backends.numpy import NumpyBackend
from npdiff.data.shapes import CLASS_NAMES
from npdiff.recipes import MOONS, SHAPES
from npdiff.rng import generator
from npdiff.samplers import SAMPLERS, ancestral, time_pairs, to_x0_eps
from npdiff.schedule import SCHEDULES, make_schedule
from npdiff.training import new_denoiser
from npdiff.verify.oracle import Moons

pytestmark = pytest.mark.slow
NAMES = [name for name in SCRIPTS if name >= "10"]          # the others are in test_examples.py


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


def test_alpha_bar_falls_where_the_text_says(run):
    numbers, _, printed = run("10_alpha_bar")
    falls, text = numbers["falls"], load("10_alpha_bar").__doc__
    assert set(falls) == set(SCHEDULES)
    for fall in falls.values():
        assert (fall["alpha_bar"] > 0).all() and (fall["log_snr"] > 0).all()
    fall, expected = falls["linear"], [1 - ALPHA_BAR[0], *(ALPHA_BAR[:-1] - ALPHA_BAR[1:])]
    np.testing.assert_allclose(fall["alpha_bar"], expected, rtol=0, atol=1e-15)
    assert fall["alpha_bar"].argmax() + 1 == 220 and "t = 220" in text
    assert 0.92 < 1 - ALPHA_BAR[499] < 0.925 and "92%" in text and "92.1%" in printed
    log_snr = np.log(ALPHA_BAR / (1 - ALPHA_BAR))               # (1000,), entry i is t = i + 1
    assert np.diff(log_snr).argmax() + 2 == 350 and "t = 350" in text             # the smallest fall
    assert fall["log_snr"].argmax() + 2 == 2 and (np.diff(fall["log_snr"])[:300] < 0).all()
    cosine = np.cos((np.array([0, 500, 1000]) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
    assert falls["cosine"]["alpha_bar"][:500].sum() == pytest.approx(1 - cosine[1] / cosine[0], rel=1e-9)
    assert falls["straight"]["log_snr"][-1] == np.inf
    beta = 1 - ALPHA_BAR[498] / ALPHA_BAR[499]                  # the two have changed places
    assert beta < 0 and f"a rise: beta at t = 500 is {beta:g}" in printed


def test_the_schedules_are_told_apart(run):
    """linear and rescaled_linear are the same curve at T = 1000, and zero_snr_linear is nearly so."""
    numbers, _, _ = run("10_alpha_bar")
    drawn = panels(numbers["figure"])
    assert len(drawn) == 4 and set(legend_names(drawn[0])) == set(SCHEDULES)
    for axes in drawn:
        lines = curves(axes)
        assert set(lines) == set(SCHEDULES)
        assert len({line.get_marker() for line in lines.values()}) == len(SCHEDULES)
        marked = [range(*line.get_markevery()[:1], 999, line.get_markevery()[1]) for line in lines.values()]
        assert len(set().union(*marked)) == sum(map(len, marked))                 # never two at one timestep
        below, above = lines["linear"], lines["rescaled_linear"]
        np.testing.assert_allclose(below.get_ydata(), above.get_ydata(), rtol=1e-9)
        assert below.get_linewidth() > 3 * above.get_linewidth()
        order = list(lines)                                     # the thin one lies on the broad one
        assert order.index("linear") < order.index("rescaled_linear")
    np.testing.assert_allclose(curves(drawn[0])["linear"].get_ydata(), ALPHA_BAR, rtol=1e-12)


def test_photo_has_the_variance_expected(run):
    numbers, _, printed = run("11_photo")
    photo, x_t = numbers["photo"], numbers["x_t"]
    assert photo.shape == (64, 64) and x_t.shape == (5, 64, 64)
    assert -1 <= photo.min() < -0.8 and 0.8 < photo.max() <= 1
    signal, v = ALPHA_BAR[[0, 50, 200, 500, 999]], photo.var(ddof=1)
    np.testing.assert_allclose(numbers["exact"], signal * v + 1 - signal, rtol=1e-12)
    deviation = (2 * (1 - signal) * (1 - signal + 2 * signal * v) / 4095) ** 0.5
    assert (abs(numbers["variance"] - numbers["exact"]) < 4 * deviation).all()
    np.testing.assert_allclose(numbers["variance"], [x.var(ddof=1) for x in x_t], rtol=1e-12)
    assert f"{numbers['variance'][2]:.4f}" in printed and v < 0.5 < numbers["exact"][4]
    # each image has its own noise, and it is standard normal
    noise = (x_t - signal[:, None, None] ** 0.5 * photo) / (1 - signal[:, None, None]) ** 0.5
    assert (abs(np.corrcoef(noise.reshape(5, -1)) - np.eye(5)) < 5 / 64).all()
    assert (abs(noise.var((1, 2)) - 1) < 0.12).all()


def test_photo_is_drawn_with_its_histogram(run):
    numbers, _, _ = run("11_photo")
    images, histograms = np.reshape(panels(numbers["figure"]), (2, 5))
    for n, t in enumerate((1, 51, 201, 501, 1000)):
        np.testing.assert_array_equal(images[n].images[0].get_array(), numbers["x_t"][n])
        title = images[n].get_title()
        assert f"$t = {t}$" in title and f"variance {numbers['variance'][n]:.3f}" in title
        assert f"expected {numbers['exact'][n]:.3f}" in title
        area = sum(bar.get_width() * bar.get_height() for bar in histograms[n].patches)
        assert area == pytest.approx(1, abs=0.01)                                 # a density
        bell = curves(histograms[n])["standard normal"].get_ydata()
        assert bell.max() == pytest.approx((2 * np.pi) ** -0.5, rel=1e-3)


def test_photo_is_cut_from_the_middle_and_averaged(tmp_path):
    """140 x 200 pixels hold a square of 128 from row 6 and column 36 on; its blocks of 2 x 2 become pixels.

    The rest is red, and must not be seen.
    """
    pixels = np.tile(np.array([255, 0, 0], np.uint8), (140, 200, 1))
    pixels[6:134, 36:164] = 0
    pixels[6:70, 36:100] = 255                                  # the upper left quarter white
    pixels[70:134:2, 100:164] = (0, 255, 0)                     # in the lower right every other line green
    imsave(tmp_path / "photo.png", pixels)
    expected = np.kron([[1, -1], [-1, 0.587 - 1]], np.ones((32, 32)))
    np.testing.assert_allclose(load("11_photo").load_photo(tmp_path / "photo.png"), expected, atol=1e-6)


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
    arguments = ["--image", str(tmp_path / name), "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["11_photo.py", *arguments])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(SCRIPTS["11_photo"]), run_name="__main__")
    err = capsys.readouterr().err
    assert stop.value.code == 2
    assert err.startswith(f"error: image: {tmp_path / name} ") and said in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_skipping_hurts_and_ddim_does_not(run):
    numbers, _, _ = run("12_skipping")
    off, mean = numbers["off"], numbers["mean"]
    naive = [off["naive", k] for k in (1, 2, 5, 20)]
    assert naive == sorted(naive)
    assert off["naive", 1] < 0.01 and off["naive", 5] > 0.3 and off["naive", 20] > 0.6
    assert max(off["DDIM", k] for k in (1, 2, 5)) < 0.02 and off["DDIM", 20] < 0.25
    assert np.hypot(*mean["naive", 20]) < 0.25
    assert all(np.hypot(*(mean["DDIM", k] - (0.75, 0.375))) < 0.25 for k in (1, 2, 5, 20))
    # with k = 1 nothing is skipped: it is the ancestral sampler with variance beta
    schedule = make_schedule("rescaled_linear", 200)
    denoise = to_x0_eps(Moons().predict(schedule), schedule)
    noise = lambda t: generator(0, "sample", t).standard_normal((300, 2))
    *_, (_, x) = ancestral(denoise, noise(200), schedule, noise, time_pairs(200), "beta")
    np.testing.assert_allclose(mean["naive", 1], x.mean(0), rtol=1e-9)


def test_skipping_draws_both_samplers_at_every_k(run):
    numbers, _, _ = run("12_skipping")
    rows = np.reshape(panels(numbers["figure"]), (2, 4))
    for row, name in zip(rows, ("naive", "DDIM"), strict=True):
        for axes, k in zip(row, (1, 2, 5, 20), strict=True):
            jumps = f"{name}, k = {k}, {200 // k} jumps"
            assert axes.get_title() == f"{jumps}\n{numbers['off'][name, k]:.0%} off the arcs"
            np.testing.assert_allclose(points(axes)["samples"].mean(0), numbers["mean"][name, k], rtol=1e-6)


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


def test_plateau_draws_calls_not_steps(run):
    numbers, _, _ = run("13_plateau")
    *clouds, left, right = panels(numbers["figure"])
    assert [axes.get_title().split("\n")[0] for axes in clouds] == [
        f"DDIM, {steps} steps" for steps in (10, 25, 50, 100, 200)]
    for axes, values in ((left, numbers["off"]), (right, numbers["distance"])):
        for name, by_steps in values.items():
            line = curves(axes)[name]
            np.testing.assert_array_equal(line.get_ydata(), list(by_steps.values()))
            calls = [2 * steps - 1 if name == "heun" else steps for steps in by_steps]
            np.testing.assert_array_equal(line.get_xdata(), calls)
    assert curves(right)["fresh data"].get_ydata()[0] == numbers["floor"]
    assert left.get_xlabel() == right.get_xlabel() == "network calls"


def test_plateau_begins_where_nothing_improves_any_more():
    module = load("13_plateau")
    at = lambda *shares: dict(zip((5, 10, 15, 25, 50, 100, 200), shares, strict=True))
    assert module.plateau(at(0.6, 0.2, 0.1, 0.06, 0.05, 0.05, 0.05), 1000) == 25              # chance is 0.02
    assert module.plateau(at(0.6, 0.2, 0.1, 0.06, 0.05, 0.05, 0.05), 100000) == 50
    # one small share before larger ones is chance, and no plateau
    assert module.plateau(at(0.6, 0.06, 0.1, 0.06, 0.05, 0.05, 0.05), 1000) == 25
    assert module.plateau(at(0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0), 1000) == 200


@pytest.mark.parametrize("name", sorted(set(SAMPLERS) - {"naive_skip"}))
def test_plateau_counts_the_calls_of_the_network(name):
    asked, schedule = [], make_schedule("rescaled_linear", 20)

    def denoise(x, t):
        asked.append(t)
        return 0 * x, x

    for _ in SAMPLERS[name](denoise, np.ones((1, 2)), schedule, np.zeros_like, time_pairs(20, 5)):
        pass
    assert load("13_plateau").calls(name, 5) == len(asked)


def test_small_steps_turn_an_average_into_a_sample(run):
    numbers, _, _ = run("14_small_steps")
    known, unknown, answers = numbers["known"], numbers["unknown"], numbers["x0_hat"]
    assert list(numbers["stops"]) == list(range(200, 0, -1)) and answers.shape == (200, 300, 2)
    # the data's variance: 3/4 in x, 5/8 - 1/pi - 1/16 in y, and the jitter's
    total = 2.25 * (21 / 16 - 1 / np.pi + 2 * 0.03 ** 2)
    assert known[0] < 1e-3 and unknown[0] == pytest.approx(total, rel=1e-3) and unknown[-1] < 0.01
    # three standard deviations of 300 points' variance
    assert (abs(known + unknown - total) < 0.3).all()
    assert (abs(answers[0] - (0.75, 0.375)) < 0.1).all()
    assert numbers["off"][0] == 1 and numbers["off"][-1] < 0.01
    np.testing.assert_array_equal(answers[-1], numbers["samples"])      # the last answer is the sample
    assert 0.6 < numbers["off"][115] < 0.9                      # t = 85: some means lie on an arc


def test_small_steps_draws_the_two_parts_of_the_variance(run):
    numbers, _, _ = run("14_small_steps")
    drawn = panels(numbers["figure"])
    (above, below), (parts, share, paths) = np.reshape(drawn[:12], (2, 6)), drawn[12:]
    shown = (200, 100, 50, 30, 16, 1)
    assert [axes.get_title() for axes in above] == [f"$x_{{{t}}}$" for t in shown]
    assert [axes.get_title() for axes in below] == [rf"$\hat x_0$ at t = {t}" for t in shown]
    for axes, t in zip(below, shown, strict=True):
        np.testing.assert_allclose(points(axes)["samples"], numbers["x0_hat"][200 - t], rtol=1e-6)
    known, unknown = parts.collections
    assert known.get_hatch() != unknown.get_hatch()
    top = unknown.get_paths()[0].vertices[:, 1].max()
    assert top == pytest.approx((numbers["known"] + numbers["unknown"]).max(), rel=1e-12)
    np.testing.assert_array_equal(share.lines[0].get_ydata(), numbers["off"])
    ends = [line for line in paths.lines if len(line.get_xdata()) == 1][:6]
    np.testing.assert_array_equal([line.get_xydata()[0] for line in ends], numbers["samples"][:6])
    assert len({line.get_marker() for line in ends}) == 6


def test_small_steps_taken_too_large_lose_variance(run, tmp_path):
    few = load("14_small_steps").main(samples=300, steps=10, out=tmp_path)
    many, _, _ = run("14_small_steps")
    assert list(few["stops"]) == list(range(200, 0, -20))
    assert few["known"][-1] < 0.85 * many["known"][-1]


@pytest.mark.slow
def test_losses_of_two_schedules_do_not_compare(run):
    numbers, _, printed = run("15_schedules")
    losses, excess = numbers["losses"], numbers["excess"]
    floors = {name: floor[1:].mean() for name, floor in numbers["floors"].items()}
    for name in ("linear", "rescaled_linear", "cosine"):
        last = losses[name][-20:].mean()
        assert last > floors[name] + 0.02 and last == pytest.approx(floors[name] + excess[name], abs=0.05)
        assert f"{floors[name]:.4f}  {excess[name]:.4f}" in printed
    assert floors["rescaled_linear"] < floors["cosine"] - 0.1
    assert losses["rescaled_linear"][-20:].mean() < losses["cosine"][-20:].mean() - 0.1
    distance = numbers["distance"]
    assert distance["cosine", "from T"] > 5 * distance["cosine", "DDIM"]
    assert distance["linear", "from T"] == pytest.approx(distance["linear", "DDIM"], rel=0.1)


@pytest.mark.slow
def test_each_loss_is_drawn_beside_its_own_floor(run):
    numbers, _, _ = run("15_schedules")
    losses, floors, clouds = np.reshape(panels(numbers["figure"]), (3, 3))
    for k, name in enumerate(("linear", "rescaled_linear", "cosine")):
        floor, last = numbers["floors"][name][1:].mean(), numbers["losses"][name][-20:].mean()
        assert losses[k].get_title() == f"{name} schedule\nloss {last:.3f}, floor {floor:.3f}"
        drawn = curves(losses[k])
        assert set(drawn["Bayes floor"].get_ydata()) == {floor}
        means = numbers["losses"][name].reshape(-1, 10).mean(1)         # of 10 steps: a twentieth of 200
        np.testing.assert_allclose(drawn["loss"].get_ydata()[::10], means, rtol=1e-12)
        assert losses[k].get_ylim() == losses[0].get_ylim()                       # one scale for all three
        np.testing.assert_array_equal(curves(floors[k])["floor at t"].get_ydata(), numbers["floors"][name])
        assert f"{numbers['off'][name, 'ancestral']:.1%} off the arcs" in clouds[k].get_title()


def test_a_scheduler_library_draws_the_same(run):
    numbers, _, printed = run("16_scheduler_library")
    pairs, gaps = numbers["pairs"], numbers["gaps"]
    assert list(gaps) == ["ancestral and DDPMScheduler", "ddim and DDIMScheduler"]
    for name, (a, b) in pairs.items():
        assert a.shape == b.shape == (300, 2)
        assert gaps[name] == abs(a - b).max() < 1e-3 and f"{gaps[name]:.1e}" in printed
        assert (a.std(0) > 0.5).all()                           # not one point drawn 300 times
    _, their_ancestral = pairs["ancestral and DDPMScheduler"]
    assert abs(numbers["defaults"]).max() <= 1 < abs(their_ancestral).max()


def test_a_scheduler_library_is_drawn_on_ours(run):
    numbers, _, _ = run("16_scheduler_library")
    *twins, defaults = panels(numbers["figure"])
    for axes, (name, (a, b)), steps in zip(twins, numbers["pairs"].items(), (200, 20), strict=True):
        ours, theirs = points(axes).values()
        np.testing.assert_allclose(ours, a, rtol=1e-6)
        np.testing.assert_allclose(theirs, b, rtol=1e-6)
        assert axes.get_title() == f"{name}, {steps} steps\nlargest difference {numbers['gaps'][name]:.0e}"
        assert legend_names(axes) == name.split(" and ")
    assert legend_names(defaults) == ["data", "DDPMScheduler"] and "[-1, 1]" in defaults.get_title()


def test_lines_of_code():
    module = load("16_scheduler_library")
    for function in (module.with_npdiff, module.with_diffusers):
        all_but_the_docstring = inspect.getsource(function).count("\n") - 1
        assert module.code_lines(function) == all_but_the_docstring
    assert module.code_lines(module.code_lines) == 4                              # a comment does not count


def test_a_scheduler_library_that_is_not_there(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(SCRIPTS["16_scheduler_library"]), run_name="__main__")
    assert stop.value.code == 2
    said = 'this example needs the package diffusers, which is not installed: pip install "npdiff[test]"'
    assert capsys.readouterr().err == f"error: {said}\n"


def test_guidance_trades_diversity_for_the_class(run):
    numbers, _, printed = run("17_guidance")
    right, diversity = ([numbers[w][key] for w in (0, 1, 3)] for key in ("right", "diversity"))
    assert abs(right[0] - 1 / 3) < 0.07 and 0.8 < right[1] < 0.92 and right[2] > 0.98
    assert diversity[0] > 1.3 * diversity[1] > 1.6 * diversity[2]
    data = load("17_guidance").CLASSES[0].sample(2000, np.random.default_rng(0))
    asked = numbers[1]["x"][::3]                # class 0 at w = 1: the data's own mean and standard deviation
    np.testing.assert_allclose(asked.mean(0), data.mean(0), atol=0.2)
    np.testing.assert_allclose(asked.std(0), data.std(0), rtol=0.2)
    assert f"{right[1]:.1%}" in printed


def test_guidance_draws_each_class_with_its_own_marker(run):
    numbers, _, _ = run("17_guidance")
    drawn = panels(numbers["figure"])
    for axes, w in zip(drawn, (0, 1, 3), strict=True):
        assert axes.get_title() == f"w = {w}: {numbers[w]['right']:.0%} in their class's region"
        *classes, centres = axes.lines
        for k, line in enumerate(classes):
            assert line.get_label() == f"asked for class {k}"
            np.testing.assert_array_equal(line.get_xydata(), numbers[w]["x"][k::3])
        assert len({line.get_marker() for line in classes}) == 3
        assert len(centres.get_xdata()) == 3
    assert "DDIM, 200 steps" in numbers["figure"].get_suptitle()


@pytest.mark.slow
def test_guidance_of_a_trained_run(tmp_path):
    untrained = create_run(tmp_path / "run", RunConfig(SHAPES, 0, {"class_names": CLASS_NAMES}, []))
    save_checkpoint(untrained, new_denoiser(NumpyBackend(), SHAPES, 0).export())
    numbers = load("17_guidance").main(run=tmp_path / "run", out=tmp_path)
    assert all(numbers[w]["x"].shape == (16, 1, 28, 28) for w in (0, 1, 3))
    check_file(tmp_path / "17_guidance.png", numbers["figure"])
    drawn = panels(numbers["figure"])
    assert [axes.get_title() for axes in drawn] == ["w = 0", "w = 1", "w = 3"]
    assert [text.get_text() for text in drawn[-1].get_xticklabels()] == list(CLASS_NAMES)


def test_guidance_refuses_a_run_without_labels(tmp_path, monkeypatch, capsys):
    untrained = create_run(tmp_path / "run", RunConfig(MOONS, 0, {}, []))
    save_checkpoint(untrained, new_denoiser(NumpyBackend(), MOONS, 0).export())
    arguments = ["--run", str(tmp_path / "run"), "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["17_guidance.py", *arguments])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(SCRIPTS["17_guidance"]), run_name="__main__")
    err = capsys.readouterr().err
    assert stop.value.code == 2
    assert err.startswith("error: run is ") and "moons, which takes no labels" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_fresh_noise_mends_a_planted_error(run):
    numbers, _, printed = run("18_fresh_noise")
    distance, floor = numbers["distance"], numbers["floor"]
    for name in ("DDIM", "DPM-Solver++", "Heun"):           # one equation, solved well by all three
        before, last = distance[name, 0.05][-2:]
        assert last > 0.8 * before and last > 3 * floor
    assert distance["ancestral", 0.05][-1] < 0.4 * min(distance["DDIM", 0.05])
    assert distance["DDIM, eta = 0.5", 0.05][-1] < 0.5 * min(distance["DDIM", 0.05])
    assert distance["DDIM", 0.0][-1] < 0.4 * distance["DDIM", 0.05][-1]
    assert np.std(numbers["crowds"]["DDIM"]) > 1.3 * np.std(numbers["crowds"]["ancestral"])
    assert all(np.mean(crowd) == pytest.approx(1) for crowd in numbers["crowds"].values())
    assert numbers["calls"]["Heun"] == [3, 9, 19, 49, 99] and f"fresh data {floor:.4f}" in printed


@pytest.mark.slow
def test_fresh_noise_draws_every_sampler(run):
    numbers, _, _ = run("18_fresh_noise")
    left, middle, right = panels(numbers["figure"])
    drawn = curves(left)
    for (name, size), values in numbers["distance"].items():
        line = drawn[name if size else f"{name}, no error"]
        np.testing.assert_array_equal(line.get_ydata(), values)
        np.testing.assert_array_equal(line.get_xdata(), numbers["calls"][name])
    np.testing.assert_allclose(points(middle)["samples"], numbers["clouds"]["DDIM", 0.05], rtol=1e-6)
    for name, crowd in numbers["crowds"].items():
        np.testing.assert_array_equal(curves(right)[f"{name}, 100 steps, with the error"].get_ydata(), crowd)


def test_the_planted_error_is_smooth_and_of_size_one():
    module, rng = load("18_fresh_noise"), np.random.default_rng(0)
    x, wave = rng.uniform(-2, 2, (5000, 2)), module.smooth_error(0)
    assert np.mean(wave(x, 50) ** 2) == pytest.approx(1, abs=0.35)
    step = rng.standard_normal(x.shape) * 1e-3
    assert abs(wave(x + step, 50) - wave(x, 50)).max() < 0.05 and abs(wave(x, 51) - wave(x, 50)).max() < 0.3
    # the mixture of 16 has the moons' mean, and nearly their spread
    mixture = module.arcs()
    drawn, data = mixture.sample(20_000, rng), Moons().sample(20_000, rng)
    np.testing.assert_allclose(drawn.mean(0), data.mean(0), atol=0.05)
    np.testing.assert_allclose(np.cov(drawn.T), np.cov(data.T), atol=0.05)
