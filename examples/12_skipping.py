"""Skipping: the moons sampled at every k-th timestep only, in a wrong way and in a right way.

The wrong way takes the ancestral step from t to t - 1, calls the result x_{t-k}, and goes on from there. The
right way here is DDIM ([Song et al. 2021](https://arxiv.org/abs/2010.02502)), which jumps from t to t - k: it
splits x_t into x0_hat and noise, and mixes the two again in the proportions of t - k. Both visit the same
timesteps and start from the same x_T.

The denoiser is the exact one, E[eps | x_t], which is known for the moons. So no error comes from a network.
Look at the upper row:

- k = 1 leaves nothing out. It is the ancestral sampler, and no sample is off the arcs.
- A step removes the noise of one timestep. With k = 20 the noise of 19 more timesteps stays in x, and the
  data's part does not grow as it should. The mean of the samples is still 0, as at x_T, where the data has
  (0.75, 0.375).
- The denoiser is told a wrong t. At t - k it expects little noise, so it takes the noise that is still there
  for a part of the data. No later step corrects that.

Ten jumps are not too few: DDIM with k = 20 is near the data, only less exact. 13_plateau.py goes on from
here.

What to change: --schedule linear. At T = 200 its x_T still depends on the data, so pure noise is the wrong
start. An exact denoiser does not correct that. The mean of x_1 should be 0.75. Even with k = 1 it is 0.6, and
with DDIM 0.44: DDIM draws no new noise, so all of its result depends on the start.
"""

from pathlib import Path

import tyro
from matplotlib.figure import Figure

from npdiff.app.figures import points_panel, save
from npdiff.data.moons import make_moons
from npdiff.evaluation.metrics import distance_to_arcs, energy_distance, off_arcs
from npdiff.rng import generator
from npdiff.samplers import ddim, naive_skip, time_pairs, to_x0_eps
from npdiff.schedule import make_schedule
from npdiff.verify.oracle import Moons

SKIPS = (1, 2, 5, 20)
T = 200
NAMES = {"naive": naive_skip, "DDIM": ddim}
COLOURS = {"naive": "tab:orange", "DDIM": "tab:blue"}


def main(
    samples: int = 1000,
    schedule: str = "rescaled_linear",
    seed: int = 0,
    out: Path = Path("runs/examples"),
):
    table = make_schedule(schedule, T)
    denoise = to_x0_eps(Moons().predict(table), table)
    data = make_moons(samples, generator(seed, "data"))                           # (samples, 2)

    def noise(t):
        return generator(seed, "sample", t).standard_normal((samples, 2))

    print(f"{schedule}, T = {T}, exact denoiser")
    print(f"  k  jumps  {'':5}  off the arcs  mean distance to them   mean of x, y   energy distance")
    clouds, off, mean = {}, {}, {}
    for k in SKIPS:
        pairs = time_pairs(T, T // k)
        for name, sampler in NAMES.items():
            *_, (_, x) = sampler(denoise, noise(T), table, noise, pairs)          # (samples, 2)
            clouds[name, k], off[name, k], mean[name, k] = x, off_arcs(x), x.mean(0)
            to_arcs, (mean_x, mean_y) = distance_to_arcs(x).mean(), x.mean(0)
            print(f"{k:3}  {len(pairs):5}  {name:5}  {off[name, k]:12.1%}  {to_arcs:21.3f}  "
                  f"{mean_x:6.2f} {mean_y:6.2f}  {energy_distance(x, data):16.4f}")

    figure = draw(clouds, data, off, schedule)
    print(save(figure, out / "12_skipping.png"))
    return {"off": off, "mean": mean, "figure": figure}


def draw(clouds, data, off, schedule):
    """A row for each sampler, a column for each k."""
    figure = Figure(figsize=(13, 7), layout="constrained")
    figure.suptitle(f"{schedule} schedule, T = {T}, exact denoiser: every k-th timestep only")
    axes = figure.subplots(len(NAMES), len(SKIPS), sharex=True, sharey=True)
    for row, name in zip(axes, NAMES):
        for panel, k in zip(row, SKIPS):
            title = f"{name}, k = {k}, {T // k} jumps\n{off[name, k]:.0%} off the arcs"
            points_panel(panel, clouds[name, k], data, title).set(color=COLOURS[name])
            panel.set(xlim=(-2.6, 3.6), ylim=(-2.2, 2.5))
        row[0].set_ylabel("$x_2$")
        row[0].legend(frameon=False, loc="lower left", markerscale=2)
    for panel in axes[-1]:
        panel.set_xlabel("$x_1$")
    return figure


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
