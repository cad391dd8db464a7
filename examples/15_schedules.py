"""The cosine schedule against the linear one at equal training budget, and how not to compare them.

Three networks for the moons, alike but for the schedule: `linear` with T = 300, as the textbook's image lab
has it (alpha_bar_T is still 0.048), the same `rescaled_linear` to T = 300, and `cosine`. Same weights at the
start, same data and noise, same number of steps. Look for four things:

- The losses cannot be compared. Dashed is the Bayes floor, the loss of the exact denoiser. No network gets
  below it, and each schedule has its own, as each spends its timesteps in other shares on easy tasks and hard
  ones. rescaled_linear has by far the lowest loss, and the worst samples.
- What a network adds to its floor, the excess, is about the same for all three: each does its own task
  equally well. That does not rank the samples either.
- What does is where the timesteps lie. With little noise left the arcs are drawn sharply; of such timesteps
  rescaled_linear has half as many as the others, and so half the training there. Linear at T = 300 is cosine
  nearly everywhere, but for its end. That, and nothing mysterious, is what cosine is good for.
- Linear's end, where signal is left, makes N(0, I) the wrong start: with DDIM, which forgets nothing of it,
  the mean of the samples is off by 0.17. Cosine's end has almost none: x0_hat divides the network's error by
  sqrt(alpha_bar_T) = 0.0002, and without clipping x0_hat DDIM's samples land far away.

What to change: --steps 6000. --num-train-timesteps 1000, where linear and rescaled_linear are one (half a
minute): more steps do not help it, as the share of its timesteps with little noise stays what it was.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import tyro
from matplotlib.figure import Figure

from npdiff.app.checkpoint import sampling_weights
from npdiff.app.figures import save
from npdiff.backends.numpy import NumpyBackend
from npdiff.data.moons import MEAN, make_moons
from npdiff.evaluation.metrics import energy_distance, loss_above_floor, off_arcs
from npdiff.recipes import MOONS
from npdiff.rng import generator
from npdiff.sampling import Sampling, sample
from npdiff.training import new_denoiser, train
from npdiff.verify.floor import recipe_floor

STYLES = {"linear": "tab:blue", "rescaled_linear": "0.5", "cosine": "tab:orange"}
LINES = {"linear": "-", "rescaled_linear": "-.", "cosine": ":"}
HATCHES = ("//", "..", "xx")
CLIP = 3.2          # no coordinate of the data is larger
SAMPLINGS = {
    "ancestral": Sampling(clip=CLIP),
    "DDIM": Sampling("ddim", clip=CLIP),
    "unclipped": Sampling("ddim"),
}


def main(
    steps: int = 2000,
    num_train_timesteps: int = 300,
    samples: int = 1000,
    seed: int = 0,
    out: Path = Path("runs/examples"),
):
    backend, losses, floors, excess, clouds = NumpyBackend(), {}, {}, {}, {}
    data, fresh = (make_moons(samples, generator(seed, "data", draw)) for draw in (0, 1))  # (samples, 2) each
    tail = max(1, steps // 10)
    print(
        f"{steps} training steps, T = {num_train_timesteps}\n                 alpha_bar_T  t with alpha_bar "
        f"> 0.9  loss, last tenth   floor  excess"
    )
    for name in STYLES:
        recipe = replace(MOONS, schedule=name, num_train_timesteps=num_train_timesteps, steps=steps)
        schedule = recipe.make_schedule()
        denoiser = new_denoiser(backend, recipe, seed)
        losses[name] = np.array([loss for _, loss in train(denoiser, backend, recipe, seed)])   # (steps,)
        trained = backend.make_denoiser(recipe.model, sampling_weights(denoiser.export()))
        loss, lowest = loss_above_floor(trained, backend, recipe, seed)
        # (T+1,) and a float
        floors[name], excess[name] = recipe_floor(recipe), loss - lowest
        for how, sampling in SAMPLINGS.items():
            *_, (_, clouds[name, how]) = sample(trained, backend, recipe, samples, seed, sampling=sampling)
        print(
            f"{name:15}  {schedule.alpha_bar[-1]:11.1e}  {(schedule.alpha_bar[1:] > 0.9).sum():22}  "
            f"{losses[name][-tail:].mean():16.4f}"
            f"  {floors[name][1:].mean():.4f}  {excess[name]:.4f}"
        )
    off, distance, shift = (
        {key: measure(points) for key, points in clouds.items()}
        for measure in (
            off_arcs,
            lambda points: energy_distance(points, data),
            lambda points: np.hypot(*(points.mean(0) - MEAN)),
        )
    )
    for what, values, form in (
        ("off the arcs", off, "10.1%"),
        (f"energy distance (fresh data {energy_distance(fresh, data):.4f})", distance, "10.4f"),
        ("mean is off by", shift, "10.2f"),
    ):
        print(f"{'':15}{''.join(f'{how:>11}' for how in SAMPLINGS)}   {what}")
        for name in STYLES:
            print(f"{name:15}{''.join(f' {values[name, how]:{form}}' for how in SAMPLINGS)}")

    figure = Figure(figsize=(13, 7.6), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=[1.1, 1])
    bars, curve, floor = top.subplots(1, 3)
    for place, (name, colour) in enumerate(STYLES.items()):
        loss, lowest = losses[name][-tail:].mean(), floors[name][1:].mean()
        bars.bar(place, loss, color=colour, alpha=0.6, hatch=HATCHES[place])
        bars.hlines(lowest, place - 0.4, place + 0.4, color="0", linewidth=2.5)
        bars.annotate(f"{loss / lowest - 1:.0%}\nabove its floor", (place, loss), (0, 3),
                      textcoords="offset points", ha="center")
    bars.set(xticks=range(len(STYLES)), xticklabels=STYLES, ylim=(0, 0.7),
             ylabel="loss of the last tenth of training", title="each loss beside its own floor (black)")
    window = max(1, steps // 20)
    for name, colour in STYLES.items():
        curve.plot(
            np.arange(window, steps + 1),
            np.convolve(losses[name], np.ones(window) / window, "valid"),
            LINES[name],
            color=colour,
            linewidth=2,
            label=name,
        )
        curve.axhline(floors[name][1:].mean(), color=colour, linestyle="--", linewidth=1)
        floor.plot(floors[name], LINES[name], color=colour, linewidth=2, label=name)
    curve.set(
        xlabel="training step",
        ylabel=f"loss (mean of {window} steps)",
        title="thin dashed lines: the floors",
        ylim=(0, 0.62),
    )
    curve.legend(frameon=False)
    floor.set(
        xlabel="timestep t",
        ylabel="floor of the loss at t",
        ylim=(0, 1.02),
        xlim=(0, schedule.T),
        title="the floor at each t",
    )
    for panel, (name, colour) in zip(bottom.subplots(1, len(STYLES)), STYLES.items()):
        panel.plot(*data.T, ".", color="0.85", markersize=3)
        panel.plot(*clouds[name, "ancestral"].T, ".", color=colour, markersize=3)
        panel.set(
            xlim=(-2.2, 3.7),
            ylim=(-1.7, 2.4),
            aspect="equal",
            xticks=[],
            yticks=[],
            title=f"{name}: {off[name, 'ancestral']:.1%} off the arcs\nloss "
                  f"{losses[name][-tail:].mean():.3f}, floor {floors[name][1:].mean():.3f}",
        )
    print(save(figure, out / "15_schedules.png"))
    return {
        "losses": losses,
        "floors": floors,
        "excess": excess,
        "off": off,
        "distance": distance,
        "shift": shift,
    }


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
