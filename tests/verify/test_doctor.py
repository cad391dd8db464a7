"""Every check of the doctor on a configuration with that fault planted and on sound ones; its numbers against
Monte Carlo.
"""

import os
from dataclasses import replace

import numpy as np
import pytest

from npdiff.app.cli import main
from npdiff.diffusion import eps_from_x0, loss_weights, prediction_target, prior_kl, q_sample
from npdiff.models import mlp
from npdiff.nn import sinusoidal_embedding
from npdiff.recipes import FASHION, LAB_FASHION, LECTURE_UNET, MOONS, RECIPES, SHAPES, TEXTBOOK_MOONS
from npdiff.samplers import SAMPLERS, TIMESTEP_SPACINGS, time_pairs, to_x0_eps
from npdiff.sampling import Sampling, fresh_data
from npdiff.schedule import SCHEDULES, linear, make_schedule, rescaled_linear, straight
from npdiff.verify import doctor
from npdiff.verify.floor import floor_by_t, recipe_floor
from npdiff.verify.oracle import Moons

needs_fashion = pytest.mark.skipif("NPDIFF_DATA" not in os.environ, reason="needs the files of Fashion-MNIST")


def moons(n=20_000):
    return fresh_data(MOONS, 0, n)


def findings(recipe, sampling=Sampling()):
    """The names of the checks that find something in a recipe of the moons."""
    return [record.what for record in doctor.diagnose(recipe, sampling, moons) if record.finding]


def test_the_two_recipes_of_the_moons():
    assert findings(MOONS) == []
    assert findings(TEXTBOOK_MOONS) == ["signal in x_T", "mean of samples"]
    assert (
        findings(replace(TEXTBOOK_MOONS, schedule="rescaled_linear"))
        == findings(replace(TEXTBOOK_MOONS, num_train_timesteps=1000))
        == []
    )


def test_every_fault_at_once():
    recipe = replace(TEXTBOOK_MOONS, model=mlp.Config(time_dim=2))
    sampling = Sampling(sampler="naive_skip", steps=20, timestep_spacing="leading", clip=1.0, guidance=2.0)
    records = doctor.diagnose(recipe, sampling, moons)
    assert [record.what for record in records if record.finding] == [
        record.what for record in records if record.what != "best loss"
    ]
    assert all((record.finding is None) == (record.advice is None) for record in records)


@pytest.mark.parametrize(
    "recipe",
    [
        TEXTBOOK_MOONS,
        LAB_FASHION,
        LECTURE_UNET,
        replace(MOONS, schedule="scaled_linear", num_train_timesteps=1000),
    ],
)
def test_signal_left(recipe):
    record = doctor.terminal_signal(recipe, Sampling(), np.zeros((4, 2)))
    alpha_bar = make_schedule(recipe.schedule, recipe.num_train_timesteps).alpha_bar[-1]
    assert (
        f"alpha_bar[{recipe.num_train_timesteps}] = {alpha_bar:.3g} leaves signal in x_T "
        f"({100 * alpha_bar**0.5:.0f}% of x_0's size)"
        in record.finding
    )
    assert "--schedule rescaled_linear (alpha_bar[T] = " in record.advice
    # advised only where it helps
    assert ("--num-train-timesteps 1000" in record.advice) == (recipe.schedule == "linear")
    assert doctor.terminal_signal(recipe, Sampling(start="data"), np.zeros((4, 2))).finding is None
    assert doctor.signal_left(recipe, Sampling()) == record.finding
    assert (
        f" {prior_kl(np.zeros((4, 2)), make_schedule(recipe.schedule, recipe.num_train_timesteps)):.3g} nats "
        f"per dimension"
        in record.number
    )


@pytest.mark.parametrize("recipe", [MOONS, SHAPES, FASHION])
def test_no_signal_left(recipe):
    assert doctor.terminal_signal(recipe, Sampling(), np.zeros((4, 2))).finding is None


@pytest.mark.parametrize("T", [2, 3, 5, 10, 50, 200, 2000])
def test_what_is_advised_against_signal_helps_at_every_length(T):
    assert doctor.signal_left(replace(MOONS, num_train_timesteps=T), Sampling()) is None


@pytest.mark.parametrize(
    "schedule",
    [linear(200), linear(50), rescaled_linear(1000)],
    ids=["linear 200", "linear 50", "rescaled 1000"],
)
def test_prior_kl_against_monte_carlo(schedule):
    """The KL divergence is the mean of log q(x_T | x_0) - log N(x_T; 0, I) over draws of x_T."""
    rng, alpha_bar = np.random.default_rng(0), schedule.alpha_bar[-1]
    x0 = rng.exponential(2.0, (4, 3))
    noise = rng.standard_normal((200_000, 4, 3))
    x_T = alpha_bar ** 0.5 * x0 + (1 - alpha_bar) ** 0.5 * noise
    ratio = ((x_T ** 2 - noise ** 2 - np.log(1 - alpha_bar)) / 2).mean((1, 2))
    assert prior_kl(x0, schedule) == pytest.approx(ratio.mean(), abs=4 * ratio.std() / len(ratio) ** 0.5)
    assert prior_kl(x0, straight(20)) == 0          # x_T is all noise


def test_timesteps():
    for spacing in TIMESTEP_SPACINGS:
        for steps in (None, 200, 20):
            record = doctor.timesteps(MOONS, Sampling(steps=steps, timestep_spacing=spacing))
            assert bool(record.finding) == (spacing == "leading" and steps == 20)
    alpha_bar = MOONS.make_schedule().alpha_bar
    record = doctor.timesteps(MOONS, Sampling(steps=20, timestep_spacing="leading"))
    assert "at t = 191 " in record.number and "the last from t = 1 " in record.number
    assert (
        f"alpha_bar is {alpha_bar[191]:.3g}, not {alpha_bar[200]:.3g}" in record.finding
        and "trailing" in record.advice
    )
    assert (
        f"the last from t = 10 (noise {(1 - alpha_bar[10]) ** 0.5:.2g})"
        in doctor.timesteps(MOONS, Sampling(steps=20)).number
    )
    assert (
        doctor.timesteps(MOONS, Sampling(steps=20, timestep_spacing="leading", start="data")).finding is None
    )


def test_sampler():
    record = doctor.sampler(MOONS, Sampling(sampler="naive_skip", steps=199))
    assert record.finding.startswith("wrong on purpose: 1 of its 199 jumps") and "ancestral" in record.advice
    assert doctor.sampler(MOONS, Sampling(sampler="naive_skip")).finding is None
    for name in set(SAMPLERS) - {"naive_skip"}:
        assert doctor.sampler(MOONS, Sampling(sampler=name, steps=20)).finding is None
    assert doctor.sampler(MOONS, Sampling(variance="beta")).number == "ancestral, variance beta"


GAUSSIAN_MEAN = np.array([2.0, -1.0])
GAUSSIAN_COVARIANCE = np.array([[1.5, 0.6], [0.6, 0.4]])


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(steps=7),
        Sampling(sampler="ddim", eta=0.5, steps=10),
        Sampling(sampler="heun", steps=8),
        Sampling(sampler="dpm_solver_pp", steps=8),
        Sampling(steps=5, timestep_spacing="leading"),
        Sampling(sampler="naive_skip", steps=10),
        Sampling(sampler="naive_skip", steps=10, start="data"),
    ],
)
def test_mean_of_samples_against_monte_carlo(sampling):
    """Real samples from real noise with the exact denoiser of Gaussian data, in its textbook form: E[eps |
    x_t] = sigma (covariance of x_t)^-1 (x_t - a mean).
    """
    recipe, n, rng = (
        replace(TEXTBOOK_MOONS, num_train_timesteps=40, schedule="linear"),
        40_000,
        np.random.default_rng(0),
    )
    schedule = make_schedule(recipe.schedule, recipe.num_train_timesteps)
    pairs = time_pairs(schedule.T, sampling.steps, sampling.timestep_spacing)

    def predict(x, t):
        alpha_bar = schedule.alpha_bar[t]
        precision = np.linalg.inv(alpha_bar * GAUSSIAN_COVARIANCE + (1 - alpha_bar) * np.eye(2))
        return (1 - alpha_bar) ** 0.5 * (x - alpha_bar ** 0.5 * GAUSSIAN_MEAN) @ precision

    x = rng.standard_normal((n, 2))
    if sampling.start == "data":
        alpha_bar = schedule.alpha_bar[pairs[0][0]]
        x = (
            alpha_bar**0.5 * rng.multivariate_normal(GAUSSIAN_MEAN, GAUSSIAN_COVARIANCE, n)
            + (1 - alpha_bar) ** 0.5 * x
        )
    *_, (_, x) = SAMPLERS[sampling.sampler](
        to_x0_eps(predict, schedule),
        x,
        schedule,
        lambda t: rng.standard_normal((n, 2)),
        pairs,
        **sampling.options(recipe),
    )
    variances, axes = np.linalg.eigh(GAUSSIAN_COVARIANCE)
    mean = axes @ doctor.expected_mean(recipe, sampling, GAUSSIAN_MEAN @ axes, variances)
    assert (abs(x.mean(0) - mean) < 4 * x.std(0) / n ** 0.5).all()
    assert np.linalg.norm(mean - GAUSSIAN_MEAN) > 0.1


@pytest.mark.parametrize("name", sorted(set(SAMPLERS) - {"naive_skip"}))
def test_only_the_start_shifts_the_mean(name):
    mean, variances = np.array([2.0, -1.0, 0.5]), np.array([1.5, 0.1, 0.0])
    for sampling in (
        Sampling(sampler=name, steps=7, eta=0.3),
        Sampling(sampler=name, steps=7, timestep_spacing="leading"),
    ):
        assert abs(doctor.expected_mean(TEXTBOOK_MOONS, sampling, mean, variances) - mean)[:2].min() > 1e-3
        assert (
            abs(
                doctor.expected_mean(TEXTBOOK_MOONS, replace(sampling, start="data"), mean, variances) - mean
            ).max()
            < 1e-12
        )


def test_principal_axes():
    x0 = np.random.default_rng(0).standard_normal((500, 3)) @ [[1, 2, 0], [0, 1, 3], [0, 0, 1]] + [1, 2, 3]
    mean, axes, variances = doctor.principal_axes(x0)
    assert np.allclose(axes @ np.diag(variances) @ axes.T, np.cov(x0.T, bias=True)) and np.allclose(
        mean, x0.mean(0)
    )
    # rank 4: rounding would make some negative
    assert doctor.principal_axes(np.random.default_rng(0).standard_normal((5, 30)))[2].min() >= 0


def test_mean_of_samples_of_the_textbook():
    """With the perfect denoiser of the moons the samples' mean is (0.60, 0.39); the Gaussian approximation
    comes near it.
    """
    x0 = moons(200_000)
    mean, axes, variances = doctor.principal_axes(x0)
    samples = axes @ doctor.expected_mean(TEXTBOOK_MOONS, Sampling(), mean @ axes, variances)
    assert samples == pytest.approx([0.60, 0.39], abs=0.03)
    record = doctor.sample_mean(TEXTBOOK_MOONS, Sampling(), x0)
    off = (((samples - mean) ** 2).sum() / x0.var(0).sum()) ** 0.5
    assert record.number.startswith(
        f"({samples[0]:.3f}, {samples[1]:.3f}), the data's ({mean[0]:.3f}, {mean[1]:.3f}): {off:.2g} "
        f"standard deviations off"
    )
    assert (
        "--schedule rescaled_linear, which leaves" in record.advice
        and doctor.sample_mean(MOONS, Sampling(), x0).finding is None
    )


@pytest.mark.parametrize(
    "recipe, sampling, names",
    [
        (TEXTBOOK_MOONS, Sampling(), ["--schedule rescaled_linear"]),
        (MOONS, Sampling(steps=2, timestep_spacing="leading"), ["--timestep-spacing trailing"]),
        (MOONS, Sampling(sampler="naive_skip", steps=20), ["--sampler ancestral"]),
        (
            TEXTBOOK_MOONS,
            Sampling(sampler="naive_skip", steps=20, timestep_spacing="leading"),
            ["--sampler ancestral", "--timestep-spacing trailing", "--schedule rescaled_linear"],
        ),
        (
            replace(MOONS, schedule="linear", num_train_timesteps=750),
            Sampling(sampler="ddim"),
            ["--schedule zero_snr_linear --prediction-type v_prediction"],
        ),
    ],
)
def test_what_is_advised_about_the_mean_cures_it(recipe, sampling, names):
    x0 = moons() + 5            # far from 0 the last case, too, shifts enough to be found
    record = doctor.sample_mean(recipe, sampling, x0)
    advised, *cured = doctor.cure_of_the_mean(recipe, sampling)
    assert record.finding and advised == names and record.advice.startswith(" and ".join(names))
    assert doctor.sample_mean(*cured, x0).finding is None


def test_mean_of_samples_of_images_is_their_brightness():
    x0 = 0.3 * np.random.default_rng(0).standard_normal((50, 1, 4, 4)) + 2
    assert f"the data's brightness {x0.mean():.3f}" in doctor.sample_mean(SHAPES, Sampling(), x0).number


def test_embedding_distances_depend_on_the_gap_alone():
    T, time_dim, max_period = 60, 16, 1000.0
    e = sinusoidal_embedding(np.arange(1, T + 1), time_dim, max_period, np.float64)
    distance = doctor.embedding_distances(T, time_dim, max_period)
    for t in range(T):
        for other in range(t):
            assert np.linalg.norm(e[t] - e[other]) / 8**0.5 == pytest.approx(
                distance[t - other - 1], abs=1e-12
            )


def test_colliding_embeddings():
    """A single frequency, 1, turns seven times in 44 steps (14 pi = 43.98): t and t + 44 are all but one.

    So in 710 (226 pi = 709.9999).
    """
    for T, gap, distance in [(200, 44, 2 * abs(np.sin(22))), (1000, 710, 2 * abs(np.sin(355)))]:
        record = doctor.time_embedding(replace(MOONS, num_train_timesteps=T, model=mlp.Config(time_dim=2)))
        assert (
            f"t and t + {gap}, {distance:.2g}" in record.number and f"timesteps {gap} apart" in record.finding
        )
        assert "time_dim 32, max_period 10000" in record.advice
    assert doctor.time_embedding(replace(MOONS, model=mlp.Config(time_dim=32, max_period=1.0))).finding
    assert (
        doctor.time_embedding(replace(MOONS, num_train_timesteps=2, model=mlp.Config(time_dim=2))).finding
        is None
    )


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_sound_embeddings(recipe):
    assert doctor.time_embedding(recipe).finding is None


def test_the_advised_embedding_is_sound_at_every_length():
    distance = doctor.embedding_distances(4000, *doctor.SOUND_EMBEDDING)
    assert distance[1:].min() > distance[0]


def test_clipping():
    x0 = np.array([[-3.01, 1.1], [1.0, 0.0]])
    record = doctor.clipping(Sampling(clip=1.0), x0)
    assert (
        "reaches 3.01" in record.number
        and record.finding.startswith("50.00%")
        and record.advice == "--clip 3.1, or none"
    )
    assert (
        doctor.clipping(Sampling(clip=3.1), x0).finding is None
        and doctor.clipping(Sampling(), x0).finding is None
    )


def test_guidance():
    assert (
        doctor.guidance(replace(SHAPES, label_dropout=0.0), Sampling(guidance=2.0)).advice
        == "label_dropout 0.1, or --guidance 1"
    )
    assert doctor.guidance(replace(SHAPES, label_dropout=0.0), Sampling(guidance=0.0)).finding
    assert "takes no labels" in doctor.guidance(MOONS, Sampling(guidance=2.0)).finding
    for recipe, w in [(SHAPES, 2.0), (SHAPES, 1.0), (replace(SHAPES, label_dropout=0.0), 1.0), (MOONS, 1.0)]:
        assert doctor.guidance(recipe, Sampling(guidance=w)).finding is None


def test_best_loss():
    record = doctor.best_loss(TEXTBOOK_MOONS)
    by_t = floor_by_t(Moons(), make_schedule("linear", 200))[1:]
    assert record.number.startswith("0.455, ") and record.number.endswith(
        " ".join(f"{tenth.mean():.3f}" for tenth in by_t.reshape(10, 20))
    )
    assert doctor.best_loss(MOONS).number.startswith("0.296, ")
    assert "not known, as the law of shapes is not" in doctor.best_loss(SHAPES).number


@pytest.mark.parametrize(
    "prediction_type, loss_weight",
    [("epsilon", "simple"), ("sample", "vlb"), ("v_prediction", "min_snr"), ("flow_prediction", "simple")],
)
def test_best_loss_against_monte_carlo(prediction_type, loss_weight):
    """The loss of the oracle in the place of the network, on draws as training makes them."""
    recipe, n, rng, oracle = (
        replace(MOONS, schedule="linear", prediction_type=prediction_type, loss_weight=loss_weight),
        4000,
        np.random.default_rng(0),
        Moons(),
    )
    schedule = make_schedule("linear", 200)
    t, x0, noise = rng.integers(1, 201, n), oracle.sample(n, rng), rng.standard_normal((n, 2))
    x_t = q_sample(x0, t, noise, schedule)
    best_x0 = oracle.x0(x_t, schedule.alpha_bar[t])
    best = prediction_target(best_x0, t, eps_from_x0(x_t, t, best_x0, schedule), schedule, prediction_type)
    error = ((best - prediction_target(x0, t, noise, schedule, prediction_type)) ** 2).mean(1) * loss_weights(
        schedule, prediction_type, loss_weight
    )[t]
    assert recipe_floor(recipe)[1:].mean() == pytest.approx(error.mean(), abs=4 * error.std() / n ** 0.5)


def test_report():
    sound, ill = doctor.Record("what", "1"), doctor.Record("that", "2", "is wrong", "do this")
    head, *lines, foot = doctor.report(MOONS, [sound, ill])
    assert head == "moons: schedule sigmoid, T = 200, prediction_type epsilon" and foot == "1 finding"
    assert [line.split() for line in lines] == [
        ["what", "1"],
        ["that", "2"],
        ["wrong:", "is", "wrong"],
        ["change:", "do", "this"],
    ]
    assert (
        list(doctor.report(MOONS, [sound]))[-1] == "nothing wrong was found"
        and list(doctor.report(MOONS, [ill, ill]))[-1] == "2 findings"
    )


@pytest.mark.parametrize(
    "recipe, faults",
    [
        ("moons", 0),
        ("textbook-moons", 2),
        ("shapes", 0),
        pytest.param("fashion", 0, marks=needs_fashion),
        pytest.param("lab-fashion", 2, marks=needs_fashion),
        pytest.param("lecture-unet", 1, marks=needs_fashion),
    ],
)
def test_command(recipe, faults, capsys):
    main(["doctor", recipe])
    out = capsys.readouterr().out
    assert out.startswith(f"{recipe}: schedule ") and out.count("wrong:") == out.count("change:") == faults
    assert out.splitlines()[-1].startswith(str(faults or "nothing wrong"))


def test_command_tries_other_settings(capsys):
    def faults(*arguments):
        main(["doctor", "textbook-moons", *arguments])
        return capsys.readouterr().out.count("wrong:")

    assert (
        faults("--schedule", "rescaled_linear")
        == faults("--num-train-timesteps", "1000")
        == faults("--start", "data")
        == 0
    )
    assert faults("--schedule", "cosine", "--steps", "20", "--timestep-spacing", "leading") == 1


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["suns"], "recipe is 'suns'"),
        (["moons", "--schedule", "zigzag"], "schedule is 'zigzag'; it must be one of linear"),
        (["moons", "--num-train-timesteps", "1"], "num_train_timesteps is 1"),
        (["moons", "--schedule", "straight"], "prediction_type is 'epsilon'"),
        (["moons", "--steps", "201"], "takes 1..200"),
        (["moons", "--sampler", "euler"], "sampler is 'euler'"),
        (["moons", "--seed", "-1"], "seed is -1"),
        (["fashion", "--data", "nowhere"], "nowhere"),
    ],
)
def test_command_refuses(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["doctor", *arguments])
    captured = capsys.readouterr()
    assert (
        stop.value.code == 2
        and captured.out == ""
        and captured.err.startswith("error: ")
        and captured.err.count("\n") == 1
        and message in captured.err
    )


def test_every_schedule_is_diagnosed():
    for name in SCHEDULES:
        recipe = replace(MOONS, schedule=name, num_train_timesteps=20, prediction_type="v_prediction")
        head, *lines = doctor.report(recipe, doctor.diagnose(recipe, Sampling(steps=5), lambda n: moons(50)))
        assert name in head and "nan" not in " ".join(lines)
