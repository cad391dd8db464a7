"""Many small steps: how the denoiser's answer turns from an average into a sample.

04_blunder took one leap and got an average. Here we go along the whole ancestral chain and ask at every step:
what is x_0? The denoiser is the exact one, E[x_0 | x_t], so no network's error is seen. Its answer x0_hat is
an average at every t, but of fewer and fewer points.

- At t = T the answer is one point for all, the mean of the data, on neither moon. Then it becomes a blurred
  sketch of the layout; the arcs come last.
- On the left is a ledger. The variance of x_0 splits in two, var(x_0) = var(E[x_0 | x_t]) + E[var(x_0 |
  x_t)]: what the answers already say, and what is still open. A chain turns the second into the first little
  by little; one leap takes the answers as they stand at T, when they say nothing.
- On the right are the answers along six chains, from the mean to an arc. For a third of the way they hardly
  move; then each takes a side, and only at the end a place on it. Nothing in x_T had fixed that place: the
  noise of the steps helps to choose it.
- The share off the arcs, so useful for samples, misleads for averages: near t = 85 some lie on an arc by
  accident, where the sketch crosses the arcs' ends.

What to change: --steps 20. The sum of the ledger falls short, as steps too large lose variance that no later
step restores. --schedule cosine: the same story, told at other times.
"""

from pathlib import Path

import numpy as np
import tyro
from matplotlib.figure import Figure

from npdiff.app.figures import save
from npdiff.data.moons import make_moons
from npdiff.diffusion import eps_from_x0
from npdiff.evaluation.metrics import off_arcs
from npdiff.rng import generator
from npdiff.samplers import ancestral, time_pairs
from npdiff.schedule import make_schedule
from npdiff.verify.oracle import Moons

T = 200
SHOWN = (200, 100, 50, 30, 16, 1)       # timesteps shown, or the nearest that are visited
FOLLOWED = 6                            # chains whose answers are drawn as paths


def main(
    samples: int = 1000,
    steps: int = T,
    schedule: str = "rescaled_linear",
    seed: int = 0,
    out: Path = Path("runs/examples"),
):
    # asked: t -> x_t and x0_hat (samples, 2), variance still open
    table, oracle, asked = make_schedule(schedule, T), Moons(), {}

    def denoise(x, t):
        _, x0_hat, variance = oracle.posterior(x, float(table.alpha_bar[t]))
        asked[t] = x, x0_hat, variance.mean()
        return x0_hat, eps_from_x0(x, t, x0_hat, table)

    def noise(t):
        return generator(seed, "sample", t).standard_normal((samples, 2))

    *_, (_, x) = ancestral(denoise, noise(T), table, noise, time_pairs(T, steps))
    data = make_moons(samples, generator(seed, "data"))                           # (samples, 2)
    # a float, (steps,) from T down
    total, stops = data.var(0).sum(), np.array(list(asked))
    still_open = np.array([variance for _, _, variance in asked.values()])        # (steps,)
    answers = np.stack([x0_hat for _, x0_hat, _ in asked.values()])               # (steps, samples, 2)
    said, off = answers.var(1).sum(1), np.array([off_arcs(x0_hat) for x0_hat in answers])      # (steps,) each
    shown = [int(abs(stops - t).argmin()) for t in SHOWN]                         # positions in stops

    print(f"{steps} steps, {schedule}; the variance of the data, x and y together, is {total:.3f}")
    print("   t   std of x0_hat: x     y   variance said  still open    sum   off the arcs: x_t  x0_hat")
    for k in shown:
        x_t, x0_hat, _ = asked[stops[k]]
        print(
            f"{stops[k]:4}  {x0_hat.std(0)[0]:17.2f}  {x0_hat.std(0)[1]:4.2f}  {said[k]:14.3f}  "
            f"{still_open[k]:10.3f}  {said[k] + still_open[k]:5.3f}"
            f"  {off_arcs(x_t):18.1%}  {off[k]:6.1%}"
        )
    print(
        f"   0  {x.std(0)[0]:17.2f}  {x.std(0)[1]:4.2f}  {x.var(0).sum():14.3f}  {0:10.3f}  "
        f"{x.var(0).sum():5.3f}  {off_arcs(x):18.1%}  (the samples)"
    )

    figure = Figure(figsize=(13, 8), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=[1, 1.15])
    panels, (ledger, share, paths) = top.subplots(2, len(shown)), bottom.subplots(1, 3)
    for k, (above, below) in zip(shown, panels.T):
        for panel, points, colour in (
            (above, asked[stops[k]][0], "tab:orange"),
            (below, answers[k], "tab:blue"),
        ):
            panel.plot(*data.T, ".", color="0.85", markersize=2)
            panel.plot(*points.T, ".", color=colour, markersize=2)
            panel.set(xlim=(-3, 3.6), ylim=(-2.4, 2.8), aspect="equal", xticks=[], yticks=[])
        above.set_title(f"t = {stops[k]}")
    for panel, label in zip(panels[:, 0], ("$x_t$", r"$\hat x_0$")):
        panel.set_ylabel(label, fontsize=14, rotation=0, labelpad=16)
    labels = r"said: variance of $\hat x_0$", r"open: mean variance of $x_0$ given $x_t$"
    ledger.stackplot(stops, said, still_open, colors=("tab:blue", "tab:orange"), labels=labels)
    ledger.axhline(total, color="black", linestyle="--", linewidth=1, label="variance of the data")
    ledger.set(title="the ledger", ylim=(0, 1.4 * total))
    ledger.legend(frameon=False, loc="upper left")
    share.plot(stops, off, color="tab:blue", linewidth=2)
    share.set(title=r"share of $\hat x_0$ off the arcs", ylim=(0, 1.03))
    for panel in (ledger, share):
        panel.set(xlabel="t, from noise to data", xlim=(T, 1))
    paths.plot(*data.T, ".", color="0.85", markersize=3)
    paths.plot(*answers[0, 0], "o", color="black", markersize=6, zorder=3)
    for path in answers[:, :FOLLOWED].transpose(1, 2, 0):                         # (2, steps)
        paths.plot(*path, color="tab:blue", linewidth=1)
        paths.plot(*path[:, -1], "o", color="tab:blue", markersize=6)
    paths.set(
        xlim=(-2.1, 3.6),
        ylim=(-1.6, 2.1),
        aspect="equal",
        xticks=[],
        yticks=[],
        title=rf"$\hat x_0$ along {FOLLOWED} chains",
    )
    print(save(figure, out / "14_small_steps.png"))
    return {"stops": stops, "said": said, "open": still_open, "off": off, "answers": answers, "samples": x}


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
