"""The doctor: every check on settings with the fault that it looks for and on settings without; its numbers
against Monte Carlo.
"""

import itertools
import re
from dataclasses import replace

import numpy as np
import pytest
from fashion import REAL, needs_data

from npdiff.app.cli import main
from npdiff.diffusion import (
    PREDICTION_TYPES,
    eps_from_x0,
    loss_weights,
    prediction_target,
    prior_kl,
    q_sample,
)
from npdiff.evaluation.metrics import energy_distance
from npdiff.models import mlp
from npdiff.nn import sinusoidal_embedding
from npdiff.recipes import FASHION, LAB_FASHION, LECTURE_UNET, MOONS, RECIPES, SHAPES, TEXTBOOK_MOONS
from npdiff.samplers import SAMPLERS, TIMESTEP_SPACINGS, time_pairs, to_x0_eps
from npdiff.sampling import Sampling, fresh_data
from npdiff.schedule import SCHEDULES, make_schedule
from npdiff.verify import doctor
from npdiff.verify.floor import floor_by_t, recipe_floor
from npdiff.verify.oracle import Moons


def moons(n=20_000):
    return fresh_data(MOONS, 0, n)


def findings(recipe, sampling=Sampling()):
    """The names of the checks that find something in a recipe of the moons."""
    return [record.what for record in doctor.diagnose(recipe, sampling, moons) if record.finding]


@pytest.mark.slow
def test_the_two_recipes_of_the_moons():
    assert findings(MOONS) == []
    assert findings(TEXTBOOK_MOONS) == ["signal in x_T", "mean of samples"]
    assert findings(replace(TEXTBOOK_MOONS, schedule="rescaled_linear")) == []
    assert findings(replace(TEXTBOOK_MOONS, num_train_timesteps=1000)) == []


def test_every_fault_at_once():
    recipe = replace(TEXTBOOK_MOONS, model=mlp.Config(time_dim=2))
    sampling = Sampling(sampler="naive_skip", steps=20, timestep_spacing="leading", clip=1.0, guidance=2.0)
    records = doctor.diagnose(recipe, sampling, moons)
    assert len(records) == 9
    for record in records:
        sound = record.what in ("amplification", "best loss")
        assert (record.finding is None) == (record.advice is None) == sound


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
    T, x0 = recipe.num_train_timesteps, np.zeros((4, 2))
    schedule = make_schedule(recipe.schedule, T)
    alpha_bar = schedule.alpha_bar[-1]
    record = doctor.terminal_signal(recipe, Sampling(), x0)
    assert f" {prior_kl(x0, schedule):.3g} nats per dimension" in record.number
    assert (f"alpha_bar[{T}] = {alpha_bar:.3g} leaves signal in x_T ({100 * alpha_bar ** 0.5:.0f}% of x_0's "
            "size)") in record.finding
    assert doctor.signal_left(recipe, Sampling()) == record.finding
    assert "--schedule rescaled_linear (alpha_bar[T] = " in record.advice
    # advised only where it helps
    assert ("--num-train-timesteps 1000" in record.advice) == (recipe.schedule == "linear")
    assert doctor.terminal_signal(recipe, Sampling(start="data"), x0).finding is None


@pytest.mark.parametrize("recipe", [MOONS, SHAPES, FASHION])
def test_no_signal_left(recipe):
    assert doctor.terminal_signal(recipe, Sampling(), np.zeros((4, 2))).finding is None


@pytest.mark.parametrize("T", [2, 3, 5, 10, 50, 200, 2000])
def test_what_is_advised_against_signal_helps_at_every_length(T):
    recipe = replace(TEXTBOOK_MOONS, num_train_timesteps=T)
    assert bool(doctor.signal_left(recipe, Sampling())) == (T < 1000)
    assert doctor.signal_left(replace(recipe, schedule="rescaled_linear"), Sampling()) is None


def test_timesteps():
    for spacing in TIMESTEP_SPACINGS:
        for steps in (None, 200, 20):
            record = doctor.timesteps(MOONS, Sampling(steps=steps, timestep_spacing=spacing))
            # with 20 steps leading starts at 191, where alpha_bar is still only 7e-5
            assert record.finding is None
    schedule = MOONS.make_schedule()
    leading = Sampling(steps=101, timestep_spacing="leading")
    record = doctor.timesteps(MOONS, leading)
    assert "at t = 101 " in record.number and "the last from t = 1 " in record.number
    first, end = schedule.alpha_bar[101], schedule.alpha_bar[200]
    assert "starts at t = 101, " in record.finding
    assert f"alpha_bar is {first:.3g}, not {end:.3g}" in record.finding
    assert "trailing" in record.advice
    trailing = doctor.timesteps(MOONS, Sampling(steps=20))
    assert f"the last from t = 10 (noise {(1 - schedule.alpha_bar[10]) ** 0.5:.2g})" in trailing.number
    assert doctor.timesteps(MOONS, replace(leading, start="data")).finding is None


COSINE = replace(MOONS, schedule="cosine", num_train_timesteps=1000)
DETERMINISTIC = ("ddim", "heun", "dpm_solver_pp")


def test_amplification_of_the_first_jump():
    """The formula of the docstring, for every prediction type."""
    for recipe in (COSINE, MOONS, replace(MOONS, schedule="linear"), replace(MOONS, schedule="karras")):
        schedule = recipe.make_schedule()
        for steps in (5, 20, recipe.num_train_timesteps):
            for prediction_type in PREDICTION_TYPES:
                changed = replace(recipe, prediction_type=prediction_type)
                (t, s), *_ = Sampling(steps=steps).jumps(changed)
                (a_t, sigma_t), (a_s, sigma_s) = schedule.scales(t), schedule.scales(s)
                divisor = {"epsilon": a_t, "sample": sigma_t, "v_prediction": 1,
                           "flow_prediction": a_t + sigma_t}
                turn = abs(sigma_s * a_t - a_s * sigma_t)
                for name in ("ddim", "dpm_solver_pp"):
                    first, _ = doctor.amplified(changed, Sampling(name, steps))
                    assert first == pytest.approx(turn / divisor[prediction_type], rel=1e-6)


def test_amplification_of_known_settings(monkeypatch):
    """20 jumps: 1,579 on cosine from t = 1,000, and 2.4 from where sampling begins, t = 980; at most 1.2
    where alpha_bar falls slowly. Clipping limits the error, fresh noise replaces it.
    """
    from_T = Sampling("ddim", 20)
    monkeypatch.setattr(
        Sampling, "jumps", lambda self, recipe: time_pairs(recipe.num_train_timesteps, self.steps))
    first, last = doctor.amplified(COSINE, from_T)
    assert first == pytest.approx(1579, abs=1) and 0.9 * first < last < first
    assert doctor.amplified(COSINE, Sampling("ddim"))[0] == pytest.approx(30.6, abs=0.1)
    assert doctor.amplified(COSINE, Sampling())[1] < 0.1 < 30 < doctor.amplified(COSINE, Sampling("ddim"))[1]
    # x0 moves by no more than clip, and x_s by a_s times that
    alpha_bar = COSINE.make_schedule().alpha_bar[950]
    first, _ = doctor.amplified(COSINE, Sampling("ddim", 20, clip=1.0))
    assert first * doctor.ERROR == pytest.approx(alpha_bar ** 0.5, rel=0.01)
    monkeypatch.undo()
    assert from_T.jumps(COSINE)[:2] == [(980, 931), (931, 882)]
    assert max(doctor.amplified(COSINE, from_T)) == pytest.approx(2.4, abs=0.1)
    for schedule in ("linear", "rescaled_linear", "sigmoid"):
        for name in (*DETERMINISTIC, "ancestral"):
            recipe = replace(MOONS, schedule=schedule, num_train_timesteps=1000)
            assert max(doctor.amplified(recipe, Sampling(name, 20))) < 1.2
    for prediction_type in ("sample", "v_prediction", "flow_prediction"):
        recipe = replace(COSINE, prediction_type=prediction_type)
        for name in (*DETERMINISTIC, "ancestral"):
            assert max(doctor.amplified(recipe, Sampling(name, 20))) < 0.1


def smooth_field(seed):
    """A smooth random function of (x, t) -> (n, 2), of mean square 1: waves with random directions."""
    rng = np.random.default_rng(seed)
    directions, speed, phase = rng.standard_normal((2, 64)), rng.standard_normal(64), rng.uniform(0, 6.28, 64)
    heights = rng.standard_normal((64, 2)) / 32 ** 0.5
    return lambda x, t: np.cos(x @ directions + 4 * speed * t + phase) @ heights


def harm(recipe, sampling, n=150):
    """The energy distance to fresh data of the exact denoiser's samples; the same with an error of ERROR."""
    schedule = recipe.make_schedule()
    exact, error = Moons().predict(schedule, recipe.prediction_type), smooth_field(0)
    pairs, fresh, distances = sampling.jumps(recipe), moons(1000), []
    for size in (0, doctor.ERROR):
        rng = np.random.default_rng(1)

        def noise(t):
            return rng.standard_normal((n, 2))

        def predict(x, t):
            return exact(x, t) + size * error(x, t / schedule.T)

        denoise = to_x0_eps(predict, schedule, recipe.prediction_type, sampling.clip)
        run = SAMPLERS[sampling.sampler]
        *_, (_, x) = run(denoise, noise(None), schedule, noise, pairs, **sampling.options(recipe))
        distances.append(energy_distance(x, fresh))
    return distances


@pytest.mark.parametrize(
    "recipe, sampling",
    [
        (replace(COSINE, num_train_timesteps=20), Sampling("ddim", 10)),
        (replace(COSINE, num_train_timesteps=20), Sampling("ddim")),
        (replace(COSINE, num_train_timesteps=20), Sampling("dpm_solver_pp")),
    ],
)
def test_an_amplified_error_ruins_samples_and_every_cure_helps(recipe, sampling):
    record = doctor.amplification(recipe, sampling)
    exact, wrong = harm(recipe, sampling)
    assert record.finding and wrong > 5 * exact
    cures = doctor.cures(recipe, sampling)
    assert len(cures) >= 2 and record.advice == " or ".join(cures)
    for cure in cures:
        changed = follow(cure, recipe, sampling)
        assert doctor.amplification(*changed).finding is None
        assert harm(*changed)[1] < 0.25 * wrong


def follow(advice, recipe, sampling):
    """The recipe and the sampling that the flags in an advice lead to."""
    if advice == "no --clip":
        return recipe, replace(sampling, clip=None)
    for name, value in re.findall(r"--([a-z-]+) ([\w.]+)", advice):
        name = name.replace("-", "_")
        target = sampling if hasattr(sampling, name) and name != "schedule" else recipe
        kind = {"steps": int, "num_train_timesteps": int, "clip": float, "guidance": float}.get(name, str)
        changed = replace(target, **{name: kind(value)})
        recipe, sampling = (recipe, changed) if target is sampling else (changed, sampling)
    return recipe, sampling


@pytest.mark.parametrize("schedule", sorted(set(SCHEDULES) - {"straight", "zero_snr_linear"}))
def test_no_advice_leads_into_amplification(schedule):
    """Every alternative of every advice, followed as it stands. The two other schedules refuse epsilon."""
    x0, followed = moons(500), 0
    for T, sampler, spacing, clip in itertools.product(
        (10, 50, 200), ("ddim", "ancestral", "naive_skip"), ("leading", "trailing"), (None, 1.0)
    ):
        recipe = replace(MOONS, schedule=schedule, num_train_timesteps=T)
        sampling = Sampling(sampler, 5, spacing, clip=clip)
        records = [
            *(check(recipe, sampling)
              for check in (doctor.starting_signal, doctor.timesteps, doctor.amplification, doctor.sampler)),
            *(check(recipe, sampling, x0) for check in (doctor.sample_mean, doctor.clipping)),
        ]
        for record in records:
            for advice in record.advice.split(" or ") if record.advice else ():
                assert doctor.amplification(*follow(advice, recipe, sampling)).finding is None
                followed += 1
    assert followed > 30


def test_what_begins_too_early_is_not_sent_into_amplification():
    """From T, cosine with 10 jumps multiplies an error by 56. So this is advised together with a cure."""
    recipe = replace(COSINE, num_train_timesteps=20)
    leading = Sampling("ddim", steps=10, timestep_spacing="leading")
    assert doctor.amplification(recipe, leading).finding is None
    advice = doctor.timesteps(recipe, leading).advice
    assert advice.startswith("--timestep-spacing trailing, which begins at t = 20, and --")
    on_the_way = doctor.timesteps(COSINE, replace(leading, steps=501)).advice
    assert on_the_way.startswith("--timestep-spacing trailing, which begins at t = 980")


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_a_shipped_recipe_is_warned_of_only_for_signal(recipe):
    """Each as its own pictures are sampled, and with the samplers and steps that the README names."""
    left = doctor.signal_left(recipe, Sampling())
    assert bool(left) == (recipe in (TEXTBOOK_MOONS, LAB_FASHION, LECTURE_UNET))
    for sampling in (Sampling(), Sampling("dpm_solver_pp", 15), Sampling("ddim", 20), Sampling("heun", 10)):
        said = doctor.warnings(recipe, sampling)
        assert len(said) == bool(left) and all(sentence.startswith(left) for sentence in said)


def test_warnings_are_the_findings_that_need_no_data():
    recipe = replace(TEXTBOOK_MOONS, model=mlp.Config(time_dim=2))
    sampling = Sampling(sampler="naive_skip", steps=20, timestep_spacing="leading", guidance=2.0)
    said = doctor.warnings(recipe, sampling)
    words = ("leaves signal", "starts at t = 191", "wrong on purpose", "takes no labels", "look more alike")
    assert len(said) == len(words)
    for sentence, word in zip(said, words, strict=True):
        assert word in sentence and "; change: " in sentence and "\n" not in sentence
    assert doctor.warnings(COSINE, Sampling("ddim", 20)) == []
    (only,) = doctor.warnings(replace(COSINE, num_train_timesteps=20), Sampling("ddim"))
    assert "moves the samples by 0.29 standard deviations: it is multiplied by 31 in the jump" in only
    assert doctor.warnings(MOONS, Sampling(steps=101, timestep_spacing="leading"))
    assert doctor.warnings(replace(SHAPES, label_dropout=0.0), Sampling(guidance=2.0))


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
    """Real samples from real noise, with the exact denoiser of Gaussian data in its usual form,
    E[eps | x_t] = sigma (covariance of x_t)^-1 (x_t - a mean).
    """
    recipe = replace(TEXTBOOK_MOONS, num_train_timesteps=40, schedule="linear")
    schedule = make_schedule(recipe.schedule, recipe.num_train_timesteps)
    n, rng = 40_000, np.random.default_rng(0)
    pairs = time_pairs(schedule.T, sampling.steps, sampling.timestep_spacing)

    def predict(x, t):
        alpha_bar = schedule.alpha_bar[t]
        precision = np.linalg.inv(alpha_bar * GAUSSIAN_COVARIANCE + (1 - alpha_bar) * np.eye(2))
        return (1 - alpha_bar) ** 0.5 * (x - alpha_bar ** 0.5 * GAUSSIAN_MEAN) @ precision

    def noise(t):
        return rng.standard_normal((n, 2))

    x = rng.standard_normal((n, 2))
    if sampling.start == "data":
        x0 = rng.multivariate_normal(GAUSSIAN_MEAN, GAUSSIAN_COVARIANCE, n)
        x = q_sample(x0, pairs[0][0], x, schedule)
    run, denoise = SAMPLERS[sampling.sampler], to_x0_eps(predict, schedule)
    *_, (_, x) = run(denoise, x, schedule, noise, pairs, **sampling.options(recipe))
    variances, axes = np.linalg.eigh(GAUSSIAN_COVARIANCE)
    mean = axes @ doctor.expected_mean(recipe, sampling, GAUSSIAN_MEAN @ axes, variances)
    assert (abs(x.mean(0) - mean) < 4 * x.std(0) / n ** 0.5).all()
    assert np.linalg.norm(mean - GAUSSIAN_MEAN) > 0.1


@pytest.mark.parametrize("name", sorted(set(SAMPLERS) - {"naive_skip"}))
def test_only_the_start_shifts_the_mean(name):
    mean, variances = np.array([2.0, -1.0, 0.5]), np.array([1.5, 0.1, 0.0])

    def shift(sampling):
        return abs(doctor.expected_mean(TEXTBOOK_MOONS, sampling, mean, variances) - mean)

    for sampling in (
        Sampling(sampler=name, steps=7, eta=0.3 if name == "ddim" else 0.0),
        Sampling(sampler=name, steps=7, timestep_spacing="leading"),
    ):
        assert shift(sampling)[:2].min() > 1e-3
        assert shift(replace(sampling, start="data")).max() < 1e-12


def test_principal_axes():
    x0 = np.random.default_rng(0).standard_normal((500, 3)) @ [[1, 2, 0], [0, 1, 3], [0, 0, 1]] + [1, 2, 3]
    mean, axes, variances = doctor.principal_axes(x0)
    np.testing.assert_allclose(mean, x0.mean(0))
    np.testing.assert_allclose(axes @ np.diag(variances) @ axes.T, np.cov(x0.T, bias=True))
    # rank 4: rounding would make some variances negative
    _, _, variances = doctor.principal_axes(np.random.default_rng(0).standard_normal((5, 30)))
    assert variances.min() >= 0


def test_mean_of_samples_of_the_textbook():
    """A textbook's DDPM chapter: two moons, T = 200, betas 1e-4..0.02, an 18-128-128-2 network.

    With the perfect denoiser of the moons the samples' mean is (0.60, 0.39). The Gaussian approximation comes
    near it.
    """
    x0 = moons(200_000)
    mean, axes, variances = doctor.principal_axes(x0)
    samples = axes @ doctor.expected_mean(TEXTBOOK_MOONS, Sampling(), mean @ axes, variances)
    assert samples == pytest.approx([0.60, 0.39], abs=0.03)
    off = (((samples - mean) ** 2).sum() / x0.var(0).sum()) ** 0.5
    record = doctor.sample_mean(TEXTBOOK_MOONS, Sampling(), x0)
    assert record.number.startswith(
        f"({samples[0]:.3f}, {samples[1]:.3f}), the data's ({mean[0]:.3f}, {mean[1]:.3f}): "
        f"{off:.2g} standard deviations off"
    )
    assert "--schedule rescaled_linear, which leaves" in record.advice
    assert doctor.sample_mean(MOONS, Sampling(), x0).finding is None


@pytest.mark.parametrize(
    "recipe, sampling, names",
    [
        (TEXTBOOK_MOONS, Sampling(), ["--schedule rescaled_linear"]),
        (MOONS, Sampling(steps=101, timestep_spacing="leading"), ["--timestep-spacing trailing"]),
        (
            MOONS,
            Sampling(steps=2, timestep_spacing="leading"),
            ["--timestep-spacing trailing", "--prediction-type v_prediction"],
        ),
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
def test_what_is_advised_about_the_mean_corrects_it(recipe, sampling, names):
    x0 = moons() + 5            # far from 0 the last case, too, shifts enough to be found
    record = doctor.sample_mean(recipe, sampling, x0)
    flags, *changed = doctor.with_the_right_mean(recipe, sampling)
    assert record.finding and flags == names and record.advice.startswith(" and ".join(names))
    assert doctor.sample_mean(*changed, x0).finding is None


def test_mean_of_samples_of_images_is_their_brightness():
    x0 = 0.3 * np.random.default_rng(0).standard_normal((50, 1, 4, 4)) + 2
    assert f"the data's brightness {x0.mean():.3f}" in doctor.sample_mean(SHAPES, Sampling(), x0).number


def test_embedding_distances_depend_on_the_gap_alone():
    T, time_dim, max_period = 60, 16, 1000.0
    e = sinusoidal_embedding(np.arange(1, T + 1), time_dim, max_period, np.float64)
    distance = doctor.embedding_distances(T, time_dim, max_period)
    assert distance.shape == (T - 1,)
    for i in range(T):
        for j in range(i):
            apart = np.linalg.norm(e[i] - e[j]) / 8 ** 0.5
            assert apart == pytest.approx(distance[i - j - 1], abs=1e-12)


def test_colliding_embeddings():
    """The only frequency, 1, makes seven turns in 44 steps (14 pi = 43.98): t and t + 44 are almost the same.

    So are t and t + 710 (226 pi = 709.9999).
    """
    one_frequency = replace(MOONS, model=mlp.Config(time_dim=2))
    for T, gap, distance in [(200, 44, 2 * abs(np.sin(22))), (1000, 710, 2 * abs(np.sin(355)))]:
        record = doctor.time_embedding(replace(one_frequency, num_train_timesteps=T))
        assert f"t and t + {gap}, {distance:.2g}" in record.number
        assert f"timesteps {gap} apart" in record.finding
        assert "time_dim 32, max_period 10000" in record.advice
    assert doctor.time_embedding(replace(MOONS, model=mlp.Config(time_dim=32, max_period=1.0))).finding
    assert doctor.time_embedding(replace(one_frequency, num_train_timesteps=2)).finding is None


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_sound_embeddings(recipe):
    assert doctor.time_embedding(recipe).finding is None


def test_the_advised_embedding_is_sound_at_every_length():
    distance = doctor.embedding_distances(4000, *doctor.SOUND_EMBEDDING)
    assert distance[1:].min() > distance[0]


def test_clipping():
    x0 = np.array([[-3.01, 1.1], [1.0, 0.0]])
    record = doctor.clipping(MOONS, Sampling(clip=1.0), x0)
    assert "reaches 3.01" in record.number
    assert record.finding.startswith("50.00%") and record.advice == "--clip 3.1 or no --clip"
    for clip in (3.1, None):
        assert doctor.clipping(MOONS, Sampling(clip=clip), x0).finding is None


def test_guidance():
    no_dropout = replace(SHAPES, label_dropout=0.0)
    for w in (0.0, 2.0):
        record = doctor.guidance(no_dropout, Sampling(guidance=w))
        assert "not trained for" in record.finding and record.advice == "label_dropout 0.1, or --guidance 1"
    assert "takes no labels" in doctor.guidance(MOONS, Sampling(guidance=2.0)).finding
    for recipe, w in [(SHAPES, 2.0), (SHAPES, 1.0), (no_dropout, 1.0), (MOONS, 1.0)]:
        assert doctor.guidance(recipe, Sampling(guidance=w)).finding is None


@pytest.mark.slow
def test_best_loss():
    record = doctor.best_loss(TEXTBOOK_MOONS)
    by_t = floor_by_t(Moons(), make_schedule("linear", 200))[1:]
    tenths = " ".join(f"{tenth.mean():.3f}" for tenth in by_t.reshape(10, 20))
    assert record.number.startswith("0.455, ") and record.number.endswith(tenths)
    assert doctor.best_loss(MOONS).number.startswith("0.296, ")
    assert "not known, as the distribution of shapes is not known" in doctor.best_loss(SHAPES).number


@pytest.mark.slow
@pytest.mark.parametrize(
    "prediction_type, loss_weight",
    [("epsilon", "simple"), ("sample", "vlb"), ("v_prediction", "min_snr"), ("flow_prediction", "simple")],
)
def test_best_loss_against_monte_carlo(prediction_type, loss_weight):
    """The loss of the oracle in the place of the network, on draws as training makes them."""
    recipe = replace(MOONS, schedule="linear", prediction_type=prediction_type, loss_weight=loss_weight)
    schedule, oracle, n, rng = make_schedule("linear", 200), Moons(), 4000, np.random.default_rng(0)
    t, x0, noise = rng.integers(1, 201, n), oracle.sample(n, rng), rng.standard_normal((n, 2))
    x_t = q_sample(x0, t, noise, schedule)
    best_x0 = oracle.x0(x_t, schedule.alpha_bar[t])
    best = prediction_target(best_x0, t, eps_from_x0(x_t, t, best_x0, schedule), schedule, prediction_type)
    target = prediction_target(x0, t, noise, schedule, prediction_type)
    weight = loss_weights(schedule, prediction_type, loss_weight)[t]
    loss = weight * ((best - target) ** 2).mean(1)
    assert recipe_floor(recipe)[1:].mean() == pytest.approx(loss.mean(), abs=4 * loss.std() / n ** 0.5)


def test_report():
    sound, wrong = doctor.Record("what", "1"), doctor.Record("that", "2", "is wrong", "do this")
    head, *lines, foot = doctor.report(MOONS, [sound, wrong])
    assert head == "moons: schedule sigmoid, T = 200, prediction_type epsilon" and foot == "1 finding"
    assert [line.split() for line in lines] == [
        ["what", "1"],
        ["that", "2"],
        ["wrong:", "is", "wrong"],
        ["change:", "do", "this"],
    ]
    assert list(doctor.report(MOONS, [sound]))[-1] == "nothing wrong was found"
    assert list(doctor.report(MOONS, [wrong, wrong]))[-1] == "2 findings"


@pytest.mark.parametrize(
    "recipe, faults",
    [
        ("moons", 0),
        ("textbook-moons", 2),
        ("shapes", 0),
        pytest.param("fashion", 0, marks=needs_data),
        pytest.param("lab-fashion", 2, marks=needs_data),
        pytest.param("lecture-unet", 1, marks=needs_data),
    ],
)
def test_command(recipe, faults, monkeypatch, capsys):
    monkeypatch.setenv("NPDIFF_DATA", str(REAL))
    main(["doctor", recipe])
    out = capsys.readouterr().out
    assert out.startswith(f"{recipe}: schedule ") and out.count("wrong:") == out.count("change:") == faults
    assert out.splitlines()[-1].startswith(str(faults or "nothing wrong"))


@pytest.mark.slow
def test_command_tries_other_settings(capsys):
    def faults(*arguments):
        main(["doctor", "textbook-moons", *arguments])
        return capsys.readouterr().out.count("wrong:")

    assert faults("--schedule", "rescaled_linear") == 0
    assert faults("--num-train-timesteps", "1000") == 0
    assert faults("--start", "data") == 0
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
    assert stop.value.code == 2 and captured.out == ""
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
    assert message in captured.err


def test_every_schedule_is_diagnosed():
    for name in SCHEDULES:
        recipe = replace(MOONS, schedule=name, num_train_timesteps=20, prediction_type="v_prediction")
        head, *lines = doctor.report(recipe, doctor.diagnose(recipe, Sampling(steps=5), lambda n: moons(50)))
        assert name in head and "nan" not in " ".join(lines)
