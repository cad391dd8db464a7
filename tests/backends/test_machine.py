"""Threads: BLAS has one inside a step and its old number after it; pools are made late and survive a fork."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from npdiff.backends import machine
from npdiff.backends.machine import blas, one_blas_thread
from npdiff.backends.numpy import NumpyBackend
from npdiff.recipes import SHAPES
from npdiff.training import new_denoiser


@pytest.fixture
def three_threads():
    """BLAS with three threads, whatever the machine has."""
    with blas().limit(limits=3):
        if numbers() != {3}:
            pytest.skip("this BLAS does not let its threads be set")
        yield


def numbers():
    """How many threads each BLAS library in this process has: a set of numbers."""
    return {library["num_threads"] for library in blas().info()}


def test_one_thread_within_and_the_old_number_after(three_threads):
    with one_blas_thread:
        assert numbers() == {1}
        with one_blas_thread:
            assert numbers() == {1}
        assert numbers() == {1}
    assert numbers() == {3}


def test_four_threads_that_predict_leave_blas_as_they_found_it(three_threads, tiny):
    """They enter and leave in any order. The last to leave restores the number of BLAS threads."""
    denoiser, backend, _ = tiny
    x = backend.asarray(np.random.default_rng(0).standard_normal((300, 2)))
    right, wrong = denoiser.predict(x, 5), []

    def predict():
        for _ in range(200):
            if (denoiser.predict(x, 5) != right).any():
                wrong.append(True)

    threads = [threading.Thread(target=predict) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and numbers() == {3} and not one_blas_thread.inside


FORK = """
import os, sys, numpy as np
from dataclasses import replace
from npdiff.backends.machine import one_blas_thread
from npdiff.backends.numpy import NumpyBackend
from npdiff.models import unet
from npdiff.recipes import SHAPES
from npdiff.training import new_denoiser
recipe = replace(SHAPES, model=unet.Config(widths=(4, 8), groups=2, heads=2, time_dim=4, embedding_dim=8))
backend = NumpyBackend(threads=2)
denoiser = new_denoiser(backend, recipe, 0)
x = backend.asarray(np.random.default_rng(0).standard_normal((20, 1, 28, 28)))
before = denoiser.predict(x, 5)
with one_blas_thread:
    child = os.fork()
    if child == 0:
        os._exit(0 if (denoiser.predict(x, 5) == before).all() else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_predicts_after_the_parent_did():
    """The parent has made its pool and holds the BLAS lock. The child has no threads and must not wait."""
    done = subprocess.run([sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORK], timeout=60)
    assert done.returncode == 0


def test_no_pool_before_the_first_image():
    code = "import threading, npdiff.backends.numpy as n; n.NumpyBackend(); print(threading.active_count())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "1\n", done.stderr


def test_a_denoiser_uses_the_threads_it_was_given(monkeypatch):
    asked = []

    def thread_pool(threads):
        asked.append(threads)
        return machine.thread_pool(threads)

    monkeypatch.setattr("npdiff.backends.numpy.thread_pool", thread_pool)
    backend = NumpyBackend(threads=3)
    new_denoiser(backend, SHAPES, 0).predict(np.zeros((9, 1, 28, 28), np.float32), 1)
    assert asked == [3] and "3 thread(s)" in backend.about()
    with pytest.raises(ValueError, match="threads is 0; it must be at least 1"):
        NumpyBackend(threads=0)
