"""Prints every array of one_step.npz: name, shape, sum and first number. It needs NumPy alone.

To check a port to another language: read the inputs and params of `mlp/` or `unet/`, run your own training
step, and compare each activation, gradient and update with these. What each name means is in
make_one_step.py.
"""

from pathlib import Path

import numpy as np


def main():
    with np.load(Path(__file__).with_name("one_step.npz"), allow_pickle=False) as file:
        for name in file:
            array = file[name]
            print(f"{name:45} {array.shape!s:18} sum {array.sum():24.16e}   first {array.flat[0]:24.16e}")


if __name__ == "__main__":
    main()
