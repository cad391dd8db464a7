"""How an error in the network's first answer grows on the way to the samples, and what keeps it small."""

from dataclasses import replace

import numpy as np

from npdiff.diffusion import PREDICTION_TYPES
from npdiff.models import is_image
from npdiff.samplers import SAMPLERS, to_x0_eps
from npdiff.sampling import fresh_data

ERROR = 0.01            # an error in the network's answer, as good networks have
AMPLIFIED = 8           # how many times larger it may be in the samples; see doctor.amplification
POINTS = 20_000         # how many draws show how far the data reaches


def amplified(recipe, sampling):
    """How many times larger than itself an error of ERROR in the network's first answer becomes: two floats,
    after the first jump and in the samples.

    The answer is p x_0 + q eps, and it is wrong by e. x_t is given, so by x0_from_prediction the estimate of
    x_0 is wrong, and with it eps = (x_t - a x_0) / sigma:
        error of x0 = -sigma_t e / (q a_t - p sigma_t)      error of eps = a_t e / (q a_t - p sigma_t)
    DDIM jumps to x_s = a_s x0 + sigma_s eps, which is then wrong by
        (sigma_s a_t - a_s sigma_t) e / (q a_t - p sigma_t)
    For epsilon (p = 0, q = 1) this is  (sigma_s - sigma_t a_s / a_t) e.  It is large where one jump makes a
    many times larger, as at the end of cosine: x0 is x_t minus the noise, divided by the tiny a_t. For
    v_prediction it is  (a_s sigma_t - sigma_s a_t) e,  at most e. For sample it is that divided by sigma_t,
    for flow_prediction divided by a_t + sigma_t.

    What follows depends on the sampler: fresh noise takes the place of a part of x_s and of its error. So the
    sampler itself is run, on one number, from x = 0, without noise. The data is N(0, I). There x_t is N(0, I)
    too, the best estimates are x0 = a x_t and eps = sigma x_t, and the best answer is (p a + q sigma) x_t.
    Without an error x stays 0. So x is the error, in standard deviations. Clipping is that of the sampler.
    Guidance is left out.
    """
    schedule = recipe.make_schedule()
    pairs = sampling.jumps(recipe)
    start, _ = pairs[0]

    def predict(x, t):
        a, sigma = schedule.scales(t)
        p, q = PREDICTION_TYPES[recipe.prediction_type](a, sigma)
        return (p * a + q * sigma) * x + ERROR * (t == start)

    run = SAMPLERS[sampling.sampler]
    denoise = to_x0_eps(predict, schedule, recipe.prediction_type, sampling.clip)
    chain = run(denoise, np.zeros(1), schedule, np.zeros_like, pairs, **sampling.options(recipe))
    errors = [float(abs(x[0])) / ERROR for _, x in chain]
    return errors[1], errors[-1]


def cures(recipe, sampling):
    """The changes that keep an error in the network's answer small: a list of flags, each with its number."""
    T = recipe.num_train_timesteps
    more = [replace(sampling, steps=steps) for steps in (10, 20, 50, 100, T)
            if (sampling.steps or T) < steps <= T]
    enough = next((longer.steps for longer in more if amplified(recipe, longer)[1] <= AMPLIFIED), T)
    changes = {
        f"--steps {enough}": (recipe, replace(sampling, steps=enough)),
        f"--sampler ancestral --steps {T}": (recipe, replace(sampling, sampler="ancestral", steps=T)),
        f"--clip {reach(recipe):g}": (recipe, replace(sampling, clip=reach(recipe))),
        "--prediction-type v_prediction in training":
            (replace(recipe, prediction_type="v_prediction"), sampling),
        "--schedule rescaled_linear in training": (replace(recipe, schedule="rescaled_linear"), sampling),
    }
    numbers = {flags: amplified(*changed)[1] for flags, changed in changes.items()}
    return [f"{flags} (then by {in_digits(number)})" for flags, number in numbers.items()
            if number <= AMPLIFIED]


def in_digits(number):
    """Two digits, or all before the point."""
    return f"{number:,.0f}" if number >= 10 else f"{number:.2g}"


def reach(recipe):
    """A number that no value of the data is larger than: 1 for images, for points that of a large draw."""
    x0 = 1.0 if is_image(recipe.model) else fresh_data(recipe, 0, POINTS)
    return float(np.ceil(10 * np.max(abs(x0))) / 10)


def advise(changes):
    """What to change, in words: those changes that amplify no error, else the first and a cure.

    changes holds a recipe and a sampling for each advice.
    """
    sound = [advice for advice, changed in changes.items() if amplified(*changed)[1] <= AMPLIFIED]
    if sound:
        return " or ".join(sound)
    advice, changed = next(iter(changes.items()))
    return f"{advice}, and {cures(*changed)[0]}"
