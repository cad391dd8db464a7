"""Progress of long work on stderr: a bar on a terminal, plain lines elsewhere, nothing when quiet."""

import sys
import time

from tqdm import tqdm


def progress(iterable, total, label, quiet=False):
    """Pass the items on: with a progress bar on a terminal, else with a line at every tenth of the way."""
    if quiet:
        yield from iterable
        return
    if sys.stderr.isatty():
        yield from tqdm(iterable, total=total, desc=label, leave=False)
        return
    start = time.perf_counter()
    for done, item in enumerate(iterable, start=1):
        yield item
        if done * 10 // total > (done - 1) * 10 // total:
            rate = done / (time.perf_counter() - start)
            speed = f"{rate:,.{0 if rate >= 10 else 2}f} steps/s  {(total - done) / rate:.0f} s left"
            print(f"{label} {done:,}/{total:,}  {speed}", file=sys.stderr)
