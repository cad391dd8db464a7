"""The cosine schedule against the linear one after equal training, and how not to compare them.

Three networks for the moons, the same but for the schedule: `linear` with T = 300, as in a textbook's
Fashion-MNIST lab (betas 1e-4..0.02, alpha_bar_T is still 0.048); `rescaled_linear`, which adds enough noise
for T = 300; and `cosine` ([Nichol and Dhariwal 2021](https://arxiv.org/abs/2102.09672)). All start with the
same weights, see the same data and noise, and train for the same number of steps. Look for four things:

- You cannot compare the losses. Above, each loss comes to rest close to the dashed line, its Bayes floor: the
  loss of the exact denoiser. No network can get below it. Each schedule has its own floor, because each gives
  other shares of its timesteps to easy tasks and to hard ones. rescaled_linear has by far the lowest loss,
  and the worst samples.
- The excess is the loss minus its floor. It is about the same for all three: each network does its own task
  equally well. It does not tell which samples are best either.
- What matters is where the timesteps lie. The arcs become sharp where little noise is left. rescaled_linear
  has half as many of these timesteps as the others, so it gets half the training there. At T = 300 linear is
  nearly cosine, but for its end. This is what cosine is good for.
- The ends differ. At the end of linear x_T still depends on the data, so N(0, I) is the wrong start. DDIM
  draws no new noise, so the mean of its samples is wrong by 0.17. At the end of cosine almost no data is
  left. There the error of x0_hat is the network's error divided by sqrt(alpha_bar_T) = 0.0002. Without
  clipping x0_hat, DDIM's samples from t = T lie far away (column "from T"). So npdiff begins a little lower
  where alpha_bar_T is that small, see Sampling.jumps in npdiff/sampling.py.

What to change: --steps 6000. --num-train-timesteps 1000, where linear and rescaled_linear are the same (half
a minute): more timesteps do not help it, because the share of timesteps with little noise stays as it was.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import tyro
from matplotlib.figure import Figure
from threadpoolctl import threadpool_limits

from npdiff.app.checkpoint import sampling_weights
from npdiff.app.figures import points_panel, save
from npdiff.backends.numpy import NumpyBackend
from npdiff.data.moons import MEAN, make_moons
from npdiff.evaluation.metrics import energy_distance, loss_above_floor, off_arcs
from npdiff.recipes import MOONS
from npdiff.rng import generator
from npdiff.samplers import ddim, time_pairs, to_x0_eps
from npdiff.sampling import Sampling, sample
from npdiff.training import new_denoiser, train
from npdiff.verify.floor import recipe_floor

NAMES = ("linear", "rescaled_linear", "cosine")
CLIP = 3.2          # no coordinate of the data is larger
SAMPLINGS = {"ancestral": Sampling(clip=CLIP), "DDIM": Sampling("ddim", clip=CLIP)}
COLUMNS = (*SAMPLINGS, "from T")


@threadpool_limits.wrap(limits=1, user_api="blas")       # small products: more threads only wait
def main(
    steps: int = 2000,
    num_train_timesteps: int = 300,
    samples: int = 1000,
    seed: int = 0,
    out: Path = Path("runs/examples"),
):
    backend, losses, floors, excess, clouds = NumpyBackend(), {}, {}, {}, {}
    # (samples, 2) each
    data, fresh = (make_moons(samples, generator(seed, "data", draw)) for draw in (0, 1))
    tail = max(1, steps // 10)
    print(f"{steps} training steps, T = {num_train_timesteps}")
    print(f"{'':15}  alpha_bar_T  t with alpha_bar > 0.9  loss, last tenth   floor  excess")
    for name in NAMES:
        recipe = replace(MOONS, schedule=name, num_train_timesteps=num_train_timesteps, steps=steps)
        schedule = recipe.make_schedule()
        denoiser = new_denoiser(backend, recipe, seed)
        losses[name] = np.array([loss for _, loss in train(denoiser, backend, recipe, seed)])   # (steps,)
        trained = backend.make_denoiser(recipe.model, sampling_weights(denoiser.export()))
        loss, lowest = loss_above_floor(trained, backend, recipe, seed)
        floors[name], excess[name] = recipe_floor(recipe), loss - lowest        # (T+1,), a float
        for how, sampling in SAMPLINGS.items():
            chain = sample(trained, backend, recipe, samples, seed, sampling=sampling)
            *_, (_, clouds[name, how]) = chain
        x_T = generator(seed, "sample", schedule.T).standard_normal((samples, 2))
        chain = ddim(to_x0_eps(trained.predict, schedule), backend.asarray(x_T), schedule, None,
                     time_pairs(schedule.T))
        *_, (_, clouds[name, "from T"]) = chain
        clear = (schedule.alpha_bar[1:] > 0.9).sum()
        print(f"{name:15}  {schedule.alpha_bar[-1]:11.1e}  {clear:22}  {losses[name][-tail:].mean():16.4f}"
              f"  {floors[name][1:].mean():.4f}  {excess[name]:.4f}")
    off = {key: off_arcs(points) for key, points in clouds.items()}
    distance = {key: energy_distance(points, data) for key, points in clouds.items()}
    shift = {key: np.hypot(*(points.mean(0) - MEAN)) for key, points in clouds.items()}
    of_fresh = f"energy distance (fresh data {energy_distance(fresh, data):.4f})"
    print_table("off the arcs", off, "10.1%")
    print_table(of_fresh, distance, "10.4f")
    print_table("mean is off by", shift, "10.2f")

    figure = draw(losses, floors, tail, clouds, data, off)
    print(save(figure, out / "15_schedules.png"))
    numbers = {"losses": losses, "floors": floors, "excess": excess}
    return numbers | {"off": off, "distance": distance, "shift": shift, "figure": figure}


def print_table(what, values, form):
    """One measure, a row for each schedule and a column for each way of sampling."""
    print(f"{'':15}{''.join(f'{how:>11}' for how in COLUMNS)}   {what}")
    for name in NAMES:
        print(f"{name:15}{''.join(f' {values[name, how]:{form}}' for how in COLUMNS)}")


def draw(losses, floors, tail, clouds, data, off):
    """A column for each schedule: the loss beside its own floor, the floor by t, the samples."""
    steps, T = len(losses[NAMES[0]]), len(floors[NAMES[0]]) - 1
    figure = Figure(figsize=(12.5, 10.5), layout="constrained")
    figure.suptitle(f"three schedules, T = {T}, {steps:,} training steps: each loss beside its own floor")
    axes = figure.subplots(3, len(NAMES), sharey="row", height_ratios=[1.2, 0.9, 1.1])
    window = max(1, steps // 20)
    for name, (curve, by_t, cloud) in zip(NAMES, axes.T):
        floor, last = floors[name][1:].mean(), losses[name][-tail:].mean()
        x = np.arange(window, steps + 1)
        means = np.convolve(losses[name], np.ones(window) / window, "valid")
        curve.plot(x, means, color="tab:blue", linewidth=2.5, label="loss")
        curve.axhline(floor, color="black", linestyle="--", linewidth=2, label="Bayes floor")
        excess = {"color": "tab:blue", "alpha": 0.25, "linewidth": 0, "label": "loss minus floor"}
        curve.fill_between(x, floor, means, **excess)
        curve.set(xlabel="training step", xlim=(0, steps), ylim=(0, 0.62))
        curve.set_title(f"{name} schedule\nloss {last:.3f}, floor {floor:.3f}")
        by_t.plot(floors[name], color="black", linewidth=2, label="floor at t")
        by_t.axhline(floor, color="black", linestyle="--", linewidth=1, label="its mean: the floor above")
        by_t.set(xlabel="timestep t", xlim=(0, T), ylim=(0, 1.02))
        title = f"ancestral sampler, {T} steps\n{off[name, 'ancestral']:.1%} off the arcs"
        points_panel(cloud, clouds[name, "ancestral"], data, title)
        cloud.set(xlim=(-2.2, 3.7), ylim=(-1.9, 2.4), xlabel="$x_1$")
    curve, by_t, cloud = axes[:, 0]
    curve.set_ylabel(f"loss (mean of {window} steps)")
    by_t.set_ylabel("smallest possible loss at t")
    cloud.set_ylabel("$x_2$")
    curve.legend(frameon=False)
    by_t.legend(frameon=False)
    cloud.legend(frameon=False, loc="lower left", markerscale=2)
    return figure


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
