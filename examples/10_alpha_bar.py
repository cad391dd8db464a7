"""alpha_bar: what it controls, why it can only fall, and whether it falls early or late.

alpha_bar_t is the data's share of the variance of x_t: the square of the factor of x_0. It can only fall. A
step keeps the share 1 - beta of the data and adds noise of variance beta, and no such step takes noise away.
A rise would need a beta below zero. The program tries one, and it is refused.

Early or late? Look at the lower panels, the fall in one step. The answer depends on the measure. For
`linear` with T = 1000:

- alpha_bar itself falls fastest at t = 220. In the first steps beta is tiny, and in the last steps nothing is
  left to lose. At T/2, 92% is gone.
- beta is the share of what is left that one step takes. It only grows, so it is largest late.
- The signal-to-noise ratio, alpha_bar / (1 - alpha_bar), says how hard the denoiser's task is. Its logarithm
  falls fastest in the very first steps, and slowest at t = 350.

Schedules differ in this. Cosine loses one half of alpha_bar in each half of its steps. Linear has lost almost
all of it at T/2, and the rest of its steps work on almost pure noise.

What to change: --num-train-timesteps 200. Which schedules keep their shape, and how much does `linear` then
leave at T?

Sources: [Ho et al. 2020](https://arxiv.org/abs/2006.11239) for linear, [Nichol and Dhariwal
2021](https://arxiv.org/abs/2102.09672) for cosine; npdiff/schedule.py names the sources of the others.
"""

from pathlib import Path

import numpy as np
import tyro
from matplotlib.figure import Figure

from npdiff.app.figures import save
from npdiff.schedule import SCHEDULES, Schedule, beta_of, make_schedule

STYLES = {  # line, colour, width, marker; where curves meet, a thin dark one lies on a broad light one
    "linear": ("-", "tab:cyan", 6, "o"),
    "rescaled_linear": (":", "black", 1.6, "^"),
    "zero_snr_linear": ("--", "tab:red", 1.2, "s"),
    "scaled_linear": ("-", "tab:green", 1.4, "v"),
    "cosine": ("-", "tab:orange", 2.5, "D"),
    "sigmoid": ("-.", "tab:purple", 1.4, "P"),
    "karras": ("--", "tab:brown", 1.4, "X"),
    "straight": ("-", "0.5", 1.4, "*"),
}


def refusal(schedule, t):
    """What Schedule says to an alpha_bar that rises once: its values at t - 1 and t have changed places."""
    risen = schedule.alpha_bar.copy()
    risen[[t - 1, t]] = risen[[t, t - 1]]
    try:
        Schedule(beta_of(risen))
    except ValueError as error:
        return str(error)


def main(num_train_timesteps: int = 1000, out: Path = Path("runs/examples")):
    T = num_train_timesteps
    half, schedules, falls = T // 2, {name: make_schedule(name, T) for name in SCHEDULES}, {}
    print(f"T = {T:<11} | alpha_bar: lost by T/2  after it  at T     steepest at "
          "| log-SNR: lost by T/2  after it  steepest at  slowest at")
    for name, schedule in schedules.items():
        log_snr = log_of(schedule.snr[1:])                              # (T,), entry i is t = i + 1
        fall = -np.diff(schedule.alpha_bar)                             # (T,), entry i is t = i + 1
        fall_log_snr = -np.diff(log_snr)                                # (T-1,), entry i is t = i + 2
        falls[name] = {"alpha_bar": fall, "log_snr": fall_log_snr}
        early, late = fall[:half].sum(), fall[half:].sum()
        steepest = f"{1 + fall.argmax():11}"
        of_alpha_bar = f"{early:22.1%}  {late:8.1%}  {schedule.alpha_bar[T]:.1e}  {steepest}"
        early, late = log_snr[0] - log_snr[half - 1], log_snr[half - 1] - log_snr[-1]
        steepest, slowest = 2 + fall_log_snr.argmax(), 2 + fall_log_snr.argmin()
        print(f"{name:15} | {of_alpha_bar} | {early:20.2f}  {late:8.2f}  {steepest:11}  {slowest:10}")
    print(f"a rise: {refusal(schedules['linear'], half)}")

    figure = draw(schedules, falls)
    print(save(figure, out / "10_alpha_bar.png"))
    return {"falls": falls, "figure": figure}


def log_of(snr):
    """The natural logarithm; -inf where a schedule ends without any data."""
    with np.errstate(divide="ignore"):
        return np.log(snr)


def draw(schedules, falls):
    """Above: alpha_bar and the logarithm of the SNR. Below: how much each falls in one step, times T."""
    T = schedules["linear"].T
    figure = Figure(figsize=(12, 8.4), layout="constrained")
    figure.suptitle(f"{len(schedules)} noise schedules, T = {T}")
    (left, right), (left_fall, right_fall) = figure.subplots(2, 2, sharex=True)
    t = np.arange(1, T + 1)
    for k, (name, (line, colour, width, marker)) in enumerate(STYLES.items()):
        schedule, fall = schedules[name], falls[name]
        first = k * T // 8 // len(STYLES)                       # the markers of two curves never coincide
        look = {"color": colour, "linewidth": width, "label": name, "marker": marker, "markersize": 6,
                "markeredgewidth": 0.5, "markeredgecolor": "black", "markevery": (first, max(1, T // 8))}
        left.plot(t, schedule.alpha_bar[1:], line, **look)
        right.plot(t, log_of(schedule.snr[1:]), line, **look)
        left_fall.plot(t, fall["alpha_bar"] * T, line, **look)
        right_fall.plot(t[1:], fall["log_snr"] * T, line, **look)
    left.set(ylabel=r"$\bar\alpha_t$", title="the data's share of the variance of $x_t$")
    right.set(ylabel=r"$\log\,(\bar\alpha_t / (1 - \bar\alpha_t))$", ylim=(-14, 14))
    right.set_title("the logarithm of the signal-to-noise ratio (SNR)")
    left_fall.set(xlabel="timestep t", ylabel=r"fall in one step $\times\ T$", ylim=(0, None), xlim=(0, T))
    left_fall.set_title(r"how fast $\bar\alpha_t$ falls")
    right_fall.set(xlabel="timestep t", ylabel=r"fall in one step $\times\ T$", yscale="log")
    right_fall.set_title("how fast the logarithm of the SNR falls")
    left.legend(frameon=False, handlelength=3.5)
    return figure


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
