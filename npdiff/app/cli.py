"""The `npdiff` command: reads flags, runs what they ask for, and turns a refused value into one line."""

import contextlib
import io
import os
import re
import sys
from dataclasses import make_dataclass
from pathlib import Path
from typing import Annotated

import tyro

import npdiff
from npdiff.app import checkpoint
from npdiff.app.commands import (
    Compare,
    Data,
    Doctor,
    Evaluate,
    Flat,
    Gradcheck,
    Pictures,
    Sample,
    Trace,
    Train,
)
from npdiff.backends import backend_class
from npdiff.backends.machine import one_blas_thread
from npdiff.recipes import MOONS, RECIPES, Recipe
from npdiff.sampling import Sampling

COMMANDS = {"train": Train, "sample": Sample, "evaluate": Evaluate, "pictures": Pictures,
            "gradcheck": Gradcheck, "compare": Compare, "doctor": Doctor, "data": Data,
            "trace": Trace}


def commands_for(argv):
    """COMMANDS, with the flags and the default values of the recipe, run and backend that argv names."""
    words = [word for argument in argv for word in str(argument).split("=", 1)]
    recipe = named_recipe(words)
    Options = backend_class(word_after("--backend", words, "numpy")).Options

    def fitting(command):
        fields = []
        if "settings" in command.__dataclass_fields__:
            Settings = settings_class(recipe, command is Doctor)
            fields.append(("settings", Annotated[Settings, Flat], Settings(**vars(recipe))))
        if "sampling" in command.__dataclass_fields__:
            fields.append(("sampling", Annotated[Sampling, Flat], Sampling.of(recipe)))
        if "backend" in command.__dataclass_fields__ and Options is not None:
            fields.append(("options", Annotated[Options, Flat], Options()))
        return with_fields(command, fields)

    return {verb: fitting(command) for verb, command in COMMANDS.items()}


def settings_class(recipe, with_sampling):
    """Recipe as a class of flags: the network's fields are those of this recipe's network.

    The name and the data set are no flags. Nor is what Sampling has, where the command takes one too.
    """
    of_sampling = ["steps", "variance", "sampler", "sampling_steps", "sampling_clip"]
    fixed = ["name", "data", *(of_sampling if with_sampling else [])]
    kinds = {field: kind for field, kind in Recipe.__annotations__.items() if field in fixed}
    fields = [(field, Annotated[kind, tyro.conf.Fixed, tyro.conf.SuppressFixed], getattr(recipe, field))
              for field, kind in kinds.items()]
    return with_fields(Recipe, [*fields, ("model", type(recipe.model), recipe.model)])


def with_fields(cls, fields):
    """A dataclass with other kinds or defaults for some fields. tyro finds the comments where cls stands."""
    made = make_dataclass(cls.__name__, fields, bases=(cls,), frozen=True, kw_only=True)
    for name in ("__module__", "__qualname__", "__doc__", "__firstlineno__"):
        if hasattr(cls, name):
            setattr(made, name, getattr(cls, name))
    return made


def named_recipe(words):
    """The recipe that a command line is about: that of the run it names or resumes, or that it names."""
    names = [word for word in words[1:] if word in RECIPES]
    runs = [word for word in words[1:] if (Path(word) / "config.json").is_file()]
    if words[:1] == ["train"] and "--resume" in words and names:
        runs = [word_after("--out", words, f"runs/{names[0]}")]
    with contextlib.suppress(OSError, ValueError):          # the command itself says what is wrong with it
        if runs and (words[:1] != ["train"] or "--resume" in words):
            return checkpoint.load_config(runs[0]).recipe
    return RECIPES[names[0]] if names else MOONS


def word_after(flag, words, default):
    """The word behind the flag, or the default where there is none."""
    return words[words.index(flag) + 1] if flag in words[:-1] else default


def parse(argv):
    """The command that argv asks for. Raises ValueError, with what tyro says, for a wrong flag."""
    argv = [str(word) for word in (sys.argv[1:] if argv is None else argv)]
    if argv == ["--version"]:
        print(f"npdiff {npdiff.__version__}")
        raise SystemExit(0)
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            return tyro.extras.subcommand_cli_from_dict(
                commands_for(argv), prog="npdiff", args=argv,
                description="Denoising diffusion from scratch in NumPy.")
    except SystemExit as stop:
        if stop.code:
            raise ValueError(sentence_of(box.getvalue())) from None
        raise


def sentence_of(box):
    """One line for what tyro says in a box: its first part, and the flag that it suggests.

    Below its title a box has parts with rules between them. Its frame depends on the terminal's encoding.
    """
    lines = [line.strip("│| ") for line in box.splitlines()[1:]]
    text = "\n".join("" if set(line) <= set("─- ╰╯") else line for line in lines).strip()
    first, _, rest = text.partition("\n\n")
    first = re.sub(r"Error parsing \S*dummy\S*: ", "", " ".join(first.split()))
    given = re.findall(r"--[\w.-]+", first)
    _, _, suggested = rest.partition("Perhaps you meant:")
    others = [flag for flag in re.findall(r"^--[\w.-]+", suggested, re.MULTILINE) if flag not in given]
    others.sort(key=lambda flag: not flag.startswith(tuple(given)))        # --step begins --steps
    return f"{first}{f'; perhaps you meant {others[0]}' if others else ''}; see npdiff --help"


def main(argv=None):
    """Run the command line. A refused value ends it with one line on stderr and exit status 2."""
    try:
        with Outlet("stdout"), Outlet("stderr"):
            command = parse(argv)
            with one_blas_thread:       # products are small: one thread is as fast, on any number of cores
                command.run()
    except KeyboardInterrupt as stop:
        fail(stop if stop.args else "interrupted", status=130)
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}" if error.filename and error.strerror else error)
    except MemoryError as error:
        fail(f"not enough memory: {error or 'ask for fewer samples or a smaller network'}")
    except (ValueError, ArithmeticError, RecursionError) as error:
        fail(error)


class Outlet:
    """Within, what is printed to sys.stdout or sys.stderr never stops the work.

    Characters that the terminal cannot show become escapes. Where nothing can be written any more, the rest
    is dropped; unless only the reader went away, the end of the work raises the OSError that said so.
    """

    def __init__(self, name):
        self.name, self.lost = name, None

    def __enter__(self):
        self.user = getattr(sys, self.name)                 # None where the caller has closed it
        self.stream = self.user or open(os.devnull, "w")
        setattr(sys, self.name, self)

    def __exit__(self, kind, *error):
        self.flush()
        setattr(sys, self.name, self.user)
        if self.lost and not kind:
            raise self.lost

    def __getattr__(self, name):
        return getattr(self.stream, name)

    def write(self, text):
        encoding = getattr(self.stream, "encoding", None) or "utf-8"
        shown = text.encode(encoding, "backslashreplace").decode(encoding)
        return self.whatever_happens(self.stream.write, shown)

    def flush(self):
        self.whatever_happens(self.stream.flush)

    def whatever_happens(self, function, *arguments):
        """Call the function. From the first error on, the stream leads to nowhere."""
        try:
            return function(*arguments)
        except OSError as error:
            if not isinstance(error, BrokenPipeError):
                self.lost = OSError(f"{self.name}: {error.strerror}")
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())


def fail(message, status=2):
    """One line on stderr, and the end."""
    print(f"error: {' '.join(str(message).split())}", file=sys.stderr)
    sys.exit(status)
