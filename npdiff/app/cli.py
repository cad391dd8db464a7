"""The `npdiff` command: reads flags, runs what they ask for, and turns a refused value into one line."""

import contextlib
import io
import sys
from dataclasses import make_dataclass
from itertools import takewhile
from typing import Annotated

import tyro

from npdiff.app.commands import Compare, Data, Doctor, Evaluate, Flat, Gradcheck, Sample, Train
from npdiff.backends import backend_class
from npdiff.backends.machine import one_blas_thread

COMMANDS = {"train": Train, "sample": Sample, "evaluate": Evaluate, "gradcheck": Gradcheck,
            "compare": Compare, "doctor": Doctor, "data": Data}


def commands_for(argv):
    """COMMANDS. Where argv names a backend with Options, the commands with --backend have its flags too."""
    argv = sys.argv[1:] if argv is None else argv
    words = [word for argument in argv for word in str(argument).split("=", 1)]
    name = words[words.index("--backend") + 1] if "--backend" in words[:-1] else "numpy"
    Options = backend_class(name).Options
    if Options is None:
        return COMMANDS

    def with_options(command):
        if "backend" not in command.__dataclass_fields__:
            return command
        return make_dataclass(command.__name__, [("options", Annotated[Options, Flat], Options())],
                              bases=(command,), namespace={"__doc__": command.__doc__}, frozen=True)

    return {verb: with_options(command) for verb, command in COMMANDS.items()}


def parse(argv):
    """The command that argv asks for. Raises ValueError, with what tyro says, for a wrong flag."""
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            return tyro.extras.subcommand_cli_from_dict(
                commands_for(argv), prog="npdiff", args=argv,
                description="Denoising diffusion from scratch in NumPy.")
    except SystemExit as stop:
        if stop.code:
            below_the_title = box.getvalue().splitlines()[1:]
            lines = [line.strip("│ ") for line in below_the_title]
            sentence = " ".join(takewhile(lambda line: not line.startswith("─"), lines))
            raise ValueError(f"{sentence}; see npdiff --help") from None
        raise


def main(argv=None):
    """Run the command line. A refused value ends it with one line on stderr and exit status 2."""
    try:
        command = parse(argv)
        with one_blas_thread:       # products are small: one thread is as fast, on any number of cores
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
