"""The closed form: any step of the forward chain in one jump, and a different step for every image of a
batch.

q_sample(x0, t, noise, schedule) is all that training needs from the forward process. Here x0 is four images
(4, 1, 8, 8) with values in [-1, 1], and t is four timesteps, so one call returns four images in the same
shape, each at its own noise level. Texts that count from 0 call these timesteps 10, 250, 600 and 999; here
time runs t = 1..T, so ours are one more.

Look at the titles: x_t = sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) noise, and the squares of the two
coefficients add up to one. The diagonal is gone from sight although a sixth of it is still there. What to
change: INDICES; or `linear` for `cosine`, and see which image comes back.
"""

from pathlib import Path

import numpy as np
import tyro
from matplotlib.figure import Figure

from npdiff.app.figures import save
from npdiff.diffusion import q_sample
from npdiff.rng import generator
from npdiff.schedule import linear

INDICES = (10, 250, 600, 999)       # counted from 0; t = index + 1


def four_images():
    """A square, a cross, a diagonal and a ring, -1 outside and 1 inside: float32 (4, 1, 8, 8)."""
    # (8, 8) each, the centre at 0
    row, column = np.indices((8, 8)) - 3.5
    radius = np.hypot(row, column)
    inside = [
        np.maximum(abs(row), abs(column)) < 2,
        np.minimum(abs(row), abs(column)) < 1,
        abs(row - column) < 1.5,
        abs(radius - 2.6) < 0.8,
    ]
    return np.where(inside, 1, -1).astype(np.float32)[:, None]                    # (4, 1, 8, 8)


def main(seed: int = 0, out: Path = Path("runs/examples")):
    schedule = linear(1000)
    x0 = four_images()                                                            # (4, 1, 8, 8)
    t = np.array(INDICES) + 1                                                     # (4,)
    noise = generator(seed, "sample").standard_normal(x0.shape, np.float32)       # (4, 1, 8, 8)
    x_t = q_sample(x0, t, noise, schedule)                                        # (4, 1, 8, 8)

    print(f"x0 {x0.shape} {x0.dtype}, t {t.shape} -> x_t {x_t.shape} {x_t.dtype}")
    print("index     t  alpha_bar  sqrt(alpha_bar)  sqrt(1 - alpha_bar)  mean of x_t  std of x_t")
    for n in range(4):
        print(f"{INDICES[n]:5}  {t[n]:4}  {schedule.alpha_bar[t[n]]:9.5f}  {schedule.a[t[n]]:15.4f}  "
              f"{schedule.sigma[t[n]]:19.4f}  {x_t[n].mean():11.3f}  {x_t[n].std():10.3f}")

    figure = Figure(figsize=(10, 5.6), layout="constrained")
    axes = figure.subplots(2, 4)
    for n in range(4):
        axes[0, n].imshow(x0[n, 0], cmap="gray", vmin=-2, vmax=2)
        axes[0, n].set_title(
            rf"$t = {t[n]}$  (index {INDICES[n]})" "\n" rf"$\bar\alpha_t = {schedule.alpha_bar[t[n]]:.5f}$"
        )
        shown = axes[1, n].imshow(x_t[n, 0], cmap="gray", vmin=-2, vmax=2)
        axes[1, n].set_title(rf"${schedule.a[t[n]]:.3f}\,x_0 + {schedule.sigma[t[n]]:.3f}\,\epsilon$")
    for panel in axes.flat:
        panel.set(xticks=[], yticks=[])
    axes[0, 0].set_ylabel("$x_0$", fontsize=14, rotation=0, labelpad=16)
    axes[1, 0].set_ylabel("$x_t$", fontsize=14, rotation=0, labelpad=16)
    figure.colorbar(shown, ax=axes, ticks=[-2, -1, 0, 1, 2], pad=0.015, aspect=30)
    print(save(figure, out / "02_q_sample.png"))
    return {"x0": x0, "t": t, "noise": noise, "x_t": x_t}


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
