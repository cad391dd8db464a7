"""The doctor: what is wrong with a recipe and a way of sampling it, before any training, and what to change.

Each check is a function that returns a Record; diagnose runs them all, report makes lines of them. No network
is needed: everything follows from the schedule, the sampler, and some of the data.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from npdiff.diffusion import prior_kl
from npdiff.models import is_image
from npdiff.nn import sinusoidal_embedding
from npdiff.samplers import SAMPLERS, time_pairs, to_x0_eps
from npdiff.schedule import make_schedule
from npdiff.verify.floor import recipe_floor

# an alpha_bar above this at the start of sampling: x still holds more than 3% of x_0's size
SIGNAL_LEFT = 1e-3
# of the data's standard deviation: a sample mean farther than this from the data's is a finding
SHIFT = 0.05
POINTS, IMAGES = 20_000, 1000       # how much data is drawn


class Record(NamedTuple):
    """What one check saw; if something is wrong, what it is and what to change."""
    what: str
    number: str
    finding: str | None = None
    advice: str | None = None


def diagnose(recipe, sampling, draw):
    """All checks of a recipe that is to be sampled so: a list of Records.

    draw(n) -> x0 (n, ...) gives fresh data of the recipe. Raises ValueError for settings that no sampler of
    this schedule takes.
    """
    x0 = np.asarray(draw(IMAGES if is_image(recipe.model) else POINTS), np.float64)
    return [
        terminal_signal(recipe, sampling, x0),
        timesteps(recipe, sampling),
        sampler(recipe, sampling),
        sample_mean(recipe, sampling, x0),
        time_embedding(recipe),
        clipping(sampling, x0),
        guidance(recipe, sampling),
        best_loss(recipe),
    ]


def report(recipe, records):
    """The lines to print: one for each check, and below it what is wrong and what to change."""
    name, T = recipe.name, recipe.num_train_timesteps
    yield f"{name}: schedule {recipe.schedule}, T = {T}, prediction_type {recipe.prediction_type}"
    for what, number, finding, advice in records:
        yield f"  {what:18}{number}"
        if finding:
            yield f"    wrong:          {finding}"
            yield f"    change:         {advice}"
    findings = sum(record.finding is not None for record in records)
    yield f"{findings} finding{'s' * (findings > 1)}" if findings else "nothing wrong was found"


def signal_left(recipe, sampling):
    """A sentence if x_T is not pure noise although sampling starts from pure noise; else None."""
    T, alpha_bar = recipe.num_train_timesteps, recipe.make_schedule().alpha_bar[-1]
    if alpha_bar <= SIGNAL_LEFT or sampling.start == "data":
        return None
    return (f"alpha_bar[{T}] = {alpha_bar:.3g} leaves signal in x_T ({alpha_bar ** 0.5:.0%} of x_0's size), "
            "but sampling starts from N(0, I): expect biased samples")


def terminal_signal(recipe, sampling, x0):
    """How much of the data x0 (N, ...) is left in x_T, which should be noise."""
    schedule = recipe.make_schedule()
    alpha_bar = schedule.alpha_bar[-1]
    number = (
        f"alpha_bar[{schedule.T}] = {alpha_bar:.3g}, SNR {schedule.snr[-1]:.3g}; "
        f"prior term of the bound, E KL(q(x_T | x_0) || N(0, I)): {prior_kl(x0, schedule):.3g} nats per "
        f"dimension"
    )
    finding = signal_left(recipe, sampling)
    if finding is None:
        return Record("signal in x_T", number)
    cures = {
        "--schedule rescaled_linear": ("rescaled_linear", schedule.T),
        "--num-train-timesteps 1000": (recipe.schedule, 1000),
    }
    left = {name: make_schedule(*cure).alpha_bar[-1] for name, cure in cures.items()}
    advice = " or ".join(
        f"{name} (alpha_bar[T] = {alpha_bar:.1e})"
        for name, alpha_bar in left.items()
        if alpha_bar <= SIGNAL_LEFT
    )
    return Record("signal in x_T", number, finding, advice)


def timesteps(recipe, sampling):
    """At which timestep sampling starts from noise, and how much noise the last jump has to remove at once.
    """
    schedule = recipe.make_schedule()
    pairs = time_pairs(schedule.T, sampling.steps, sampling.timestep_spacing)
    (first, _), (last, _) = pairs[0], pairs[-1]
    start = "N(0, I)" if sampling.start == "noise" else "data with noise"
    number = (
        f"from {start} at t = {first} (alpha_bar {schedule.alpha_bar[first]:.3g}) in {len(pairs)} jumps, "
        f"the last from t = {last} (noise {schedule.sigma[last]:.2g})"
    )
    if first == schedule.T or sampling.start == "data":
        return Record("timesteps", number)
    return Record(
        "timesteps",
        number,
        f"N(0, I) is taken for x_{first}, which holds more of x_0 than x_{schedule.T}: "
        f"alpha_bar is {schedule.alpha_bar[first]:.3g}, not {schedule.alpha_bar[-1]:.3g}",
        f"--timestep-spacing trailing, which begins at t = {schedule.T}",
    )


def sampler(recipe, sampling):
    """Whether the sampler is right for the timesteps that it leaves out."""
    pairs = time_pairs(recipe.num_train_timesteps, sampling.steps, sampling.timestep_spacing)
    skipping = sum(t - s > 1 for t, s in pairs)
    number = ", ".join(
        [sampling.sampler, *(f"{name} {value}" for name, value in sampling.options(recipe).items())]
    )
    if sampling.sampler != "naive_skip" or not skipping:
        return Record("sampler", number)
    return Record(
        "sampler",
        number,
        f"wrong on purpose: {skipping} of its {len(pairs)} jumps take away one timestep's noise, and go on "
        f"as if it were all",
        "--sampler ancestral, or ddim",
    )


def sample_mean(recipe, sampling, x0):
    """The mean of the samples of a perfect denoiser, beside the data's.

    It is exact if the data is Gaussian with the mean and covariance of x0 (N, ...).
    """
    mean, axes, variances = principal_axes(x0.reshape(len(x0), -1))

    def shift(recipe, sampling):
        return axes @ (expected_mean(recipe, sampling, mean @ axes, variances) - mean @ axes)      # (D,)

    def size(off):
        return float(np.linalg.norm(off) / variances.sum() ** 0.5)

    def place(point):
        return (
            f"({', '.join(f'{coordinate:.3f}' for coordinate in point)})"
            if len(point) < 4
            else f"brightness {point.mean():.3f}"
        )

    off = shift(recipe, sampling)
    number = (f"{place(mean + off)}, the data's {place(mean)}: {size(off):.2g} standard deviations off "
              "(perfect denoiser of Gaussian data, no clipping or guidance)")
    if size(off) <= SHIFT:
        return Record("mean of samples", number)
    names, *cured = cure_of_the_mean(recipe, sampling)
    return Record("mean of samples", number, "however good the network, the samples' mean is not the data's",
                  f"{' and '.join(names)}, which leaves {size(shift(*cured)):.1g} standard deviations")


def principal_axes(x0):
    """The principal axes of data x0 (N, D): mean (D,), axes (D, D) in columns, variances along them (D,)."""
    mean = x0.mean(0)
    variances, axes = np.linalg.eigh((x0 - mean).T @ (x0 - mean) / len(x0))
    return mean, axes, variances.clip(0)


def expected_mean(recipe, sampling, mean, variances):
    """The mean of the samples that a perfect denoiser gives for data N(mean, diag(variances)): (D,), exact.

    mean and variances are (D,). Clipping and guidance are left out. x_t and x_0 are jointly normal, so
        E[x_0 | x_t] = mean + a variance / (alpha_bar variance + 1 - alpha_bar) (x_t - a mean)
    Every step of every sampler is then affine in x and in the noise. The mean of an affine function is the
    function of the means, so the sampler is run once, on the mean of its start, without noise. At x_t = a
    mean the answer is mean, and a right sampler goes on to x_s = a_s mean. So what is wrong in the end is the
    mean of the start.
    """
    schedule = recipe.make_schedule()
    pairs = time_pairs(schedule.T, sampling.steps, sampling.timestep_spacing)

    def predict(x, t):
        a, alpha_bar = float(schedule.a[t]), float(schedule.alpha_bar[t])
        return mean + a * variances / (alpha_bar * variances + 1 - alpha_bar) * (x - a * mean)

    first, _ = pairs[0]
    start = schedule.a[first] * mean if sampling.start == "data" else 0 * mean
    *_, (_, x) = SAMPLERS[sampling.sampler](
        to_x0_eps(predict, schedule, "sample"),
        start,
        schedule,
        lambda t: 0.0,
        pairs,
        **sampling.options(recipe),
    )
    return x


def cure_of_the_mean(recipe, sampling):
    """The changes that bring the samples' mean to the data's: their names, the recipe, the sampling."""
    names = []
    if sampler(recipe, sampling).finding:
        names, sampling = [*names, "--sampler ancestral"], replace(sampling, sampler="ancestral")
    if timesteps(recipe, sampling).finding:
        names, sampling = (
            [*names, "--timestep-spacing trailing"],
            replace(sampling, timestep_spacing="trailing"),
        )
    if signal_left(recipe, sampling):
        names, recipe = [*names, "--schedule rescaled_linear"], replace(recipe, schedule="rescaled_linear")
    if not names:
        names = ["--schedule zero_snr_linear --prediction-type v_prediction"]
        recipe = replace(recipe, schedule="zero_snr_linear", prediction_type="v_prediction")
    return names, recipe, sampling


# time_dim and max_period that tell timesteps apart up to T = 4000 and beyond
SOUND_EMBEDDING = (32, 10000.0)


def time_embedding(recipe):
    """Whether the network can tell timesteps apart by their embeddings.

    All embeddings have the length sqrt(time_dim / 2), and |e(t) - e(t')| depends on t - t' alone. It is a
    finding if two timesteps, two or more apart, have embeddings that are closer than those of neighbours: a
    network is smooth, so it would take them for more alike than t and t + 1, though their noise differs more.
    (The first frequency is 1, so every embedding tells neighbours apart.)
    """
    distance = embedding_distances(recipe.num_train_timesteps, recipe.model.time_dim, recipe.model.max_period)
    number = f"neighbours {distance[0]:.2g} of the embedding's length apart"
    if len(distance) == 1:
        return Record("time embedding", number)
    gap = 2 + int(np.argmin(distance[1:]))
    number += f", the closest others, t and t + {gap}, {distance[gap - 1]:.2g}"
    if distance[gap - 1] >= distance[0]:
        return Record("time embedding", number)
    time_dim, max_period = SOUND_EMBEDDING
    return Record(
        "time embedding",
        number,
        f"timesteps {gap} apart look more alike to the network than neighbours",
        f"time_dim {time_dim}, max_period {max_period:g}",
    )


def embedding_distances(T, time_dim, max_period):
    """|e(t + gap) - e(t)| / |e(t)| for gap = 1..T-1, (T-1,)."""
    e = sinusoidal_embedding(np.arange(1, T + 1), time_dim, max_period, np.float64)        # (T, time_dim)
    return np.linalg.norm(e[1:] - e[0], axis=1) / np.linalg.norm(e[0])


def clipping(sampling, x0):
    """Whether the data lies within the clipping range."""
    reach = float(abs(x0).max())
    if sampling.clip is None:
        return Record("clipping", f"none; the data reaches {reach:.2f}")
    outside = float((abs(x0) > sampling.clip).mean())
    number = f"x_0 is held in +-{sampling.clip:g}; the data reaches {reach:.2f}"
    if not outside:
        return Record("clipping", number)
    return Record(
        "clipping",
        number,
        f"{outside:.2%} of the data's values lie outside, where no sample can",
        f"--clip {np.ceil(10 * reach) / 10:g}, or none",
    )


def guidance(recipe, sampling):
    """Whether the network was trained for what guidance asks of it."""
    number = f"{sampling.guidance:g}; " + (
        f"{recipe.label_dropout:.0%} of the labels dropped in training" if recipe.conditional else "no labels"
    )
    if sampling.guidance == 1 or recipe.conditional and recipe.label_dropout:
        return Record("guidance", number)
    if not recipe.conditional:
        return Record(
            "guidance", number, f"{recipe.name} takes no labels, and sampling will refuse", "--guidance 1"
        )
    return Record(
        "guidance",
        number,
        "the network is asked for a prediction without labels, and never learned one",
        "label_dropout 0.1, or --guidance 1",
    )


def best_loss(recipe):
    """The Bayes floor: the loss of the best possible network.

    It is not known for data whose distribution is not known.
    """
    floor = recipe_floor(recipe)
    if floor is None:
        return Record(
            "best loss",
            f"not known, as the law of {recipe.data} is not; losses compare only within one schedule",
        )
    tenths = " ".join(f"{part.mean():.3f}" for part in np.array_split(floor[1:], min(10, len(floor) - 1)))
    return Record(
        "best loss", f"{floor[1:].mean():.3f}, the least that any network can reach; by tenth of t: {tenths}"
    )
