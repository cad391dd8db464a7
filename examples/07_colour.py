"""Colour: the U-Net on images of three channels instead of one. What changes?

The images are the drawn shapes, each in one full colour on black: (n, 3, 28, 28). In the network one number
changes, Config.channels = 3. The first convolution reads three numbers for each pixel, and the last one
writes three. All layers between them work on features, whatever the features mean. Nothing else in the
project changes: schedule, loss and samplers work for any shape.

Look at the column "one colour". The three channels of x_T are independent noise. But each image of the data
has one colour, so its channels are one image with three factors. The number is the share of the light that
one colour explains: for the matrix 3 x pixels, the first singular value squared, divided by the sum of all
singular values squared. Nobody told the network about colours; it learned this from the data, and before it
learned the shapes, which are still soft here.

The recipe is `shapes`, but here the network predicts x_0 and not the noise. That gives black backgrounds
after few steps.

What to change: --steps 2000. When do the corners come? --prediction-type epsilon: there x_0 = (x_t - sigma
eps) / a, and at large t a is small. So a small error in the noise colours the whole image.

The U-Net is that of [Ho et al. 2020](https://arxiv.org/abs/2006.11239), appendix B, made smaller.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import tyro
from matplotlib.figure import Figure

from npdiff.app.checkpoint import sampling_weights
from npdiff.app.figures import image_panel, save
from npdiff.backends.numpy import NumpyBackend
from npdiff.data.shapes import CLASS_NAMES, make_colour_shapes
from npdiff.recipes import SHAPES
from npdiff.rng import generator
from npdiff.sampling import labels_in_turn, sample
from npdiff.training import new_denoiser, train


def one_colour(images):
    """The share of the light that one colour in each image explains, the mean over the images: 1/3..1.

    images (n, 3, H, W) -> a float
    """
    light = images.reshape(len(images), 3, -1) + 1                                # (n, 3, H W), 0 is black
    power = np.linalg.svd(light, compute_uv=False) ** 2                           # (n, 3)
    return float((power[:, 0] / power.sum(1)).mean())


def main(
    steps: int = 600,
    batch_size: int = 16,
    samples: int = 24,
    prediction_type: str = "sample",
    seed: int = 0,
    out: Path = Path("runs/examples"),
):
    short = {"steps": steps, "batch_size": batch_size, "ema_decay": 0.98}
    grey = replace(SHAPES, **short, prediction_type=prediction_type)
    colour = replace(grey, data="colour-shapes", model=replace(grey.model, channels=3))
    backend = NumpyBackend()
    denoisers = {
        "grey": new_denoiser(backend, grey, seed),
        "colour": new_denoiser(backend, colour, seed),
    }
    shapes = {name: {key: array.shape for key, array in denoiser.params.items()}
              for name, denoiser in denoisers.items()}
    denoiser = denoisers["colour"]
    losses = np.array([loss for _, loss in train(denoiser, backend, colour, seed)])   # (steps,)
    trained = backend.make_denoiser(colour.model, sampling_weights(denoiser.export()))
    labels = labels_in_turn(colour, samples)                                      # (samples,)
    chain = [x for t, x in sample(trained, backend, colour, samples, seed, labels=labels)]
    data, _ = make_colour_shapes(samples, generator(seed, "data"))                # (samples, 3, 28, 28)
    sets = {"data": data, "noise x_T": chain[0], "samples": chain[-1].clip(-1, 1)}

    count = {name: sum(map(np.prod, of_one.values())) for name, of_one in shapes.items()}
    print(f"channels=1: {count['grey']:,} parameters     channels=3: {count['colour']:,} parameters")
    for key, shape in shapes["colour"].items():
        if shape != shapes["grey"][key]:
            print(f"   {key:10}  {shapes['grey'][key]!s:14} became  {shape}")
    last = losses[-max(1, steps // 10):].mean()
    print(f"{steps} steps, mean loss of the last tenth {last:.3f}\n           one colour")
    share = {name: one_colour(images) for name, images in sets.items()}
    for name in sets:
        print(f"{name:9}  {share[name]:10.1%}")

    figure = draw(sets, share, colour)
    print(save(figure, out / "07_colour.png"))
    return {"count": count, "losses": losses, "share": share, "figure": figure} | sets


def draw(sets, share, recipe):
    """Left: the data. Right: the samples, a column for each class."""
    columns = min(len(sets["samples"]), len(CLASS_NAMES))
    figure = Figure(figsize=(13, 3.5), layout="constrained")
    figure.suptitle(f"colour shapes, {recipe.schedule} schedule, {recipe.steps:,} training steps, "
                    f"ancestral sampler, {recipe.num_train_timesteps} steps")
    left, right = figure.subplots(1, 2)
    for axis, name in ((left, "data"), (right, "samples")):
        image_panel(axis, sets[name], columns, f"{name}: one colour explains {share[name]:.1%} of the light")
    left.set_xlabel("any class")
    right.set_xticks(14 + 29 * np.arange(columns), CLASS_NAMES[:columns])       # 28 pixels and a gap
    right.set_xlabel("class asked for")
    right.tick_params(length=0)
    return figure


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
