"""The classifier that judges samples: a small network of this project's layers, which names the garment in a
Fashion-MNIST image.

    conv -> SiLU -> halve -> conv -> SiLU -> halve -> linear -> SiLU -> linear -> logits, one for each class
                                                                  features

A conditional model is asked for a class; class_accuracy is the fraction of its samples that the judge takes
for that class. For the real test images it is 91.5% (shirts 73%, every other class at least 85%). Use it to
compare models. It does not notice when all samples of a class are alike (npdiff.evaluation.metrics.diversity
does). The weights are in judge.safetensors, beside this file, and come from examples/09_train_judge.py.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from npdiff.data import fashion_mnist
from npdiff.data.files import write_bytes
from npdiff.models.checks import check_at_least, check_image, check_types
from npdiff.models.layers import (
    conv,
    conv_back,
    init_conv,
    init_linear,
    linear,
    linear_back,
    pool,
    pool_back,
    silu,
    silu_back,
)
from npdiff.nn.attention import softmax
from npdiff.nn.embedding import check_labels
from npdiff.nn.linear import linear_forward
from npdiff.rng import generator

WEIGHTS = Path(__file__).with_name("judge.safetensors")
CHUNK = 32              # images classified at once: few enough that their features stay in cache


@dataclass(frozen=True)
class Config:
    """The sizes of the network. Raises ValueError for sizes that no network has."""
    channels: int = 1                           # of an image: 1 grey, 3 colour
    size: int = 28                              # height and width of an image, a multiple of 4
    features: tuple[int, int] = (24, 48)        # channels after the first and the second convolution
    hidden: int = 64                            # units of the hidden layer
    classes: int = 10                           # kinds of image, 0..classes-1

    def __post_init__(self):
        check_types(self)
        check_at_least(self, 1, "channels", "size", "hidden", "classes")
        if self.size % 4:
            raise ValueError(f"size is {self.size}; it must be a multiple of 4, as it is halved twice")
        if len(self.features) != 2 or min(self.features) < 1:
            raise ValueError(f"features is {self.features}; "
                             "it must name two numbers of channels, each at least 1")

    @property
    def data_shape(self):
        """The shape of one image."""
        return (self.channels, self.size, self.size)


def init(config, rng):
    """Fresh float64 parameters by name. Weights are uniform in +-sqrt(6 / n), where n is the number of inputs
    of one output; biases are zero ([He et al. 2015](https://arxiv.org/abs/1502.01852), section 2.2).

    The init functions of npdiff.models.layers draw from +-1/sqrt(n). With these weights the image's features
    would become smaller from layer to layer. This network has no normalisation to correct that, so training
    would begin slowly.
    """
    params = {}
    init_conv(params, "conv1", 3, config.channels, config.features[0], rng)
    init_conv(params, "conv2", 3, *config.features, rng)
    quarter = config.size // 4
    init_linear(params, "linear1", config.features[1] * quarter ** 2, config.hidden, rng)
    init_linear(params, "linear2", config.hidden, config.classes, rng)
    for name, array in params.items():
        array *= 6 ** 0.5 if name.endswith(".W") else 0
    return params


def forward(params, x, config):
    """logits = network(x).   x (N, C, H, W) -> logits (N, K), cache.

    Raises ValueError for images of another shape.
    """
    check_image(x, config)
    cache = {}
    h = x.transpose(0, 2, 3, 1)                                                 # (N, H, W, C)
    h = conv(h, params, cache, "conv1")                                         # (N, H, W, F1)
    h = silu(h, cache, "conv1.silu")
    h = pool(h, cache, "pool1")                                                 # (N, H/2, W/2, F1)
    h = conv(h, params, cache, "conv2")                                         # (N, H/2, W/2, F2)
    h = silu(h, cache, "conv2.silu")
    h = pool(h, cache, "pool2")                                                 # (N, H/4, W/4, F2)
    h = h.reshape(len(x), -1)                                                   # (N, H/4 W/4 F2)
    h = linear(h, params, cache, "linear1")                                     # (N, U)
    h = silu(h, cache, "linear1.silu")
    logits = linear(h, params, cache, "linear2")                                # (N, K)
    return logits, cache


def backward(dlogits, cache, config):
    """dlogits (N, K) -> dx (N, C, H, W), grads.

    Each line is the backward of one line of forward, the last first.
    """
    grads = {}
    dh = linear_back(dlogits, cache, grads, "linear2")                          # (N, U)
    dh = silu_back(dh, cache, "linear1.silu")
    dh = linear_back(dh, cache, grads, "linear1")                               # (N, H/4 W/4 F2)
    quarter = config.size // 4
    dh = dh.reshape(-1, quarter, quarter, config.features[1])                   # (N, H/4, W/4, F2)
    dh = pool_back(dh, cache, "pool2")                                          # (N, H/2, W/2, F2)
    dh = silu_back(dh, cache, "conv2.silu")
    dh = conv_back(dh, cache, grads, "conv2")                                   # (N, H/2, W/2, F1)
    dh = pool_back(dh, cache, "pool1")                                          # (N, H, W, F1)
    dh = silu_back(dh, cache, "conv1.silu")
    dh = conv_back(dh, cache, grads, "conv1")                                   # (N, H, W, C)
    dx = dh.transpose(0, 3, 1, 2)                                               # (N, C, H, W)
    return dx, grads


def load_weights(path):
    """Parameters that save_weights wrote, as float32.

    Raises FileNotFoundError, and ValueError if the file is damaged or of another network.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        params = load(Path(path).read_bytes())
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    expected = shapes(init(Config(), np.random.default_rng(0)))
    if shapes(params) != expected:
        raise ValueError(f"{path} holds the weights of another network than the judge")
    return {name: params[name].astype(np.float32) for name in expected}


def save_weights(params, path):
    """Write parameters as float16, which halves the file and rounds each to 11 bits."""
    from safetensors.numpy import save

    half = {name: np.ascontiguousarray(array, np.float16) for name, array in params.items()}
    write_bytes(path, save(half))


def shapes(params):
    """The shape of every array, by name."""
    return {name: array.shape for name, array in params.items()}


@cache
def load_judge():
    """The parameters of the judge in this package, a dict of float32 arrays, the same dict each time.

    Raises the errors of load_weights.
    """
    return load_weights(WEIGHTS)


def classify(images, params=None):
    """The judge's probabilities of each class.   images (N, 1, 28, 28) in [-1, 1] -> (N, 10) float32

    Arguments and errors are those of features.
    """
    params = load_judge() if params is None else params
    logits, _ = linear_forward(features(images, params), params["linear2.W"], params["linear2.b"])
    return softmax(logits)


def features(images, params=None):
    """What the judge sees in images: the input of its last layer.   (N, 1, 28, 28) -> (N, 64) float32

    The class follows from the features by one linear layer, so images that look like different garments have
    different features. images are floats in [-1, 1]. Values outside, as unclipped samples have, are allowed.
    params are those of load_judge unless given. Raises ValueError for images of another shape, integers, nan
    or inf.
    """
    images, config = np.asarray(images), Config()
    params = load_judge() if params is None else params
    if images.shape[1:] != config.data_shape:
        takes = ", ".join(map(str, config.data_shape))
        raise ValueError(f"the images have shape {images.shape}; the judge takes (N, {takes})")
    if images.dtype.kind != "f" or not np.isfinite(images).all():
        raise ValueError(f"the images are {images.dtype}, or hold nan or inf; "
                         "the judge takes floats in [-1, 1]")
    seen = np.empty((len(images), config.hidden), np.float32)
    for n in range(0, len(images), CHUNK):
        _, cache = forward(params, images[n:n + CHUNK].astype(np.float32), config)
        seen[n:n + CHUNK], _ = cache["linear1.silu"]                                    # (CHUNK, U)
    return seen


def real_images(digest, seed, n, directory=None):
    """What samples are compared with: n training images and n test images of Fashion-MNIST, (n, 1, 28, 28)
    each, drawn without replacement; or why the judge does not know this data, a sentence.

    -> ([training, test], None) or (None, sentence). digest is that of the data, directory where its files
    lie. n is at most 10,000, the number of test images; for a larger n it is that.
    """
    if digest != fashion_mnist.real_digest():
        return None, "no judge: it knows the images of Fashion-MNIST, and by SHA-256 these are others"
    try:
        test, _ = fashion_mnist.load_bytes("test", directory, verify=True)
    except (FileNotFoundError, ValueError) as error:
        return None, f"no comparison with real test images: {error}"
    training, _ = fashion_mnist.load_bytes("train", directory)
    rng, n = generator(seed, "data", 2**32 + 1), min(n, len(test))      # a step that no other draw uses
    drawn = [images[rng.permutation(len(images))[:n]] for images in (training, test)]
    return [fashion_mnist.to_float(images) for images in drawn], None


def class_accuracy(images, labels, params=None):
    """The fraction of images that the judge takes for what their labels say, a float.

    images as for classify, labels (N,) integers in 0..9. Raises ValueError as classify does, for no images,
    and for labels that are not N integers in 0..9.
    """
    if not len(images):
        raise ValueError("there are no images; class_accuracy takes at least one")
    labels = check_labels(labels, len(images), Config().classes)
    return float((classify(images, params).argmax(1) == labels).mean())
