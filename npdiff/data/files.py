"""Files: written whole or not at all, and named in what is said about their content."""

import os
import secrets
from contextlib import contextmanager
from pathlib import Path

BLOCK = 1 << 20         # bytes read, decompressed or received at a time


@contextmanager
def written_whole(path):
    """Yields a free path beside `path`, with the same ending, for the caller to write a file to.

    When the block ends, that file is renamed to `path`. If the block raises, that file goes away, and what
    was at `path` stays. The folder is made where it is missing. Raises OSError where that cannot be done.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.part{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path, data):
    """Write these bytes to path, whole."""
    with written_whole(path) as temporary:
        temporary.write_bytes(data)


@contextmanager
def naming(name, remedy=""):
    """A ValueError from the block gets the name of the file in front, and at the end what to do."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{name}: {error}{remedy}") from None


def stamps(paths):
    """The path, size and time of change of each file: a tuple that differs when one is changed."""
    return tuple((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in paths)
