"""What an MLP's sizes may be."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from npdiff.models import mlp


@pytest.mark.parametrize(
    "values, message",
    [
        ({"hidden": ()}, "hidden is"),
        ({"hidden": (0,)}, "hidden is"),
        ({"hidden": (64.5,)}, r"hidden is \(64\.5,\); it must be a list of integers"),
        ({"hidden": (True,)}, "hidden is"),
        ({"hidden": 64}, "hidden is 64"),
        ({"hidden": "64"}, "hidden is '64'"),
        ({"time_dim": 4.0}, "time_dim is 4.0; it must be an integer"),
        ({"time_dim": True}, "time_dim is True"),
        ({"data_dim": "2"}, "data_dim is '2'"),
        ({"data_dim": None}, "data_dim is None"),
        ({"max_period": 0}, "max_period is 0.0; it must be a positive number"),
        ({"max_period": -1.0}, "max_period is -1.0"),
        ({"max_period": float("nan")}, "max_period is nan"),
        ({"max_period": float("inf")}, "max_period is inf"),
        ({"max_period": "10"}, "max_period is '10'"),
        ({"fourier_scale": float("nan")}, "fourier_scale is nan"),
        ({"fourier_scale": 0.0}, "fourier_scale is 0.0"),
        ({"time_dim": 3}, "time_dim is 3"),
        ({"time_dim": 0}, "time_dim is 0"),
        ({"fourier_features": -1}, "fourier_features is -1"),
        ({"data_dim": 0}, "data_dim is 0"),
    ],
)
def test_bad_config_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        mlp.Config(**values)


def test_integers_of_every_kind_are_sizes():
    config = mlp.Config(hidden=[np.int64(8), np.uint8(9)], time_dim=np.array(4))
    assert config == mlp.Config(hidden=(8, 9), time_dim=4) and hash(config) == hash(mlp.Config(2, (8, 9), 4))
    assert json.loads(json.dumps(asdict(config)))["hidden"] == [8, 9]
