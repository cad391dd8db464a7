"""Five names, one point: x0, noise, alpha_bar, x_t and the target, each said out loud.

The habit: for every object, name what it is, the shape or axis it changes, and the trade-off it stands for.
Then look at x_t as the sum of two arrows (left), and at one x0 at four noise levels (right): its cloud moves
to the origin, widens, and at last tells almost nothing about x0. The denoiser learns from such corrupted
points, with t, and from nothing else.

Two traps. The forward process makes training problems; it is not the generator. And the target is known here
because we drew the noise ourselves: when sampling, the denoiser sees x_t and t, never a clean x0.

What to change: --alpha-bar, --seed. At which alpha_bar would you no longer bet on the moon that x0 came from?
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

LEVELS = (0.95, 0.7, 0.35, 0.02)
ALOUD = {
    "x0": "The clean sample. Rows are samples, columns coordinates. Training may look at it, sampling may "
    "not.",
    "noise": "Drawn, not learned: one standard normal number for each number of x0. It hides x0, and it is "
    "what we can ask about.",
    "alpha_bar": "The signal's share of power at t. It has no axis: it scales every coordinate alike. The "
    "lower it is, the harder x0 is to guess.",
    "x_t": "The denoiser's input, together with t. The shape of x0, every number moved. Easy to make from "
    "x0, hard to undo.",
    "target": "The answer wanted, which is the noise. The shape of x_t. Worth as much as x0, to which it "
    "leads back, and of unit size at every t.",
}


def main(alpha_bar: float = 0.35, draws: int = 200, seed: int = 0, out: Path = Path("runs/examples")):
    schedule = linear(1000)
    # the nearest timesteps
    t, *levels = (1 + int(abs(schedule.alpha_bar[1:] - level).argmin()) for level in (alpha_bar, *LEVELS))
    x0 = make_moons(1, generator(seed, "data"))                                   # (1, 2)
    noise = generator(seed, "sample").standard_normal(x0.shape)                   # (1, 2)
    x_t = q_sample(x0, t, noise, schedule)                                        # (1, 2)
    point = {"x0": x0, "noise": noise, "alpha_bar": schedule.alpha_bar[t], "x_t": x_t, "target": noise}

    print(
        f"asked for alpha_bar = {alpha_bar:g}: the nearest timestep of the linear schedule with T = "
        f"{schedule.T} is t = {t}"
    )
    for name, value in point.items():
        print(f"{name:9}  {np.shape(value)!s:6}  {np.round(value, 4)}\n           {ALOUD[name]}")
    print(
        f"and back: x_t and the target give x0 = {np.round(x0_from_prediction(x_t, t, noise, schedule), 4)}"
    )

    figure = Figure(figsize=(12, 5.4), layout="constrained")
    axes = figure.subplot_mosaic([["sum", "sum", 0, 1], ["sum", "sum", 2, 3]])
    for name, panel in axes.items():
        panel.plot(*make_moons(1000, generator(seed, "data", 1)).T, ".", color="0.85", markersize=3)
        panel.plot([0, x0[0, 0]], [0, x0[0, 1]], ":", color="tab:blue", zorder=3)
        panel.plot(0, 0, "+", color="black", zorder=3)
        wide = name != "sum"
        panel.set(
            xlim=(-3.4, 3.7) if wide else (-2.2, 3.3),
            ylim=(-3.1, 3.4) if wide else (-2.5, 2.2),
            aspect="equal",
            xticks=[],
            yticks=[],
        )
    kept, added = schedule.a[t] * x0[0], schedule.sigma[t] * noise[0]  # (2,) each
    for start, step, colour, label in (
        ((0, 0), kept, "tab:blue", r"$\sqrt{\bar\alpha_t}\,x_0$, the signal kept"),
        (kept, added, "tab:orange", r"$\sqrt{1 - \bar\alpha_t}\,\epsilon$, the noise added"),
    ):
        axes["sum"].quiver(
            *start,
            *step,
            color=colour,
            label=label,
            angles="xy",
            scale_units="xy",
            scale=1,
            width=0.008,
            zorder=3,
        )
    axes["sum"].plot(*x0.T, "o", color="tab:blue", markersize=8, label="$x_0$, a point of the moons")
    axes["sum"].plot(
        *x_t.T,
        "o",
        color="black",
        markersize=8,
        label="$x_t$, where both arrows lead from the origin (+)",
        zorder=4,
    )
    axes["sum"].set_title(rf"$t = {t}$,  $\bar\alpha_t = {schedule.alpha_bar[t]:.4f}$")
    axes["sum"].legend(frameon=False, loc="lower left")
    for k, s in enumerate(levels):
        # (draws, 2)
        cloud = q_sample(
            np.repeat(x0, draws, 0), s, generator(seed, "sample", 1).standard_normal((draws, 2)), schedule
        )
        axes[k].plot(*cloud.T, ".", color="tab:orange", markersize=3)
        axes[k].plot(*x0.T, "o", color="tab:blue", markersize=6)
        axes[k].set_title(rf"$t = {s}$,  $\bar\alpha_t = {schedule.alpha_bar[s]:.2f}$")
    print(save(figure, out / "03_one_point.png"))
    return point | {"t": t}


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
