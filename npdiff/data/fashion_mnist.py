"""Fashion-MNIST: 70,000 small photographs of garments in ten classes, or any other data set in the same four
files.

Each split is two IDX files, gzipped or plain. An IDX file of bytes is four bytes 0, 0, 8, ndim, then ndim
sizes of four bytes each, big-endian, then one byte for each item, and nothing else. Source: [Xiao, Rasul and
Vollgraf 2017](https://arxiv.org/abs/1708.07747).

The reader trusts no file. It decompresses no more than what the header promises, and one byte to see that
nothing follows. The header may promise only as many images as there are labels, and up to MAX_LABELS labels.
"""

import hashlib
import os
import zlib
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from npdiff.data.files import written_whole

CLASS_NAMES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
               "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
# it speaks no https; the digests below are what makes a download safe
BASE_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
SIDE = 28               # pixels
MAX_LABELS = 1_000_000  # the largest known set in this format has 814,255
BLOCK = 1 << 20         # bytes read, decompressed or received at a time
TIMEOUT = 30            # seconds without a byte, after which a download is given up


class Split(NamedTuple):
    """What one half of Fashion-MNIST is made of; the digests are the SHA-256 of the decompressed files."""
    prefix: str
    count: int
    images_sha256: str
    labels_sha256: str

    @property
    def images(self):
        return f"{self.prefix}-images-idx3-ubyte"

    @property
    def labels(self):
        return f"{self.prefix}-labels-idx1-ubyte"


SPLITS = {
    "train": Split("train", 60_000, "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
                   "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"),
    "test": Split("t10k", 10_000, "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
                  "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"),
}


def load(split, directory=None, verify=False, quiet=False):
    """One split as a network sees it: images (N, 1, 28, 28) float32 in [-1, 1], labels (N,) int64 in 0..9.

    Arguments and errors are those of load_bytes. The 60,000 images of "train" are 188 MB as float32, and 47
    MB more while this function runs; where that is too much, keep the bytes of load_bytes and call to_float
    on each batch.
    """
    images, labels = load_bytes(split, directory, verify, quiet)
    return to_float(images), labels


def to_float(images):
    """The bytes 0..255 on the scale of the models, [-1, 1]:  x = (2 byte - 255) / 255.

    (N, 28, 28) uint8 -> (N, 1, 28, 28) float32
    """
    x = np.multiply(images[:, None], np.float32(2), dtype=np.float32)          # (N, 1, 28, 28)
    # exact so far: only the division rounds
    x -= 255
    x /= 255
    return x


def load_bytes(split, directory=None, verify=False, quiet=False):
    """One split as it is stored: images (N, 28, 28) uint8, labels (N,) int64 in 0..9.

    split is "train" or "test".

    The files are looked for in `directory`; without one in the directory that the environment variable
    NPDIFF_DATA names; without that in the user's cache, into which a missing file is downloaded (with a
    progress bar on a terminal, unless quiet).

    The environment's directory and the cache must hold Fashion-MNIST, to the bit. A directory given here may
    hold any set of this format (MNIST, Kuzushiji-MNIST, ...), unless verify.

    Raises ValueError, naming the file, for anything wrong with a file's content; FileNotFoundError for a
    missing file; OSError for a failed download.
    """
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; it must be one of {', '.join(SPLITS)}")
    directory, source = place(directory)
    official = SPLITS[split]
    if source == "argument" and not verify:
        official = official._replace(count=None, images_sha256=None, labels_sha256=None)
    if source == "cache":
        download_missing(official, directory, quiet)

    path = find(directory, official.labels)
    with naming(path, REMEDY[source]):
        labels = read_labels(path, official)
    path = find(directory, official.images)
    with naming(path, REMEDY[source]):
        images = read_images(path, official._replace(count=len(labels)))
    return images, labels


REMEDY = {"argument": "",
          "environment": "; NPDIFF_DATA must lead to Fashion-MNIST itself, "
                         "other sets are read from a directory given explicitly",
          "cache": "; delete this file, and it is downloaded again"}


def place(directory=None):
    """Where the files are looked for, (Path, source): the first that is set of `directory`, NPDIFF_DATA and
    the cache.

    source is a key of REMEDY.
    """
    if directory is not None:
        return Path(directory).expanduser(), "argument"
    if os.environ.get("NPDIFF_DATA"):
        return Path(os.environ["NPDIFF_DATA"]).expanduser(), "environment"
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # unset, or one that the XDG specification says to ignore
    if not cache.is_absolute():
        cache = Path.home() / ".cache"
    return cache / "npdiff" / "fashion-mnist", "cache"


def find(directory, name):
    """The path of the file `name`, gzipped or plain, in a directory. Raises FileNotFoundError."""
    for path in (directory / f"{name}.gz", directory / name):
        if path.is_file():
            return path
    if not directory.is_dir():
        raise FileNotFoundError(f"{directory}: there is no such directory; "
                                f"it should hold {name}.gz or {name}")
    raise FileNotFoundError(f"{directory}: it should hold {name}.gz or {name}, and holds neither")


@contextmanager
def naming(name, remedy=""):
    """Put the name of a file before, and what to do behind, whatever the reader finds wrong with it."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{name}: {error}{remedy}") from None


# The reader. Its errors say what is wrong; `naming` says with which file.

class Content:
    """The content of an open file, decompressed where the file is gzip, read forward."""

    def __init__(self, file):
        self.file = file
        # 31: gzip, its checksum included
        self.inflate = zlib.decompressobj(wbits=31) if file.peek(2)[:2] == b"\x1f\x8b" else None

    def fill(self, out):
        """Read into `out`, a buffer of bytes, until it is full or the content ends.

        Returns the number of bytes read.
        """
        out, filled = memoryview(out), 0
        while filled < len(out):
            block = self.read(min(BLOCK, len(out) - filled))
            if not block:
                break
            out[filled:filled + len(block)] = block
            filled += len(block)
        return filled

    def read(self, size):
        """Some of the next bytes, at least 1 and at most `size`, or none where the content ends.

        Raises ValueError for damaged gzip data.
        """
        if self.inflate is None:
            return self.file.read(size)
        while not self.inflate.eof:
            packed = self.inflate.unconsumed_tail or self.file.read(BLOCK)
            if not packed:
                raise ValueError("the gzip data is cut short")
            try:
                block = self.inflate.decompress(packed, size)
            except zlib.error as error:
                raise ValueError(f"the gzip data is damaged ({error})") from None
            if block:
                return block
        if self.inflate.unused_data or self.file.peek(1):
            raise ValueError("something follows the end of the gzip data (one member is expected)")
        return b""


def read_idx(path, lowest, highest, needed, sha256=None):
    """The bytes of one IDX file, as an array of the shape that its header gives.

    That shape must lie between the shapes `lowest` and `highest`, axis by axis (`needed` says so in words,
    for the error). With sha256, the whole content must have that digest. Raises ValueError otherwise, and
    unless the content is exactly as long as the header promises.
    """
    with open(path, "rb") as file:
        content = Content(file)
        header = bytearray(4 + 4 * len(lowest))
        if content.fill(header) < len(header):
            raise ValueError(f"it ends within its header, which should have {len(header)} bytes")
        magic, *shape = np.frombuffer(header, ">u4").tolist()
        if magic != 0x800 + len(lowest):
            right = 0x800 + len(lowest)
            raise ValueError(f"the magic number is 0x{magic:08x}; "
                             f"an IDX file of bytes with {len(lowest)} axes begins with 0x{right:08x}")
        if not all(low <= size <= high for low, size, high in zip(lowest, shape, highest, strict=True)):
            raise ValueError(f"the header says {' x '.join(map(str, shape))}; {needed}")
        array = np.empty(shape, np.uint8)
        filled = content.fill(array.reshape(-1))
        if filled < array.size:
            raise ValueError(f"it ends after {filled:,} of the {array.size:,} bytes that its header promises")
        if content.read(1):
            raise ValueError(f"it goes on after the {array.size:,} bytes that its header promises")
    if sha256 is not None:
        digest = hashlib.sha256(header)
        digest.update(array)
        if digest.hexdigest() != sha256:
            raise ValueError("the content is not Fashion-MNIST's "
                             f"(its SHA-256 is {digest.hexdigest()}, and should be {sha256})")
    return array


def read_labels(path, split):
    """The labels of a split, (N,) int64. A Split without count stands for any data set of this format.

    Raises ValueError.
    """
    if split.count is None:
        labels = read_idx(path, (1,), (MAX_LABELS,), f"1 to {MAX_LABELS:,} labels are expected")
    else:
        shape, needed = (split.count,), f"{split.count:,} labels are expected"
        labels = read_idx(path, shape, shape, needed, split.labels_sha256)
    if labels.max() >= len(CLASS_NAMES):
        first = int(np.argmax(labels >= len(CLASS_NAMES)))
        raise ValueError(f"label {first} is {labels[first]}; labels lie in 0..{len(CLASS_NAMES) - 1}")
    return labels.astype(np.int64)


def read_images(path, split):
    """The images of a split, (N, 28, 28) uint8, as many as split.count. Raises ValueError."""
    shape = (split.count, SIDE, SIDE)
    needed = f"{split.count:,} images of {SIDE} x {SIDE} are expected, one for each label"
    return read_idx(path, shape, shape, needed, split.images_sha256)


# The download.

def download_missing(split, directory, quiet=False):
    """Download into `directory` those of a split's two files that it lacks. Errors as those of download."""
    for name, header, read, size in ((split.labels, 8, read_labels, split.count),
                                     (split.images, 16, read_images, split.count * SIDE * SIDE)):
        if not any((directory / file).exists() for file in (name, f"{name}.gz")):
            download(f"{name}.gz", directory, header + size, lambda path, read=read: read(path, split), quiet)


def download(name, directory, content_size, check, quiet=False):
    """Download BASE_URL + name into a directory: all of it, checked, or nothing.

    It goes to a temporary name, may be as long as gzip can make content_size bytes, must pass check(path),
    which raises ValueError, and only then gets its name. Raises ValueError for a wrong content and OSError
    where the connection fails.
    """
    url = BASE_URL + name
    # gzip adds 5 bytes to 16 KB that it cannot compress, 18, and a name
    limit = content_size + content_size // 1000 + 1024
    with written_whole(directory / name) as part, naming(url, "; nothing of it was kept"):
        with open(part, "wb") as file:
            receive(url, file, limit, name, quiet)
        check(part)


def receive(url, file, limit, name, quiet=False):
    """Copy what a URL sends, up to `limit` bytes, into an open file.

    Raises ValueError if it is more, OSError where the connection fails.
    """
    from http.client import HTTPException
    from urllib.error import HTTPError
    from urllib.request import urlopen

    from tqdm import tqdm

    try:
        with urlopen(url, timeout=TIMEOUT) as response:
            length = response.headers.get("Content-Length", "")
            length = int(length) if length.isdecimal() else None
            received = 0
            # None: a bar on terminals only
            with tqdm(desc=name, total=length, unit="B", unit_scale=True, disable=quiet or None) as bar:
                while block := response.read(min(BLOCK, limit + 1 - received)):
                    received += len(block)
                    if max(received, length or 0) > limit:
                        raise ValueError(f"the download is larger than {limit:,} bytes")
                    file.write(block)
                    bar.update(len(block))
            if length is not None and received < length:
                raise OSError(f"it ended after {received:,} of {length:,} bytes")
    except (OSError, HTTPException) as error:
        if isinstance(error, HTTPError):
            error.close()
        raise OSError(f"{url}: the download failed ({error}); nothing of it was kept; "
                      "a directory with the files can be given instead") from None
