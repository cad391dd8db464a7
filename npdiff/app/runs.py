"""Between a recipe and a run directory: train with a log and checkpoints, load what was trained, draw its
pictures.
"""

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
from npdiff.verify.oracle import lowest_loss, recipe_floor

CHECKPOINT_EVERY = 1000                                 # steps
SHOWN = (1, 2 / 3, 0.4, 0.2, 1 / 15, 0)                 # of T, in a filmstrip: the data takes shape late


def train_and_log(denoiser, backend, recipe, seed, run, data_dir, quiet):
    """Train from the denoiser's step on, keeping metrics.csv and checkpoints.

    Ctrl-C lets the step finish, saves a checkpoint and raises KeyboardInterrupt. A loss that is not finite
    raises FloatingPointError, naming the checkpoint kept.
    """
    first, start = denoiser.step, time.perf_counter()
    saved = checkpoint.save_checkpoint(run, denoiser.export())
    try:
        with (
            checkpoint.MetricsLog(run, recipe.log_every, resumed_from=first) as log,
            held_back_interrupt() as interrupted,
        ):
            steps = train(denoiser, backend, recipe, seed, first + 1, data_dir)
            for step, loss in progress(steps, recipe.steps - first, "training", quiet):
                log.add(step, loss, time.perf_counter() - start)
                if step % CHECKPOINT_EVERY == 0 or step == recipe.steps or interrupted:
                    saved = checkpoint.save_checkpoint(run, denoiser.export())
                if interrupted:
                    raise KeyboardInterrupt(
                        f"interrupted at step {step:,}; to go on: npdiff train {recipe.name} --resume --out "
                        f"{run}"
                    )
    except (FloatingPointError, ValueError) as error:
        raise type(error)(f"{error}; the last good checkpoint is {saved}") from error
    print(f"trained in {time.perf_counter() - start:.1f} s: {saved}")


@contextlib.contextmanager
def held_back_interrupt():
    """Within, Ctrl-C only puts an entry into the list that this yields, for a loop to see when its state is
    whole.
    """
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
    """Sample the trained run and write its pictures, announcing each by path."""
    from npdiff.app import figures
    schedule, denoiser = recipe.make_schedule(), trained_denoiser(run, recipe, backend)
    steps, losses = checkpoint.load_metrics(run)
    print(
        figures.save(
            figures.loss_curve(
                steps, losses, recipe.log_every, f"{recipe.name}: training loss", lowest_loss(recipe)
            ),
            run / "loss.png",
        )
    )
    buckets = loss_by_t(denoiser, backend, recipe, seed, data_dir)
    print(
        figures.save(
            figures.loss_buckets(*buckets, f"{recipe.name}: loss by timestep", recipe_floor(recipe)),
            run / "loss_by_t.png",
        )
    )
    print(
        figures.save(
            figures.schedule_curves(schedule, f"{recipe.schedule}, T = {schedule.T}"), run / "schedule.png"
        )
    )

    points = not is_image(recipe.model)
    n = 2000 if points else 8 * recipe.model.classes if recipe.conditional else 64
    labels = labels_in_turn(recipe, n)
    walk = sample(denoiser, backend, recipe, n, seed, labels=labels)
    # 201 stops are enough to show
    every = max(1, schedule.T // 200)
    chain = [
        (t, backend.to_numpy(x))
        for t, x in progress(walk, schedule.T + 1, "sampling", quiet)
        if t % every == 0
    ]
    strip = [min(chain, key=lambda stop: abs(stop[0] - share * schedule.T)) for share in SHOWN]
    if points:
        data = fresh_data(recipe, seed, n)
        print(
            figures.save(
                figures.samples_over_data(chain[-1][1], data, f"{recipe.name}: {n:,} samples over data"),
                run / "samples.png",
            )
        )
        print(figures.save(figures.filmstrip(strip, data), run / "filmstrip.png"))
        print(figures.save_points_gif(chain, data, run / "samples.gif"))
        return
    x = chain[-1][1]  # (n, C, H, W)
    print(
        figures.save(figures.image_grid(x[:64], 8, f"{recipe.name}: samples"), run / "diffusion_samples.png")
    )
    print(
        figures.save(figures.image_filmstrip([(t, x[:4]) for t, x in strip]), run / "denoising_filmstrip.png")
    )
    if recipe.conditional:
        print(
            figures.save(
                figures.images_by_class(x, labels, CLASS_NAMES[recipe.data]), run / "samples_by_class.png"
            )
        )
    print(figures.save_images_gif([(t, x[:16]) for t, x in chain], run / "samples.gif"))
