"""Fixtures that the tests of the data sets use."""

import hashlib

import pytest
from fashion import idx, random_set

from npdiff.data import fashion_mnist


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch, tmp_path):
    """No test sees the user's cache or environment, and none reaches the network."""
    monkeypatch.delenv("NPDIFF_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "no-cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(fashion_mnist, "BASE_URL", "http://127.0.0.1:9/")


@pytest.fixture
def official(monkeypatch, tmp_path):
    """Small files in the place of the official ones: their contents by name.

    "train" has 50 images and "test" 20. The digests in the module are replaced by those of these files.
    """
    contents, splits = {}, {}
    for seed, (key, split) in enumerate(fashion_mnist.SPLITS.items()):
        count = (50, 20)[seed]
        images, labels = map(idx, random_set(count, seed))
        contents |= {split.images: images, split.labels: labels}
        splits[key] = split._replace(
            count=count,
            images_sha256=hashlib.sha256(images).hexdigest(),
            labels_sha256=hashlib.sha256(labels).hexdigest(),
        )
    monkeypatch.setattr(fashion_mnist, "SPLITS", splits)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    return contents
