"""The closed form: every timestep in one jump, and another timestep for each image of a batch.

q_sample(x0, t, noise, schedule) is all that training needs from the forward chain:
    x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) noise
It is eq. 4 of [Ho et al. 2020](https://arxiv.org/abs/2006.11239). Here x_0 is four images (4, 1, 8, 8) with
values -1 and 1, and t is four timesteps. One call returns four images of the same shape, each at its own
noise level. Some texts count timesteps from 0 and call these 10, 250, 600 and 999. Here t = 1..T, so each t
is one more than that index.

Look at the two numbers above each x_t: their squares add up to one. In the third image you cannot see the
diagonal any more, though it is there with the factor 0.16.

What to change: INDICES. Or `cosine` in the place of `linear`: which image can you see again?
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
    row, column = np.indices((8, 8)) - 3.5              # (8, 8) each; the centre of the image is (0, 0)
    radius = np.hypot(row, column)
    inside = [
        np.maximum(abs(row), abs(column)) < 2,          # square
        np.minimum(abs(row), abs(column)) < 1,          # cross
        abs(row - column) < 1.5,                        # diagonal
        abs(radius - 2.6) < 0.8,                        # ring
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

    figure = draw(x0, x_t, t, schedule)
    print(save(figure, out / "02_q_sample.png"))
    return {"x0": x0, "t": t, "noise": noise, "x_t": x_t, "figure": figure}


def draw(x0, x_t, t, schedule):
    """Above: x_0. Below: x_t, with its formula in numbers."""
    figure = Figure(figsize=(10, 6), layout="constrained")
    figure.suptitle(f"four images at four timesteps, linear schedule, T = {schedule.T}")
    axes = figure.subplots(2, 4)
    for n, (above, below) in enumerate(axes.T):
        above.imshow(x0[n, 0], cmap="gray", vmin=-2, vmax=2)
        alpha_bar = rf"$\bar\alpha_t = {schedule.alpha_bar[t[n]]:.5f}$"
        above.set_title(f"$t = {t[n]}$  (index {INDICES[n]})\n{alpha_bar}")
        shown = below.imshow(x_t[n, 0], cmap="gray", vmin=-2, vmax=2)
        below.set_title(rf"$x_t = {schedule.a[t[n]]:.3f}\,x_0 + {schedule.sigma[t[n]]:.3f}\,\epsilon$")
    for panel in axes.flat:
        panel.set(xticks=[], yticks=[])
    for panel, label in zip(axes[:, 0], ("$x_0$", "$x_t$")):
        panel.set_ylabel(label, fontsize=14, rotation=0, labelpad=16)
    bar = figure.colorbar(shown, ax=axes, ticks=[-2, -1, 0, 1, 2], pad=0.015, aspect=30)
    bar.set_label("value of a pixel")
    return figure


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
