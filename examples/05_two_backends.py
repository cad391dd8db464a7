"""One recipe, two backends: the moons trained by hand-derived gradients in NumPy and by autograd in torch.

Both start from the same weights and see the same data and noise, so the loss curves lie on each other, and
from the same x_T both draw the same samples. Look at the largest distance between two samples: it is
rounding, grown through the steps of training and then of sampling. What to change: --dtype float64, and it
shrinks a hundred million times; --steps, and it grows. Needs the extra: pip install "npdiff[torch]".
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

STYLES = {"numpy": ("-", "tab:blue", 16), "torch": ("--", "tab:orange", 4)}


def main(
    steps: int = 1500,
    samples: int = 800,
    dtype: str = "float32",
    seed: int = 0,
    out: Path = Path("runs/examples"),
):
    recipe, losses, clouds = replace(MOONS, steps=steps), {}, {}
    for name in STYLES:
        backend = load_backend(name, dtype=dtype)
        denoiser = new_denoiser(backend, recipe, seed)
        losses[name] = np.array([loss for _, loss in train(denoiser, backend, recipe, seed)])   # (steps,)
        trained = backend.make_denoiser(recipe.model, sampling_weights(denoiser.export()))
        *_, (_, x) = sample(trained, backend, recipe, samples, seed)
        clouds[name] = backend.to_numpy(x)                                                      # (samples, 2)
    loss_gap = float((abs(losses["numpy"] - losses["torch"]) / losses["numpy"]).max())
    sample_gap = np.linalg.norm(clouds["numpy"].astype(float) - clouds["torch"], axis=1)        # (samples,)
    print(f"{steps} steps in {dtype}: the losses differ by at most {loss_gap:.1e} (relative)")
    print(
        f"distance of each sample to its twin: median {np.median(sample_gap):.1e}, largest "
        f"{sample_gap.max():.1e}"
    )

    figure = Figure(figsize=(11, 4.4), layout="constrained")
    curve, cloud = figure.subplots(1, 2)
    window = max(1, steps // 30)
    for name, (line, colour, size) in STYLES.items():
        curve.plot(
            np.arange(window, steps + 1),
            np.convolve(losses[name], np.ones(window) / window, "valid"),
            line,
            color=colour,
            label=name,
        )
        cloud.scatter(*clouds[name].T, s=size, color=colour, linewidths=0, label=name)
    curve.set(
        xlabel="step",
        ylabel=f"loss (mean of {window} steps)",
        title=f"largest relative difference {loss_gap:.0e}",
    )
    cloud.set(aspect="equal", title=f"largest distance of twins {sample_gap.max():.0e}")
    for axis in (curve, cloud):
        axis.legend(frameon=False)
    print(save(figure, out / "05_two_backends.png"))
    return {"loss_gap": loss_gap, "sample_gap": sample_gap, "losses": losses}


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
