"""alpha_bar: what it controls, why it can only fall, and whether it falls faster early or late.

It is the signal's share of the power of x_t, the square of what multiplies x_0. It can only fall: a step
keeps the share 1 - beta of the signal and adds noise of variance beta, and no such step takes noise away
again. A rise would need a beta below zero; the program tries one, and is refused.

Early or late? Look at the lower panels, the fall in one step, and name the measure before you answer. Of
`linear` with T = 1000:

- alpha_bar itself falls fastest at t = 220: not at first, where beta is tiny, nor at last, where nothing is
  left to lose. By T/2, 92% is gone.
- The share of what is still there that a step takes, beta, only grows: late.
- The signal-to-noise ratio, which says how hard the denoiser's task is, falls fastest in the very first
  steps, and slowest at t = 350.

A schedule is a choice between these. Cosine loses half in each half; linear is through with the signal by T/2
and spends the rest on almost pure noise. What to change: --num-train-timesteps 200. Which schedules keep
their shape, and how much does `linear` then leave at T?
"""

from pathlib import Path

import numpy as np
import tyro
from matplotlib.figure import Figure

from npdiff.app.figures import save
from npdiff.schedule import SCHEDULES, Schedule, beta_of, make_schedule

# Line, marker and colour. Some curves lie on each other: their markers stand at different timesteps.
STYLES = {
    "linear": ("-", "o", "tab:blue"),
    "rescaled_linear": (":", "x", "black"),
    "zero_snr_linear": ("--", "s", "tab:cyan"),
    "cosine": ("-", "^", "tab:orange"),
    "scaled_linear": ("-.", "v", "tab:green"),
    "sigmoid": ("-", "D", "tab:purple"),
    "karras": ("--", "P", "tab:brown"),
    "straight": ("-.", "*", "0.4"),
}


def refusal(schedule, t):
    """What Schedule says to an alpha_bar whose values at t - 1 and t have changed places, so that it rises
    once.
    """
    risen = schedule.alpha_bar.copy()
    risen[[t - 1, t]] = risen[[t, t - 1]]
    try:
        Schedule(beta_of(risen))
    except ValueError as error:
        return str(error)


def main(num_train_timesteps: int = 1000, out: Path = Path("runs/examples")):
    T = num_train_timesteps
    half, t, falls = T // 2, np.arange(1, T + 1), {}
    figure = Figure(figsize=(11, 7.6), layout="constrained")
    (left, right), (left_fall, right_fall) = figure.subplots(2, 2, sharex=True)
    print(
        f"T = {T:<11} | alpha_bar: lost by T/2  after it  at T     steepest at | log-SNR: lost by T/2  after "
        f"it  steepest at  slowest at"
    )
    for name in SCHEDULES:
        schedule = make_schedule(name, T)
        # a schedule may end without any signal: log 0 = -inf
        with np.errstate(divide="ignore"):
            log_snr = np.log(schedule.snr[1:])                                    # (T,), entry i is t = i + 1
        # (T,) the step to t = i + 1, and (T-1,) to t = i + 2
        fall, fall_log_snr = -np.diff(schedule.alpha_bar), -np.diff(log_snr)
        falls[name] = {"alpha_bar": fall, "log_snr": fall_log_snr}
        print(
            f"{name:15} | {fall[:half].sum():22.1%}  {fall[half:].sum():8.1%}  {schedule.alpha_bar[T]:.1e}  "
            f"{1 + fall.argmax():11} |"
            f" {log_snr[0] - log_snr[half - 1]:20.2f}  {log_snr[half - 1] - log_snr[-1]:8.2f}  "
            f"{2 + fall_log_snr.argmax():11}  {2 + fall_log_snr.argmin():10}"
        )
        line, marker, colour = STYLES[name]
        eighth = max(1, T // 8)
        # the first marker, and the distance of the others
        every = (list(STYLES).index(name) * eighth // len(STYLES), eighth)
        for panel, x, y in (
            (left, t, schedule.alpha_bar[1:]),
            (right, t, log_snr),
            (left_fall, t, fall * T),
            (right_fall, t[1:], fall_log_snr * T),
        ):
            panel.plot(x, y, line, color=colour, marker=marker, markevery=every, markersize=5, label=name)
    print(f"a rise: {refusal(make_schedule('linear', T), half)}")

    left.set(ylabel=r"$\bar\alpha_t$", title="the data's share of the variance of $x_t$")
    right.set(
        ylabel=r"$\log\,(\bar\alpha_t / (1 - \bar\alpha_t))$",
        title="the logarithm of the signal-to-noise ratio",
        ylim=(-14, 14),
    )
    left_fall.set(xlabel="timestep t", ylabel=r"fall in one step $\times\ T$", ylim=(0, None), xlim=(0, T))
    right_fall.set(xlabel="timestep t", ylabel=r"fall in one step $\times\ T$", yscale="log")
    left.legend(frameon=False)
    print(save(figure, out / "10_alpha_bar.png"))
    return falls


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
