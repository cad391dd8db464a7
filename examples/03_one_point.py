"""Five names, one point: x0, noise, alpha_bar, x_t and the target, each with its shape and its meaning.

For each of the five the program prints what it is, its shape, and what it is good for. The left picture shows
x_t as the sum of two arrows. The right pictures show one x0 at four noise levels: its cloud moves to the
origin and widens, and in the last one x_t says almost nothing about x0. The denoiser learns from such points
x_t and their t, and from nothing else.

Two mistakes to avoid. The forward process makes the training problems; it does not make samples. And the
target is known here because we drew the noise ourselves. In sampling the denoiser gets x_t and t, and nobody
knows a clean x0.

What to change: --alpha-bar, --seed. At which alpha_bar can you no longer guess from which moon x0 came?

x_t is eq. 4 of [Ho et al. 2020](https://arxiv.org/abs/2006.11239), and the target that of its eq. 14.
"""

from pathlib import Path

import numpy as np
import tyro
from matplotlib.figure import Figure

from npdiff.app.figures import save
from npdiff.data.moons import make_moons
from npdiff.diffusion import q_sample, x0_from_prediction
from npdiff.rng import generator
from npdiff.schedule import linear

LEVELS = (0.95, 0.7, 0.35, 0.02)        # values of alpha_bar of the four clouds
MEANING = {
    "x0": "The clean point. Rows are points, columns are coordinates. Training may use it, sampling may not.",
    "noise": "Drawn, not learned: one standard normal number for each number of x0.",
    "alpha_bar": "The data's share of the variance at t. One number for all coordinates. "
                 "The smaller it is, the harder it is to find x0.",
    "x_t": "The denoiser's input, together with t. It has the shape of x0. "
           "Easy to make from x0, hard to undo.",
    "target": "The answer that the denoiser should give: the noise. It has the shape of x_t. "
              "With x_t it gives x0 back, and it has the same size at every t.",
}


def main(alpha_bar: float = 0.35, draws: int = 200, seed: int = 0, out: Path = Path("runs/examples")):
    schedule = linear(1000)
    t, *levels = (nearest_timestep(schedule, level) for level in (alpha_bar, *LEVELS))
    x0 = make_moons(1, generator(seed, "data"))                                   # (1, 2)
    noise = generator(seed, "sample").standard_normal(x0.shape)                   # (1, 2)
    x_t = q_sample(x0, t, noise, schedule)                                        # (1, 2)
    point = {"x0": x0, "noise": noise, "alpha_bar": schedule.alpha_bar[t], "x_t": x_t, "target": noise}
    many = np.repeat(x0, draws, 0)                                                # (draws, 2)
    noises = generator(seed, "sample", 1).standard_normal((draws, 2))
    clouds = {s: q_sample(many, s, noises, schedule) for s in levels}             # t -> (draws, 2)

    print(f"asked for alpha_bar = {alpha_bar:g}: "
          f"the nearest timestep of the linear schedule with T = {schedule.T} is t = {t}")
    for name, value in point.items():
        print(f"{name:9}  {np.shape(value)!s:6}  {np.round(value, 4)}\n           {MEANING[name]}")
    back = x0_from_prediction(x_t, t, noise, schedule)
    print(f"and back: x_t and the target give x0 = {np.round(back, 4)}")

    data = make_moons(1000, generator(seed, "data", 1))                           # (1000, 2)
    figure = draw(point, t, clouds, data, schedule)
    print(save(figure, out / "03_one_point.png"))
    return point | {"t": t, "figure": figure}


def nearest_timestep(schedule, alpha_bar):
    """The t in 1..T whose alpha_bar is nearest to the one asked for."""
    return 1 + int(abs(schedule.alpha_bar[1:] - alpha_bar).argmin())


def draw(point, t, clouds, data, schedule):
    """Left: x_t as a sum of two arrows. Right: a cloud of x_t for each noise level."""
    x0, noise, x_t = point["x0"][0], point["noise"][0], point["x_t"][0]           # (2,) each
    figure = Figure(figsize=(12.6, 5.8), layout="constrained")
    figure.suptitle(f"one point of the moons, linear schedule, T = {schedule.T}")
    first, second, third, fourth = clouds
    axes = figure.subplot_mosaic([["sum", "sum", first, second], ["sum", "sum", third, fourth]])
    for panel in axes.values():
        panel.plot(*data.T, "s", color="0.85", markersize=4, markeredgewidth=0, label="data")
        panel.plot(*x0, "o", color="tab:blue", markersize=8, label="$x_0$, a point of the data", zorder=4)
        panel.plot(0, 0, "+", color="black", markersize=10, label="origin", zorder=4)
        panel.set(xlabel="$x_1$", ylabel="$x_2$", aspect="equal")

    arrows = axes["sum"]
    kept, added = schedule.a[t] * x0, schedule.sigma[t] * noise                   # (2,) each
    for start, step, colour, label, up in (
        (np.zeros(2), kept, "tab:blue", r"$\sqrt{\bar\alpha_t}\,x_0$", -26),
        (kept, added, "tab:orange", r"$\sqrt{1 - \bar\alpha_t}\,\epsilon$", 14),
    ):
        shape = {"arrowstyle": "-|>", "color": colour, "linewidth": 3, "mutation_scale": 18,
                 "shrinkA": 0, "shrinkB": 0}
        arrows.annotate("", start + step, start, arrowprops=shape, zorder=3)
        middle = start + step / 2
        arrows.annotate(label, middle, (0, up), textcoords="offset points", ha="center", fontsize=12)
    arrows.plot([0, x0[0]], [0, x0[1]], ":", color="tab:blue", zorder=2)
    arrows.plot(*x_t, "D", color="black", markersize=8, label="$x_t$, the sum of both arrows", zorder=4)
    alpha_bar = rf"$\bar\alpha_t = {schedule.alpha_bar[t]:.4f}$"
    arrows.set(xlim=(-2.2, 3.3), ylim=(-2.7, 2.2), title=f"$x_t$ at $t = {t}$,  {alpha_bar}")
    arrows.legend(frameon=False, loc="lower left")
    for s, cloud in clouds.items():
        axes[s].plot(*cloud.T, "x", color="tab:orange", markersize=3, label="$x_t$")
        axes[s].set_title(rf"$t = {s}$,  $\bar\alpha_t = {schedule.alpha_bar[s]:.2f}$")
        axes[s].set(xlim=(-3.4, 3.7), ylim=(-3.1, 3.4))
    return figure


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
