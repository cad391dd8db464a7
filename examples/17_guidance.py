"""Class conditioning and guidance: one model asked for a class with w = 0, 1 and 3.

A conditional network is told a label. In a part of its training it is told no label, so it learns both
answers. Guidance ([Ho and Salimans 2022](https://arxiv.org/abs/2207.12598)) mixes them:
    eps = eps_uncond + w (eps_cond - eps_uncond)
w = 0 ignores the label, w = 1 follows it, and w = 3 goes beyond it: it strengthens whatever makes the class
different from the others.

Here the data are three clouds that overlap, and both answers are exact. There is no network and no training,
so what you see is guidance alone and no error of a network. As w grows, more samples lie where their own
class is the most probable one, and the samples of a class come closer together. At w = 3 they leave the
places where the data of their class is densest. So guided samples are not samples of the class.

What to change: --run runs/fashion, a run of a conditional recipe. Then you see the same for images, a column
for each class and two rows for each w.
"""

from pathlib import Path

import numpy as np
import tyro
from matplotlib.figure import Figure

from npdiff.app.cli import fail
from npdiff.app.figures import image_panel, save
from npdiff.app.pictures import class_names
from npdiff.app.run import load
from npdiff.evaluation import metrics
from npdiff.rng import generator
from npdiff.samplers import ddim, guided, time_pairs, to_x0_eps
from npdiff.schedule import rescaled_linear
from npdiff.verify.oracle import GaussianMixture

WEIGHTS = (0, 1, 3)
CENTRES = np.array([[0, 0.9], [-0.8, -0.5], [0.8, -0.5]])
CLASSES = [GaussianMixture([1], [centre], [0.35 * np.eye(2)]) for centre in CENTRES]
DATA = GaussianMixture([1 / 3] * 3, CENTRES, [0.35 * np.eye(2)] * 3)
STYLES = (("o", "tab:blue"), ("s", "tab:orange"), ("^", "tab:green"))     # marker and colour of each class


def main(run: Path | None = None, samples: int = 600, seed: int = 0, out: Path = Path("runs/examples")):
    numbers, figure = clouds(samples, seed) if run is None else images(run, seed)
    print(save(figure, out / "17_guidance.png"))
    return numbers | {"figure": figure}


def clouds(samples, seed):
    """Three exact classes.   -> numbers by w, a figure with a panel for each w"""
    schedule, labels = rescaled_linear(200), np.arange(samples) % 3
    answers = [law.predict(schedule) for law in CLASSES]
    x_T = generator(seed, "sample", schedule.T).standard_normal((samples, 2))

    def predict(x, t, labels=None):
        if labels is None:
            return DATA.predict(schedule)(x, t)
        return np.choose(labels[:, None], [answer(x, t) for answer in answers])   # (N, 2)

    numbers = {}
    print("  w   in their class's region   mean distance within a class")
    for w in WEIGHTS:
        denoise = to_x0_eps(guided(predict, labels, w), schedule)
        *_, (_, x) = ddim(denoise, x_T, schedule, None, time_pairs(schedule.T))
        likeliest = np.argmax([law.log_density(x, 1.0) for law in CLASSES], axis=0)     # (N,)
        right, diversity = float((likeliest == labels).mean()), metrics.diversity(x, labels)
        numbers[w] = {"x": x, "right": right, "diversity": diversity}
        print(f"{w:3}   {right:23.1%}   {diversity:28.2f}")
    return numbers, draw_clouds(numbers, labels, schedule)


def draw_clouds(numbers, labels, schedule):
    """A panel for each w."""
    figure = Figure(figsize=(11.5, 4.7), layout="constrained")
    figure.suptitle(f"guidance: rescaled_linear schedule, DDIM, {schedule.T} steps, exact denoiser")
    panels = figure.subplots(1, len(WEIGHTS), sharey=True)
    for panel, w in zip(panels, WEIGHTS):
        x, right = numbers[w]["x"], numbers[w]["right"]
        for k, (marker, colour) in enumerate(STYLES):
            look = {"color": colour, "markersize": 3.5, "label": f"asked for class {k}"}
            panel.plot(*x[labels == k].T, marker, markeredgewidth=0, **look)
        panel.plot(*CENTRES.T, "k+", markersize=14, markeredgewidth=2, label="centre of a class")
        panel.set(xlim=(-3.2, 3.2), ylim=(-2.9, 3.3), aspect="equal", xlabel="$x_1$")
        panel.set_title(f"w = {w}: {right:.0%} in their class's region")
    panels[0].set_ylabel("$x_2$")
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=4, frameon=False, markerscale=1.5)
    return figure


def images(run, seed, rows=2):
    """A trained conditional run.   -> numbers by w, a figure: for each w `rows` rows from the same noise"""
    run = load(run)
    recipe, names = run.recipe, class_names(run)
    if not recipe.conditional:
        raise ValueError(f"run is {run.path}, of {recipe.name}, which takes no labels; "
                         "it must be of a conditional recipe")
    labels, numbers = run.labels(rows * len(names)), {}
    print("  w   mean distance within a class")
    for w in WEIGHTS:
        x = run.sample(len(labels), seed=seed, sampler="dpm_solver_pp", steps=25, guidance=w)
        numbers[w] = {"x": x, "diversity": metrics.diversity(x, labels)}
        print(f"{w:3}   {numbers[w]['diversity']:28.2f}")
    return numbers, draw_images(numbers, names, recipe, rows)


def draw_images(numbers, names, recipe, rows):
    """A panel for each w, a column for each class."""
    size = recipe.model.size
    figure = Figure(figsize=(0.85 * len(names), 0.85 * rows * len(WEIGHTS) + 0.9), layout="constrained")
    figure.suptitle(f"guidance: recipe {recipe.name}, {recipe.schedule} schedule, DPM-Solver++, 25 steps")
    panels = figure.subplots(len(WEIGHTS), 1)
    for panel, w in zip(panels, WEIGHTS):
        image_panel(panel, numbers[w]["x"], len(names), f"w = {w}")
    panels[-1].set_xticks(size / 2 + (size + 1) * np.arange(len(names)), names)     # an image and a gap
    panels[-1].tick_params(length=0, labelsize=7)
    panels[-1].set_xlabel("class asked for")
    return figure


if __name__ == "__main__":
    try:
        tyro.cli(main, description=__doc__)
    except (OSError, ValueError) as error:
        fail(error)
