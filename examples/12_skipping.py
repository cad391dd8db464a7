"""Skipping: the moons from every k-th timestep only, done wrong and done right.

The wrong way takes the ancestral step from t to t - 1, calls the result x_{t-k}, and goes on from there. The
right way here is DDIM, which jumps from t to t - k: it splits x_t into x0_hat and noise and mixes the two
again as they are mixed at t - k. Both visit the same timesteps and start from the same x_T.

The denoiser is the exact one, E[eps | x_t], known for the moons; there is no network whose error could be to
blame. Look at the upper row:

- k = 1 leaves nothing out and is the ancestral sampler itself: no sample misses the arcs.
- A step takes away the noise of one step. Of k steps' noise, k - 1 steps' worth stays in x, and the signal
  does not grow to where it should be: at k = 20 the mean of the samples is still 0, where x_T had it, and not
  (0.75, 0.375).
- And the denoiser is told a lie. It hears t - k, where there is little noise, and takes what is left of it
  for shape; nothing later corrects that.

Ten jumps are not too few in themselves: DDIM with k = 20 is near the data, only coarse. 13_plateau goes on
from here. What to change: --schedule linear, whose x_T should not be pure noise. A perfect denoiser does not
mend a wrong start: even at k = 1 the mean of x is 0.6 for 0.75, and with DDIM, which draws no noise and so
forgets nothing of its start, 0.44.
"""

from pathlib import Path

import tyro
from matplotlib.figure import Figure

from npdiff.app.figures import save
from npdiff.data.moons import make_moons
from npdiff.evaluation.metrics import distance_to_arcs, energy_distance, off_arcs
from npdiff.rng import generator
from npdiff.samplers import ddim, naive_skip, time_pairs, to_x0_eps
from npdiff.schedule import make_schedule
from npdiff.verify.oracle import Moons

SKIPS = (1, 2, 5, 20)
T = 200
STYLES = {naive_skip: ("naive", "tab:orange"), ddim: ("DDIM", "tab:blue")}


def main(
    samples: int = 1000, schedule: str = "rescaled_linear", seed: int = 0, out: Path = Path("runs/examples")
):
    table = make_schedule(schedule, T)
    denoise = to_x0_eps(Moons().predict(table), table)
    data = make_moons(samples, generator(seed, "data"))                           # (samples, 2)

    def noise(t):
        return generator(seed, "sample", t).standard_normal((samples, 2))

    print(
        f"{schedule}, T = {T}, exact denoiser\n  k  jumps  {'':5}  off the arcs  mean distance to them   "
        f"mean of x, y   energy distance"
    )
    figure = Figure(figsize=(13, 5.8), layout="compressed")
    axes, off, mean = figure.subplots(2, len(SKIPS)), {}, {}
    for column, k in zip(axes.T, SKIPS):
        pairs = time_pairs(T, T // k)
        for panel, (sampler, (name, colour)) in zip(column, STYLES.items()):
            *_, (_, x) = sampler(denoise, noise(T), table, noise, pairs)          # (samples, 2)
            off[name, k], mean[name, k] = off_arcs(x), x.mean(0)
            print(
                f"{k:3}  {len(pairs):5}  {name:5}  {off[name, k]:12.1%}  {distance_to_arcs(x).mean():21.3f}  "
                f"{x.mean(0)[0]:6.2f} {x.mean(0)[1]:6.2f}  {energy_distance(x, data):16.4f}"
            )
            panel.plot(*data.T, ".", color="0.85", markersize=3)
            panel.plot(*x.T, ".", color=colour, markersize=3)
            panel.set(xlim=(-2.6, 3.6), ylim=(-2.2, 2.5), aspect="equal", xticks=[], yticks=[],
                      title=f"{name}: {off[name, k]:.0%} off the arcs")
        column[0].set_title(f"k = {k}, {len(pairs)} jumps\n{column[0].get_title()}")
    print(save(figure, out / "12_skipping.png"))
    return {"off": off, "mean": mean}


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
