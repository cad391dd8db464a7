"""The download of Fashion-MNIST from a server on this machine, which answers well or badly.

A file is kept whole, or nothing of it is kept.
"""

import gzip
import http.server
import io
import os
import socket
import sys
import threading
import tracemalloc
from typing import NamedTuple

import pytest
from fashion import IMAGES, LABELS, idx, random_set, write_set

from npdiff.data import download, fashion_mnist, files


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        status, headers, body = self.server.answers.get(self.path, (404, {"Content-Length": "0"}, b""))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        try:
            for block in [body] if isinstance(body, bytes) else body:
                self.wfile.write(block)
                self.server.sent += len(block)
        except ConnectionError:
            self.server.hung_up = True
        self.close_connection = True

    def log_message(self, *arguments):
        return


@pytest.fixture
def server(official, monkeypatch):
    """A web server that has the files of `official`.

    server.answers[path] is what it answers: (status, headers, body). server.asked lists the paths that it was
    asked for, server.sent counts the bytes of all bodies, and server.hung_up says whether a client hung up.
    """
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        server.answers, server.asked, server.sent, server.hung_up = {}, [], 0, False
        for name, content in official.items():
            body = gzip.compress(content)
            server.answers[f"/set/{name}.gz"] = 200, {"Content-Length": str(len(body))}, body
        monkeypatch.setattr(fashion_mnist, "BASE_URL", f"http://127.0.0.1:{server.server_port}/set/")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def cached_files():
    directory, _ = fashion_mnist.place()
    return sorted(path.name for path in directory.iterdir())


def test_download(server, official):
    """Only what is missing is asked for. The second time nothing is."""
    images, labels = fashion_mnist.load_bytes("train")
    assert idx(images) == official[IMAGES] and idx(labels) == official[LABELS]
    assert cached_files() == [f"{IMAGES}.gz", f"{LABELS}.gz"]
    assert server.asked == [f"/set/{LABELS}.gz", f"/set/{IMAGES}.gz"]
    fashion_mnist.load("train")
    assert len(server.asked) == 2
    directory, _ = fashion_mnist.place()
    (directory / f"{IMAGES}.gz").unlink()
    fashion_mnist.load("train")
    assert server.asked[2:] == [f"/set/{IMAGES}.gz"]
    fashion_mnist.load("test")
    assert len(cached_files()) == 4


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_a_download_has_the_mode_of_any_new_file(server, official, tmp_path, mask):
    """So that a cache that is shared can be read by all who share it."""
    before = os.umask(mask)
    try:
        fashion_mnist.load("train")
    finally:
        os.umask(before)
    files = [path for path in tmp_path.rglob("*.gz")]
    assert len(files) >= 2 and {path.stat().st_mode & 0o777 for path in files} == {0o666 & ~mask}


def test_plain_files_in_the_cache_will_do(server, official):
    directory, _ = fashion_mnist.place()
    directory.mkdir(parents=True)
    write_set(directory, official[IMAGES], official[LABELS])
    fashion_mnist.load("train")
    assert server.asked == []


def test_download_of_unknown_length_and_unpacked(server, official):
    server.answers[f"/set/{LABELS}.gz"] = 200, {}, gzip.compress(official[LABELS])
    server.answers[f"/set/{IMAGES}.gz"] = 200, {}, official[IMAGES]
    assert len(fashion_mnist.load("train")[1]) == 50


class Bad(NamedTuple):
    """A bad answer to the request for the images, and the error that it must lead to."""
    error: type
    message: str
    body: bytes | list
    headers: dict = {}
    status: int = 200


GOOD = gzip.compress(idx(random_set(50)[0]))            # the image file that `official` holds
OTHER = gzip.compress(idx(random_set(50, 9)[0]))
WEB_PAGE = b"<html>Please log in to this network</html>"
FIRST_CHUNK = b"ff\r\n" + GOOD[:100]                    # of 255 bytes, it says
ELSEWHERE = {"Location": "/set/elsewhere", "Content-Length": "0"}
MANY = [bytes(1 << 20)] * 64                            # 64 MiB
TERABYTE = {"Content-Length": str(1 << 40)}
EMPTY = {"Content-Length": "0"}
FAILED, TOO_LARGE = "the download failed", "the download is larger than 40,279 bytes"
BAD_DOWNLOADS = {
    "wrong content": Bad(ValueError, "the content is not Fashion-MNIST's", OTHER),
    "a web page": Bad(ValueError, "the magic number is 0x3c68746d", WEB_PAGE),
    "empty": Bad(ValueError, "it ends within its header", b"", EMPTY),
    "cut": Bad(OSError, FAILED, GOOD[:-50], {"Content-Length": str(len(GOOD))}),
    "cut, without a length": Bad(ValueError, "the gzip data is cut short", GOOD[:-50]),
    "a chunk is cut": Bad(OSError, FAILED, FIRST_CHUNK, {"Transfer-Encoding": "chunked"}),
    "twice": Bad(ValueError, TOO_LARGE, GOOD + GOOD),
    "one byte more": Bad(ValueError, "something follows the end of the gzip data", GOOD + b"\0"),
    "zeros": Bad(ValueError, "the magic number is 0x00000000", gzip.compress(bytes(8 << 20))),
    "too large": Bad(ValueError, TOO_LARGE, MANY, TERABYTE),
    "too large by its header alone": Bad(ValueError, TOO_LARGE, GOOD, TERABYTE),
    "too large, without a length": Bad(ValueError, TOO_LARGE, MANY),
    "404": Bad(OSError, f"{FAILED} .*404", b"gone", {"Content-Length": "4"}, 404),
    "500": Bad(OSError, f"{FAILED} .*500", b"", {}, 500),
    "sent to a place without the file": Bad(OSError, f"{FAILED} .*404", b"", ELSEWHERE, 302),
    "not HTTP": Bad(OSError, FAILED, b"", EMPTY | {"X": "y" * 70_000}),
}


@pytest.mark.parametrize("case", BAD_DOWNLOADS)
def test_bad_download(server, case):
    """The error is one line: the address, and what is wrong. The bad file is not kept, and the good file that
    came before it is. The next try succeeds.
    """
    bad, address = BAD_DOWNLOADS[case], f"/set/{IMAGES}.gz"
    good = server.answers[address]
    server.answers[address] = bad.status, bad.headers, bad.body
    tracemalloc.start()
    with pytest.raises(bad.error, match=bad.message) as caught:
        fashion_mnist.load("train")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    line = str(caught.value)
    assert line.startswith(f"{fashion_mnist.BASE_URL}{IMAGES}.gz: ")
    assert "nothing of it was kept" in line and "\n" not in line
    assert cached_files() == [f"{LABELS}.gz"]
    assert peak < 8 * files.BLOCK
    server.answers[address] = good
    assert len(fashion_mnist.load("train")[1]) == 50


def test_an_endless_download_is_broken_off(server):
    server.answers[f"/set/{LABELS}.gz"] = 200, {}, (bytes(1 << 20) for _ in range(200))
    with pytest.raises(ValueError, match="the download is larger than 1,082 bytes"):
        fashion_mnist.load("train")
    assert cached_files() == []
    server.answers[f"/set/{LABELS}.gz"] = 404, {}, b""
    # the server takes one request at a time, so this answer comes when the endless one is over
    with pytest.raises(OSError, match="404"):
        fashion_mnist.load("train")
    assert server.hung_up and server.sent < 50 << 20


def address_of(connection):
    _, port = connection.getsockname()
    return f"http://127.0.0.1:{port}/"


def test_no_connection(official, monkeypatch):
    # this port is taken and nobody listens, so a connection is refused
    message = "the download failed .*refused.*; a directory with the files can be given instead"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setattr(fashion_mnist, "BASE_URL", address_of(taken))
        with pytest.raises(OSError, match=message):
            fashion_mnist.load("train")
    assert cached_files() == []


def test_silence(official, monkeypatch):
    """A server accepts the connection and never answers: the download fails after TIMEOUT."""
    monkeypatch.setattr(download, "TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(fashion_mnist, "BASE_URL", address_of(silent))
        with pytest.raises(OSError, match="the download failed .*timed out"):
            fashion_mnist.load("train")
    assert cached_files() == []


@pytest.mark.parametrize("moment", ["download.receive", "fashion_mnist.read_labels"])
def test_interrupted(server, monkeypatch, moment):
    """Ctrl-C while a file comes in, or while it is checked."""

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(f"npdiff.data.{moment}", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fashion_mnist.load("train")
    assert cached_files() == []


def test_unwritable_cache(server, tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(OSError, match="file"):
        fashion_mnist.load("train")
    assert server.asked == []


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    "stream, quiet, shown",
    [(Terminal, False, True), (Terminal, True, False), (io.StringIO, False, False)],
)
def test_progress_bar(server, monkeypatch, stream, quiet, shown):
    monkeypatch.setattr(sys, "stderr", stream())
    fashion_mnist.load("train", quiet=quiet)
    written = sys.stderr.getvalue()
    if shown:
        assert f"{LABELS}.gz: 100%" in written and f"{IMAGES}.gz: 100%" in written
    else:
        assert written == ""
