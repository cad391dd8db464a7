"""Schedules, closed forms and samplers compared with diffusers 0.37.1. Step by step, in float64, with the
same network and the same noise, every x on the way agrees within 1e-10.

How their names translate: their `timestep` is our t - 1, `fixed_small` is our variance posterior, and
`fixed_large` is beta. DDIM needs use_clipped_model_output=True where it clips. clip_sample is True by
default. Their tables are float32, so the tests replace them by ours; another test compares the tables.

All differences that were found, each with its test below:

Lists of timesteps
 1. linspace: they count in floating point, so an exact half may be rounded to the other side. With one step
    they visit timestep 0, and we refuse.
 2. trailing: they count down by T/S in floating point. An exact half may be rounded to the other side. For
    some S (7 of T = 300, 61 of 1000) rounding lets the count go on below 0, and a timestep -1 is added: the
    last entry of their table, alpha_bar of T.
 3. DPM-Solver++: linspace and leading are the lists of S + 1 steps without the last. Heun: linspace is not
    rounded, so the network is asked between timesteps.
DDPM
 4. Noise is added wherever timestep > 0. The last timestep of trailing with S < T is T/S - 1, so there the
    last step adds noise too: 1e-10 times standard noise with fixed_small (the variance is at least 1e-20),
    and with fixed_large as much as x_t has. Our last step adds none. fixed_large_log takes the square root of
    a logarithm, which is nan.
DDIM
 5. A step goes to timestep - T // S, wherever the next timestep of the list is. Both are the same for
    leading, for trailing where S divides T, and for linspace at S = T. Elsewhere the network is told another
    t than x has, and trailing may end at timestep 0 instead of clean data.
 6. set_alpha_to_one=False (not the default) ends at timestep 0 as well: the last step of leading does
    nothing.
 7. Where x_T is all noise and eta = 1, 1 - alpha_bar_s - d^2 is zero up to rounding. If it comes out
    negative, they take its root, which is nan. We take 0.
 8. There is no sigmoid schedule. trained_betas takes any betas.
No signal in x_T
 9. DDPM and DDIM accept an epsilon prediction there: a division by zero, clipped to the limit. We refuse.
    DPM-Solver++ replaces alpha_bar_T by 2^-24.
DPM-Solver++ and Heun
10. DPM-Solver++ rounds x to float32 in every step ("upcast"); the tests switch that off. It cannot clip. Its
    flow_prediction belongs to x = (1 - tau) x_0 + tau eps, where timestep = T tau is our t, not t - 1;
    conversion to an integer may make it t - 1. It begins at tau = 1 - 1/T.
11. Heun's x is our x / a. It follows the mean slope in u = sigma / a, and ours follows the mean slope in the
    bounded tau = u / (1 + u). Both are of second order. With u_T in the thousands (cosine) their step is far
    too long. They start linspace and trailing from sigma / a times the noise, and ours starts from 1 / a
    times.
"""

from fractions import Fraction
from itertools import product
from typing import NamedTuple
from unittest import mock

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, HeunDiscreteScheduler
from diffusers.schedulers import scheduling_ddim, scheduling_ddpm

from npdiff.diffusion import prediction_target, q_sample, transition_beta
from npdiff.samplers import TIMESTEP_SPACINGS, ancestral, ddim, dpm_solver_pp, heun, time_pairs, to_x0_eps
from npdiff.schedule import Schedule, cosine, make_schedule, straight

# HeunDiscreteScheduler and DPMSolverMultistepScheduler call np.array(tensor), and the tensor does not know
# NumPy's new `copy` argument
NO_COPY = "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
pytestmark = pytest.mark.filterwarnings(NO_COPY)
TOLERANCE = 1e-10
THEIR_PREDICTIONS = ("epsilon", "sample", "v_prediction")
KINDS = pytest.mark.parametrize(
    "prediction_type, timestep_spacing", [*product(THEIR_PREDICTIONS, TIMESTEP_SPACINGS)]
)
VARIANCES = {"posterior": "fixed_small", "beta": "fixed_large"}


class Betas(NamedTuple):
    """How they are asked for one of our schedules."""
    arguments: dict                             # their name for it
    first: float = 1e-4                         # beta_1 and beta_T at T = 1000
    last: float = 0.02
    rescaled: bool = True                       # whether ours are multiplied by 1000 / T


ZERO_SNR = {"beta_schedule": "linear", "rescale_betas_zero_snr": True}
BETAS = {
    "linear": Betas({"beta_schedule": "linear"}, rescaled=False),
    "cosine": Betas({"beta_schedule": "squaredcos_cap_v2"}, rescaled=False),
    "rescaled_linear": Betas({"beta_schedule": "linear"}),
    "scaled_linear": Betas({"beta_schedule": "scaled_linear"}, 0.00085, 0.012),
    "sigmoid": Betas({"beta_schedule": "sigmoid"}),
    "zero_snr_linear": Betas(ZERO_SNR),
}
T, STEPS = 50, (50, 10, 20, 8)                  # neither 20 nor 8 divides 50
WEIGHTS = np.random.default_rng(0).standard_normal((2, 3, 3))


def network(x, t):
    """A fixed answer to x (N, 3) at our t, for any prediction type; large enough for clipping at 1."""
    return 1.5 * np.tanh(x @ WEIGHTS[0] + np.cos(WEIGHTS[1, 0] * t / 10))           # (N, 3)


def noise(s):
    """Standard normal noise (4, 3), another one for every s."""
    return np.random.default_rng(s).standard_normal((4, 3))


def config(name, T):
    """Their arguments for our schedule `name`."""
    betas = BETAS[name]
    scale = 1000 / T if betas.rescaled else 1
    ends = {"beta_start": betas.first * scale, "beta_end": betas.last * scale}
    return betas.arguments | ends | {"num_train_timesteps": T}


def in_float64(scheduler, schedule):
    """The scheduler with our tables, one entry for each timestep = t - 1."""
    scheduler.betas = torch.tensor(schedule.beta[1:])
    scheduler.alphas = torch.tensor(schedule.alpha[1:])
    scheduler.alphas_cumprod = torch.tensor(schedule.alpha_bar[1:])
    return scheduler


def times(scheduler):
    """Their list of timesteps, as our t."""
    return (scheduler.timesteps + 1).tolist()


def jumps(times):
    """The pairs (t, s) of a list of t. The last s is 0."""
    return list(zip(times, [*times[1:], 0]))


def theirs(scheduler, **options):
    """Their loop over their own list, with our noise: x at every stop (S + 1, N, 3)."""
    x = noise(T)
    stops = [x]
    for t, s in jumps(times(scheduler)):
        answer = torch.from_numpy(network(x, t))
        with (mock.patch.object(scheduling_ddpm, "randn_tensor", lambda *_, **__: torch.from_numpy(noise(s))),
              mock.patch.object(scheduling_ddim, "randn_tensor", scheduling_ddpm.randn_tensor)):
            x = scheduler.step(answer, t - 1, torch.from_numpy(x), **options).prev_sample.numpy()
        stops.append(x)
    return np.stack(stops)


def ours(sampler, schedule, pairs, prediction_type, clip=None, x=None, **options):
    """Our sampler with the same network and noise: x at every stop (S + 1, N, 3)."""
    denoise = to_x0_eps(network, schedule, prediction_type, clip)
    start = noise(T) if x is None else x
    return np.stack([x for _, x in sampler(denoise, start, schedule, noise, pairs, **options)])


def gap(a, b):
    """The largest difference, relative where b is above 1. It is nan if any number is."""
    return (abs(a - b) / np.maximum(abs(b), 1)).max()


def scheduler_on(schedule, steps, scheduler_class=DDPMScheduler, clip=None, **options):
    """Their scheduler on our schedule, with its list of timesteps for `steps`."""
    clipping = {"clip_sample": clip is not None, "clip_sample_range": clip or 1}
    scheduler = in_float64(scheduler_class(schedule.T, **clipping, **options), schedule)
    scheduler.set_timesteps(steps)
    return scheduler


def noise_after_the_end(scheduler, schedule, variance):
    """What their last step adds to clean data (place 4). Nothing if it begins at timestep 0."""
    t = times(scheduler)[-1]
    scale = 1e-10 if variance == "posterior" else transition_beta(t, 0, schedule) ** 0.5
    return scale * noise(0) * (t > 1)


@pytest.mark.parametrize("clip", [None, 1.0])
@pytest.mark.parametrize("variance", VARIANCES)
@KINDS
def test_ancestral_is_ddpm(prediction_type, timestep_spacing, variance, clip):
    schedule = cosine(T)
    kind = {"prediction_type": prediction_type, "timestep_spacing": timestep_spacing}
    for steps in STEPS:
        scheduler = scheduler_on(schedule, steps, clip=clip, variance_type=VARIANCES[variance], **kind)
        pairs = time_pairs(T, steps, timestep_spacing)
        assert pairs == jumps(times(scheduler))
        expected = ours(ancestral, schedule, pairs, prediction_type, clip, variance=variance)
        expected[-1] += noise_after_the_end(scheduler, schedule, variance)
        assert gap(theirs(scheduler), expected) <= TOLERANCE


@pytest.mark.parametrize("clip", [None, 1.0])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@KINDS
def test_ddim_is_ddim(prediction_type, timestep_spacing, eta, clip):
    schedule = cosine(T)
    kind = {"prediction_type": prediction_type, "timestep_spacing": timestep_spacing}
    same_jumps = {"leading": STEPS, "trailing": STEPS[:2], "linspace": STEPS[:1]}       # place 5
    for steps in same_jumps[timestep_spacing]:
        scheduler = scheduler_on(schedule, steps, DDIMScheduler, clip, **kind)
        pairs = time_pairs(T, steps, timestep_spacing)
        assert pairs == jumps(times(scheduler))
        expected = ours(ddim, schedule, pairs, prediction_type, clip, eta=eta)
        assert gap(theirs(scheduler, eta=eta, use_clipped_model_output=True), expected) <= TOLERANCE


@pytest.mark.parametrize(
    "name, T, steps",
    [
        *((name, T, steps) for name in BETAS for T, steps in ((50, 50), (1000, 20))),
        ("linear", 1000, 1000),
        ("zero_snr_linear", 1000, 1000),
    ],
)
def test_every_schedule(name, T, steps):
    schedule, pairs = make_schedule(name, T), time_pairs(T, steps)
    prediction_type = "v_prediction" if name == "zero_snr_linear" else "epsilon"
    kind = {"prediction_type": prediction_type, "timestep_spacing": "trailing"}
    scheduler = scheduler_on(schedule, steps, variance_type="fixed_large", **kind)
    expected = ours(ancestral, schedule, pairs, prediction_type, variance="beta")
    expected[-1] += noise_after_the_end(scheduler, schedule, "beta")
    assert gap(theirs(scheduler), expected) <= TOLERANCE
    scheduler = scheduler_on(schedule, steps, DDIMScheduler, **kind)
    expected = ours(ddim, schedule, pairs, prediction_type, eta=0.5)
    assert gap(theirs(scheduler, eta=0.5), expected) <= TOLERANCE


def solver_on(schedule, steps, **options):
    """Their DPM-Solver++ (2M) on our schedule."""
    scheduler = in_float64(DPMSolverMultistepScheduler(schedule.T, **options), schedule)
    scheduler.set_timesteps(steps)
    scheduler.sigmas = torch.tensor(schedule.snr[[*times(scheduler), 0]] ** -0.5)
    return scheduler


@pytest.mark.parametrize("name", ["linear", "cosine"])
@KINDS
def test_dpm_solver_pp_is_dpm_solver_pp(prediction_type, timestep_spacing, name):
    schedule = make_schedule(name, T)
    kind = {"prediction_type": prediction_type, "timestep_spacing": timestep_spacing}
    for steps in (1, 7, 15, 49):
        scheduler = solver_on(schedule, steps, **kind)
        visited = [t for t, _ in time_pairs(T, steps + (timestep_spacing != "trailing"), timestep_spacing)]
        assert times(scheduler) == visited[:steps]                                  # place 3
        expected = ours(dpm_solver_pp, schedule, jumps(visited[:steps]), prediction_type)
        with mock.patch.object(torch, "float32", torch.float64):                    # place 10
            assert gap(theirs(scheduler), expected) <= TOLERANCE


def test_dpm_solver_pp_without_signal():
    """They leave alpha_bar_T = 2^-24 (place 9). With that both agree. With 0, ours is nearly the same."""
    none = make_schedule("zero_snr_linear", T)
    little = Schedule([*none.beta[1:-1], 1 - 2 ** -24 / none.alpha_bar[-2]])
    assert float(DPMSolverMultistepScheduler(**config("zero_snr_linear", 1000)).alphas_cumprod[-1]) == 2**-24
    pairs = time_pairs(T, 10)
    with mock.patch.object(torch, "float32", torch.float64):
        stops = theirs(solver_on(little, 10, prediction_type="v_prediction", timestep_spacing="trailing"))
    assert gap(stops, ours(dpm_solver_pp, little, pairs, "v_prediction")) <= TOLERANCE
    assert TOLERANCE < gap(stops, ours(dpm_solver_pp, none, pairs, "v_prediction")) < 1e-3


@pytest.mark.parametrize("steps", [1, 7, 49])
def test_dpm_solver_pp_along_the_straight_line(steps):
    """flow_prediction with flow sigmas: their z = (1 - tau) x_0 + tau eps. Our x on the schedule `straight`
    is z / sqrt((1 - tau)^2 + tau^2).
    """
    pairs = jumps(list(range(T - 1, 0, -(T - 1) // steps)))
    scheduler = DPMSolverMultistepScheduler(T, prediction_type="flow_prediction", use_flow_sigmas=True)
    scheduler.set_timesteps(steps)
    tau = np.array([*(t / T for t, _ in pairs), 0])
    assert abs(scheduler.sigmas.numpy() - tau).max() < 1e-6
    # their timesteps are cut to integers, not rounded
    assert all(0 <= t - timestep <= 1 for (t, _), timestep in zip(pairs, scheduler.timesteps.tolist()))
    scheduler.sigmas, scale = torch.tensor(tau), ((1 - tau) ** 2 + tau ** 2) ** 0.5
    z = torch.tensor(scale[0] * noise(T))
    stops = [z]
    for (t, _), timestep, factor in zip(pairs, scheduler.timesteps, scale):
        with mock.patch.object(torch, "float32", torch.float64):
            z = scheduler.step(torch.tensor(network(z.numpy() / factor, t)), timestep, z).prev_sample
        stops.append(z)
    expected = ours(dpm_solver_pp, straight(T), pairs, "flow_prediction")
    assert gap(np.stack(stops) / scale[:, None, None], expected) <= TOLERANCE


@pytest.mark.parametrize("clip", [None, 1.0])
@KINDS
def test_heun_but_for_its_coordinates(prediction_type, timestep_spacing, clip):
    """Place 11. Their x is ours / a, and scale_model_input gives the network our x again.

    It does so at every stop, and in between after the Euler step. From the same x each jump reaches the same
    Euler point. Then their correction is (1 + u_t) / (1 + u_s) times ours.
    """
    schedule = cosine(T)
    kind = {"prediction_type": prediction_type, "timestep_spacing": timestep_spacing}
    clipping = {"clip_sample": clip is not None, "clip_sample_range": clip or 1}
    for steps in STEPS:
        pairs = time_pairs(T, steps, timestep_spacing)
        scheduler = HeunDiscreteScheduler(T, **kind, **clipping)
        scheduler.set_timesteps(timesteps=[t - 1 for t, _ in pairs])
        u = torch.tensor(schedule.snr[[*(t for t, _ in pairs), 0]] ** -0.5)     # (steps + 1,), their sigma
        scheduler.sigmas = torch.cat([u[:1], u[1:-1].repeat_interleave(2), u[-1:]])
        y, inputs = torch.tensor(noise(T) / schedule.a[pairs[0][0]]), []
        for timestep in scheduler.timesteps:
            x = scheduler.scale_model_input(y, timestep)
            inputs.append(x.numpy())
            y = scheduler.step(torch.tensor(network(x.numpy(), int(timestep) + 1)), timestep, y).prev_sample
        starts, ends = inputs[::2], [*inputs[2::2], y.numpy()]
        for (t, s), start, end, euler in zip(pairs, starts, ends, [*inputs[1::2], y.numpy()]):
            corrected = ours(heun, schedule, [(t, s)], prediction_type, clip, x=start)[-1] - euler
            ratio = (1 + schedule.snr[t] ** -0.5) / (1 + schedule.snr[s] ** -0.5)
            assert gap(euler + ratio * corrected, end) <= TOLERANCE


def test_where_heun_starts():
    """Place 11, and their linspace of place 3."""
    schedule = cosine(T)
    for timestep_spacing in TIMESTEP_SPACINGS:
        scheduler = in_float64(HeunDiscreteScheduler(T, timestep_spacing=timestep_spacing), schedule)
        scheduler.set_timesteps(10)
        t = int(scheduler.timesteps[0]) + 1
        assert t == time_pairs(T, 10, timestep_spacing)[0][0]
        start = 1 if timestep_spacing == "leading" else schedule.sigma[t]
        assert float(scheduler.init_noise_sigma) == pytest.approx(start / schedule.a[t], rel=1e-6)
        assert (scheduler.timesteps % 1 > 0).any() == (timestep_spacing == "linspace")


@pytest.mark.parametrize("T", [50, 300])
@pytest.mark.parametrize("timestep_spacing", TIMESTEP_SPACINGS)
def test_lists_differ_only_at_exact_halves(timestep_spacing, T):
    """Places 1 and 2, for every number of steps."""
    scheduler, different, below_zero = DDPMScheduler(T, timestep_spacing=timestep_spacing), [], []
    for steps in range(2, T + 1):
        scheduler.set_timesteps(steps)
        our_list, their_list = [t for t, _ in time_pairs(T, steps, timestep_spacing)], times(scheduler)
        if len(their_list) > steps:
            assert their_list.pop() == 0                        # timestep -1
            below_zero.append(steps)
        assert len(our_list) == len(their_list)
        for i, (t, u) in enumerate(zip(our_list, their_list)):
            if t != u:
                left = steps - 1 - i                            # stops that follow
                linspace = timestep_spacing == "linspace"
                # what is rounded: an integer and a half
                value = Fraction(left * (T - 1), steps - 1) if linspace else Fraction((left + 1) * T, steps)
                assert abs(t - u) == 1 and value % 1 == Fraction(1, 2)
                different.append(steps)
    if timestep_spacing == "trailing":
        assert different and below_zero and all(T % steps for steps in different + below_zero)
    else:
        assert not below_zero and bool(different) == (timestep_spacing == "linspace" and T > 50)


def test_linspace_of_few_steps():
    scheduler = DDPMScheduler(T, timestep_spacing="linspace")
    scheduler.set_timesteps(3)
    assert times(scheduler) == [50, 25, 1] and time_pairs(T, 3, "linspace") == [(50, 25), (25, 1), (1, 0)]
    scheduler.set_timesteps(1)
    assert times(scheduler) == [1]
    with pytest.raises(ValueError, match="steps is 1"):
        time_pairs(T, 1, "linspace")


def test_a_timestep_of_minus_one():
    """Place 2: their last step treats a finished sample as x_T, as one jump of DDIM from T to 0 would."""
    schedule, options = cosine(300), {"prediction_type": "v_prediction", "timestep_spacing": "trailing"}
    scheduler = scheduler_on(schedule, 7, **options)
    *_, finished, last = theirs(scheduler)
    assert times(scheduler)[-2:] == [43, 0] and gap(last, finished) > 0.1
    a, sigma = schedule.a[-1], schedule.sigma[-1]
    assert gap(last, a * finished - sigma * network(finished, 0)) <= TOLERANCE


@pytest.mark.parametrize("timestep_spacing", TIMESTEP_SPACINGS)
def test_where_a_step_of_ddim_goes(timestep_spacing):
    """Place 5. From the same x each of their steps is our jump to t - T // S.

    That need not be the next stop of their own list.
    """
    schedule = cosine(T)
    for steps in range(2, T + 1):
        scheduler = scheduler_on(schedule, steps, DDIMScheduler, timestep_spacing=timestep_spacing)
        stops = times(scheduler)
        goes = [(t, max(t - T // steps, 0)) for t in stops]
        follows = {"leading": True, "trailing": T % steps == 0, "linspace": steps == T}[timestep_spacing]
        assert (goes == jumps(stops)) == follows
        if steps in (3, 8):
            x = theirs(scheduler)
            for i, jump in enumerate(goes):
                assert gap(x[i + 1], ours(ddim, schedule, [jump], "epsilon", x=x[i])[1]) <= TOLERANCE
            assert (gap(x, ours(ddim, schedule, jumps(stops), "epsilon")) > 0.01) == (not follows)
            ends_at_one = goes[-1][1] == 1                      # instead of 0, clean data
            assert ends_at_one == (timestep_spacing == "trailing" and steps == 3)


def test_ddim_without_alpha_one_ends_early():
    """Place 6."""
    x = theirs(scheduler_on(cosine(T), 10, DDIMScheduler))
    scheduler = scheduler_on(cosine(T), 10, DDIMScheduler, set_alpha_to_one=False)
    # their constructor takes it from their table; here it is from ours
    scheduler.final_alpha_cumprod = scheduler.alphas_cumprod[0]
    early = theirs(scheduler)
    assert gap(early[:-1], x[:-1]) == 0
    assert gap(early[-1], early[-2]) <= TOLERANCE and gap(x[-1], x[-2]) > 0.001


def test_ddim_from_pure_noise_may_be_nan():
    """Place 7: for some numbers of steps, with our tables in float64 and with their own in float32. For the
    others both agree, up to the square root of the rounding error.
    """
    schedule = make_schedule("zero_snr_linear", 200)
    options = {"prediction_type": "v_prediction", "timestep_spacing": "trailing", "clip_sample": False}
    x, v = torch.tensor(noise(T)), torch.tensor(network(noise(T), 200))
    for scheduler, dtype in ((in_float64(DDIMScheduler(200, **options), schedule), np.float64),
                             (DDIMScheduler(**config("zero_snr_linear", 200), **options), np.float32)):
        is_nan = []
        for stride in (1, 2, 4, 5, 8, 10, 20, 25, 40, 50, 100):
            scheduler.set_timesteps(200 // stride)
            fresh = torch.tensor(noise(200 - stride))
            after = scheduler.step(v, 199, x, eta=1.0, variance_noise=fresh).prev_sample.numpy()
            expected = ours(ddim, schedule, [(200, 200 - stride)], "v_prediction", eta=1.0)[1]
            is_nan.append(np.isnan(after).all())
            assert np.isfinite(expected).all()
            assert is_nan[-1] or gap(after, expected) <= 4 * np.finfo(dtype).eps ** 0.5
        assert 0 < sum(is_nan) < len(is_nan)


def test_epsilon_without_signal():
    """Place 9: whatever the network answers, their x_0 is 1 or -1, the limits. We refuse."""
    schedule = make_schedule("zero_snr_linear", T)
    x, answer = torch.tensor(noise(T)), torch.tensor(network(noise(T), T))
    for scheduler_class in (DDPMScheduler, DDIMScheduler):
        x0 = scheduler_on(schedule, T, scheduler_class, clip=1.0).step(answer, T - 1, x).pred_original_sample
        assert (abs(x0) == 1).all()
    with pytest.raises(ValueError, match="alpha_bar_T is 0"):
        ours(ancestral, schedule, time_pairs(T), "epsilon", 1.0)


def test_the_comparison_can_fail():
    """It finds another variance, another spacing, a clip, no noise, t in the place of t - 1, an eps that is
    kept after clipping (their default), and float32.
    """
    schedule, pairs = cosine(T), time_pairs(T, 10, "leading")
    x = theirs(scheduler_on(schedule, 10, prediction_type="sample"))
    assert gap(x, ours(ancestral, schedule, pairs, "sample")) <= TOLERANCE
    for wrong in (
        ours(ancestral, schedule, pairs, "sample", variance="beta"),
        ours(ancestral, schedule, time_pairs(T, 10), "sample"),
        ours(ancestral, schedule, pairs, "sample", 1.0),
        ours(ddim, schedule, pairs, "sample"),
        ours(ancestral, schedule, [(t + 1, s + (s > 0)) for t, s in pairs], "sample"),
    ):
        assert gap(x, wrong) > 0.01
    for again in (False, True):
        scheduler = scheduler_on(schedule, 10, DDIMScheduler, 1.0, prediction_type="sample")
        x = theirs(scheduler, use_clipped_model_output=again)
        assert (gap(x, ours(ddim, schedule, pairs, "sample", 1.0)) <= TOLERANCE) == again
    rounded = theirs(solver_on(schedule, 10, timestep_spacing="trailing"))          # place 10
    assert TOLERANCE < gap(rounded, ours(dpm_solver_pp, schedule, time_pairs(T, 10), "epsilon")) < 1e-4


@pytest.mark.parametrize("name, T", [*product(BETAS, (50, 200, 300, 1000)), ("linear", 10), ("cosine", 10)])
def test_schedules_are_theirs(name, T):
    """Their float32 tables. For a rescaled schedule they are given betas times 1000 / T."""
    schedule, scheduler = make_schedule(name, T), DDPMScheduler(**config(name, T))
    assert abs(scheduler.alphas_cumprod.numpy() - schedule.alpha_bar[1:]).max() <= 1e-6
    assert abs(scheduler.betas.numpy() - schedule.beta[1:]).max() <= 1e-5


def test_what_they_lack():
    """Place 8, and the second half of place 4."""
    with pytest.raises(NotImplementedError):
        DDIMScheduler(beta_schedule="sigmoid")
    schedule = make_schedule("sigmoid", T)
    given = DDIMScheduler(T, trained_betas=schedule.beta[1:])
    assert abs(given.alphas_cumprod.numpy() - schedule.alpha_bar[1:]).max() <= 1e-6
    small = theirs(scheduler_on(schedule, T, variance_type="fixed_small_log"))
    large = theirs(scheduler_on(schedule, T, variance_type="fixed_large_log"))
    assert gap(small, ours(ancestral, schedule, time_pairs(T), "epsilon")) <= TOLERANCE
    assert np.isnan(large[1]).all()


def test_noising_and_velocity():
    """add_noise is q_sample, and get_velocity is the target of v_prediction. Each sample has its own t."""
    rng, t = np.random.default_rng(0), np.array([1, 2, 30, 49, 50])
    x0, eps = rng.standard_normal((2, 5, 3, 4))
    for name in ("cosine", "zero_snr_linear"):
        schedule = make_schedule(name, T)
        for scheduler_class in (DDPMScheduler, DDIMScheduler):
            scheduler = in_float64(scheduler_class(T), schedule)
            given = torch.tensor(x0), torch.tensor(eps), torch.tensor(t - 1)
            assert gap(scheduler.add_noise(*given).numpy(), q_sample(x0, t, eps, schedule)) <= 1e-14
            target = prediction_target(x0, t, eps, schedule, "v_prediction")
            assert gap(scheduler.get_velocity(*given).numpy(), target) <= 1e-14
