"""Many small steps: how the denoiser's answer turns from a mean into a sample.

04_blunder.py took one leap and got a mean. Here we follow the whole ancestral chain and ask at every step:
what is x_0? The denoiser is the exact one, E[x_0 | x_t], so no error comes from a network. Its answer x0_hat
is a mean at every t, but of fewer and fewer points.

- At t = T the answer is the same for all: the mean of the data, which lies on neither moon. Then the answers
  spread out. The arcs come last.
- The left picture below splits the variance of x_0 in two parts (the law of total variance):
      var(x_0) = var(E[x_0 | x_t]) + E[var(x_0 | x_t)]
  The first part is the variance of the answers. The second part is what is not known yet. A chain turns the
  second part into the first little by little. One leap takes the answers at t = T, whose variance is zero.
- The right picture shows the answers of six chains, from the mean to an arc. For a third of the time they
  hardly move. Then each goes to one side, and only at the end it finds its place on an arc. x_T did not fix
  that place: the noise of the steps has a part in it.
- The share off the arcs is a good measure for samples, but not for means. Near t = 85 some means lie on an
  arc only because the spread of the means crosses the ends of the arcs.

What to change: --steps 20. The two parts add up to less: steps that are too large lose variance, and no later
step restores it. --schedule cosine: the same happens at other times.

The chain is algorithm 2 of [Ho et al. 2020](https://arxiv.org/abs/2006.11239).
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import tyro
from matplotlib.figure import Figure

from npdiff.app.figures import points_panel, save
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
MARKERS = "osD^vP"                      # at the end of each path


class Answers(NamedTuple):
    """What the denoiser answered along the chain, one row for each stop, from T down."""
    stops: np.ndarray       # (steps,) timesteps
    x_t: np.ndarray         # (steps, samples, 2)
    x0_hat: np.ndarray      # (steps, samples, 2)
    known: np.ndarray       # (steps,) the variance of x0_hat, x and y together
    unknown: np.ndarray     # (steps,) the mean variance of x_0 given x_t
    off: np.ndarray         # (steps,) the share of x0_hat off the arcs


def main(
    samples: int = 1000,
    steps: int = T,
    schedule: str = "rescaled_linear",
    seed: int = 0,
    out: Path = Path("runs/examples"),
):
    answers, x = walk(samples, steps, make_schedule(schedule, T), seed)
    data = make_moons(samples, generator(seed, "data"))                           # (samples, 2)
    total = data.var(0).sum()
    shown = [int(abs(answers.stops - t).argmin()) for t in SHOWN]                 # positions in stops

    print(f"{steps} steps, {schedule}; the variance of the data, x and y together, is {total:.3f}")
    print("   t   std of x0_hat: x     y   variance known    unknown    sum   off the arcs: x_t  x0_hat")
    for k in shown:
        std, known, unknown = answers.x0_hat[k].std(0), answers.known[k], answers.unknown[k]
        parts = f"{known:14.3f}  {unknown:10.3f}  {known + unknown:5.3f}"
        print(f"{answers.stops[k]:4}  {std[0]:17.2f}  {std[1]:4.2f}  {parts}"
              f"  {off_arcs(answers.x_t[k]):18.1%}  {answers.off[k]:6.1%}")
    std, variance = x.std(0), x.var(0).sum()
    print(f"   0  {std[0]:17.2f}  {std[1]:4.2f}  {variance:14.3f}  {0:10.3f}  {variance:5.3f}"
          f"  {off_arcs(x):18.1%}  (the samples)")

    title = f"{schedule} schedule, T = {T}, ancestral sampler, {steps} steps, exact denoiser"
    figure = draw(answers, shown, data, title)
    print(save(figure, out / "14_small_steps.png"))
    return answers._asdict() | {"samples": x, "figure": figure}


def walk(samples, steps, schedule, seed):
    """The whole ancestral chain with the exact denoiser.   -> Answers, x_0 (samples, 2)"""
    oracle, asked = Moons(), {}                                         # asked: t -> x_t, x0_hat, variance

    def denoise(x, t):
        _, x0_hat, variance = oracle.posterior(x, float(schedule.alpha_bar[t]))
        asked[t] = x, x0_hat, variance.mean()
        return x0_hat, eps_from_x0(x, t, x0_hat, schedule)

    def noise(t):
        return generator(seed, "sample", t).standard_normal((samples, 2))

    *_, (_, x) = ancestral(denoise, noise(schedule.T), schedule, noise, time_pairs(schedule.T, steps))
    x_t, x0_hat, unknown = (np.array(part) for part in zip(*asked.values()))
    off = np.array([off_arcs(points) for points in x0_hat])
    return Answers(np.array(list(asked)), x_t, x0_hat, x0_hat.var(1).sum(1), unknown, off), x


def draw(answers, shown, data, title):
    """Above: x_t and the answers. Below: the two parts of the variance, the share off the arcs, six paths."""
    figure = Figure(figsize=(14.5, 9), layout="constrained")
    figure.suptitle(title)
    top, bottom = figure.subfigures(2, 1, height_ratios=[1, 1.05])
    panels = top.subplots(2, len(shown), sharex=True, sharey=True)
    for k, (above, below) in zip(shown, panels.T):
        points_panel(above, answers.x_t[k], data, f"$x_{{{answers.stops[k]}}}$").set(color="tab:orange")
        points_panel(below, answers.x0_hat[k], data, rf"$\hat x_0$ at t = {answers.stops[k]}")
        above.set(xlim=(-3, 3.6), ylim=(-2.4, 2.8))
        below.set(xlim=(-3, 3.6), ylim=(-2.4, 2.8), xlabel="$x_1$")
    for panel in panels[:, 0]:
        panel.set_ylabel("$x_2$")

    parts, share, paths = bottom.subplots(1, 3)
    total = data.var(0).sum()
    labels = r"known: variance of $\hat x_0$", r"unknown: mean variance of $x_0$ given $x_t$"
    areas = parts.stackplot(answers.stops, answers.known, answers.unknown, labels=labels,
                            colors=("tab:blue", "tab:orange"), edgecolor="white")
    areas[1].set_hatch("///")
    parts.axhline(total, color="black", linestyle="--", linewidth=1, label="variance of the data")
    parts.set(title="the variance of $x_0$ in two parts", ylabel="variance", ylim=(0, 1.4 * total))
    parts.legend(frameon=False, loc="upper left")
    share.plot(answers.stops, answers.off, color="tab:blue", linewidth=2)
    share.set(title=r"answers $\hat x_0$ off the arcs", ylabel="share", ylim=(0, 1.03))
    for panel in (parts, share):
        panel.set(xlabel="timestep t, from noise to data", xlim=(T, 1))
    paths.plot(*data.T, "s", color="0.85", markersize=4, markeredgewidth=0, label="data")
    for n, marker in zip(range(FOLLOWED), MARKERS):
        (line,) = paths.plot(*answers.x0_hat[:, n].T, linewidth=1)
        look = {"color": line.get_color(), "markersize": 8, "markeredgecolor": "black"}
        paths.plot(*answers.x0_hat[-1, n], marker, **look)
    paths.plot(*answers.x0_hat[0, 0], "*", color="black", markersize=12, label="the answer at t = T")
    paths.set(xlim=(-2.1, 3.6), ylim=(-1.8, 2.1), aspect="equal", xlabel="$x_1$", ylabel="$x_2$")
    paths.set_title(rf"$\hat x_0$ along {FOLLOWED} chains, a mark at each end")
    paths.legend(frameon=False, loc="lower left")
    return figure


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
