"""How fast is the textbook step? One table from one run: npdiff, the same step in eager PyTorch, and the bare floor.

    python reference/benchmark.py

The step is S2's recipe `textbook-moons`: draw 256 moons, timesteps and noise; noise the data; forward and backward through 18-128-128-2; Adam.
The floor is the step's matrix products (three forward, six backward) and exponentials alone, in NumPy. The three take turns in short rounds, so that
a slow moment of the machine falls on all; the figure is the median round.
"""

import math
import time
from dataclasses import replace

import numpy as np
import torch
import tyro
from threadpoolctl import threadpool_limits

from npdiff.backend import NumpyBackend
from npdiff.models import mlp
from npdiff.recipes import TEXTBOOK_MOONS
from npdiff.rng import generator
from npdiff.training import train

N = TEXTBOOK_MOONS.batch_size


def numpy_step():
    """-> a function that makes npdiff's next training step."""
    recipe, backend = replace(TEXTBOOK_MOONS, steps=10**9), NumpyBackend()
    denoiser = backend.make_denoiser(recipe.model, mlp.init(recipe.model, generator(0, "init")))
    steps = train(denoiser, backend, recipe, seed=0)
    return lambda: next(steps)


def torch_step():
    """-> a function that makes the same step as a plain torch script would."""
    alpha_bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 200), 0)
    frequencies = torch.exp(-torch.arange(8.0))
    net = torch.nn.Sequential(torch.nn.Linear(18, 128), torch.nn.SiLU(), torch.nn.Linear(128, 128), torch.nn.SiLU(), torch.nn.Linear(128, 2))
    adam = torch.optim.Adam(net.parameters(), 1e-3)

    def step():
        theta = torch.rand(N) * math.pi
        upper = torch.rand(N) < 0.5
        x = torch.where(upper, theta.cos(), 1 - theta.cos())
        y = torch.where(upper, theta.sin(), 0.5 - theta.sin())
        x0 = (torch.stack([x, y], 1) + 0.03 * torch.randn(N, 2)) * 1.5
        t, noise = torch.randint(0, 200, (N,)), torch.randn(N, 2)
        ab = alpha_bar[t][:, None]
        x_t = ab.sqrt() * x0 + (1 - ab).sqrt() * noise
        angle = t[:, None] * frequencies
        loss = ((net(torch.cat([x_t, angle.sin(), angle.cos()], 1)) - noise) ** 2).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()

    return step


def floor_step():
    """-> a function that makes the step's matrix products and exponentials, and nothing else."""
    rng = np.random.default_rng(0)
    z, h, dy = (rng.standard_normal((N, width), np.float32) for width in (18, 128, 2))
    W1, W2, W3 = (rng.standard_normal(shape, np.float32) for shape in ((18, 128), (128, 128), (128, 2)))

    def step():
        np.exp(z @ W1), np.exp(h @ W2), h @ W3                              # forward
        h.T @ dy, dy @ W3.T, h.T @ h, h @ W2.T, z.T @ h, h @ W1.T           # backward: dW and dx of each layer, last first

    return step


def main(rounds: int = 15, steps: int = 200, threads: int = 1):
    """Print the table. threads: of torch and of NumPy's BLAS."""
    torch.set_num_threads(threads)
    contestants = {"npdiff": numpy_step(), "torch eager": torch_step(), "floor": floor_step()}
    times = {name: [] for name in contestants}
    with threadpool_limits(threads, user_api="blas"):
        for _ in range(rounds + 1):
            for name, step in contestants.items():
                start = time.perf_counter()
                for _ in range(steps):
                    step()
                times[name].append((time.perf_counter() - start) / steps * 1e6)
    median = {name: float(np.median(rounds[1:])) for name, rounds in times.items()}         # the first round warms up
    print(f"NumPy {np.__version__}, torch {torch.__version__}, {threads} thread(s); microseconds a step, median of {rounds} rounds of {steps}")
    for name, us in median.items():
        print(f"  {name:12}{us:8.0f} us    npdiff takes {median['npdiff'] / us:.2f}x its time")
    return median


if __name__ == "__main__":
    tyro.cli(main)
