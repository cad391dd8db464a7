"""Fashion-MNIST: the real files, small files with one fault each, and where the files are looked for."""

import gzip
import os
import re
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path
from typing import Callable, NamedTuple

import numpy as np
import pytest
from fashion import IMAGES, LABELS, REAL, idx, needs_data, random_set, write_set

from npdiff.data import fashion_mnist, files, load_data
from npdiff.data.idx import Content


def check_refused(match, name, **arguments):
    """load raises a ValueError of one line, and the line begins with the path of the file `name`.

    Returns the line.
    """
    with pytest.raises(ValueError, match=match) as caught:
        fashion_mnist.load("train", **arguments)
    line = str(caught.value)
    assert re.match(rf"\S*/{name}: ", line) and "\n" not in line
    return line


# The real data set.

@needs_data
@pytest.mark.parametrize("split, n, mean", [("train", 60000, 0.2860), ("test", 10000, 0.2868)])
def test_real(split, n, mean, monkeypatch):
    monkeypatch.setenv("NPDIFF_DATA", str(REAL))                       # a place that is verified
    images, labels = fashion_mnist.load(split)
    assert images.shape == (n, 1, 28, 28) and images.dtype == np.float32 and images.flags.c_contiguous
    assert labels.shape == (n,) and labels.dtype == np.int64
    assert images.min() == -1 and images.max() == 1
    assert abs((images.mean(dtype=np.float64) + 1) / 2 - mean) < 1e-4
    assert np.bincount(labels).tolist() == [n // 10] * 10


@needs_data
def test_real_memory():
    """The bytes take their own size and a few blocks. The floats take four times as much beside them."""
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
    """Plain or gzip: the content decides, as some programs unpack a file and keep its name."""
    for seed in range(20):
        images, labels = random_set(1 + seed, seed)
        write_set(tmp_path, pack(idx(images)), pack(idx(labels)), suffix)
        x, y = fashion_mnist.load("train", tmp_path)
        assert x.dtype == np.float32 and x.shape == (1 + seed, 1, 28, 28)
        expected = (2 * images.astype(np.float64) - 255) / 255
        np.testing.assert_array_equal(x[:, 0], expected.astype(np.float32))
        np.testing.assert_array_equal(y, labels)
        stored, y = fashion_mnist.load_bytes("train", str(tmp_path))
        assert stored.dtype == np.uint8 and y.dtype == np.int64
        np.testing.assert_array_equal(stored, images)


def test_splits(tmp_path):
    write_set(tmp_path, *map(idx, random_set(3)))
    write_set(tmp_path, *map(idx, random_set(2)), prefix="t10k")
    assert len(fashion_mnist.load("train", tmp_path)[1]) == 3
    assert len(fashion_mnist.load("test", tmp_path)[1]) == 2
    with pytest.raises(ValueError, match="split is 'valid'; it must be one of train, test"):
        fashion_mnist.load("valid", tmp_path)


def test_scale():
    x = fashion_mnist.to_float(np.arange(256, dtype=np.uint8).reshape(1, 16, 16))
    assert x.shape == (1, 1, 16, 16) and x.dtype == np.float32
    assert x.min() == -1 and x.max() == 1
    # from x the byte can be computed
    np.testing.assert_array_equal(np.rint((x + 1) * 127.5).ravel(), np.arange(256))


def test_32_by_32(tmp_path):
    """The images of "fashion-mnist-32" are those of "fashion-mnist" with a black border of two pixels."""
    write_set(tmp_path, *map(idx, random_set()))
    plain, labels = load_data("fashion-mnist", tmp_path).draw(20, np.random.default_rng(0))
    padded, same_labels = load_data("fashion-mnist-32", tmp_path).draw(20, np.random.default_rng(0))
    assert padded.shape == (20, 1, 32, 32) and (labels == same_labels).all()
    np.testing.assert_array_equal(padded, np.pad(plain, [(0, 0), (0, 0), (2, 2), (2, 2)], constant_values=-1))


def test_class_names():
    assert len(fashion_mnist.CLASS_NAMES) == 10 and fashion_mnist.CLASS_NAMES[9] == "Ankle boot"


# Bad files.

class Bad(NamedTuple):
    """A file whose content is replaced by spoil(content), and the error that this must lead to."""
    file: str
    spoil: Callable
    message: str


def starts(head):
    """A function that replaces the first bytes of a content by these."""
    return lambda content: head + content[len(head):]


def says(*sizes):
    """A function that replaces the sizes in the header of a content by these."""
    sizes = np.array(sizes, ">u4").tobytes()
    return lambda content: content[:4] + sizes + content[4 + len(sizes):]


def instead(content):
    """A function that replaces the whole content by this one."""
    return lambda _: content


WEB_PAGE = b"<!DOCTYPE html><html>no such page</html>"
HEADER_CUT = "ends within its header, which should have 16 bytes"
LABEL_HEADER_CUT = "ends within its header, which should have 8 bytes"
MAGIC = "magic number is 0x00000802; .* 3 axes begins with 0x00000803"
LABEL_MAGIC = "magic number is 0x00000803; .* 1 axes begins with 0x00000801"
SIX = "header says 6 x 28 x 28; 5 images of 28 x 28 are expected, one for each label"
HUGE = 2**32 - 1
HUGE_IMAGES = f"header says {HUGE} x {HUGE} x {HUGE}; 5 images"

BAD = {                 # of a set of 5 images and 5 labels
    "empty": Bad(IMAGES, instead(b""), HEADER_CUT),
    "header cut": Bad(IMAGES, lambda content: content[:15], HEADER_CUT),
    "label header cut": Bad(LABELS, lambda content: content[:7], LABEL_HEADER_CUT),
    "magic": Bad(IMAGES, starts(b"\0\0\x08\x02"), MAGIC),
    "label magic": Bad(LABELS, starts(b"\0\0\x08\x03"), LABEL_MAGIC),
    "floats": Bad(IMAGES, starts(b"\0\0\x0d\x03"), "magic number is 0x00000d03"),
    "little endian": Bad(IMAGES, starts(b"\x03\x08\0\0"), "magic number is 0x03080000"),
    "a web page": Bad(IMAGES, instead(WEB_PAGE), "magic number is 0x3c21444f"),
    "no data": Bad(IMAGES, lambda content: content[:16], "ends after 0 of the 3,920 bytes"),
    "cut": Bad(IMAGES, lambda content: content[:-1], "ends after 3,919 of the 3,920 bytes"),
    "labels cut": Bad(LABELS, lambda content: content[:-1], "ends after 4 of the 5 bytes"),
    "longer": Bad(IMAGES, lambda content: content + b"\0", "goes on after the 3,920 bytes"),
    "labels longer": Bad(LABELS, lambda content: content + b"\0", "goes on after the 5 bytes"),
    "no labels": Bad(LABELS, says(0), "header says 0; 1 to 1,000,000 labels are expected"),
    "four billion labels": Bad(LABELS, says(HUGE), f"header says {HUGE}; 1 to 1,000,000"),
    "a million labels": Bad(LABELS, says(10**6), "ends after 5 of the 1,000,000 bytes"),
    "no images": Bad(IMAGES, says(0), "header says 0 x 28 x 28; 5 images of 28 x 28"),
    "more images": Bad(IMAGES, instead(idx(random_set(6)[0])), SIX),
    "fewer images": Bad(IMAGES, instead(idx(random_set(4)[0])), "header says 4 x 28 x 28; 5 images"),
    "four billion images": Bad(IMAGES, says(HUGE, HUGE, HUGE), HUGE_IMAGES),
    "image size": Bad(IMAGES, instead(idx(np.zeros((5, 32, 32)))), "header says 5 x 32 x 32; 5 images of 28"),
    "a label of 10": Bad(LABELS, lambda content: content[:-1] + b"\x0a", "label 4 is 10; labels lie in 0..9"),
    "two bad labels": Bad(LABELS, lambda content: content[:-3] + b"\xff\0\x0a", "label 2 is 255; labels lie"),
}


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize("case", BAD)
def test_bad(tmp_path, case, pack):
    file, spoil, message = BAD[case]
    suffix = ".gz" if pack is gzip.compress else ""
    contents = dict(zip((IMAGES, LABELS), map(idx, random_set()), strict=True))
    contents[file] = spoil(contents[file])
    write_set(tmp_path, pack(contents[IMAGES]), pack(contents[LABELS]), suffix)
    check_refused(message, file + suffix, directory=tmp_path)


def a_block_long(content):
    """A gzip of exactly BLOCK bytes: the first block that the reader takes ends with it.

    The file name in the header of the gzip makes it so long.
    """
    packed = gzip.compress(content)
    name = b"n" * (files.BLOCK - len(packed) - 1) + b"\0"
    return packed[:3] + b"\x08" + packed[4:10] + name + packed[10:]


def wrong_checksum(content):
    packed = gzip.compress(content)
    return packed[:-8] + bytes(4) + packed[-4:]


# A gzip header without an end of its file name, and one followed by blocks without content.
ENDLESS_NAME = b"\x1f\x8b\x08\x08" + bytes(6) + b"n" * (8 << 20)
EMPTY_BLOCKS = gzip.compress(b"")[:10] + b"\0\0\0\xff\xff" * 500_000
FOLLOWS, CUT_SHORT = "something follows the end of the gzip data", "the gzip data is cut short"
DAMAGED = "the gzip data is damaged"

BAD_GZIP = {            # how the images are packed, and the error that this must lead to
    "concatenated": (lambda x: gzip.compress(x) + gzip.compress(b""), FOLLOWS),
    "split in two": (lambda x: gzip.compress(x[:1000]) + gzip.compress(x[1000:]), FOLLOWS),
    "padded": (lambda x: gzip.compress(x) + b"\0", FOLLOWS),
    "padded by more than a block": (lambda x: gzip.compress(x) + bytes(3 << 20), FOLLOWS),
    "padded after a block": (lambda x: a_block_long(x) + b"\0", FOLLOWS),
    "checksum": (wrong_checksum, f"{DAMAGED} .*incorrect data check"),
    "length": (lambda x: gzip.compress(x)[:-1] + b"\x01", f"{DAMAGED} .*incorrect length check"),
    "method": (lambda x: b"\x1f\x8b\x07" + gzip.compress(x)[3:], f"{DAMAGED} .*unknown compression method"),
    "endless name": (instead(ENDLESS_NAME), CUT_SHORT),
    "empty blocks": (instead(EMPTY_BLOCKS), CUT_SHORT),
}


@pytest.mark.parametrize("case", BAD_GZIP)
def test_bad_gzip(tmp_path, case):
    pack, message = BAD_GZIP[case]
    images, labels = map(idx, random_set())
    write_set(tmp_path, pack(images), labels, ".gz")
    tracemalloc.start()
    check_refused(message, IMAGES + ".gz", directory=tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5 * files.BLOCK


@pytest.mark.parametrize("name", [IMAGES, LABELS])
def test_every_truncation(tmp_path, name):
    """A file that ends after any of its bytes but the last is refused, plain or gzip."""
    contents = dict(zip((IMAGES, LABELS), map(idx, random_set(1)), strict=True))
    for suffix, pack in (("", bytes), (".gz", gzip.compress)):
        path = tmp_path / f"{name}{suffix}"
        write_set(tmp_path, *contents.values(), suffix)
        whole = pack(contents[name])
        for size in range(len(whole)):
            path.write_bytes(whole[:size])
            check_refused("ends|cut short", path.name, directory=tmp_path)


def test_flipped_bits(tmp_path):
    """A gzip with one wrong bit is refused, or it gives the same content. Bits of every byte are tried.

    The content is the same where the bit lies in the header and means nothing for it, such as the time.
    """
    images, labels = random_set(1)
    packed = gzip.compress(idx(images), mtime=0)
    write_set(tmp_path, packed, idx(labels), ".gz")
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
    # bytes 3 to 9 belong to the gzip header; byte 10 has five bits that an uncompressed block does not use
    assert harmless <= set(range(3, 11))


# Much data in a small file. Memory stays bounded, and the reader decompresses no more than what the header
# promises and one byte.

@pytest.fixture(scope="module")
def zeros():
    """256 MiB of zeros as 250 KB of deflate data without an end, to follow other data."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = deflate.compress(bytes(1 << 20)) + deflate.flush(zlib.Z_FULL_FLUSH)
    return block * 256


def gzip_without_end(content, more):
    """A gzip of the content, followed by more deflate data."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, 31)
    return deflate.compress(content) + deflate.flush(zlib.Z_FULL_FLUSH) + more


@pytest.mark.parametrize(
    "name, message", [(IMAGES, "goes on after the 3,920 bytes"), (LABELS, "goes on after the 5 bytes")]
)
def test_bomb(tmp_path, monkeypatch, zeros, name, message):
    contents = dict(zip((IMAGES, LABELS), map(idx, random_set()), strict=True))
    size = len(contents[name])
    contents[name] = gzip_without_end(contents[name], zeros)
    write_set(tmp_path, contents[IMAGES], contents[LABELS], ".gz")
    given = {}                                                          # bytes that were read, by file name

    class Counting(Content):
        def read(self, size):
            block = super().read(size)
            file = Path(self.file.name).name
            given[file] = given.get(file, 0) + len(block)
            return block

    monkeypatch.setattr("npdiff.data.idx.Content", Counting)
    tracemalloc.start()
    check_refused(message, f"{name}.gz", directory=tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5 * files.BLOCK
    assert given[f"{name}.gz"] == size + 1


def test_bomb_with_a_header_that_fits(tmp_path, zeros):
    """The header promises all of the content: 300,000 images. There are 5 labels, so it is refused, and no
    memory is taken for the images.
    """
    images, labels = random_set()
    header = b"\0\0\x08\x03" + np.array([300_000, 28, 28], ">u4").tobytes()
    write_set(tmp_path, gzip_without_end(header, zeros), idx(labels), ".gz")
    tracemalloc.start()
    check_refused("header says 300000 x 28 x 28; 5 images", f"{IMAGES}.gz", directory=tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5 * files.BLOCK


# Where the files are looked for.

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
        write_set(tmp_path / name, *map(idx, random_set(n)))
    assert len(fashion_mnist.load("train")[1]) == 50
    monkeypatch.setenv("NPDIFF_DATA", str(tmp_path / "environment"))
    other_set = "header says 2; 50 labels are expected; NPDIFF_DATA must lead to Fashion-MNIST itself"
    check_refused(other_set, LABELS)
    assert len(fashion_mnist.load("train", tmp_path / "given")[1]) == 1
    assert len(fashion_mnist.load("train", tmp_path / "environment")[1]) == 2
    check_refused("header says 1; 50 labels are expected$", LABELS, directory=tmp_path / "given", verify=True)
    monkeypatch.setenv("NPDIFF_DATA", str(cache))
    assert len(fashion_mnist.load("train")[1]) == 50
    monkeypatch.setenv("NPDIFF_DATA", "")                              # the same as unset
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
    no_folder = "nowhere: there is no such directory; it should hold train-labels-idx1-ubyte.gz"
    with pytest.raises(FileNotFoundError, match=no_folder):
        fashion_mnist.load("train", tmp_path / "nowhere")
    write_set(tmp_path, None, idx(random_set()[1]))
    no_file = f"it should hold {IMAGES}.gz or {IMAGES}, and holds neither"
    with pytest.raises(FileNotFoundError, match=no_file):
        fashion_mnist.load("train", tmp_path)
    os.mkfifo(tmp_path / IMAGES)                        # to open a pipe would wait for ever
    with pytest.raises(FileNotFoundError, match="holds neither"):
        fashion_mnist.load("train", tmp_path)
    monkeypatch.setenv("NPDIFF_DATA", str(tmp_path / "nowhere"))        # then nothing is downloaded
    with pytest.raises(FileNotFoundError, match="nowhere: there is no such directory"):
        fashion_mnist.load("train")


# Files that other programs name or place differently.

DOTTED = {IMAGES: "train-images.idx3-ubyte", LABELS: "train-labels.idx1-ubyte"}
PLACES = {
    "dots": lambda name: DOTTED[name],
    "dots, packed": lambda name: f"{DOTTED[name]}.gz",
    "a loader's folders": lambda name: f"FashionMNIST/raw/{name}",
    "the second of them": lambda name: f"raw/{name}",
    "a loader's folders, packed": lambda name: f"FashionMNIST/raw/{name}.gz",
    "a folder of the file's own name": lambda name: f"{name}/{name}",
    "such a folder, with dots": lambda name: f"{DOTTED[name]}/{DOTTED[name]}",
    "such a folder, dots inside": lambda name: f"{name}/{DOTTED[name]}",
}


def write_at(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.mark.parametrize("place", PLACES)
def test_other_names_and_folders(tmp_path, place):
    images, labels = random_set()
    for name, content in ((IMAGES, idx(images)), (LABELS, idx(labels))):
        write_at(tmp_path / PLACES[place](name), content)
    stored, y = fashion_mnist.load_bytes("train", tmp_path)
    np.testing.assert_array_equal(stored, images)
    np.testing.assert_array_equal(y, labels)


def test_the_official_name_is_taken_first_and_others_must_agree(tmp_path):
    (one, labels), (other, _) = random_set(5, 0), random_set(5, 1)
    write_at(tmp_path / LABELS, idx(labels))
    for place in ("dots", "a folder of the file's own name"):
        write_at(tmp_path / PLACES[place](IMAGES), idx(one))
    np.testing.assert_array_equal(fashion_mnist.load_bytes("train", tmp_path)[0], one)
    write_at(tmp_path / PLACES["dots"](IMAGES), idx(other))
    with pytest.raises(ValueError, match=f"{DOTTED[IMAGES]} and {IMAGES}/{IMAGES} differ; it should hold"):
        fashion_mnist.load_bytes("train", tmp_path)
    direct = tmp_path / "direct"
    for place, content in (("dots", one), ("a loader's folders", one)):
        write_at(direct / PLACES[place](IMAGES), idx(content))
    write_set(direct, idx(other), idx(labels))
    np.testing.assert_array_equal(fashion_mnist.load_bytes("train", direct)[0], other)


@pytest.mark.parametrize("name", [IMAGES, f"{LABELS}.gz", DOTTED[IMAGES]])
def test_a_path_to_one_of_the_files(tmp_path, name, monkeypatch):
    images, labels = random_set()
    write_set(tmp_path, idx(images), idx(labels))
    write_at(tmp_path / name, idx(labels if "labels" in name else images))
    np.testing.assert_array_equal(fashion_mnist.load_bytes("train", tmp_path / name)[0], images)
    monkeypatch.setenv("NPDIFF_DATA", str(tmp_path / name))
    assert fashion_mnist.place() == (tmp_path, "environment")


def test_what_was_found_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="and holds neither; it is empty$"):
        fashion_mnist.load("train", tmp_path)
    for name in "abcdefg":
        (tmp_path / name).touch()
    with pytest.raises(FileNotFoundError, match="neither; it holds 'a', 'b', 'c', 'd', 'e' and 2 more$"):
        fashion_mnist.load("train", tmp_path)
    with pytest.raises(FileNotFoundError, match="/a: this is a file; a directory is expected, and it should"):
        fashion_mnist.load("train", tmp_path / "a")


# What is in the files, and whether they have changed.

def test_changed_files_are_read_again(tmp_path):
    def first():
        return load_data("fashion-mnist", tmp_path).draw(1, np.random.default_rng(0))[0]

    write_set(tmp_path, *map(idx, random_set(5, 0)))
    before, data = first(), load_data("fashion-mnist", tmp_path)
    assert load_data("fashion-mnist", tmp_path) is data                 # read once while nothing changes
    write_set(tmp_path, *map(idx, random_set(5, 1)))                    # the same size
    assert (first() != before).any() and load_data("fashion-mnist", tmp_path).digest != data.digest
    assert load_data("moons") is load_data("moons")


def test_garments_are_named_only_where_the_files_are_fashion_mnist(official, tmp_path, monkeypatch):
    other, real = tmp_path / "other", tmp_path / "real"
    other.mkdir()
    real.mkdir()
    write_set(other, *map(idx, random_set(50, 9)))
    write_set(real, gzip.compress(official[IMAGES]), official[LABELS], "")
    for name in ("fashion-mnist", "fashion-mnist-32"):
        assert load_data(name, other).class_names == tuple("0123456789")
        assert load_data(name, real).class_names == fashion_mnist.CLASS_NAMES
        assert load_data(name, real).digest == fashion_mnist.real_digest() != load_data(name, other).digest
    # the labels alone changed
    write_set(other, official[IMAGES], idx(random_set(50, 9)[1]))
    assert load_data("fashion-mnist", other).class_names == tuple("0123456789")
    assert load_data("shapes").digest is None


def one_pixel(content):
    """The content with one pixel changed."""
    return content[:1000] + bytes([content[1000] ^ 1]) + content[1001:]


def cut_gzip(content):
    return gzip.compress(content)[:-100]


NOT_OFFICIAL = "the content is not Fashion-MNIST's"
ALTERED = {             # how the images are changed, how they are packed, and the error
    "one pixel": (one_pixel, gzip.compress, NOT_OFFICIAL),
    "one pixel, plain": (one_pixel, bytes, NOT_OFFICIAL),
    "cut": (bytes, cut_gzip, "the gzip data is cut short"),
    "another set": (instead(idx(random_set(50, 9)[0])), gzip.compress, NOT_OFFICIAL),
    "another size": (instead(idx(random_set(49)[0])), gzip.compress, "header says 49 x 28 x 28"),
    "emptied": (instead(b""), bytes, "ends within its header"),
}


@pytest.mark.parametrize("case", ALTERED)
def test_altered_cache(cache, official, case):
    """It is refused, not replaced without a word. The line names the file and says what to do."""
    spoil, pack, message = ALTERED[case]
    path = cache / f"{IMAGES}.gz"
    path.write_bytes(pack(spoil(official[IMAGES])))
    line = check_refused(message, path.name)
    assert line.startswith(f"{path}: ") and line.endswith("; delete this file, and it is downloaded again")
    assert len(fashion_mnist.load("test")[1]) == 20                    # the other split is whole


def test_altered_labels(cache, official):
    content = official[LABELS]
    (cache / f"{LABELS}.gz").write_bytes(content[:-1] + bytes([(content[-1] + 1) % 10]))
    check_refused("the content is not Fashion-MNIST's.*should be .*delete this file", f"{LABELS}.gz")


def test_imports_only_what_it_needs():
    """Reading files needs neither a progress bar nor a network."""
    unneeded = {"tqdm", "urllib.request", "matplotlib"}
    code = f"import sys, npdiff.data.fashion_mnist; print({unneeded} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr
