"""One recipe, two backends: the moons trained by gradients derived by hand (NumPy) and by autograd (torch).

Both start with the same weights and see the same data and noise, so their losses agree. From the same x_T
both draw the same samples. Look at the largest distance between two samples of a pair: it is rounding, which
has grown through the steps of training and of sampling.

What to change: --dtype float64, and the distance is a hundred million times smaller. --steps, and it grows.
Needs the extra: pip install "npdiff[torch]".
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import tyro
from matplotlib.figure import Figure

from npdiff.app.checkpoint import sampling_weights
from npdiff.app.figures import save
from npdiff.backends import load_backend
from npdiff.recipes import MOONS
from npdiff.sampling import sample
from npdiff.training import new_denoiser, train

LINES = {  # broad and light, then thin and dark: both are seen where one lies on the other
    "numpy": {"color": "tab:blue", "linewidth": 5, "alpha": 0.4},
    "torch": {"color": "black", "linewidth": 1, "linestyle": "--"},
}
POINTS = {
    "numpy": {"marker": "o", "s": 28, "facecolors": "none", "edgecolors": "tab:blue", "linewidths": 0.8},
    "torch": {"marker": "x", "s": 7, "color": "black", "linewidths": 0.6},
}


def main(
    steps: int = 1500,
    samples: int = 800,
    dtype: str = "float32",
    seed: int = 0,
    out: Path = Path("runs/examples"),
):
    recipe, losses, clouds = replace(MOONS, steps=steps), {}, {}
    for name in LINES:
        backend = load_backend(name, dtype=dtype)
        denoiser = new_denoiser(backend, recipe, seed)
        losses[name] = np.array([loss for _, loss in train(denoiser, backend, recipe, seed)])     # (steps,)
        trained = backend.make_denoiser(recipe.model, sampling_weights(denoiser.export()))
        *_, (_, x) = sample(trained, backend, recipe, samples, seed)
        clouds[name] = backend.to_numpy(x)    # (samples, 2)
    loss_gap = float((abs(losses["numpy"] - losses["torch"]) / losses["numpy"]).max())
    difference = clouds["numpy"].astype(float) - clouds["torch"]    # (samples, 2)
    sample_gap = np.linalg.norm(difference, axis=1)    # (samples,)
    print(f"{steps} steps in {dtype}: the losses differ by at most {loss_gap:.1e} (relative)")
    print("distance between the two samples of a pair: "
          f"median {np.median(sample_gap):.1e}, largest {sample_gap.max():.1e}")

    figure = draw(losses, clouds, loss_gap, sample_gap, recipe, dtype)
    print(save(figure, out / "05_two_backends.png"))
    return {"loss_gap": loss_gap, "sample_gap": sample_gap, "losses": losses, "figure": figure}


def draw(losses, clouds, loss_gap, sample_gap, recipe, dtype):
    """Left: both losses. Right: both sets of samples."""
    figure = Figure(figsize=(11.5, 4.8), layout="constrained")
    figure.suptitle(f"recipe moons on two backends, {recipe.steps:,} training steps in {dtype}")
    curve, cloud = figure.subplots(1, 2)
    window = max(1, recipe.steps // 30)
    for name in losses:
        means = np.convolve(losses[name], np.ones(window) / window, "valid")
        curve.plot(np.arange(window, recipe.steps + 1), means, label=name, **LINES[name])
        cloud.scatter(*clouds[name].T, label=name, **POINTS[name])
    curve.set(xlabel="training step", ylabel=f"loss (mean of {window} steps)")
    curve.set_title(f"the losses: largest relative difference {loss_gap:.0e}")
    cloud.set(xlabel="$x_1$", ylabel="$x_2$", aspect="equal")
    sampler = f"{recipe.schedule} schedule, ancestral sampler, {recipe.num_train_timesteps} steps"
    cloud.set_title(f"the samples: largest distance in a pair {sample_gap.max():.0e}\n{sampler}")
    for axis in (curve, cloud):
        axis.legend(frameon=False)
    return figure


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
