"""Class conditioning and guidance: one model asked for a class with w = 0, 1 and 3.

A conditional network is told a label; for a share of the training it is told none, so that it knows both
answers. Guidance goes along the line through them, eps_uncond + w (eps_cond - eps_uncond): w = 0 ignores the
label, w = 1 obeys it, w = 3 exaggerates what sets the class apart from the rest.

Here the data are three overlapping clouds and both answers are exact (no network, nothing to train), so that
what is seen is what guidance does and not what a network cannot do. Look for the trade: as w grows, more
samples lie where their class is the likeliest, and the samples of a class draw together; at w = 3 they leave
the places where the data of their class is densest. Guided samples are not samples of the class.

What to change: --run runs/fashion, a run of a conditional recipe: the same of garments or shapes, a column
for each class and two rows for each w.
"""

from pathlib import Path

import numpy as np
import tyro
from matplotlib.figure import Figure

from npdiff.app import checkpoint
from npdiff.app.cli import fail
from npdiff.app.figures import image_panel, save
from npdiff.app.runs import trained_denoiser
from npdiff.backends.numpy import NumpyBackend
from npdiff.data import CLASS_NAMES
from npdiff.evaluation import metrics
from npdiff.rng import generator
from npdiff.samplers import ddim, guided, time_pairs, to_x0_eps
from npdiff.sampling import Sampling, labels_in_turn, sample
from npdiff.schedule import rescaled_linear
from npdiff.verify.oracle import GaussianMixture

WEIGHTS = (0, 1, 3)
CENTRES = np.array([[0, 0.9], [-0.8, -0.5], [0.8, -0.5]])
CLASSES = [GaussianMixture([1], [centre], [0.35 * np.eye(2)]) for centre in CENTRES]
DATA = GaussianMixture([1 / 3] * 3, CENTRES, [0.35 * np.eye(2)] * 3)
COLOURS = ("tab:blue", "tab:orange", "tab:green")


def main(run: Path | None = None, samples: int = 600, seed: int = 0, out: Path = Path("runs/examples")):
    figure, numbers = clouds(samples, seed) if run is None else images(run, seed)
    print(save(figure, out / "17_guidance.png"))
    return numbers


def clouds(samples, seed):
    """Three exact classes: a panel for each w."""
    schedule, labels = rescaled_linear(200), np.arange(samples) % 3
    answers = [law.predict(schedule) for law in CLASSES]
    x_T = generator(seed, "sample", schedule.T).standard_normal((samples, 2))

    def predict(x, t, labels=None):
        if labels is None:
            return DATA.predict(schedule)(x, t)
        return np.choose(labels[:, None], [answer(x, t) for answer in answers])                # (N, 2)

    figure, numbers = Figure(figsize=(11, 3.9), layout="constrained"), {}
    print("  w   in their class's region   mean distance within a class")
    for panel, w in zip(figure.subplots(1, len(WEIGHTS)), WEIGHTS):
        denoise = to_x0_eps(guided(predict, labels, w), schedule)
        *_, (_, x) = ddim(denoise, x_T, schedule, None, time_pairs(schedule.T))
        likeliest = np.argmax([law.log_density(x, 1.0) for law in CLASSES], axis=0)  # (N,)
        numbers[w] = {
            "x": x,
            "right": float((likeliest == labels).mean()),
            "diversity": metrics.diversity(x, labels),
        }
        print(f"{w:3}   {numbers[w]['right']:23.1%}   {numbers[w]['diversity']:28.2f}")
        for k, colour in enumerate(COLOURS):
            panel.plot(*x[labels == k].T, ".", color=colour, markersize=3, label=f"asked for class {k}")
        panel.plot(*CENTRES.T, "k+", markersize=12)
        panel.set(
            title=f"w = {w}: {numbers[w]['right']:.0%} as asked",
            xlim=(-3.2, 3.2),
            ylim=(-2.9, 3.3),
            aspect="equal",
            xticks=[],
            yticks=[],
        )
    figure.legend(
        *panel.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, markerscale=3
    )
    return figure, numbers


def images(run, seed, rows=2):
    """A trained conditional run: two rows of images for each w, from the same noise."""
    recipe, *_ = checkpoint.load_config(run)
    if not recipe.conditional:
        raise ValueError(
            f"run is {run}, of {recipe.name}, which takes no labels; it must be of a conditional recipe"
        )
    backend, names = NumpyBackend(), CLASS_NAMES[recipe.data]
    denoiser, labels = trained_denoiser(run, recipe, backend), labels_in_turn(recipe, rows * len(names))
    figure, numbers = (
        Figure(figsize=(0.75 * len(names), 0.85 * rows * len(WEIGHTS)), layout="constrained"),
        {},
    )
    print("  w   mean distance within a class")
    for panel, w in zip(figure.subplots(len(WEIGHTS), 1), WEIGHTS):
        *_, (_, x) = sample(
            denoiser,
            backend,
            recipe,
            len(labels),
            seed,
            labels=labels,
            sampling=Sampling("dpm_solver_pp", 25, guidance=w),
        )
        numbers[w] = {"x": x, "diversity": metrics.diversity(x, labels)}
        print(f"{w:3}   {numbers[w]['diversity']:28.2f}")
        image_panel(panel, x, len(names), f"w = {w}" + (f":   {', '.join(names)}" if w == WEIGHTS[0] else ""))
        panel.title.set_size(7)
    return figure, numbers


if __name__ == "__main__":
    try:
        tyro.cli(main, description=__doc__)
    except (OSError, ValueError) as error:
        fail(error)
