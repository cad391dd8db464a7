"""Fixtures that several test files use."""

import os

# before NumPy is imported: the tests run in as many processes as there are cores, each with one thread
for library in ("OPENBLAS", "OMP"):
    os.environ.setdefault(f"{library}_NUM_THREADS", "1")

import contextlib
import io
from unittest import mock

import pytest
from example_scripts import FASHION_MNIST, TINY, load
from fashion import NO_DATA, REAL
from matplotlib.figure import Figure
from tiny_recipes import TINY_MOONS

from npdiff.backends.numpy import NumpyBackend
from npdiff.training import new_denoiser


@pytest.fixture
def tiny():
    """-> (denoiser, backend, recipe): a small untrained network for the moons, 20 training steps."""
    backend = NumpyBackend()
    return new_denoiser(backend, TINY_MOONS, 0), backend, TINY_MOONS


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """run(name) -> what main returned, the folder it wrote to, what it printed; each script runs once."""
    runs = {}

    def run(name):
        if name in runs:
            return runs[name]
        if name == "00_moons_torch":
            pytest.importorskip("torch", reason="torch is not installed: 00_moons_torch.py is not run")
        arguments = TINY.get(name, {})
        if name in FASHION_MNIST:
            if not REAL.is_dir():
                pytest.skip(NO_DATA)
            arguments = arguments | {"data": REAL}
        out, printed = tmp_path_factory.mktemp(name) / "new" / "folder", io.StringIO()
        with contextlib.redirect_stdout(printed), recorded_figures() as run.figures[name]:
            numbers = load(name).main(**arguments, out=out)
        runs[name] = numbers, out, printed.getvalue()
        return runs[name]

    run.figures = {}                    # name -> the matplotlib Figures that the script saved
    return run


@contextlib.contextmanager
def recorded_figures():
    """Within, every Figure that is saved goes into the list that this yields."""
    figures, save = [], Figure.savefig

    def savefig(figure, *arguments, **options):
        figures.append(figure)
        save(figure, *arguments, **options)

    with mock.patch.object(Figure, "savefig", savefig):
        yield figures
