"""The scripts of examples/, as tests run them: quickly, each once."""

import importlib.util
from pathlib import Path

import numpy as np

SCRIPTS = {path.stem: path for path in sorted((Path(__file__).parents[1] / "examples").glob("*.py"))}
# arguments that make a script quick; one without an entry runs with its defaults
TINY = {
    "00_moons": {"steps": 20, "n": 200},
    "00_moons_torch": {"steps": 20, "n": 200},
    "01_forward_chain": {"walks": 100},
    "04_blunder": {"steps": 1000, "samples": 500},
    "05_two_backends": {"steps": 300, "samples": 100, "dtype": "float64"},
    "06_fashion_lab": {"steps": 4, "samples": 1},
    "07_colour": {"steps": 20, "batch_size": 8, "samples": 2},
    "08_skips": {"steps": 30},
    "09_train_judge": {"epochs": 0.04},
    "12_skipping": {"samples": 300},
    "13_plateau": {"steps": 300, "samples": 200},
    "14_small_steps": {"samples": 300},
    "15_schedules": {"steps": 200, "samples": 100, "num_train_timesteps": 100},
    "16_scheduler_library": {"steps": 500, "samples": 300},
    "18_fresh_noise": {"samples": 300},
}
FILES = {"09_train_judge": {"09_train_judge.safetensors"}}      # what a script writes beside its picture
NO_FLAGS = {"00_moons", "00_moons_torch"}                       # scripts that take no flags
FASHION_MNIST = {"06_fashion_lab", "09_train_judge"}            # scripts that take --data
# of the linear schedule with T = 1000; entry i is t = i + 1
ALPHA_BAR = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))


def load(name):
    """The script as a module, not as __main__."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", SCRIPTS[name])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
