"""Sampling: draw new data with a trained network. The mathematics of each sampler is in samplers.py."""

import math
from dataclasses import dataclass

import numpy as np

from npdiff.data import load_data
from npdiff.diffusion import q_sample
from npdiff.models.checks import check_types
from npdiff.rng import generator
from npdiff.samplers import SAMPLERS, check_variance, guided, time_pairs, to_x0_eps
from npdiff.schedule import whole

MOST_NUMBERS = 2**30        # in one draw of samples: with the noise, some 16 GB
ALL_NOISE, START = 1e-5, 1e-3       # values of alpha_bar, see Sampling.jumps


@dataclass(frozen=True)
class Sampling:
    """How samples are drawn. Raises ValueError for what no sampler takes."""
    sampler: str = "ancestral"          # ancestral, ddim, dpm_solver_pp, heun, naive_skip (wrong on purpose)
    steps: int | None = None            # jumps from noise to data, 1..T; every timestep unless given
    timestep_spacing: str = "trailing"  # leading, linspace or trailing: which timesteps are visited
    variance: str | None = None         # of the ancestral sampler: beta or posterior; else the recipe's
    eta: float = 0.0                    # share of fresh noise in DDIM: 0 none, 1 as the ancestral sampler
    clip: float | None = None           # hold each estimate of x_0 in [-clip, clip]; none unless given
    guidance: float = 1.0               # w of classifier-free guidance: 0 ignores labels, 1 asks for them
    start: str = "noise"                # noise: start at N(0, I). data: start at fresh data with noise added

    def __post_init__(self):
        check_types(self)
        if self.sampler not in SAMPLERS:
            raise ValueError(f"sampler is {self.sampler!r}; it must be one of {', '.join(SAMPLERS)}")
        if self.variance is not None:
            check_variance(self.variance)
            if self.sampler != "ancestral":
                raise ValueError(f"variance is {self.variance}; it is for the sampler ancestral, "
                                 f"not for {self.sampler}")
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta is {self.eta}; it must lie in [0, 1]")
        if self.eta and self.sampler != "ddim":
            raise ValueError(f"eta is {self.eta}; it is for the sampler ddim, not for {self.sampler}")
        if self.clip is not None and self.clip <= 0:
            raise ValueError(f"clip is {self.clip}; it must be a positive number")
        if self.start not in ("noise", "data"):
            raise ValueError(f"start is {self.start!r}; it must be noise or data")

    @classmethod
    def of(cls, recipe, **changes):
        """How a recipe's samples are drawn, unless `changes` say otherwise."""
        return cls(**{"sampler": recipe.sampler, "steps": recipe.sampling_steps,
                      "clip": recipe.sampling_clip} | changes)

    def jumps(self, recipe):
        """The jumps (t, s) from noise to data: those of npdiff.samplers.time_pairs, but for one case.

        The network's eps gives x_0 = (x_t - sigma_t eps) / a_t, so where a_t is tiny, its error becomes huge
        (npdiff.verify.amplification). A recipe that predicts epsilon and ends at alpha_bar below ALL_NOISE
        therefore starts lower, at the first t with alpha_bar of at most START: x_t there is N(0, I) but for
        3% of x_0. Measured on cosine, T = 1000, 20 steps of DDIM, with an exact denoiser and an error of 1e-2
        in eps: energy distance 1.4 from t = 1000, 0.012 from t = 980; without the error 0.007 and 0.008.
        """
        schedule = recipe.make_schedule()
        pairs = time_pairs(schedule.T, self.steps, self.timestep_spacing)
        if recipe.prediction_type != "epsilon" or schedule.alpha_bar[-1] >= ALL_NOISE:
            return pairs
        start = int(np.argmax(schedule.alpha_bar <= START))
        return time_pairs(start, min(len(pairs), start), self.timestep_spacing)

    def options(self, recipe):
        """The keyword arguments that only this sampler takes."""
        own = {"ancestral": {"variance": self.variance or recipe.variance}, "ddim": {"eta": self.eta}}
        return own.get(self.sampler, {})


def sample(denoiser, backend, recipe, n, seed, draw=0, labels=None, sampling=Sampling(), x0=None):
    """Draw n samples: the chosen sampler's generator, which yields (t, x) with x (n, ...).

    All noise is drawn on the host, at the addresses (seed, draw, t). So backends agree, and `draw` 0, 1, ...
    are independent sets. labels (n,) are what a conditional network is asked for. x0 (n, ...) is the data to
    start from, where start is "data". Raises ValueError for values out of range.
    """
    n = check_n(recipe, n)
    if sampling.guidance != 1 and not recipe.conditional:
        raise ValueError(f"guidance is {sampling.guidance}; {recipe.name} takes no labels, so it must be 1")
    shape = (n, *recipe.model.data_shape)
    if sampling.start == "data" and np.shape(x0) != shape:
        raise ValueError(f"start is data, and x0 has shape {np.shape(x0)}; it must be {shape}")
    schedule = recipe.make_schedule()
    pairs = sampling.jumps(recipe)
    first, _ = pairs[0]

    def host_noise(t):
        return generator(seed, "sample", draw * (schedule.T + 1) + t).standard_normal(shape)

    x = host_noise(first)
    if sampling.start == "data":
        x = q_sample(x0, first, x, schedule)
    predict = guided(denoiser.predict, labels, sampling.guidance)
    denoise = to_x0_eps(predict, schedule, recipe.prediction_type, sampling.clip)
    sampler = SAMPLERS[sampling.sampler]
    chain = sampler(denoise, backend.asarray(x), schedule, lambda t: backend.asarray(host_noise(t)), pairs,
                    **sampling.options(recipe))
    return ((t, x * 1.0) for t, x in chain)         # a copy: the caller may change it, and the chain goes on


def check_n(recipe, n):
    """n as a Python int. Raises ValueError unless it is an integer from 1 to what memory may hold."""
    most = MOST_NUMBERS // math.prod(recipe.model.data_shape)
    if whole(n) is None:
        raise ValueError(f"n is {n!r}; it must be an integer")
    if not 1 <= n <= most:
        raise ValueError(f"n is {n:,}; it must be at least 1, and at most {most:,} in one draw")
    return whole(n)


def labels_in_turn(recipe, n):
    """What a conditional recipe is asked for: the classes in turn, integers (n,). None for other recipes."""
    n = check_n(recipe, n)
    return np.arange(n) % recipe.model.classes if recipe.conditional else None


def fresh_data(recipe, seed, n, draw=0, data_dir=None):
    """n fresh draws of the recipe's data, without labels: (n, ...)."""
    x0, _ = load_data(recipe.data, data_dir).draw(n, generator(seed, "data", draw))
    return x0
