"""A photograph becomes noise: the variance of its pixels, beside what the variance must be.

One grey photograph of 64x64 pixels, at five timesteps. Some texts count timesteps from 0 and call these 0,
50, 200, 500 and 999. Here t = 1..T, so each t is one more than that index. Each image is one jump from x_0,
with its own noise. Look for three things:

- The variance of the pixels, beside its exact expectation alpha_bar_t var(x_0) + 1 - alpha_bar_t. 4096 pixels
  come within about 0.02 of it. The 64 pixels of 01_forward_chain differ by 0.18. (var divides by 4095, not by
  4096. Only then is the expectation exact.)
- The variance rises to one because the photograph starts below one. Pixels in [-1, 1] always do. Other data
  may start above one, and then it falls.
- The histogram of the pixels, below: two peaks at first, the standard normal curve at last. This shape, and
  not the variance, says that x_T is standard normal. At t = 201 the histogram is a bell already, and you can
  still recognise the face: an image lies in how its pixels depend on each other, and a histogram cannot show
  that.

What to change: --image PICTURE, your own png or jpg. The program cuts out the middle square and makes it
smaller by averaging. Which is the last t at which you can recognise it?

The jump is eq. 4 of [Ho et al. 2020](https://arxiv.org/abs/2006.11239).
"""

from pathlib import Path

import numpy as np
import tyro
from matplotlib.cbook import get_sample_data
from matplotlib.figure import Figure
from matplotlib.image import imread

from npdiff.app.cli import fail
from npdiff.app.figures import save
from npdiff.diffusion import q_sample
from npdiff.rng import generator
from npdiff.schedule import linear

SIZE = 64
INDICES = (0, 50, 200, 500, 999)                # counted from 0; t = index + 1
LUMINANCE = (0.299, 0.587, 0.114)               # how bright red, green and blue look (ITU-R BT.601)


def load_photo(path):
    """The middle square of an image file, grey, scaled to [-1, 1]: float64 (64, 64).

    Each of its pixels is the mean of a block of the file's pixels. Raises FileNotFoundError if there is no
    file, and ValueError if it cannot be read as an image or has a side of less than 64 pixels.
    """
    try:
        pixels = imread(path)       # (H, W), in colour (H, W, 3 or 4); floats in 0..1 or whole numbers
    except FileNotFoundError:
        raise FileNotFoundError(f"image: {path} does not exist; it must be a png or jpg file") from None
    except (OSError, SyntaxError, ValueError) as error:         # a damaged png is a SyntaxError
        raise ValueError(f"image: {path} cannot be read ({error}); it must be a png or jpg file") from None
    pixels = pixels / (1 if pixels.dtype.kind == "f" else np.iinfo(pixels.dtype).max)
    if pixels.ndim == 3:
        pixels = pixels[..., :3] @ LUMINANCE                                      # (H, W)
    H, W = pixels.shape
    block = min(H, W) // SIZE
    if block < 1:
        raise ValueError(f"image: {path} has {W}x{H} pixels; it must have at least {SIZE}x{SIZE}")
    side = block * SIZE
    top, left = (H - side) // 2, (W - side) // 2
    square = pixels[top:top + side, left:left + side]                             # (side, side)
    return 2 * square.reshape(SIZE, block, SIZE, block).mean((1, 3)) - 1          # (64, 64)


def main(image: Path | None = None, seed: int = 0, out: Path = Path("runs/examples")):
    schedule = linear(1000)
    photo = load_photo(image or get_sample_data("grace_hopper.jpg", asfileobj=False))
    t = np.array(INDICES) + 1                                                     # (5,)
    x0 = np.repeat(photo[None], len(t), axis=0)                                   # (5, 64, 64)
    x_t = q_sample(x0, t, generator(seed, "sample").standard_normal(x0.shape), schedule)
    signal, variance = schedule.alpha_bar[t], x_t.var((1, 2), ddof=1)             # (5,) each
    of_photo = photo.var(ddof=1)
    exact = signal * of_photo + (1 - signal)                                      # (5,)
    # For a fixed x_0 the variance of n pixels is itself random. With sigma^2 = 1 - alpha_bar its variance is
    #     2 sigma^2 (sigma^2 + 2 alpha_bar var(x_0)) / (n - 1)
    deviation = (2 * (1 - signal) * (1 - signal + 2 * signal * of_photo) / (photo.size - 1)) ** 0.5

    print(f"x_0: mean {photo.mean():.3f}, variance {of_photo:.4f}")
    print("index     t  alpha_bar  variance  expected  usual distance")
    for n in range(len(t)):
        print(f"{INDICES[n]:5}  {t[n]:4}  {signal[n]:9.5f}  "
              f"{variance[n]:8.4f}  {exact[n]:8.4f}  {deviation[n]:14.4f}")

    figure = draw(x_t, t, variance, exact, schedule)
    print(save(figure, out / "11_photo.png"))
    return {"photo": photo, "x_t": x_t, "variance": variance, "exact": exact, "figure": figure}


def draw(x_t, t, variance, exact, schedule):
    """Above: the images. Below: the histograms of their pixels."""
    figure = Figure(figsize=(14, 5.6), layout="constrained")
    figure.suptitle(f"a photograph becomes noise, linear schedule, T = {schedule.T}")
    images, histograms = figure.subplots(2, len(t), height_ratios=[1.7, 1])
    edges = np.linspace(-3.5, 3.5, 71)
    bell = np.exp(-edges ** 2 / 2) / (2 * np.pi) ** 0.5
    for n in range(len(t)):
        shown = images[n].imshow(x_t[n], cmap="gray", vmin=-2, vmax=2)
        numbers = f"variance {variance[n]:.3f}\nexpected {exact[n]:.3f}"
        images[n].set(xticks=[], yticks=[], title=f"$t = {t[n]}$  (index {INDICES[n]})\n{numbers}")
        histograms[n].hist(x_t[n].ravel(), edges, density=True, color="tab:blue", label="pixels")
        histograms[n].plot(edges, bell, "--", color="black", linewidth=1.5, label="standard normal")
        histograms[n].set(xlim=(-3.5, 3.5), xlabel="value of a pixel")
    histograms[0].set_ylabel("density")
    histograms[0].legend(frameon=False)
    bar = figure.colorbar(shown, ax=images, ticks=[-2, 0, 2], pad=0.01)
    bar.set_label("value of a pixel")
    return figure


if __name__ == "__main__":
    try:
        tyro.cli(main, description=__doc__)
    except (OSError, ValueError) as error:
        fail(error)
