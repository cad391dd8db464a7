"""What `import npdiff` brings, and what it costs."""

import ast
import os
import subprocess
import sys
import time
from pathlib import Path

import npdiff

PACKAGE = Path(npdiff.__file__).parent
FRAMEWORK = "to" + "rch"
OUTER_ROOMS = {"matplotlib", "tqdm", "safetensors", "tyro", "threadpoolctl"}
INNER_ROOMS = [
    "schedule",
    "diffusion",
    "rng",
    "optim",
    "training",
    "samplers",
    "sampling",
    "recipes",
    "nn",
    "models",
    "data",
    "backends.protocols",
    "verify.gradcheck",
    "verify.oracle",
    "evaluation.metrics",
    "evaluation.likelihood",
]
FLOORS = {"nn": 0, "engine": 1, "models": 1, "data": 1, "backends": 2, "verify": 3, "evaluation": 4, "app": 5}
"""A file imports from its own floor and from those below; nn from itself alone."""


def python(code, *arguments, **environment):
    done = subprocess.run(
        [sys.executable, *arguments, "-c", code], capture_output=True, text=True, env=environment or None
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


WALK = """
import importlib, pkgutil, sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if hidden and name.partition(".")[0] == framework:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hide())
import npdiff
names = [module.name for module in pkgutil.walk_packages(npdiff.__path__, "npdiff.")]
for name in names:
    importlib.import_module(name)
print(len(names), [name for name in sys.modules if framework in name.lower()])
"""


def test_no_framework_is_imported_whether_it_is_installed_or_not():
    for hidden in (True, False):
        walked, found = python(f"framework, hidden = {FRAMEWORK!r}, {hidden}\n{WALK}").split(maxsplit=1)
        assert int(walked) > 15 and found.strip() == "[]"


def test_the_word_does_not_stand_in_the_package():
    files = [path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert len(files) > 20
    assert not [
        path
        for path in files
        if FRAMEWORK.encode() in path.read_bytes().lower() or FRAMEWORK in path.name.lower()
    ]


def test_imports_run_downwards():
    """The engine and nn know nothing of what checks, shows or runs them; nn knows nothing but itself."""
    upwards = []
    for path in sorted(PACKAGE.rglob("*.py")):
        room = path.relative_to(PACKAGE).parts[0]
        mine = FLOORS.get(room, FLOORS["engine"])
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module] if isinstance(node, ast.ImportFrom) else (
                [alias.name for alias in node.names] if isinstance(node, ast.Import) else [])
            for name in names:
                if name.startswith("npdiff."):
                    other = name.split(".")[1]
                    if FLOORS.get(other, FLOORS["engine"]) > mine or (room == "nn" and other != "nn"):
                        upwards.append(f"{path.relative_to(PACKAGE)} imports {name}")
    assert not upwards


def test_no_room_is_left_without_a_floor():
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == set(FLOORS) - {"engine"}


def test_the_mathematics_needs_numpy_alone():
    code = f"import sys, importlib\nfor room in {INNER_ROOMS}: importlib.import_module('npdiff.' + room)\n" \
           f"print(sorted({OUTER_ROOMS} & set(sys.modules)))"
    assert python(code).strip() == "[]"


def test_import_costs_at_most_a_third_more_than_numpy(tmp_path):
    """The best of several tries of each, taken in turns, with bytecode cached as after an installation."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"} | {
        "PYTHONPYCACHEPREFIX": str(tmp_path)
    }

    def seconds(module):
        start = time.perf_counter()
        python(f"import {module}", **environment)
        return time.perf_counter() - start

    times = {"numpy": [], "npdiff": []}
    for _ in range(9):
        for module, tries in times.items():
            tries.append(seconds(module))
    assert min(times["npdiff"]) <= 1.3 * min(times["numpy"])
