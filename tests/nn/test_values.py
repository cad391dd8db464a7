"""What the forwards of npdiff.nn return, against torch and in known cases; and the inputs they refuse."""

import numpy as np
import pytest
from gradient_checks import CASES

from npdiff import nn
from npdiff.verify.pairs import PAIRS


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
