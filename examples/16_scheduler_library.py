"""The same samples from a library of schedulers: our samplers beside diffusers, and the lines of both.

The program trains a denoiser on the moons, on the schedule rescaled_linear. It samples four times with the
same noise: with `ancestral` and DDPMScheduler in all 200 steps, and with `ddim` and DDIMScheduler in 20 steps
without new noise. The two samples of a pair differ by rounding: all numbers are float32, and so are the
library's tables. The library saves you the lines of the sampler, but not the loop. This project is for
reading those lines, so it keeps them.

Three things are different there, and you must say them:

- Their timestep counts from 0. It is our t - 1, and the network was trained on t.
- Their betas do not depend on T. Betas chosen for T = 1000 must be multiplied by 1000/T.
- Their defaults are not those of a textbook's DDPM chapter (two moons, T = 200, betas 1e-4..0.02, an
  18-128-128-2 network). DDPMScheduler() takes the posterior variance ("fixed_small"), and it clips each x_0
  to [-1, 1] (clip_sample=True). The textbook takes variance beta ("fixed_large") and does not clip. Images
  lie in [-1, 1], but the moons do not. The right picture shows the same network and noise with those two
  defaults. DDIMScheduler clips too.

What to change: --ddim-steps 7, which does not divide 200. DDIMScheduler then jumps by 200 // 7 = 28 and
misses the timesteps of its own list, so the two samples differ.
Needs the extra: pip install "npdiff[test]".

Sources: [Ho et al. 2020](https://arxiv.org/abs/2006.11239), [Song et al.
2021](https://arxiv.org/abs/2010.02502).
"""

import ast
import inspect
from dataclasses import replace
from pathlib import Path

import tyro
from matplotlib.figure import Figure

from npdiff.app.checkpoint import sampling_weights
from npdiff.app.cli import fail
from npdiff.app.figures import points_panel, save
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
    """The number of lines on which code begins. Docstring, comments and blank lines do not count."""
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

    # DDPMScheduler draws its noise from a torch generator. Our samplers get the numbers of a second generator
    # with the same seed, so both sides get the same noise.
    def ours(sampler, steps, **options):
        stream = torch.Generator().manual_seed(seed)

        def noise(t):
            return torch.randn((samples, 2), generator=stream).numpy()

        return with_npdiff(sampler, predict, schedule, noise, steps, **options)

    def theirs(scheduler, steps):
        stream = torch.Generator().manual_seed(seed)
        x = torch.randn((samples, 2), generator=stream)
        return with_diffusers(scheduler, predict, x, steps, generator=stream)

    betas = {"num_train_timesteps": T, "beta_start": 1e-4 * 1000 / T, "beta_end": 0.02 * 1000 / T}
    their_ddpm = DDPMScheduler(**betas, variance_type="fixed_large", clip_sample=False)
    their_ddim = DDIMScheduler(**betas, timestep_spacing="trailing", clip_sample=False)
    pairs = {                                                       # (our samples, theirs), (samples, 2) each
        "ancestral and DDPMScheduler": (ours(ancestral, T, variance="beta"), theirs(their_ddpm, T)),
        "ddim and DDIMScheduler": (ours(ddim, ddim_steps), theirs(their_ddim, ddim_steps)),
    }
    defaults = theirs(DDPMScheduler(**betas), T)                                  # (samples, 2)
    gaps = {name: float(abs(a - b).max()) for name, (a, b) in pairs.items()}

    loop, library_loop = code_lines(with_npdiff), code_lines(with_diffusers)
    print(f"{'':27}  largest difference   lines of code: ours                with diffusers")
    for (name, gap), sampler in zip(gaps.items(), (ancestral, ddim)):
        lines = code_lines(sampler)
        print(f"{name:27}  {gap:18.1e}   sampler {lines:2} + loop {loop} = {lines + loop:2}"
              f"          loop {library_loop}")
    our_ancestral, _ = pairs["ancestral and DDPMScheduler"]
    print(f"off the arcs: ancestral {off_arcs(our_ancestral):.1%}, "
          f"DDPMScheduler with its defaults {off_arcs(defaults):.1%}")

    data = make_moons(samples, generator(seed, "data"))                           # (samples, 2)
    figure = draw(pairs, gaps, defaults, data, {"ancestral": T, "ddim": ddim_steps}, recipe)
    print(save(figure, out / "16_scheduler_library.png"))
    lines = {"loop": loop, "library_loop": library_loop}
    return {"gaps": gaps, "pairs": pairs, "defaults": defaults, "lines": lines, "figure": figure}


def draw(pairs, gaps, defaults, data, steps, recipe):
    """A panel for each pair, ours as circles and theirs as crosses, and one for the library's defaults."""
    figure = Figure(figsize=(14, 4.6), layout="constrained")
    figure.suptitle(f"moons, {recipe.schedule} schedule, T = {recipe.num_train_timesteps}, "
                    f"{recipe.steps:,} training steps")
    panels = figure.subplots(1, 3)
    for panel, (name, (a, b)) in zip(panels, pairs.items()):
        first, _, second = name.split()
        panel.scatter(*a.T, s=26, facecolors="none", edgecolors="tab:blue", linewidths=0.8, label=first)
        panel.scatter(*b.T, s=7, marker="x", color="black", linewidths=0.6, label=second)
        panel.set_title(f"{name}, {steps[first]} steps\nlargest difference {gaps[name]:.0e}")
    title = "DDPMScheduler with its defaults:\n$x_0$ clipped to [-1, 1], variance fixed_small"
    points_panel(panels[2], defaults, data, title).set(color="tab:orange", label="DDPMScheduler")
    for panel in panels:
        panel.set(xlim=(-2.2, 3.7), ylim=(-2.2, 2.2), aspect="equal", xlabel="$x_1$", ylabel="$x_2$")
        panel.legend(frameon=False, loc="lower left", markerscale=1.5)
    return figure


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
