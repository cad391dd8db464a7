"""The machine: its cores, its memory, NumPy's BLAS, and threads that survive a fork."""

import os
import re
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

from threadpoolctl import ThreadpoolController


def cores():
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def thread_pool(threads):
    """The pool of that many threads, made at the first call."""
    return ThreadPoolExecutor(threads)


@cache
def blas():
    """The BLAS libraries in this process. Looking for them takes milliseconds, so it is done once."""
    return ThreadpoolController().select(user_api="blas")


class HeldSetting:
    """A setting of the whole process that holds while at least one thread is within. The last to leave takes
    it back.

    change() makes the setting and returns a function that restores what was there.
    """

    def __init__(self, change):
        self.change, self.lock, self.inside, self.restore = change, threading.Lock(), [], None
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.after_fork)

    def __enter__(self):
        with self.lock:
            if not self.inside:
                self.restore = self.change()
            self.inside.append(threading.get_ident())

    def __exit__(self, *error):
        with self.lock:
            self.inside.remove(threading.get_ident())
            if not self.inside:
                self.restore()

    def after_fork(self):
        """In a forked child only the thread that forked is left, and a held lock would stay held."""
        before, this = self.inside, threading.get_ident()
        self.lock, self.inside = threading.Lock(), [thread for thread in before if thread == this]
        if before and not self.inside:
            self.restore()


# Within, BLAS multiplies on one thread: a small product on many threads is slower than on one, and its bytes
# may depend on their number.
one_blas_thread = HeldSetting(lambda: blas().limit(limits=1).restore_original_limits)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=thread_pool.cache_clear)         # a pool has no threads in the child


def blas_in_words():
    """The BLAS that NumPy multiplies matrices with, and its version."""
    def words(library):
        return f"{library['internal_api']} {library['version']} ({library.get('architecture', 'unknown')})"

    return ", ".join(map(words, blas().info()))


def host_peak_memory():
    """The most memory that this process has had resident, in bytes."""
    if sys.platform == "linux":                     # getrusage would also count what the parent process had
        status = Path("/proc/self/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024
    import resource
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
