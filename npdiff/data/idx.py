"""IDX: the file format of [MNIST](https://en.wikipedia.org/wiki/MNIST_database) and of data sets like it.

An IDX file of bytes has a header, then one byte for each item, then nothing else. The header is four bytes
0, 0, 8, ndim, then ndim sizes of four bytes each, big-endian. The file may be gzipped.

The reader trusts no file. The caller says which sizes the header may give, and no memory is taken before they
are checked. No more is decompressed than the header promises, and one byte to see that nothing follows.
The errors say what is wrong; npdiff.data.files.naming adds with which file.
"""

import hashlib
import zlib

import numpy as np

from npdiff.data.files import BLOCK

GZIP_MAGIC = b"\x1f\x8b"    # the first two bytes of gzip data
GZIP = 31                   # zlib's name for it: a window of 2^15 bytes, and a checksum at the end


def read_idx(path, lowest, highest, needed):
    """The bytes of one IDX file: a uint8 array of the shape that the header gives.

    That shape must lie between the shapes `lowest` and `highest`, axis by axis; `needed` says so in words,
    for the error. Raises ValueError for another shape, for damaged gzip data, and where the content is
    shorter or longer than the header promises.
    """
    with open(path, "rb") as file:
        content = Content(file)
        shape = read_header(content, len(lowest))
        if not all(low <= size <= high for low, size, high in zip(lowest, shape, highest, strict=True)):
            raise ValueError(f"the header says {' x '.join(map(str, shape))}; {needed}")
        array = np.empty(shape, np.uint8)
        filled = content.fill(array.reshape(-1))
        if filled < array.size:
            raise ValueError(f"it ends after {filled:,} of the {array.size:,} bytes that its header promises")
        if content.read(1):
            raise ValueError(f"it goes on after the {array.size:,} bytes that its header promises")
    return array


def read_header(content, ndim):
    """The shape, a list of ndim sizes, that the content's header gives. Raises ValueError."""
    header = bytearray(header_size(ndim))
    if content.fill(header) < len(header):
        raise ValueError(f"it ends within its header, which should have {len(header)} bytes")
    magic, *shape = np.frombuffer(header, ">u4").tolist()
    right = magic_number(ndim)
    if magic != right:
        raise ValueError(f"the magic number is 0x{magic:08x}; an IDX file of bytes with {ndim} axes "
                         f"begins with 0x{right:08x}")
    return shape


def header_size(ndim):
    """The bytes of the header: the magic number, and a size for each axis."""
    return 4 + 4 * ndim


def magic_number(ndim):
    """The first four bytes of an IDX file of bytes with ndim axes, as one big-endian integer."""
    return 0x800 + ndim


def sha256(array):
    """The SHA-256, in hexadecimal, of the decompressed IDX file that holds this uint8 array."""
    header = np.array([magic_number(array.ndim), *array.shape], ">u4")
    digest = hashlib.sha256(header.tobytes())
    digest.update(array)
    return digest.hexdigest()


class Content:
    """The content of an open file, read from start to end. Gzip data is decompressed."""

    def __init__(self, file):
        self.file = file
        packed = file.peek(2)[:2] == GZIP_MAGIC
        self.inflate = zlib.decompressobj(wbits=GZIP) if packed else None

    def fill(self, out):
        """Read into `out`, a buffer of bytes, until it is full or the content ends.

        Returns the number of bytes read. Errors as those of read.
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
        """The next bytes: at least 1 and at most `size`, or none where the content ends.

        Raises ValueError where gzip data is damaged or cut, or where something follows it.
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
