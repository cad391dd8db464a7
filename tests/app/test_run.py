"""A run: who writes, and which stops a filmstrip shows."""

from dataclasses import replace

from npdiff.app.pictures import SHOWN
from npdiff.app.run import new_run
from npdiff.backends.numpy import NumpyBackend
from npdiff.models import mlp
from npdiff.recipes import MOONS


class Helper(NumpyBackend):
    """A backend whose process may not write."""
    writes = False


def test_where_writes_is_false_nothing_is_written_or_printed(tmp_path, capsys):
    recipe = replace(MOONS, model=mlp.Config(hidden=(8,), time_dim=4), steps=5, batch_size=8)
    run = new_run(recipe, Helper(), tmp_path / "run")
    before = run.denoiser.theta.copy()
    run.train()
    assert run.denoiser.step == 5 and (run.denoiser.theta != before).any()
    printed = capsys.readouterr()
    assert not list(tmp_path.iterdir()) and printed.out == printed.err == ""


def test_the_filmstrip_of_the_lab():
    """With T = 300 it shows x_t at 300, 200, 120, 60, 20 and 0. A textbook's Fashion-MNIST lab, which counts
    from 0, begins at 299 and shows the same t after that.
    """
    assert [round(share * 300) for share in SHOWN] == [300, 200, 120, 60, 20, 0]
