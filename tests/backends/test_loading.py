"""Finding and loading a backend: without an installation, and where a library fails, in one short line."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import npdiff
from npdiff import backends
from npdiff.app.cli import main
from npdiff.backends import load_backend
from npdiff.backends.numpy import NumpyBackend

PACKAGE = Path(npdiff.__file__).parent


@pytest.fixture
def bare(tmp_path):
    """A folder with links to all installed packages but npdiff, and a copy of npdiff's folder: nothing says
    that npdiff is installed.
    """
    for entry in Path(sysconfig.get_paths()["purelib"]).iterdir():
        if "npdiff" not in entry.name and entry.suffix != ".pth":
            (tmp_path / entry.name).symlink_to(entry)
    (tmp_path / "npdiff").symlink_to(PACKAGE)
    return tmp_path


def python(path, *arguments):
    """Python without site-packages, and this folder in its place."""
    return subprocess.run([sys.executable, "-S", *arguments], capture_output=True, text=True, cwd=path,
                          env=os.environ | {"PYTHONPATH": str(path)})


def test_npdiff_runs_from_its_folder_alone(bare):
    code = """
from dataclasses import replace
from npdiff.backends import load_backend
from npdiff.recipes import TEXTBOOK_MOONS as recipe
from npdiff.training import new_denoiser, train
backend = load_backend("numpy")
denoiser = new_denoiser(backend, recipe, 0)
print(len(list(train(denoiser, backend, replace(recipe, steps=3), 0))))
try:
    load_backend("torch")
except ValueError as error:
    print(error)
"""
    done = python(bare, "-c", code)
    assert done.stdout.splitlines() == [
        "3", "backend is 'torch'; it must be one of numpy. "
        "Another is found when its package is installed, npdiff's own by: pip install -e ."], done.stderr


def test_the_command_runs_from_its_folder_alone(bare):
    done = python(bare, "-m", "npdiff", "train", "textbook-moons", "--backend", "torch")
    assert done.returncode == 2
    assert done.stderr.startswith("error: backend is 'torch'; it must be one of numpy.")
    done = python(bare, "-m", "npdiff", "doctor", "textbook-moons")
    assert done.returncode == 0, done.stderr


class Metadata(dict):
    def get_all(self, name, default):
        return [self[name]] if name in self else default


class Distribution:
    def __init__(self, name):
        self.metadata = Metadata({"Name": name, "Provides-Extra": "slate"})


class EntryPoint:
    def __init__(self, name, error, distribution=None):
        self.name, self.error = name, error
        self.dist = distribution and Distribution(distribution)

    def load(self):
        raise self.error


MISSING = ModuleNotFoundError("No module named 'slate'", name="slate")


@pytest.mark.parametrize("error, distribution, message", [
    (MISSING, "npdiff",
     'backend slate needs the package slate, which is not installed: pip install -e ".[slate]"'),
    (MISSING, "other", "backend slate needs the package slate, which is not installed"),
    (MISSING, None, "backend slate needs the package slate, which is not installed"),
    (ImportError("libfoo.so.1: cannot open shared object file\nand more"), "npdiff",
     "backend slate does not load: libfoo.so.1: cannot open shared object file"),
    (OSError(8, "Exec format error"), "npdiff", "backend slate does not load: [Errno 8] Exec format error"),
    (AttributeError("module 'slate' has no attribute 'array'"), "npdiff",
     "backend slate does not load: module 'slate' has no attribute 'array'"),
    (RuntimeError(""), "npdiff", "backend slate does not load: RuntimeError"),
    (SyntaxError("invalid syntax"), "npdiff", "backend slate does not load: invalid syntax"),
    (RuntimeError("\n\n  much " + "longer " * 100), "npdiff", None),
])
def test_a_library_that_does_not_load_is_one_short_line(error, distribution, message, monkeypatch):
    points = [EntryPoint("slate", error, distribution)]
    monkeypatch.setattr(backends, "entry_points", lambda group: points)
    with pytest.raises(ValueError) as refused:
        load_backend("slate")
    said = str(refused.value)
    assert said == message if message else said.startswith("backend slate does not load: much longer")
    assert len(said) < 160 and "\n" not in said
    assert isinstance(load_backend("numpy"), NumpyBackend)          # which needs no entry point


class Failing(NumpyBackend):
    """A backend whose library fails when it looks for a device."""

    def __init__(self, *arguments):
        raise OSError("no driver\nfor this device")


def test_a_backend_that_does_not_start_is_one_short_line(monkeypatch):
    point = EntryPoint("slate", None)
    point.load = lambda: Failing
    monkeypatch.setattr(backends, "entry_points", lambda group: [point])
    with pytest.raises(ValueError, match="^backend slate does not start on gpu: no driver$"):
        load_backend("slate", "gpu")


@pytest.mark.parametrize(
    "device", ["mps", "meta", "cuda:99", "xpu", "vulkan", "abacus", "", "cuda:x", "hpu", "lazy"])
def test_a_device_that_cannot_compute_is_one_short_line_and_writes_nothing(device, tmp_path, capsys):
    pytest.importorskip("torch")
    with pytest.raises(ValueError) as refused:
        load_backend("torch", device)
    said = str(refused.value)
    assert said.startswith(f"device is {device!r}: the torch backend cannot use it: ")
    assert len(said) < 200 and "\n" not in said
    out = tmp_path / "run"
    with pytest.raises(SystemExit) as stop:
        main(["train", "moons", "--steps", "2", "--backend", "torch", "--device", device, "--out", str(out)])
    assert stop.value.code == 2 and not out.exists()
    assert capsys.readouterr().err == f"error: {' '.join(said.split())}\n"
