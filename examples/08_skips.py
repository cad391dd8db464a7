"""What skips do: one small U-Net trained twice, with and without them, on the same shapes, noise and
timesteps.

Down the network, 28x28 pixels become 7x7 positions; that is how it sees a whole shape. But the noise to be
predicted is different in every pixel, and what does not reach the way up cannot be told again. A skip hands
each level of the way up what the same level of the way down saw.

Look at the right end of the bars: at large t, x_t is almost nothing but noise, and the answer is almost a
copy of the input. In as many steps, not even that is learned without skips. Below, x0_hat is the x_0 that the
predicted noise implies, from the same x_t: noise that was not recognised stays in it.

What to change: --prediction-type sample asks for x_0 instead of the noise. A shape has few details, they fit
through 7x7, and skips are hardly missed.
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

NETWORK = unet.Config(widths=(8, 16, 16), attention_levels=0, time_dim=32, embedding_dim=32)
STYLES = {"with skips": (True, "tab:blue"), "without": (False, "tab:orange")}
SHOWN = (20, 80)            # timesteps at which x0_hat is shown, of 200


def main(
    steps: int = 400, prediction_type: str = "epsilon", seed: int = 0, out: Path = Path("runs/examples")
):
    base, backend = (
        replace(SHAPES, batch_size=16, steps=steps, ema_decay=0.0, prediction_type=prediction_type),
        NumpyBackend(),
    )
    schedule = make_schedule(base.schedule, base.num_train_timesteps)
    x0, _ = load_data(base.data)(6, generator(seed, "data"))                      # (6, 1, 28, 28)
    noise = generator(seed, "sample").standard_normal(x0.shape, np.float32)
    rows = {t: {"$x_0$": x0, f"$x_{{{t}}}$": q_sample(x0, np.full(6, t), noise, schedule)} for t in SHOWN}
    losses, buckets, count = {}, {}, {}
    for name, (skips, _) in STYLES.items():
        denoiser = new_denoiser(backend, recipe := replace(base, model=replace(NETWORK, skips=skips)), seed)
        count[name] = sum(array.size for array in denoiser.params.values())
        losses[name] = np.array([loss for _, loss in train(denoiser, backend, recipe, seed)])   # (steps,)
        edges, buckets[name] = loss_by_t(denoiser, backend, recipe, seed, buckets=5)
        for t in SHOWN:
            x_t = rows[t][f"$x_{{{t}}}$"]
            # (6, 1, 28, 28)
            rows[t][name] = x0_from_prediction(x_t, t, denoiser.predict(x_t, t), schedule, prediction_type)

    error = {name: [float(((rows[t][name] - x0) ** 2).mean()) for t in SHOWN] for name in STYLES}
    print(
        f"            parameters  last losses  loss for {'  '.join(f't<={t:3}' for t in edges[1:])}  error "
        f"of x0_hat: {'  '.join(f't={t:3}' for t in SHOWN)}"
    )
    for name in STYLES:
        by_t, of_x0 = (
            "  ".join(f"{value:{width}.3f}" for value in values)
            for values, width in ((buckets[name], 6), (error[name], 5))
        )
        print(
            f"{name:10}  {count[name]:10,}  {losses[name][-max(1, steps // 10) :].mean():11.3f}           "
            f"{by_t}                 {of_x0}"
        )

    figure = Figure(figsize=(11, 7), layout="constrained")
    axes = figure.subplot_mosaic([["loss", "by t"], SHOWN], height_ratios=[1, 1.25])
    window = max(1, steps // 20)
    for k, (name, (_, colour)) in enumerate(STYLES.items()):
        curve = np.convolve(losses[name], np.ones(window) / window, "valid")
        axes["loss"].plot(np.arange(window, steps + 1), curve, color=colour, linewidth=2, label=name)
        axes["by t"].bar(
            edges[:-1] + (0.08 + 0.42 * k) * np.diff(edges),
            buckets[name],
            0.42 * np.diff(edges),
            align="edge",
            color=colour,
        )
    axes["loss"].set(xlabel="step", ylabel=f"loss (mean of {window} steps)", ylim=(0, None))
    axes["by t"].set(xlabel="t", ylabel="loss after training", xticks=edges)
    axes["loss"].legend(frameon=False)
    for t in SHOWN:
        image_panel(
            axes[t], np.concatenate(list(rows[t].values())), 6, rf"$\hat x_0$ from the same $x_{{{t}}}$"
        )
        # 28 pixels and a gap for each row of images
        axes[t].set_yticks(14 + 29 * np.arange(4), rows[t])
        axes[t].tick_params(length=0)
    print(save(figure, out / "08_skips.png"))
    return {"count": count, "losses": losses, "edges": edges, "by_t": buckets, "error": error}


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
