"""Pictures: each function draws one and returns a Picture, a matplotlib Figure that a notebook shows.

save and save_gif write a picture whole or not at all. Points (n, D) and images (n, C, H, W) are NumPy arrays.
A chain is a list of (t, x), from noise to data. Curves and markers differ in more than their colour. The
user's own matplotlib settings change nothing here, and are left as they are.
"""

import io
import os
import sys
from functools import wraps
from pathlib import Path

import numpy as np

from npdiff.data.files import written_whole

try:
    import matplotlib
except ValueError:      # the user's settings cannot be read, or name an unknown backend: without them
    settings = {name: os.environ.pop(name, None) for name in ("MPLBACKEND", "MATPLOTLIBRC")}
    os.environ["MATPLOTLIBRC"] = os.devnull
    for module in [module for module in sys.modules if module.startswith("matplotlib")]:
        del sys.modules[module]                     # what the failed import left
    import matplotlib
    del os.environ["MATPLOTLIBRC"]
    os.environ |= {name: value for name, value in settings.items() if value is not None}
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

DATA_COLOUR, SAMPLE_COLOUR, NOISE_COLOUR = "0.75", "tab:blue", "tab:orange"
PLAIN = {name: value for name, value in matplotlib.rcParamsDefault.items()
         if not name.startswith("backend")}


def plainly(function):
    """The function under matplotlib's default settings."""
    @wraps(function)
    def drawn(*arguments, **keywords):
        with matplotlib.rc_context(PLAIN):
            return function(*arguments, **keywords)
    return drawn


class Picture(Figure):
    """A Figure that is drawn plainly, and that a notebook shows where it is the value of a cell."""

    @plainly
    def savefig(self, *arguments, **keywords):
        """As Figure.savefig."""
        return super().savefig(*arguments, **keywords)

    def _repr_png_(self):
        png = io.BytesIO()
        self.savefig(png, dpi=80)
        return png.getvalue()


def figure(columns=1, rows=1, width=5.0, height=4.0):
    """-> (Picture, axes as a flat list), each panel width x height inches."""
    fig = Picture(figsize=(columns * width, rows * height), layout="constrained")
    FigureCanvasAgg(fig)
    axes = fig.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
    return fig, list(axes.flat)


def save(fig, path):
    """Write the figure to path, whole. The ending of path names the format. Returns path as a Path.

    The folder is made where it is missing. Raises OSError where the file cannot be written.
    """
    with written_whole(path) as temporary:
        fig.savefig(temporary, dpi=120)
    return Path(path)


def points_panel(axis, x, data, title="", window=None):
    """Samples x (n, D) over data (m, D) or None, the first two coordinates of each.

    The data is a broad light band of squares, the samples are small dark points: one does not hide the other.
    window is ((left, right), (bottom, top)), all of x and data unless given.
    """
    if data is not None:
        axis.scatter(*plane(data).T, s=26, marker="s", color=DATA_COLOUR, linewidths=0, label="data")
    artist = axis.scatter(*plane(x).T, s=2.5, marker="o", color=SAMPLE_COLOUR, linewidths=0, label="samples")
    xlim, ylim = window or window_of(x, data)
    alike = 1 / 3 < (xlim[1] - xlim[0]) / (ylim[1] - ylim[0]) < 3 and x.shape[1] > 1
    axis.set(title=title, xlim=xlim, ylim=ylim, aspect="equal" if alike else "auto",
             xlabel="first coordinate",
             ylabel="second coordinate" if x.shape[1] > 1 else "sample's place in the batch, 0..1")
    return artist


def plane(x):
    """Where points (n, D) lie in a picture, (n, 2): their first two coordinates.

    Points of one coordinate get their place in the batch, 0..1, as the second.
    """
    return x[:, :2] if x.shape[1] > 1 else np.column_stack([x[:, 0], np.linspace(0, 1, len(x))])


def window_of(*clouds):
    """((left, right), (bottom, top)) of all points of the clouds that are not None, with a margin."""
    points = np.concatenate([plane(cloud) for cloud in clouds if cloud is not None])
    low, high = np.nanpercentile(points, [0.1, 99.9], axis=0)
    margin = 0.08 * np.maximum(high - low, 1e-6)
    return tuple(zip(low - margin, high + margin, strict=True))


@plainly
def loss_curve(steps, losses, every, title, floor=None, ylabel="loss"):
    """Mean loss against the training step: points are means of `every` steps, the line their running mean.

    floor is the smallest loss that any network can have, a float, where it is known.
    """
    fig, (axis,) = figure(width=6)
    window = max(1, len(losses) // 20)
    running = np.convolve(losses, np.ones(window) / window, "valid")
    axis.plot(steps, losses, ".", markersize=3, color="0.6", label=f"mean of {every} steps")
    axis.plot(steps[window - 1:], running, color=SAMPLE_COLOUR, label=f"mean of {every * window:,} steps")
    settled = losses[len(losses) // 10:]
    if floor is not None:
        label = f"smallest possible loss, {floor:.4f}"
        axis.axhline(floor, color="0", linewidth=1, linestyle="--", label=label)
        settled = [*settled, floor]
    margin = max(0.1 * (max(settled) - min(settled)), 0.01)
    axis.set(title=title, xlabel="training step", ylabel=ylabel,
             ylim=(min(settled) - margin, max(settled) + margin))
    axis.legend(frameon=False)
    return fig


@plainly
def samples_over_data(x, data, title):
    """The samples x (n, D) over the data (m, D), or alone if data is None."""
    fig, (axis,) = figure(width=6, height=5.4)
    points_panel(axis, x, data, title)
    axis.legend(frameon=False, markerscale=2, loc="lower left")
    return fig


@plainly
def filmstrip(chain, data, title=None):
    """The samples of a chain over the data (m, D), a panel for each (t, x). All panels have the same axes."""
    fig, axes = figure(columns=len(chain), width=2.6, height=3.2)
    fig.suptitle(title)
    window = window_of(*(x for _, x in chain), data)
    for axis, (t, x) in zip(axes, chain, strict=True):
        points_panel(axis, x, data, f"$x_{{{t}}}$", window)
        axis.locator_params(nbins=4)
        axis.tick_params(labelsize=8)
    for axis in axes[1:]:
        axis.set(ylabel=None, yticklabels=[])
    axes[-1].legend(frameon=False, markerscale=2, loc="lower left", fontsize=8)
    return fig


@plainly
def schedule_curves(schedule, title):
    """A schedule over t: the weights of data and noise in x_t, beta, and the signal-to-noise ratio."""
    fig, (shares, beta, snr) = figure(columns=3, width=3.8, height=3.2)
    t = np.arange(schedule.T + 1)
    shares.plot(t, schedule.alpha_bar, color=SAMPLE_COLOUR, label=r"data, $\bar\alpha_t$")
    shares.plot(t, 1 - schedule.alpha_bar, "--", color=NOISE_COLOUR, label=r"noise, $1 - \bar\alpha_t$")
    shares.set(title=title, xlabel="timestep t", ylabel="squared weight in $x_t$", ylim=(0, 1))
    shares.legend(frameon=False)
    beta.plot(t[1:], schedule.beta[1:], color=NOISE_COLOUR, label=r"$\beta_t$")
    beta.plot(t[2:], schedule.posterior_variance[2:], "--", color="0.2", label="posterior variance")
    beta.set(title="noise of one step", xlabel="timestep t", ylabel="variance of the noise", ylim=(0, None))
    beta.legend(frameon=False)
    snr.semilogy(t[1:], schedule.snr[1:], color=SAMPLE_COLOUR)
    snr.set(title="signal-to-noise ratio", xlabel="timestep t",
            ylabel=r"$\bar\alpha_t \, / \, (1 - \bar\alpha_t)$")
    return fig


@plainly
def comparison(names, steps, losses, parameters, title):
    """Two backends trained on the same batches: both losses, and the distance of losses and parameters.

    losses (steps, 2); parameters (steps,) are relative distances, nan where not taken.
    """
    fig, (curves, distance) = figure(columns=2, width=5.5)
    steps, losses, parameters = np.asarray(steps), np.asarray(losses), np.asarray(parameters)
    window = max(1, len(steps) // 50)
    lines = ({"color": SAMPLE_COLOUR, "linewidth": 3}, {"color": "0", "linewidth": 1, "linestyle": "--"})
    for name, column, line in zip(names, losses.T, lines, strict=True):
        mean = np.convolve(column, np.ones(window) / window, "valid")
        curves.plot(steps[window - 1:], mean, label=name, **line)
    curves.set(title=title, xlabel="training step", ylabel=f"loss (mean of {window} steps)")
    curves.legend(frameon=False)
    taken = np.isfinite(parameters)
    distance.semilogy(steps[taken], parameters[taken], color=SAMPLE_COLOUR, label="all parameters")
    difference = abs(losses[:, 0] - losses[:, 1]) / losses[:, 0]
    shown = difference > 0                                  # a logarithmic axis has no zero
    distance.semilogy(steps[shown], difference[shown], ".", markersize=2, color=NOISE_COLOUR, label="loss")
    distance.set(title=f"difference of {names[1]} from {names[0]}", xlabel="training step",
                 ylabel="relative difference")
    distance.legend(frameon=False, markerscale=4)
    return fig


@plainly
def loss_buckets(edges, losses, title, floor=None, ylabel="loss"):
    """The mean loss of each bucket of timesteps, edges[i] < t <= edges[i + 1], as bars.

    floor (T + 1,) is the smallest possible loss at each t, where it is known. Its mean over a bucket is a
    line across the bar: a better network can lower the bar to this line, and no further.
    """
    fig, (axis,) = figure(width=6)
    label = "mean loss in the bucket"
    bars = {"align": "edge", "color": "#9ecae1", "edgecolor": "white", "label": label}
    axis.bar(edges[:-1], losses, np.diff(edges), **bars)
    if floor is not None:
        means = [floor[first + 1:last + 1].mean() for first, last in zip(edges[:-1], edges[1:])]
        label = "smallest possible mean loss in the bucket"
        axis.hlines(means, edges[:-1], edges[1:], color="0", linewidth=2, label=label)
        label = "smallest possible loss at each t"
        axis.plot(np.arange(1, len(floor)), floor[1:], ":", color="0.3", label=label)
    axis.set(title=title, xlabel="timestep t", ylabel=ylabel)
    axis.legend(frameon=False)
    return fig


def tiles(images, columns):
    """Images side by side, a pixel apart, in rows of `columns`: (height, width, 3) in [0, 1].

    images (n, C, H, W), C = 1 (grey) or 3 (red, green, blue). -1 is dark and 1 is light; values outside are
    clipped.
    """
    n, C, H, W = images.shape
    rows = -(-n // columns)
    sheet = np.ones((rows * columns, 3, H + 1, W + 1))
    sheet[:n, :, :H, :W] = (images.clip(-1, 1) + 1) / 2                 # one grey channel becomes three
    sheet = sheet.reshape(rows, columns, 3, H + 1, W + 1)
    sheet = sheet.transpose(0, 3, 1, 4, 2)                              # (rows, H+1, columns, W+1, 3)
    sheet = sheet.reshape(rows * (H + 1), columns * (W + 1), 3)
    return sheet[:-1, :-1]


def image_panel(axis, images, columns, title=""):
    """Show images (n, C, H, W) as tiles, in rows of `columns`."""
    artist = axis.imshow(tiles(images, columns), interpolation="nearest")
    axis.set(title=title, xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
    return artist


SCALE = "pixel values: -1 is black, 1 is white"


@plainly
def image_grid(images, columns, title):
    """Images (n, C, H, W) in rows of `columns`."""
    rows = -(-len(images) // columns)
    fig, (axis,) = figure(width=6.4, height=6.4 * rows / columns + 0.8)
    image_panel(axis, images, columns, title)
    axis.set_xlabel(SCALE, fontsize=8)
    return fig


@plainly
def image_filmstrip(chain, title=None):
    """The images of a chain, a column for each (t, x): the column called x_t shows x_t."""
    _, x = chain[0]
    fig, axes = figure(columns=len(chain), width=1.3, height=1.3 * len(x) + 0.9)
    fig.suptitle(title)
    for axis, (t, x) in zip(axes, chain, strict=True):
        image_panel(axis, x, 1, f"$x_{{{t}}}$")
    fig.supxlabel(SCALE, fontsize=8)
    return fig


@plainly
def images_by_class(images, labels, names, title=None):
    """Images (n, C, H, W) with labels (n,): one column for each class, under its name."""
    columns = [images[labels == k] for k in range(len(names))]
    fig, axes = figure(columns=len(names), width=0.85, height=0.82 * max(map(len, columns)) + 0.9)
    fig.suptitle(title)
    for axis, column, name in zip(axes, columns, names, strict=True):
        image_panel(axis, column, 1)
        axis.set_title(name, fontsize=8)
    fig.supxlabel(SCALE, fontsize=8)
    return fig


@plainly
def save_points_gif(chain, data, path, title=""):
    """Write a GIF of a chain, x (n, D) over the data (m, D). Returns path."""
    fig, (axis,) = figure(width=4.4, height=4.2)
    _, x = chain[0]
    artist = points_panel(axis, x, data, window=window_of(*(x for _, x in chain), data))
    axis.legend(frameon=False, markerscale=2, loc="lower left", fontsize=8)
    return save_gif(fig, axis, lambda x: artist.set_offsets(plane(x)), chain, path, title)


@plainly
def save_images_gif(chain, path, title=""):
    """Write a GIF of a chain, x (16, C, H, W). Returns path."""
    fig, (axis,) = figure(width=4.2, height=4.8)
    _, x = chain[0]
    artist = image_panel(axis, x, 4)
    axis.set_xlabel(SCALE, fontsize=8)
    return save_gif(fig, axis, lambda x: artist.set_data(tiles(x, 4)), chain, path, title)


@plainly
def save_gif(fig, axis, show, chain, path, title="", frames=60, fps=20):
    """Write a GIF of the chain in `frames` evenly spread frames; the last stays for a second. Returns path.

    show(x) draws a frame. `title` stands over each frame, and below it the frame's t.
    """
    fig.set_dpi(90)
    pictures = []
    for i in range(frames):
        t, x = chain[round(i * (len(chain) - 1) / (frames - 1))]
        axis.set_title(f"{title}\nt = {t}".lstrip(), fontsize=9)
        show(x)
        fig.canvas.draw()
        fig.set_layout_engine("none")           # to lay out every frame would take most of the time
        pictures.append(Image.fromarray(np.asarray(fig.canvas.buffer_rgba())).convert("RGB"))
    milliseconds = [1000 // fps] * (frames - 1) + [1000]
    with written_whole(path) as temporary:
        pictures[0].save(temporary, save_all=True, append_images=pictures[1:], duration=milliseconds, loop=0)
    return Path(path)
