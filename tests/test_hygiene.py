"""What `import npdiff` loads, how long it takes, and which file may import which."""

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
    "verify.floor",
    "verify.doctor",
    "evaluation.metrics",
    "evaluation.likelihood",
]
# A file imports from its own floor and from those below. The engine is what lies at the top of npdiff/.
FLOORS = {"nn": 0, "engine": 1, "models": 1, "data": 1, "backends": 2, "verify": 3, "evaluation": 4,
          "trace": 5, "app": 6}


def python(code, **environment):
    """Run the code in a process of its own; what it printed."""
    arguments = [sys.executable, "-c", code]
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment or None)
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
    found = [path for path in files if FRAMEWORK.encode() in path.read_bytes().lower()]
    assert not found and not [path for path in files if FRAMEWORK in path.name.lower()]


def imported(path):
    """The modules of npdiff that a file imports: "npdiff.nn", "npdiff.app.runs", ..."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: names in npdiff begin with npdiff"
            whole_package = node.module == "npdiff"
            yield from (f"npdiff.{alias.name}" for alias in node.names) if whole_package else [node.module]


def may_import(room, other):
    """Whether a file in this room (a folder, or a file at the top) may import from the other room."""
    if room == "nn":
        return other == "nn"
    return FLOORS.get(other, FLOORS["engine"]) <= FLOORS.get(room, FLOORS["engine"])


def test_imports_run_downwards():
    """The engine and nn know nothing of what checks, shows or runs them. nn knows nothing but itself."""
    upwards, seen = [], 0
    for path in sorted(PACKAGE.rglob("*.py")):
        room, *_ = path.relative_to(PACKAGE).parts
        room = "app" if room == "__main__.py" else room         # the command line by another name
        others = [name for name in imported(path) if name.startswith("npdiff.")]
        seen += len(others)
        upwards += [f"{path} imports {name}" for name in others if not may_import(room, name.split(".")[1])]
    assert seen > 100 and not upwards
    assert may_import("app", "nn") and may_import("samplers.py", "data")
    assert not may_import("samplers.py", "app") and not may_import("nn", "schedule")


def test_no_room_is_left_without_a_floor():
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == set(FLOORS) - {"engine"}


def test_the_mathematics_needs_numpy_alone():
    imports = [f"import npdiff.{room}" for room in INNER_ROOMS]
    loaded = f"import sys; print(sorted({OUTER_ROOMS} & set(sys.modules)))"
    assert python("\n".join([*imports, loaded])).strip() == "[]"


def test_import_takes_at_most_a_third_more_than_numpy(tmp_path):
    """The best of nine tries of each, in turns. Bytecode is cached, as after an installation."""
    environment = os.environ | {"PYTHONPYCACHEPREFIX": str(tmp_path)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)

    def seconds(module):
        start = time.perf_counter()
        python(f"import {module}", **environment)
        return time.perf_counter() - start

    times = {"numpy": [], "npdiff": []}
    for _ in range(9):
        for module, tries in times.items():
            tries.append(seconds(module))
    assert min(times["npdiff"]) <= 1.3 * min(times["numpy"])
