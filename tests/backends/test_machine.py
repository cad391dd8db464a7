"""Threads: BLAS has one inside a step and its old number after it; pools are made late and survive a fork."""

import os
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
from tiny_recipes import TINY_SHAPES

from npdiff.backends import machine
from npdiff.backends.machine import blas, one_blas_thread
from npdiff.backends.numpy import NumpyBackend
from npdiff.recipes import SHAPES
from npdiff.training import new_denoiser, train


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


POOLS = """
import multiprocessing, numpy as np
from dataclasses import replace
from npdiff.backends.machine import blas
from npdiff.backends.numpy import NumpyBackend
from npdiff.models import unet
from npdiff.recipes import SHAPES
from npdiff.training import new_denoiser, train
model = unet.Config(widths=(4, 8), groups=2, heads=2, time_dim=4, embedding_dim=8)
recipe = replace(SHAPES, model=model, steps=2, batch_size=12)
backend = NumpyBackend(threads=2)

def predict(x):
    return denoiser.predict(x, 5).tobytes()

def train_copy(denoiser):
    return list(train(denoiser, backend, recipe, 0)), denoiser.predict(x, 5).tobytes()

denoiser = new_denoiser(backend, recipe, 0)
x = backend.asarray(np.random.default_rng(0).standard_normal((16, 1, 28, 28)))
if __name__ == "__main__":
    right = predict(x)
    numbers = [library["num_threads"] for library in blas().info()]
    trained = train_copy(new_denoiser(backend, recipe, 0))
    for method in multiprocessing.get_all_start_methods():
        with multiprocessing.get_context(method).Pool(2) as pool:
            assert pool.map(predict, [x, x]) == [right, right], method
            assert pool.map(train_copy, [denoiser, denoiser]) == [trained, trained], method
    assert [library["num_threads"] for library in blas().info()] == numbers
    print("done")
"""


def test_workers_predict_and_train_however_they_are_started(tmp_path):
    """After an image step in the parent: by fork, by spawn and by forkserver."""
    script = tmp_path / "pools.py"
    script.write_text(POOLS)
    done = subprocess.run([sys.executable, "-W", "ignore::DeprecationWarning", script],
                          capture_output=True, text=True, timeout=120)
    assert done.stdout == "done\n", done.stderr


def test_a_forked_child_is_within_what_its_own_thread_was_within():
    """Two threads are within, and one of them forks. In the child the other one is gone, and the setting is
    taken back when the one leaves.
    """
    value = ["before"]

    def change():
        value.append("within")
        return value.pop

    setting = machine.HeldSetting(change)
    inside, leave = threading.Event(), threading.Event()

    def other():
        with setting:
            inside.set()
            leave.wait()

    thread = threading.Thread(target=other)
    thread.start()
    inside.wait()
    with setting:
        assert value == ["before", "within"] and len(setting.inside) == 2
        setting.after_fork()                                        # what Python calls in the child
        assert value == ["before", "within"] and setting.inside == [threading.get_ident()]
    assert value == ["before"]
    with setting:
        assert value == ["before", "within"]
    assert value == ["before"]
    setting.inside = [thread.ident]                                 # as the parent had it
    value.append("within")
    setting.after_fork()                                            # the thread that forks was not within
    assert value == ["before"] and not setting.inside
    setting.inside = [thread.ident]
    leave.set()
    thread.join()


@pytest.mark.slow
def test_four_threads_that_train_leave_blas_as_they_found_it(three_threads):
    """Each trains a denoiser of its own; the numbers are those of one thread."""
    backend, recipe = NumpyBackend(threads=2), replace(TINY_SHAPES, steps=2, batch_size=9)

    def run():
        denoiser = new_denoiser(backend, recipe, 0)
        losses = list(train(denoiser, backend, recipe, 0))
        return losses, denoiser.export()["params/conv_in.W"].tobytes()

    right, answers = run(), []
    threads = [threading.Thread(target=lambda: answers.append(run())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [right] * 4 and numbers() == {3} and not one_blas_thread.inside


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
