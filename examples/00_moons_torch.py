"""Denoising diffusion in one file: a network learns to remove noise from points, and then makes new points
from noise.

It is 00_moons.py with autograd: torch derives the gradients and has the optimiser. The data, the schedule,
the random numbers and the sampler are the same.

Run it: .venv/bin/python examples/00_moons_torch.py (a minute). It needs the extra `torch`.

    x_0      a clean point of the data
    noise    eps, standard normal
    x_t      sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps, for t = 1..T: the larger t, the more noise
    eps_hat  the network's answer to (x_t, t), which should be eps
    (N, I)   a shape: N samples, I inputs, O outputs, H hidden units; M = all entries of an array
"""

from pathlib import Path

import numpy as np
import torch

T = 200                     # timesteps
BATCH = 256                 # samples in each training step
HIDDEN = 128                # units in each hidden layer
LR = 3e-3                   # learning rate at the start

# ------------------------------------------------------------ Data. In full: npdiff/data/moons.py


def make_moons(n, rng):
    """n points of two half circles that reach into each other.   -> (n, 2)"""
    theta = 2 * np.pi * rng.random(n)                                           # (n,)
    points = np.stack([np.cos(theta), np.sin(theta)], axis=1)                   # (n, 2) a circle
    points[theta >= np.pi] += (1, 0.5)                                          # its lower half moves away
    return 1.5 * (points + 0.03 * rng.standard_normal((n, 2)))


# ------------------------------------------------------------ Schedule. In full: npdiff/schedule.py
# beta_t is the variance of the noise that step t adds. It rises along a sigmoid, from about 1e-4 to about
# 0.02. These numbers are for 1000 steps; we have T, so each is multiplied by 1000 / T. Index 0 is the clean
# data.
# Source of the sigmoid: the code of [Xu et al. 2022](https://arxiv.org/abs/2203.02923).
beta = 1000 / T * (1e-4 + (0.02 - 1e-4) / (1 + np.exp(-np.linspace(-6, 6, T))))
beta = np.concatenate([[0], beta])                                              # (T+1,)
alpha_bar = np.cumprod(1 - beta)                                                # (T+1,)

# ------------------------------------------------------------ Closed form. In full: npdiff/diffusion.py


def q_sample(x0, t, noise):
    """t steps of added noise at once.   x0, noise (N, 2), t (N,) -> x_t (N, 2)"""
    a, sigma = alpha_bar[t] ** 0.5, (1 - alpha_bar[t]) ** 0.5                   # (N,)
    return a[:, None] * x0 + sigma[:, None] * noise


# ------------------------------------------------------------ Linear layer. In full: npdiff/nn/linear.py


def linear_forward(x, W, b):
    """y[n,o] = sum_i x[n,i] W[i,o] + b[o].   x (N, I), W (I, O), b (O,) -> y (N, O)"""
    y = x @ W + b                                                               # (N, O)
    return y


# ------------------------------------------------------------ SiLU. In full: npdiff/nn/activation.py


def silu_forward(x):
    """y[n,h] = x[n,h] s[n,h], where s is the sigmoid of x.   x (N, H) -> y (N, H)"""
    s = 1 / (1 + torch.exp(-x))                                                 # (N, H)
    y = x * s                                                                   # (N, H)
    return y


# ------------------------------------------------------------ Loss. In full: npdiff/nn/loss.py


def mse_forward(y, target):
    """loss = 1/M sum_m (y[m] - target[m])^2 over all M entries.   y, target (N, 2) -> a number"""
    error = y - target                                                          # (N, 2)
    loss = (error ** 2).mean()
    return loss


# ------------------------------------------------------------ Network. In full: npdiff/models/mlp.py


def features(x, t):
    """What the network sees: x, and sines and cosines of x and of t - 1 (counted from 0).

    The sines and cosines let it tell near points and near timesteps apart (npdiff/nn/embedding.py). Nothing
    here is learned, so it has no backward; in npdiff/models/mlp.py the multiples of x are learned.

    x (N, 2), t (N,) -> (N, 34)
    """
    x_angle = (x[:, :, None] * np.arange(1, 5)).reshape(len(x), 8)              # (N, 8)
    t_angle = (t[:, None] - 1) * 10000 ** (-np.arange(8) / 8)                   # (N, 8)
    angle = np.concatenate([x_angle, t_angle], axis=1)                          # (N, 16)
    return np.concatenate([x, np.sin(angle), np.cos(angle)], axis=1)            # (N, 34)


def init(rng):
    """Three linear layers: W and b uniform in +-1/sqrt(inputs)."""
    params = []
    for inputs, outputs in ((34, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, 2)):
        bound = inputs ** -0.5
        params += [rng.uniform(-bound, bound, (inputs, outputs)), rng.uniform(-bound, bound, outputs)]
    return [torch.tensor(p, requires_grad=True) for p in params]


def forward(params, x, t):
    """eps_hat = network(x_t, t).   x (N, 2), t (N,) -> y (N, 2)"""
    W1, b1, W2, b2, W3, b3 = params
    h1 = linear_forward(torch.tensor(features(x, t)), W1, b1)                   # (N, H)
    z1 = silu_forward(h1)                                                       # (N, H)
    h2 = linear_forward(z1, W2, b2)                                             # (N, H)
    z2 = silu_forward(h2)                                                       # (N, H)
    y = linear_forward(z2, W3, b3)                                              # (N, 2)
    return y


# ------------------------------------------------------------ Training. In full: npdiff/training.py


def train(params, steps, rng):
    """Algorithm 1 of DDPM, in place on params: yields the loss of each step.

    Source: [Ho et al. 2020](https://arxiv.org/abs/2006.11239).
    """
    adam = torch.optim.Adam(params)
    for step in range(1, steps + 1):
        x0, noise = make_moons(BATCH, rng), rng.standard_normal((BATCH, 2))
        t = rng.integers(1, T, BATCH, endpoint=True)                            # one timestep for each sample
        y = forward(params, q_sample(x0, t, noise), t)
        loss = mse_forward(y, torch.tensor(noise))
        adam.zero_grad()
        loss.backward()
        lr = LR * 0.5 * (1 + np.cos(np.pi * (step - 1) / steps))                # from LR down to 0
        adam.param_groups[0]["lr"] = lr
        adam.step()
        yield loss.item()


# ------------------------------------------------------------ Ancestral sampler. In full: npdiff/samplers.py


@torch.no_grad()
def sample(params, n, rng):
    """Algorithm 2 of DDPM: from noise x_T to data x_0, step by step.   -> (n, 2)

    Given x_0 and x_t, x_{t-1} is normal: this is the posterior q(x_{t-1} | x_t, x_0). Its mean is
        sqrt(alpha_bar_{t-1}) beta_t / v_t x_0 + sqrt(1 - beta_t) v_{t-1} / v_t x_t,   v = 1 - alpha_bar
    (derived in posterior_mean of npdiff/diffusion.py). The network's x_0 is
        (x_t - sqrt(v_t) eps_hat) / sqrt(alpha_bar_t)
    Put it in. As beta_t + (1 - beta_t) v_{t-1} = v_t, the factor of x_t becomes 1 / sqrt(1 - beta_t):
        mean = (x_t - beta_t / sqrt(v_t) eps_hat) / sqrt(1 - beta_t)
    The variance is beta_t v_{t-1} / v_t (Ho et al. 2020, eq. 7).
    """
    x = rng.standard_normal((n, 2))                                             # x_T
    for t in range(T, 0, -1):
        eps_hat = forward(params, x, np.full(n, t)).numpy()
        x = (x - beta[t] / (1 - alpha_bar[t]) ** 0.5 * eps_hat) / (1 - beta[t]) ** 0.5
        variance = beta[t] * (1 - alpha_bar[t - 1]) / (1 - alpha_bar[t])        # 0 at t = 1: no noise then
        x = x + variance ** 0.5 * rng.standard_normal((n, 2))                   # x_{t-1}
    return x


# ------------------------------------------------------------ Picture. In full: npdiff/app/figures.py


def draw(samples, data, steps, path):
    """The samples over the data."""
    from matplotlib.figure import Figure
    figure = Figure(figsize=(9, 5.6), layout="constrained")
    axes = figure.subplots()
    axes.plot(*data.T, "o", markersize=7, color="0.8", label=f"data, {len(data):,} points")
    axes.plot(*samples.T, "x", markersize=3, color="tab:blue", label=f"{len(samples):,} samples")
    title = f"sigmoid schedule, ancestral sampler of {T} steps, after {steps:,} steps of training"
    axes.set(title=title, xlabel="$x_1$", ylabel="$x_2$", aspect="equal")
    axes.legend(loc="upper right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def main(steps=6000, n=2000, seed=0, out=Path("runs/examples")):
    """Train, sample, draw. Returns the losses (steps,) and the samples (n, 2)."""
    rng = np.random.default_rng(seed)
    params, losses = init(rng), []
    for loss in train(params, steps, rng):
        losses.append(loss)
        if len(losses) % 1000 == 0:
            print(f"step {len(losses):,}: mean loss of the last 1,000 steps {np.mean(losses[-1000:]):.4f}")
    samples = sample(params, n, rng)
    path = Path(out) / f"{Path(__file__).stem}.png"
    draw(samples, make_moons(2000, rng), steps, path)
    print(path)
    return np.array(losses), samples


if __name__ == "__main__":
    main()
