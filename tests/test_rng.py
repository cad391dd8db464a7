"""Random numbers by address: equal addresses draw equal numbers, other addresses draw others."""

import pytest

from npdiff.rng import STREAMS, generator


def test_addresses_are_independent_and_repeat():
    assert generator(1, "train", 2).random(5).tobytes() == generator(1, "train", 2).random(5).tobytes()
    draws = {generator(seed, stream, step).random()
             for seed in (0, 1) for stream in STREAMS for step in (0, 1)}
    assert len(draws) == 4 * len(STREAMS)


@pytest.mark.parametrize(
    "address, message",
    [
        ((-1, "train"), "seed is -1"),
        ((2**64, "train"), "seed is"),
        ((0, "train", -1), "step is -1"),
        ((0, "dreams"), "stream is 'dreams'"),
    ],
)
def test_refuses_addresses(address, message):
    with pytest.raises(ValueError, match=message):
        generator(*address)
