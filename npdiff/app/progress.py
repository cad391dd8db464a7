"""Progress of long work: a bar on a terminal, plain lines elsewhere."""

import sys
import time

from tqdm import tqdm


def progress(iterable, total, label, quiet=False):
    """Pass the items on, with a progress bar on a terminal, else (or when quiet) with a plain line at every
    tenth of the way; both on stderr.
    """
    if not quiet and sys.stderr.isatty():
        yield from tqdm(iterable, total=total, desc=label, leave=False)
        return
    start = time.perf_counter()
    for done, item in enumerate(iterable, start=1):
        yield item
        if done * 10 // total > (done - 1) * 10 // total:
            rate = done / (time.perf_counter() - start)
            print(
                f"{label} {done:,}/{total:,}  {rate:,.{0 if rate >= 10 else 2}f} steps/s  "
                f"{(total - done) / rate:.0f} s left",
                file=sys.stderr,
            )
