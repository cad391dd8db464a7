"""A random case of every pair of npdiff.nn, for the tests of gradients and of values."""

from gradient_checks import Pair

from npdiff import nn


def shape(rng, *largest):
    """A random shape with each side between 1 and its largest."""
    return tuple(int(rng.integers(1, side, endpoint=True)) for side in largest)


def linear(rng):
    N, I, O = shape(rng, 6, 7, 7)
    inputs = {"x": rng.standard_normal((N, I)), "W": rng.standard_normal((I, O)), "b": rng.standard_normal(O)}
    return Pair(nn.linear_forward, nn.linear_backward, inputs)


def silu(rng):
    sides = shape(rng, 5, 6, 3)[: rng.integers(1, 4)]
    return Pair(nn.silu_forward, nn.silu_backward, {"x": 4 * rng.standard_normal(sides)})


def fourier(rng):
    N, D, F = shape(rng, 5, 4, 6)
    inputs = {"x": rng.standard_normal((N, D)), "B": 2 * rng.standard_normal((D, F))}
    return Pair(nn.fourier_forward, nn.fourier_backward, inputs)


def mse(rng):
    y = rng.standard_normal(shape(rng, 6, 4))
    target = rng.standard_normal(y.shape)
    weight = None if rng.random() < 0.5 else rng.uniform(0, 3, len(y))

    def backward(dloss, cache):
        return dloss * nn.mse_backward(cache)

    return Pair(nn.mse_forward, backward, {"y": y}, {"target": target, "weight": weight})


def cross_entropy(rng):
    N, K = shape(rng, 6, 7)
    K += 1                              # with one class the loss is 0 for every logit
    labels = rng.integers(0, K, N)

    def backward(dloss, cache):
        return dloss * nn.cross_entropy_backward(cache)

    return Pair(nn.cross_entropy_forward, backward, {"logits": rng.standard_normal((N, K))},
                {"labels": labels})


def conv2d(rng):
    N, H, W, I, O = shape(rng, 3, 6, 6, 3, 3)
    kh, kw = rng.choice([(3, 3), (3, 3), (1, 1), (1, 3), (5, 3)])
    inputs = {
        "x": rng.standard_normal((N, H, W, I)),
        "W": rng.standard_normal((kh, kw, I, O)),
        "b": rng.standard_normal(O),
    }
    return Pair(nn.conv2d_forward, nn.conv2d_backward, inputs, {"stride": int(rng.integers(1, 4))})


def group_norm(rng):
    N, H, W, G, per_group = shape(rng, 3, 4, 4, 3, 3)
    # A group of one entry becomes 0 for every x: its gradient is rounding alone.
    H += H * W * per_group == 1
    # A group of two becomes -1 and 1, but for EPS. At a small scale EPS matters.
    scale = 3 if H * W * per_group > 3 else 0.003
    C = G * per_group
    inputs = {
        "x": scale * (rng.standard_normal((N, H, W, C)) + 1),
        "gamma": rng.standard_normal(C),
        "beta": rng.standard_normal(C),
    }
    return Pair(nn.group_norm_forward, nn.group_norm_backward, inputs, {"groups": G})


def avg_pool(rng):
    N, H, W, C = shape(rng, 3, 4, 4, 3)
    return Pair(nn.avg_pool_forward, nn.avg_pool_backward, {"x": rng.standard_normal((N, 2 * H, 2 * W, C))})


def upsample(rng):
    x = rng.standard_normal(shape(rng, 3, 4, 4, 3))
    return Pair(nn.upsample_forward, nn.upsample_backward, {"x": x})


def attention(rng):
    N, P, heads, d = shape(rng, 3, 6, 3, 3)
    P += 1                              # with one position the weight is 1 for every q and k
    qkv = 1.5 * rng.standard_normal((N, P, 3 * heads * d))
    return Pair(nn.attention_forward, nn.attention_backward, {"qkv": qkv}, {"heads": heads})


def embedding_lookup(rng):
    N, K, D = shape(rng, 6, 5, 4)
    table, labels = rng.standard_normal((K, D)), rng.integers(0, K, N)
    return Pair(nn.embedding_lookup_forward, nn.embedding_lookup_backward, {"table": table},
                {"labels": labels})


def add_channels(rng):
    N, H, W, C = shape(rng, 3, 5, 5, 4)
    inputs = {"x": rng.standard_normal((N, H, W, C)), "e": rng.standard_normal((N, C))}
    return Pair(nn.add_channels_forward, nn.add_channels_backward, inputs)


def concat(rng):
    N, H, W, A, B = shape(rng, 3, 5, 5, 4, 4)
    inputs = {"x": rng.standard_normal((N, H, W, A)), "skip": rng.standard_normal((N, H, W, B))}
    return Pair(nn.concat_forward, nn.concat_backward, inputs)


PAIRS = {case.__name__: case for case in (
    linear, silu, fourier, mse, cross_entropy, conv2d, group_norm, avg_pool, upsample, attention,
    embedding_lookup, add_channels, concat,
)}
