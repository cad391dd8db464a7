"""Samplers: generators that lead x from noise at t = T to data at t = 0, yielding (t, x) at every stop.

predict(x, t) is a denoiser's answer to x at timestep t (an int), of the prediction_type it was trained for. noise(t) is standard normal noise in the shape of x, given by the caller.
Only operators touch x, so any backend's arrays pass through.
"""

from npdiff.diffusion import posterior_mean, posterior_variance, transition_beta, x0_from_prediction
from npdiff.rng import generator
from npdiff.schedule import make_schedule


def time_pairs(T, steps=None):
    """The jumps (t, s) of a sampler, t > s, from T down to 0 in `steps` near-equal strides (default: every timestep).

    All samplers walk this one list, so that the end of one jump is the start of the next. Raises ValueError unless 1 <= steps <= T.
    """
    steps = T if steps is None else steps
    if not 1 <= steps <= T:
        raise ValueError(f"steps is {steps}; a sampler of this schedule takes 1..{T}")
    times = [round(T * (steps - i) / steps) for i in range(steps + 1)]
    return list(zip(times[:-1], times[1:]))


def ancestral(predict, x, schedule, noise, variance="posterior", steps=None, prediction_type="epsilon"):
    """The ancestral sampler (Ho et al. 2020, algorithm 2), from x at t = T; yields (T, x), ..., (0, x_0).

    Each jump t -> s infers x_0 from the prediction and draws x_s from a normal distribution with the mean of q(x_s | x_t, x_0) and
    one of the two variances of section 3.2: `beta`, the forward step's (right for data that is itself standard normal), or `posterior`, that of
    q(x_s | x_t, x_0) (right for data that is one point). The last jump adds no noise: x_0 is its mean.
    """
    check_variance(variance)
    yield schedule.T, x
    for t, s in time_pairs(schedule.T, steps):
        x0 = x0_from_prediction(x, t, predict(x, t), schedule, prediction_type)
        x = posterior_mean(x, x0, t, s, schedule)
        if s > 0:
            sigma2 = posterior_variance(t, s, schedule) if variance == "posterior" else transition_beta(t, s, schedule)
            x = x + sigma2 ** 0.5 * noise(s)
        yield s, x


def check_variance(variance):
    """Raise ValueError unless variance is beta or posterior."""
    if variance not in ("beta", "posterior"):
        raise ValueError(f"variance is {variance!r}; it must be beta or posterior")


SAMPLERS = {"ancestral": ancestral}


def sample(denoiser, backend, recipe, n, seed, draw=0, sampler="ancestral", variance=None, steps=None, labels=None):
    """Draw n samples with a recipe's schedule, from x_T ~ N(0, I): the chosen sampler's generator, yielding (t, x) with x (n, ...).

    All noise is drawn on the host at addresses (seed, draw, t), so backends agree and `draw` 0, 1, ... are independent sets. variance and steps
    default to the recipe's and to every timestep; labels (n,) are what a conditional network is asked for. Raises ValueError for values out of range.
    """
    if n < 1:
        raise ValueError(f"n is {n}; it must be at least 1")
    if sampler not in SAMPLERS:
        raise ValueError(f"sampler is {sampler!r}; it must be one of {', '.join(SAMPLERS)}")
    schedule = make_schedule(recipe.schedule, recipe.num_train_timesteps)
    variance = recipe.variance if variance is None else variance
    check_variance(variance)
    time_pairs(schedule.T, steps)

    def noise(t):
        return backend.asarray(generator(seed, "sample", draw * (schedule.T + 1) + t).standard_normal((n, *recipe.model.data_shape)))

    def predict(x, t):
        return denoiser.predict(x, t, labels)

    return SAMPLERS[sampler](predict, noise(schedule.T), schedule, noise, variance, steps, recipe.prediction_type)
