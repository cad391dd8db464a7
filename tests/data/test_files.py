"""A file is written whole or not at all."""

import pytest

from npdiff.data import files
from npdiff.data.files import write_bytes, written_whole


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_new_file_in_a_new_folder(tmp_path):
    path = tmp_path / "new" / "folder" / "file.txt"
    with written_whole(str(path)) as part:
        assert part.parent == path.parent and part != path and not part.exists()
        part.write_text("new")
        assert not path.exists()                        # not before the block has ended
    assert path.read_text() == "new" and names(path.parent) == ["file.txt"]


@pytest.mark.parametrize("name", ["a.npz", "a.tar.gz", "a-1.2.safetensors"])
def test_the_ending_is_kept(tmp_path, name):
    """Libraries choose a format by the ending, or add the ending that they miss."""
    path = tmp_path / name
    with written_whole(path) as part:
        assert part.suffix == path.suffix
        part.write_bytes(b"new")
    assert names(tmp_path) == [name]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("begun", [False, True])
def test_an_exception_leaves_the_old_file(tmp_path, error, begun):
    path = tmp_path / "file"
    write_bytes(path, b"old")
    with pytest.raises(error):
        with written_whole(path) as part:
            if begun:
                part.write_bytes(b"ne")
            raise error
    assert path.read_bytes() == b"old" and names(tmp_path) == ["file"]


def test_an_exception_leaves_no_file_where_there_was_none(tmp_path):
    with pytest.raises(ValueError):
        with written_whole(tmp_path / "file") as part:
            part.write_bytes(b"ne")
            raise ValueError
    assert names(tmp_path) == []


def test_a_failed_rename_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_bytes(path, b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old" and names(tmp_path) == ["file"]


def test_two_writers_at_once_do_not_meet(tmp_path):
    """Each has a path of its own. The one that ends last leaves its file, whole."""
    path = tmp_path / "file"
    with written_whole(path) as first:
        first.write_bytes(b"first, begun")
        with written_whole(path) as second:
            assert second != first
            second.write_bytes(b"second")
        assert path.read_bytes() == b"second" and first.read_bytes() == b"first, begun"
        first.write_bytes(b"first")
    assert path.read_bytes() == b"first" and names(tmp_path) == ["file"]


def test_a_folder_that_cannot_be_made(tmp_path):
    write_bytes(tmp_path / "file", b"old")
    with pytest.raises(OSError, match="file"):
        write_bytes(tmp_path / "file" / "below", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"
