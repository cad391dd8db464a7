"""The `npdiff` command: reads flags, calls the rooms, prints. No mathematics lives here."""

import contextlib
import io
import sys
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from threadpoolctl import threadpool_limits

from npdiff.app import checkpoint, report
from npdiff.app.progress import progress
from npdiff.app.runs import draw_pictures, train_and_log, trained_denoiser
from npdiff.backends import load_backend
from npdiff.data import fashion_mnist, load_data
from npdiff.data.files import write_bytes
from npdiff.diffusion import LOSS_WEIGHTS, PREDICTION_TYPES
from npdiff.evaluation import metrics
from npdiff.evaluation.likelihood import data_likelihood
from npdiff.models import MODELS, is_image
from npdiff.recipes import RECIPES, get_recipe
from npdiff.rng import generator
from npdiff.sampling import Sampling, data_to_start, fresh_data, labels_in_turn, sample
from npdiff.schedule import SCHEDULES
from npdiff.training import new_denoiser
from npdiff.verify import compare, doctor, gradcheck
from npdiff.verify.oracle import oracle_of

FRESH = 15                  # draws of fresh data that points are held against: 105 pairs to see how far fresh data is from fresh data


@dataclass(frozen=True)
class Variation:
    """What to try in the place of a recipe's own."""
    schedule: Annotated[str | None, tyro.conf.arg(help=f"Another than the recipe's: {', '.join(SCHEDULES)}.")] = None
    num_train_timesteps: int | None = None
    """Another T than the recipe's."""
    prediction_type: Annotated[str | None, tyro.conf.arg(help=f"Another than the recipe's: {', '.join(PREDICTION_TYPES)}.")] = None
    loss_weight: Annotated[str | None, tyro.conf.arg(help=f"Another than the recipe's: {', '.join(LOSS_WEIGHTS)}.")] = None

    def given(self):
        """The fields that are set, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class Train:
    """Train a recipe, then draw samples and pictures into a new run directory."""
    recipe: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RECIPE", help=f"One of: {', '.join(RECIPES)}.")]
    variation: Annotated[Variation, tyro.conf.arg(name="")] = Variation()
    backend: str = "numpy"
    """Library that computes."""
    device: str = "cpu"
    """Device of the backend."""
    steps: int | None = None
    """Training steps; the recipe's own number unless given."""
    seed: int = 0
    """Seed of every random number: the same seed gives the same bytes."""
    out: Path | None = None
    """Run directory to create; runs/RECIPE, or the next free runs/RECIPE-2, ... unless given."""
    data: Path | None = None
    """Directory of the data's files; NPDIFF_DATA, the cache or a download unless given."""
    resume: bool = False
    """Go on from the newest checkpoint of --out (runs/RECIPE unless given), on any backend."""
    quiet: bool = False
    """Plain lines instead of a progress bar."""

    def run(self):
        changes = self.variation.given()
        recipe, seed, history, state = replace(get_recipe(self.recipe), **changes), self.seed, [], None
        if self.resume:
            if changes:
                raise ValueError(f"{', '.join(changes)} given with --resume; a run goes on with the recipe that it began with")
            out = self.out or Path("runs") / recipe.name
            recipe, seed, history = checkpoint.load_config(out)
            state = checkpoint.load_checkpoint(out)
            if recipe.name != self.recipe:
                raise ValueError(f"{out} is a run of {recipe.name}, not of {self.recipe}")
        if self.steps is not None:
            recipe = replace(recipe, steps=self.steps)
        backend = load_backend(self.backend, self.device)
        load_data(recipe.data, self.data)
        denoiser = new_denoiser(backend, recipe, seed)
        if self.resume:
            denoiser.load(state)
            if denoiser.step >= recipe.steps:
                raise ValueError(f"{out} is complete at step {denoiser.step:,}; give more --steps to go on")
        else:
            out = checkpoint.create_run(self.out or free_path(Path("runs") / recipe.name), recipe, seed)
        history.append({"first_step": denoiser.step + 1, "backend": self.backend, "device": self.device, "library": backend.about()})
        checkpoint.save_config(out, recipe, seed, history)
        parameters = sum(array.size for name, array in denoiser.export().items() if name.startswith("params/"))
        print(f"{recipe.name}: {parameters:,} parameters, "
              f"steps {denoiser.step + 1:,} to {recipe.steps:,} of {recipe.batch_size} samples, seed {seed}")
        warn_of_signal(recipe, Sampling())
        train_and_log(denoiser, backend, recipe, seed, out, self.data, self.quiet)
        print(report.training_loss(recipe, *checkpoint.load_metrics(out)))
        draw_pictures(out, recipe, seed, backend, self.data, self.quiet)


@dataclass(frozen=True)
class Sample:
    """Draw samples from a trained run: an .npz with the array `samples`, and a picture beside it."""
    run_dir: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN", help="Run directory that `npdiff train` made.")]
    sampling: Annotated[Sampling, tyro.conf.arg(name="")] = Sampling()
    n: int | None = None
    """Number of samples; 512 points or 64 images unless given."""
    label: int | None = None
    """The class to draw, for a conditional recipe; all in turn unless given."""
    seed: int = 0
    """Seed of the noise."""
    out: Path | None = None
    """File to create; RUN/drawn.npz, or the next free RUN/drawn-2.npz, ... unless given."""
    data: Path | None = None
    """Directory of the data's files, for --start data; NPDIFF_DATA, the cache or a download unless given."""
    backend: str = "numpy"
    """Library that computes."""
    device: str = "cpu"
    """Device of the backend."""
    quiet: bool = False
    """Plain lines instead of a progress bar."""

    def run(self):
        recipe, *_ = checkpoint.load_config(self.run_dir)
        backend = load_backend(self.backend, self.device)
        denoiser = trained_denoiser(self.run_dir, recipe, backend)
        out = self.out or free_path(self.run_dir / "drawn.npz", ".png")
        picture = out.with_suffix(".png")
        if out.suffix != ".npz":
            raise ValueError(f"--out is {out}; it must end in .npz")
        for path in (out, picture):
            if path.exists():
                raise FileExistsError(f"{path} exists; give another --out, or remove it")
        out.parent.mkdir(parents=True, exist_ok=True)
        points = not is_image(recipe.model)
        n = self.n if self.n is not None else 512 if points else 64
        labels = self.labels(recipe, n)
        chain = sample(denoiser, backend, recipe, n, self.seed, 0, labels, self.sampling, data_to_start(recipe, self.sampling, self.seed, n, 0, self.data))
        for _, x in progress(chain, (self.sampling.steps or recipe.num_train_timesteps) + 1, "sampling", self.quiet):
            pass
        x = backend.to_numpy(x)
        buffer = io.BytesIO()
        np.savez(buffer, samples=x, **({} if labels is None else {"labels": labels}))
        write_bytes(out, buffer.getvalue())
        from npdiff.app import figures
        title = f"{recipe.name}: {n} samples"
        figures.save(figures.samples_over_data(x, fresh_data(recipe, self.seed, 2000), title) if points else figures.image_grid(x, 8, title), picture)
        print(out)
        print(picture)

    def labels(self, recipe, n):
        """What to ask the network for: (n,) integers, or None."""
        if self.label is None:
            return labels_in_turn(recipe, max(n, 0))
        if not recipe.conditional:
            raise ValueError(f"label is {self.label}; {recipe.name} takes no labels")
        if not 0 <= self.label < recipe.model.classes:
            raise ValueError(f"label is {self.label}; it must lie in 0..{recipe.model.classes - 1}")
        return np.full(n, self.label)


@dataclass(frozen=True)
class Evaluate:
    """Measure a trained run's samples: points against fresh data in five draws of n, images by a classifier."""
    run_dir: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN", help="Run directory that `npdiff train` made.")]
    n: int | None = None
    """Samples in each draw; 5000 points or 200 images unless given."""
    seed: int = 0
    """Seed of the noise and of the data."""
    sampling: Annotated[Sampling, tyro.conf.arg(name="")] = Sampling()
    likelihood: bool = False
    """Also how probable the model finds fresh data: the variational bound, and for points exactly along the flow."""
    backend: str = "numpy"
    """Library that computes."""
    device: str = "cpu"
    """Device of the backend."""
    data: Path | None = None
    """Directory of the data's files; NPDIFF_DATA, the cache or a download unless given."""
    quiet: bool = False
    """Plain lines instead of a progress bar."""

    def run(self):
        recipe, *_ = checkpoint.load_config(self.run_dir)
        steps, losses = checkpoint.load_metrics(self.run_dir)
        load_data(recipe.data, self.data)                           # what will be needed after the sampling is missed before it
        backend = load_backend(self.backend, self.device)
        denoiser = trained_denoiser(self.run_dir, recipe, backend)
        points = not is_image(recipe.model)
        n, draws = (self.n if self.n is not None else 5000 if points else 200), 5 if points else 1
        if self.likelihood and not (points or recipe.data.startswith("fashion-mnist")):
            raise ValueError(f"likelihood is asked of {recipe.name}; it is for points and for images of 8 bits, which {recipe.data} are not")
        labels = labels_in_turn(recipe, max(n, 0))
        chains = [sample(denoiser, backend, recipe, n, self.seed, draw, labels, self.sampling, data_to_start(recipe, self.sampling, self.seed, n, FRESH + draw, self.data))
                  for draw in range(draws)]
        stops = (self.sampling.steps or recipe.num_train_timesteps) + 1
        walk = ((t, x) for chain in chains for t, x in chain)
        samples = [backend.to_numpy(x).astype(np.float64) for t, x in progress(walk, draws * stops, "sampling", self.quiet) if t == 0]
        print(f"{recipe.name}, {self.run_dir}: {draws} x {n} samples, seed {self.seed}")
        if points:
            report.print_moons(metrics.moons_report(samples, [fresh_data(recipe, self.seed, n, k) for k in range(FRESH)]))
        if recipe.conditional and n >= 2 * recipe.model.classes:
            report.print_classes(recipe, samples[0].clip(-1, 1), labels, *load_data(recipe.data, self.data)(1000, generator(self.seed, "data")))
        of_weights = metrics.loss_above_floor(denoiser, backend, recipe, self.seed) if oracle_of(recipe.data) else None
        report.print_losses(recipe, steps, losses, metrics.loss_by_t(denoiser, backend, recipe, self.seed, self.data), of_weights)
        if self.likelihood:
            report.print_likelihood(*data_likelihood(denoiser, backend, recipe, self.seed, self.data))
        warn_of_signal(recipe, self.sampling)


@dataclass(frozen=True)
class Gradcheck:
    """Hold a network's hand-derived gradients against the complex step, every element of every tensor."""
    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL", help=f"One of: {', '.join(MODELS)}.")] = "mlp"
    seed: int = 0
    """Seed of the parameters, the input and the cotangent."""

    def run(self):
        if self.model not in MODELS:
            raise ValueError(f"model is {self.model!r}; it must be one of {', '.join(MODELS)}")
        module, rng = MODELS[self.model], generator(self.seed, "gradcheck")
        config = module.SMALL
        params = module.init(config, rng)
        x, t = rng.standard_normal((2, *config.data_shape)), rng.integers(1, 1001, 2)
        params = {name: array + 0.1 * rng.standard_normal(array.shape) for name, array in params.items()}      # also what starts at zero
        print(config)
        print("relative error of each gradient against derivatives of the forward (float64; norm of the difference / norm)")
        print(f"  {'':30}{'shape':>14}{'complex step':>16}{'largest element':>18}{'finite difference':>20}")
        exact = gradcheck.check_model(module, config, params, x, t, generator(self.seed, "gradcheck", 1))
        finite = gradcheck.check_model(module, config, params, x, t, generator(self.seed, "gradcheck", 1), gradcheck.central_difference)
        for name, (tensor, element) in exact.items():
            shape = " x ".join(map(str, (x if name == "x" else params[name]).shape))
            print(f"  {name:30}{shape:>14}{tensor:16.1e}{element:18.1e}{finite[name][0]:20.1e}")
        if any(tensor > 1e-13 or element > 1e-10 for tensor, element in exact.values()):
            raise ValueError(f"a gradient of {self.model} is wrong: an error above 1e-13 (tensor) or 1e-10 (element)")
        print("every gradient is right: errors at most 1e-13 (tensor), 1e-10 (element)")


@dataclass(frozen=True)
class Compare:
    """Put backends side by side: same recipe, weights, data and noise; where they part, how far they drift, and one table of how fast they are."""
    recipes: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RECIPE[,RECIPE...]", help=f"One or more, with commas between, of: {', '.join(RECIPES)}.")]
    backends: str
    """NAME or NAME:DEVICE of each, with commas between; the second and later are compared with the first."""
    dtype: str = "float32"
    """float32 or float64."""
    steps: int | None = None
    """Training steps over which the drift is followed; 1000 for points, 20 for images unless given."""
    seed: int = 0
    """Seed of every random number."""
    out: Path | None = None
    """Picture to create, of one recipe; runs/compare-RECIPE.png, or the next free name, unless given."""
    quiet: bool = False
    """Plain lines instead of a progress bar."""

    def run(self):
        recipes = [get_recipe(name) for name in self.recipes.split(",")]
        recipes = [replace(recipe, steps=self.steps if self.steps is not None else 20 if is_image(recipe.model) else 1000) for recipe in recipes]
        specs = self.backends.split(",")
        if len(specs) < 2:
            raise ValueError(f"--backends is {self.backends!r}; it must name at least two, with a comma between")
        if self.out and len(recipes) > 1:
            raise ValueError(f"--out is {self.out}; it names the picture of one recipe, and {len(recipes)} are compared")
        backends = [compare.load(spec, self.dtype) for spec in specs]
        outs = [self.out or free_path(Path("runs") / f"compare-{recipe.name}.png") for recipe in recipes]
        for out in outs:
            if out.exists():
                raise FileExistsError(f"{out} exists; give another --out, or remove it")
            out.parent.mkdir(parents=True, exist_ok=True)
        for spec, backend in zip(specs, backends):
            print(f"{spec}: {backend.about()}")
        for recipe, out in zip(recipes, outs):
            self.follow(recipe, specs, backends, out)
        report.print_speed(specs, [compare.speed(specs, backends, recipe, self.dtype, self.seed) for recipe in recipes])

    def follow(self, recipe, specs, backends, out):
        """One recipe's first training step on each backend, and how far they drift."""
        from npdiff.app import figures
        print(f"{recipe.name} in {self.dtype}, seed {self.seed}")
        for spec, backend in zip(specs[1:], backends[1:]):
            pair, names = (backends[0], backend), (specs[0], spec)
            report.print_first_step(names, compare.compare_operations(pair, recipe, self.seed), compare.compare_gradients(pair, recipe, self.seed))
            steps, losses, parameters = zip(*progress(compare.drift(pair, recipe, self.seed), recipe.steps, "training both", self.quiet))
            worst = max(abs(a - b) / a for a, b in losses)
            print(f"  over {recipe.steps} training steps: the losses differ by at most {worst:.1e} (relative), the parameters in the end by {parameters[-1]:.1e}")
            path = out if len(specs) == 2 else out.with_stem(f"{out.stem}-{spec.replace(':', '-')}")
            print(figures.save(figures.comparison(names, steps, losses, parameters, f"{recipe.name}, {self.dtype}"), path))


@dataclass(frozen=True)
class Doctor:
    """Say before any training what is wrong with a recipe and a way of sampling it, and what to change."""
    recipe: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RECIPE", help=f"One of: {', '.join(RECIPES)}.")]
    variation: Annotated[Variation, tyro.conf.arg(name="")] = Variation()
    sampling: Annotated[Sampling, tyro.conf.arg(name="")] = Sampling()
    data: Path | None = None
    """Directory of the data's files; NPDIFF_DATA, the cache or a download unless given."""
    seed: int = 0
    """Seed of the data that is drawn to look at."""

    def run(self):
        recipe = replace(get_recipe(self.recipe), **self.variation.given())
        records = doctor.diagnose(recipe, self.sampling, lambda n: fresh_data(recipe, self.seed, n, data_dir=self.data))
        print(*doctor.report(recipe, records), sep="\n")


@dataclass(frozen=True)
class Data:
    """Fetch a data set into the cache, or check the files of a directory."""
    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME", help="fashion-mnist.")]
    data: Path | None = None
    """Directory with the files to check; NPDIFF_DATA, the cache or a download unless given."""
    quiet: bool = False
    """No progress bar."""

    def run(self):
        if self.name != "fashion-mnist":
            raise ValueError(f"data set is {self.name!r}; it must be fashion-mnist")
        where, source = fashion_mnist.place(self.data)
        print(f"{where} ({source})")
        for split in fashion_mnist.SPLITS:
            images, _ = fashion_mnist.load_bytes(split, self.data, verify=True, quiet=self.quiet)
            print(f"{split}: {len(images):,} images of {images.shape[1]} x {images.shape[2]}, content verified")


COMMANDS = {"train": Train, "sample": Sample, "evaluate": Evaluate, "gradcheck": Gradcheck, "compare": Compare, "doctor": Doctor, "data": Data}


def warn_of_signal(recipe, sampling):
    """One line when sampling from pure noise starts in the wrong place."""
    if sentence := doctor.signal_left(recipe, sampling):
        print(f"note: {sentence}")


def free_path(path, *beside):
    """path if nothing is there, nor with the endings `beside` in its place; else the first free of path-2, path-3, ... (before the ending)."""
    candidate, k = path, 2
    while any(candidate.with_suffix(ending).exists() for ending in (path.suffix, *beside)):
        candidate, k = path.with_stem(f"{path.stem}-{k}"), k + 1
    return candidate


def parse(argv):
    """The command that argv asks for. tyro explains a bad flag in a box of many lines; here it is folded into one and raised as ValueError."""
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            return tyro.extras.subcommand_cli_from_dict(COMMANDS, prog="npdiff", args=argv, description="Denoising diffusion from scratch in NumPy.")
    except SystemExit as stop:
        if stop.code:
            lines = [line.strip("│ ") for line in box.getvalue().splitlines()[1:]]      # below the box's title
            raise ValueError(" ".join(takewhile(lambda line: not line.startswith("─"), lines)) + "; see npdiff --help") from None
        raise


def main(argv=None):
    """Run the command line; a refused value ends it with one line on stderr and exit status 2."""
    try:
        command = parse(argv)
        with threadpool_limits(1, user_api="blas"):     # the products are small; one thread is as fast and makes the bytes independent of the cores
            command.run()
    except KeyboardInterrupt as stop:
        fail(stop if stop.args else "interrupted", status=130)
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}" if error.filename and error.strerror else error)
    except (ValueError, FloatingPointError) as error:
        fail(error)


def fail(message, status=2):
    """One line on stderr, and the end."""
    print(f"error: {' '.join(str(message).split())}", file=sys.stderr)
    sys.exit(status)


if __name__ == "__main__":
    main()
