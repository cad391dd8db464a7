"""Your own data: points from a .npy file; images from a .npy file or a folder of PNGs.

Labels are optional: a file labels.npy beside the images, integers 0, 1, ..., one for each image. Images in a
folder are taken in the order of their names.
"""

import hashlib
import re
from pathlib import Path

import numpy as np

from npdiff.data.dataset import DataSet
from npdiff.data.fashion_mnist import to_float
from npdiff.data.files import naming, stamps


def load_points(path):
    """The points of a .npy file, (N, D) numbers: a DataSet.

    Each coordinate is shifted and scaled to mean 0 and standard deviation 1. Raises ValueError for a file
    that holds something else, OSError where it cannot be read.
    """
    path = given(path, "points.npy")
    array = read_npy(path)
    with naming(path):
        if array.ndim != 2 or array.dtype.kind not in "iuf" or not array.shape[1]:
            raise ValueError(f"it holds {in_words(array)}; points are numbers (N, D), a row for each point")
        check_count(array)
        points = array.astype(np.float64)                                               # (N, D)
        if not np.isfinite(points).all():
            row = int(np.argmin(np.isfinite(points).all(1)))
            raise ValueError(f"row {row} holds nan or inf; every number must be finite")
        same = (points == points[0]).all(0)                                             # (D,)
        if same.any():
            raise ValueError(f"coordinate {int(np.argmax(same))} is the same in all points; leave it out")
        with np.errstate(over="ignore", invalid="ignore"):
            shift, scale = points.mean(0), points.std(0)                                # (D,), (D,)
        if not np.isfinite(scale).all():
            raise ValueError("its numbers are too large: their squares overflow")
        if not scale.all():
            raise ValueError("its numbers are too small: the squares of their differences are zero")
    return from_rows((points - shift) / scale, None, digest(array), shift, scale)


def load_images(path):
    """Square images of bytes, grey or colour, from a .npy file or a folder of PNGs: a DataSet.

    A .npy file holds (N, size, size) or (N, size, size, C), uint8, C = 1 (grey) or 3 (red, green, blue).
    Bytes 0..255 become -1..1. Raises ValueError for other content, OSError where it cannot be read.
    """
    path = given(path, "images.npy, or a folder of PNGs")
    folder = path if path.is_dir() else path.parent
    array = read_pngs(path) if path.is_dir() else read_npy(path)
    with naming(path):
        images = check_images(array)                                                    # (N, C, size, size)
        check_count(images)
    labels = None
    if (folder / "labels.npy").is_file():
        with naming(folder / "labels.npy"):
            if path.is_dir():
                check_order(folder)
            labels = check_labels(read_npy(folder / "labels.npy"), len(images))
    return from_rows(images, labels, digest(images, labels), 127.5, 127.5)


def from_rows(rows, labels, digest, shift, scale):
    """The DataSet that draws from these rows with replacement. Rows of bytes become floats when drawn."""

    def draw(n, rng):
        chosen = rng.integers(0, len(rows), n)
        x0 = rows[chosen]                                                               # (n, ...)
        if x0.dtype == np.uint8:
            x0 = to_float(x0.reshape(-1, *x0.shape[2:])).reshape(x0.shape)
        return x0, None if labels is None else labels[chosen]

    names = () if labels is None else tuple(map(str, range(labels.max() + 1)))
    return DataSet(draw, names, digest, rows.shape[1:], shift, scale)


def version(path):
    """What differs when the file, or a file of the folder or the labels beside it, is changed; () without."""
    path = Path(path or "").expanduser()
    folder = path if path.is_dir() else path.parent
    files = folder.iterdir() if path.is_dir() else (path, folder / "labels.npy")
    return stamps(sorted(file for file in files if file.is_file()))


def given(path, example):
    """The path of the user's data. Raises ValueError if none is given, FileNotFoundError if none is there."""
    if path is None:
        raise ValueError(f"no data is given; give --data, for example {example}")
    path = Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file or folder")
    return path


def read_npy(path):
    """The array in a .npy file. Raises ValueError if it is not one, OSError where it cannot be read."""
    with naming(path), open(path, "rb") as file:
        if file.read(6) != b"\x93NUMPY":
            raise ValueError("it is not a .npy file; numpy.save writes one")
        file.seek(0)
        try:
            return np.load(file, allow_pickle=False)
        except (EOFError, SyntaxError, TypeError) as error:     # what NumPy raises for a spoilt header
            raise ValueError(f"it is damaged ({error})") from None
        except MemoryError as error:
            raise ValueError(f"it is damaged, or too large for this machine ({error})") from None


def read_pngs(folder):
    """The PNGs of a folder in the order of their names: (N, height, width, C) bytes.

    C is 1 if all are grey, else 3. Raises ValueError, with the name of the file, unless all have one size.
    """
    from PIL import Image  # Pillow comes with matplotlib
    names = sorted(path.name for path in folder.iterdir())
    paths = [folder / name for name in names if name.lower().endswith(".png") and not name.startswith(".")]
    if not paths:
        raise ValueError(f"{folder}: it holds no .png file; it holds {', '.join(names[:5]) or 'nothing'}")
    images = []
    for path in paths:
        with naming(path):
            try:
                with Image.open(path, formats=["PNG"]) as picture:
                    images.append(pixels(picture))
            except (OSError, SyntaxError, Image.DecompressionBombError) as error:
                raise ValueError(f"it cannot be read as a PNG ({error})") from None
            if images[-1].shape[:2] != images[0].shape[:2]:
                raise ValueError(f"it has {size_in_words(images[-1])} pixels, and {paths[0].name} has "
                                 f"{size_in_words(images[0])}; all images must have one size")
    C = max(image.shape[2] for image in images)
    return np.stack([np.broadcast_to(image, (*image.shape[:2], C)) for image in images])


def pixels(picture):
    """The bytes of an open PNG: (height, width, 1) if it is grey, else (height, width, 3)."""
    if picture.mode.startswith("I") or picture.mode == "F":
        raise ValueError("it has 16 bits for each colour; 8 are needed")
    if picture.has_transparency_data and picture.convert("RGBA").getchannel("A").getextrema()[0] < 255:
        raise ValueError("it is transparent in places; give it a background")
    grey = picture.mode in ("1", "L", "LA")
    array = np.asarray(picture.convert("L" if grey else "RGB"))
    return array[..., None] if grey else array


def check_images(array):
    """Images as stored, (N, size, size) or (N, size, size, C), as (N, C, size, size). Raises ValueError."""
    needed = "images are bytes (uint8), (N, size, size) or (N, size, size, C) with C = 1 or 3"
    if array.dtype != np.uint8 or array.ndim not in (3, 4):
        raise ValueError(f"it holds {in_words(array)}; {needed}")
    images = array[..., None] if array.ndim == 3 else array                             # (N, H, W, C)
    N, H, W, C = images.shape
    if C not in (1, 3):
        raise ValueError(f"it holds {in_words(array)}; {needed}")
    if not H or H != W:
        raise ValueError(f"its images have {H} x {W} pixels; they must be square: cut or pad them")
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))                           # (N, C, H, W)


def check_labels(labels, N):
    """Labels as int64 (N,). Raises ValueError unless they are integers 0, 1, ..., one for each image."""
    if labels.shape != (N,) or labels.dtype.kind not in "iu":
        raise ValueError(f"it holds {in_words(labels)}; labels are integers ({N},), one for each image")
    if labels.min() < 0:
        raise ValueError(f"label {int(labels.argmin())} is {labels.min()}; labels are 0, 1, ...")
    if labels.max() >= N:
        raise ValueError(f"label {int(labels.argmax())} is {labels.max()}; "
                         f"for {N} images, labels must lie in 0..{N - 1}")
    counts = np.bincount(labels.astype(np.int64))
    if not counts.all():
        raise ValueError(f"no image has the label {int(counts.argmin())}; "
                         "number the classes 0, 1, ... without gaps")
    return labels.astype(np.int64)


def check_order(folder):
    """Raise ValueError if the order of the PNGs' names is not that of the numbers in them."""
    names = sorted(path.name for path in folder.iterdir() if path.suffix.lower() == ".png")
    by_number = sorted(names, key=lambda name: [int(part) for part in re.findall(r"\d+", name)])
    if wrong := [pair for pair in zip(names, by_number, strict=True) if pair[0] != pair[1]]:
        raise ValueError(f"which image has which label? By name {wrong[0][0]} comes where by number "
                         f"{wrong[0][1]} does; give all numbers the same length, as in 007.png")


def check_count(rows):
    """Raise ValueError unless there are at least two rows."""
    if len(rows) < 2:
        raise ValueError(f"it holds {len(rows)} of them; at least 2 are needed")


def digest(*arrays):
    """The SHA-256, in hexadecimal, of arrays with their shapes and dtypes."""
    content = hashlib.sha256()
    for array in arrays:
        if array is not None:
            content.update(f"{array.dtype.str} {array.shape}".encode())
            content.update(np.ascontiguousarray(array))
    return content.hexdigest()


def in_words(array):
    """An array's dtype and shape."""
    return f"{array.dtype} {array.shape}"


def size_in_words(image):
    """An image's height and width."""
    return f"{image.shape[0]} x {image.shape[1]}"
