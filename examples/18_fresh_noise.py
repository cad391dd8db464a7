"""Fresh noise mends the network's error: the ancestral sampler goes on where DDIM has stopped.

The denoiser is the exact one of two moons, made of 16 normal distributions, so its error is known. A planted
error is added to its eps: a smooth random function of (x, t) of size 0.05 (root mean square). A trained
network errs like this too: nearly the same way at points and times that are near each other. Left: the energy
distance of 1,000 samples to the data, against the number of network calls. Middle: the samples of DDIM.
Right: which parts of the arcs they crowd.

- Without the error (thin lines, open markers) DDIM and the ancestral sampler both come down to 0.003 with 100
  steps. Fresh data is at 0.001.
- With the error the three deterministic samplers, DDIM, DPM-Solver++ and Heun's method, stop improving after
  10 to 20 calls, and end at 0.019. All three solve one equation. They end at its solution, and the error has
  made that another one. More steps do not help.
- The ancestral sampler is no better with 5 steps. But it goes on: 0.004 with 20 steps, 0.003 with 100. That
  is as good as without the error. DDIM with eta = 0.5, which draws less fresh noise, goes on too, but later.
- No sample of DDIM lies far from the arcs, so the middle picture looks right. The right one shows what is
  wrong: the parts of the arcs hold from 0.6 to 1.9 times as many samples as they should. With the ancestral
  sampler it is 0.8 to 1.3 times.

Why? A deterministic step leads all of x_t on to x_s, with the errors of all the steps before. So they add up.
A step with fresh noise takes away a part of x_t, with the errors in it, and puts noise in its place, which
has no error. So only the latest errors are left. This has a price: many steps, because the new noise must be
removed again.

What to change: --error 0.2, a worse network. --error 0.01, a better one: DPM-Solver++ with 10 calls is then
nearly as good as the ancestral sampler with 50. --seed 1: another error.

Sources: [Ho et al. 2020](https://arxiv.org/abs/2006.11239) for ancestral, [Song et al.
2021](https://arxiv.org/abs/2010.02502) for DDIM and eta; [Karras et al.
2022](https://arxiv.org/abs/2206.00364), section 4, for the effect of fresh noise on errors.
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
from npdiff.data.moons import JITTER, SCALE
from npdiff.evaluation.metrics import energy_distance
from npdiff.recipes import MOONS
from npdiff.rng import generator
from npdiff.sampling import Sampling, sample
from npdiff.verify.oracle import GaussianMixture

STEPS = (5, 10, 20, 50, 100)
SAMPLERS = {    # name: the sampling, line and marker, colour
    "DDIM": (Sampling("ddim"), "D-", "tab:blue"),
    "DPM-Solver++": (Sampling("dpm_solver_pp"), "^-", "tab:orange"),
    "Heun": (Sampling("heun"), "s-", "tab:red"),
    "DDIM, eta = 0.5": (Sampling("ddim", eta=0.5), "P-.", "tab:purple"),
    "ancestral": (Sampling("ancestral"), "o-", "black"),
}


def arcs(pieces=8):
    """The two moons as a mixture of normal distributions, `pieces` on each arc, in order along the arcs."""
    width = np.pi / pieces
    tau = width * (np.arange(pieces) + 0.5)
    along = np.stack([-np.sin(tau), np.cos(tau)], axis=1)                               # (pieces, 2)
    upper = np.stack([np.cos(tau), np.sin(tau)], axis=1)
    means = np.concatenate([upper, [1, 0.5] - upper])                                   # (K, 2)
    # along the arc as wide as a piece, whose variance is width^2 / 12
    one = width ** 2 / 12 * along[:, :, None] * along[:, None] + JITTER ** 2 * np.eye(2)
    covariances = np.concatenate([one, one])                                            # (K, 2, 2)
    return GaussianMixture(np.full(len(means), 1 / len(means)), SCALE * means, SCALE ** 2 * covariances)


def crowding(points, mixture):
    """How many points lie nearest to each centre of the mixture, divided by the number expected: (K,)."""
    distance = np.linalg.norm(points[:, None] - mixture.means, axis=2)                  # (N, K)
    return np.bincount(distance.argmin(1), minlength=len(mixture.means)) * len(mixture.means) / len(points)


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
def main(error: float = 0.05, samples: int = 1000, seed: int = 0, out: Path = Path("runs/examples")):
    recipe, backend = replace(MOONS, num_train_timesteps=100), NumpyBackend(dtype="float64")
    mixture = arcs()
    exact, wave = mixture.predict(recipe.make_schedule()), smooth_error(seed)
    networks = {size: SimpleNamespace(predict=lambda x, t, labels, size=size: exact(x, t) + size * wave(x, t))
                for size in (0.0, error)}
    data, fresh = (mixture.sample(n, generator(seed, "data", draw)) for draw, n in enumerate((2000, samples)))
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
    crowds = {name: crowding(clouds[name, error], mixture) for name in ("DDIM", "ancestral")}
    figure = draw(asked, distance, floor, clouds, data, crowds, error, recipe)
    print(save(figure, out / "18_fresh_noise.png"))
    return {"distance": distance, "floor": floor, "clouds": clouds, "calls": asked, "crowds": crowds,
            "figure": figure}


def draw(asked, distance, floor, clouds, data, crowds, error, recipe):
    """Left: the distance against the calls. Then the samples of DDIM, and how crowded the arcs are."""
    figure = Figure(figsize=(15, 5.4), layout="constrained")
    figure.suptitle(f"two moons, {recipe.schedule} schedule, T = {recipe.num_train_timesteps}: the exact "
                    f"denoiser with a planted error of {error:g} in eps")
    left, middle, right = figure.subplots(1, 3, width_ratios=[1.2, 1, 1.2])
    for name, (_, line, colour) in SAMPLERS.items():
        look = {"color": colour, "markersize": 7}
        left.plot(asked[name], distance[name, error], line, linewidth=2, label=name, **look)
        if error and (name, 0.0) in distance:
            left.plot(asked[name], distance[name, 0.0], line[0] + ":", linewidth=1.2, fillstyle="none",
                      label=f"{name}, no error", **look)
    left.axhline(floor, color="0.85", linewidth=6, zorder=0, label="fresh data")
    left.set(xscale="log", yscale="log", xticks=STEPS, xticklabels=STEPS, xlabel="network calls")
    left.set(ylabel="energy distance to the data", title="how far the samples are from the data")
    left.minorticks_off()
    handles, names = left.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower left", ncols=4, frameon=False)
    points_panel(middle, clouds["DDIM", error], data, f"DDIM, {STEPS[-1]} steps, with the error")
    middle.set(xlim=(-2.2, 3.7), ylim=(-1.9, 2.2), xlabel="$x_1$", ylabel="$x_2$")
    middle.legend(frameon=False, loc="lower left", markerscale=2)
    K = len(crowds["DDIM"])
    for name, line, width in (("DDIM", "-", 2.5), ("ancestral", "--", 1.5)):
        colour = SAMPLERS[name][2]
        right.plot(np.arange(1, K + 1), crowds[name], line, color=colour, linewidth=width, marker=".",
                   label=f"{name}, {STEPS[-1]} steps, with the error")
    right.axhline(1, color="0.85", linewidth=6, zorder=0, label="data")
    right.axvline(K / 2 + 0.5, color="0.5", linewidth=0.8, linestyle=":")
    right.set(title="how crowded the arcs are", ylabel="samples in a piece / the right number",
              xlabel="piece: the upper arc from right to left, then the lower one",
              ylim=(0, 1.4 * crowds["DDIM"].max()))
    right.legend(frameon=False, loc="upper right")
    return figure


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
