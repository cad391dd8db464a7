"""What each command of `npdiff` takes and does. A field is a flag, and its comment is the flag's help."""

import io
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from npdiff.app import checkpoint, report
from npdiff.app.progress import progress
from npdiff.app.runs import draw_pictures, sampling_in_words, train_and_log, trained_denoiser
from npdiff.backends import load_backend
from npdiff.backends.machine import cores
from npdiff.data import CLASS_NAMES, fashion_mnist, load_data
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
from npdiff.verify import compare, doctor
from npdiff.verify.first_wrong import NETWORKS, check_network
from npdiff.verify.oracle import oracle_of
from npdiff.verify.pairs import PAIRS, check_cases

FRESH = 15      # draws of fresh data that samples are held against, and each other: 105 pairs


def choice(of, help):
    """The flag's help: a sentence, then the values that it takes."""
    return tyro.conf.arg(help=f"{help}: {', '.join(of)}.")


def positional(of, metavar, help):
    """A positional argument of type `of`."""
    return Annotated[tyro.conf.Positional[of], tyro.conf.arg(metavar=metavar, help=help)]


RecipeName = positional(str, "RECIPE", f"One of: {', '.join(RECIPES)}.")
RecipeNames = positional(str, "RECIPE[,RECIPE...]", f"One or more, with commas, of: {', '.join(RECIPES)}.")
WhatToCheck = positional(str, "PAIR|MODEL|all", f"One of: all, {', '.join([*MODELS, *PAIRS])}.")
DataName = positional(str, "NAME", "fashion-mnist.")
RunDir = positional(Path, "RUN", "Run directory that `npdiff train` made.")
Flat = tyro.conf.arg(name="")           # the fields of this dataclass are flags without a prefix


@dataclass(frozen=True)
class Variation:
    """What to try in the place of a recipe's own."""
    schedule: Annotated[str | None, choice(SCHEDULES, "Another than the recipe's")] = None
    num_train_timesteps: int | None = None      # another T than the recipe's
    prediction_type: Annotated[str | None, choice(PREDICTION_TYPES, "Another than the recipe's")] = None
    loss_weight: Annotated[str | None, choice(LOSS_WEIGHTS, "Another than the recipe's")] = None

    def given(self):
        """The fields that are set, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class Train:
    """Train a recipe, then draw samples and pictures into a new run directory."""
    recipe: RecipeName
    variation: Annotated[Variation, Flat] = Variation()
    backend: str = "numpy"              # library that computes
    device: str = "cpu"                 # device of the backend
    steps: int | None = None            # training steps; the recipe's own number unless given
    seed: int = 0                       # seed of every random number: the same seed gives the same bytes
    out: Path | None = None             # run directory to create; the next free runs/RECIPE unless given
    data: Path | None = None            # folder of the data; NPDIFF_DATA, the cache or a download unless set
    resume: bool = False                # go on from the newest checkpoint of --out (runs/RECIPE unless given)
    quiet: bool = False                 # no progress

    def run(self):
        recipe, seed, history, state = self.what_to_train()
        backend = backend_of(self)
        load_data(recipe.data, self.data)
        denoiser = new_denoiser(backend, recipe, seed)
        out = self.out or Path("runs") / recipe.name
        if self.resume:
            denoiser.load(state)
            if denoiser.step >= recipe.steps:
                raise ValueError(f"{out} is complete at step {denoiser.step:,}; give more --steps to go on")
        elif backend.writes:
            out = checkpoint.create_run(self.out or free_path(out), recipe, seed)
        if backend.writes:
            self.announce(out, recipe, seed, history, denoiser, backend)
        train_and_log(denoiser, backend, recipe, seed, out, self.data, self.quiet)
        if backend.writes:
            print(report.training_loss(recipe, *checkpoint.load_metrics(out)))
            draw_pictures(out, recipe, seed, backend, self.data, self.quiet)

    def what_to_train(self):
        """-> recipe, seed, history, and the state to go on from (None for a new run)."""
        changes = self.variation.given()
        recipe, seed, history, state = replace(get_recipe(self.recipe), **changes), self.seed, [], None
        if self.resume:
            if changes:
                raise ValueError(f"{', '.join(changes)} given with --resume; "
                                 "a run goes on with the recipe that it began with")
            out = self.out or Path("runs") / recipe.name
            recipe, seed, history = checkpoint.load_config(out)
            state = checkpoint.load_checkpoint(out)
            if recipe.name != self.recipe:
                raise ValueError(f"{out} is a run of {recipe.name}, not of {self.recipe}")
        if self.steps is not None:
            recipe = replace(recipe, steps=self.steps)
        return recipe, seed, history, state

    def announce(self, out, recipe, seed, history, denoiser, backend):
        """Note in config.json what will compute, and say what begins."""
        history.append({"first_step": denoiser.step + 1, "backend": self.backend, "device": self.device,
                        "library": backend.about()})
        checkpoint.save_config(out, recipe, seed, history)
        state = denoiser.export()
        parameters = sum(array.size for name, array in state.items() if name.startswith("params/"))
        print(f"{recipe.name}: {parameters:,} parameters, steps {denoiser.step + 1:,} to {recipe.steps:,} "
              f"of {recipe.batch_size} samples, seed {seed}")
        warn_of_signal(recipe, Sampling())


@dataclass(frozen=True)
class Sample:
    """Draw samples from a trained run: an .npz with the array `samples`, and a picture beside it."""
    run_dir: RunDir
    sampling: Annotated[Sampling, Flat] = Sampling()
    n: int | None = None                # number of samples; 512 points or 64 images unless given
    label: int | None = None            # the class to draw, if there are classes; all in turn unless given
    seed: int = 0                       # seed of the noise
    out: Path | None = None             # file to create; RUN/drawn.npz, or the next free RUN/drawn-2.npz, ...
    data: Path | None = None            # folder of the data, for --start data; as for train
    backend: str = "numpy"              # library that computes
    device: str = "cpu"                 # device of the backend
    quiet: bool = False                 # no progress

    def run(self):
        recipe, *_ = checkpoint.load_config(self.run_dir)
        backend = backend_of(self)
        denoiser = trained_denoiser(self.run_dir, recipe, backend)
        out = self.out or free_path(self.run_dir / "drawn.npz", ".png")
        picture = out.with_suffix(".png")
        if out.suffix != ".npz":
            raise ValueError(f"--out is {out}; it must end in .npz")
        check_free(out, picture)
        image = is_image(recipe.model)
        n = self.n if self.n is not None else 64 if image else 512
        labels = self.labels(recipe, n)
        x0 = data_to_start(recipe, self.sampling, self.seed, n, 0, self.data)
        chain = sample(denoiser, backend, recipe, n, self.seed, 0, labels, self.sampling, x0)
        for _, x in progress(chain, stops_of(recipe, self.sampling), "sampling", self.quiet):
            pass
        x = backend.to_numpy(x)
        buffer = io.BytesIO()
        np.savez(buffer, samples=x, **({} if labels is None else {"labels": labels}))
        write_bytes(out, buffer.getvalue())
        from npdiff.app import figures
        title = sampling_in_words(recipe, self.sampling, n)
        if self.label is not None:
            title += f", class {CLASS_NAMES[recipe.data][self.label]}"
        data = None if image else fresh_data(recipe, self.seed, 2000)
        drawn = figures.image_grid(x, 8, title) if image else figures.samples_over_data(x, data, title)
        figures.save(drawn, picture)
        print(out)
        print(picture)

    def labels(self, recipe, n):
        """What to ask the network for: integers (n,), or None."""
        if self.label is None:
            return labels_in_turn(recipe, max(n, 0))
        if not recipe.conditional:
            raise ValueError(f"label is {self.label}; {recipe.name} takes no labels")
        if not 0 <= self.label < recipe.model.classes:
            raise ValueError(f"label is {self.label}; it must lie in 0..{recipe.model.classes - 1}")
        return np.full(n, self.label)


@dataclass(frozen=True)
class Evaluate:
    """Measure a run's samples: points against fresh data in five draws of n, images by a classifier."""
    run_dir: RunDir
    n: int | None = None                # samples in each draw; 5000 points or 200 images unless given
    seed: int = 0                       # seed of the noise and of the data
    sampling: Annotated[Sampling, Flat] = Sampling()
    likelihood: bool = False            # also how probable the model finds fresh data
    backend: str = "numpy"              # library that computes
    device: str = "cpu"                 # device of the backend
    data: Path | None = None            # folder of the data; NPDIFF_DATA, the cache or a download unless set
    quiet: bool = False                 # no progress

    def run(self):
        recipe, *_ = checkpoint.load_config(self.run_dir)
        steps, losses = checkpoint.load_metrics(self.run_dir)
        draw_data = load_data(recipe.data, self.data)       # a missing file is an error before the sampling
        backend = backend_of(self)
        denoiser = trained_denoiser(self.run_dir, recipe, backend)
        image = is_image(recipe.model)
        if self.likelihood and image and not recipe.data.startswith("fashion-mnist"):
            raise ValueError(f"likelihood is asked of {recipe.name}; it is for points and "
                             f"for images of 8 bits, which {recipe.data} are not")
        n, draws = (self.n if self.n is not None else 200 if image else 5000), 1 if image else 5
        labels = labels_in_turn(recipe, max(n, 0))
        samples = self.draw(denoiser, backend, recipe, n, draws, labels)
        print(f"{recipe.name}, {self.run_dir}: {draws} x {n} samples, seed {self.seed}")
        if not image:
            fresh = [fresh_data(recipe, self.seed, n, k) for k in range(FRESH)]
            report.print_moons(metrics.moons_report(samples, fresh))
        if recipe.conditional and n >= 2 * recipe.model.classes:
            real = draw_data(1000, generator(self.seed, "data"))
            report.print_classes(recipe, samples[0].clip(-1, 1), labels, *real)
        known = oracle_of(recipe.data) is not None
        of_weights = metrics.loss_above_floor(denoiser, backend, recipe, self.seed) if known else None
        by_t = metrics.loss_by_t(denoiser, backend, recipe, self.seed, self.data)
        report.print_losses(recipe, steps, losses, by_t, of_weights)
        if self.likelihood:
            report.print_likelihood(*data_likelihood(denoiser, backend, recipe, self.seed, self.data))
        warn_of_signal(recipe, self.sampling)

    def draw(self, denoiser, backend, recipe, n, draws, labels):
        """Independent sets of n samples: a list of float64 arrays (n, ...)."""
        def chain(draw):
            x0 = data_to_start(recipe, self.sampling, self.seed, n, FRESH + draw, self.data)
            return sample(denoiser, backend, recipe, n, self.seed, draw, labels, self.sampling, x0)

        chains = [chain(draw) for draw in range(draws)]
        walk = ((t, x) for chain in chains for t, x in chain)
        shown = progress(walk, draws * stops_of(recipe, self.sampling), "sampling", self.quiet)
        return [backend.to_numpy(x).astype(np.float64) for t, x in shown if t == 0]


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
        outs = [self.out or free_path(Path("runs") / f"compare-{recipe.name}.png") for recipe in recipes]
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
    recipe: RecipeName
    variation: Annotated[Variation, Flat] = Variation()
    sampling: Annotated[Sampling, Flat] = Sampling()
    data: Path | None = None            # folder of the data; NPDIFF_DATA, the cache or a download unless set
    seed: int = 0                       # seed of the data that is drawn to look at

    def run(self):
        recipe = replace(get_recipe(self.recipe), **self.variation.given())

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


def stops_of(recipe, sampling):
    """How many times a sampler yields: once at the start and once after each jump."""
    return (sampling.steps or recipe.num_train_timesteps) + 1


def warn_of_signal(recipe, sampling):
    """One line if sampling starts from pure noise although x_T is not that."""
    if sentence := doctor.signal_left(recipe, sampling):
        print(f"note: {sentence}")


def free_path(path, *beside):
    """path if nothing is there, nor with the endings `beside`; else the first free of path-2, path-3, ..."""
    candidate, k = path, 2
    while any(candidate.with_suffix(ending).exists() for ending in (path.suffix, *beside)):
        candidate, k = path.with_stem(f"{path.stem}-{k}"), k + 1
    return candidate


def check_free(*paths):
    """Make the folders of these files to be. Raises FileExistsError if one exists, and other OSErrors."""
    for path in paths:
        if path.exists():
            raise FileExistsError(f"{path} exists; give another --out, or remove it")
        path.parent.mkdir(parents=True, exist_ok=True)
