"""What an MLP's sizes may be."""

import pytest

from npdiff.models import mlp


@pytest.mark.parametrize(
    "values, message",
    [
        ({"hidden": ()}, "hidden is"),
        ({"hidden": (0,)}, "hidden is"),
        ({"time_dim": 3}, "time_dim is 3"),
        ({"time_dim": 0}, "time_dim is 0"),
        ({"fourier_features": -1}, "fourier_features is -1"),
        ({"data_dim": 0}, "data_dim is 0"),
    ],
)
def test_bad_config_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        mlp.Config(**values)
