"""Between a recipe and a run directory: who writes, and which stops a filmstrip shows."""

import os
import signal
import threading
from dataclasses import replace

from npdiff.app.runs import SHOWN, held_back_interrupt, train_and_log
from npdiff.backends.numpy import NumpyBackend
from npdiff.models import mlp
from npdiff.recipes import MOONS
from npdiff.training import new_denoiser


class Helper(NumpyBackend):
    """A backend whose process may not write."""
    writes = False


def test_where_writes_is_false_nothing_is_written_or_printed(tmp_path, capsys):
    recipe = replace(MOONS, model=mlp.Config(hidden=(8,), time_dim=4), steps=5, batch_size=8)
    denoiser = new_denoiser(Helper(), recipe, 0)
    before = denoiser.theta.copy()
    train_and_log(denoiser, Helper(), recipe, 0, tmp_path, None, quiet=False)
    assert denoiser.step == 5 and (denoiser.theta != before).any()
    printed = capsys.readouterr()
    assert not list(tmp_path.iterdir()) and printed.out == printed.err == ""


def test_the_filmstrip_of_the_lab():
    """With T = 300 it shows x_t at 300, 200, 120, 60, 20 and 0. A textbook's Fashion-MNIST lab, which counts
    from 0, begins at 299 and shows the same t after that.
    """
    assert [round(share * 300) for share in SHOWN] == [300, 200, 120, 60, 20, 0]


def test_ctrl_c_is_held_back_in_the_main_thread_alone():
    """Another thread may train too: it may not set a handler, and the one that is there stays."""
    before, failed = signal.getsignal(signal.SIGINT), []

    def other():
        try:
            with held_back_interrupt() as seen:
                assert seen == [] and signal.getsignal(signal.SIGINT) is before
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert not failed
    with held_back_interrupt() as seen:
        os.kill(os.getpid(), signal.SIGINT)
        assert seen == [True]
    assert signal.getsignal(signal.SIGINT) is before
