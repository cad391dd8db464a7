"""The download of Fashion-MNIST, from a server on this machine that answers well or badly: all of a file is
kept, or nothing.
"""

import gzip
import http.server
import io
import socket
import sys
import threading
import tracemalloc

import pytest
from test_fashion_mnist import (  # noqa: F401, two are fixtures
    IMAGES,
    LABELS,
    idx,
    nothing_set,
    official,
    tiny,
    write,
)

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
    """A web server with the official files: answers by path (status, headers, body), the paths asked for, the
    bytes sent.
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
    """Only what is missing is asked for; the second time, nothing is."""
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


def test_plain_files_in_the_cache_will_do(server, official):
    directory, _ = fashion_mnist.place()
    directory.mkdir(parents=True)
    write(directory, official[IMAGES], official[LABELS])
    fashion_mnist.load("train")
    assert server.asked == []


def test_download_of_unknown_length_and_unpacked(server, official):
    server.answers[f"/set/{LABELS}.gz"] = 200, {}, gzip.compress(official[LABELS])
    server.answers[f"/set/{IMAGES}.gz"] = 200, {}, official[IMAGES]
    assert len(fashion_mnist.load("train")[1]) == 50


GOOD = gzip.compress(idx(tiny(50)[0]))      # what the stand-in for the images holds
TOO_LARGE = "the download is larger than 40,279 bytes"
BAD_DOWNLOADS = {
    "wrong content": (
        200,
        {},
        gzip.compress(idx(tiny(50, 9)[0])),
        ValueError,
        "the content is not Fashion-MNIST's",
    ),
    "a web page": (
        200,
        {},
        b"<html>Please log in to this network</html>",
        ValueError,
        "the magic number is 0x3c68746d",
    ),
    "empty": (200, {"Content-Length": "0"}, b"", ValueError, "it ends within its header"),
    "cut": (200, {"Content-Length": str(len(GOOD))}, GOOD[:-50], OSError, "the download failed"),
    "cut, without a length": (200, {}, GOOD[:-50], ValueError, "the gzip data is cut short"),
    "chunks cut": (
        200,
        {"Transfer-Encoding": "chunked"},
        b"ff\r\n" + GOOD[:100],
        OSError,
        "the download failed",
    ),
    "trailing": (200, {}, GOOD + GOOD, ValueError, TOO_LARGE),
    "trailing little": (200, {}, GOOD + b"\0", ValueError, "something follows the end of the gzip data"),
    "bomb": (200, {}, gzip.compress(bytes(8 << 20)), ValueError, "the magic number is 0x00000000"),
    "too large": (200, {"Content-Length": str(1 << 40)}, [bytes(1 << 20)] * 64, ValueError, TOO_LARGE),
    "too large by its own account": (200, {"Content-Length": str(1 << 40)}, GOOD, ValueError, TOO_LARGE),
    "too large, without a length": (200, {}, [bytes(1 << 20)] * 64, ValueError, TOO_LARGE),
    "404": (404, {"Content-Length": "4"}, b"gone", OSError, "the download failed .*404"),
    "500": (500, {}, b"", OSError, "the download failed .*500"),
    "lost on the way": (
        302,
        {"Location": "/set/elsewhere", "Content-Length": "0"},
        b"",
        OSError,
        "the download failed .*404",
    ),
    "no HTTP": (200, {"Content-Length": "0", "X": "y" * 70000}, b"", OSError, "the download failed"),
}


@pytest.mark.parametrize("case", BAD_DOWNLOADS)
def test_bad_download(server, case):
    """One line with the address and what is wrong; the bad file is not kept; the good file before it is; the
    next try succeeds.
    """
    status, headers, body, error, match = BAD_DOWNLOADS[case]
    address = f"/set/{IMAGES}.gz"
    good, server.answers[address] = server.answers[address], (status, headers, body)
    tracemalloc.start()
    with pytest.raises(error, match=match) as caught:
        fashion_mnist.load("train")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    line = str(caught.value)
    assert (
        line.startswith(f"{fashion_mnist.BASE_URL}{IMAGES}.gz: ")
        and "nothing of it was kept" in line
        and "\n" not in line
    )
    assert cached_files() == [f"{LABELS}.gz"]
    assert peak < 8 * files.BLOCK
    server.answers[address] = good
    assert len(fashion_mnist.load("train")[1]) == 50


def test_endless_download_is_hung_up_on(server):
    server.answers[f"/set/{LABELS}.gz"] = 200, {}, (bytes(1 << 20) for _ in range(200))
    with pytest.raises(ValueError, match="the download is larger than 1,082 bytes"):
        fashion_mnist.load("train")
    assert cached_files() == []
    server.answers[f"/set/{LABELS}.gz"] = 404, {}, b""
    # answered only when the endless answer is over
    with pytest.raises(OSError, match="404"):
        fashion_mnist.load("train")
    assert server.hung_up and server.sent < 50 << 20


def test_no_connection(official, monkeypatch):
    # bound and not listening: connections are refused
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setattr(fashion_mnist, "BASE_URL", f"http://127.0.0.1:{taken.getsockname()[1]}/")
        with pytest.raises(
            OSError, match="the download failed .*refused.*; a directory with the files can be given instead"
        ):
            fashion_mnist.load("train")
    assert cached_files() == []


def test_silence(official, monkeypatch):
    """A server that accepts and never answers is given up after TIMEOUT."""
    monkeypatch.setattr(download, "TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(fashion_mnist, "BASE_URL", f"http://127.0.0.1:{silent.getsockname()[1]}/")
        with pytest.raises(OSError, match="the download failed .*timed out"):
            fashion_mnist.load("train")
    assert cached_files() == []


@pytest.mark.parametrize("moment", ["download.receive", "fashion_mnist.read_labels"])
def test_interrupted(server, monkeypatch, moment):
    def interrupt(*arguments):
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


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    "stream, quiet, shown", [(Terminal, False, True), (Terminal, True, False), (io.StringIO, False, False)]
)
def test_progress_bar(server, monkeypatch, stream, quiet, shown):
    monkeypatch.setattr(sys, "stderr", stream())
    fashion_mnist.load("train", quiet=quiet)
    assert (f"{IMAGES}.gz: 100%" in sys.stderr.getvalue()) == shown
    assert shown or sys.stderr.getvalue() == ""
