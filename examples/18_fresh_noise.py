"""Fresh noise mends the network's error: why the ancestral sampler goes on where DDIM has stopped.

The denoiser is exact, so its error is known: none, or a planted one. The planted error is a smooth random
function of (x, t), of size 0.1 (root mean square), added to the exact eps. A trained network errs like this:
nearly the same way at neighbouring points and times. Left: the energy distance of the samples to the data
against the number of network calls. Right: the samples of both ends.

- Without the error (thin lines) both samplers come down to the level of fresh data: DDIM with 20 steps, the
  ancestral sampler with 50.
- With the error the three deterministic samplers, DDIM, DPM-Solver++ and Heun's method, stop improving after
  10 to 20 calls, at 0.05: ten times the level of fresh data. They solve the same equation, so they end at the
  same place, and it is the wrong one. More steps do not help.
- The ancestral sampler is worse than they are with 5 steps. But it goes on, and with 100 steps it is at the
  level of fresh data, with the same wrong denoiser. DDIM with eta = 0.5 draws half as much fresh noise and
  lies between.

Why? A deterministic step carries everything in x_t on to x_s, also the errors of all steps before. So they
add up. Look at the samples of DDIM: they lie on the arcs, but parts of the arcs are too full and others
nearly empty. A step with fresh noise throws a part of x_t away, and the errors in it, and puts noise in its
place, which is right by construction. So only the latest errors are left. The price is many steps, because
the new noise must be removed again.

What to change: --error 0.02, a better network: the deterministic samplers stop later and lower. --error 0.
"""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import tyro
from matplotlib.figure import Figure
from threadpoolctl import threadpool_limits

from npdiff.app.figures import points_panel, save
from npdiff.backends.numpy import NumpyBackend
from npdiff.data.moons import make_moons
from npdiff.evaluation.metrics import energy_distance
from npdiff.recipes import MOONS
from npdiff.rng import generator
from npdiff.sampling import Sampling, sample
from npdiff.verify.oracle import Moons

STEPS = (5, 10, 20, 50, 100)
SAMPLERS = {    # name: the sampling, line and marker, colour
    "DDIM": (Sampling("ddim"), "D-", "tab:blue"),
    "DPM-Solver++": (Sampling("dpm_solver_pp"), "^-", "tab:orange"),
    "Heun": (Sampling("heun"), "s-", "tab:red"),
    "DDIM, eta = 0.5": (Sampling("ddim", eta=0.5), "P-.", "tab:purple"),
    "ancestral": (Sampling("ancestral"), "o-", "black"),
}


def smooth_error(seed, waves=64):
    """A smooth random function of x (N, 2) and t -> (N, 2), with mean square 1: a sum of waves."""
    rng = generator(seed, "init")
    directions, speeds = 2 * rng.standard_normal((2, waves)), 0.02 * rng.standard_normal(waves)
    phases, heights = rng.uniform(0, 2 * np.pi, waves), rng.standard_normal((waves, 2))
    return lambda x, t: np.cos(x @ directions + speeds * t + phases) @ heights * (2 / waves) ** 0.5


def calls(sampling):
    """How often a sampler calls the network: Heun's twice in a step, but once in the last."""
    return 2 * sampling.steps - 1 if sampling.sampler == "heun" else sampling.steps


@threadpool_limits.wrap(limits=1, user_api="blas")       # small products: more threads only wait
def main(error: float = 0.1, samples: int = 400, seed: int = 0, out: Path = Path("runs/examples")):
    recipe, backend = replace(MOONS, num_train_timesteps=100), NumpyBackend(dtype="float64")
    exact, wave = Moons().predict(recipe.make_schedule()), smooth_error(seed)
    networks = {size: SimpleNamespace(predict=lambda x, t, labels, size=size: exact(x, t) + size * wave(x, t))
                for size in (0.0, error)}
    data, fresh = make_moons(5000, generator(seed, "data")), make_moons(samples, generator(seed, "data", 1))
    floor, clouds, distance, asked = energy_distance(fresh, data), {}, {}, {}
    for name, (sampling, *_) in SAMPLERS.items():
        sizes = (0.0, error) if name in ("DDIM", "ancestral") else (error,)
        # Heun's method asks twice a step, so half the steps cost the same
        tried = [replace(sampling, steps=k // 2 if name == "Heun" else k) for k in STEPS]
        asked[name] = [calls(choice) for choice in tried]
        for size in sizes:
            for choice in tried:
                chain = sample(networks[size], backend, recipe, samples, seed, sampling=choice)
                *_, (_, clouds[name, size]) = chain         # the last is that with the most steps
                distance.setdefault((name, size), []).append(energy_distance(clouds[name, size], data))

    print(f"energy distance to the data; fresh data {floor:.4f}")
    print(f"{'':17}error   steps{''.join(f'{k:8}' for k in STEPS)}   (Heun: half as many, twice the calls)")
    for (name, size), values in distance.items():
        print(f"{name:17}{size:5g}        {''.join(f'{value:8.4f}' for value in values)}")
    figure = draw(asked, distance, floor, clouds, data, error, recipe)
    print(save(figure, out / "18_fresh_noise.png"))
    return {"distance": distance, "floor": floor, "clouds": clouds, "calls": asked, "figure": figure}


def draw(asked, distance, floor, clouds, data, error, recipe):
    """Left: the distance against the calls. Right: the samples of DDIM and of the ancestral sampler."""
    figure = Figure(figsize=(15, 5), layout="constrained")
    figure.suptitle(f"moons, {recipe.schedule} schedule, T = {recipe.num_train_timesteps}: the exact denoiser "
                    f"with a planted error of {error:g} in eps")
    left, *right = figure.subplots(1, 3, width_ratios=[1.3, 1, 1])
    for name, (_, line, colour) in SAMPLERS.items():
        look = {"color": colour, "markersize": 7}
        left.plot(asked[name], distance[name, error], line, linewidth=2, label=name, **look)
        if error and (name, 0.0) in distance:
            left.plot(asked[name], distance[name, 0.0], line[0] + ":", linewidth=1.2, fillstyle="none",
                      label=f"{name}, no error", **look)
    left.axhline(floor, color="0.85", linewidth=6, zorder=0, label="fresh data")
    left.set(xscale="log", yscale="log", xticks=STEPS, xticklabels=STEPS, xlabel="network calls")
    left.set(ylabel="energy distance to the data")
    left.minorticks_off()
    left.legend(frameon=False, loc="upper left", bbox_to_anchor=(0, -0.14), ncols=2)
    for panel, name in zip(right, ("DDIM", "ancestral")):
        panel_title = f"{name}, {STEPS[-1]} steps, planted error\nenergy distance {distance[name, error][-1]:.4f}"
        points_panel(panel, clouds[name, error], data[:2000], panel_title)
        panel.set(xlim=(-2.2, 3.7), ylim=(-1.7, 2.2), xlabel="$x_1$")
    right[0].set_ylabel("$x_2$")
    right[0].legend(frameon=False, loc="lower left", markerscale=2)
    return figure


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
