"""Randomness: every draw of the project comes from a counter, never from a history.

A generator is addressed by (seed, stream, step). The draw of step k is therefore the same whether a run got there from step 0,
from a checkpoint, or on another backend; nothing about randomness needs saving.
"""

import numpy as np

STREAMS = ("init", "train", "sample", "data", "gradcheck")      # append only: the position is part of the address


def generator(seed, stream, step=0):
    """The random generator at address (seed, stream, step).

    Philox is a counter-based generator (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): its output is a function of a 128-bit key,
    here (seed, stream), and a 256-bit counter, whose highest word is here the step. Each step owns 2^192 blocks of output.

    seed and step are integers in 0..2^64-1, stream one of STREAMS. Raises ValueError otherwise.
    """
    if stream not in STREAMS:
        raise ValueError(f"stream is {stream!r}; it must be one of {', '.join(STREAMS)}")
    for name, value in (("seed", seed), ("step", step)):
        if not 0 <= value < 2**64:
            raise ValueError(f"{name} is {value}; it must lie in 0..2^64-1")
    key = np.array([seed, STREAMS.index(stream)], np.uint64)
    counter = np.array([0, 0, 0, step], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))
