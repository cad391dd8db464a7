"""A photograph walked into noise, and the variance of its pixels beside what it must be.

One photograph, 64x64 and grey, at five timesteps. Texts that count from 0 call them 0, 50, 200, 500 and 999;
here time runs t = 1..T, so ours are one more. Every image is a jump of its own from x_0, with noise of its
own. Look for three things:

- The variance of the pixels against the exact expectation, alpha_bar_t var(x_0) + (1 - alpha_bar_t). 4096
  pixels come within about 0.02 of it; the 64 of 01_forward_chain wobble by 0.18. (var divides by 4095, not
  4096: only then is the expectation exact.)
- It climbs to one because the photograph starts below one. Pixels in [-1, 1] always do; other data may start
  above one, and then it falls.
- Below, the histogram of the pixels: two heaps at first, the standard normal bell at last. That, and not the
  variance, is the mark of x_T. At t = 201 it has a bell's shape already, and you still know the face: what
  makes an image is how pixels hang together, and no histogram sees that.

What to change: --image PICTURE, a png or jpg of your own; the middle square is cut out and averaged down.
Which t is the last at which you know it?
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
    """The image file's middle square, grey, averaged over blocks to 64x64 and scaled to [-1, 1]: float64 (64,
    64).

    Raises FileNotFoundError if there is none, ValueError if it is no image that can be read, or smaller than
    64 pixels a side.
    """
    try:
        # (H, W), or (H, W, 3 or 4) in colour; floats in 0..1 or whole numbers
        pixels = imread(path)
    except FileNotFoundError:
        raise FileNotFoundError(f"image: {path} does not exist; it must be a png or jpg file") from None
    # a damaged png is a SyntaxError
    except (OSError, SyntaxError, ValueError) as error:
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
    exact = signal * photo.var(ddof=1) + (1 - signal)                             # (5,)
    # for x_0 held still, the variance of n pixels itself varies, by 2 sigma^2 (sigma^2 + 2 alpha_bar
    # var(x_0)) / (n - 1) with sigma^2 = 1 - alpha_bar
    wobble = (2 * (1 - signal) * (1 - signal + 2 * signal * photo.var(ddof=1)) / (photo.size - 1)) ** 0.5

    print(
        f"x_0: mean {photo.mean():.3f}, variance {photo.var(ddof=1):.4f}\nindex     t  alpha_bar  variance  "
        f"expected  usual distance"
    )
    for n in range(len(t)):
        print(
            f"{INDICES[n]:5}  {t[n]:4}  {signal[n]:9.5f}  {variance[n]:8.4f}  {exact[n]:8.4f}  "
            f"{wobble[n]:14.4f}"
        )

    figure = Figure(figsize=(13, 5), layout="constrained")
    images, histograms = figure.subplots(2, len(t), height_ratios=[1.7, 1])
    edges = np.linspace(-3.5, 3.5, 71)
    bell = np.exp(-edges ** 2 / 2) / (2 * np.pi) ** 0.5
    for n in range(len(t)):
        images[n].imshow(x_t[n], cmap="gray", vmin=-2, vmax=2)
        images[n].set(title=rf"$t = {t[n]}$  (index {INDICES[n]})", xticks=[], yticks=[])
        images[n].text(
            0.5,
            0.03,
            f"variance {variance[n]:.3f}\nexpected {exact[n]:.3f}",
            transform=images[n].transAxes,
            ha="center",
            va="bottom",
            bbox={"facecolor": "white", "alpha": 0.85, "linewidth": 0},
        )
        histograms[n].hist(x_t[n].ravel(), edges, density=True, color="tab:blue")
        histograms[n].plot(edges, bell, color="tab:orange", linewidth=2)
        histograms[n].set(yticks=[], xlim=(-3.5, 3.5), xlabel="value of a pixel")
    histograms[0].set_ylabel("pixels")
    print(save(figure, out / "11_photo.png"))
    return {"photo": photo, "x_t": x_t, "variance": variance, "exact": exact}


if __name__ == "__main__":
    try:
        tyro.cli(main, description=__doc__)
    except (OSError, ValueError) as error:
        fail(error)
