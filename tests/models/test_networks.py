"""Whole networks: every gradient against the complex step, planted errors, and what they refuse."""

import ast
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gradient_checks import CASES, assert_exact, labelled, random_params, spoilt, worst, wrong_tensors
from tiny_recipes import TINY_MOONS, TINY_SHAPES

from npdiff import nn
from npdiff.models import MODELS, convnet, is_image, mlp, model_name, unet
from npdiff.recipes import ALL
from npdiff.verify.gradcheck import central_difference, check_model

EXAMPLES = Path(__file__).parents[2] / "examples"


def random_mlp(rng):
    return mlp.Config(
        data_dim=int(rng.integers(1, 4)),
        hidden=tuple(rng.integers(1, 7, rng.integers(1, 4)).tolist()),
        time_dim=2 * int(rng.integers(1, 4)),
        max_period=float(rng.uniform(10, 10000)),
        fourier_features=int(rng.integers(0, 4)),
    )


def mlp_case(rng):
    """-> config, params, x (N, D), t (N,)"""
    config = random_mlp(rng)
    N = int(rng.integers(1, 5))
    return config, mlp.init(config, rng), rng.standard_normal((N, config.data_dim)), rng.integers(1, 1001, N)


def test_mlp():
    for seed in range(CASES):
        rng = np.random.default_rng(seed)
        config, params, x, t = mlp_case(rng)
        errors = check_model(mlp, config, params, x, t, rng)
        assert set(errors) == {"x", *params}
        assert_exact(errors, seed, config)


def test_central_difference_agrees():
    """A second derivative of the forward, which shares nothing with the complex step."""
    rng = np.random.default_rng(0)
    assert worst(check_model(mlp, *mlp_case(rng), rng, central_difference)) < 1e-7


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

# Every group of every normalisation has at least four entries. Fewer are nearly fixed by having mean 0 and
# variance 1. Every group has at least two channels, because the mean of one channel takes the bias before it
# away. In both cases the gradient is zero, and what is computed is rounding.
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
PLANTED_UNET = unet.Config(**SMALL | dict(size=2, channels=2, classes=2))


def check_images(model, config, rng):
    """check_model of an image network on two images. `model` may be a stand-in, see gradient_checks.py."""
    params = random_params(config, rng)
    x, t = rng.standard_normal((2, *config.data_shape)), rng.integers(1, 1001, 2)
    errors = check_model(model, config, params, x, t, rng)
    assert set(errors) == {"x", *params}
    return errors


@pytest.mark.parametrize("config", CONVNETS, ids=range(len(CONVNETS)))
def test_convnet(config):
    for seed in range(4):
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, config.classes + 1, 2) if config.classes and seed else None
        assert_exact(check_images(labelled(convnet, labels), config, rng), seed, config)


@pytest.mark.slow
@pytest.mark.parametrize("config", UNETS, ids=range(len(UNETS)))
def test_unet(config):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, config.classes + 1, 2) if config.classes else None
    assert_exact(check_images(labelled(unet, labels), config, rng), config)


# Planted errors: each takes the right gradient of one tensor and changes it in one of the ways in which
# hand-derived gradients go wrong.

def scaled(gradient):
    return gradient * 1.0005


def smallest_zeroed(gradient):
    wrong = gradient.copy()
    wrong.flat[abs(gradient).argmin()] = 0
    return wrong


def smallest_flipped(gradient):
    wrong = gradient.copy()
    wrong.flat[abs(gradient).argmin()] *= -1
    return wrong


def reversed_axis(gradient):
    return gradient[::-1].copy()


def shifted(gradient):
    return np.roll(gradient, 1)


@pytest.mark.parametrize("spoil", [scaled, smallest_zeroed, smallest_flipped, reversed_axis, shifted])
@pytest.mark.parametrize("name", ["x", "fourier.B", "linear1.W", "linear1.b", "linear2.W", "linear2.b"])
def test_planted_error_in_a_tensor_of_the_mlp(name, spoil):
    """The wrong tensor is outside the bounds of test_mlp, and no other tensor is."""
    rng = np.random.default_rng(7)
    config = mlp.Config(data_dim=2, hidden=(5,), time_dim=4, fourier_features=3)
    params = mlp.init(config, rng)
    params["linear1.b"] *= 1e-4                     # errors of small entries must be seen too
    x, t = rng.standard_normal((4, 2)), rng.integers(1, 200, 4)
    errors = check_model(spoilt(mlp, name, spoil), config, params, x, t, rng)
    assert wrong_tensors(errors) == [name]


@pytest.mark.slow
@pytest.mark.parametrize("spoil", [scaled, shifted])
@pytest.mark.parametrize("name", [
    "x",
    "label.table",
    "time.linear1.W",
    "conv_in.W",
    "down1.block1.time.W",
    "middle.block1.shortcut.W",
    "middle.attention1.qkv.W",
    "up1.block1.norm1.gamma",
    "conv_out.b",
])
def test_planted_error_in_a_tensor_of_the_unet(name, spoil):
    """The wrong tensor is outside the bounds of test_unet, and no other tensor is."""
    model = spoilt(labelled(unet, np.array([0, 1])), name, spoil)
    errors = check_images(model, PLANTED_UNET, np.random.default_rng(7))
    assert wrong_tensors(errors) == [name]


@pytest.mark.parametrize("model, config", [(convnet, CONVNETS[4]), (unet, UNETS[1])])
def test_no_label_is_the_last_label(model, config):
    rng = np.random.default_rng(0)
    params = random_params(config, rng, scale=1.0)
    x, t = rng.standard_normal((3, *config.data_shape)), rng.integers(1, 1001, 3)

    def answer(label):
        labels = None if label is None else np.full(3, label)
        y, _ = model.forward(params, x, t, config, labels)
        return y

    np.testing.assert_array_equal(answer(None), answer(config.classes))
    assert (answer(None) != answer(0)).any()


def test_parameter_count_of_the_lab():
    """A published lab's network for Fashion-MNIST: three convolutions, 32 features."""
    params = convnet.init(convnet.Config(), np.random.default_rng(0))
    assert sum(array.size for array in params.values()) == 46_465


FULL_SIZE = {
    "moons": mlp.Config(fourier_features=4),
    "lab": convnet.Config(),
    "lecture": unet.Config(size=32, widths=(64, 128, 256), block_kind="plain", attention_levels=0),
    "labels": unet.Config(classes=10),
    "colour": unet.Config(channels=3, blocks=2),
}


@pytest.mark.parametrize("config", FULL_SIZE.values(), ids=FULL_SIZE)
def test_float32_stays_float32(config):
    """Networks at full size: shapes and dtypes of the answer and of every gradient."""
    model, rng = MODELS[model_name(config)], np.random.default_rng(0)
    params = {name: array.astype(np.float32) for name, array in model.init(config, rng).items()}
    x = rng.standard_normal((2, *config.data_shape)).astype(np.float32)
    y, cache = model.forward(params, x, np.array([1, 1000]), config)
    loss, loss_cache = nn.mse_forward(y, np.ones_like(y))
    dx, grads = model.backward(nn.mse_backward(loss_cache), cache, config)
    assert y.shape == dx.shape == x.shape
    assert {name: g.shape for name, g in grads.items()} == {name: p.shape for name, p in params.items()}
    assert {array.dtype for array in (y, loss, dx, *grads.values())} == {np.dtype(np.float32)}


@pytest.mark.parametrize(
    "model, changes, message",
    [
        (convnet, dict(features=0), "features is 0"),
        (convnet, dict(time_dim=3), "time_dim is 3"),
        (convnet, dict(classes=-1), "classes is -1"),
        (convnet, dict(classes=2.5), "classes is 2.5; it must be an integer"),
        (convnet, dict(classes=True), "classes is True"),
        (convnet, dict(max_period=0.0), "max_period is 0.0; it must be a positive number"),
        (convnet, dict(max_period=float("nan")), "max_period is nan"),
        (unet, dict(max_period=float("nan")), "max_period is nan"),
        (unet, dict(widths=(32, 64.0, 64)), r"widths is \(32, 64.0, 64\)"),
        (unet, dict(widths=32), "widths is 32"),
        (unet, dict(skips="no"), "skips is 'no'; it must be True or False"),
        (unet, dict(attention_levels=-1), "attention_levels is -1; it must be at least 0"),
        (unet, dict(attention_levels=1.0), "attention_levels is 1.0"),
        (unet, dict(blocks=1.5), "blocks is 1.5"),
        (unet, dict(widths=(8, 8, 8), classes=4), "is 8, too many for 8 channels at level 1: .* most 4"),
        (unet, dict(widths=(16, 32, 8)), "groups is 8, too many for 8 channels at level 3: .* at least 16"),
        (unet, dict(widths=(4, 8), groups=4, block_kind="plain"), "too many for 4 channels at level 1"),
        (unet, dict(size=4, widths=(16, 16, 16)), "too many for 16 channels at level 3: .* at least 24"),
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
        params = model.init(config, np.random.default_rng(0))
        with pytest.raises(ValueError, match=message):
            model.forward(params, np.zeros(x_shape), np.array([1, 2]), config, labels)


def configs():
    """Every config in the project, by name: of recipes, of models, and of the tests and examples."""
    found = {f"recipe {recipe.name}": recipe.model for recipe in (*ALL, TINY_MOONS, TINY_SHAPES)}
    found |= {f"small {name}": model.SMALL for name, model in MODELS.items()}
    found |= {f"size {name}": config for name, config in FULL_SIZE.items()}
    found |= {f"test {k}": config for k, config in enumerate([*CONVNETS, *UNETS])}
    found["planted"] = PLANTED_UNET
    for path in sorted(EXAMPLES.glob("[0-9]*.py")):
        calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        for call in calls:
            name = ast.unparse(call.func)
            if name in ("mlp.Config", "convnet.Config", "unet.Config"):
                found[f"example {path.stem}"] = eval(ast.unparse(call), dict(MODELS))
    return found


def without_meaning(name, gradient, config):
    """Where a gradient is zero for every input, as a mask.

    What is added to the keys of all positions is added to whole rows of scores, and the softmax does not see
    it. An image of one position reads from itself alone, whatever its query and key, and of a kernel it sees
    the middle.
    """
    none = np.zeros(gradient.shape, bool)
    third = gradient.shape[-1] // 3
    deepest = getattr(config, "levels", 1) - 1
    one_position = is_image(config) and config.size == 2 ** deepest and (not deepest or "middle" in name)
    if name.endswith("qkv.b"):
        none[third:2 * third] = True
    if one_position and ".qkv." in name:
        none[..., :2 * third] = True
    if one_position and gradient.ndim == 4 and len(gradient) == 3:
        none[...] = True
        none[1, 1] = False
    return none


@pytest.mark.parametrize("name", configs())
def test_every_part_does_its_work(name):
    """t and the label move the answer, and every entry of every parameter has a gradient. Zeros at the start
    are replaced by random numbers, as the first steps of training do.
    """
    config = configs()[name]
    if is_image(config) and config.size > 16:                   # fewer positions: the same parts, faster
        config = replace(config, size=8)
    model, rng = MODELS[model_name(config)], np.random.default_rng(0)
    params = random_params(config, rng, scale=0.1)
    classes = getattr(config, "classes", 0)
    N = classes + 1 if classes else 2
    x, t = rng.standard_normal((N, *config.data_shape)), rng.integers(20, 200, N)
    labels = {"labels": np.arange(N)} if classes else {}
    y, cache = model.forward(params, x, t, config, **labels)

    def moved_by(t, **labels):
        other, _ = model.forward(params, x, t, config, **labels)
        return abs(other - y).reshape(N, -1).max(1) / abs(y).max()

    assert (moved_by(t + 50, **labels) > 1e-4).all()
    if classes:
        assert (moved_by(t, labels=np.roll(np.arange(N), 1)) > 1e-4).all()
    _, grads = model.backward(rng.standard_normal(y.shape), cache, config)
    assert set(grads) == set(params)
    for parameter, gradient in grads.items():
        dead = abs(gradient) < 1e-12 * max(abs(g).max() for g in grads.values())
        assert (dead == without_meaning(parameter, gradient, config)).all(), parameter


@pytest.mark.parametrize("config", [mlp.SMALL, *CONVNETS, *UNETS], ids=repr)
def test_no_samples(config):
    """N = 0: an answer and a gradient of no rows, and gradients of zeros for the parameters."""
    model, rng = MODELS[model_name(config)], np.random.default_rng(0)
    params = model.init(config, rng)
    y, cache = model.forward(params, np.ones((0, *config.data_shape)), np.ones(0, int), config)
    dx, grads = model.backward(y, cache, config)
    assert y.shape == dx.shape == (0, *config.data_shape)
    assert {name: g.shape for name, g in grads.items()} == {name: p.shape for name, p in params.items()}
    assert not any(g.any() for g in grads.values())


@pytest.mark.parametrize("config", [mlp.SMALL, CONVNETS[4], UNETS[1]], ids=["mlp", "convnet", "unet"])
def test_integers_and_short_timesteps_are_refused(config):
    model, rng = MODELS[model_name(config)], np.random.default_rng(0)
    params, x = model.init(config, rng), np.ones((3, *config.data_shape))
    with pytest.raises(ValueError, match="dtype (is )?int64; it must be floats"):
        model.forward(params, x.astype(int), np.array([1, 2, 3]), config)
    for t in (np.array([1, 2]), np.array([1.0, 2, 3])):
        with pytest.raises(ValueError):
            model.forward(params, x, t, config)
