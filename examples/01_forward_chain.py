"""The forward chain: an image becomes noise in many small steps.

The image has 8x8 pixels: zeros, and a square of ones. It goes through T = 1000 steps of q(x_t | x_{t-1}).
Nothing is learned here. Each step makes the image a little weaker and adds a little noise. Look for three
things:

- The mean over many chains follows the exact expectation, alpha_bar_t var(x_0) + 1 - alpha_bar_t. (var
  divides by 63, not by 64. Only then is the expectation exact.)
- The variance rises to one because the image starts below one. The same image with three times the contrast
  starts above one, and its variance falls.
- The variance of one chain differs from the mean by about 0.18. And a variance of one does not make pixels
  normal: the numbers +1 and -1, chosen at random, have it too.

What to change: --walks, the number of chains, and CONTRASTS below. From which contrast on does the curve
fall?

The step is eq. 2 of [Ho et al. 2020](https://arxiv.org/abs/2006.11239).
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
STYLES = ({"color": "tab:blue", "marker": "o"}, {"color": "tab:orange", "marker": "s"})
SHOWN = (0, 50, 200, 500, 1000)         # timesteps whose image is drawn


def main(walks: int = 200, seed: int = 0, out: Path = Path("runs/examples")):
    schedule = linear(1000)
    image = np.zeros((8, 8))
    image[2:6, 2:6] = 1
    x0 = np.stack([contrast * image for contrast in CONTRASTS])                   # (2, 8, 8)
    x = np.repeat(x0[:, None], walks, axis=1)                                     # (2, walks, 8, 8)
    frames, variances = [x[0, 0]], [x.var((2, 3), ddof=1)]
    for t in range(1, schedule.T + 1):
        noise = generator(seed, "sample", t).standard_normal(x.shape)
        x = forward_step(x, t, noise, schedule)
        frames.append(x[0, 0])                                                    # (8, 8)
        variances.append(x.var((2, 3), ddof=1))                                   # (2, walks)
    one_walk = np.array(variances)[:, 0, 0]                                       # (T+1,)
    mean = np.mean(variances, axis=2)                                             # (T+1, 2)
    signal = schedule.alpha_bar[:, None]                                          # (T+1, 1)
    exact = signal * x0.var((1, 2), ddof=1) + (1 - signal)                        # (T+1, 2)

    print("   t  alpha_bar | one walk   mean  exact | contrast x3: mean  exact")
    for t in SHOWN:
        low = f"{one_walk[t]:8.3f}  {mean[t, 0]:.3f}  {exact[t, 0]:.3f}"
        high = f"{mean[t, 1]:17.3f}  {exact[t, 1]:.3f}"
        print(f"{t:4}  {schedule.alpha_bar[t]:9.5f} | {low} | {high}")

    figure = draw(frames, one_walk, mean, exact, walks)
    print(save(figure, out / "01_forward_chain.png"))
    return {"one_walk": one_walk, "mean": mean, "exact": exact, "figure": figure}


def draw(frames, one_walk, mean, exact, walks):
    """Above: one chain's images. Below: the variance of the pixels at every t."""
    T = len(one_walk) - 1
    figure = Figure(figsize=(10, 6.9), layout="constrained")
    figure.suptitle(f"the forward chain, linear schedule, T = {T}")
    images = [f"t = {t}" for t in SHOWN]
    axes = figure.subplot_mosaic([images, ["curve"] * len(SHOWN)], height_ratios=[1, 1.6])
    for t, name in zip(SHOWN, images):
        shown = axes[name].imshow(frames[t], cmap="gray", vmin=-2, vmax=2)
        axes[name].set(title=f"$x_{{{t}}}$, variance {one_walk[t]:.2f}", xticks=[], yticks=[])
    bar = figure.colorbar(shown, ax=[axes[name] for name in images], ticks=[-2, 0, 2], pad=0.01)
    bar.set_label("value of a pixel")

    curve = axes["curve"]
    curve.axhline(1, color="0.7", linewidth=0.8)
    curve.plot(one_walk, color="0.7", linewidth=1, label="the chain above, contrast 1")
    for k, (contrast, style) in enumerate(zip(CONTRASTS, STYLES)):
        label = f"contrast {contrast}, mean of {walks} chains"
        curve.plot(mean[:, k], **style, markevery=100, linewidth=2.5, label=label)
        label = r"exact: $\bar\alpha_t\,\mathrm{var}(x_0) + 1 - \bar\alpha_t$" if k == 0 else None
        curve.plot(exact[:, k], "--", color="black", linewidth=1, label=label)
    curve.set(xlabel="timestep t", ylabel="variance of the pixels", xlim=(-10, T + 10), ylim=(0, None))
    curve.legend(frameon=False)
    return figure


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
