"""Download: fetch one gzipped file over the network, whole and checked, or nothing."""

from npdiff.data.files import BLOCK, naming, written_whole

TIMEOUT = 30            # seconds without a byte, after which a download is given up


def download(url, path, content_size, check, quiet=False):
    """Download a gzipped file of content_size decompressed bytes from url to path.

    It is received under a temporary name, at most as many bytes as gzip can make of content_size. Then
    check(temporary path) must accept it, or raise ValueError. Only then does it get its name. A terminal
    shows a progress bar, unless quiet. Raises ValueError for a wrong content, OSError where the connection
    fails.
    """
    limit = largest_gzip(content_size)
    with written_whole(path) as part, naming(url, "; nothing of it was kept"):
        with open(part, "wb") as file:
            receive(url, file, limit, path.name, quiet)
        check(part)


def largest_gzip(size):
    """The most bytes that gzip makes of `size` bytes.

    It adds 5 bytes to each 16 KB that it cannot compress, which is less than a thousandth, then 18 bytes and
    the file's name.
    """
    return size + size // 1000 + 1024


def receive(url, file, limit, name, quiet=False):
    """Copy what a URL sends, up to `limit` bytes, into an open file. `name` stands before the progress bar.

    Raises ValueError if it is more than limit, OSError where the connection fails.
    """
    from http.client import HTTPException
    from urllib.error import HTTPError
    from urllib.request import urlopen

    from tqdm import tqdm

    hidden = True if quiet else None                    # None: tqdm shows the bar on terminals only
    try:
        with urlopen(url, timeout=TIMEOUT) as response:
            length = response.headers.get("Content-Length", "")
            length = int(length) if length.isdecimal() else None
            received = 0
            with tqdm(desc=name, total=length, unit="B", unit_scale=True, disable=hidden) as bar:
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
