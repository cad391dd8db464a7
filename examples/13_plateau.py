"""The plateau: how many steps are enough, for four samplers, and what ends the improvement.

A network is trained on the spot for the moons, on the linear schedule rescaled to T = 200. Above, DDIM from
the same x_T in 10, 25, 50, 100 and all steps: as it draws no noise, each point is the same sample, ever
better resolved. Below, two measures of quality against the number of network calls, for ancestral, DDIM,
DPM-Solver++ and Heun's method. Calls, not steps, are what sampling costs: Heun makes two of them a step.

- Every curve falls and levels out. Where depends on the sampler: the two of second order need about 25 calls,
  DDIM 50, and the ancestral sampler, whose fresh noise must be taken away again, 100. The table's last column
  names the fewest calls from which on all is as good as at the end, within chance.
- How low does not depend on it much: all end near 5%, far above the data's zero. (The ancestral one ends a
  little lower, as later steps still correct earlier ones.) The dashed line is DDIM with the exact denoiser,
  and reaches zero. So the plateau is the network's own error, which no number of steps repairs, and steps
  beyond it are wasted.
- The two measures need not agree: energy distance sees the coarse layout, and is nearly that of fresh data
  before the arcs are sharp.

What to change: --steps 10000, a better network: the plateau sinks to 2%, and is reached later. --steps 500:
10 steps are as good, or as bad, as 200.
"""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import tyro
from matplotlib.figure import Figure
from threadpoolctl import threadpool_limits

from npdiff.app.checkpoint import sampling_weights
from npdiff.app.figures import save
from npdiff.backends.numpy import NumpyBackend
from npdiff.data.moons import make_moons
from npdiff.evaluation.metrics import energy_distance, off_arcs
from npdiff.recipes import MOONS
from npdiff.rng import generator
from npdiff.sampling import Sampling, sample
from npdiff.schedule import make_schedule
from npdiff.training import new_denoiser, train
from npdiff.verify.oracle import Moons

STEPS = (5, 10, 15, 25, 50, 100, 200)
SHOWN = (10, 25, 50, 100, 200)
STYLES = {
    "ancestral": ("o-", "0.5"),
    "ddim": ("o-", "tab:blue"),
    "dpm_solver_pp": ("o-", "tab:orange"),
    "heun": ("s-", "tab:red"),
    "exact, ddim": ("--", "black"),
}


def calls(name, steps):
    """How often a sampler asks the network: Heun's twice a step, but once in the last."""
    return 2 * steps - 1 if name == "heun" else steps


def plateau(off, samples):
    """The fewest steps from which on the share off the arcs stays within chance (two standard deviations of a
    difference) of that of all steps.
    """
    last = off[STEPS[-1]]
    chance = 2 * (2 * last * (1 - last) / samples) ** 0.5
    return next(
        steps for k, steps in enumerate(STEPS) if all(off[more] <= last + chance for more in STEPS[k:])
    )


# the products are small; more threads would only wait for one another
@threadpool_limits.wrap(limits=1, user_api="blas")
def main(steps: int = 3000, samples: int = 1000, seed: int = 0, out: Path = Path("runs/examples")):
    recipe, backend = replace(MOONS, schedule="rescaled_linear", steps=steps), NumpyBackend()
    denoiser = new_denoiser(backend, recipe, seed)
    for step, loss in train(denoiser, backend, recipe, seed):
        pass
    trained = backend.make_denoiser(recipe.model, sampling_weights(denoiser.export()))
    exact = Moons().predict(make_schedule(recipe.schedule, recipe.num_train_timesteps))
    # in the place of the network
    oracle = SimpleNamespace(predict=lambda x, t, labels: exact(x, t))
    data, fresh = (make_moons(samples, generator(seed, "data", draw)) for draw in (0, 1))  # (samples, 2) each

    # (name, steps) -> points (samples, 2)
    clouds = {}
    for name in STYLES:
        network, sampler = (oracle, "ddim") if name == "exact, ddim" else (trained, name)
        for k in STEPS:
            *_, (_, clouds[name, k]) = sample(
                network, backend, recipe, samples, seed, sampling=Sampling(sampler=sampler, steps=k)
            )
    off = {name: {k: off_arcs(clouds[name, k]) for k in STEPS} for name in STYLES}
    distance = {name: {k: energy_distance(clouds[name, k], data) for k in STEPS} for name in STYLES}
    floor, ends = (
        energy_distance(fresh, data),
        {name: calls(name, plateau(off[name], samples)) for name in STYLES},
    )

    columns = "".join(f"{k:8}" for k in STEPS)
    print(f"{steps} training steps\noff the arcs    steps{columns}   plateau from, in calls")
    for name in STYLES:
        print(f"{name:16}     {''.join(f'{off[name][k]:8.1%}' for k in STEPS)}   {ends[name]:22}")
    print(f"energy distance steps{columns}   fresh data {floor:.4f}")
    for name in STYLES:
        print(f"{name:16}     {''.join(f'{distance[name][k]:8.4f}' for k in STEPS)}")

    figure = Figure(figsize=(13, 6.6), layout="constrained")
    axes = figure.subplot_mosaic(
        [[name for name in SHOWN for _ in range(2)], ["off"] * 5 + ["distance"] * 5], height_ratios=[1, 1.6]
    )
    for k in SHOWN:
        axes[k].plot(*data.T, ".", color="0.85", markersize=3)
        axes[k].plot(*clouds["ddim", k].T, ".", color="tab:blue", markersize=3)
        axes[k].set(xlim=(-2, 3.5), ylim=(-1.5, 2), aspect="equal", xticks=[], yticks=[])
        axes[k].set_title(f"DDIM, {k} steps\n{off['ddim'][k]:.1%} off the arcs")
    for name, (line, colour) in STYLES.items():
        for panel, values in (("off", off), ("distance", distance)):
            axes[panel].plot(
                [calls(name, k) for k in STEPS],
                values[name].values(),
                line,
                color=colour,
                markersize=5,
                label=name,
            )
    axes["distance"].axhline(floor, color="0.85", linewidth=3, zorder=0, label="fresh data")
    for panel, label in (("off", "share off the arcs"), ("distance", "energy distance to data")):
        axes[panel].set(xscale="log", xlabel="network calls", ylabel=label, xticks=STEPS, xticklabels=STEPS)
        axes[panel].minorticks_off()
    axes["off"].set_ylim(0, None)
    axes["distance"].set_yscale("log")
    axes["distance"].legend(frameon=False)
    print(save(figure, out / "13_plateau.png"))
    return {"off": off, "distance": distance, "floor": floor, "plateau": ends}


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
