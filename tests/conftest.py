"""What several test files share."""

import os

# before NumPy is imported: the tests run in as many processes as there are cores, each with one thread
for library in ("OPENBLAS", "OMP"):
    os.environ.setdefault(f"{library}_NUM_THREADS", "1")

import contextlib
import io
from dataclasses import replace
from unittest import mock

import pytest
from example_scripts import FASHION_MNIST, REAL, TINY, load
from matplotlib.figure import Figure

from npdiff.backends.numpy import NumpyBackend
from npdiff.models import mlp
from npdiff.recipes import MOONS
from npdiff.training import new_denoiser


@pytest.fixture
def tiny():
    """-> (denoiser, backend, recipe): a small untrained network for the moons, and 20 training steps."""
    model = mlp.Config(hidden=(8, 8), time_dim=4, fourier_features=2)
    recipe, backend = replace(MOONS, model=model, steps=20, batch_size=16), NumpyBackend()
    return new_denoiser(backend, recipe, 0), backend, recipe


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """run(name) -> what main returned, the folder it wrote to, what it printed; each script runs once."""
    runs = {}

    def run(name):
        if name not in runs:
            out, printed = tmp_path_factory.mktemp(name) / "new" / "folder", io.StringIO()
            arguments = TINY.get(name, {})
            if name == "00_moons_torch":
                pytest.importorskip("torch", reason="torch is not installed: 00_moons_torch.py is not run")
            if name in FASHION_MNIST:
                if not REAL.is_dir():
                    pytest.skip(f"no Fashion-MNIST at {REAL}; set NPDIFF_DATA to a directory that holds it")
                arguments = arguments | {"data": REAL}
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
