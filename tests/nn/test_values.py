"""What the forwards of npdiff.nn return, against torch and in known cases; and the inputs they refuse."""

import numpy as np
import pytest
from gradient_checks import CASES, worst

from npdiff import nn
from npdiff.verify.pairs import PAIRS, as_tuple, check_pair


def torch_values(name, inputs, arguments):
    """The same forward by torch.nn.functional, as a NumPy array in npdiff's layout."""
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    values = {key: torch.from_numpy(array) for key, array in inputs.items()}
    first, *others = values.values()
    image = first.permute(0, 3, 1, 2) if first.ndim == 4 else None      # (N, C, H, W)

    def conv2d():
        W, b = others[0].permute(3, 2, 0, 1), others[1]                 # (O, I, kh, kw)
        return functional.conv2d(image, W, b, arguments["stride"], padding=(W.shape[2] // 2, W.shape[3] // 2))

    def attention():
        heads = arguments["heads"]
        q, k, v = (part.unflatten(2, (heads, -1)).transpose(1, 2) for part in first.chunk(3, 2))
        return functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)

    y = {
        "conv2d": conv2d,
        "group_norm": lambda: functional.group_norm(image, arguments["groups"], *others),
        "avg_pool": lambda: functional.avg_pool2d(image, 2),
        "upsample": lambda: functional.interpolate(image, scale_factor=2, mode="nearest"),
        "add_channels": lambda: image + others[0][:, :, None, None],
        "concat": lambda: torch.cat([image, others[0].permute(0, 3, 1, 2)], 1),
        "embedding_lookup": lambda: functional.embedding(torch.from_numpy(arguments["labels"]), first),
        "attention": attention,
    }[name]()
    return (y if image is None else y.permute(0, 2, 3, 1)).numpy()


@pytest.mark.parametrize("name", [
    "conv2d", "group_norm", "avg_pool", "upsample", "add_channels", "concat", "embedding_lookup", "attention",
])
def test_image_layers_are_torchs(name):
    for seed in range(CASES):
        pair = PAIRS[name](np.random.default_rng(seed))
        y, _ = pair.forward(**pair.inputs, **pair.arguments)
        expected = torch_values(name, pair.inputs, pair.arguments)
        assert y.shape == expected.shape
        assert abs(y - expected).max() <= 1e-12 * abs(expected).max(), seed


def test_cross_entropy_is_torchs():
    torch = pytest.importorskip("torch")
    for seed in range(CASES):
        rng = np.random.default_rng(seed)
        logits = 10 * PAIRS["cross_entropy"](rng).inputs["logits"]
        N, K = logits.shape
        labels = rng.integers(0, K, N)
        expected = torch.nn.functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels))
        loss, _ = nn.cross_entropy_forward(logits, labels)
        assert loss == pytest.approx(expected.item(), rel=1e-12, abs=1e-12), seed


def test_cross_entropy_of_known_rows():
    """The loss of K equal logits is log K. Of logits far apart it is their distance, without overflow."""
    loss, _ = nn.cross_entropy_forward(np.zeros((3, 5)), np.array([0, 2, 4]))
    assert loss == pytest.approx(np.log(5), rel=1e-14)
    logits = np.array([[1e4, 0, -1e4], [0, 1e4, 0]])
    loss, cache = nn.cross_entropy_forward(logits, np.array([2, 1]))
    np.testing.assert_array_equal(nn.cross_entropy_backward(cache), [[0.5, 0, -0.5], [0, 0, 0]])
    assert loss == 1e4


def test_attention_of_large_scores():
    """Without the shift exp would overflow. With scores this large each position reads one value alone."""
    qkv = 1000 * np.random.default_rng(0).standard_normal((2, 5, 6))
    y, _ = nn.attention_forward(qkv, 2)
    q, k, v = np.split(qkv, 3, axis=2)                                  # (N, P, 2): two heads of one entry
    chosen = (q[:, :, None] * k[:, None]).argmax(2)                     # (N, P, 2)
    np.testing.assert_allclose(y, np.take_along_axis(v, chosen, axis=1), rtol=1e-12)


@pytest.mark.parametrize(
    "labels, message",
    [
        ([0, 3], "a label is 3; it must lie in 0..2"),
        ([-1, 0], "a label is -1"),
        ([0], r"shape \(1,\).* for 2 samples"),
        ([0.0, 1.0], "dtype float64"),
    ],
)
def test_bad_labels_are_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        nn.cross_entropy_forward(np.zeros((2, 3)), np.array(labels))


def test_bad_input_is_refused():
    x = np.ones((2, 5, 4, 6))
    with pytest.raises(ValueError, match="kernel is 2 x 3"):
        nn.conv2d_forward(x, np.ones((2, 3, 6, 1)), np.ones(1))
    with pytest.raises(ValueError, match="x has 6 channels; the kernel takes 5"):
        nn.conv2d_forward(x, np.ones((3, 3, 5, 1)), np.ones(1))
    with pytest.raises(ValueError, match="groups is 4"):
        nn.group_norm_forward(x, np.ones(6), np.ones(6), 4)
    with pytest.raises(ValueError, match="image is 5 x 4"):
        nn.avg_pool_forward(x)
    with pytest.raises(ValueError, match="heads is 4"):
        nn.attention_forward(np.ones((2, 3, 18)), 4)
    for label in (-1, 3):
        with pytest.raises(ValueError, match=f"label is {label}; it must lie in 0..2"):
            nn.embedding_lookup_forward(np.array([0, label]), np.ones((3, 2)))
    with pytest.raises(ValueError, match="float64"):
        nn.embedding_lookup_forward(np.array([0.0]), np.ones((3, 2)))


def with_changed(pair, name, array):
    """The forward of a pair with another array under one of its names."""
    return pair.forward(**pair.inputs | {name: array}, **pair.arguments)


# The others stretch nothing, or NumPy itself refuses.
CHECKED = ["linear", "conv2d", "group_norm", "attention", "add_channels", "mse", "cross_entropy"]


@pytest.mark.parametrize("name", CHECKED)
def test_another_shape_is_refused_with_the_name(name):
    """Each input in turn: with an axis more, with one less, and stretched where NumPy would stretch it."""
    pair = PAIRS[name](np.random.default_rng(3))
    for key, array in pair.inputs.items():
        for wrong in (array[None], array[0]):
            with pytest.raises(ValueError, match=r" has shape \(.*\); it must be \(.*\)"):
                with_changed(pair, key, wrong)


@pytest.mark.parametrize(
    "forward, inputs, message",
    [
        (nn.linear_forward, [(2, 3), (3, 4), (1,)], r"b has shape \(1,\); it must be \(4\)"),
        (nn.linear_forward, [(2, 3), (3, 4), ()], r"b has shape \(\); it must be \(4\)"),
        (nn.linear_forward, [(2, 3), (3, 4), (2, 4)], r"b has shape \(2, 4\)"),
        (nn.linear_forward, [(2, 3), (3, 1), (4,)], r"b has shape \(4,\); it must be \(1\)"),
        (nn.linear_forward, [(2, 5, 3), (3, 4), (4,)], r"x has shape \(2, 5, 3\); it must be \(N, I\)"),
        (nn.linear_forward, [(2, 3), (2, 4), (4,)], r"W has shape \(2, 4\); it must be \(3, O\)"),
        (nn.conv2d_forward, [(1, 3, 3, 2), (3, 3, 2, 4), (1,)], r"b has shape \(1,\); it must be \(4\)"),
        (nn.conv2d_forward, [(1, 3, 3, 2), (3, 3, 2, 1), (4,)], r"b has shape \(4,\); it must be \(1\)"),
        (nn.add_channels_forward, [(3, 2, 2, 4), (1, 4)], r"e has shape \(1, 4\); it must be \(3, 4\)"),
        (nn.add_channels_forward, [(3, 2, 2, 4), (3, 1)], r"e has shape \(3, 1\); it must be \(3, 4\)"),
        (nn.mse_forward, [(3, 2), (1, 2)], r"target has shape \(1, 2\); it must be \(3, 2\)"),
        (nn.mse_forward, [(3, 2), (3, 1)], r"target has shape \(3, 1\); it must be \(3, 2\)"),
        (nn.mse_forward, [(3, 2), (3,)], r"target has shape \(3,\); it must be \(3, 2\)"),
        (nn.mse_forward, [(3, 2), (3, 2), (1,)], r"weight has shape \(1,\); it must be \(3\)"),
        (nn.mse_forward, [(3, 2), (3, 2), (3, 2)], r"weight has shape \(3, 2\); it must be \(3\)"),
        (nn.mse_forward, [(0, 2), (0, 2)], r"y has shape \(0, 2\); the mean of no numbers"),
    ],
)
def test_nothing_is_stretched(forward, inputs, message):
    with pytest.raises(ValueError, match=message):
        forward(*map(np.ones, inputs))


@pytest.mark.parametrize(
    "gamma, beta, name", [((1,), (4,), "gamma"), ((4,), (1,), "beta"), ((4, 1), (4,), "gamma")]
)
def test_group_norm_takes_one_scale_and_shift_a_channel(gamma, beta, name):
    with pytest.raises(ValueError, match=rf"{name} has shape .*; it must be \(4\)"):
        nn.group_norm_forward(np.ones((2, 3, 3, 4)), np.ones(gamma), np.ones(beta), 2)


@pytest.mark.parametrize("name", CHECKED)
@pytest.mark.parametrize("dtype", [np.uint8, np.int64, bool])
def test_integers_are_refused(name, dtype):
    """Sums of bytes overflow, and what is copied into integers is cut off."""
    pair = PAIRS[name](np.random.default_rng(3))
    for key, array in pair.inputs.items():
        with pytest.raises(ValueError, match=f" has dtype {np.dtype(dtype)}; it must be floats"):
            with_changed(pair, key, array.astype(dtype))


@pytest.mark.parametrize("groups", [0, -1])
def test_numbers_below_one_are_refused(groups):
    x = np.ones((1, 2, 2, 6))
    with pytest.raises(ValueError, match=f"groups is {groups}"):
        nn.group_norm_forward(x, np.ones(6), np.ones(6), groups)
    with pytest.raises(ValueError, match=f"heads is {groups}"):
        nn.attention_forward(x[0], groups)


@pytest.mark.parametrize("name", [name for name in PAIRS if name not in ("mse", "cross_entropy")])
def test_no_samples_are_samples(name):
    """N = 0: the output, and the gradient of x, have no rows. The gradients of parameters are zeros."""
    pair = PAIRS[name](np.random.default_rng(3))
    first = "labels" if name == "embedding_lookup" else next(iter(pair.inputs))
    empty = {key: value[:0] if key in (first, "e", "skip") else value
             for key, value in (pair.inputs | pair.arguments).items()}
    y, cache = pair.forward(**empty)
    gradients = as_tuple(pair.backward(y, cache))
    assert len(y) == 0
    for key, gradient in zip(pair.inputs, gradients, strict=True):
        assert gradient.shape == empty[key].shape and not gradient.any()


def test_the_mean_of_no_rows_is_refused():
    with pytest.raises(ValueError, match=r"logits have shape \(0, 3\)"):
        nn.cross_entropy_forward(np.ones((0, 3)), np.ones(0, int))


@pytest.mark.parametrize("name", ["conv2d", "group_norm", "upsample", "add_channels", "concat"])
def test_one_position(name):
    """Images of one pixel, one of them alone as well: as in the middle of larger calls, nothing special."""
    pair = PAIRS[name](np.random.default_rng(3))
    inputs = {key: value[:, :1, :1] if key in ("x", "skip") else value for key, value in pair.inputs.items()}
    errors = check_pair(pair._replace(inputs=inputs), np.random.default_rng(0))
    assert worst(errors) < 1e-10
    one = {key: value[:1] if key in ("x", "skip", "e") else value for key, value in inputs.items()}
    y, _ = pair.forward(**inputs, **pair.arguments)
    alone, _ = pair.forward(**one, **pair.arguments)
    np.testing.assert_allclose(alone, y[:1], rtol=1e-14, atol=1e-14)


def exact_silu(x):
    """x sigmoid(x) and its derivative in long double, from exp(-|x|), which is never large."""
    x = x.astype(np.longdouble)
    e = np.exp(-abs(x))
    s, rest = np.where(x > 0, 1, e) / (1 + e), np.where(x > 0, e, 1) / (1 + e)              # rest = 1 - s
    return x * s, s * (1 + x * rest)


@pytest.mark.parametrize("dtype, end", [(np.float32, 87.3), (np.float64, 708.3)])
def test_silu_keeps_its_digits(dtype, end):
    """Relative to the value, wherever the sigmoid is a normal number (from -end on), and the derivative's too
    but near its zero at -1.278. Below, the error is that of the smallest numbers.
    """
    eps, smallest = np.finfo(dtype).eps, np.finfo(dtype).smallest_subnormal
    ends = [-end, 3 * end, 1e30, 0, 1e-30, -1e-30, np.finfo(dtype).tiny, np.finfo(dtype).max]
    x = np.concatenate([np.linspace(-end, end, 100_001), np.linspace(-1, 1, 1001), ends]).astype(dtype)
    with np.errstate(all="raise", under="ignore"):
        y, cache = nn.silu_forward(x)
        dx = nn.silu_backward(np.ones_like(x), cache)
    exact, slope = exact_silu(x)
    assert y.dtype == dx.dtype == dtype
    assert (abs(y - exact) <= 5 * eps * abs(exact)).all()
    away = abs(x + 1.278) > 0.3
    assert (abs(dx - slope) <= 20 * eps * abs(slope))[away].all() and (abs(dx - slope) < eps)[~away].all()
    tail = np.concatenate([np.linspace(-1.2 * end, -end, 1001), [-3 * end, -1e30]]).astype(dtype)
    y, cache = nn.silu_forward(tail)
    exact, slope = exact_silu(tail)
    dx = nn.silu_backward(np.ones_like(tail), cache)
    assert (abs(y - exact) <= 5 * eps * abs(exact) + abs(tail) * smallest).all()
    assert (abs(dx - slope) <= 5 * eps * abs(slope) + abs(tail) * smallest).all()


@pytest.mark.parametrize("dim", [1, 5, 0, -2])
def test_an_odd_embedding_is_refused(dim):
    with pytest.raises(ValueError, match=f"dim is {dim}; it must be even"):
        nn.sinusoidal_embedding(np.array([1, 2]), dim, 100.0, np.float64)


@pytest.mark.parametrize("max_period", [0.0, -1.0, np.nan, np.inf])
def test_a_period_that_is_none_is_refused(max_period):
    with pytest.raises(ValueError, match=f"max_period is {max_period}; it must be a positive number"):
        nn.sinusoidal_embedding(np.array([1, 2]), 4, max_period, np.float64)


def test_what_the_embedding_takes():
    expected = nn.sinusoidal_embedding(np.array([1, 5, 120]), 6, 100.0, np.float64)
    for dtype in (list, np.uint8, np.int8, np.uint64, ">i4"):
        t = [1, 5, 120] if dtype is list else np.array([1, 5, 120], dtype)
        np.testing.assert_array_equal(nn.sinusoidal_embedding(t, 6, 100.0, np.float64), expected)
    for t in ([], np.ones(0, int)):
        assert nn.sinusoidal_embedding(t, 6, 100.0, np.float64).shape == (0, 6)
    assert nn.embedding_lookup_forward([], np.ones((3, 2)))[0].shape == (0, 2)
    for dtype in (np.int64, np.uint8, bool):
        with pytest.raises(ValueError, match=f"dtype is {np.dtype(dtype)}; it must be floats"):
            nn.sinusoidal_embedding(np.array([1, 5]), 6, 100.0, dtype)
    np.testing.assert_array_equal(nn.sinusoidal_embedding([1, 5, 120], 6, 100.0, object), expected)
    for t in (np.array([1.0]), [True], 5, np.array([[1]])):
        with pytest.raises(ValueError, match=r"t has shape .* and dtype .*; it must be integers \(N,\)"):
            nn.sinusoidal_embedding(t, 6, 100.0, np.float64)
