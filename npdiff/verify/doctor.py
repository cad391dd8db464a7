"""The doctor finds what is wrong with a configuration before any training, and says what to change.

A check is a function that returns a Record. diagnose makes all checks, report turns them into lines, and
warnings are the findings of those checks that need no data. No network is trained or asked: the schedule, the
sampler and a draw of the data are enough.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from npdiff.diffusion import prior_kl
from npdiff.models import is_image
from npdiff.nn import sinusoidal_embedding
from npdiff.samplers import SAMPLERS, to_x0_eps
from npdiff.verify.amplification import AMPLIFIED, ERROR, POINTS, advise, amplified, cures, in_digits
from npdiff.verify.floor import recipe_floor

SIGNAL_LEFT = 1e-3                  # above this alpha_bar, x_t holds more than 3% of x_0's size
SHIFT = 0.05                        # how far the samples' mean may be off, in standard deviations of the data
IMAGES = 1000                       # how many are drawn; of points POINTS


class Record(NamedTuple):
    """What one check saw. Where something is wrong, also what that is and what to change."""
    what: str
    number: str
    finding: str | None = None
    advice: str | None = None


def diagnose(recipe, sampling, draw):
    """Every check of a recipe and of how it is to be sampled: a list of Records.

    draw(n) -> x0 (n, ...) is fresh data of the recipe. Raises ValueError for settings that no sampler of this
    schedule takes.
    """
    x0 = np.asarray(draw(IMAGES if is_image(recipe.model) else POINTS), np.float64)
    return [
        terminal_signal(recipe, sampling, x0),
        timesteps(recipe, sampling),
        amplification(recipe, sampling),
        sampler(recipe, sampling),
        sample_mean(recipe, sampling, x0),
        time_embedding(recipe),
        clipping(recipe, sampling, x0),
        guidance(recipe, sampling),
        best_loss(recipe),
    ]


def report(recipe, records):
    """The lines to print, one after the other. Each check has one; below a check that found something wrong
    stand what that is and what to change.
    """
    name, T = recipe.name, recipe.num_train_timesteps
    yield f"{name}: schedule {recipe.schedule}, T = {T}, prediction_type {recipe.prediction_type}"
    for what, number, finding, advice in records:
        yield f"  {what:18}{number}"
        if finding:
            yield f"    wrong:          {finding}"
            yield f"    change:         {advice}"
    findings = sum(record.finding is not None for record in records)
    yield f"{findings} finding{'s' * (findings > 1)}" if findings else "nothing wrong was found"


def warnings(recipe, sampling):
    """Everything that is known to be wrong without a look at the data: a list of sentences, one a finding."""
    checks = (starting_signal, timesteps, amplification, sampler, guidance)
    records = [*(check(recipe, sampling) for check in checks), time_embedding(recipe)]
    return [f"{record.finding}; change: {record.advice}" for record in records if record.finding]


def signal_left(recipe, sampling):
    """A sentence if sampling starts from noise although x_T is not pure noise; else None."""
    T, alpha_bar = recipe.num_train_timesteps, recipe.make_schedule().alpha_bar[-1]
    if alpha_bar <= SIGNAL_LEFT or sampling.start == "data":
        return None
    return (f"alpha_bar[{T}] = {alpha_bar:.3g} leaves signal in x_T ({alpha_bar ** 0.5:.0%} of x_0's size), "
            "but sampling starts from N(0, I): expect biased samples")


def terminal_signal(recipe, sampling, x0):
    """How much of the data x0 (N, ...) is left in x_T."""
    schedule = recipe.make_schedule()
    number = (f"alpha_bar[{schedule.T}] = {schedule.alpha_bar[-1]:.3g}, SNR {schedule.snr[-1]:.3g}; "
              "prior term of the bound, E KL(q(x_T | x_0) || N(0, I)): "
              f"{prior_kl(x0, schedule):.3g} nats per dimension")
    return starting_signal(recipe, sampling)._replace(number=number)


def starting_signal(recipe, sampling):
    """Whether sampling starts from noise although x_T is not pure noise."""
    finding, T = signal_left(recipe, sampling), recipe.num_train_timesteps
    if finding is None:
        return Record("signal in x_T", "")
    changes = {"--schedule rescaled_linear": replace(recipe, schedule="rescaled_linear"),
               "--num-train-timesteps 1000": replace(recipe, num_train_timesteps=max(T, 1000))}
    left = {flag: changed.make_schedule().alpha_bar[-1] for flag, changed in changes.items()}
    helping = {f"{flag} (alpha_bar[T] = {left[flag]:.1e})": (changed, sampling)
               for flag, changed in changes.items() if left[flag] <= SIGNAL_LEFT}
    return Record("signal in x_T", "", finding, advise(helping))


def timesteps(recipe, sampling):
    """At which timestep sampling starts, and how much noise the last jump removes."""
    schedule = recipe.make_schedule()
    pairs = sampling.jumps(recipe)
    (first, _), (last, _) = pairs[0], pairs[-1]
    start = "N(0, I)" if sampling.start == "noise" else "data with noise"
    number = (f"from {start} at t = {first} (alpha_bar {schedule.alpha_bar[first]:.3g}) "
              f"in {len(pairs)} jumps, the last from t = {last} (noise {schedule.sigma[last]:.2g})")
    small = schedule.alpha_bar[first] <= SIGNAL_LEFT
    if first == schedule.T or small or sampling.start == "data":
        return Record("timesteps", number)
    finding = (f"sampling starts at t = {first}, and N(0, I) is taken for x_{first}, which holds more of x_0 "
               f"than x_{schedule.T}: alpha_bar is {schedule.alpha_bar[first]:.3g}, "
               f"not {schedule.alpha_bar[-1]:.3g}")
    changed = replace(sampling, timestep_spacing="trailing")
    (start, _), *_ = changed.jumps(recipe)
    advice = {f"--timestep-spacing trailing, which begins at t = {start}": (recipe, changed)}
    return Record("timesteps", number, finding, advise(advice))


def amplification(recipe, sampling):
    """Whether an error in the network's first answer grows on the way to the samples.

    The limit is measured: the exact denoiser of the moons, plus a smooth random error of size ERROR at every
    t, in 50 combinations of schedule, T, steps, sampler and clipping. The energy distance of 500 samples to
    fresh data, divided by that without error, is at most 2 where the number is below 8, 1 to 4 from 8 to 15,
    and 2.5 to 80 from 15 on.
    """
    first, last = amplified(recipe, sampling)
    (t, s), *_ = sampling.jumps(recipe)
    number = (f"an error in the network's answer at t = {t} is multiplied by {in_digits(first)} in the jump "
              f"to t = {s}, by {in_digits(last)} in the samples")
    if last <= AMPLIFIED:
        return Record("amplification", number)
    finding = (f"an error of {ERROR:g} in the network's answer at t = {t} moves the samples by "
               f"{ERROR * last:.2g} standard deviations: it is multiplied by {in_digits(first)} in the jump "
               f"to t = {s}, by {in_digits(last)} in the samples")
    return Record("amplification", number, finding, " or ".join(cures(recipe, sampling)))


def sampler(recipe, sampling):
    """Whether the sampler removes all the noise between the timesteps that it visits."""
    pairs = sampling.jumps(recipe)
    skipping = sum(t - s > 1 for t, s in pairs)
    options = [f"{name} {value}" for name, value in sampling.options(recipe).items()]
    number = ", ".join([sampling.sampler, *options])
    if sampling.sampler != "naive_skip" or not skipping:
        return Record("sampler", number)
    finding = (f"wrong on purpose: {skipping} of its {len(pairs)} jumps remove the noise of one timestep "
               "where they skip several")
    others = {f"--sampler {name}": (recipe, replace(sampling, sampler=name))
              for name in ("ancestral", "ddim")}
    return Record("sampler", number, finding, advise(others))


def sample_mean(recipe, sampling, x0):
    """The mean of the samples, compared with the mean of the data x0 (N, ...).

    The samples are those of a perfect denoiser of Gaussian data with the mean and covariance of x0.
    """
    mean, axes, variances = principal_axes(x0.reshape(len(x0), -1))

    def shift(recipe, sampling):
        along_axes = mean @ axes
        return axes @ (expected_mean(recipe, sampling, along_axes, variances) - along_axes)         # (D,)

    def in_deviations(shift):
        return float(np.linalg.norm(shift) / variances.sum() ** 0.5)

    def in_words(point):
        if len(point) >= 4:
            return f"brightness {point.mean():.3f}"
        return f"({', '.join(f'{coordinate:.3f}' for coordinate in point)})"

    off = shift(recipe, sampling)
    number = (f"{in_words(mean + off)}, the data's {in_words(mean)}: "
              f"{in_deviations(off):.2g} standard deviations off "
              "(perfect denoiser of Gaussian data, no clipping or guidance)")
    if in_deviations(off) <= SHIFT:
        return Record("mean of samples", number)
    flags, *changed = with_the_right_mean(recipe, sampling)
    finding = "even with a perfect network, the samples' mean is not the data's"
    left = in_deviations(shift(*changed))
    advice = f"{' and '.join(flags)}, which leaves {left:.1g} standard deviations"
    return Record("mean of samples", number, finding, advice)


def principal_axes(x0):
    """The principal axes of data x0 (N, D): mean (D,), axes (D, D) in columns, variances along them (D,)."""
    mean = x0.mean(0)
    variances, axes = np.linalg.eigh((x0 - mean).T @ (x0 - mean) / len(x0))
    return mean, axes, variances.clip(0)


def expected_mean(recipe, sampling, mean, variances):
    """The exact mean (D,) of the samples that a perfect denoiser gives, for data N(mean, diag(variances)).

    mean and variances are (D,). Clipping and guidance are left out. The perfect denoiser is derived in
    npdiff.verify.oracle.GaussianMixture.moments; for each coordinate, with a = sqrt(alpha_bar),
        E[x_0 | x_t] = mean + a variance / (alpha_bar variance + 1 - alpha_bar) (x_t - a mean)
    So every step of every sampler is a linear function of x and the noise, plus a constant. The noise has
    mean 0. Therefore the sampler is run once, from the mean of its start, without noise. Where x_t = a mean,
    the answer is mean, and a right sampler goes on to x_s = a_s mean. So only a wrong start, or a sampler
    that is wrong, shifts the mean.
    """
    schedule = recipe.make_schedule()
    pairs = sampling.jumps(recipe)

    def predict(x, t):
        a, alpha_bar = float(schedule.a[t]), float(schedule.alpha_bar[t])
        return mean + a * variances / (alpha_bar * variances + 1 - alpha_bar) * (x - a * mean)

    def no_noise(t):
        return 0.0

    first, _ = pairs[0]
    start = schedule.a[first] * mean if sampling.start == "data" else 0 * mean
    run = SAMPLERS[sampling.sampler]
    denoise = to_x0_eps(predict, schedule, "sample")
    *_, (_, x) = run(denoise, start, schedule, no_noise, pairs, **sampling.options(recipe))
    return x


def with_the_right_mean(recipe, sampling):
    """What to change so that the samples have the data's mean: the flags, and the changed recipe and
    sampling.
    """
    flags = []
    if sampler(recipe, sampling).finding:
        flags.append("--sampler ancestral")
        sampling = replace(sampling, sampler="ancestral")
    if timesteps(recipe, sampling).finding:
        flags.append("--timestep-spacing trailing")
        sampling = replace(sampling, timestep_spacing="trailing")
    if signal_left(recipe, sampling):
        flags.append("--schedule rescaled_linear")
        recipe = replace(recipe, schedule="rescaled_linear")
    if not flags:
        flags.append("--schedule zero_snr_linear --prediction-type v_prediction")
        recipe = replace(recipe, schedule="zero_snr_linear", prediction_type="v_prediction")
    if amplified(recipe, sampling)[1] > AMPLIFIED:
        flags.append("--prediction-type v_prediction")
        recipe = replace(recipe, prediction_type="v_prediction")
    return flags, recipe, sampling


SOUND_EMBEDDING = (32, 10000.0)     # time_dim and max_period that tell timesteps apart, tested to T = 4000


def time_embedding(recipe):
    """Whether the network can tell timesteps apart by their embeddings.

    All embeddings e(t) have the length sqrt(time_dim / 2), and |e(t) - e(t')| depends only on t - t'. Two
    timesteps collide if they are two or more apart, and their embeddings are closer than those of neighbours.
    A network is a smooth function, so to it they are more alike than t and t + 1, though their noise differs
    more. (Every embedding tells neighbours apart: its first frequency is 1.)
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
    finding = f"timesteps {gap} apart look more alike to the network than neighbours"
    return Record("time embedding", number, finding, f"time_dim {time_dim}, max_period {max_period:g}")


def embedding_distances(T, time_dim, max_period):
    """|e(t + gap) - e(t)| / |e(t)| for gap = 1..T-1, (T-1,)."""
    e = sinusoidal_embedding(np.arange(1, T + 1), time_dim, max_period, np.float64)        # (T, time_dim)
    return np.linalg.norm(e[1:] - e[0], axis=1) / np.linalg.norm(e[0])


def clipping(recipe, sampling, x0):
    """Whether all data lies in the range that estimates of x_0 are clipped to."""
    reach = float(abs(x0).max())
    if sampling.clip is None:
        return Record("clipping", f"none; the data reaches {reach:.2f}")
    outside = float((abs(x0) > sampling.clip).mean())
    number = f"x_0 is held in +-{sampling.clip:g}; the data reaches {reach:.2f}"
    if not outside:
        return Record("clipping", number)
    finding = f"{outside:.2%} of the data's values lie outside, where no sample can"
    wider = float(np.ceil(10 * reach) / 10)
    changes = {f"--clip {wider:g}": (recipe, replace(sampling, clip=wider)),
               "no --clip": (recipe, replace(sampling, clip=None))}
    return Record("clipping", number, finding, advise(changes))


def guidance(recipe, sampling):
    """Whether the network was trained without labels too, as guidance needs."""
    dropped = f"{recipe.label_dropout:.0%} of the labels dropped in training"
    labels = dropped if recipe.conditional else "no labels"
    number = f"{sampling.guidance:g}; {labels}"
    if sampling.guidance == 1 or recipe.conditional and recipe.label_dropout:
        return Record("guidance", number)
    if not recipe.conditional:
        finding = f"{recipe.name} takes no labels, and sampling will refuse"
        return Record("guidance", number, finding, "--guidance 1")
    finding = "guidance asks the network for a prediction without a label, which it was not trained for"
    return Record("guidance", number, finding, "label_dropout 0.1, or --guidance 1")


def best_loss(recipe):
    """The Bayes floor: the loss of the best possible network. Known only where the data's distribution is."""
    floor = recipe_floor(recipe)
    if floor is None:
        return Record("best loss", f"not known, as the distribution of {recipe.data} is not known; "
                                   "compare losses only within one schedule")
    tenths = np.array_split(floor[1:], min(10, len(floor) - 1))
    by_tenth = " ".join(f"{tenth.mean():.3f}" for tenth in tenths)
    return Record("best loss", f"{floor[1:].mean():.3f}, the least that any network can reach; "
                               f"by tenth of t: {by_tenth}")
