"""A textbook's Fashion-MNIST lab, end to end: a small network learns to predict the noise in pictures of
clothes, and draws some.

The textbook is the one whose lab has three 3x3 convolutions of 64 channels (46,465 parameters), T = 300,
betas 1e-4..0.02, batches of 128 and eight epochs. The data is the real one: 28x28 pixels, scaled to [-1, 1].
Here it is the recipe `lab-fashion`. One minute of it shows how all parts work; --full trains all eight
epochs. The lab is worth running. Four of its statements are wrong:

- It calls its network a U-Net. The network has no levels and no skips: three 3x3 convolutions in a row. A
  pixel of the answer depends on 7x7 pixels of the input. So the network can learn cloth and edges, but never
  a whole shoe, and its samples are spots and texture. The recipe `fashion` has a real U-Net.
- It says that the loss comes to rest at 0.04 to 0.06. The measured means of the eight epochs are TRUTH below.
  The last is 0.003 smaller than the one before.
- Its fast sampler visits the indices 290, 280, ... It leaves out the last index, 299, where x is noise. The
  lists of npdiff.samplers.time_pairs start at T.
- Its row of pictures stores each picture after the update, so each is one step cleaner than its title says.
  Our samplers yield (t, x_t), so the title is right.

What to change: --full; --steps 200; --data DIR, the folder of the files. Other data of the same format works
too, MNIST for example.

Training and sampling are algorithms 1 and 2 of [Ho et al. 2020](https://arxiv.org/abs/2006.11239); the data
is from [Xiao et al. 2017](https://arxiv.org/abs/1708.07747).
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

SHOWN = (300, 200, 120, 60, 20, 0)      # timesteps whose x_t is drawn
PROMISE = (0.04, 0.06)                  # where the lab says the loss comes to rest
TRUTH = (0.274, 0.175, 0.151, 0.140, 0.134, 0.129, 0.125, 0.122)    # mean loss of each epoch, measured


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
    training = progress(train(denoiser, backend, recipe, seed, data_dir=data), recipe.steps, "training")
    losses = np.array([loss for _, loss in training])                   # (steps,)
    ends = np.arange(every, recipe.steps + 1, every)
    means = losses[:ends[-1]].reshape(-1, every).mean(1)                # (blocks,), whole blocks only
    strip = {}                                                          # t -> one image (1, 1, 28, 28)
    chain = sample(denoiser, backend, recipe, samples, seed)
    for t, x in progress(chain, recipe.num_train_timesteps + 1, "sampling"):
        if t in SHOWN:
            strip[t] = x[:1]
    images = x.clip(-1, 1)                                              # (samples, 1, 28, 28)

    print("    steps   mean loss" + "   measured truth" * full)
    for k, (end, mean) in enumerate(zip(ends, means)):
        print(f"{end - every + 1:4}-{end:4}   {mean:9.3f}" + (f"   {TRUTH[k]:14.3f}" if full else ""))

    block = "epoch" if full else f"block of {every} steps"
    figure = draw(losses, ends, means, block, images, strip)
    print(save(figure, out / "06_fashion_lab.png"))
    return {"losses": losses, "means": means, "samples": images, "strip": strip, "figure": figure}


def draw(losses, ends, means, block, images, strip):
    """The loss, the samples, and one sample on its way from noise to data."""
    steps = len(losses)
    figure = Figure(figsize=(10.5, 7.4), layout="constrained")
    figure.suptitle("recipe lab-fashion: linear schedule, T = 300, ancestral sampler, 300 steps")
    frames = [f"x_{t}" for t in SHOWN]
    axes = figure.subplot_mosaic([["loss"] * 3 + ["samples"] * 3, frames], height_ratios=[2.6, 1])
    curve = axes["loss"]
    curve.plot(np.arange(1, steps + 1), losses, color="0.65", linewidth=1, label="each step")
    of_block = f"mean of each {block}"
    curve.stairs(means, [0, *ends], baseline=None, color="tab:blue", linewidth=2.5, label=of_block)
    truth = f"measured in epoch 8: {TRUTH[-1]}"
    curve.axhline(TRUTH[-1], color="black", linestyle="--", linewidth=1, label=truth)
    claim = "the textbook's claim: {} to {}".format(*PROMISE)
    curve.axhspan(*PROMISE, facecolor="tab:orange", edgecolor="black", hatch="///", linewidth=0, label=claim)
    curve.set(xlabel="training step", ylabel="loss (mean squared error of the noise)")
    curve.set(xlim=(0, steps), ylim=(0, 1.05), title="the loss")
    curve.legend(frameon=False)
    title = f"{len(images)} samples after {steps:,} training steps"
    image_panel(axes["samples"], images, round(len(images) ** 0.5), title)
    for t, name in zip(SHOWN, frames):
        image_panel(axes[name], strip[t], 1, f"$x_{{{t}}}$")
    return figure


if __name__ == "__main__":
    try:
        tyro.cli(main, description=__doc__)
    except (OSError, ValueError) as error:
        fail(error)
