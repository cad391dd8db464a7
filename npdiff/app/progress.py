"""Progress of long work: a bar on a terminal or in a notebook, plain lines elsewhere, nothing when quiet."""

import sys
import time
import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")         # a notebook without ipywidgets gets tqdm's bar of text
    from tqdm.auto import tqdm


def progress(iterable, total, label, quiet=False):
    """Pass the items on: with a bar where one can be shown, else with a line at every tenth of the way."""
    if quiet:
        yield from iterable
        return
    if sys.stderr.isatty() or "ipykernel" in sys.modules:
        yield from tqdm(iterable, total=total, desc=label, leave=False)
        return
    start = time.perf_counter()
    for done, item in enumerate(iterable, start=1):
        yield item
        if done * 10 // total > (done - 1) * 10 // total:
            rate = done / (time.perf_counter() - start)
            speed = f"{rate:,.{0 if rate >= 10 else 2}f} steps/s  {(total - done) / rate:.0f} s left"
            print(f"{label} {done:,}/{total:,}  {speed}", file=sys.stderr)
