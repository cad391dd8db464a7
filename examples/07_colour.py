"""Colour: the U-Net on images of three channels instead of one, and what that changes.

The images are the drawn shapes, each in one saturated colour on black, (n, 3, 28, 28). In the network one
number changes, Config.channels = 3: the first convolution reads three numbers a pixel, the last writes three,
and all between them works on features and never knew what they mean. Nothing else in the project changes
either: schedule, loss and samplers use operators that do not ask for shapes.

Look at the column "one colour". Each channel of x_T is noise of its own, yet every image of the data holds
one colour, so that its channels are one image at three strengths. The number is the share of the light that
one colour explains (of the matrix 3 x pixels, the first singular value squared over the sum of all). Nobody
told the network; it is in the data. It learns it before it learns shapes, which here are still soft.

The recipe is `shapes`, but the network predicts x_0 and not the noise: that gives black grounds within few
steps. What to change: --steps 2000 (when do corners come?); --prediction-type epsilon, and see how a small
error in the noise at large t, where it is divided by sqrt(alpha_bar), floods whole images.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import tyro
from matplotlib.figure import Figure

from npdiff.app.checkpoint import sampling_weights
from npdiff.app.figures import image_panel, save
from npdiff.backends.numpy import NumpyBackend
from npdiff.data.shapes import make_colour_shapes
from npdiff.recipes import SHAPES
from npdiff.rng import generator
from npdiff.sampling import labels_in_turn, sample
from npdiff.training import new_denoiser, train


def one_colour(images):
    """The share of the light of images (n, 3, H, W) that one colour per image explains, 1/3..1, its mean over
    the images.
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
    grey = replace(
        SHAPES, steps=steps, batch_size=batch_size, ema_decay=0.98, prediction_type=prediction_type
    )
    colour = replace(grey, data="colour-shapes", model=replace(grey.model, channels=3))
    backend = NumpyBackend()
    # name -> shape, for each of the two networks
    parameters = {}
    for name, recipe in (("grey", grey), ("colour", colour)):
        # the loop leaves that of colour
        denoiser = new_denoiser(backend, recipe, seed)
        parameters[name] = {key: array.shape for key, array in denoiser.params.items()}
    losses = np.array([loss for _, loss in train(denoiser, backend, colour, seed)])             # (steps,)
    trained = backend.make_denoiser(colour.model, sampling_weights(denoiser.export()))
    chain = [
        x for t, x in sample(trained, backend, colour, samples, seed, labels=labels_in_turn(colour, samples))
    ]
    data, _ = make_colour_shapes(samples, generator(seed, "data"))                # (samples, 3, 28, 28)
    sets = {"data": data, "noise x_T": chain[0], "samples": chain[-1].clip(-1, 1)}

    count = {name: sum(map(np.prod, shapes.values())) for name, shapes in parameters.items()}
    print(f"channels=1: {count['grey']:,} parameters     channels=3: {count['colour']:,} parameters")
    for key, shape in parameters["colour"].items():
        if shape != parameters["grey"][key]:
            print(f"   {key:10}  {parameters['grey'][key]!s:14} became  {shape}")
    print(
        f"{steps} steps, mean loss of the last tenth {losses[-max(1, steps // 10) :].mean():.3f}\n           "
        f"one colour"
    )
    share = {name: one_colour(images) for name, images in sets.items()}
    for name in sets:
        print(f"{name:9}  {share[name]:10.1%}")

    figure = Figure(figsize=(11, 4.1), layout="constrained")
    for axis, name in zip(figure.subplots(1, 2), ("data", "samples")):
        image_panel(
            axis,
            sets[name],
            round((1.5 * samples) ** 0.5),
            f"{name}: one colour explains {share[name]:.1%} of the light",
        )
    print(save(figure, out / "07_colour.png"))
    return {"count": count, "losses": losses, "share": share} | sets


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
