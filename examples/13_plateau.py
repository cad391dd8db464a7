"""The plateau: how many steps are enough for four samplers, and why more steps stop helping.

The program trains a network on the moons, on the schedule rescaled_linear with T = 200. Above: DDIM from one
x_T in 10, 25, 50, 100 and all steps. DDIM draws no new noise, so each point is the same sample in all five
pictures, and it becomes more exact. Below: two measures of quality against the number of network calls, for
ancestral, DDIM ([Song et al. 2021](https://arxiv.org/abs/2010.02502)), DPM-Solver++ ([Lu et al.
2022](https://arxiv.org/abs/2211.01095)) and Heun's method ([Karras et al.
2022](https://arxiv.org/abs/2206.00364)). Calls are what sampling costs: Heun's method needs two in a step.

- Every curve falls and becomes flat. Where, depends on the sampler. The two second-order methods need about
  25 calls, DDIM 50. The ancestral sampler needs 100, because it must remove its own new noise again. The last
  column of the table is the fewest calls from which on the result is as good as the last, within chance.
- All curves end at about 5% off the arcs; the data has none. (The ancestral sampler ends a little lower,
  because its later steps correct earlier ones.) The dashed line is DDIM with the exact denoiser, and it
  reaches zero. So the plateau is the network's own error. More steps do not reduce it.
- The two measures need not agree. The energy distance sees the rough places, and it is near that of fresh
  data before the arcs are sharp.

What to change: --steps 10000, a better network: the plateau sinks to 2% and begins later. --steps 500: there
10 steps are as good as 200.
"""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import tyro
from matplotlib.figure import Figure
from threadpoolctl import threadpool_limits

from npdiff.app.checkpoint import sampling_weights
from npdiff.app.figures import points_panel, save
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
STYLES = {  # line and marker, colour
    "ancestral": ("o-", "0.5"),
    "ddim": ("D-", "tab:blue"),
    "dpm_solver_pp": ("^-", "tab:orange"),
    "heun": ("s-", "tab:red"),
    "exact, ddim": ("x--", "black"),
}


def calls(name, steps):
    """How often a sampler calls the network: Heun's twice in a step, but once in the last."""
    return 2 * steps - 1 if name == "heun" else steps


def plateau(off, samples):
    """The fewest steps from which on the share off the arcs is as small as with all steps, within chance.

    off: steps -> share. Chance is two standard deviations of the difference of two such shares.
    """
    last = off[STEPS[-1]]
    chance = 2 * (2 * last * (1 - last) / samples) ** 0.5
    as_small = [all(off[more] <= last + chance for more in STEPS[k:]) for k in range(len(STEPS))]
    return STEPS[as_small.index(True)]


@threadpool_limits.wrap(limits=1, user_api="blas")       # small products: more threads only wait
def main(steps: int = 3000, samples: int = 1000, seed: int = 0, out: Path = Path("runs/examples")):
    recipe, backend = replace(MOONS, schedule="rescaled_linear", steps=steps), NumpyBackend()
    denoiser = new_denoiser(backend, recipe, seed)
    for _ in train(denoiser, backend, recipe, seed):
        pass
    trained = backend.make_denoiser(recipe.model, sampling_weights(denoiser.export()))
    exact = Moons().predict(make_schedule(recipe.schedule, recipe.num_train_timesteps))
    oracle = SimpleNamespace(predict=lambda x, t, labels: exact(x, t))      # in the place of the network
    # (samples, 2) each
    data, fresh = (make_moons(samples, generator(seed, "data", draw)) for draw in (0, 1))

    clouds = {}                                                                   # (name, steps) -> points
    for name in STYLES:
        network, sampler = (oracle, "ddim") if name == "exact, ddim" else (trained, name)
        for k in STEPS:
            sampling = Sampling(sampler=sampler, steps=k)
            *_, (_, clouds[name, k]) = sample(network, backend, recipe, samples, seed, sampling=sampling)
    off = {name: {k: off_arcs(clouds[name, k]) for k in STEPS} for name in STYLES}
    distance = {name: {k: energy_distance(clouds[name, k], data) for k in STEPS} for name in STYLES}
    floor = energy_distance(fresh, data)
    ends = {name: calls(name, plateau(off[name], samples)) for name in STYLES}

    columns = "".join(f"{k:8}" for k in STEPS)
    print(f"{steps} training steps\noff the arcs    steps{columns}   plateau from, in calls")
    for name in STYLES:
        print(f"{name:16}     {''.join(f'{off[name][k]:8.1%}' for k in STEPS)}   {ends[name]:22}")
    print(f"energy distance steps{columns}   fresh data {floor:.4f}")
    for name in STYLES:
        print(f"{name:16}     {''.join(f'{distance[name][k]:8.4f}' for k in STEPS)}")

    figure = draw(clouds, data, off, distance, floor, recipe)
    print(save(figure, out / "13_plateau.png"))
    return {"off": off, "distance": distance, "floor": floor, "plateau": ends, "figure": figure}


def draw(clouds, data, off, distance, floor, recipe):
    """Above: DDIM's samples. Below: both measures against the number of network calls."""
    figure = Figure(figsize=(14, 7.8), layout="constrained")
    figure.suptitle(f"moons, {recipe.schedule} schedule, T = {recipe.num_train_timesteps}, "
                    f"{recipe.steps:,} training steps")
    top, bottom = figure.subfigures(2, 1, height_ratios=[1, 1.6])
    panels = top.subplots(1, len(SHOWN), sharey=True)
    for panel, k in zip(panels, SHOWN):
        title = f"DDIM, {k} steps\n{off['ddim'][k]:.1%} off the arcs"
        points_panel(panel, clouds["ddim", k], data, title)
        panel.set(xlim=(-2.2, 3.5), ylim=(-1.7, 2), xlabel="$x_1$")
    panels[0].set_ylabel("$x_2$")
    left, right = bottom.subplots(1, 2)
    for name, (line, colour) in STYLES.items():
        asked = [calls(name, k) for k in STEPS]
        for panel, values in ((left, off), (right, distance)):
            panel.plot(asked, values[name].values(), line, color=colour, markersize=6, label=name)
    right.axhline(floor, color="0.85", linewidth=3, zorder=0, label="fresh data")
    for panel in (left, right):
        panel.set(xscale="log", xlabel="network calls", xticks=STEPS, xticklabels=STEPS)
        panel.minorticks_off()
        panel.legend(frameon=False)
    left.set(ylabel="share of samples off the arcs", ylim=(0, None))
    right.set(ylabel="energy distance to the data", yscale="log")
    return figure


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
