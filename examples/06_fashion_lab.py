"""The Fashion-MNIST lab, end to end: three convolutions learn to predict the noise in photographs of
garments, and draw some.

The data is the real one (28x28, scaled to [-1, 1], batches of 128), the recipe `lab-fashion`. A minute of it
shows the machinery, --full does all eight epochs. The lab is worth running, and worth contradicting in four
places:

- It calls its network a U-Net. Nothing in it goes down or up, and nothing skips: three 3x3 convolutions in a
  row. A pixel of the answer depends on 7x7 pixels of the input, so the network can know cloth and edges and
  never a shoe: blobs and texture come out. A real U-Net is recipe `fashion`.
- It promises a loss that settles at 0.04 to 0.06. Measured, the epochs' means are TRUTH below, and the last
  improves by 0.003 on the one before.
- Its fast sampler takes indices 290, 280, ..., which leaves out the last one, 299, where the noise is. Ours
  walk lists that start at T (time_pairs).
- Its filmstrip stores a frame after the update, so each is one step cleaner than its title. Here samplers
  yield (t, x_t): a title cannot be wrong.

What to change: --full; --steps 200; --data DIR, the place of the files: of these or of any set in the same
format, MNIST for one.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import tyro
from matplotlib.figure import Figure

from npdiff.app.cli import fail
from npdiff.app.figures import image_panel, save
from npdiff.app.progress import progress
from npdiff.backends.numpy import NumpyBackend
from npdiff.recipes import LAB_FASHION
from npdiff.sampling import sample
from npdiff.training import new_denoiser, train

SHOWN = (300, 200, 120, 60, 20, 0)                                      # timesteps of the filmstrip
# mean loss of each epoch of the full recipe, measured
TRUTH = (0.274, 0.175, 0.151, 0.140, 0.134, 0.129, 0.125, 0.122)


def main(
    steps: int = 60,
    samples: int = 16,
    full: bool = False,
    data: Path | None = None,
    seed: int = 0,
    out: Path = Path("runs/examples"),
):
    recipe = LAB_FASHION if full else replace(LAB_FASHION, steps=steps, log_every=max(1, steps // 6))
    samples, every = 64 if full else samples, recipe.log_every
    backend = NumpyBackend()
    denoiser = new_denoiser(backend, recipe, seed)
    # (steps,)
    losses = np.array(
        [
            loss
            for _, loss in progress(
                train(denoiser, backend, recipe, seed, data_dir=data), recipe.steps, "training"
            )
        ]
    )
    ends = np.arange(every, recipe.steps + 1, every)
    means = losses[:ends[-1]].reshape(-1, every).mean(1)                # one mean for each whole stretch
    strip = {}  # t -> one image (1, 1, 28, 28)
    for t, x in progress(
        sample(denoiser, backend, recipe, samples, seed), recipe.num_train_timesteps + 1, "sampling"
    ):
        if t in SHOWN:
            strip[t] = x[:1]
    images = x.clip(-1, 1)                                              # (samples, 1, 28, 28)

    print("    steps   mean loss" + "   measured truth" * full)
    for k, (end, mean) in enumerate(zip(ends, means)):
        print(f"{end - every + 1:4}-{end:4}   {mean:9.3f}" + (f"   {TRUTH[k]:14.3f}" if full else ""))

    figure = Figure(figsize=(10, 7), layout="constrained")
    axes = figure.subplot_mosaic(
        [["loss"] * 3 + ["samples"] * 3, [f"x_{t}" for t in SHOWN]], height_ratios=[2.6, 1]
    )
    curve = axes["loss"]
    curve.plot(np.arange(1, recipe.steps + 1), losses, color="0.65", linewidth=1, label="each step")
    curve.stairs(
        means,
        [0, *ends],
        baseline=None,
        color="tab:blue",
        linewidth=2.5,
        label="epoch's mean" if full else f"mean of {every} steps",
    )
    curve.axhline(
        TRUTH[-1], color="black", linestyle="--", linewidth=1, label=f"truth: {TRUTH[-1]} in epoch 8"
    )
    curve.axhspan(0.04, 0.06, color="tab:orange", linewidth=0, label="the lab's promise, never met")
    curve.set(xlabel="step", ylabel="mean squared error of the noise", ylim=(0, 1.05), xlim=(0, recipe.steps))
    curve.legend(frameon=False)
    image_panel(
        axes["samples"], images, round(samples**0.5), f"{samples} samples after {recipe.steps:,} steps"
    )
    for t in SHOWN:
        image_panel(axes[f"x_{t}"], strip[t], 1, f"$x_{{{t}}}$")
    print(save(figure, out / "06_fashion_lab.png"))
    return {"losses": losses, "means": means, "samples": images, "strip": strip}


if __name__ == "__main__":
    try:
        tyro.cli(main, description=__doc__)
    except (OSError, ValueError) as error:
        fail(error)
