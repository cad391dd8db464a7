"""The judge: its gradients by the complex step, and its weights on the real test images."""

from dataclasses import replace

import numpy as np
import pytest
from fashion import REAL, idx, needs_data, random_set, write_set
from gradient_checks import assert_exact, spoilt, worst, wrong_tensors

from npdiff.data import fashion_mnist, load_data
from npdiff.evaluation import judge
from npdiff.nn import cross_entropy_backward, cross_entropy_forward
from npdiff.verify.gradcheck import central_difference, check_gradients, complex_step

SMALL = judge.Config(size=4, features=(2, 3), hidden=3, classes=4)


def check_judge(config, rng, derivative=complex_step, backward=judge.backward):
    """check_gradients of the loss of a whole small network, from its images to the cross-entropy.

    For the images and every parameter.
    """
    params = judge.init(config, rng)
    x, labels = rng.standard_normal((3, *config.data_shape)), rng.integers(0, config.classes, 3)

    def forward(x, **params):
        logits, cache = judge.forward(params, x, config)
        loss, loss_cache = cross_entropy_forward(logits, labels)
        return loss, (cache, loss_cache)

    def loss_backward(dloss, caches):
        cache, loss_cache = caches
        dx, grads = backward(dloss * cross_entropy_backward(loss_cache), cache, config)
        return {"x": dx} | grads

    errors = check_gradients(forward, loss_backward, {"x": x} | params, rng, derivative)
    assert set(errors) == {"x", *params}
    return errors


@pytest.mark.parametrize(
    "changes",
    [
        dict(),
        dict(channels=3),
        dict(size=8),
        dict(features=(1, 1), hidden=1),
        dict(features=(4, 2), classes=2),
    ],
)
def test_gradients(changes):
    for seed in range(3):
        assert_exact(check_judge(replace(SMALL, **changes), np.random.default_rng(seed)), changes, seed)


def test_central_difference_agrees():
    assert worst(check_judge(SMALL, np.random.default_rng(0), central_difference)) < 1e-7


@pytest.mark.parametrize(
    "name",
    ["x", "conv1.W", "conv1.b", "conv2.W", "conv2.b", "linear1.W", "linear1.b", "linear2.W", "linear2.b"],
)
def test_planted_error(name):
    """A wrong gradient is outside the bounds of test_gradients, and no other gradient is."""
    wrong = spoilt(judge, name, lambda gradient: 1.0005 * gradient)
    errors = check_judge(SMALL, np.random.default_rng(0), backward=wrong.backward)
    assert wrong_tensors(errors) == [name]


def test_float32_at_full_size():
    config, rng = judge.Config(), np.random.default_rng(0)
    params = {name: array.astype(np.float32) for name, array in judge.init(config, rng).items()}
    assert sum(array.size for array in params.values()) == 161_898
    x = rng.standard_normal((2, 1, 28, 28), np.float32)
    logits, cache = judge.forward(params, x, config)
    loss, loss_cache = cross_entropy_forward(logits, np.array([3, 9]))
    dx, grads = judge.backward(cross_entropy_backward(loss_cache), cache, config)
    assert logits.shape == (2, 10) and dx.shape == x.shape
    assert judge.shapes(grads) == judge.shapes(params)
    assert {array.dtype for array in [logits, loss, dx, *grads.values()]} == {np.dtype(np.float32)}


@pytest.mark.slow
@needs_data
def test_accuracy_on_the_real_test_images():
    images, labels = fashion_mnist.load("test", REAL, verify=True)
    assert judge.class_accuracy(images, labels) >= 0.90
    assert judge.class_accuracy(images[:1000], (labels[:1000] + 1) % 10) < 0.1


def test_weights_are_small_and_whole():
    assert judge.WEIGHTS.stat().st_size < 500_000
    params = judge.load_judge()
    assert params is judge.load_judge()
    assert judge.shapes(params) == judge.shapes(judge.init(judge.Config(), np.random.default_rng(0)))
    for array in params.values():
        assert array.dtype == np.float32 and np.isfinite(array).all() and array.std() > 0


def test_probabilities():
    """Rows that sum to 1. They are the same for all images at once and in chunks, in float32 and float64.

    One image, none, and images far outside [-1, 1] are allowed.
    """
    images = np.random.default_rng(0).uniform(-1, 1, (2 * judge.CHUNK + 1, 1, 28, 28)).astype(np.float32)
    before = images.copy()
    p = judge.classify(images)
    assert p.shape == (len(images), 10) and p.dtype == np.float32 and (p >= 0).all()
    np.testing.assert_allclose(p.sum(1), 1, rtol=1e-6)
    in_chunks = [judge.classify(images[n:n + 50]) for n in range(0, len(images), 50)]
    np.testing.assert_allclose(np.concatenate(in_chunks), p, atol=1e-6)
    np.testing.assert_array_equal(judge.classify(images.astype(np.float64)), p)
    np.testing.assert_array_equal(images, before)
    assert judge.classify(images[:1]).shape == (1, 10) and judge.classify(images[:0]).shape == (0, 10)
    assert np.isfinite(judge.classify(1000 * images[:2])).all()
    assert judge.class_accuracy(images, p.argmax(1)) == 1


def test_features_are_what_the_last_layer_takes():
    images = np.random.default_rng(0).uniform(-1, 1, (judge.CHUNK + 3, 1, 28, 28)).astype(np.float32)
    params, seen = judge.load_judge(), judge.features(images)
    assert seen.shape == (len(images), 64) and seen.dtype == np.float32
    logits, _ = judge.forward(params, images, judge.Config())
    np.testing.assert_allclose(seen @ params["linear2.W"] + params["linear2.b"], logits, atol=1e-4)
    assert judge.features(images[:0]).shape == (0, 64)


def test_the_judge_knows_fashion_mnist_alone(tmp_path):
    """Other files in the same format, and data of another kind, are not compared with garments."""
    write_set(tmp_path, *map(idx, random_set(30)))
    images, why = judge.real_images(load_data("fashion-mnist", tmp_path).digest, 0, 10, tmp_path)
    assert images is None and "no judge" in why and "\n" not in why


@needs_data
def test_real_images(tmp_path):
    (training, test), why = judge.real_images(fashion_mnist.real_digest(), 0, 40, REAL)
    assert why is None and training.shape == test.shape == (40, 1, 28, 28)
    known = {image.tobytes() for image in fashion_mnist.load("test", REAL)[0]}
    assert all(image.tobytes() in known for image in test)
    assert len({image.tobytes() for image in training}) == 40           # without replacement
    for path in REAL.glob("train-*"):
        (tmp_path / path.name).symlink_to(path)
    images, why = judge.real_images(fashion_mnist.real_digest(), 0, 40, tmp_path)
    assert images is None and why.startswith("no comparison with real test images: ") and "t10k-" in why


def test_saved_weights_are_read_back(tmp_path):
    fresh = judge.init(judge.Config(), np.random.default_rng(0))
    params = {name: array.astype(np.float32) for name, array in fresh.items()}
    params["linear1.W"] = np.asfortranarray(params["linear1.W"])
    judge.save_weights(params, tmp_path / "judge.safetensors")
    read = judge.load_weights(tmp_path / "judge.safetensors")
    assert read.keys() == params.keys()
    for name, array in read.items():
        assert array.dtype == np.float32
        assert abs(array - params[name]).max() <= 2**-11 * abs(params[name]).max()


@pytest.mark.parametrize(
    "shape", [(2, 28, 28), (2, 3, 28, 28), (2, 1, 32, 32), (28, 28), (2, 784), (2, 28, 28, 1)]
)
def test_wrong_image_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"the images have shape \(.*\); the judge takes \(N, 1, 28, 28\)"):
        judge.classify(np.zeros(shape, np.float32))


def test_bad_images_are_refused():
    images = np.zeros((2, 1, 28, 28), np.float32)
    images[1, 0, 3, 3] = np.nan
    for bad in (images, np.where(np.isnan(images), np.inf, images), np.zeros(images.shape, np.uint8)):
        with pytest.raises(ValueError, match=r"the judge takes floats in \[-1, 1\]"):
            judge.classify(bad)


@pytest.mark.parametrize("labels", [[0], [0, 10], [-1, 0], [0.0, 1.0], [[0, 1]], 0])
def test_bad_labels_are_refused(labels):
    with pytest.raises(ValueError, match="for 2 samples they must be|a label is"):
        judge.class_accuracy(np.zeros((2, 1, 28, 28)), labels)


def test_no_images_are_refused():
    with pytest.raises(ValueError, match="there are no images"):
        judge.class_accuracy(np.zeros((0, 1, 28, 28)), np.zeros(0, int))


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(hidden=0), "hidden is 0"),
        (dict(classes=0), "classes is 0"),
        (dict(size=30), "size is 30; it must be a multiple of 4"),
        (dict(features=(8,)), r"features is \(8,\)"),
        (dict(features=(8, 0)), r"features is \(8, 0\)"),
    ],
)
def test_bad_config_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        judge.Config(**changes)


def test_forward_refuses_another_size():
    with pytest.raises(ValueError, match=r"shape \(1, 8, 8\); this network takes \(1, 4, 4\)"):
        judge.forward(judge.init(SMALL, np.random.default_rng(0)), np.zeros((2, 1, 8, 8)), SMALL)


def test_bad_weights_are_refused(tmp_path):
    path = tmp_path / "judge.safetensors"
    with pytest.raises(FileNotFoundError, match="judge.safetensors"):
        judge.load_weights(path)
    path.write_bytes(judge.WEIGHTS.read_bytes()[:-1])
    with pytest.raises(ValueError, match="judge.safetensors is damaged"):
        judge.load_weights(path)
    judge.save_weights(judge.init(SMALL, np.random.default_rng(0)), path)
    with pytest.raises(ValueError, match="another network"):
        judge.load_weights(path)
