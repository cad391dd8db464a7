"""The forward chain: an image walked into noise, one small step at a time.

An 8x8 image of zeros with a square of ones goes through T = 1000 steps of q(x_t | x_{t-1}); nothing is
learned. Every step shrinks the image a little and adds a little noise, so the variance of its pixels tends to
one. Look for three things:

- The mean over many walks follows the exact expectation, alpha_bar_t var(x_0) + (1 - alpha_bar_t). (var
  divides by 63, not 64: only then is it exact.)
- It climbs to one only because the image's variance is below one. The same image in three times the contrast
  starts above one, and falls.
- One walk wobbles by 0.18 about the mean, and a variance near one proves nothing about Gaussianity: 64 coin
  tosses of +1 and -1 have it too.

What to change: --walks, and CONTRASTS below. From which contrast on does the curve fall?
"""

from pathlib import Path

import numpy as np
import tyro
from matplotlib.figure import Figure

from npdiff.app.figures import save
from npdiff.diffusion import forward_step
from npdiff.rng import generator
from npdiff.schedule import linear

CONTRASTS = (1, 3)
SHOWN = (0, 50, 200, 500, 1000)


def main(walks: int = 200, seed: int = 0, out: Path = Path("runs/examples")):
    schedule = linear(1000)
    image = np.zeros((8, 8))
    image[2:6, 2:6] = 1
    x0 = np.stack([contrast * image for contrast in CONTRASTS])                   # (2, 8, 8)
    x = np.repeat(x0[:, None], walks, axis=1)                                     # (2, walks, 8, 8)
    frames, variances = [x[0, 0]], [x.var((2, 3), ddof=1)]
    for t in range(1, schedule.T + 1):
        x = forward_step(x, t, generator(seed, "sample", t).standard_normal(x.shape), schedule)
        frames.append(x[0, 0])                                                    # (8, 8)
        variances.append(x.var((2, 3), ddof=1))                                   # (2, walks)
    one_walk = np.array(variances)[:, 0, 0]                                       # (T+1,)
    mean = np.mean(variances, axis=2)                                             # (T+1, 2)
    signal = schedule.alpha_bar[:, None]                                          # (T+1, 1)
    exact = signal * x0.var((1, 2), ddof=1) + (1 - signal)                        # (T+1, 2)

    print("   t  alpha_bar | one walk   mean  exact | contrast x3: mean  exact")
    for t in SHOWN:
        print(
            f"{t:4}  {schedule.alpha_bar[t]:9.5f} | {one_walk[t]:8.3f}  {mean[t, 0]:.3f}  {exact[t, 0]:.3f} "
            f"| {mean[t, 1]:17.3f}  {exact[t, 1]:.3f}"
        )

    figure = Figure(figsize=(10, 6.6), layout="constrained")
    axes = figure.subplot_mosaic(
        [[f"t = {t}" for t in SHOWN], ["curve"] * len(SHOWN)], height_ratios=[1, 1.6]
    )
    for t in SHOWN:
        panel = axes[f"t = {t}"]
        shown = panel.imshow(frames[t], cmap="gray", vmin=-2, vmax=2)
        panel.set(title=f"t = {t}\nvariance {one_walk[t]:.2f}", xticks=[], yticks=[])
    figure.colorbar(shown, ax=[axes[f"t = {t}"] for t in SHOWN], ticks=[-2, 0, 2], pad=0.01)
    curve = axes["curve"]
    curve.axhline(1, color="0.7", linewidth=0.8)
    curve.plot(one_walk, color="0.7", linewidth=1, label="the one walk above")
    curve.plot(SHOWN, one_walk[list(SHOWN)], "o", color="0.5", markersize=5)
    for k, (contrast, colour) in enumerate(zip(CONTRASTS, ("tab:blue", "tab:orange"))):
        curve.plot(
            mean[:, k],
            color=colour,
            linewidth=2.5,
            label=rf"contrast $\times {contrast}$, mean of {walks} walks",
        )
        curve.plot(
            exact[:, k],
            "--",
            color="black",
            linewidth=1,
            label=r"exact: $\bar\alpha_t\,\mathrm{var}(x_0) + 1 - \bar\alpha_t$" if k else None,
        )
    curve.set(xlabel="t", ylabel="variance of the pixels", xlim=(-10, schedule.T + 10), ylim=(0, None))
    curve.legend(frameon=False)
    print(save(figure, out / "01_forward_chain.png"))
    return {"one_walk": one_walk, "mean": mean, "exact": exact}


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
