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


class OneBlasThread:
    """Within, BLAS multiplies on one thread. Several threads may be within; the last to leave restores the
    number.

    A small product on many threads is slower than on one, and its bytes may depend on their number.
    """

    def __init__(self):
        self.lock, self.inside, self.limit = threading.Lock(), 0, None

    def __enter__(self):
        with self.lock:
            if self.inside == 0:
                self.limit = blas().limit(limits=1)
            self.inside += 1

    def __exit__(self, *error):
        with self.lock:
            self.inside -= 1
            if self.inside == 0:
                self.limit.restore_original_limits()


one_blas_thread = OneBlasThread()


def after_fork():
    """In a forked child only one thread is left: a pool has no threads there, and a held lock stays held."""
    thread_pool.cache_clear()
    if one_blas_thread.inside:
        one_blas_thread.limit.restore_original_limits()
    one_blas_thread.__init__()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=after_fork)


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
