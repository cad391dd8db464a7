"""The blunder: all of the predicted noise taken out of x_T at once. Beside it, what many small steps do.

The program trains a denoiser. Then it starts from one x_T in two ways. The leap computes x0_hat, the x_0 that
follows from x_T and the predicted noise. The chain is the whole ancestral sampler.

The leap gives no samples. So much noise hides where a point came from. The best answer under the squared
error is then the mean of all data that x_T could come from, and a mean of points of two moons lies between
the moons. The chain goes only a little way towards that mean, and then it asks again. Look at x0_hat along
the chain: the rough places come first, the arcs last.

The network is that of the recipe `moons`. The schedule is the linear one of a textbook's DDPM chapter (two
moons, T = 200, betas 1e-4..0.02), which ends with alpha_bar_T = 0.13. That is enough for the mean to depend
on x_T. It is also too much for x_T to be standard normal, so the mean of the chain's samples is wrong: 0.6 in
x_1, where the data has 0.75.

What to change: --steps 300. And --schedule rescaled_linear: it corrects the mean, but there the leap divides
by sqrt(alpha_bar_T) = 0.006. The network's small errors become 180 times larger and leave the picture.

The chain is algorithm 2 of [Ho et al. 2020](https://arxiv.org/abs/2006.11239).
"""

from dataclasses import replace
from pathlib import Path

import tyro
from matplotlib.figure import Figure

from npdiff.app.checkpoint import sampling_weights
from npdiff.app.figures import points_panel, save
from npdiff.backends.numpy import NumpyBackend
from npdiff.data.moons import make_moons
from npdiff.diffusion import x0_from_prediction
from npdiff.evaluation.metrics import off_arcs
from npdiff.recipes import MOONS
from npdiff.rng import generator
from npdiff.samplers import ancestral, time_pairs, to_x0_eps
from npdiff.training import new_denoiser, train

SHOWN = (200, 100, 50)      # timesteps at which x0_hat is shown; at t = 200 it is the blunder


def main(
    steps: int = 3000,
    schedule: str = "linear",
    samples: int = 1000,
    seed: int = 0,
    out: Path = Path("runs/examples"),
):
    recipe = replace(MOONS, schedule=schedule, steps=steps)
    table, backend = recipe.make_schedule(), NumpyBackend()
    denoiser = new_denoiser(backend, recipe, seed)
    for _ in train(denoiser, backend, recipe, seed):
        pass
    predict = backend.make_denoiser(recipe.model, sampling_weights(denoiser.export())).predict

    def noise(t):
        return backend.asarray(generator(seed, "sample", t).standard_normal((samples, 2)))

    clouds = {}                                                         # name -> points (samples, 2)
    denoise, pairs = to_x0_eps(predict, table), time_pairs(table.T)
    for t, x in ancestral(denoise, noise(table.T), table, noise, pairs, recipe.variance):
        if t in SHOWN:
            clouds[f"one leap from t = {t}"] = x0_from_prediction(x, t, predict(x, t), table)
    clouds["the whole chain"] = x
    data = make_moons(samples, generator(seed, "data"))                           # (samples, 2)

    print(f"{steps} steps, {schedule} schedule with alpha_bar_T = {table.alpha_bar[-1]:.5f}")
    print(f"{'':21}  off the arcs   mean of x, y     std of x, y")
    off = {name: off_arcs(points) for name, points in (clouds | {"data": data}).items()}
    for name, points in (clouds | {"data": data}).items():
        (mean_x, mean_y), (std_x, std_y) = points.mean(0), points.std(0)
        print(f"{name:21}  {off[name]:12.1%}  {mean_x:6.2f} {mean_y:6.2f}  {std_x:7.2f} {std_y:7.2f}")

    title = f"{schedule} schedule, T = {table.T}, {steps:,} training steps, ancestral sampler"
    figure = draw(clouds, data, off, title)
    print(save(figure, out / "04_blunder.png"))
    std = {name: points.std(0) for name, points in clouds.items()}
    return {"off": off, "std": std, "clouds": clouds, "figure": figure}


def draw(clouds, data, off, title):
    """A panel for each cloud, over the data."""
    figure = Figure(figsize=(14, 3.7), layout="constrained")
    figure.suptitle(title)
    panels = figure.subplots(1, len(clouds))
    for panel, (name, points) in zip(panels, clouds.items()):
        answers = points_panel(panel, points, data, f"{name}\n{off[name]:.0%} off the arcs")
        if name != "the whole chain":
            answers.set(color="tab:orange", label=r"$\hat x_0$")
        panel.set(xlim=(-2.2, 3.7), ylim=(-1.9, 2.4), xlabel="$x_1$")
    panels[0].set_ylabel("$x_2$")
    for panel in (panels[0], panels[-1]):
        panel.legend(frameon=False, loc="lower left", markerscale=2)
    return figure


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
