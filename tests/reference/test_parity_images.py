"""NumPy against torch on image networks: gradients, many training steps, layer by layer, and their states."""

import numpy as np
import pytest
import torch
from gradient_checks import random_params
from parity import DEVICES, both_backends, error, errors

from npdiff import nn
from npdiff.backends import load_backend
from npdiff.diffusion import q_sample
from npdiff.models import MODELS, convnet, mlp, model_name, unet
from npdiff.nn import mse_backward, mse_forward
from npdiff.schedule import make_schedule
from npdiff.training import Batch
from npdiff.verify.compare import parameter_distance
from npdiff.verify.gradcheck import tensor_error

UNETS, LEAN_UNETS, CONVNETS = 120, 60, 60

SMALL_CONVNET = convnet.Config(size=8, features=8, time_dim=8, classes=3)
SMALL_UNET = unet.Config(size=8, widths=(8, 16), groups=4, heads=2, time_dim=8, embedding_dim=16, classes=3)
PLAIN_UNET = unet.Config(
    channels=3,
    size=8,
    widths=(8, 16),
    block_kind="plain",
    groups=2,
    attention_levels=0,
    time_dim=8,
    embedding_dim=16,
)


NETWORKS = {"convnet": SMALL_CONVNET, "residual": SMALL_UNET, "plain": PLAIN_UNET}
EACH_NETWORK = pytest.mark.parametrize("config", NETWORKS.values(), ids=NETWORKS)
WITH_LABELS = pytest.mark.parametrize("config", [SMALL_CONVNET, SMALL_UNET], ids=["convnet", "unet"])


@pytest.fixture(autouse=True)
def one_thread():
    """These networks are too small for several threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def random_unet(rng, lean=False):
    """Any kind and size. Unless lean, the lowest level has at least four positions.

    At one position attention does not depend on its queries and keys. Their gradients are zero, and what is
    computed is rounding.
    """
    levels, groups, heads = (int(rng.integers(1, 4)) for _ in range(3))
    unit = int(np.lcm((3 if lean else 2) * groups, heads))
    return unet.Config(
        channels=int(rng.choice([1, 3])),
        size=2 ** (levels - 1) * int(rng.integers(1 if lean else 2, 5)),
        widths=tuple(unit * int(rng.integers(1, 3)) for _ in range(levels)),
        blocks=int(rng.integers(1, 3)),
        block_kind=str(rng.choice(["residual", "plain"])),
        groups=groups,
        attention_levels=int(rng.integers(0, levels + 1)),
        heads=heads,
        skips=bool(rng.integers(2)),
        time_dim=2 * int(rng.integers(1, 6)),
        embedding_dim=int(rng.integers(1, 9)),
        max_period=float(rng.uniform(10, 10000)),
        classes=int(rng.choice([0, 1, 4])),
    )


def random_convnet(rng):
    return convnet.Config(
        channels=int(rng.choice([1, 3])),
        size=int(rng.integers(1, 9)),
        features=int(rng.integers(1, 9)),
        time_dim=2 * int(rng.integers(1, 6)),
        max_period=float(rng.uniform(10, 10000)),
        classes=int(rng.choice([0, 1, 4])),
    )


def random_batch(config, rng, N):
    """x, t, target, labels; labels are None where there are no classes, and in half of the other batches."""
    x, target = rng.standard_normal((2, N, *config.data_shape))
    labels = rng.integers(0, config.classes + 1, N) if config.classes and rng.integers(2) else None
    return x, rng.integers(1, 1001, N), target, labels


def loss_and_gradients(denoiser, x, t, target, labels):
    """NumPy's output, loss and gradients. The gradient of the input has the name x."""
    y, cache = denoiser.model.forward(denoiser.params, x, t, denoiser.config, labels)
    loss, loss_cache = mse_forward(y, target)
    dx, grads = denoiser.model.backward(mse_backward(loss_cache), cache, denoiser.config)
    return y, float(loss), {"x": dx} | grads


def their_loss_and_gradients(denoiser, x, t, target, labels):
    """torch's, as NumPy arrays."""
    backend = denoiser.backend
    x, target = backend.asarray(x).requires_grad_(), backend.asarray(target)
    loss, grads = denoiser.loss_and_grads(Batch(1, x, t, target, labels))
    loss_of_x = torch.nn.functional.mse_loss(denoiser.output(x, t, labels), target)
    (dx,) = torch.autograd.grad(loss_of_x, x)
    y = backend.to_numpy(denoiser.predict(x, t, labels))
    return y, loss, {name: backend.to_numpy(g) for name, g in ({"x": dx} | grads).items()}


def compared(config, seed, backends, N, scale=0.3):
    """Both backends on the same random parameters and batch of N images.

    -> (the larger relative error of output and loss, NumPy's gradients, torch's gradients)
    """
    rng = np.random.default_rng(seed)
    params = random_params(config, rng, scale)
    x, t, target, labels = random_batch(config, rng, N)
    numpy, reference = backends
    ours, theirs = numpy.make_denoiser(config, params), reference.make_denoiser(config, params)
    y, loss, grads = loss_and_gradients(ours, numpy.asarray(x), t, numpy.asarray(target), labels)
    their_y, their_loss, their_grads = their_loss_and_gradients(theirs, x, t, target, labels)
    return max(tensor_error(their_y, y), abs(their_loss - loss) / loss), grads, their_grads


def error_on_one_scale(their_grads, grads):
    """The worst element of all gradients, relative to the largest entry of all."""
    worst = max(abs(their_grads[name] - g).max() for name, g in grads.items())
    return worst / max(abs(g).max() for g in grads.values())


def assert_parity(random_config, networks, device):
    """Each of `networks` random networks to 1e-12, every gradient on its own scale."""
    backends = both_backends("float64", device)
    for seed in range(networks):
        config = random_config(np.random.default_rng(seed))
        answer_error, grads, their_grads = compared(config, seed, backends, N=1 + seed % 3)
        assert answer_error <= 1e-12, (seed, config)
        for name, gradient_error in errors(their_grads, grads).items():
            assert gradient_error <= 1e-12, (seed, config, name)


@pytest.mark.slow
@DEVICES
def test_forward_and_every_gradient_of_random_unets(device):
    """float64, to 1e-12: the output, the loss, the gradient of every parameter and of the input."""
    assert_parity(random_unet, UNETS, device)


@DEVICES
def test_unets_with_gradients_that_are_zero(device):
    """Images that end as one pixel, one image at a time, biases of keys, which no softmax sees: all gradients
    of a network on one scale, 1e-12.
    """
    backends, zeros = both_backends("float64", device), 0
    for seed in range(LEAN_UNETS):
        config = random_unet(np.random.default_rng(seed), lean=True)
        N = 1 + seed % 2
        answer_error, grads, their_grads = compared(config, seed, backends, N)
        assert max(answer_error, error_on_one_scale(their_grads, grads)) <= 1e-12, (seed, config)
        largest = max(abs(g).max() for g in grads.values())
        zeros += any((abs(g) <= 1e-12 * largest).any() for g in grads.values())
    assert zeros >= LEAN_UNETS // 4


@DEVICES
def test_forward_and_every_gradient_of_random_convnets(device):
    assert_parity(random_convnet, CONVNETS, device)


def test_the_random_unets_hold_every_setting():
    configs = [random_unet(np.random.default_rng(seed)) for seed in range(UNETS)]
    for field, values in {
        "channels": {1, 3},
        "blocks": {1, 2},
        "block_kind": {"residual", "plain"},
        "groups": {1, 2, 3},
        "heads": {1, 2, 3},
        "attention_levels": {0, 1, 2, 3},
        "skips": {True, False},
        "classes": {0, 1, 4},
        "levels": {1, 2, 3},
    }.items():
        assert {getattr(config, field) for config in configs} == values
    sizes = {config.size for config in configs}
    assert max(sizes) == 16 and any(size % 2 for size in sizes)
    with_labels = without = 0
    for seed, config in enumerate(configs):
        _, _, _, labels = random_batch(config, np.random.default_rng(seed), 1)
        with_labels += config.classes > 0 and labels is not None
        without += config.classes > 0 and labels is None
    assert with_labels > 20 and without > 20


@DEVICES
@EACH_NETWORK
def test_one_step_in_float32(config, device):
    """Output, loss and every gradient near the untrained network, and every parameter after one update."""
    backends = both_backends("float32", device)
    for seed in range(10):
        answer_error, grads, their_grads = compared(config, seed, backends, N=4, scale=0.1)
        assert answer_error <= 1e-5, seed
        for name, gradient_error in errors(their_grads, grads).items():
            assert gradient_error <= 1e-5, (seed, name)
        assert {g.dtype for g in (*grads.values(), *their_grads.values())} == {np.dtype(np.float32)}
    ours, theirs = denoisers(config, backends)
    [(loss, their_loss)] = train_both(ours, theirs, 1)
    assert abs(loss - their_loss) <= 1e-5 * loss
    state, their_state = ours.export(), theirs.export()
    for name in state:
        if name.startswith("params/"):
            assert tensor_error(their_state[name], state[name]) <= 1e-5, name


def denoisers(config, backends, ema_decay=0.99, seed=0):
    """One denoiser on each backend, from the same untrained parameters."""
    params = MODELS[model_name(config)].init(config, np.random.default_rng(seed))
    return [backend.make_denoiser(config, params, ema_decay) for backend in backends]


def waves(config, rng):
    """8 images (8, C, H, W) of waves along the rows, the columns or both; and which of the three, (8,)."""
    kind = rng.integers(0, 3, 8)
    wave = np.sin(np.arange(config.size) * rng.uniform(0.5, 2, (8, config.channels, 1)))    # (8, C, size)
    along_rows, along_columns = (kind != 1)[:, None, None, None], (kind != 0)[:, None, None, None]
    return wave[:, :, :, None] * along_rows + wave[:, :, None, :] * along_columns, kind


def train_both(ours, theirs, steps, first_step=1, lr=1e-3):
    """Train both on the same noised waves, step by step: yields the two losses.

    The label is the kind of wave; one label in four is withheld.
    """
    schedule, config, dtype = make_schedule("linear", 1000), ours.config, ours.theta.dtype
    for step in range(first_step, first_step + steps):
        rng = np.random.default_rng([1, step])
        x0, kind = waves(config, rng)
        t, noise = rng.integers(1, 1001, 8), rng.standard_normal(x0.shape)
        x = q_sample(x0, t, noise, schedule)
        labels = np.where(rng.random(8) < 0.25, config.classes, kind) if config.classes else None
        _, loss, grads = loss_and_gradients(ours, x.astype(dtype), t, noise.astype(dtype), labels)
        del grads["x"]
        ours.update(grads, lr)
        their_x, their_noise = theirs.backend.asarray(x), theirs.backend.asarray(noise)
        their_loss, their_grads = theirs.loss_and_grads(Batch(step, their_x, t, their_noise, labels))
        theirs.update(their_grads, lr)
        yield loss, their_loss


@pytest.mark.slow
@DEVICES
@EACH_NETWORK
def test_200_steps_in_float64(config, device):
    ours, theirs = denoisers(config, both_backends("float64", device))
    losses = []
    for loss, their_loss in train_both(ours, theirs, 200):
        assert abs(loss - their_loss) <= 1e-8 * loss
        losses.append(loss)
    assert np.mean(losses[-20:]) < 0.9 * np.mean(losses[:20])
    assert_same_state(ours, theirs, 1e-8)


def test_the_distance_of_parameters_goes_by_their_names():
    """torch's modules of a plain block name convolution before norm, npdiff's parameters norm first."""
    ours, theirs = denoisers(PLAIN_UNET, both_backends("float64"))
    assert list(ours.export()) != list(theirs.export()) and parameter_distance(ours, theirs) == 0
    ours.theta *= 1.5
    assert parameter_distance(ours, theirs) == pytest.approx(0.5 / 1.5, rel=1e-9)      # relative to the first


def assert_same_state(ours, theirs, tolerance):
    """Parameters, average and Adam's moments. The error of a tensor is relative to the largest of its kind,
    because some tensors are rounding alone.
    """
    ours, theirs = ours.export(), theirs.export()
    assert set(ours) == set(theirs) and ours["step"] == theirs["step"]
    scale = {}                                      # params, ema, adam_m, adam_v -> the largest entry
    for name, array in ours.items():
        kind, _, _ = name.partition("/")
        scale[kind] = max(scale.get(kind, 0), abs(array).max())
    for name, array in ours.items():
        kind, _, _ = name.partition("/")
        assert theirs[name].shape == array.shape and theirs[name].flags.c_contiguous
        assert abs(theirs[name] - array).max() <= tolerance * scale[kind], name


@WITH_LABELS
def test_state_travels_both_ways(config):
    """Ten steps, then ten more on the other backend, which loads the state: as twenty steps on one."""
    backends = both_backends("float64")
    ours, theirs = denoisers(config, backends)
    for _ in train_both(ours, theirs, 10):
        pass
    from_theirs, from_ours = denoisers(config, backends, seed=9)
    from_ours.load(ours.export())
    from_theirs.load(theirs.export())
    exported, loaded = ours.export(), from_ours.export()
    assert set(exported) == set(loaded)
    for name, array in exported.items():
        np.testing.assert_array_equal(loaded[name], array)
    for pairs in ((ours, theirs), (from_theirs, from_ours)):
        for _ in train_both(*pairs, 10, first_step=11):
            pass
    assert from_ours.step == from_theirs.step == 20
    for other in (theirs, from_ours):
        assert_same_state(ours, other, 1e-11)
        assert_same_state(from_theirs, other, 1e-11)


CONDITION = ["time.sinusoids", "time.linear1", "time.linear1.silu", "time.linear2"]
RESIDUAL = ["norm1", "norm1.silu", "conv1", "time", "add", "norm2", "norm2.silu", "conv2"]
PLAIN = ["conv1", "norm1", "norm1.silu", "time", "add", "conv2", "norm2", "norm2.silu"]
ATTENTION = ["norm", "qkv", "attention", "out"]


def inside(name, layers):
    return [f"{name}.{layer}" for layer in layers]


OPERATIONS = {
    "convnet": (
        SMALL_CONVNET,
        [*CONDITION, "label", "conv1", "conv1.silu", "add", "conv2", "conv2.silu", "conv3"],
    ),
    "residual": (
        SMALL_UNET,
        [
            *CONDITION,
            "label",
            "condition.silu",
            "conv_in",
            *inside("down1.block1", RESIDUAL),
            "down1.pool",
            *inside("middle.block1", [*RESIDUAL, "shortcut"]),
            *inside("middle.attention1", ATTENTION),
            "up1.upsample",
            "up1.concat",
            *inside("up1.block1", [*RESIDUAL, "shortcut"]),
            "norm_out",
            "norm_out.silu",
            "conv_out",
        ],
    ),
    "plain": (
        unet.Config(size=8, widths=(4, 6), block_kind="plain", groups=2, attention_levels=0, skips=False),
        [
            *CONDITION,
            "condition.silu",
            "conv_in",
            *inside("down1.block1", PLAIN),
            "down1.pool",
            *inside("middle.block1", PLAIN),
            "up1.upsample",
            *inside("up1.block1", PLAIN),
            "conv_out",
        ],
    ),
}


def operations(config, labels=None):
    """-> (NumPy's outputs without labels, torch's outputs with `labels`), dicts of NumPy arrays by layer

    Both on one random batch of 3.
    """
    rng = np.random.default_rng(0)
    params = random_params(config, rng)
    x, t, _, _ = random_batch(config, rng, 3)
    ours, theirs = (backend.make_denoiser(config, params) for backend in both_backends("float64"))
    their_outputs = theirs.operations(theirs.backend.asarray(x), t, labels)
    return ours.operations(x, t), {name: array.numpy() for name, array in their_outputs.items()}


def assert_same_operations(ours, theirs, *where):
    """The same layers in the same order, each output to 1e-12."""
    assert list(ours) == list(theirs)
    for name, array in ours.items():
        assert array.shape == theirs[name].shape and error(theirs[name], array) <= 1e-12, (*where, name)


@pytest.mark.parametrize("kind", OPERATIONS)
def test_operations_line_up(kind):
    config, expected = OPERATIONS[kind]
    ours, theirs = operations(config)
    assert list(ours) == expected
    assert_same_operations(ours, theirs)


def test_operations_of_random_unets_line_up():
    for seed in range(20):
        ours, theirs = operations(random_unet(np.random.default_rng(seed)))
        assert_same_operations(ours, theirs, seed)


def test_operations_with_labels_differ_from_the_label_on():
    _, without = operations(SMALL_UNET)
    _, labelled = operations(SMALL_UNET, labels=np.array([0, 1, 2]))
    differing = [name for name, array in without.items() if (array != labelled[name]).any()]
    assert differing[0] == "label"


def test_operations_find_the_layer_of_a_block_that_is_wrong(monkeypatch):
    right = nn.attention_forward
    monkeypatch.setattr(nn, "attention_forward", lambda qkv, heads: right(qkv * (1 + 1e-9), heads))
    ours, theirs = operations(SMALL_UNET)
    wrong = [name for name, array in ours.items() if error(theirs[name], array) > 1e-12]
    assert wrong[0] == "middle.attention1.attention"


@DEVICES
def test_gradients_are_the_same_bits_every_time(device):
    """Sums are added in a fixed order, on CUDA too."""
    config = unet.Config(channels=3, widths=(16, 32), groups=4, classes=10)
    rng = np.random.default_rng(0)
    backend = load_backend("torch", device)
    denoiser = backend.make_denoiser(config, random_params(config, rng))
    x, target = (backend.asarray(rng.standard_normal((16, 3, 28, 28))) for _ in range(2))
    labels = np.arange(16) % 3
    batch = Batch(1, x, np.arange(1, 17), target, labels)
    loss, grads = denoiser.loss_and_grads(batch)
    loss_again, grads_again = denoiser.loss_and_grads(batch)
    assert loss == loss_again and set(grads) == set(grads_again)
    assert all(torch.equal(g, grads_again[name]) for name, g in grads.items())


@WITH_LABELS
def test_everything_stays_on_the_backends_device(config):
    """As in test_parity.py, on torch's `meta` device."""
    backend = load_backend("torch")
    backend.device = torch.device("meta")
    [denoiser] = denoisers(config, [backend])
    x = backend.asarray(np.zeros((4, *config.data_shape)))
    answers = denoiser.predict(x, 3), denoiser.predict(x, 3, np.array([0, 1, 2, 3]))
    parameters = *denoiser.parameters.values(), *denoiser.average.module.parameters()
    assert {array.device.type for array in (*answers, *parameters)} == {"meta"}


@pytest.mark.parametrize(
    "labels, message",
    [
        (np.array([0, 1, 4]), "a label is 4; it must lie in 0..3"),
        (np.array([0, -1, 1]), "a label is -1"),
        (np.array([0.0, 1.0, 2.0]), "dtype float64"),
        (np.array([0, 1]), "for 3 samples"),
        (1, r"labels have shape \(\) and dtype int64; for 3 samples"),
    ],
)
@WITH_LABELS
def test_torch_refuses_wrong_labels(config, labels, message):
    backend = load_backend("torch")
    [denoiser] = denoisers(config, [backend])
    x = backend.asarray(np.zeros((3, *config.data_shape)))
    for call in (
        lambda: denoiser.predict(x, 1, labels),
        lambda: denoiser.loss_and_grads(Batch(1, x, np.ones(3, int), x, labels)),
        lambda: denoiser.operations(x, 1, labels),
    ):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize(
    "config", [convnet.Config(features=2), PLAIN_UNET, mlp.SMALL], ids=["convnet", "unet", "mlp"]
)
def test_torch_refuses_labels_of_a_network_without_classes(config):
    backend = load_backend("torch")
    [denoiser] = denoisers(config, [backend])
    x = backend.asarray(np.zeros((2, *config.data_shape)))
    with pytest.raises(ValueError, match="this network has 0 classes and takes no labels"):
        denoiser.predict(x, 1, np.array([0, 0]))
