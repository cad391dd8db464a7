"""What each command of `npdiff` takes and does. A field is a flag, and its comment is the flag's help."""

import io
import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from npdiff.app import checkpoint, report
from npdiff.app.progress import progress
from npdiff.app.run import free_path, new_run, open_run
from npdiff.backends import load_backend
from npdiff.backends.machine import cores
from npdiff.data import fashion_mnist, load_data
from npdiff.data.files import write_bytes
from npdiff.models import MODELS, is_image
from npdiff.optim import learning_rate
from npdiff.recipes import MOONS, RECIPES, Recipe, fitted, get_recipe
from npdiff.sampling import Sampling, fresh_data
from npdiff.trace import ledger, text
from npdiff.verify import compare, doctor
from npdiff.verify.first_wrong import NETWORKS, check_network
from npdiff.verify.pairs import PAIRS, check_cases


def positional(of, metavar, help):
    """A positional argument of type `of`."""
    return Annotated[tyro.conf.Positional[of], tyro.conf.arg(metavar=metavar, help=help)]


RecipeName = positional(str, "RECIPE", f"One of: {', '.join(RECIPES)}.")
RecipeOrRun = positional(str, "RECIPE|RUN", f"A run directory, or one of: {', '.join(RECIPES)}.")
RecipeNames = positional(str, "RECIPE[,RECIPE...]", f"One or more, with commas, of: {', '.join(RECIPES)}.")
WhatToCheck = positional(str, "PAIR|MODEL|all", f"One of: all, {', '.join([*MODELS, *PAIRS])}.")
DataName = positional(str, "NAME", "fashion-mnist.")
RunDir = positional(Path, "RUN", "Run directory that `npdiff train` made.")
Flat = tyro.conf.arg(name="")           # the fields of this dataclass are flags without a prefix


@dataclass(frozen=True)
class Train:
    """Train a recipe, then draw samples and pictures into a new run directory."""
    recipe: RecipeName
    settings: Annotated[Recipe, Flat] = MOONS       # the recipe's own values: npdiff.app.cli sets them
    backend: str = "numpy"              # library that computes
    device: str = "cpu"                 # device of the backend
    seed: int | None = None             # seed of every random number: the same seed gives the same bytes
    out: Path | None = None             # run directory to create; the next free runs/RECIPE unless given
    data: Path | None = None            # your points or images; or the folder of the data set's files
    resume: bool = False                # go on from the newest checkpoint of --out (runs/RECIPE unless given)
    pictures: bool = True               # draw the pictures of the run at the end
    quiet: bool = False                 # print only what is written and what is wrong

    def run(self):
        from npdiff.app.pictures import draw_pictures  # matplotlib takes a second to import
        backend = backend_of(self)
        run = self.resumed(backend) if self.resume else new_run(
            recipe_of(self), backend, self.out, self.data, self.seed or 0)
        if not backend.writes:
            run.train(self.quiet)
            return
        self.announce(run)
        seconds = run.train(self.quiet)
        self.say(f"trained in {seconds:.1f} s")
        print(checkpoint.newest_checkpoint(run.path))
        self.say(report.training_loss(run.recipe, run.steps, run.loss))
        if self.pictures:
            print_each(draw_pictures(run, self.quiet))

    def resumed(self, backend):
        """The run to go on with. Raises ValueError where a flag does not fit it."""
        path = (self.out or Path("runs") / self.recipe).expanduser()
        run = open_run(path, backend, self.data)
        if run.recipe.name != self.recipe:
            raise ValueError(f"{path} is a run of {run.recipe.name}, not of {self.recipe}")
        recipe = recipe_of(self)
        if self.seed not in (None, run.seed):
            raise ValueError(f"seed is {self.seed}, and {path} was begun with {run.seed}; "
                             "a run goes on with the seed that it began with")
        changed = [name for name, value in vars(recipe).items()
                   if name != "steps" and value != getattr(run.recipe, name)]
        if changed:
            raise ValueError(f"{', '.join(changed)} given with --resume; "
                             "a run goes on with the recipe that it began with")
        if run.denoiser.step >= recipe.steps:
            raise ValueError(f"{path} is complete at step {run.denoiser.step:,}; give more --steps to go on")
        if recipe.steps != run.recipe.steps and recipe.lr_schedule != "constant":
            was, now = (learning_rate(recipe.lr_schedule, run.denoiser.step, steps, recipe.lr)
                        for steps in (run.recipe.steps, recipe.steps))
            print(f"note: the learning rate goes from {was:.2g} to {now:.2g}, so this is not one run of "
                  f"{recipe.steps:,} steps; for that, train anew with --steps {recipe.steps}")
        run.config = run.config._replace(recipe=recipe)
        return run

    def announce(self, run):
        """Say what begins, and what to expect of its samples."""
        sizes = [array.size for name, array in run.denoiser.export().items() if name.startswith("params/")]
        self.say(f"{run.recipe.name}: {sum(sizes):,} parameters, steps {run.denoiser.step + 1:,} "
                 f"to {run.recipe.steps:,} of {run.recipe.batch_size} samples, seed {run.seed}")
        print_warnings(run.recipe, Sampling.of(run.recipe))

    def say(self, line):
        """Print a line, unless quiet."""
        if not self.quiet:
            print(line)


@dataclass(frozen=True)
class Pictures:
    """Draw the pictures of a run again, from its newest checkpoint."""
    run_dir: RunDir
    backend: str = "numpy"              # library that computes
    device: str = "cpu"                 # device of the backend
    data: Path | None = None            # where the run's data lies now, if not where it was trained
    quiet: bool = False                 # no progress

    def run(self):
        from npdiff.app.pictures import draw_pictures
        run = open_run(self.run_dir, backend_of(self), self.data)
        run.dataset()                       # missing or other data is an error before the first picture
        print_each(draw_pictures(run, self.quiet))


@dataclass(frozen=True)
class Sample:
    """Draw samples from a trained run: an .npz with the array `samples`, and a picture beside it."""
    run_dir: RunDir
    sampling: Annotated[Sampling, Flat] = Sampling()    # the recipe's own: npdiff.app.cli sets it
    n: int | None = None                # number of samples; 512 points or 64 images unless given
    label: int | None = None            # the class to draw, if there are classes; all in turn unless given
    seed: int = 0                       # seed of the noise
    out: Path | None = None             # file to create; RUN/drawn.npz, or the next free RUN/drawn-2.npz, ...
    data: Path | None = None            # where the run's data lies now, if not where it was trained
    backend: str = "numpy"              # library that computes
    device: str = "cpu"                 # device of the backend
    quiet: bool = False                 # no progress

    def run(self):
        from npdiff.app import figures, pictures
        run = open_run(self.run_dir, backend_of(self), self.data)
        out = self.out.expanduser() if self.out else free_path(run.path / "drawn.npz", ".png")
        picture = out.with_suffix(".png")
        if out.suffix != ".npz":
            raise ValueError(f"--out is {out}; it must end in .npz")
        check_free(out, picture)
        print_warnings(run.recipe, self.sampling)
        x = run.sample(self.n, self.label, self.seed, self.quiet, **vars(self.sampling))
        buffer, labels = io.BytesIO(), run.labels(len(x), self.label)
        np.savez(buffer, samples=x, **({} if labels is None else {"labels": labels}))
        write_bytes(out, buffer.getvalue())
        print(out)
        print(figures.save(pictures.samples_figure(run, x, self.sampling, self.label), picture))


@dataclass(frozen=True)
class Evaluate:
    """Measure a run's samples: points against fresh data in five draws of n, images by a classifier."""
    run_dir: RunDir
    n: int | None = None                # samples in each draw; 5000 points or 200 images unless given
    seed: int = 0                       # seed of the noise and of the data
    sampling: Annotated[Sampling, Flat] = Sampling()    # the recipe's own: npdiff.app.cli sets it
    likelihood: bool = False            # also how probable the model finds fresh data
    backend: str = "numpy"              # library that computes
    device: str = "cpu"                 # device of the backend
    data: Path | None = None            # where the run's data lies now, if not where it was trained
    quiet: bool = False                 # no progress

    def run(self):
        run = open_run(self.run_dir, backend_of(self), self.data)
        print_warnings(run.recipe, self.sampling)
        numbers = run.evaluate(self.n, self.seed, self.likelihood, self.quiet, **vars(self.sampling))
        print(f"{run!r}: {numbers['draws']} x {numbers['n']} samples, seed {self.seed}")
        if len(run.steps):
            print(f"  {report.training_loss(run.recipe, run.steps, run.loss)}")
        report.print_evaluation(numbers)


@dataclass(frozen=True)
class Gradcheck:
    """Hold all hand-derived gradients against the complex step, and name the first function that is wrong."""
    what: WhatToCheck = "all"
    seed: int = 0                       # seed of the parameters, the inputs and the cotangents

    def run(self):
        if self.what not in ("all", *PAIRS, *NETWORKS):
            raise ValueError(f"pair or model is {self.what!r}; it must be one of "
                             f"{', '.join([*NETWORKS, *PAIRS])}, or all")
        pairs = [name for name in PAIRS if self.what in (name, "all")]
        configs = [config for name in NETWORKS for config in NETWORKS[name] if self.what in (name, "all")]
        whole = self.what == "all"
        print("relative error of each gradient against the complex step (float64)")
        for name in pairs:
            report.print_gradients(name, check_cases(name, self.seed), whole)
        for config in configs:
            report.print_gradients(report.in_short(config), check_network(config, self.seed), whole)
        print(report.gradients_checked(len(pairs), configs))


@dataclass(frozen=True)
class Trace:
    """Follow one training step and one sampling step of a tiny network, number by number."""
    point: tuple[float, float] | None = None    # the data point; drawn from the moons unless given
    noise: tuple[float, float] | None = None    # the noise that is added to it; drawn unless given
    t: int = 4                          # the timestep, 1..10
    seed: int = 0                       # seed of the weights, and of what is drawn
    text: bool = False                  # print the whole step as a table; so it is unless asked otherwise
    json: bool = False                  # print every number with the numbers that made it, as JSON
    open: str | None = None             # print what made this number: linear1.dW[0,1], loss, x_t[0,0], ...
    depth: int = 3                      # how many steps back --open goes

    def run(self):
        if self.text + self.json + (self.open is not None) > 1:
            raise ValueError("--text, --json and --open exclude each other; give one of them")
        made = ledger.make_ledger(self.seed, self.point, self.t, self.noise, confirm=self.open is None)
        if self.json:
            print(json.dumps(made.as_dict()))
            return
        lines = text.story(made) if self.open is None else text.opened(made, self.open, self.depth)
        print(*lines, sep="\n")


@dataclass(frozen=True)
class Compare:
    """Run a recipe on several backends: where their numbers differ, how far they part, how fast they are."""
    recipes: RecipeNames
    backends: str                       # NAME or NAME:DEVICE, with commas; all are compared with the first
    dtype: str = "float32"              # float32 or float64
    threads: int | None = None          # of each backend; all cores unless given
    steps: int | None = None            # training steps; 1000 for points, 20 for images unless given
    seed: int = 0                       # seed of every random number
    out: Path | None = None             # picture to create; runs/compare-RECIPE.png unless given
    quiet: bool = False                 # no progress

    def run(self):
        recipes = [self.shortened(get_recipe(name)) for name in self.recipes.split(",")]
        specs, threads = self.backends.split(","), self.threads or cores()
        if len(specs) < 2:
            raise ValueError(f"--backends is {self.backends!r}; "
                             "it must name at least two, with a comma between")
        if self.out and len(recipes) > 1:
            raise ValueError(f"--out is {self.out}; it names the picture of one recipe, "
                             f"and {len(recipes)} are compared")
        backends = [compare.load(spec, self.dtype, threads) for spec in specs]
        outs = [self.out.expanduser() if self.out else free_path(Path("runs") / f"compare-{recipe.name}.png")
                for recipe in recipes]
        check_free(*outs)
        print(f"each backend may use {threads} thread(s)")
        for spec, backend in zip(specs, backends, strict=True):
            print(f"{spec}: {backend.about()}")
        for recipe, out in zip(recipes, outs, strict=True):
            self.follow(recipe, specs, backends, out)
        report.print_speed(specs, [compare.speed(specs, backends, recipe, self.dtype, self.seed, threads)
                                   for recipe in recipes])

    def shortened(self, recipe):
        """The recipe with the number of steps that are compared."""
        default = 20 if is_image(recipe.model) else 1000
        return replace(recipe, steps=default if self.steps is None else self.steps)

    def follow(self, recipe, specs, backends, out):
        """One recipe's first training step on each backend, and how far they part from there."""
        from npdiff.app import figures
        print(f"{recipe.name} in {self.dtype}, seed {self.seed}")
        for spec, backend in zip(specs[1:], backends[1:], strict=True):
            pair, names = (backends[0], backend), (specs[0], spec)
            operations = compare.compare_operations(pair, recipe, self.seed)
            report.print_first_step(names, operations, compare.compare_gradients(pair, recipe, self.seed))
            drift = compare.drift(pair, recipe, self.seed)
            drift = progress(drift, recipe.steps, "training both", self.quiet)
            steps, losses, parameters = zip(*drift, strict=True)
            worst = max(abs(a - b) / a for a, b in losses)
            print(f"  over {recipe.steps} training steps: the losses differ by at most {worst:.1e} "
                  f"(relative), the parameters in the end by {parameters[-1]:.1e}")
            path = out if len(specs) == 2 else out.with_stem(f"{out.stem}-{spec.replace(':', '-')}")
            title = f"{recipe.name}, {self.dtype}"
            print(figures.save(figures.comparison(names, steps, losses, parameters, title), path))


@dataclass(frozen=True)
class Doctor:
    """Say before any training what is wrong with a recipe and a way of sampling it, and what to change."""
    recipe: RecipeOrRun
    settings: Annotated[Recipe, Flat] = MOONS           # the recipe's own values: npdiff.app.cli sets them
    sampling: Annotated[Sampling, Flat] = Sampling()    # and these too
    data: Path | None = None            # your points or images; or the folder of the data set's files
    seed: int = 0                       # seed of the data that is drawn to look at

    def run(self):
        recipe = recipe_of(self)
        dataset = load_data(recipe.data, self.data)
        recipe = fitted(recipe, dataset)

        def draw(n):
            return fresh_data(recipe, self.seed, n, data_dir=self.data)

        print(*doctor.report(recipe, doctor.diagnose(recipe, self.sampling, draw)), sep="\n")


@dataclass(frozen=True)
class Data:
    """Fetch a data set into the cache, or check the files of a folder."""
    name: DataName
    data: Path | None = None            # folder with the files to check; NPDIFF_DATA, the cache or a download
    quiet: bool = False                 # no progress

    def run(self):
        if self.name != "fashion-mnist":
            raise ValueError(f"data set is {self.name!r}; it must be fashion-mnist")
        where, source = fashion_mnist.place(self.data)
        print(f"{where} ({source})")
        for split in fashion_mnist.SPLITS:
            images, _ = fashion_mnist.load_bytes(split, self.data, verify=True, quiet=self.quiet)
            _, height, width = images.shape
            print(f"{split}: {len(images):,} images of {height} x {width}, content verified")


def backend_of(command):
    """The backend that a command names, with the options that were given for it."""
    options = getattr(command, "options", None)
    return load_backend(command.backend, command.device, **(asdict(options) if options else {}))


def recipe_of(command):
    """The Recipe of a command's settings. Raises ValueError if they are of another recipe than it names."""
    values = vars(command.settings)
    if command.recipe in RECIPES and values["name"] != command.recipe:
        raise ValueError(f"recipe is {command.recipe}, and the settings are those of {values['name']}; "
                         "write the recipe right behind the command")
    if values["name"] != command.recipe and not Path(command.recipe).is_dir():
        get_recipe(command.recipe)
    return Recipe(**values)


def print_each(paths):
    """Print paths as they come."""
    for path in paths:
        print(path)


def print_warnings(recipe, sampling):
    """One line for each thing that is known to be wrong with this way of sampling."""
    for sentence in doctor.warnings(recipe, sampling):
        print(f"note: {sentence}")


def check_free(*paths):
    """Raise an OSError if one of these files exists, or cannot be made because its folder cannot."""
    for path in paths:
        if path.exists():
            raise FileExistsError(f"{path} exists; give another --out, or remove it")
        folder = next(folder for folder in path.absolute().parents if folder.exists())
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            raise PermissionError(f"{path} cannot be written: {folder} is no folder that may be written to")
