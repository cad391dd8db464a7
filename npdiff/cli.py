"""The `npdiff` command: reads flags, calls the rooms, prints. No mathematics lives here."""

import contextlib
import io
import signal
import sys
import time
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from npdiff import checkpoint, gradcheck, metrics
from npdiff.backend import load_backend
from npdiff.data import DATA
from npdiff.models import MODELS, model_name
from npdiff.recipes import RECIPES, get_recipe
from npdiff.rng import generator
from npdiff.samplers import sample
from npdiff.schedule import make_schedule
from npdiff.training import train

CHECKPOINT_EVERY = 1000     # steps
SIGNAL_LEFT = 1e-3          # a terminal alpha_bar above this shifts samples by more than 3% of the data's mean


@dataclass(frozen=True)
class Train:
    """Train a recipe, then draw samples and pictures into a new run directory."""
    recipe: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RECIPE", help=f"One of: {', '.join(RECIPES)}.")]
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
    quiet: bool = False
    """Plain lines instead of a progress bar."""

    resume: bool = False
    """Go on from the newest checkpoint of --out (runs/RECIPE unless given), on any backend."""

    def run(self):
        recipe, seed, history, state = get_recipe(self.recipe), self.seed, [], None
        if self.resume:
            out = self.out or Path("runs") / recipe.name
            recipe, seed, history = checkpoint.load_config(out)
            state = checkpoint.load_checkpoint(out)
            if recipe.name != self.recipe:
                raise ValueError(f"{out} is a run of {recipe.name}, not of {self.recipe}")
        if self.steps is not None:
            recipe = replace(recipe, steps=self.steps)
        backend = load_backend(self.backend, self.device)
        params = MODELS[model_name(recipe.model)].init(recipe.model, generator(seed, "init"))
        denoiser = backend.make_denoiser(recipe.model, params, recipe.ema_decay)
        if self.resume:
            denoiser.load(state)
            if denoiser.step >= recipe.steps:
                raise ValueError(f"{out} is complete at step {denoiser.step:,}; give more --steps to go on")
        else:
            out = checkpoint.create_run(self.out or free_path(Path("runs") / recipe.name), recipe, seed)
        history.append({"first_step": denoiser.step + 1, "backend": self.backend, "device": self.device, "library": backend.about()})
        checkpoint.save_config(out, recipe, seed, history)
        print(f"{recipe.name}: {sum(array.size for array in params.values()):,} parameters, "
              f"steps {denoiser.step + 1:,} to {recipe.steps:,} of {recipe.batch_size} samples, seed {seed}")
        warn_of_signal(recipe)
        train_and_log(denoiser, backend, recipe, seed, out, self.quiet)
        draw_pictures(out, recipe, seed, backend, self.quiet)


@dataclass(frozen=True)
class Sample:
    """Draw samples from a trained run: an .npz with the array `samples`, and a picture beside it."""
    run_dir: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN", help="Run directory that `npdiff train` made.")]
    sampler: str = "ancestral"
    """The sampling algorithm."""
    variance: str | None = None
    """Variance of the ancestral sampler, beta or posterior; the recipe's unless given."""
    steps: int | None = None
    """Denoising steps, 1..T; every timestep unless given."""
    n: int = 512
    """Number of samples."""
    seed: int = 0
    """Seed of the noise."""
    out: Path | None = None
    """File to create; RUN/drawn.npz, or the next free RUN/drawn-2.npz, ... unless given."""
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
        chain = sample(denoiser, backend, recipe, self.n, self.seed, sampler=self.sampler, variance=self.variance, steps=self.steps)
        for _, x in progress(chain, (self.steps or recipe.num_train_timesteps) + 1, "sampling", self.quiet):
            pass
        x = backend.to_numpy(x)
        buffer = io.BytesIO()
        np.savez(buffer, samples=x)
        checkpoint.write_atomically(out, buffer.getvalue())
        from npdiff import figures
        figures.save(figures.samples_over_data(x, data_to_compare(recipe, self.seed), f"{recipe.name}: {self.n} samples"), picture)
        print(out)
        print(picture)


@dataclass(frozen=True)
class Evaluate:
    """Measure a trained run's samples against fresh data: five draws of n samples each."""
    run_dir: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN", help="Run directory that `npdiff train` made.")]
    n: int = 5000
    """Samples in each of the five draws."""
    seed: int = 0
    """Seed of the noise and of the data."""
    variance: str | None = None
    """Variance of the ancestral sampler, beta or posterior; the recipe's unless given."""
    steps: int | None = None
    """Denoising steps, 1..T; every timestep unless given."""
    backend: str = "numpy"
    """Library that computes."""
    device: str = "cpu"
    """Device of the backend."""
    quiet: bool = False
    """Plain lines instead of a progress bar."""

    def run(self):
        recipe, *_ = checkpoint.load_config(self.run_dir)
        steps, losses = checkpoint.load_metrics(self.run_dir)
        backend = load_backend(self.backend, self.device)
        denoiser = trained_denoiser(self.run_dir, recipe, backend)
        chains = [sample(denoiser, backend, recipe, self.n, self.seed, draw, variance=self.variance, steps=self.steps) for draw in range(5)]
        stops = (self.steps or recipe.num_train_timesteps) + 1
        walk = ((t, x) for chain in chains for t, x in chain)
        draws = [backend.to_numpy(x).astype(np.float64) for t, x in progress(walk, 5 * stops, "sampling", self.quiet) if t == 0]
        data = [DATA[recipe.data](self.n, generator(self.seed, "data", k)) for k in range(10)]
        report = metrics.moons_report(draws, data[:5], data[5:])
        (x, y), (data_x, data_y) = report["mean"], report["mean_data"]
        energy, energy_data = report["energy_distance"], report["energy_distance_data"]
        last = [loss for step, loss in zip(steps, losses) if step > steps[-1] - 500] if steps else []
        print(f"{recipe.name}, {self.run_dir}: 5 x {self.n} samples, seed {self.seed}")
        print(f"  {'':34}{'samples':>18}{'data':>18}")
        print(f"  {f'farther than {metrics.OFF_ARCS} from the arcs':34}{report['off_arcs']:18.2%}{metrics.off_arcs(np.concatenate(data)):18.2%}")
        print(f"  {'energy distance to fresh data':34}{energy:18.2e}{energy_data:18.2e}   ratio {energy / energy_data:.2f}")
        print(f"  {'mean':34}{f'({x:.3f}, {y:.3f})':>18}{f'({data_x:.3f}, {data_y:.3f})':>18}")
        if last:
            print(f"  {'training loss, last 500 steps':34}{np.mean(last):18.4f}")
        warn_of_signal(recipe)


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
        x, t = rng.standard_normal((4, *config.data_shape)), rng.integers(1, 1001, 4)
        print(config)
        print("relative error of each gradient against derivatives of the forward (float64; norm of the difference / norm)")
        print(f"  {'':14}{'shape':>10}{'complex step':>16}{'largest element':>18}{'finite difference':>20}")
        exact = gradcheck.check_model(module, config, params, x, t, generator(self.seed, "gradcheck", 1))
        finite = gradcheck.check_model(module, config, params, x, t, generator(self.seed, "gradcheck", 1), gradcheck.central_difference)
        for name, (tensor, element) in exact.items():
            shape = " x ".join(map(str, (x if name == "x" else params[name]).shape))
            print(f"  {name:14}{shape:>10}{tensor:16.1e}{element:18.1e}{finite[name][0]:20.1e}")
        if any(tensor > 1e-13 or element > 1e-10 for tensor, element in exact.values()):
            raise ValueError(f"a gradient of {self.model} is wrong: an error above 1e-13 (tensor) or 1e-10 (element)")
        print("every gradient is right: errors at most 1e-13 (tensor), 1e-10 (element)")


@dataclass(frozen=True)
class Compare:
    """Put backends side by side on one recipe: same weights, data and noise; where they part, how far they drift, how fast they are."""
    recipe: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RECIPE", help=f"One of: {', '.join(RECIPES)}.")]
    backends: str
    """NAME or NAME:DEVICE of each, with commas between; the second and later are compared with the first."""
    dtype: str = "float32"
    """float32 or float64."""
    steps: int = 1000
    """Training steps over which the drift is followed."""
    seed: int = 0
    """Seed of every random number."""
    out: Path | None = None
    """Picture to create; runs/compare-RECIPE.png, or the next free name, unless given."""
    quiet: bool = False
    """Plain lines instead of a progress bar."""

    def run(self):
        from npdiff import compare, figures
        recipe = replace(get_recipe(self.recipe), steps=self.steps)
        specs = self.backends.split(",")
        if len(specs) < 2:
            raise ValueError(f"--backends is {self.backends!r}; it must name at least two, with a comma between")
        backends = [compare.load(spec, self.dtype) for spec in specs]
        out = self.out or free_path(Path("runs") / f"compare-{recipe.name}.png")
        if out.exists():
            raise FileExistsError(f"{out} exists; give another --out, or remove it")
        out.parent.mkdir(parents=True, exist_ok=True)
        print(f"{recipe.name} in {self.dtype}, seed {self.seed}")
        for spec, backend in zip(specs, backends):
            print(f"  {spec}: {backend.about()}")
        for spec, backend in zip(specs[1:], backends[1:]):
            pair, names = (backends[0], backend), (specs[0], spec)
            print_first_step(names, compare.compare_operations(pair, recipe, self.seed), compare.compare_gradients(pair, recipe, self.seed))
            steps, losses, parameters = zip(*progress(compare.drift(pair, recipe, self.seed), self.steps, "training both", self.quiet))
            worst = max(abs(a - b) / a for a, b in losses)
            print(f"  over {self.steps} training steps: the losses differ by at most {worst:.1e} (relative), the parameters in the end by {parameters[-1]:.1e}")
            path = out if len(specs) == 2 else out.with_stem(f"{out.stem}-{spec.replace(':', '-')}")
            print(figures.save(figures.comparison(names, steps, losses, parameters, f"{recipe.name}, {self.dtype}"), path))
        print_speed(specs, backends, recipe, self.dtype, self.seed)


COMMANDS = {"train": Train, "sample": Sample, "evaluate": Evaluate, "gradcheck": Gradcheck, "compare": Compare}


def print_first_step(names, operations, gradients):
    """The table of where two backends part in their first training step."""
    print(f"the first training step, {names[1]} against {names[0]}")
    print(f"  {'layer':32}{'elements that differ':>22}{'at most, in ULPs':>18}")
    for name, other, differing, size, ulps in operations:
        print(f"  {f'{name} / {other}':32}{f'{differing:,} of {size:,}':>22}{ulps:18,.1f}")
    parting = next((f"{name} / {other}" for name, other, differing, *_ in operations if differing), "none")
    print(f"  the first layer whose outputs differ: {parting}")
    print(f"  {'gradient':32}{'relative difference':>22}")
    for name, difference in gradients.items():
        print(f"  {name:32}{difference:22.1e}")


def print_speed(specs, backends, recipe, dtype, seed):
    """The table of speed and memory, all timed in turns."""
    from npdiff import compare
    training = compare.time_in_turns([*(compare.training_step(backend, recipe, seed) for backend in backends),
                                      compare.floor_step(recipe.model, recipe.batch_size, dtype)])
    sampling = compare.time_in_turns([compare.sampling_step(backend, recipe, seed) for backend in backends])
    memory = [compare.peak_memory(spec, dtype, recipe, seed) for spec in specs]
    print(f"{'':12}{'training step':>15}{'over the floor':>16}{'steps/s':>10}{'samples/s':>11}{'peak memory':>13}")
    for spec, train_ms, sample_ms, peak in zip(specs, training, sampling, memory):
        samples = compare.BATCH / (sample_ms / 1000 * recipe.num_train_timesteps)
        print(f"{spec:12}{train_ms:12.3f} ms{train_ms / training[-1]:15.2f}x{1000 / train_ms:10,.0f}{samples:11,.0f}{peak / 2**20:10,.0f} MB")
    print(f"{'the floor':12}{training[-1]:12.3f} ms: the step's matrix products and exponentials alone, in NumPy")


def train_and_log(denoiser, backend, recipe, seed, run, quiet):
    """Train from the denoiser's step on, keeping metrics.csv and checkpoints.

    Ctrl-C lets the step finish, saves a checkpoint and raises KeyboardInterrupt. A loss that is not finite raises FloatingPointError, naming the
    checkpoint kept.
    """
    first, start = denoiser.step, time.perf_counter()
    saved = checkpoint.save_checkpoint(run, denoiser.export())
    try:
        with checkpoint.MetricsLog(run, resumed_from=first) as log, held_back_interrupt() as interrupted:
            steps = train(denoiser, backend, recipe, seed, first + 1)
            for step, loss in progress(steps, recipe.steps - first, "training", quiet):
                log.add(step, loss, time.perf_counter() - start)
                if step % CHECKPOINT_EVERY == 0 or step == recipe.steps or interrupted:
                    saved = checkpoint.save_checkpoint(run, denoiser.export())
                if interrupted:
                    raise KeyboardInterrupt(f"interrupted at step {step:,}; to go on: npdiff train {recipe.name} --resume --out {run}")
    except (FloatingPointError, ValueError) as error:
        raise type(error)(f"{error}; the last good checkpoint is {saved}") from error
    print(f"trained in {time.perf_counter() - start:.1f} s: {saved}")


@contextlib.contextmanager
def held_back_interrupt():
    """Within, Ctrl-C only puts an entry into the list that this yields, for a loop to see when its state is whole."""
    seen = []
    previous = signal.signal(signal.SIGINT, lambda *_: seen.append(True))
    try:
        yield seen
    finally:
        signal.signal(signal.SIGINT, previous)


def draw_pictures(run, recipe, seed, backend, quiet):
    """Sample the trained run and write its pictures, announcing each by path."""
    from npdiff import figures
    schedule = make_schedule(recipe.schedule, recipe.num_train_timesteps)
    steps, losses = checkpoint.load_metrics(run)
    data = data_to_compare(recipe, seed)
    denoiser = trained_denoiser(run, recipe, backend)
    walk = progress(sample(denoiser, backend, recipe, len(data), seed), schedule.T + 1, "sampling", quiet)
    chain = [(t, backend.to_numpy(x)) for t, x in walk]
    six = [chain[-1 - round(share * schedule.T)] for share in (1, 0.5, 0.2, 0.1, 0.05, 0)]      # the data takes shape late
    print(figures.save(figures.loss_curve(steps, losses, f"{recipe.name}: training loss"), run / "loss.png"))
    print(figures.save(figures.samples_over_data(chain[-1][1], data, f"{recipe.name}: {len(data):,} samples over data"), run / "samples.png"))
    print(figures.save(figures.filmstrip(six, data), run / "filmstrip.png"))
    print(figures.save(figures.schedule_curves(schedule, f"{recipe.schedule}, T = {schedule.T}"), run / "schedule.png"))
    print(figures.save_gif(chain, data, run / "samples.gif"))


def trained_denoiser(run, recipe, backend):
    """The denoiser of a run, with the weights that samples are drawn with."""
    weights = checkpoint.sampling_weights(checkpoint.load_checkpoint(run))
    return backend.make_denoiser(recipe.model, weights)


def data_to_compare(recipe, seed, n=2000):
    """Fresh data to draw samples over."""
    return DATA[recipe.data](n, generator(seed, "data"))


def warn_of_signal(recipe):
    """One line when x_T is not pure noise, so that sampling from pure noise starts in the wrong place."""
    alpha_bar = make_schedule(recipe.schedule, recipe.num_train_timesteps).alpha_bar[-1]
    if alpha_bar > SIGNAL_LEFT:
        print(f"note: alpha_bar[{recipe.num_train_timesteps}] = {alpha_bar:.3f} leaves signal in x_T ({alpha_bar ** 0.5:.0%} of x_0's size), "
              "but sampling starts from N(0, I): expect biased samples")


def progress(iterable, total, label, quiet):
    """Pass the items on, with a progress bar on a terminal, else with a plain line at every tenth of the way."""
    if not quiet and sys.stderr.isatty():
        yield from tqdm(iterable, total=total, desc=label, leave=False)
        return
    start = time.perf_counter()
    for done, item in enumerate(iterable, start=1):
        yield item
        if done * 10 // total > (done - 1) * 10 // total:
            rate = done / (time.perf_counter() - start)
            print(f"{label} {done:,}/{total:,}  {rate:,.0f} steps/s  {(total - done) / rate:.0f} s left", file=sys.stderr)


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
