"""The same samples from a scheduler library: ours beside diffusers, the same network, the same noise, and the
lines that each side takes.

A denoiser is trained on the spot, on the linear schedule, and sampled four times: by `ancestral` and by
DDPMScheduler, all 200 steps; by `ddim` and by DDIMScheduler, 20 steps without fresh noise. What is left
between twins is rounding: all is float32, their tables too. The library saves the lines of the sampler; the
loop stays. Reading those lines is what this project is for, so it keeps them.

To get there three things must be said. Their timestep counts from 0: it is our t - 1, and the network was
trained on t. Their betas do not know T: what is meant for T = 1000 goes in times 1000/T. And their defaults
are not the textbook's: DDPMScheduler() takes the posterior variance ("fixed_small") and holds every x_0 in
[-1, 1] (clip_sample=True), where the textbook takes variance beta ("fixed_large") and does not clip. Images
fit into that box. The moons do not: the right panel is the same network and noise with those two defaults.
DDIMScheduler clips too.

What to change: --ddim-steps 7, which does not divide 200: DDIMScheduler then jumps by 200 // 7 = 28, past the
stops of its own list, and the twins part. Needs the extra: pip install "npdiff[test]".
"""

import ast
import inspect
from dataclasses import replace
from pathlib import Path

import tyro
from matplotlib.figure import Figure

from npdiff.app.checkpoint import sampling_weights
from npdiff.app.cli import fail
from npdiff.app.figures import save
from npdiff.backends.numpy import NumpyBackend
from npdiff.data.moons import make_moons
from npdiff.evaluation.metrics import off_arcs
from npdiff.recipes import MOONS
from npdiff.rng import generator
from npdiff.samplers import ancestral, ddim, time_pairs, to_x0_eps
from npdiff.training import new_denoiser, train

try:
    import torch
    from diffusers import DDIMScheduler, DDPMScheduler
except ModuleNotFoundError as error:
    fail(f'this example needs the package {error.name}, which is not installed: pip install "npdiff[test]"')


def with_npdiff(sampler, predict, schedule, noise, steps, **options):
    """The samples (n, 2) of one of our samplers."""
    pairs = time_pairs(schedule.T, steps)
    for _, x in sampler(to_x0_eps(predict, schedule), noise(schedule.T), schedule, noise, pairs, **options):
        pass
    return x


def with_diffusers(scheduler, predict, x, steps, **options):
    """The samples (n, 2) of one of their schedulers; x (n, 2) is the noise to begin with, a tensor."""
    scheduler.set_timesteps(steps)
    for timestep in scheduler.timesteps.tolist():
        prediction = torch.from_numpy(predict(x.numpy(), timestep + 1))
        x = scheduler.step(prediction, timestep, x, **options).prev_sample
    return x.numpy()


def code_lines(function):
    """The lines of a function's source on which code begins; docstrings, comments and blank lines do not
    count.
    """
    tree = ast.parse(inspect.getsource(function))
    tree.body[0].body.pop(0)                                                      # the docstring
    return len({node.lineno for node in ast.walk(tree) if hasattr(node, "lineno")})


def main(
    steps: int = 3000,
    ddim_steps: int = 20,
    samples: int = 1000,
    seed: int = 0,
    out: Path = Path("runs/examples"),
):
    recipe, backend = replace(MOONS, schedule="rescaled_linear", steps=steps), NumpyBackend()
    T, schedule = recipe.num_train_timesteps, recipe.make_schedule()
    denoiser = new_denoiser(backend, recipe, seed)
    for _ in train(denoiser, backend, recipe, seed):
        pass
    predict = backend.make_denoiser(recipe.model, sampling_weights(denoiser.export())).predict

    # the same noise: DDPMScheduler draws its own from a torch generator, so our samplers are given the
    # numbers of a twin of that generator
    def ours(sampler, steps, **options):
        stream = torch.Generator().manual_seed(seed)
        return with_npdiff(
            sampler,
            predict,
            schedule,
            lambda t: torch.randn((samples, 2), generator=stream).numpy(),
            steps,
            **options,
        )

    def theirs(scheduler, steps):
        stream = torch.Generator().manual_seed(seed)
        return with_diffusers(
            scheduler, predict, torch.randn((samples, 2), generator=stream), steps, generator=stream
        )

    betas = {"num_train_timesteps": T, "beta_start": 1e-4 * 1000 / T, "beta_end": 0.02 * 1000 / T}
    ddpm = DDPMScheduler(**betas, variance_type="fixed_large", clip_sample=False)
    # (our samples, theirs), (samples, 2) each
    twins = {
        "ancestral and DDPMScheduler": (ours(ancestral, T, variance="beta"), theirs(ddpm, T)),
        "ddim and DDIMScheduler": (
            ours(ddim, ddim_steps),
            theirs(DDIMScheduler(**betas, timestep_spacing="trailing", clip_sample=False), ddim_steps),
        ),
    }
    as_it_comes = theirs(DDPMScheduler(**betas), T)                               # (samples, 2)
    gaps = {name: float(abs(a - b).max()) for name, (a, b) in twins.items()}

    loop, library_loop = code_lines(with_npdiff), code_lines(with_diffusers)
    print(f"{'':27}  largest difference   lines of code: ours                with diffusers")
    for (name, gap), sampler in zip(gaps.items(), (ancestral, ddim)):
        lines = code_lines(sampler)
        print(
            f"{name:27}  {gap:18.1e}   sampler {lines:2} + loop {loop} = {lines + loop:2}          loop "
            f"{library_loop}"
        )
    print(
        f"off the arcs: ancestral {off_arcs(twins['ancestral and DDPMScheduler'][0]):.1%}, DDPMScheduler "
        f"with its defaults {off_arcs(as_it_comes):.1%}"
    )

    figure = Figure(figsize=(13, 3.7), layout="compressed")
    # data (samples, 2)
    panels, data = figure.subplots(1, 3), make_moons(samples, generator(seed, "data"))
    for panel, (name, (a, b)) in zip(panels, twins.items()):
        first, _, second = name.split()
        panel.scatter(*a.T, s=16, color="tab:blue", linewidths=0, label=first)
        panel.scatter(*b.T, s=3, color="tab:orange", linewidths=0, label=second)
        panel.set_title(f"{name}\nlargest difference {gaps[name]:.0e}")
    panels[2].plot(*data.T, ".", color="0.85", markersize=3, label="data")
    panels[2].scatter(*as_it_comes.T, s=3, color="tab:orange", linewidths=0, label="DDPMScheduler")
    panels[2].set_title("DDPMScheduler with its defaults:\n$x_0$ held in [-1, 1], variance fixed_small")
    for panel in panels:
        panel.set(xlim=(-2.2, 3.7), ylim=(-1.9, 2.2), aspect="equal", xticks=[], yticks=[])
        panel.legend(frameon=False, loc="lower left", markerscale=2)
    print(save(figure, out / "16_scheduler_library.png"))
    return {
        "gaps": gaps,
        "twins": twins,
        "as_it_comes": as_it_comes,
        "lines": {"loop": loop, "library_loop": library_loop},
    }


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
