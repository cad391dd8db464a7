"""A random case of every pair of npdiff.nn, and the check of a pair by it."""

from collections.abc import Callable
from typing import NamedTuple

from npdiff import nn
from npdiff.rng import generator
from npdiff.verify.gradcheck import check_gradients, complex_step, is_wrong

SHAPES = 20             # random cases of each pair in check_cases


class Pair(NamedTuple):
    """A forward, its backward, and one random input."""
    forward: Callable
    backward: Callable                  # (dy, cache) -> one gradient for each of inputs, in their order
    inputs: dict                        # name -> array; gradients are taken for these
    arguments: dict = {}                # the other arguments of the forward


def check_pair(pair, rng, derivative=complex_step):
    """check_gradients of a pair. -> {name of the input: (tensor error, element error)}"""

    def forward(**inputs):
        return pair.forward(**inputs, **pair.arguments)

    def backward(dy, cache):
        return dict(zip(pair.inputs, as_tuple(pair.backward(dy, cache)), strict=True))

    return check_gradients(forward, backward, pair.inputs, rng, derivative)


def as_tuple(value):
    """A backward of one input returns an array, one of several a tuple. -> a tuple"""
    return value if isinstance(value, tuple) else (value,)


def check_cases(name, seed):
    """check_pair of SHAPES random cases. -> {name of the input: (shape, errors)}, of its worst case.

    Raises ValueError, with the backward and where it is, if a gradient is wrong.
    """
    worst, where = {}, f"{name}_backward ({place(getattr(nn, f'{name}_backward'))})"
    for k in range(SHAPES):
        rng = generator(seed, "gradcheck", k)
        pair = PAIRS[name](rng)
        try:
            errors = check_pair(pair, rng)
        except Exception as error:
            raise ValueError(f"{where}: {error if isinstance(error, ValueError) else repr(error)}") from error
        for key, found in errors.items():
            shape = pair.inputs[key].shape
            if is_wrong(found):
                raise ValueError(f"a gradient of {name} is wrong: that of {key} {shape} is off by "
                                 f"{found[0]:.1e}, relative; it comes from {where}")
            worst[key] = max(worst.get(key, (shape, found)), (shape, found), key=lambda case: case[1])
    return worst


def place(function):
    """The file and the line of a function."""
    code = getattr(function, "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else repr(function)


def shape(rng, *largest):
    """A random shape with each side between 1 and its largest."""
    return tuple(int(rng.integers(1, side, endpoint=True)) for side in largest)


def pair_of(name, arguments, inputs):
    """The Pair of this name. The backward of a loss takes no dy (it is 1), so here dy multiplies it."""
    forward, backward = getattr(nn, f"{name}_forward"), getattr(nn, f"{name}_backward")
    if name in LOSSES:
        return Pair(forward, lambda dy, cache: dy * backward(cache), inputs, arguments)
    return Pair(forward, backward, inputs, arguments)


def linear(rng):
    """A batch, a matrix and a bias."""
    N, I, O = shape(rng, 6, 7, 7)
    return {}, dict(x=rng.standard_normal((N, I)), W=rng.standard_normal((I, O)), b=rng.standard_normal(O))


def silu(rng):
    """An array of one to three axes."""
    return {}, dict(x=4 * rng.standard_normal(shape(rng, 5, 6, 3)[:rng.integers(1, 4)]))


def fourier(rng):
    """Points and frequencies."""
    N, D, F = shape(rng, 5, 4, 6)
    return {}, dict(x=rng.standard_normal((N, D)), B=2 * rng.standard_normal((D, F)))


def mse(rng):
    """An answer and its target, in half of the cases with weights."""
    y = rng.standard_normal(shape(rng, 6, 4))
    target = rng.standard_normal(y.shape)
    weight = None if rng.random() < 0.5 else rng.uniform(0, 3, len(y))
    return dict(target=target, weight=weight), dict(y=y)


def cross_entropy(rng):
    """Logits and labels."""
    N, K = shape(rng, 6, 7)
    K += 1                              # with one class the loss is 0 for every logit
    return dict(labels=rng.integers(0, K, N)), dict(logits=rng.standard_normal((N, K)))


def conv2d(rng):
    """Images, a kernel of one of four sizes, a stride of 1 to 3."""
    N, H, W, I, O = shape(rng, 3, 6, 6, 3, 3)
    kh, kw = rng.choice([(3, 3), (3, 3), (1, 1), (1, 3), (5, 3)])
    x, kernel = rng.standard_normal((N, H, W, I)), rng.standard_normal((kh, kw, I, O))
    return dict(stride=int(rng.integers(1, 4))), dict(x=x, W=kernel, b=rng.standard_normal(O))


def group_norm(rng):
    """Images, scale and shift; some groups have two entries alone."""
    N, H, W, G, per_group = shape(rng, 3, 4, 4, 3, 3)
    # A group of one entry becomes 0 for every x: its gradient is rounding alone.
    H += H * W * per_group == 1
    # A group of two becomes -1 and 1, but for EPS. At a small scale EPS matters.
    scale = 3 if H * W * per_group > 3 else 0.003
    C = G * per_group
    x = scale * (rng.standard_normal((N, H, W, C)) + 1)
    return dict(groups=G), dict(x=x, gamma=rng.standard_normal(C), beta=rng.standard_normal(C))


def avg_pool(rng):
    """Images of even sides."""
    N, H, W, C = shape(rng, 3, 4, 4, 3)
    return {}, dict(x=rng.standard_normal((N, 2 * H, 2 * W, C)))


def upsample(rng):
    """Images."""
    return {}, dict(x=rng.standard_normal(shape(rng, 3, 4, 4, 3)))


def attention(rng):
    """Queries, keys and values of some heads."""
    N, P, heads, d = shape(rng, 3, 6, 3, 3)
    P += 1                              # with one position the weight is 1 for every q and k
    return dict(heads=heads), dict(qkv=1.5 * rng.standard_normal((N, P, 3 * heads * d)))


def embedding_lookup(rng):
    """A table and the labels of a batch."""
    N, K, D = shape(rng, 6, 5, 4)
    table = rng.standard_normal((K, D))
    return dict(labels=rng.integers(0, K, N)), dict(table=table)


def add_channels(rng):
    """Images, and a number for each channel."""
    N, H, W, C = shape(rng, 3, 5, 5, 4)
    return {}, dict(x=rng.standard_normal((N, H, W, C)), e=rng.standard_normal((N, C)))


def concat(rng):
    """Images, and more channels for them."""
    N, H, W, A, B = shape(rng, 3, 5, 5, 4, 4)
    return {}, dict(x=rng.standard_normal((N, H, W, A)), skip=rng.standard_normal((N, H, W, B)))


LOSSES = ("mse", "cross_entropy")
CASES = {case.__name__: case for case in (     # rng -> the other arguments of the forward, and its inputs
    linear, silu, fourier, mse, cross_entropy, conv2d, group_norm, avg_pool, upsample, attention,
    embedding_lookup, add_channels, concat,
)}
PAIRS = {name: lambda rng, name=name: pair_of(name, *CASES[name](rng)) for name in CASES}      # rng -> Pair
