"""The image layers by the checks of test_gradients.py: complex step, every element, random shapes, planted
errors; values against torch.
"""

import numpy as np
import pytest

from npdiff import nn
from npdiff.nn import conv
from npdiff.verify.gradcheck import central_difference, check_gradients, complex_step

CASES = 200
TENSOR, ELEMENT = 1e-13, 1e-10


def shape(rng, *largest):
    """A random shape with each side between 1 and its largest."""
    return tuple(int(rng.integers(1, side, endpoint=True)) for side in largest)


# Each case draws the inputs of one pair: (forward, backward, inputs that are differentiated, arguments that
# are not).

def conv2d_case(rng):
    N, H, W, I, O = shape(rng, 3, 6, 6, 3, 3)
    kh, kw = rng.choice([(3, 3), (3, 3), (1, 1), (1, 3), (5, 3)])
    inputs = {
        "x": rng.standard_normal((N, H, W, I)),
        "W": rng.standard_normal((kh, kw, I, O)),
        "b": rng.standard_normal(O),
    }
    return nn.conv2d_forward, nn.conv2d_backward, inputs, {"stride": int(rng.integers(1, 4))}


def group_norm_case(rng):
    N, H, W, G, per_group = shape(rng, 3, 4, 4, 3, 3)
    # one entry becomes 0 whatever it is: its gradient is nothing but rounding
    H += H * W * per_group == 1
    # and two become -1 and 1, up to EPS: give EPS a say
    scale = 3 if H * W * per_group > 3 else 0.003
    inputs = {
        "x": scale * (rng.standard_normal((N, H, W, G * per_group)) + 1),
        "gamma": rng.standard_normal(G * per_group),
        "beta": rng.standard_normal(G * per_group),
    }
    return nn.group_norm_forward, nn.group_norm_backward, inputs, {"groups": G}


def avg_pool_case(rng):
    N, H, W, C = shape(rng, 3, 4, 4, 3)
    return nn.avg_pool_forward, nn.avg_pool_backward, {"x": rng.standard_normal((N, 2 * H, 2 * W, C))}, {}


def upsample_case(rng):
    return nn.upsample_forward, nn.upsample_backward, {"x": rng.standard_normal(shape(rng, 3, 4, 4, 3))}, {}


def attention_case(rng):
    N, P, heads, d = shape(rng, 3, 6, 3, 3)
    # with one position the weights are 1 whatever q and k are
    P += 1
    return (
        nn.attention_forward,
        nn.attention_backward,
        {"qkv": 1.5 * rng.standard_normal((N, P, 3 * heads * d))},
        {"heads": heads},
    )


def embedding_lookup_case(rng):
    N, K, D = shape(rng, 6, 5, 4)
    return (
        nn.embedding_lookup_forward,
        nn.embedding_lookup_backward,
        {"table": rng.standard_normal((K, D))},
        {"labels": rng.integers(0, K, N)},
    )


def add_channels_case(rng):
    N, H, W, C = shape(rng, 3, 5, 5, 4)
    return (
        nn.add_channels_forward,
        nn.add_channels_backward,
        {"x": rng.standard_normal((N, H, W, C)), "e": rng.standard_normal((N, C))},
        {},
    )


def concat_case(rng):
    N, H, W, A, B = shape(rng, 3, 5, 5, 4, 4)
    return (
        nn.concat_forward,
        nn.concat_backward,
        {"x": rng.standard_normal((N, H, W, A)), "skip": rng.standard_normal((N, H, W, B))},
        {},
    )


PAIRS = {
    "conv2d": conv2d_case,
    "group_norm": group_norm_case,
    "avg_pool": avg_pool_case,
    "upsample": upsample_case,
    "attention": attention_case,
    "embedding_lookup": embedding_lookup_case,
    "add_channels": add_channels_case,
    "concat": concat_case,
}


def check_pair(forward, backward, inputs, arguments, rng, derivative=complex_step):
    """check_gradients of a pair whose backward returns a tuple, or one array."""

    def named_backward(dy, cache):
        gradients = backward(dy, cache)
        return dict(zip(inputs, gradients if isinstance(gradients, tuple) else (gradients,), strict=True))

    return check_gradients(
        lambda **inputs: forward(**inputs, **arguments), named_backward, inputs, rng, derivative
    )


@pytest.mark.parametrize("pair", PAIRS)
def test_pair(pair, monkeypatch):
    for seed in range(CASES):
        rng = np.random.default_rng(seed)
        forward, backward, inputs, arguments = PAIRS[pair](rng)
        # small images must meet every way of splitting
        monkeypatch.setattr(conv, "BLOCK_BYTES", int(rng.choice([1, 500, 2000, 2**20])))
        errors = check_pair(forward, backward, inputs, arguments, rng)
        assert set(errors) == set(inputs)
        for name, (tensor, element) in errors.items():
            assert tensor <= TENSOR and element <= ELEMENT, (pair, seed, name, tensor, element)


def test_cases_reach_the_corners():
    """One image, one channel, one group, odd sizes, every stride: the random shapes hold them all."""
    convs = [conv2d_case(np.random.default_rng(seed)) for seed in range(CASES)]
    for stride in (1, 2, 3):
        shapes = [
            (inputs["x"].shape, inputs["W"].shape)
            for _, _, inputs, arguments in convs
            if arguments["stride"] == stride
        ]
        assert (
            any(x[0] == 1 for x, _ in shapes)
            and any(W[2] == 1 for _, W in shapes)
            and any(W[3] == 1 for _, W in shapes)
        )
        assert {(x[1] % 2, x[2] % 2) for x, _ in shapes} == {(0, 0), (0, 1), (1, 0), (1, 1)}
        assert {W[:2] for _, W in shapes} == {(3, 3), (1, 1), (1, 3), (5, 3)}
    norms = [group_norm_case(np.random.default_rng(seed)) for seed in range(CASES)]
    assert {arguments["groups"] for _, _, _, arguments in norms} == {1, 2, 3}
    assert any(inputs["gamma"].size == 1 for _, _, inputs, _ in norms) and any(
        len(inputs["x"]) == 1 for _, _, inputs, _ in norms
    )


@pytest.mark.parametrize("pair", PAIRS)
def test_central_difference_agrees(pair):
    """A second opinion that shares nothing with the complex step."""
    rng = np.random.default_rng(4)
    errors = check_pair(*PAIRS[pair](rng), rng, central_difference)
    assert max(tensor for tensor, _ in errors.values()) < 1e-7


# Values, against torch in float64.

def torch_values(pair, inputs, arguments):
    """The same forward by torch.nn.functional, as a NumPy array in this project's layout."""
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    values = {name: torch.from_numpy(array) for name, array in inputs.items()}
    first = next(iter(values.values()))
    image = first.permute(0, 3, 1, 2) if first.ndim == 4 else None
    if pair == "conv2d":
        W = values["W"].permute(3, 2, 0, 1)
        y = functional.conv2d(
            image, W, values["b"], arguments["stride"], padding=(W.shape[2] // 2, W.shape[3] // 2)
        )
    elif pair == "group_norm":
        y = functional.group_norm(image, arguments["groups"], values["gamma"], values["beta"])
    elif pair == "avg_pool":
        y = functional.avg_pool2d(image, 2)
    elif pair == "upsample":
        y = functional.interpolate(image, scale_factor=2, mode="nearest")
    elif pair == "add_channels":
        y = image + values["e"][:, :, None, None]
    elif pair == "concat":
        y = torch.cat([image, values["skip"].permute(0, 3, 1, 2)], 1)
    elif pair == "embedding_lookup":
        return functional.embedding(torch.from_numpy(arguments["labels"]), first).numpy()
    elif pair == "attention":
        q, k, v = (part.unflatten(2, (arguments["heads"], -1)).transpose(1, 2) for part in first.chunk(3, 2))
        return functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2).numpy()
    return y.permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("pair", PAIRS)
def test_values(pair):
    for seed in range(CASES):
        forward, _, inputs, arguments = PAIRS[pair](np.random.default_rng(seed))
        y, _ = forward(**inputs, **arguments)
        expected = torch_values(pair, inputs, arguments)
        assert y.shape == expected.shape
        assert abs(y - expected).max() <= 1e-12 * abs(expected).max(), (pair, seed)


@pytest.mark.parametrize("pair", PAIRS)
def test_float32_stays_float32(pair):
    forward, backward, inputs, arguments = PAIRS[pair](np.random.default_rng(0))
    y, cache = forward(**{name: array.astype(np.float32) for name, array in inputs.items()}, **arguments)
    gradients = backward(y, cache)
    arrays = [y, *(gradients if isinstance(gradients, tuple) else (gradients,))]
    assert {array.dtype for array in arrays} == {np.dtype(np.float32)}


def test_attention_of_large_scores():
    """exp would overflow without the shift."""
    y, _ = nn.attention_forward(1000 * np.random.default_rng(0).standard_normal((2, 5, 6)), 2)
    assert np.isfinite(y).all()


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


# Planted errors: the ways in which these formulas go wrong when they are derived in a hurry.

def conv2d_not_turned(dy, cache):
    x, W, stride = cache
    dx, _, _ = nn.conv2d_backward(dy, (x, W[::-1, ::-1], stride))
    return dx, *nn.conv2d_backward(dy, cache)[1:]


def conv2d_weights_turned(dy, cache):
    dx, dW, db = nn.conv2d_backward(dy, cache)
    return dx, dW[::-1, ::-1], db


def conv2d_one_image_bias(dy, cache):
    dx, dW, db = nn.conv2d_backward(dy, cache)
    return dx, dW, dy.sum((1, 2))[0]


def group_norm_without(term):
    """The backward with one of its three terms forgotten."""

    def backward(dy, cache):
        centred, rstd, gamma, groups = cache
        xhat = centred * rstd
        _, dgamma, dbeta = nn.group_norm_backward(dy, cache)
        flat = dy.reshape(xhat.shape)
        mean = lambda sums: nn.norm.group_mean(sums, xhat.shape[1], groups)
        average = mean((flat * gamma).sum(1)) * (term != "average")
        overlap = mean((flat * gamma * xhat).sum(1)) * (term != "overlap")
        return (
            (rstd * (flat * (1 if term == "gamma" else gamma) - average - xhat * overlap)).reshape(dy.shape),
            dgamma,
            dbeta,
        )

    return backward


def group_norm_swapped(dy, cache):
    dx, dgamma, dbeta = nn.group_norm_backward(dy, cache)
    return dx, dbeta, dgamma


def avg_pool_undivided(dy, cache):
    return 4 * nn.avg_pool_backward(dy, cache)


def upsample_mean(dy, cache):
    return nn.upsample_backward(dy, cache) / 4


def attention_without_row_sum(dy, cache):
    q, k, v, a, scale = cache
    dqkv = nn.attention_backward(dy, cache)
    dz = dy.reshape(q.shape[0], q.shape[2], q.shape[1], q.shape[3]).transpose(0, 2, 1, 3)
    dscore = scale * a * (dz @ v.swapaxes(2, 3))
    dqkv[..., :dy.shape[2]] = (dscore @ k).transpose(0, 2, 1, 3).reshape(dy.shape)
    return dqkv


def attention_swapped(dy, cache):
    dq, dk, dv = np.split(nn.attention_backward(dy, cache), 3, axis=2)
    return np.concatenate([dk, dq, dv], axis=2)


def attention_unscaled(dy, cache):
    q, k, v, a, scale = cache
    dq, dk, dv = np.split(nn.attention_backward(dy, cache), 3, axis=2)
    return np.concatenate([dq / scale, dk / scale, dv], axis=2)


def embedding_lookup_last_wins(dy, cache):
    labels, K = cache
    dtable = np.zeros((K, dy.shape[1]))
    dtable[labels] = dy                                                # where += belongs
    return dtable


def add_channels_mean(dy, cache):
    return dy, dy.mean((1, 2))


def concat_exchanged(dy, cache):
    return dy[..., -cache:], dy[..., :-cache]


PLANTED = [
    ("conv2d", conv2d_not_turned),
    ("conv2d", conv2d_weights_turned),
    ("conv2d", conv2d_one_image_bias),
    ("group_norm", group_norm_without("average")),
    ("group_norm", group_norm_without("overlap")),
    ("group_norm", group_norm_without("gamma")),
    ("group_norm", group_norm_swapped),
    ("avg_pool", avg_pool_undivided),
    ("upsample", upsample_mean),
    ("attention", attention_without_row_sum),
    ("attention", attention_swapped),
    ("attention", attention_unscaled),
    ("embedding_lookup", embedding_lookup_last_wins),
    ("add_channels", add_channels_mean),
    ("concat", concat_exchanged),
]


@pytest.mark.parametrize("pair, wrong", PLANTED)
def test_planted_error_in_a_formula(pair, wrong):
    """On shapes where every formula differs from its wrong twin: more than one of everything."""
    rng = np.random.default_rng(3)
    normal = rng.standard_normal
    inputs, arguments = {
        "conv2d": ({"x": normal((2, 4, 5, 2)), "W": normal((3, 3, 2, 3)), "b": normal(3)}, {"stride": 2}),
        "group_norm": ({"x": normal((2, 3, 2, 4)), "gamma": normal(4), "beta": normal(4)}, {"groups": 2}),
        "avg_pool": ({"x": normal((2, 4, 4, 2))}, {}),
        "upsample": ({"x": normal((2, 2, 3, 2))}, {}),
        "attention": ({"qkv": normal((2, 4, 12))}, {"heads": 2}),
        "embedding_lookup": ({"table": normal((3, 2))}, {"labels": np.array([1, 0, 1])}),
        "add_channels": ({"x": normal((2, 3, 2, 2)), "e": normal((2, 2))}, {}),
        "concat": ({"x": normal((2, 3, 2, 2)), "skip": normal((2, 3, 2, 2))}, {})}[pair]
    forward, backward, _, _ = PAIRS[pair](rng)
    assert (
        max(tensor for tensor, _ in check_pair(forward, backward, inputs, arguments, rng).values()) <= TENSOR
    )
    assert max(tensor for tensor, _ in check_pair(forward, wrong, inputs, arguments, rng).values()) > 1e-3
