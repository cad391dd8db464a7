"""A training run: train a recipe into a run directory, open it again, draw samples, measure them, see it.

    run = npdiff.train("moons", steps=2000)         a new run, runs/moons
    run = npdiff.load("runs/moons")                 one that is there
    run.sample(500, sampler="ddim", steps=50)       an array (500, 2)
"""

import contextlib
import signal
import threading
import time
from pathlib import Path

import numpy as np

from npdiff.app import checkpoint
from npdiff.app.checkpoint import RunConfig
from npdiff.app.progress import progress
from npdiff.backends import load_backend
from npdiff.data import load_data
from npdiff.data.fashion_mnist import real_digest
from npdiff.evaluation import judge, metrics
from npdiff.evaluation.likelihood import data_likelihood
from npdiff.models import is_image
from npdiff.recipes import fitted, get_recipe, varied
from npdiff.rng import generator
from npdiff.sampling import Sampling, check_n, labels_in_turn, sample
from npdiff.schedule import whole
from npdiff.training import new_denoiser
from npdiff.training import train as train_steps
from npdiff.verify.oracle import oracle_of

CHECKPOINT_EVERY = 1000                                 # steps
FRESH = 15      # draws of fresh data that samples are held against, and each other: 105 pairs


def train(recipe="moons", out=None, data=None, seed=0, backend="numpy", device="cpu", quiet=False, **fields):
    """Train a recipe into a new run directory: a Run.

    out is the directory, the next free runs/RECIPE unless given. data is a path, for the recipes that take
    files. fields are other values of the recipe's fields or of its network's: steps=2000, lr=1e-3,
    hidden=(64, 64). Ctrl-C keeps a checkpoint. Raises ValueError for wrong values, OSError for bad files.
    """
    recipe = varied(get_recipe(recipe), **fields)
    run = new_run(recipe, load_backend(backend, device), out, data, seed)
    run.train(quiet)
    return run


def load(path, backend="numpy", device="cpu", data=None):
    """The Run in a run directory. data is where its data lies now, if not where it was trained.

    Raises FileNotFoundError if it is not a run directory, ValueError if a file in it makes no sense.
    """
    return open_run(path, load_backend(backend, device), data)


def new_run(recipe, backend, out=None, data=None, seed=0):
    """An untrained Run of the recipe, in a new directory."""
    dataset = load_data(recipe.data, data)
    recipe = fitted(recipe, dataset)
    denoiser = new_denoiser(backend, recipe, seed)                  # refuses other seeds
    config = RunConfig(recipe, int(seed), data_record(dataset, data), [])
    path = None
    if backend.writes:
        out = Path(out).expanduser() if out else free_path(Path("runs") / recipe.name)
        path = checkpoint.create_run(out, config)
    return Run(path, config, backend, denoiser)


def open_run(path, backend, data=None):
    """The Run in a directory, for this backend."""
    path = Path(path).expanduser()
    config = checkpoint.load_config(path)
    state = checkpoint.load_checkpoint(path)
    if data is not None:
        config = config._replace(data=config.data | {"path": str(data)})
    denoiser = new_denoiser(backend, config.recipe, config.seed)
    denoiser.load(state)
    run = Run(path, config, backend, denoiser)
    if data is not None:
        run.dataset()                           # refuses other data
    return run


def data_record(dataset, path):
    """What config.json says of the data: its place and content, None where a rule draws it, and its units."""
    where = None if path is None else str(Path(path).expanduser().resolve())
    record = {"path": where, "sha256": dataset.digest, "class_names": list(dataset.class_names)}
    if dataset.data_shape is None:
        return record
    return record | {name: np.asarray(getattr(dataset, name)).tolist() for name in ("shift", "scale")}


class Run:
    """A run and its denoiser. Samples of points come in the data's own units, images in [-1, 1]."""

    def __init__(self, path, config, backend, denoiser):
        self.path, self.config, self.backend, self.denoiser = path, config, backend, denoiser

    @property
    def recipe(self):
        """The Recipe that the run follows."""
        return self.config.recipe

    @property
    def seed(self):
        """The seed of its random numbers."""
        return self.config.seed

    @property
    def data(self):
        """Where its data lies, or None for data without files of the user's."""
        return self.config.data.get("path")

    def __repr__(self):
        return f"<Run {self.path}: {self.recipe.name}, step {self.denoiser.step:,} of {self.recipe.steps:,}>"

    def train(self, quiet=False):
        """Train to the recipe's last step, and keep metrics.csv and checkpoints. Returns the seconds.

        Ctrl-C lets the step finish, saves a checkpoint and raises KeyboardInterrupt. A loss that is not
        finite raises FloatingPointError, with the checkpoint that was kept. Where backend.writes is False,
        this process trains, and writes and prints nothing.
        """
        denoiser, recipe, start = self.denoiser, self.recipe, time.perf_counter()
        first = denoiser.step
        self.dataset()
        steps = train_steps(denoiser, self.backend, recipe, self.seed, first + 1, self.data)
        if not self.backend.writes:
            for _ in steps:
                pass
            return time.perf_counter() - start
        self.note_what_computes()
        saved = checkpoint.save_checkpoint(self.path, denoiser.export())
        try:
            with (checkpoint.MetricsLog(self.path, recipe.log_every, resumed_from=first) as log,
                  held_back_interrupt() as interrupted, np.errstate(all="ignore")):
                for step, loss in progress(steps, recipe.steps - first, "training", quiet):
                    log.add(step, loss, time.perf_counter() - start)
                    if step % CHECKPOINT_EVERY == 0 or step == recipe.steps or interrupted:
                        saved = checkpoint.save_checkpoint(self.path, denoiser.export())
                    if interrupted:
                        raise KeyboardInterrupt(f"interrupted at step {step:,}; to go on: "
                                                f"npdiff train {recipe.name} --resume --out {self.path}")
        except (FloatingPointError, ValueError) as error:
            raise type(error)(f"{error}; the last good checkpoint is {saved}") from error
        return time.perf_counter() - start

    def note_what_computes(self):
        """Add to config.json's history that training begins or goes on here."""
        entry = {"first_step": self.denoiser.step + 1, "library": self.backend.about()}
        self.config = self.config._replace(history=[*self.config.history, entry])
        checkpoint.save_config(self.path, self.config)

    @property
    def steps(self):
        """The steps at which the loss was logged, (rows,)."""
        return np.array(checkpoint.load_metrics(self.path)[0])

    @property
    def loss(self):
        """The mean loss of the steps up to each of `steps`, (rows,)."""
        return np.array(checkpoint.load_metrics(self.path)[1])

    def sampler(self):
        """The denoiser with the weights to sample with: their moving average where the run keeps one."""
        weights = checkpoint.sampling_weights(self.denoiser.export())
        return self.backend.make_denoiser(self.recipe.model, weights)

    def sample(self, n=None, label=None, seed=0, quiet=False, **sampling):
        """Draw n samples: an array (n, ...).

        n is 512 points or 64 images unless given. label is the class to draw, all in turn unless given.
        sampling are fields of npdiff.sampling.Sampling, the recipe's unless given. Raises ValueError for
        wrong values, and for samples that are not finite.
        """
        n = n if n is not None else 64 if is_image(self.recipe.model) else 512
        sampling = Sampling.of(self.recipe, **sampling)
        walk = self.chain(n, self.labels(n, label), sampling, seed)
        with np.errstate(all="ignore"):
            *_, (_, x) = progress(walk, self.stops(sampling), "sampling", quiet)
        metrics.check_finite(x)
        return self.in_units(x)

    def labels(self, n, label=None):
        """What to ask the network for: integers (n,), or None. Raises ValueError."""
        if label is None:
            return labels_in_turn(self.recipe, n)
        if not self.recipe.conditional:
            raise ValueError(f"label is {label}; {self.recipe.name} takes no labels")
        if whole(label) is None or not 0 <= label < self.recipe.model.classes:
            raise ValueError(f"label is {label}; it must be an integer in 0..{self.recipe.model.classes - 1}")
        return np.full(check_n(self.recipe, n), whole(label))

    def chain(self, n, labels, sampling, seed=0, draw=0):
        """The walk from noise to n samples: yields (t, x), x (n, ...) NumPy, on the network's scale."""
        x0 = self.fresh_data(n, seed, draw) if sampling.start == "data" else None
        walk = sample(self.sampler(), self.backend, self.recipe, n, seed, draw, labels, sampling, x0)
        return ((t, self.backend.to_numpy(x)) for t, x in walk)

    def stops(self, sampling):
        """How many times a walk yields: once at the start and once after each jump."""
        return len(sampling.jumps(self.recipe)) + 1

    def in_units(self, x):
        """Points on the network's scale (n, D) in the data's own units. Images stay in [-1, 1]."""
        if is_image(self.recipe.model) or "scale" not in self.config.data:      # other points have their own
            return x
        shift, scale = (np.asarray(self.config.data[name]) for name in ("shift", "scale"))
        return shift + scale * x

    def dataset(self):
        """The DataSet that the run was trained on.

        Raises ValueError if the data at its place has another content, OSError if it is gone.
        """
        dataset, expected = load_data(self.recipe.data, self.data), self.config.data.get("sha256")
        if expected not in (None, dataset.digest):
            raise ValueError(f"{self.path} was trained on data of SHA-256 {expected[:16]}..., and the data "
                             f"{f'in {self.data} ' if self.data else ''}has {str(dataset.digest)[:16]}...; "
                             "give the place of the first with --data")
        return dataset

    def fresh_data(self, n, seed=0, draw=0):
        """n draws of the data that the run was trained on, (n, ...), on the network's scale."""
        x0, _ = self.dataset().draw(n, generator(seed, "data", draw))
        return x0

    def evaluate(self, n=None, seed=0, likelihood=False, quiet=False, **sampling):
        """Measure samples and losses: a dict of numbers, named as in npdiff.evaluation.metrics.

        Points are measured in five draws of n (5,000 unless given) against fresh data, images in one draw of
        n (200 unless given) by class. Raises ValueError for settings out of range.
        """
        recipe, image = self.recipe, is_image(self.recipe.model)
        sampling = Sampling.of(recipe, **sampling)
        dataset = self.dataset()                # missing or other data is an error before the sampling
        if likelihood and image and not recipe.data.startswith("fashion-mnist"):
            raise ValueError(f"likelihood is asked of {recipe.name}; it is for points and "
                             f"for images of 8 bits, which {recipe.data} are not")
        n, draws = (n if n is not None else 200 if image else 5000), 1 if image else 5
        labels, numbers = self.labels(n), {"n": n, "draws": draws}
        walk = (stop for draw in range(draws)
                for stop in self.chain(n, labels, sampling, seed, FRESH + draw))
        walk = progress(walk, draws * self.stops(sampling), "sampling", quiet)
        with np.errstate(all="ignore"):
            samples = [x.astype(np.float64) for t, x in walk if t == 0]
        metrics.check_finite(np.concatenate(samples))
        if not image:
            fresh = [self.fresh_data(n, seed, k) for k in range(FRESH)]
            report = metrics.moons_report if recipe.data == "moons" else metrics.points_report
            numbers |= report(samples, fresh)
            numbers |= {name: self.in_units(numbers[name]) for name in ("mean", "mean_data")}
        if recipe.conditional and n >= 2 * recipe.model.classes:
            images = samples[0].clip(-1, 1)
            data, data_labels = dataset.draw(1000, generator(seed, "data"))
            numbers |= {"within_class": metrics.diversity(images, labels),
                        "within_class_data": metrics.diversity(data, data_labels)}
            if recipe.data == "fashion-mnist" and dataset.digest == real_digest():
                numbers |= {"as_asked": judge.class_accuracy(images, labels),
                            "as_asked_data": judge.class_accuracy(data, data_labels)}
        if recipe.data.startswith("fashion-mnist"):
            real, no_judge = judge.real_images(dataset.digest, seed, n, self.data)
            numbers |= metrics.quality(samples[0][:len(real[0])], *real) if real and n >= 4 else {}
            numbers |= {"no_judge": no_judge} if no_judge else {}
        denoiser = self.sampler()
        if oracle_of(recipe.data) is not None:
            loss, floor = metrics.loss_above_floor(denoiser, self.backend, recipe, seed)
            numbers |= {"loss": loss, "loss_floor": floor}
        edges, by_t = metrics.loss_by_t(denoiser, self.backend, recipe, seed, self.data)
        numbers |= {"loss_by_t_edges": edges, "loss_by_t": by_t}
        if likelihood:
            names = "log_likelihood", "log_likelihood_data", "bound_terms"
            values = data_likelihood(denoiser, self.backend, recipe, seed, self.data)
            numbers |= dict(zip(names, values, strict=True))
        return numbers

    def loss_figure(self):
        """The training loss against the step, beside its floor where that is known."""
        from npdiff.app import pictures  # matplotlib takes a second to import
        return pictures.loss_figure(self)

    def samples_figure(self, n=None, label=None, seed=0, quiet=False, **sampling):
        """n samples: points over the data, or a grid of images. Arguments as those of sample."""
        from npdiff.app import pictures
        x = self.sample(n, label, seed, quiet, **sampling)
        return pictures.samples_figure(self, x, Sampling.of(self.recipe, **sampling), label)

    def filmstrip(self, n=None, seed=0, quiet=False, **sampling):
        """The way from noise to n samples, a panel for each of six stops."""
        from npdiff.app import pictures
        return pictures.filmstrip(self, n, Sampling.of(self.recipe, **sampling), seed, quiet)


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


def free_path(path, *beside):
    """path if nothing is there, nor with the endings `beside`; else the first free of path-2, path-3, ..."""
    candidate, k = path, 2
    while any(candidate.with_suffix(ending).exists() for ending in (path.suffix, *beside)):
        candidate, k = path.with_stem(f"{path.stem}-{k}"), k + 1
    return candidate
