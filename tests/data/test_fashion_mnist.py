"""Fashion-MNIST: the real files, tiny files for everything that can be wrong with one, and the places where
they are looked for.
"""

import gzip
import hashlib
import os
import re
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest

from npdiff.data import fashion_mnist, files
from npdiff.data.idx import Content

REAL = Path(os.environ.get("NPDIFF_DATA") or Path(__file__).parents[3] / "shared" / "data" / "fashion-mnist")
needs_real = pytest.mark.skipif(
    not REAL.is_dir(), reason=f"no Fashion-MNIST at {REAL}; set NPDIFF_DATA to a directory that holds it"
)
IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


def idx(array):
    """The content of an IDX file."""
    return (
        bytes([0, 0, 8, array.ndim])
        + np.array(array.shape, ">u4").tobytes()
        + array.astype(np.uint8).tobytes()
    )


def tiny(n=5, seed=0):
    """n random images and labels: (n, 28, 28) uint8, (n,) uint8."""
    rng = np.random.default_rng(seed)
    return rng.integers(256, size=(n, 28, 28), dtype=np.uint8), rng.integers(10, size=n, dtype=np.uint8)


def write(directory, images, labels, suffix="", prefix="train"):
    """Put the contents of two files, None for neither, into a directory, which is returned."""
    for name, content in ((f"{prefix}-images-idx3-ubyte", images), (f"{prefix}-labels-idx1-ubyte", labels)):
        if content is not None:
            (directory / (name + suffix)).write_bytes(content)
    return directory


def check_refused(match, name, **arguments):
    """load raises a ValueError of one line that begins with the path of the file called `name`.

    Returns the line.
    """
    with pytest.raises(ValueError, match=match) as caught:
        fashion_mnist.load("train", **arguments)
    line = str(caught.value)
    assert re.match(rf"\S*/{name}: ", line) and "\n" not in line
    return line


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch, tmp_path):
    """No test sees the user's cache or environment, and none reaches the network."""
    monkeypatch.delenv("NPDIFF_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "no-cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(fashion_mnist, "BASE_URL", "http://127.0.0.1:9/")


# The real data set.

@needs_real
@pytest.mark.parametrize("split, n, mean", [("train", 60000, 0.2860), ("test", 10000, 0.2868)])
def test_real(split, n, mean, monkeypatch):
    monkeypatch.setenv("NPDIFF_DATA", str(REAL))                       # a place that is verified
    images, labels = fashion_mnist.load(split)
    assert images.shape == (n, 1, 28, 28) and images.dtype == np.float32 and images.flags.c_contiguous
    assert labels.shape == (n,) and labels.dtype == np.int64
    assert images.min() == -1 and images.max() == 1
    assert abs((images.mean(dtype=np.float64) + 1) / 2 - mean) < 1e-4
    assert np.bincount(labels).tolist() == [n // 10] * 10


@needs_real
def test_real_memory():
    """The bytes cost their own size and a few blocks; the floats cost four times that beside them."""
    tracemalloc.start()
    images, labels = fashion_mnist.load_bytes("test", REAL, verify=True)
    _, bytes_peak = tracemalloc.get_traced_memory()
    del images, labels
    tracemalloc.reset_peak()
    fashion_mnist.load("test", REAL)
    _, floats_peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert bytes_peak < 7_840_000 + 5 * files.BLOCK
    assert floats_peak < 5 * 7_840_000 + 5 * files.BLOCK


# Good files.

@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_good(tmp_path, pack, suffix):
    """Plain or gzip, which is told by the content: some programs unpack a file and leave its name."""
    for seed in range(20):
        images, labels = tiny(1 + seed, seed)
        write(tmp_path, pack(idx(images)), pack(idx(labels)), suffix)
        x, y = fashion_mnist.load("train", tmp_path)
        assert x.dtype == np.float32 and x.shape == (1 + seed, 1, 28, 28)
        np.testing.assert_array_equal(
            x[:, 0], ((2 * images.astype(np.float64) - 255) / 255).astype(np.float32)
        )
        np.testing.assert_array_equal(y, labels)
        stored, y = fashion_mnist.load_bytes("train", str(tmp_path))
        assert stored.dtype == np.uint8 and y.dtype == np.int64
        np.testing.assert_array_equal(stored, images)


def test_splits(tmp_path):
    write(tmp_path, *map(idx, tiny(3)))
    write(tmp_path, *map(idx, tiny(2)), prefix="t10k")
    assert (
        len(fashion_mnist.load("train", tmp_path)[1]) == 3
        and len(fashion_mnist.load("test", tmp_path)[1]) == 2
    )
    with pytest.raises(ValueError, match="split is 'valid'; it must be one of train, test"):
        fashion_mnist.load("valid", tmp_path)


def test_scale():
    x = fashion_mnist.to_float(np.arange(256, dtype=np.uint8).reshape(1, 16, 16))
    assert x.shape == (1, 1, 16, 16) and x.dtype == np.float32
    assert x.min() == -1 and x.max() == 1
    # and every byte comes back
    np.testing.assert_array_equal(np.rint((x + 1) * 127.5).ravel(), np.arange(256))


def test_class_names():
    assert len(fashion_mnist.CLASS_NAMES) == 10 and fashion_mnist.CLASS_NAMES[9] == "Ankle boot"


# Bad files: what is wrong with the content of the images or the labels, before it is packed.

BAD = {
    "empty": (IMAGES, lambda x: b"", "ends within its header, which should have 16 bytes"),
    "header cut": (IMAGES, lambda x: x[:15], "ends within its header, which should have 16 bytes"),
    "label header cut": (LABELS, lambda x: x[:7], "ends within its header, which should have 8 bytes"),
    "magic": (
        IMAGES,
        lambda x: b"\0\0\x08\x02" + x[4:],
        "magic number is 0x00000802; .* 3 axes begins with 0x00000803",
    ),
    "label magic": (
        LABELS,
        lambda x: b"\0\0\x08\x03" + x[4:],
        "magic number is 0x00000803; .* 1 axes begins with 0x00000801",
    ),
    "floats": (IMAGES, lambda x: b"\0\0\x0d\x03" + x[4:], "magic number is 0x00000d03"),
    "little endian": (IMAGES, lambda x: b"\x03\x08\0\0" + x[4:], "magic number is 0x03080000"),
    "a web page": (
        IMAGES,
        lambda x: b"<!DOCTYPE html><html>no such page</html>",
        "magic number is 0x3c21444f",
    ),
    "no data": (IMAGES, lambda x: x[:16], "ends after 0 of the 3,920 bytes"),
    "cut": (IMAGES, lambda x: x[:-1], "ends after 3,919 of the 3,920 bytes"),
    "labels cut": (LABELS, lambda x: x[:-1], "ends after 4 of the 5 bytes"),
    "longer": (IMAGES, lambda x: x + b"\0", "goes on after the 3,920 bytes"),
    "labels longer": (LABELS, lambda x: x + b"\0", "goes on after the 5 bytes"),
    "no labels": (LABELS, lambda x: x[:4] + bytes(4), "header says 0; 1 to 1,000,000 labels are expected"),
    "four billion labels": (
        LABELS,
        lambda x: x[:4] + b"\xff" * 4 + x[8:],
        "header says 4294967295; 1 to 1,000,000",
    ),
    "a million labels": (
        LABELS,
        lambda x: x[:4] + (10**6).to_bytes(4) + x[8:],
        "ends after 5 of the 1,000,000 bytes",
    ),
    "no images": (IMAGES, lambda x: x[:4] + bytes(4) + x[8:], "header says 0 x 28 x 28; 5 images of 28 x 28"),
    "more images": (
        IMAGES,
        lambda x: idx(tiny(6)[0]),
        "header says 6 x 28 x 28; 5 images of 28 x 28 are expected, one for each label",
    ),
    "fewer images": (IMAGES, lambda x: idx(tiny(4)[0]), "header says 4 x 28 x 28; 5 images"),
    "four billion images": (
        IMAGES,
        lambda x: x[:4] + b"\xff" * 12 + x[16:],
        "header says 4294967295 x 4294967295 x 4294967295; 5 images",
    ),
    "image size": (
        IMAGES,
        lambda x: idx(np.zeros((5, 32, 32))),
        "header says 5 x 32 x 32; 5 images of 28 x 28",
    ),
    "a label of 10": (LABELS, lambda x: x[:-1] + b"\x0a", "label 4 is 10; labels lie in 0..9"),
    "two bad labels": (LABELS, lambda x: x[:-3] + b"\xff\0\x0a", "label 2 is 255; labels lie in 0..9"),
}


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize("case", BAD)
def test_bad(tmp_path, case, pack):
    name, spoil, match = BAD[case]
    contents = {file: idx(array) for file, array in zip((IMAGES, LABELS), tiny(), strict=True)}
    contents[name] = spoil(contents[name])
    write(tmp_path, pack(contents[IMAGES]), pack(contents[LABELS]), ".gz" if pack is gzip.compress else "")
    check_refused(match, name + (".gz" if pack is gzip.compress else ""), directory=tmp_path)


def a_block_long(content):
    """A gzip of exactly BLOCK bytes: the name in its header makes up the length, and the reader's first block
    ends with it.
    """
    packed = gzip.compress(content)
    return (
        packed[:3]
        + b"\x08"
        + packed[4:10]
        + b"n" * (files.BLOCK - len(packed) - 1)
        + b"\0"
        + packed[10:]
    )


BAD_GZIP = {
    "concatenated": (
        lambda x: gzip.compress(x) + gzip.compress(b""),
        "something follows the end of the gzip data",
    ),
    "split in two": (
        lambda x: gzip.compress(x[:1000]) + gzip.compress(x[1000:]),
        "something follows the end of the gzip data",
    ),
    "padded": (lambda x: gzip.compress(x) + b"\0", "something follows the end of the gzip data"),
    "padded by more than a block": (
        lambda x: gzip.compress(x) + bytes(3 << 20),
        "something follows the end of the gzip data",
    ),
    "padded after a block": (lambda x: a_block_long(x) + b"\0", "something follows the end of the gzip data"),
    "checksum": (
        lambda x: gzip.compress(x)[:-8] + bytes(4) + gzip.compress(x)[-4:],
        "the gzip data is damaged .*incorrect data check",
    ),
    "length": (
        lambda x: gzip.compress(x)[:-1] + b"\x01",
        "the gzip data is damaged .*incorrect length check",
    ),
    "method": (
        lambda x: b"\x1f\x8b\x07" + gzip.compress(x)[3:],
        "the gzip data is damaged .*unknown compression method",
    ),
    "endless name": (
        lambda x: b"\x1f\x8b\x08\x08" + bytes(6) + b"n" * (8 << 20),
        "the gzip data is cut short",
    ),
    "empty blocks": (
        lambda x: gzip.compress(b"")[:10] + b"\0\0\0\xff\xff" * 500_000,
        "the gzip data is cut short",
    ),
}


@pytest.mark.parametrize("case", BAD_GZIP)
def test_bad_gzip(tmp_path, case):
    spoil, match = BAD_GZIP[case]
    images, labels = map(idx, tiny())
    write(tmp_path, spoil(images), labels, ".gz")
    tracemalloc.start()
    check_refused(match, IMAGES + ".gz", directory=tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5 * files.BLOCK


@pytest.mark.parametrize("name", [IMAGES, LABELS])
def test_every_truncation(tmp_path, name):
    """Cut after each of its bytes, plain or gzip, a file is refused."""
    contents = {file: idx(array) for file, array in zip((IMAGES, LABELS), tiny(1), strict=True)}
    for suffix, pack in (("", bytes), (".gz", gzip.compress)):
        path = tmp_path / f"{name}{suffix}"
        write(tmp_path, *contents.values(), suffix)
        whole = pack(contents[name])
        for size in range(len(whole)):
            path.write_bytes(whole[:size])
            check_refused("ends|cut short", path.name, directory=tmp_path)


def test_flipped_bits(tmp_path):
    """A gzip with one wrong bit is refused, or (in the header's time stamp and the like) gives the same
    content. Every byte has its turn.
    """
    images, labels = tiny(1)
    packed = gzip.compress(idx(images), mtime=0)
    write(tmp_path, packed, idx(labels), ".gz")
    harmless = set()
    for bit in [*range(8 * 24), *range(8 * 24, 8 * len(packed), 9)]:
        spoilt = bytearray(packed)
        spoilt[bit // 8] ^= 1 << bit % 8
        (tmp_path / f"{IMAGES}.gz").write_bytes(spoilt)
        try:
            x, _ = fashion_mnist.load_bytes("train", tmp_path)
        except ValueError:
            continue
        assert (x == images).all()
        harmless.add(bit // 8)
    # the gzip header, and five bits that an uncompressed block leaves unused
    assert harmless <= set(range(3, 11))


# Bombs and lies: memory stays bounded, and nothing is decompressed beyond what the header promises and one
# byte.

@pytest.fixture(scope="module")
def zeros():
    """256 MB of zeros as 250 KB of deflate data without an end, to be put behind some other content."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = deflate.compress(bytes(1 << 20)) + deflate.flush(zlib.Z_FULL_FLUSH)
    return block * 256


def gzip_without_end(content, behind):
    deflate = zlib.compressobj(9, zlib.DEFLATED, 31)
    return deflate.compress(content) + deflate.flush(zlib.Z_FULL_FLUSH) + behind


@pytest.mark.parametrize(
    "name, match", [(IMAGES, "goes on after the 3,920 bytes"), (LABELS, "goes on after the 5 bytes")]
)
def test_bomb(tmp_path, monkeypatch, zeros, name, match):
    contents = {file: idx(array) for file, array in zip((IMAGES, LABELS), tiny(), strict=True)}
    write(
        tmp_path,
        *(
            gzip_without_end(content, zeros) if file == name else content
            for file, content in contents.items()
        ),
        ".gz",
    )
    given = {}

    class Counting(Content):
        def read(self, size):
            block = super().read(size)
            given[Path(self.file.name).name] = given.get(Path(self.file.name).name, 0) + len(block)
            return block

    monkeypatch.setattr("npdiff.data.idx.Content", Counting)
    tracemalloc.start()
    check_refused(match, f"{name}.gz", directory=tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5 * files.BLOCK
    assert given[f"{name}.gz"] == len(contents[name]) + 1


def test_bomb_with_a_header_that_fits(tmp_path, zeros):
    """A header may promise a bomb's whole content: it is refused by the labels, before any memory is taken
    for it.
    """
    images, labels = tiny()
    header = b"\0\0\x08\x03" + np.array([300_000, 28, 28], ">u4").tobytes()
    write(tmp_path, gzip_without_end(header, zeros), idx(labels), ".gz")
    tracemalloc.start()
    check_refused("header says 300000 x 28 x 28; 5 images", f"{IMAGES}.gz", directory=tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5 * files.BLOCK


# Where the files are looked for.

@pytest.fixture
def official(monkeypatch, tmp_path):
    """Stand-ins for the official files: their contents by name (50 and 20 images), with the module's digests
    replaced by theirs.
    """
    contents, splits = {}, {}
    for seed, (key, split) in enumerate(fashion_mnist.SPLITS.items()):
        images, labels = map(idx, tiny(50 - 30 * seed, seed))
        contents |= {split.images: images, split.labels: labels}
        digests = {
            "images_sha256": hashlib.sha256(images).hexdigest(),
            "labels_sha256": hashlib.sha256(labels).hexdigest(),
        }
        splits[key] = split._replace(count=50 - 30 * seed, **digests)
    monkeypatch.setattr(fashion_mnist, "SPLITS", splits)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    return contents


@pytest.fixture
def cache(official, tmp_path):
    """The cache, with the official files in it."""
    directory = tmp_path / "xdg" / "npdiff" / "fashion-mnist"
    directory.mkdir(parents=True)
    for name, content in official.items():
        (directory / f"{name}.gz").write_bytes(gzip.compress(content))
    return directory


def test_order(cache, tmp_path, monkeypatch):
    for n, name in ((1, "given"), (2, "environment")):
        (tmp_path / name).mkdir()
        write(tmp_path / name, *map(idx, tiny(n)))
    assert len(fashion_mnist.load("train")[1]) == 50
    monkeypatch.setenv("NPDIFF_DATA", str(tmp_path / "environment"))
    check_refused(
        "header says 2; 50 labels are expected; NPDIFF_DATA must lead to Fashion-MNIST itself", LABELS
    )
    assert len(fashion_mnist.load("train", tmp_path / "given")[1]) == 1
    assert len(fashion_mnist.load("train", tmp_path / "environment")[1]) == 2
    check_refused("header says 1; 50 labels are expected$", LABELS, directory=tmp_path / "given", verify=True)
    monkeypatch.setenv("NPDIFF_DATA", str(cache))
    assert len(fashion_mnist.load("train")[1]) == 50
    monkeypatch.setenv("NPDIFF_DATA", "")                              # as good as unset
    assert fashion_mnist.place() == (cache, "cache")


def test_cache_place(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    default = tmp_path / ".cache" / "npdiff" / "fashion-mnist", "cache"
    for unusable in ("", "relative/path"):
        monkeypatch.setenv("XDG_CACHE_HOME", unusable)
        assert fashion_mnist.place() == default
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert fashion_mnist.place() == default
    assert fashion_mnist.place("~/sets") == (tmp_path / "sets", "argument")


def test_missing(tmp_path, monkeypatch):
    with pytest.raises(
        FileNotFoundError,
        match="nowhere: there is no such directory; it should hold train-labels-idx1-ubyte.gz",
    ):
        fashion_mnist.load("train", tmp_path / "nowhere")
    write(tmp_path, None, idx(tiny()[1]))
    with pytest.raises(
        FileNotFoundError,
        match="it should hold train-images-idx3-ubyte.gz or train-images-idx3-ubyte, and holds neither",
    ):
        fashion_mnist.load("train", tmp_path)
    # no ordinary file: opening it would wait for ever
    os.mkfifo(tmp_path / IMAGES)
    with pytest.raises(FileNotFoundError, match="holds neither"):
        fashion_mnist.load("train", tmp_path)
    monkeypatch.setenv("NPDIFF_DATA", str(tmp_path / "nowhere"))       # and no download in its stead
    with pytest.raises(FileNotFoundError, match="nowhere: there is no such directory"):
        fashion_mnist.load("train")


ALTERED = {
    "one pixel": (
        lambda x: x[:1000] + bytes([x[1000] ^ 1]) + x[1001:],
        gzip.compress,
        "the content is not Fashion-MNIST's",
    ),
    "one pixel, plain": (
        lambda x: x[:1000] + bytes([x[1000] ^ 1]) + x[1001:],
        bytes,
        "the content is not Fashion-MNIST's",
    ),
    "cut": (lambda x: x, lambda x: gzip.compress(x)[:-100], "the gzip data is cut short"),
    "another set": (lambda x: idx(tiny(50, 9)[0]), gzip.compress, "the content is not Fashion-MNIST's"),
    "another size": (lambda x: idx(tiny(49)[0]), gzip.compress, "header says 49 x 28 x 28"),
    "emptied": (lambda x: b"", bytes, "ends within its header"),
}


@pytest.mark.parametrize("case", ALTERED)
def test_altered_cache(cache, official, case):
    """Refused, and not silently repaired: the line says which file, and what to do."""
    spoil, pack, match = ALTERED[case]
    path = cache / f"{IMAGES}.gz"
    path.write_bytes(pack(spoil(official[IMAGES])))
    line = check_refused(match, path.name)
    assert line.startswith(f"{path}: ") and line.endswith("; delete this file, and it is downloaded again")
    assert len(fashion_mnist.load("test")[1]) == 20                    # the other split is not concerned


def test_altered_labels(cache, official):
    content = official[LABELS]
    (cache / f"{LABELS}.gz").write_bytes(content[:-1] + bytes([(content[-1] + 1) % 10]))
    check_refused("the content is not Fashion-MNIST's.*should be .*delete this file", f"{LABELS}.gz")


def test_imports_only_what_it_needs():
    """Reading files needs neither a progress bar nor a network."""
    code = (
        "import sys, npdiff.data.fashion_mnist; "
        "sys.exit(bool({'tqdm', 'urllib.request', 'matplotlib'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0
