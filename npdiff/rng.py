"""Random numbers: every draw has an address, so no draw depends on the draws before it.

The address is (seed, stream, step). Step k draws the same numbers whether a run came there from step 0, from
a checkpoint, or on another backend. No state of a generator has to be saved.
"""

import numpy as np

from npdiff.schedule import whole

STREAMS = ("init", "train", "sample", "data", "gradcheck")  # append only: the position is in the address


def generator(seed, stream, step=0):
    """The NumPy generator at the address (seed, stream, step).

    Philox is a counter-based generator: its output is a function of a 128-bit key, here (seed, stream), and
    of a 256-bit counter, whose highest word is here the step. Each step has 2^192 blocks of output. Source:
    [Salmon et al. 2011](https://doi.org/10.1145/2063384.2063405), "Parallel random numbers: as easy as 1, 2,
    3".

    seed and step are integers in 0..2^64-1, stream is one of STREAMS. Raises ValueError otherwise.
    """
    if stream not in STREAMS:
        raise ValueError(f"stream is {stream!r}; it must be one of {', '.join(STREAMS)}")
    for name, value in (("seed", seed), ("step", step)):
        if whole(value) is None or not 0 <= value < 2**64:
            raise ValueError(f"{name} is {value!r}; it must be an integer in 0..2^64-1")
    key = np.array([seed, STREAMS.index(stream)], np.uint64)
    counter = np.array([0, 0, 0, step], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))
