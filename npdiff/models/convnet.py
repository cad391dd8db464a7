"""The network of the FashionMNIST lab: three 3 x 3 convolutions at full resolution.

    conv -> SiLU -> add the embedding of t (and of the label) to every position -> conv -> SiLU -> conv -> y

N batch, C image channels, H x W positions, F features. An output sees 7 x 7 pixels. That is enough to see
noise, and too little to see a shoe; unet.py sees the whole image.
"""

from dataclasses import dataclass

from npdiff.models.blocks import condition_backward, condition_forward, init_condition
from npdiff.models.checks import check_at_least, check_image, check_time, check_types
from npdiff.models.layers import (
    add_channels,
    add_channels_back,
    conv,
    conv_back,
    init_conv,
    silu,
    silu_back,
)


@dataclass(frozen=True)
class Config:
    """The sizes of the network. Raises ValueError for sizes that no network has."""
    channels: int = 1                           # of an image: 1 grey, 3 colour
    size: int = 28                              # height and width of an image
    features: int = 64                          # channels inside, and entries of the embedding
    time_dim: int = 64                          # sines and cosines of the timestep, an even number
    max_period: float = 10000.0                 # sets the slowest of these sines, see nn/embedding.py
    classes: int = 0                            # labels are 0..classes-1; 0: the network takes no labels

    def __post_init__(self):
        check_types(self)
        check_at_least(self, 1, "channels", "size", "features")
        check_at_least(self, 0, "classes")
        check_time(self)

    @property
    def data_shape(self):
        """The shape of one sample."""
        return (self.channels, self.size, self.size)


SMALL = Config(size=4, features=3, time_dim=4, classes=2)          # small enough to check every gradient


def init(config, rng):
    """Fresh float64 parameters by name, as in init_condition and init_conv."""
    params = {}
    init_condition(params, config.time_dim, config.features, config.classes, rng)
    init_conv(params, "conv1", 3, config.channels, config.features, rng)
    init_conv(params, "conv2", 3, config.features, config.features, rng)
    init_conv(params, "conv3", 3, config.features, config.channels, rng)
    return params


def forward(params, x, t, config, labels=None):
    """y = network(x, t, labels).   x (N, C, H, W), t (N,), labels (N,) or None -> y (N, C, H, W), cache

    labels None means "no label". Raises ValueError for images of another shape than config's, or wrong
    labels.
    """
    check_image(x, config)
    cache = {}
    e = condition_forward(params, t, labels, cache, config, x.dtype)           # (N, F)
    h = x.transpose(0, 2, 3, 1)                                                 # (N, H, W, C)
    h = conv(h, params, cache, "conv1")                                         # (N, H, W, F)
    h = silu(h, cache, "conv1.silu")
    h = add_channels(h, e, cache, "add")
    h = conv(h, params, cache, "conv2")                                         # (N, H, W, F)
    h = silu(h, cache, "conv2.silu")
    h = conv(h, params, cache, "conv3")                                         # (N, H, W, C)
    y = h.transpose(0, 3, 1, 2)                                                 # (N, C, H, W)
    return y, cache


def backward(dy, cache, config):
    """dy (N, C, H, W) -> dx (N, C, H, W), grads. Each line is one of forward's, backward; the last first."""
    grads = {}
    dh = dy.transpose(0, 2, 3, 1)                                               # (N, H, W, C)
    dh = conv_back(dh, cache, grads, "conv3")                                   # (N, H, W, F)
    dh = silu_back(dh, cache, "conv2.silu")
    dh = conv_back(dh, cache, grads, "conv2")                                   # (N, H, W, F)
    dh, de = add_channels_back(dh, cache, "add")                                # (N, H, W, F), (N, F)
    dh = silu_back(dh, cache, "conv1.silu")
    dh = conv_back(dh, cache, grads, "conv1")                                   # (N, H, W, C)
    dx = dh.transpose(0, 3, 1, 2)                                               # (N, C, H, W)
    condition_backward(de, cache, grads, config)
    return dx, grads
