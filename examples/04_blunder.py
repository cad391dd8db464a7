"""The blunder: taking all of the predicted noise out of x_T at once, and what many small steps do instead.

A denoiser is trained on the spot. From the same x_T we take one leap (x0_hat, the x_0 that the predicted
noise implies) and the whole ancestral chain. The leap is not a sample: noise this strong hides where a point
came from, the best answer under squared error is the average of all the data that could be behind it, and
averages of moons lie between the moons. The chain moves only a little towards that average before it asks
again. Look at x0_hat along the way: coarse layout first, the arcs last.

The network is that of recipe `moons`, the schedule the linear one, which keeps alpha_bar_T = 0.13 at T = 200.
That is enough for an average to be seen, and too much for x_T to be quite normal: the chain's mean is off,
0.6 for 0.75 in x. What to change: --steps 300; and --schedule rescaled_linear, which mends the mean, but
there the leap divides by sqrt(alpha_bar_T) = 0.006: the network's small errors come out 180 times larger, far
outside the picture.
"""

from dataclasses import replace
from pathlib import Path

import tyro
from matplotlib.figure import Figure

from npdiff.app.checkpoint import sampling_weights
from npdiff.app.figures import save
from npdiff.backends.numpy import NumpyBackend
from npdiff.data.moons import make_moons
from npdiff.diffusion import x0_from_prediction
from npdiff.evaluation.metrics import off_arcs
from npdiff.models import mlp
from npdiff.recipes import MOONS
from npdiff.rng import generator
from npdiff.samplers import ancestral, time_pairs, to_x0_eps
from npdiff.training import train

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
    denoiser = backend.make_denoiser(
        recipe.model, mlp.init(recipe.model, generator(seed, "init")), recipe.ema_decay
    )
    for step, loss in train(denoiser, backend, recipe, seed):
        pass
    predict = backend.make_denoiser(recipe.model, sampling_weights(denoiser.export())).predict

    def noise(t):
        return backend.asarray(generator(seed, "sample", t).standard_normal((samples, 2)))

    # name -> points (samples, 2)
    clouds = {}
    for t, x in ancestral(
        to_x0_eps(predict, table), noise(table.T), table, noise, time_pairs(table.T), recipe.variance
    ):
        if t in SHOWN:
            clouds[f"one leap from t = {t}"] = x0_from_prediction(x, t, predict(x, t), table)
    clouds["the whole chain"] = x
    data = make_moons(samples, generator(seed, "data"))                           # (samples, 2)

    print(f"{steps} steps, {schedule} schedule with alpha_bar_T = {table.alpha_bar[-1]:.5f}")
    print(f"{'':21}  off the arcs   mean of x, y     std of x, y")
    off = {name: off_arcs(points) for name, points in (clouds | {"data": data}).items()}
    for name, points in (clouds | {"data": data}).items():
        print(
            f"{name:21}  {off[name]:12.1%}  {points.mean(0)[0]:6.2f} {points.mean(0)[1]:6.2f}  "
            f"{points.std(0)[0]:7.2f} {points.std(0)[1]:7.2f}"
        )

    figure = Figure(figsize=(14, 3.15), layout="compressed")
    for panel, (name, points) in zip(figure.subplots(1, len(clouds)), clouds.items()):
        panel.plot(*data.T, ".", color="0.85", markersize=3)
        panel.plot(
            *points.T, ".", color="tab:blue" if name == "the whole chain" else "tab:orange", markersize=3
        )
        panel.set(
            xlim=(-2.2, 3.7),
            ylim=(-1.7, 2.4),
            aspect="equal",
            xticks=[],
            yticks=[],
            title=f"{name}\n{off[name]:.0%} off the arcs",
        )
    print(save(figure, out / "04_blunder.png"))
    return {"off": off, "std": {name: points.std(0) for name, points in clouds.items()}}


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
