"""What `import npdiff` brings, and what it costs."""

import os
import subprocess
import sys
import time
from pathlib import Path

import npdiff

PACKAGE = Path(npdiff.__file__).parent
FRAMEWORK = "to" + "rch"
OUTER_ROOMS = {"matplotlib", "tqdm", "safetensors", "tyro", "threadpoolctl"}
INNER_ROOMS = ["schedule", "diffusion", "samplers", "nn", "models", "models.mlp", "optim", "gradcheck", "rng", "data", "training", "metrics", "oracle"]


def python(code, *arguments, **environment):
    done = subprocess.run([sys.executable, *arguments, "-c", code], capture_output=True, text=True, env=environment or None)
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
    assert not [path for path in files if FRAMEWORK.encode() in path.read_bytes().lower() or FRAMEWORK in path.name.lower()]


def test_the_mathematics_needs_numpy_alone():
    code = f"import sys, importlib\nfor room in {INNER_ROOMS}: importlib.import_module('npdiff.' + room)\n" \
           f"print(sorted({OUTER_ROOMS} & set(sys.modules)))"
    assert python(code).strip() == "[]"


def test_import_costs_at_most_a_third_more_than_numpy(tmp_path):
    """The best of several tries of each, taken in turns, with bytecode cached as after an installation."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"} | {"PYTHONPYCACHEPREFIX": str(tmp_path)}

    def seconds(module):
        start = time.perf_counter()
        python(f"import {module}", **environment)
        return time.perf_counter() - start

    times = {"numpy": [], "npdiff": []}
    for _ in range(9):
        for module, tries in times.items():
            tries.append(seconds(module))
    assert min(times["npdiff"]) <= 1.3 * min(times["numpy"])
