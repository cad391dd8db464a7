"""Fashion-MNIST: 70,000 small photographs of garments in ten classes.

Source: [Xiao, Rasul and Vollgraf 2017](https://arxiv.org/abs/1708.07747). The format is MNIST's: each split
is two IDX files (npdiff.data.idx), images and labels, gzipped or plain. This module reads other data sets of
the same format too.

The header of the images may promise only as many images as there are labels. The header of the labels may
promise up to MAX_LABELS.
"""

import filecmp
import os
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from npdiff.data.download import download
from npdiff.data.files import naming, stamps
from npdiff.data.idx import header_size, read_idx, sha256

CLASS_NAMES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
               "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
SIDE = 28               # pixels
MAX_LABELS = 1_000_000  # the largest known set in this format has 814,255
BASE_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
# The server has no https. The SHA-256 digests below are what makes a download safe.


class Split(NamedTuple):
    """One half of Fashion-MNIST: its files, and the SHA-256 of each after decompression.

    count and the digests are None for the split of another data set, of which nothing is known.
    """
    prefix: str
    count: int | None
    images_sha256: str | None
    labels_sha256: str | None

    @property
    def images(self):
        """The name of the file of images, without .gz."""
        return f"{self.prefix}-images-idx3-ubyte"

    @property
    def labels(self):
        """The name of the file of labels, without .gz."""
        return f"{self.prefix}-labels-idx1-ubyte"


SPLITS = {
    "train": Split("train", 60_000,
                   "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
                   "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"),
    "test": Split("t10k", 10_000,
                  "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
                  "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"),
}


def load(split, directory=None, verify=False, quiet=False):
    """One split as a network sees it: images (N, 1, 28, 28) float32 in [-1, 1], labels (N,) int64 in 0..9.

    Arguments and errors are those of load_bytes. The 60,000 images of "train" take 188 MB as float32, and 47
    MB more while this function runs. Where that is too much, use load_bytes, and to_float on each batch.
    """
    images, labels = load_bytes(split, directory, verify, quiet)
    return to_float(images), labels


def digest(images, labels):
    """The SHA-256 of the files of these images (N, 28, 28) and labels (N,), with a space between."""
    return f"{sha256(images)} {sha256(labels.astype(np.uint8))}"


def real_digest():
    """The digest of Fashion-MNIST's own training images and labels."""
    return f"{SPLITS['train'].images_sha256} {SPLITS['train'].labels_sha256}"


def version(directory=None):
    """What differs when the training files are changed, see npdiff.data.files.stamps; () without them."""
    directory, _ = place(directory)
    with suppress(FileNotFoundError):
        return stamps(find(directory, name) for name in (SPLITS["train"].images, SPLITS["train"].labels))
    return ()


def to_float(images):
    """Bytes 0..255 on the scale of the networks, [-1, 1].   (N, 28, 28) uint8 -> (N, 1, 28, 28) float32

        x = (2 byte - 255) / 255
    """
    x = np.multiply(images[:, None], np.float32(2), dtype=np.float32)  # (N, 1, 28, 28)
    x -= 255                                                            # exact: only the division rounds
    x /= 255
    return x


def load_bytes(split, directory=None, verify=False, quiet=False):
    """One split as it is stored: images (N, 28, 28) uint8, labels (N,) int64 in 0..9.

    split is "train" or "test". The files are looked for in `directory`. Without one, they are looked for in
    the directory that the environment variable NPDIFF_DATA names. Without that, they are looked for in the
    user's cache; a file that is missing there is downloaded. A terminal then shows a progress bar, unless
    quiet.

    Other names and folders that are known are taken too: see find.

    NPDIFF_DATA and the cache must hold Fashion-MNIST, to the bit. A directory given here may hold any data
    set of this format (MNIST, Kuzushiji-MNIST, ...), unless verify.

    Raises ValueError, with the name of the file, for anything wrong with a file's content; FileNotFoundError
    for a missing file; OSError for a failed download.
    """
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; it must be one of {', '.join(SPLITS)}")
    directory, source = place(directory)
    expected = SPLITS[split]
    if source == "argument" and not verify:
        expected = Split(expected.prefix, count=None, images_sha256=None, labels_sha256=None)
    if source == "cache":
        download_missing(expected, directory, quiet)

    path = find(directory, expected.labels)
    with naming(path, REMEDY[source]):
        labels = read_labels(path, expected)
    path = find(directory, expected.images)
    with naming(path, REMEDY[source]):
        images = read_images(path, expected._replace(count=len(labels)))
    return images, labels


REMEDY = {
    "argument": "",
    "environment": "; NPDIFF_DATA must lead to Fashion-MNIST itself, "
                   "other sets are read from a directory given explicitly",
    "cache": "; delete this file, and it is downloaded again",
}
"""What to do about a bad file, by where it was found."""


def place(directory=None):
    """Where the files are looked for: (Path, source), source a key of REMEDY.

    That is the first of `directory`, NPDIFF_DATA and the user's cache that is set. Where it leads to one of
    the files, the place is that file's directory.
    """
    if directory is not None:
        return folder_of(Path(directory).expanduser()), "argument"
    if os.environ.get("NPDIFF_DATA"):
        return folder_of(Path(os.environ["NPDIFF_DATA"]).expanduser()), "environment"
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not cache.is_absolute():         # unset, or a value that the XDG specification says to ignore
        cache = Path.home() / ".cache"
    return cache / "npdiff" / "fashion-mnist", "cache"


def folder_of(path):
    """The directory of a path that is a file of a split; any other path as it is."""
    name = path.name.removesuffix(".gz").replace(".idx", "-idx")
    known = name in {file for split in SPLITS.values() for file in (split.images, split.labels)}
    return path.parent if known and path.is_file() else path


def find(directory, name):
    """The path of the file `name`, gzipped or plain, in a directory.

    Where it is not there, these are tried: `name` with a dot, as in train-images.idx3-ubyte; the folders raw
    and FashionMNIST/raw, which a loader makes; a folder of the file's own name, which some unpackers make.
    Raises FileNotFoundError for none, ValueError for several that differ.
    """
    names = name, name.replace("-idx", ".idx")
    places = [directory / folder / file for folder in ("", "raw", "FashionMNIST/raw", *names)
              for file in names]
    found = [path for path in map(either, places) if path]
    if not found:
        raise FileNotFoundError(f"{directory}: {what_is_there(directory, name)}")
    official = either(directory / name)
    if not official and not all(filecmp.cmp(found[0], other, shallow=False) for other in found[1:]):
        differing = " and ".join(str(path.relative_to(directory)) for path in found)
        raise ValueError(f"{directory}: {differing} differ; it should hold one of them, as {name}")
    return official or found[0]


def either(path):
    """The file at path.gz, else the one at path, else None."""
    return next((file for file in (path.with_name(f"{path.name}.gz"), path) if file.is_file()), None)


def what_is_there(directory, name):
    """What is wrong with a directory that lacks the file `name`, and what it holds."""
    needed = f"it should hold {name}.gz or {name}"
    if not directory.exists():
        return f"there is no such directory; {needed}"
    if not directory.is_dir():
        return f"this is a file; a directory is expected, and {needed}"
    names = sorted(path.name for path in directory.iterdir())
    held = ", ".join(map(repr, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return f"{needed}, and holds neither; " + (f"it holds {held}" if names else "it is empty")


def read_labels(path, split):
    """The labels of a split, (N,) int64. Raises ValueError."""
    if split.count is None:
        labels = read_idx(path, (1,), (MAX_LABELS,), f"1 to {MAX_LABELS:,} labels are expected")
    else:
        labels = read_idx(path, (split.count,), (split.count,), f"{split.count:,} labels are expected")
    check_digest(labels, split.labels_sha256)
    if labels.max() >= len(CLASS_NAMES):
        first = int(np.argmax(labels >= len(CLASS_NAMES)))
        raise ValueError(f"label {first} is {labels[first]}; labels lie in 0..{len(CLASS_NAMES) - 1}")
    return labels.astype(np.int64)


def read_images(path, split):
    """The images of a split, (N, 28, 28) uint8, as many as split.count. Raises ValueError."""
    shape = (split.count, SIDE, SIDE)
    needed = f"{split.count:,} images of {SIDE} x {SIDE} are expected, one for each label"
    images = read_idx(path, shape, shape, needed)
    check_digest(images, split.images_sha256)
    return images


def check_digest(array, expected):
    """Raise ValueError unless the IDX file of this array has the SHA-256 `expected`; None accepts any."""
    if expected is not None and (digest := sha256(array)) != expected:
        raise ValueError(f"the content is not Fashion-MNIST's (its SHA-256 is {digest}, "
                         f"and should be {expected})")


def download_missing(split, directory, quiet=False):
    """Download into `directory` those of a split's two files that it lacks. Errors as those of download."""
    size = header_size(1) + split.count
    download_unless_there(split.labels, directory, size, lambda path: read_labels(path, split), quiet)
    size = header_size(3) + split.count * SIDE * SIDE
    download_unless_there(split.images, directory, size, lambda path: read_images(path, split), quiet)


def download_unless_there(name, directory, content_size, check, quiet):
    """Download the file `name` into `directory`, unless find finds it there."""
    try:
        find(directory, name)
    except FileNotFoundError:
        download(f"{BASE_URL}{name}.gz", directory / f"{name}.gz", content_size, check, quiet)
