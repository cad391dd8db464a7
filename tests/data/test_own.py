"""Your own data: what is read comes out in its own numbers, and what cannot be used is named."""

import numpy as np
import pytest
from PIL import Image

from npdiff.data import load_data
from npdiff.recipes import IMAGES, MOONS, POINTS, fitted, varied


def rng():
    return np.random.default_rng(0)


def save(path, array):
    np.save(path, array)
    return path


def png(path, array, **options):
    Image.fromarray(array).save(path, **options)


@pytest.mark.parametrize("dtype", ["float64", "float32", ">f8", "int16", "uint8"])
def test_points_are_rows_of_the_file_on_a_scale_of_their_own(tmp_path, dtype):
    points = (rng().integers(0, 200, (50, 3)) * [1, 1, 0.5]).astype(dtype)
    data = load_data("points", save(tmp_path / "points.npy", points))
    x0, labels = data.draw(400, rng())
    assert x0.shape == (400, 3) and labels is None and data.data_shape == (3,)
    rows = {tuple(row) for row in points.astype(float).round(6)}
    assert {tuple(row) for row in (data.shift + data.scale * x0).round(6)} <= rows
    np.testing.assert_allclose(data.shift, points.astype(float).mean(0), rtol=1e-12)
    everything = (points.astype(float) - data.shift) / data.scale
    np.testing.assert_allclose(everything.std(0), 1, rtol=1e-12)


@pytest.mark.parametrize("colour", [False, True])
def test_images_are_the_same_from_a_file_and_from_a_folder(tmp_path, colour):
    images = rng().integers(0, 256, (12, 8, 8, 3) if colour else (12, 8, 8), np.uint8)
    labels = np.arange(12) % 3
    save(tmp_path / "images.npy", images)
    save(tmp_path / "labels.npy", labels)
    for k, image in enumerate(images):
        png(tmp_path / f"{k:02}.png", image)
    (tmp_path / "notes.txt").write_text("not an image")
    from_file = load_data("images", tmp_path / "images.npy")
    from_folder = load_data("images", tmp_path)
    assert from_file.digest == from_folder.digest and from_file.class_names == ("0", "1", "2")
    x0, drawn = from_folder.draw(100, rng())
    again, _ = from_file.draw(100, rng())
    np.testing.assert_array_equal(x0, again)
    assert x0.shape == (100, 3 if colour else 1, 8, 8) and x0.dtype == np.float32
    stored = images.reshape(12, 8, 8, -1).transpose(0, 3, 1, 2)
    for image, label in zip(x0, drawn):
        row = np.argmin(abs(stored - np.round(127.5 + 127.5 * image)).sum((1, 2, 3)))
        np.testing.assert_array_equal(np.round(127.5 + 127.5 * image), stored[row])
        assert label == labels[row]


def test_pngs_of_every_mode_become_grey_or_colour(tmp_path):
    grey = rng().integers(0, 256, (6, 6), np.uint8)
    Image.fromarray(grey).save(tmp_path / "a.png")
    Image.fromarray(grey).convert("RGBA").save(tmp_path / "b.png")          # opaque
    Image.fromarray(grey).convert("P").save(tmp_path / "c.png")
    x0, _ = load_data("images", tmp_path).draw(30, rng())
    assert x0.shape == (30, 3, 6, 6)
    np.testing.assert_array_equal(np.unique(x0), np.unique((2 * grey.astype(np.float32) - 255) / 255))


def test_other_content_has_another_digest(tmp_path):
    images = rng().integers(0, 256, (12, 8, 8), np.uint8)
    digests = set()
    for k, (array, labels) in enumerate([(images, None), (images ^ 1, None), (images, [0] * 12),
                                         (images, [0, 1] * 6), (images.reshape(48, 4, 4), None)]):
        folder = tmp_path / str(k)
        folder.mkdir()
        save(folder / "images.npy", array)
        if labels:
            save(folder / "labels.npy", np.array(labels))
        digests.add(load_data("images", folder / "images.npy").digest)
    assert len(digests) == 5


def test_the_network_takes_the_sizes_of_the_data(tmp_path):
    points = load_data("points", save(tmp_path / "points.npy", rng().standard_normal((9, 5))))
    assert fitted(POINTS, points).model.data_shape == (5,)
    bytes_ = rng().integers(0, 256, (9, 12, 12, 3), np.uint8)
    images = load_data("images", save(tmp_path / "images.npy", bytes_))
    assert fitted(IMAGES, images).model.data_shape == (3, 12, 12) and not fitted(IMAGES, images).conditional
    assert fitted(MOONS, load_data("moons")) is MOONS
    with pytest.raises(ValueError, match="data_dim is 4; the data has 5"):
        fitted(varied(POINTS, data_dim=4), points)
    with pytest.raises(ValueError, match="size is 12; with 4 levels it must be a multiple of 8"):
        fitted(varied(IMAGES, widths=(16,) * 4), images)


def folder_of(*arrays):
    """A function that makes a folder of PNGs."""
    def make(path):
        path.mkdir()
        for k, array in enumerate(arrays):
            png(path / f"{k}.png", array)
        return path
    return make


def file_of(array):
    """A function that makes x.npy."""
    return lambda path: save(path.with_suffix(".npy"), array)


def text(path):
    path.write_text("1 2 3")
    return path


def cut(path):
    save(path.with_suffix(".npy"), np.zeros((10, 2)))
    whole = path.with_suffix(".npy").read_bytes()
    path.write_bytes(whole[:-20])
    return path


def promising_too_much(path):
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999, 99), }".ljust(117) + b"\n"
    path.write_bytes(b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header)
    return path


def pickled(path):
    np.save(path.with_suffix(".npy"), np.array([{}, 1], object), allow_pickle=True)
    return path.with_suffix(".npy")


GREY, WIDE = np.zeros((4, 4), np.uint8), np.zeros((4, 6), np.uint8)
CLEAR = np.zeros((4, 4, 4), np.uint8)


@pytest.mark.parametrize("name, make, message", [
    ("points", lambda path: None, "no data is given; give --data"),
    ("points", lambda path: path, "there is no such file or folder"),
    ("points", text, "it is not a .npy file"),
    ("points", cut, "x: "),
    ("points", pickled, "allow_pickle"),
    ("points", file_of(np.zeros(4)), r"it holds float64 \(4,\); points are numbers \(N, D\)"),
    ("points", file_of(np.zeros((4, 2), complex)), "complex128"),
    ("points", file_of(np.zeros((4, 2), bool)), "bool"),
    ("points", file_of(np.array([["a", "b"]])), "<U1"),
    ("points", file_of(np.zeros((0, 2))), "it holds 0 of them; at least 2 are needed"),
    ("points", file_of(np.array([[0, 1], [1, np.nan], [np.inf, 0]])), "row 1 holds nan or inf"),
    ("points", file_of(np.array([[0, 1.0], [1, 1.0], [2, 1.0]])), "coordinate 1 is the same in all points"),
    ("points", file_of(np.array([[0, 0.1]] + 49 * [[1, 0.1]])), "coordinate 1 is the same in all points"),
    ("points", file_of(np.array([[0, 1e300], [1, -1e300], [2, 0]])), "too large"),
    ("points", file_of(np.array([[0, 1e-300], [1, -1e-300], [2, 0]])), "too small"),
    ("points", file_of(np.zeros((4, 0))), r"it holds float64 \(4, 0\); points are numbers"),
    ("points", promising_too_much, "x: it is damaged, or too large for this machine"),
    ("images", file_of(np.zeros((4, 0, 0), np.uint8)), "x.npy: its images have 0 x 0 pixels"),
    ("images", lambda path: file_of(np.zeros((4, 8, 8), np.uint8))(path).parent,
     "it holds no .png file; it holds x.npy"),
    ("images", file_of(np.zeros((4, 8, 8))), r"it holds float64 \(4, 8, 8\); images are bytes"),
    ("images", file_of(np.zeros((4, 8, 8, 4), np.uint8)), "C = 1 or 3"),
    ("images", file_of(np.zeros((4, 8, 6), np.uint8)), "8 x 6 pixels; they must be square"),
    ("images", folder_of(), "it holds no .png file"),
    ("images", folder_of(GREY), "it holds 1 of them"),
    ("images", folder_of(WIDE, WIDE), "4 x 6 pixels; they must be square"),
    ("images", folder_of(GREY, WIDE), "1.png: it has 4 x 6 pixels, and 0.png has 4 x 4"),
    ("images", folder_of(GREY, np.zeros((4, 4), np.uint16)), "1.png: it has 16 bits for each colour"),
    ("images", folder_of(GREY, CLEAR), "1.png: it is transparent in places"),
])
def test_what_cannot_be_used_is_named(tmp_path, name, make, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_data(name, make(tmp_path / "x"))


def test_a_hidden_file_is_no_image(tmp_path):
    for name in ("a.png", "b.PNG"):
        png(tmp_path / name, GREY)
    (tmp_path / "._a.png").write_bytes(b"some systems write these")
    assert load_data("images", tmp_path).data_shape == (1, 4, 4)


def test_a_file_that_is_no_png_is_named(tmp_path):
    png(tmp_path / "a.png", GREY)
    (tmp_path / "b.png").write_bytes(b"GIF89a")
    with pytest.raises(ValueError, match="b.png: it cannot be read as a PNG"):
        load_data("images", tmp_path)


@pytest.mark.parametrize("labels, message", [
    (np.zeros(3, int), r"it holds int64 \(3,\); labels are integers \(2,\)"),
    (np.zeros(2), "float64"),
    (np.array([0, -1]), "label 1 is -1"),
    (np.array([0, 7]), "label 1 is 7"),
    (np.array([1, 1]), "no image has the label 0"),
])
def test_labels_that_do_not_fit_are_named(tmp_path, labels, message):
    save(tmp_path / "images.npy", np.zeros((2, 4, 4), np.uint8))
    save(tmp_path / "labels.npy", labels)
    with pytest.raises(ValueError, match=f"labels.npy: .*{message}"):
        load_data("images", tmp_path / "images.npy")


def test_labels_that_may_go_to_other_images_are_refused(tmp_path):
    """By name 10.png comes before 2.png. Whoever numbered the labels may have meant either order."""
    for k in range(11):
        png(tmp_path / f"{k}.png", GREY)
    assert load_data("images", tmp_path).class_names == ()
    save(tmp_path / "labels.npy", np.arange(11) % 2)
    with pytest.raises(ValueError, match="labels.npy: which image has which label.* 10.png comes where"):
        load_data("images", tmp_path)
    for k in range(10):
        (tmp_path / f"{k}.png").rename(tmp_path / f"0{k}.png")
    assert load_data("images", tmp_path).class_names == ("0", "1")


def test_data_that_a_rule_draws_takes_no_files(tmp_path):
    with pytest.raises(ValueError, match="this recipe's data is drawn by a rule"):
        load_data("moons", tmp_path)
