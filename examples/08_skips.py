"""What skips do: one small U-Net trained twice, with skips and without, on the same shapes and noise.

On its way down the network turns 28x28 pixels into 7x7 positions. So it can see a whole shape. But the noise
that it must predict is different in every pixel, and 7x7 positions cannot hold all of it. A skip gives each
level of the way up what the same level of the way down saw ([Ronneberger et al.
2015](https://arxiv.org/abs/1505.04597)).

Look at the bars for large t. There x_t is almost pure noise, and the right answer is almost a copy of the
input. After the same number of steps the network without skips has not even learned that. The lower pictures
show x0_hat, the x_0 that follows from x_t and the predicted noise. Noise that was not predicted is still in
it.

What to change: --prediction-type sample asks for x_0 instead of the noise. A shape has few details, they fit
into 7x7 positions, and the network needs skips much less.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import tyro
from matplotlib.figure import Figure

from npdiff.app.figures import image_panel, save
from npdiff.backends.numpy import NumpyBackend
from npdiff.data import load_data
from npdiff.diffusion import q_sample, x0_from_prediction
from npdiff.evaluation.metrics import loss_by_t
from npdiff.models import unet
from npdiff.recipes import SHAPES
from npdiff.rng import generator
from npdiff.schedule import make_schedule
from npdiff.training import new_denoiser, train

NETWORK = unet.Config(widths=(8, 16, 16), groups=4, attention_levels=0, time_dim=32, embedding_dim=32)
SKIPS = {"with skips": True, "without": False}
LINES = {"with skips": ("-", "tab:blue"), "without": ("--", "tab:orange")}
SHOWN = (20, 80)            # timesteps at which x0_hat is shown, of 200


def main(
    steps: int = 400,
    prediction_type: str = "epsilon",
    seed: int = 0,
    out: Path = Path("runs/examples"),
):
    changes = {"batch_size": 16, "steps": steps, "ema_decay": 0.0, "prediction_type": prediction_type}
    base, backend = replace(SHAPES, **changes), NumpyBackend()
    schedule = make_schedule(base.schedule, base.num_train_timesteps)
    x0, _ = load_data(base.data).draw(6, generator(seed, "data"))                      # (6, 1, 28, 28)
    noise = generator(seed, "sample").standard_normal(x0.shape, np.float32)
    rows = {t: {"$x_0$": x0, f"$x_{{{t}}}$": q_sample(x0, np.full(6, t), noise, schedule)} for t in SHOWN}
    losses, buckets, count = {}, {}, {}
    for name, skips in SKIPS.items():
        recipe = replace(base, model=replace(NETWORK, skips=skips))
        denoiser = new_denoiser(backend, recipe, seed)
        count[name] = sum(array.size for array in denoiser.params.values())
        losses[name] = np.array([loss for _, loss in train(denoiser, backend, recipe, seed)])   # (steps,)
        edges, buckets[name] = loss_by_t(denoiser, backend, recipe, seed, buckets=5)
        for t in SHOWN:
            x_t = rows[t][f"$x_{{{t}}}$"]
            answer = denoiser.predict(x_t, t)
            rows[t][name] = x0_from_prediction(x_t, t, answer, schedule, prediction_type)

    error = {name: [float(((rows[t][name] - x0) ** 2).mean()) for t in SHOWN] for name in SKIPS}
    limits = "  ".join(f"t<={t:3}" for t in edges[1:])
    timesteps = "  ".join(f"t={t:3}" for t in SHOWN)
    print(f"            parameters  last losses  loss for {limits}  error of x0_hat: {timesteps}")
    for name in SKIPS:
        by_t = "  ".join(f"{value:6.3f}" for value in buckets[name])
        of_x0 = "  ".join(f"{value:5.3f}" for value in error[name])
        last = losses[name][-max(1, steps // 10):].mean()
        print(f"{name:10}  {count[name]:10,}  {last:11.3f}           {by_t}                 {of_x0}")

    figure = draw(losses, edges, buckets, rows, base)
    print(save(figure, out / "08_skips.png"))
    numbers = {"count": count, "losses": losses, "edges": edges, "by_t": buckets, "error": error}
    return numbers | {"figure": figure}


def draw(losses, edges, buckets, rows, recipe):
    """Above: the losses, by training step and by t. Below: x0_hat of both networks."""
    figure = Figure(figsize=(11, 7.4), layout="constrained")
    figure.suptitle(f"a U-Net with and without skips, shapes, {recipe.schedule} schedule, "
                    f"T = {recipe.num_train_timesteps}, prediction type {recipe.prediction_type}")
    axes = figure.subplot_mosaic([["loss", "by t"], SHOWN], height_ratios=[1, 1.25])
    window, widths = max(1, recipe.steps // 20), np.diff(edges)
    for k, (name, (line, colour)) in enumerate(LINES.items()):
        means = np.convolve(losses[name], np.ones(window) / window, "valid")
        steps = np.arange(window, recipe.steps + 1)
        axes["loss"].plot(steps, means, line, color=colour, linewidth=2, label=name)
        left = edges[:-1] + (0.08 + 0.42 * k) * widths
        look = {"color": colour, "hatch": "///" if k else None, "edgecolor": "white"}
        axes["by t"].bar(left, buckets[name], 0.42 * widths, align="edge", label=name, **look)
    axes["loss"].set(xlabel="training step", ylabel=f"loss (mean of {window} steps)", ylim=(0, None))
    axes["by t"].set(xlabel="timestep t", ylabel="loss after training", xticks=edges)
    highest = max(of_one.max() for of_one in buckets.values())
    axes["by t"].set(ylim=(0, 1.2 * highest))                       # room for the legend
    axes["loss"].legend(frameon=False)
    axes["by t"].legend(frameon=False, loc="upper right", ncols=2)
    for t in SHOWN:
        images = np.concatenate(list(rows[t].values()))
        image_panel(axes[t], images, 6, rf"$\hat x_0$ of both networks from the same $x_{{{t}}}$")
        axes[t].set_yticks(14 + 29 * np.arange(4), rows[t])         # 28 pixels and a gap
        axes[t].tick_params(length=0)
    axes["loss"].set_title("the loss in training")
    axes["by t"].set_title("the loss by timestep")
    return figure


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
