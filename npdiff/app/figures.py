"""Pictures: each function draws one and returns a matplotlib Figure; save and save_gif write them whole or
not at all.
"""

from pathlib import Path

import numpy as np
from matplotlib.animation import PillowWriter
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from npdiff.data.files import written_whole

DATA_COLOUR, SAMPLE_COLOUR, NOISE_COLOUR = "0.75", "tab:blue", "tab:orange"


def figure(columns=1, rows=1, width=5.0, height=4.0):
    """-> (Figure, axes as a flat list), each panel width x height inches."""
    fig = Figure(figsize=(columns * width, rows * height), layout="constrained")
    FigureCanvasAgg(fig)
    axes = fig.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
    return fig, list(axes.flat)


def save(fig, path):
    """Write the figure to path (its ending names the format) under a temporary name, then rename; the folder
    is made where it is missing. Returns path.
    """
    with written_whole(path) as temporary:
        fig.savefig(temporary, dpi=120)
    return Path(path)


def points_panel(axis, x, data, title):
    """Samples x (n, 2) over data (m, 2), on axes that hold the moons and a standard normal cloud.

    The data is a broad light band of squares, the samples are small dark points: one does not hide the other.
    """
    axis.scatter(*data.T, s=26, marker="s", color=DATA_COLOUR, linewidths=0, label="data")
    artist = axis.scatter(*x.T, s=2.5, marker="o", color=SAMPLE_COLOUR, linewidths=0, label="samples")
    axis.set(title=title, xlim=(-3.2, 4.2), ylim=(-3.2, 3.2), aspect="equal")
    return artist


def loss_curve(steps, losses, every, title, floor=None, ylabel="loss"):
    """Mean loss against the training step: points are means of `every` steps, the line their running mean.

    floor is the smallest loss that any network can have, where it is known.
    """
    fig, (axis,) = figure(width=6)
    window = max(1, len(losses) // 20)
    running = np.convolve(losses, np.ones(window) / window, "valid")
    axis.plot(steps, losses, ".", markersize=3, color="0.6", label=f"mean of {every} steps")
    axis.plot(steps[window - 1:], running, color=SAMPLE_COLOUR, label=f"mean of {every * window:,} steps")
    settled = losses[len(losses) // 10:]
    if floor is not None:
        axis.axhline(floor, color="0", linewidth=1, linestyle="--", label=f"Bayes floor, {floor:.4f}")
        settled = [*settled, floor]
    margin = max(0.1 * (max(settled) - min(settled)), 0.01)
    axis.set(title=title, xlabel="training step", ylabel=ylabel,
             ylim=(min(settled) - margin, max(settled) + margin))
    axis.legend(frameon=False)
    return fig


def samples_over_data(x, data, title):
    """The samples x (n, 2) over the data (m, 2)."""
    fig, (axis,) = figure(width=6, height=5.4)
    points_panel(axis, x, data, title)
    axis.set(xlabel="$x_1$", ylabel="$x_2$")
    axis.legend(frameon=False, markerscale=2, loc="lower left")
    return fig


def filmstrip(chain, data):
    """The panels of a chain, a list of (t, x): from noise to data. All have the same axes."""
    fig, axes = figure(columns=len(chain), width=2.6, height=2.8)
    for axis, (t, x) in zip(axes, chain):
        points_panel(axis, x, data, f"$x_{{{t}}}$")
        axis.set(xticks=[-2, 0, 2, 4], yticks=[-2, 0, 2])
        axis.tick_params(labelsize=7)
    for axis in axes[1:]:
        axis.set(yticklabels=[])
    axes[0].set(ylabel="$x_2$")
    axes[0].legend(frameon=False, markerscale=2, loc="lower left", fontsize=7)
    fig.supxlabel("$x_1$", fontsize=9)
    return fig


def schedule_curves(schedule, title):
    """A schedule over t: the shares of data and noise in x_t, beta, and the signal-to-noise ratio."""
    fig, (shares, beta, snr) = figure(columns=3, width=3.8, height=3.2)
    t = np.arange(schedule.T + 1)
    shares.plot(t, schedule.alpha_bar, color=SAMPLE_COLOUR, label=r"data, $\bar\alpha_t$")
    shares.plot(t, 1 - schedule.alpha_bar, "--", color=NOISE_COLOUR, label=r"noise, $1 - \bar\alpha_t$")
    shares.set(title=title, xlabel="timestep t", ylabel="share of the variance of $x_t$", ylim=(0, 1))
    shares.legend(frameon=False)
    beta.plot(t[1:], schedule.beta[1:], color=NOISE_COLOUR, label=r"$\beta_t$")
    beta.plot(t[2:], schedule.posterior_variance[2:], "--", color="0.2", label="posterior variance")
    beta.set(title="noise of one step", xlabel="timestep t", ylabel="variance", ylim=(0, None))
    beta.legend(frameon=False)
    snr.semilogy(t[1:], schedule.snr[1:], color=SAMPLE_COLOUR)
    snr.set(title="signal-to-noise ratio", xlabel="timestep t",
            ylabel=r"$\bar\alpha_t \, / \, (1 - \bar\alpha_t)$")
    return fig


def comparison(names, steps, losses, parameters, title):
    """Two backends trained on the same batches: both losses, and the distance of losses and parameters.

    losses (steps, 2); parameters (steps,) are relative distances, nan where not taken.
    """
    fig, (curves, distance) = figure(columns=2, width=5.5)
    steps, losses, parameters = np.asarray(steps), np.asarray(losses), np.asarray(parameters)
    window = max(1, len(steps) // 50)
    lines = ({"color": SAMPLE_COLOUR, "linewidth": 3}, {"color": "0", "linewidth": 1, "linestyle": "--"})
    for name, column, line in zip(names, losses.T, lines):
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


def loss_buckets(edges, losses, title, floor=None, ylabel="loss"):
    """The mean loss of each bucket of timesteps, edges[i] < t <= edges[i + 1], as bars.

    floor (T + 1,) is the smallest possible loss at each t, where it is known. Its mean over a bucket is a
    line across the bar: a better network can lower the bar to this line, and no further.
    """
    fig, (axis,) = figure(width=6)
    bars = {"align": "edge", "color": "#9ecae1", "edgecolor": "white", "label": "loss"}
    axis.bar(edges[:-1], losses, np.diff(edges), **bars)
    if floor is not None:
        means = [floor[first + 1:last + 1].mean() for first, last in zip(edges[:-1], edges[1:])]
        label = "Bayes floor, mean of the bucket"
        axis.hlines(means, edges[:-1], edges[1:], color="0", linewidth=2, label=label)
        axis.plot(np.arange(1, len(floor)), floor[1:], ":", color="0.3", label="Bayes floor at each t")
    axis.set(title=title, xlabel="timestep t", ylabel=ylabel)
    axis.legend(frameon=False)
    return fig


def tiles(images, columns):
    """Images (n, C, H, W) in [-1, 1], C = 1 or 3, laid out in rows of `columns`, a pixel apart: (height,
    width, 3) in [0, 1].
    """
    n, C, H, W = images.shape
    rows = -(-n // columns)
    sheet = np.ones((rows * columns, 3, H + 1, W + 1))
    # grey: one channel becomes three
    sheet[:n, :, :H, :W] = (images.clip(-1, 1) + 1) / 2
    return (
        sheet.reshape(rows, columns, 3, H + 1, W + 1)
        .transpose(0, 3, 1, 4, 2)
        .reshape(rows * (H + 1), columns * (W + 1), 3)[:-1, :-1]
    )


def image_panel(axis, images, columns, title=""):
    """Show images (n, C, H, W) as tiles."""
    artist = axis.imshow(tiles(images, columns), interpolation="nearest")
    axis.set(title=title, xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
    return artist


def image_grid(images, columns, title):
    """Images (n, C, H, W) in rows."""
    fig, (axis,) = figure(width=6.4, height=6.4 * -(-len(images) // columns) / columns + 0.3)
    image_panel(axis, images, columns, title)
    return fig


def image_filmstrip(chain):
    """The panels of a chain of a few images, a list of (t, x) with x (n, C, H, W): the panel called x_t shows
    x_t.
    """
    fig, axes = figure(columns=len(chain), width=1.3, height=1.3 * len(chain[0][1]) + 0.3)
    for axis, (t, x) in zip(axes, chain):
        image_panel(axis, x, 1, f"$x_{{{t}}}$")
    return fig


def images_by_class(images, labels, names):
    """One column of images for each class, under its name."""
    columns = [images[labels == k] for k in range(len(names))]
    fig, axes = figure(columns=len(names), width=0.85, height=0.82 * max(map(len, columns)) + 0.3)
    for axis, column, name in zip(axes, columns, names):
        image_panel(axis, column, 1)
        axis.set_title(name, fontsize=8)
    return fig


def save_points_gif(chain, data, path):
    """Write a GIF of a chain, a list of (t, x), x (n, 2) over the data (m, 2). Returns path."""
    fig, (axis,) = figure(width=4, height=3.6)
    artist = points_panel(axis, chain[0][1], data, "")
    return save_gif(fig, axis, lambda x: artist.set_offsets(x), chain, path)


def save_images_gif(chain, path):
    """Write a GIF of a chain, a list of (t, x), x (16, C, H, W). Returns path."""
    fig, (axis,) = figure(width=3.2, height=3.4)
    artist = image_panel(axis, chain[0][1], 4)
    return save_gif(fig, axis, lambda x: artist.set_data(tiles(x, 4)), chain, path)


def save_gif(fig, axis, show, chain, path, frames=60, fps=20):
    """Write a GIF that shows the chain in `frames` frames evenly spread, the last one held."""
    shown = [chain[round(i * (len(chain) - 1) / (frames - 1))] for i in range(frames)]
    axis.set_title("t = 0")
    fig.canvas.draw()
    # laid out once; doing it for every frame would take most of the time
    fig.set_layout_engine("none")
    writer = PillowWriter(fps=fps)
    with written_whole(path) as temporary, writer.saving(fig, temporary, dpi=90):
        for t, x in shown + shown[-1:] * fps:
            show(x)
            axis.set_title(f"t = {t}")
            writer.grab_frame()
    return Path(path)
