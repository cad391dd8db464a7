"""Between a recipe and a run directory: train with a log and checkpoints, load, draw the pictures."""

import contextlib
import signal
import threading
import time

from npdiff.app import checkpoint
from npdiff.app.progress import progress
from npdiff.data import CLASS_NAMES
from npdiff.evaluation.metrics import loss_by_t
from npdiff.models import is_image
from npdiff.sampling import Sampling, fresh_data, labels_in_turn, sample
from npdiff.training import train
from npdiff.verify.floor import lowest_loss, recipe_floor

CHECKPOINT_EVERY = 1000                                 # steps
SHOWN = (1, 2 / 3, 0.4, 0.2, 1 / 15, 0)                 # times in a filmstrip, as fractions of T


def train_and_log(denoiser, backend, recipe, seed, run, data_dir, quiet):
    """Train from the denoiser's step on, and keep metrics.csv and checkpoints.

    Ctrl-C lets the step finish, saves a checkpoint and raises KeyboardInterrupt. A loss that is not finite
    raises FloatingPointError, with the checkpoint that was kept. Where backend.writes is False, this process
    trains, and writes and prints nothing.
    """
    first, start = denoiser.step, time.perf_counter()
    steps = train(denoiser, backend, recipe, seed, first + 1, data_dir)
    if not backend.writes:
        for _ in steps:
            pass
        return
    saved = checkpoint.save_checkpoint(run, denoiser.export())
    try:
        with (checkpoint.MetricsLog(run, recipe.log_every, resumed_from=first) as log,
              held_back_interrupt() as interrupted):
            for step, loss in progress(steps, recipe.steps - first, "training", quiet):
                log.add(step, loss, time.perf_counter() - start)
                if step % CHECKPOINT_EVERY == 0 or step == recipe.steps or interrupted:
                    saved = checkpoint.save_checkpoint(run, denoiser.export())
                if interrupted:
                    raise KeyboardInterrupt(f"interrupted at step {step:,}; to go on: "
                                            f"npdiff train {recipe.name} --resume --out {run}")
    except (FloatingPointError, ValueError) as error:
        raise type(error)(f"{error}; the last good checkpoint is {saved}") from error
    print(f"trained in {time.perf_counter() - start:.1f} s: {saved}")


@contextlib.contextmanager
def held_back_interrupt():
    """Within, Ctrl-C only adds an entry to the list that this yields, for a loop to see after its step.

    In a thread that is not the main one, Python lets no one handle signals: Ctrl-C stays what it was.
    """
    seen, previous = [], signal.getsignal(signal.SIGINT)
    if previous is None or threading.current_thread() is not threading.main_thread():
        yield seen                                      # None: a handler that is not Python's
        return
    signal.signal(signal.SIGINT, lambda *_: seen.append(True))
    try:
        yield seen
    finally:
        signal.signal(signal.SIGINT, previous)


def trained_denoiser(run, recipe, backend):
    """The denoiser of a run, with the weights that samples are drawn with."""
    weights = checkpoint.sampling_weights(checkpoint.load_checkpoint(run))
    return backend.make_denoiser(recipe.model, weights)


def recipe_in_words(recipe):
    """What a picture's title says of a recipe."""
    return f"{recipe.name}, {recipe.schedule} schedule, T = {recipe.num_train_timesteps}"


def sampling_in_words(recipe, sampling, n):
    """What a picture's title says of n samples."""
    steps = sampling.steps or recipe.num_train_timesteps
    return f"{recipe_in_words(recipe)}\n{n:,} samples, {sampling.sampler} sampler, {steps:,} steps"


def loss_in_words(recipe):
    """What a picture's axis says of a loss."""
    weight = "" if recipe.loss_weight == "simple" else f"{recipe.loss_weight} weighted "
    return f"loss ({weight}mean squared error of {recipe.prediction_type})"


def draw_pictures(run, recipe, seed, backend, data_dir, quiet):
    """Sample the trained run and write its pictures. Prints the path of each."""
    denoiser = trained_denoiser(run, recipe, backend)
    draw_training(run, recipe, seed, denoiser, backend, data_dir)
    draw_samples = draw_images if is_image(recipe.model) else draw_points
    draw_samples(run, recipe, seed, denoiser, backend, quiet)


def draw_training(run, recipe, seed, denoiser, backend, data_dir):
    """The pictures of the loss and of the schedule: loss.png, loss_by_t.png, schedule.png."""
    from npdiff.app import figures
    title, ylabel = recipe_in_words(recipe), loss_in_words(recipe)
    steps, losses = checkpoint.load_metrics(run)
    floor = lowest_loss(recipe)
    curve = figures.loss_curve(steps, losses, recipe.log_every, f"{title}: training loss", floor, ylabel)
    print(figures.save(curve, run / "loss.png"))
    edges, losses = loss_by_t(denoiser, backend, recipe, seed, data_dir)
    bars = figures.loss_buckets(edges, losses, f"{title}: loss by timestep", recipe_floor(recipe), ylabel)
    print(figures.save(bars, run / "loss_by_t.png"))
    schedule = recipe.make_schedule()
    curves = figures.schedule_curves(schedule, f"{recipe.schedule} schedule, T = {schedule.T}")
    print(figures.save(curves, run / "schedule.png"))


def draw_points(run, recipe, seed, denoiser, backend, quiet, n=2000):
    """The pictures of n points: samples.png, filmstrip.png, samples.gif."""
    from npdiff.app import figures
    title = sampling_in_words(recipe, Sampling(), n)
    chain = walk_to_data(denoiser, backend, recipe, n, seed, labels_in_turn(recipe, n), quiet)
    data = fresh_data(recipe, seed, n)
    _, x = chain[-1]                                                            # (n, 2)
    print(figures.save(figures.samples_over_data(x, data, title), run / "samples.png"))
    panels = figures.filmstrip(strip(chain, recipe.num_train_timesteps), data, title)
    print(figures.save(panels, run / "filmstrip.png"))
    print(figures.save_points_gif(chain, data, run / "samples.gif", title))


def draw_images(run, recipe, seed, denoiser, backend, quiet):
    """The pictures of images: diffusion_samples.png, denoising_filmstrip.png, samples.gif.

    A conditional recipe also has samples_by_class.png.
    """
    from npdiff.app import figures
    n = 8 * recipe.model.classes if recipe.conditional else 64
    labels = labels_in_turn(recipe, n)
    chain = walk_to_data(denoiser, backend, recipe, n, seed, labels, quiet)
    _, x = chain[-1]                                                            # (n, C, H, W)

    def title(n):
        return sampling_in_words(recipe, Sampling(), n)

    print(figures.save(figures.image_grid(x[:64], 8, title(64)), run / "diffusion_samples.png"))
    few = [(t, x[:4]) for t, x in strip(chain, recipe.num_train_timesteps)]
    print(figures.save(figures.image_filmstrip(few, title(4)), run / "denoising_filmstrip.png"))
    if recipe.conditional:
        by_class = figures.images_by_class(x, labels, CLASS_NAMES[recipe.data], title(n))
        print(figures.save(by_class, run / "samples_by_class.png"))
    some = [(t, x[:16]) for t, x in chain]
    print(figures.save_images_gif(some, run / "samples.gif", title(16)))


def walk_to_data(denoiser, backend, recipe, n, seed, labels, quiet):
    """The chain of the ancestral sampler from noise to data: a list of (t, x), x NumPy (n, ...).

    It has at most 400 stops, all of them where T is less than 400.
    """
    T = recipe.num_train_timesteps
    walk = progress(sample(denoiser, backend, recipe, n, seed, labels=labels), T + 1, "sampling", quiet)
    every = max(1, T // 200)
    return [(t, backend.to_numpy(x)) for t, x in walk if t % every == 0]


def strip(chain, T):
    """The stops of a chain that a filmstrip shows: those nearest to the fractions SHOWN of T."""
    return [min(chain, key=lambda stop, share=share: abs(stop[0] - share * T)) for share in SHOWN]
