"""Between a recipe and a run directory: train with a log and checkpoints, load, draw the pictures."""

import contextlib
import signal
import time

from npdiff.app import checkpoint
from npdiff.app.progress import progress
from npdiff.data import CLASS_NAMES
from npdiff.evaluation.metrics import loss_by_t
from npdiff.models import is_image
from npdiff.sampling import fresh_data, labels_in_turn, sample
from npdiff.training import train
from npdiff.verify.floor import lowest_loss, recipe_floor

CHECKPOINT_EVERY = 1000                                 # steps
SHOWN = (1, 2 / 3, 0.4, 0.2, 1 / 15, 0)                 # of T, in a filmstrip: the data takes shape late


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
    """Within, Ctrl-C only adds an entry to the list that this yields, for a loop to see after its step."""
    seen = []
    previous = signal.signal(signal.SIGINT, lambda *_: seen.append(True))
    try:
        yield seen
    finally:
        signal.signal(signal.SIGINT, previous)


def trained_denoiser(run, recipe, backend):
    """The denoiser of a run, with the weights that samples are drawn with."""
    weights = checkpoint.sampling_weights(checkpoint.load_checkpoint(run))
    return backend.make_denoiser(recipe.model, weights)


def draw_pictures(run, recipe, seed, backend, data_dir, quiet):
    """Sample the trained run and write its pictures. Prints the path of each."""
    from npdiff.app import figures
    schedule, denoiser = recipe.make_schedule(), trained_denoiser(run, recipe, backend)
    trained = f"{recipe.name}, {recipe.schedule} schedule, T = {schedule.T}"
    ylabel = f"loss (mean squared error of {recipe.prediction_type})"

    def save(figure, name):
        print(figures.save(figure, run / name))

    steps, losses = checkpoint.load_metrics(run)
    floor = lowest_loss(recipe)
    curve = figures.loss_curve(steps, losses, recipe.log_every, f"{trained}: training", floor, ylabel)
    save(curve, "loss.png")
    buckets = loss_by_t(denoiser, backend, recipe, seed, data_dir)
    by_t = figures.loss_buckets(*buckets, f"{trained}: by timestep", recipe_floor(recipe), ylabel)
    save(by_t, "loss_by_t.png")
    save(figures.schedule_curves(schedule, f"{recipe.schedule}, T = {schedule.T}"), "schedule.png")

    image = is_image(recipe.model)
    n = 2000 if not image else 8 * recipe.model.classes if recipe.conditional else 64
    labels = labels_in_turn(recipe, n)
    chain = walk_to_data(denoiser, backend, recipe, n, seed, labels, quiet)
    strip = [min(chain, key=lambda stop: abs(stop[0] - share * schedule.T)) for share in SHOWN]
    _, x = chain[-1]                                                            # (n, 2) or (n, C, H, W)
    title = f"{trained}\n{n:,} samples, ancestral sampler, {schedule.T} steps"
    if not image:
        data = fresh_data(recipe, seed, n)
        save(figures.samples_over_data(x, data, title), "samples.png")
        save(figures.filmstrip(strip, data), "filmstrip.png")
        print(figures.save_points_gif(chain, data, run / "samples.gif"))
        return
    save(figures.image_grid(x[:64], 8, title), "diffusion_samples.png")
    save(figures.image_filmstrip([(t, x[:4]) for t, x in strip]), "denoising_filmstrip.png")
    if recipe.conditional:
        save(figures.images_by_class(x, labels, CLASS_NAMES[recipe.data]), "samples_by_class.png")
    print(figures.save_images_gif([(t, x[:16]) for t, x in chain], run / "samples.gif"))


def walk_to_data(denoiser, backend, recipe, n, seed, labels, quiet):
    """The ancestral sampler's way from noise to data: a list of (t, x), NumPy, of at most about 201 stops."""
    T = recipe.num_train_timesteps
    walk = progress(sample(denoiser, backend, recipe, n, seed, labels=labels), T + 1, "sampling", quiet)
    every = max(1, T // 200)
    return [(t, backend.to_numpy(x)) for t, x in walk if t % every == 0]
