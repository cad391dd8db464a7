"""Whole image networks against the complex step, every element; planted errors; what they refuse."""

import numpy as np
import pytest

from npdiff.models import convnet, unet
from npdiff.verify.gradcheck import check_gradients

TENSOR, ELEMENT = 1e-13, 1e-10


def check_network(model, config, labels, rng, images=2, backward=None):
    """check_gradients of a network with respect to its input and every parameter.

    All parameters move off their starting values: zeros hide errors.
    """
    params = {
        name: array + 0.3 * rng.standard_normal(array.shape)
        for name, array in model.init(config, rng).items()
    }
    x, t = rng.standard_normal((images, *config.data_shape)), rng.integers(1, 1001, images)

    def named_backward(dy, cache):
        dx, grads = (backward or model.backward)(dy, cache, config)
        return {"x": dx} | grads

    errors = check_gradients(
        lambda x, **params: model.forward(params, x, t, config, labels),
        named_backward,
        {"x": x} | params,
        rng,
    )
    assert set(errors) == {"x", *params}
    return errors


CONVNETS = [
    convnet.Config(channels=channels, size=size, features=features, time_dim=4, classes=classes)
    for channels, size, features, classes in [
        (1, 5, 3, 0),
        (3, 4, 2, 0),
        (1, 7, 1, 0),
        (2, 1, 4, 2),
        (1, 3, 5, 3),
    ]
]

# Small, but with at least four entries in every group of every normalisation, as fewer are all but fixed by
# having mean 0 and variance 1; and with at
# least two channels in it, as a group of one takes away whatever bias went before. Such gradients are zero,
# and what is computed is rounding.
SMALL = dict(size=4, widths=(2, 4), groups=1, heads=2, time_dim=4, embedding_dim=3)
UNETS = [unet.Config(**SMALL | changes) for changes in [
    dict(),
    dict(channels=3, classes=2),
    dict(block_kind="plain", attention_levels=0),
    dict(block_kind="plain", attention_levels=2, heads=1, classes=3),
    dict(widths=(4, 4), groups=2, skips=False),
    dict(widths=(4, 2), heads=1, attention_levels=0, block_kind="plain", skips=False),
    dict(blocks=2, widths=(2, 2)),
    dict(blocks=2, widths=(2, 2), block_kind="plain", channels=2),
    dict(widths=(4,), groups=2, size=3, attention_levels=1),
    dict(widths=(2, 2, 2), size=8, attention_levels=3),
    dict(widths=(2, 2, 4), size=8, block_kind="plain"),
]]


def assert_exact(errors, config):
    for name, (tensor, element) in errors.items():
        assert tensor <= TENSOR and element <= ELEMENT, (config, name, tensor, element)


@pytest.mark.parametrize("config", CONVNETS, ids=range(len(CONVNETS)))
def test_convnet(config):
    for seed in range(4):
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, config.classes + 1, 2) if config.classes and seed else None
        assert_exact(check_network(convnet, config, labels, rng), config)


@pytest.mark.parametrize("config", UNETS, ids=range(len(UNETS)))
def test_unet(config):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, config.classes + 1, 2) if config.classes else None
    assert_exact(check_network(unet, config, labels, rng), config)


@pytest.mark.parametrize("model, config", [(convnet, CONVNETS[4]), (unet, UNETS[1])])
def test_no_label_is_the_last_label(model, config):
    rng = np.random.default_rng(0)
    params = {
        name: array + rng.standard_normal(array.shape) for name, array in model.init(config, rng).items()
    }
    x, t = rng.standard_normal((3, *config.data_shape)), rng.integers(1, 1001, 3)
    y = {
        label: model.forward(params, x, t, config, label and np.full(3, int(label)))[0]
        for label in (None, "0", str(config.classes))
    }
    assert (y[None] == y[str(config.classes)]).all() and (y[None] != y["0"]).any()


def test_parameter_count_of_the_lab():
    assert (
        sum(array.size for array in convnet.init(convnet.Config(), np.random.default_rng(0)).values())
        == 46_465
    )


def test_whole_networks_in_float32():
    """The lab's network, the lecture's, the full one with labels and in colour, at full size: shapes and
    dtypes.
    """
    configs = [
        (convnet, convnet.Config()),
        (unet, unet.Config(size=32, widths=(64, 128, 256), block_kind="plain", attention_levels=0)),
        (unet, unet.Config(classes=10)),
        (unet, unet.Config(channels=3, blocks=2)),
    ]
    for model, config in configs:
        rng = np.random.default_rng(0)
        params = {name: array.astype(np.float32) for name, array in model.init(config, rng).items()}
        x = rng.standard_normal((2, *config.data_shape)).astype(np.float32)
        y, cache = model.forward(params, x, np.array([1, 1000]), config)
        dx, grads = model.backward(y, cache, config)
        assert y.shape == dx.shape == x.shape
        assert {name: array.shape for name, array in grads.items()} == {
            name: array.shape for name, array in params.items()
        }
        assert {array.dtype for array in [y, dx, *grads.values()]} == {np.dtype(np.float32)}


@pytest.mark.parametrize(
    "model, changes, message",
    [
        (convnet, dict(features=0), "features is 0"),
        (convnet, dict(time_dim=3), "time_dim is 3"),
        (convnet, dict(classes=-1), "classes is -1"),
        (unet, dict(widths=()), r"widths is \(\)"),
        (unet, dict(size=30), "size is 30; with 3 levels it must be a multiple of 4"),
        (unet, dict(groups=5), "groups is 5; it must divide the 32 channels of level 1"),
        (unet, dict(heads=3), "heads is 3; it must divide the 64"),
        (unet, dict(attention_levels=4), "attention_levels is 4; it must lie in 0..3"),
        (unet, dict(block_kind="dense"), "block_kind is 'dense'"),
        (unet, dict(embedding_dim=0), "embedding_dim is 0"),
        (unet, dict(time_dim=5), "time_dim is 5"),
        (unet, dict(classes=-2), "classes is -2"),
    ],
)
def test_bad_config_is_refused(model, changes, message):
    with pytest.raises(ValueError, match=message):
        model.Config(**changes)


@pytest.mark.parametrize("model", [convnet, unet])
def test_bad_images_and_labels_are_refused(model):
    for classes, x_shape, labels, message in [
        (0, (2, 1, 32, 32), None, r"\(1, 32, 32\); this network takes \(1, 28, 28\)"),
        (0, (2, 1, 28, 28), [0, 1], "0 classes"),
        (3, (2, 1, 28, 28), [0, 1, 2], "for 2 samples"),
        (3, (2, 1, 28, 28), [0, 4], "label is 4; it must lie in 0..3"),
    ]:
        config = model.Config(classes=classes)
        with pytest.raises(ValueError, match=message):
            model.forward(
                model.init(config, np.random.default_rng(0)),
                np.zeros(x_shape),
                np.array([1, 2]),
                config,
                labels,
            )


@pytest.mark.parametrize(
    "spoil",
    [lambda gradient: gradient * 1.0005, lambda gradient: np.roll(gradient, 1)],
    ids=["scaled", "shifted"],
)
@pytest.mark.parametrize(
    "name",
    [
        "x",
        "label.table",
        "time.linear1.W",
        "conv_in.W",
        "down1.block1.time.W",
        "middle.block1.shortcut.W",
        "middle.attention1.qkv.W",
        "up1.block1.norm1.gamma",
        "conv_out.b",
    ],
)
def test_planted_error_in_a_tensor(name, spoil):
    """A spoilt tensor of the whole U-Net is far outside what test_unet allows, and only that tensor is."""
    config = unet.Config(**SMALL | dict(size=2, channels=2, classes=2))

    def spoilt(dy, cache, config):
        dx, grads = unet.backward(dy, cache, config)
        gradients = {"x": dx} | grads
        gradients[name] = spoil(gradients[name])
        return gradients.pop("x"), gradients

    errors = check_network(unet, config, np.array([0, 1]), np.random.default_rng(7), backward=spoilt)
    assert [key for key, (tensor, _) in errors.items() if tensor > TENSOR] == [name]
